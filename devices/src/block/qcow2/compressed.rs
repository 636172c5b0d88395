//! Compressed clusters: inflating one, and keeping the last few inflated.
//!
//! zlib means raw deflate (RFC 1951) with a small window, zstd one frame (RFC 8878); the data's end
//! is known to 512 bytes only, so what follows the stream is ignored. Output is bounded by the
//! cluster size, and a zstd window by the largest cluster. Runs on the thread that reads, without
//! the metadata lock.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::super::BlockError;
use super::super::file_io::ImageFile;

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

/// The clusters inflated last, by the host offset of their compressed data. We never write
/// compressed data, so what was once inflated from an offset stays right.
pub(super) struct Inflated {
    kept: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
}

impl Inflated {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::new(VecDeque::new()) }
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
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = kept.iter().position(|(offset, _)| *offset == host)
                && let Some(hit) = kept.remove(at)
            {
                let cluster = hit.1.clone();
                kept.push_front(hit);
                return Ok(cluster);
            }
        }
        let mut input = vec![0; len as usize];
        file.read(&mut input, host)?;
        let output = match compression {
            Compression::Zlib => inflate(&input, size),
            Compression::Zstd => unzstd(&input, size),
        };
        let cluster: Arc<[u8]> = output
            .ok_or_else(|| {
                BlockError::Corrupt(format!("compressed cluster at {host:#x} does not inflate"))
            })?
            .into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate((KEPT_BYTES / size).saturating_sub(1));
        kept.push_front((host, cluster.clone()));
        Ok(cluster)
    }
}

fn inflate(input: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut output = vec![0; size];
    let mut stream = Decompress::new(false);
    stream.decompress(input, &mut output, FlushDecompress::Finish).ok()?;
    (stream.total_out() == size as u64).then_some(output)
}

fn unzstd(input: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    let mut stream = StreamingDecoder::new_with_decoder(input, decoder).ok()?;
    let mut output = vec![0; size];
    stream.read_exact(&mut output).ok()?;
    Some(output)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
        assert_eq!(inflate(&input, 4096).unwrap(), cluster);
        assert!(inflate(&input, 8192).is_none());
        assert!(inflate(&input[..input.len() / 2], 4096).is_none());
        assert!(inflate(&[0xff; 100], 4096).is_none());
        assert!(unzstd(&[0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff], 4096).is_none());
    }

    #[test]
    fn zstd_frames_inflate() {
        let cluster: Vec<u8> = (0..65536u32).map(|i| (i / 100) as u8).collect();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let mut frame = ruzstd::encoding::compress_to_vec(&cluster[..], level);
        frame.extend_from_slice(&[0x55; 100]);
        assert_eq!(unzstd(&frame, 65536).unwrap(), cluster);
        assert!(unzstd(&frame[..50], 65536).is_none());
    }
}
