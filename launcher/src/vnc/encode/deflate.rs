//! A zlib stream (RFC 1950) that goes on from rectangle to rectangle, as ZRLE and Tight have it.

use flate2::{Compress, Compression, FlushCompress};

/// What is made room for at once.
const STEP: usize = 4 << 10;

/// The compressing side. What it holds is bounded: about a third of a MiB, for the window and its
/// index.
pub struct Deflate {
    zlib: Compress,
    level: u8,
}

impl Deflate {
    /// A new stream, `level` being 1 (fast) to 9 (small).
    pub fn new(level: u8) -> Deflate {
        Deflate { zlib: Compress::new(Compression::new(u32::from(level)), true), level }
    }

    /// What it was made with.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Takes data; what of it is compressed by now is added to `out`.
    pub fn write(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.run(data, out, FlushCompress::None);
    }

    /// Adds everything up to here to `out`, so that the client can decompress it (Z_SYNC_FLUSH).
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        self.run(&[], out, FlushCompress::Sync);
    }

    fn run(&mut self, data: &[u8], out: &mut Vec<u8>, flush: FlushCompress) {
        let mut rest = data;
        loop {
            out.reserve(STEP);
            let before = self.zlib.total_in();
            let result = self.zlib.compress_vec(rest, out, flush);
            // A stream that was never finished takes whatever comes.
            debug_assert!(result.is_ok(), "{result:?}");
            let taken = self.zlib.total_in().saturating_sub(before) as usize;
            rest = rest.get(taken..).unwrap_or_default();
            let is_full = out.len() == out.capacity();
            if result.is_err() || (rest.is_empty() && !is_full) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_flush_gives_all_that_was_written(
            parts in prop::collection::vec((0usize..20_000, any::<u64>(), 1u32..9), 1..6),
            level in 1u8..=9,
        ) {
            let mut stream = Deflate::new(level);
            let mut inflate = Decompress::new(true);
            for (length, seed, bits) in parts {
                let mut state = seed | 1;
                let data: Vec<u8> = (0..length).map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> (64 - bits)) as u8
                }).collect();
                let mut out = vec![];
                for chunk in data.chunks(5000) {
                    stream.write(chunk, &mut out);
                }
                stream.flush(&mut out);
                let mut back = Vec::with_capacity(length + 1);
                inflate.decompress_vec(&out, &mut back, FlushDecompress::Sync).unwrap();
                prop_assert!(back == data);
            }
        }
    }
}
