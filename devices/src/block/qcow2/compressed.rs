//! Compressed clusters: inflating one, and keeping the last few inflated.
//!
//! zlib means raw deflate (RFC 1951) with a small window, zstd one frame (RFC 8878); the data's end
//! is known to 512 bytes only, so what follows the stream is ignored. Output is bounded by the
//! cluster size, and a zstd window by the largest cluster. Runs on the thread that reads, without
//! the metadata lock.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::{Decompress, FlushDecompress};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::super::BlockError;
use super::super::file_io::ImageFile;
use super::super::scratch::Scratch;

/// How an image's clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// Largest zstd window accepted: zstd's default level declares 2 MiB, its highest for such sizes
/// not more than this.
const MAX_WINDOW: u64 = 8 << 20;
/// Memory for inflated clusters of one image, in bytes; at least one cluster is kept.
const KEPT_BYTES: usize = 512 << 10;
/// Inflaters that are kept for the next cluster.
const KEPT_STREAMS: usize = 4;

/// The clusters inflated last, by the host offset of their compressed data. We never write
/// compressed data, so what was once inflated from an offset stays right.
pub(super) struct Inflated {
    kept: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
    /// Compressed bytes on their way.
    input: Scratch,
    /// Of threads that inflate at the same time; their tables are large.
    streams: Mutex<Vec<Decompress>>,
}

impl Inflated {
    /// For clusters of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            kept: Mutex::new(VecDeque::new()),
            // The most that an L2 entry can say.
            input: Scratch::new(2 * size),
            streams: Mutex::new(Vec::new()),
        }
    }

    /// The cluster of `size` bytes whose compressed data is the `len` bytes at `host`.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`] when the data does not inflate to a whole cluster.
    pub(super) fn cluster(
        &self,
        file: &ImageFile,
        compression: Compression,
        (host, len): (u64, u64),
        size: usize,
    ) -> Result<Arc<[u8]>, BlockError> {
        let mut old = {
            let mut kept = lock(&self.kept);
            if let Some(at) = kept.iter().position(|(offset, _)| *offset == host)
                && let Some(hit) = kept.remove(at)
            {
                let cluster = hit.1.clone();
                kept.push_front(hit);
                return Ok(cluster);
            }
            // The memory of the one that has to go serves the new one, if nobody reads from it.
            let full = kept.len() >= (KEPT_BYTES / size).max(1);
            full.then(|| kept.pop_back()).flatten().map(|(_, cluster)| cluster)
        };
        let mut input = self.input.take(len as usize);
        file.read(&mut input, host)?;
        let is_free = old.as_mut().and_then(Arc::get_mut).is_some();
        let fresh = || std::iter::repeat_n(0, size).collect();
        let mut output = old.filter(|_| is_free).unwrap_or_else(fresh);
        let bytes = Arc::get_mut(&mut output).unwrap_or_default();
        let whole = match compression {
            Compression::Zlib => self.inflate(&input, bytes),
            Compression::Zstd => unzstd(&input, bytes),
        };
        if !whole {
            let text = format!("compressed cluster at {host:#x} does not inflate");
            return Err(BlockError::Corrupt(text));
        }
        lock(&self.kept).push_front((host, output.clone()));
        Ok(output)
    }

    fn inflate(&self, input: &[u8], output: &mut [u8]) -> bool {
        let stream = lock(&self.streams).pop();
        let mut stream = stream.unwrap_or_else(|| Decompress::new(false));
        let whole = inflate(&mut stream, input, output);
        stream.reset(false);
        let mut streams = lock(&self.streams);
        if streams.len() < KEPT_STREAMS {
            streams.push(stream);
        }
        whole
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `input` fills all of `output`.
fn inflate(stream: &mut Decompress, input: &[u8], output: &mut [u8]) -> bool {
    let inflated = stream.decompress(input, output, FlushDecompress::Finish);
    inflated.is_ok() && stream.total_out() == output.len() as u64
}

/// Whether `input` fills all of `output`.
fn unzstd(input: &[u8], output: &mut [u8]) -> bool {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    let stream = StreamingDecoder::new_with_decoder(input, decoder);
    stream.is_ok_and(|mut stream| stream.read_exact(output).is_ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use flate2::Compression as Level;
    use flate2::write::DeflateEncoder;

    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Level::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_follows_the_stream_is_ignored_and_a_short_stream_refused() {
        let cluster: Vec<u8> = (0..4096u32).map(|i| ((i * i) >> 5) as u8).collect();
        let mut input = deflated(&cluster);
        input.extend_from_slice(&[0xaa; 300]);
        let inflated = Inflated::new(4096);
        let mut output = [0; 8192];
        for _ in 0..2 {
            assert!(inflated.inflate(&input, &mut output[..4096]));
            assert_eq!(output[..4096], cluster);
            assert!(!inflated.inflate(&input, &mut output));
            assert!(!inflated.inflate(&input[..input.len() / 2], &mut output[..4096]));
            assert!(!inflated.inflate(&[0xff; 100], &mut output[..4096]));
        }
        assert_eq!(lock(&inflated.streams).len(), 1, "one thread needs one");
        assert!(!unzstd(&[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff], &mut output));
    }

    #[test]
    fn zstd_frames_inflate() {
        let cluster: Vec<u8> = (0..65536u32).map(|i| (i / 100) as u8).collect();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let mut frame = ruzstd::encoding::compress_to_vec(&cluster[..], level);
        frame.extend_from_slice(&[0x55; 100]);
        let mut output = vec![0; 65536];
        assert!(unzstd(&frame, &mut output));
        assert_eq!(output, cluster);
        assert!(!unzstd(&frame[..50], &mut output));
    }
    #[test]
    fn memory_of_old_clusters_serves_new_ones_unless_somebody_reads_it() {
        let file = tempfile::tempfile().unwrap();
        let contents = |i: u8| vec![i; 64 << 10];
        for i in 0..40 {
            file.write_all_at(&deflated(&contents(i)), u64::from(i) << 12).unwrap();
        }
        let file = ImageFile::new(file).unwrap();
        let inflated = Inflated::new(64 << 10);
        let get = |i: u8| {
            let at = (u64::from(i) << 12, 4096);
            inflated.cluster(&file, Compression::Zlib, at, 64 << 10).unwrap()
        };
        let held = get(0);
        let mut places = std::collections::HashSet::new();
        for i in 1..40 {
            let cluster = get(i);
            assert_eq!(cluster[..], contents(i));
            places.insert(cluster.as_ptr());
            assert_eq!(get(i).as_ptr(), cluster.as_ptr(), "the second time it is there");
        }
        assert_eq!(held[..], contents(0));
        assert!(places.len() <= (KEPT_BYTES >> 16) + 1, "{} clusters", places.len());
        assert_eq!(lock(&inflated.kept).len(), KEPT_BYTES >> 16);
    }
}
