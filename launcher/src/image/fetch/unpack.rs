//! Images that come compressed: gzip (RFC 1952), xz, Zstandard (RFC 8878), told by their first
//! bytes, unpacked from one file into another. Memory is bounded whatever a header asks for; the
//! size of what comes out is bounded by the free space and by [`MAX_SIZE`]. Zeros are not written:
//! a disk's empty parts take no space.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::room::{Room, is_full};
use crate::image::base::Cancelled;

/// Largest image that is unpacked, in bytes.
const MAX_SIZE: u64 = 1 << 42;
/// Most memory for an xz dictionary; `xz -9` takes 64 MiB. In KiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// Largest Zstandard window: that of `--long`, in bytes.
const ZSTD_WINDOW: u64 = 128 << 20;
/// Magic number of the first kind of skippable frame; there are sixteen.
const SKIPPABLE: u32 = 0x184d_2a50;
const BUFFER: usize = 256 << 10;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// By gzip.
    Gzip,
    /// By xz.
    Xz,
    /// By zstd.
    Zstd,
}

/// Why a file cannot be unpacked.
#[derive(Debug)]
pub enum UnpackError {
    /// It is damaged, or asks for too much.
    Damaged(String),
    /// What comes out does not fit on the volume.
    Full,
    /// Somebody has asked for the end.
    Cancelled,
    /// The other file cannot be written.
    Write(io::Error),
}

impl Packing {
    /// By the first bytes of `file`; `None`: not compressed.
    ///
    /// # Errors
    /// Those of the system.
    pub fn of(file: &File) -> io::Result<Option<Self>> {
        let mut head = [0; 6];
        match file.read_exact_at(&mut head, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(match head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }
}

/// The name of what comes out of a file called `name`.
pub fn unpacked_name(name: &str) -> &str {
    let stem = [".gz", ".xz", ".zst"].iter().find_map(|suffix| name.strip_suffix(suffix));
    stem.filter(|stem| !stem.is_empty()).unwrap_or(name)
}

/// Unpacks `from` into the empty file `to`; `step` hears how far in `from` it is.
///
/// # Errors
/// See [`UnpackError`]; what `to` holds is worth nothing then.
pub fn unpack(
    packing: Packing,
    from: &File,
    to: &File,
    mut step: impl FnMut(u64),
    cancelled: Cancelled<'_>,
) -> Result<(), UnpackError> {
    let damaged = |error: io::Error| UnpackError::Damaged(error.to_string());
    let mut whole = from;
    whole.seek(SeekFrom::Start(0)).map_err(damaged)?;
    let packed = BufReader::with_capacity(BUFFER, whole);
    let mut source: Box<dyn Read + '_> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB)),
        Packing::Zstd => Box::new(Frames { state: Some(FramesState::Between(packed)) }),
    };
    let mut room = Room::new();
    let mut buffer = vec![0; BUFFER];
    let mut size: u64 = 0;
    loop {
        if cancelled() {
            return Err(UnpackError::Cancelled);
        }
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(damaged(error)),
        };
        let data = buffer.get(..count).unwrap_or_default();
        if data.iter().any(|byte| *byte != 0) {
            room.take(to, data.len() as u64).map_err(|_| UnpackError::Full)?;
            to.write_all_at(data, size).map_err(full)?;
        }
        size = size.saturating_add(data.len() as u64);
        if size > MAX_SIZE {
            return Err(UnpackError::Damaged("it holds more than 4 TiB".to_owned()));
        }
        step((&mut &*from).stream_position().unwrap_or(0));
    }
    to.set_len(size).map_err(full)
}

fn full(error: io::Error) -> UnpackError {
    if is_full(&error) { UnpackError::Full } else { UnpackError::Write(error) }
}

/// The content of all Zstandard frames in a file, one after the other (RFC 8878 §3).
struct Frames<R: BufRead> {
    /// `None` only after an error.
    state: Option<FramesState<R>>,
}

enum FramesState<R: BufRead> {
    Between(R),
    In(Box<Frame<R>>),
}

/// A frame, whose first four bytes have been read already.
type Frame<R> = StreamingDecoder<Chain<Cursor<[u8; 4]>, R>, FrameDecoder>;

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state.take() {
                None => return Err(io::Error::other("a frame is damaged")),
                Some(FramesState::Between(source)) => match begin(source)? {
                    Begun::End(source) => {
                        self.state = Some(FramesState::Between(source));
                        return Ok(0);
                    }
                    Begun::Skipped(source) => self.state = Some(FramesState::Between(source)),
                    Begun::Frame(decoder) => self.state = Some(FramesState::In(decoder)),
                },
                Some(FramesState::In(mut decoder)) => {
                    let count = decoder.read(buffer)?;
                    if count > 0 {
                        self.state = Some(FramesState::In(decoder));
                        return Ok(count);
                    }
                    let (said, is) = (
                        decoder.decoder.get_checksum_from_data(),
                        decoder.decoder.get_calculated_checksum(),
                    );
                    if said.is_some() && said != is {
                        return Err(io::Error::other("the checksum of a frame is wrong"));
                    }
                    self.state = Some(FramesState::Between(decoder.into_inner().into_inner().1));
                }
            }
        }
    }
}

enum Begun<R: BufRead> {
    End(R),
    Skipped(R),
    Frame(Box<Frame<R>>),
}

/// Begins what is next in `source`: a frame, one to skip (RFC 8878 §3.1.2), or nothing.
fn begin<R: BufRead>(mut source: R) -> io::Result<Begun<R>> {
    if source.fill_buf()?.is_empty() {
        return Ok(Begun::End(source));
    }
    let mut magic = [0; 4];
    source.read_exact(&mut magic)?;
    if u32::from_le_bytes(magic) & !0xf == SKIPPABLE {
        let mut length = [0; 4];
        source.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        if io::copy(&mut source.by_ref().take(length), &mut io::sink())? < length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        return Ok(Begun::Skipped(source));
    }
    let source = Cursor::new(magic).chain(source);
    match StreamingDecoder::new_with_max_window_size(source, ZSTD_WINDOW) {
        Ok(frame) => Ok(Begun::Frame(Box::new(frame))),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn unpacked(bytes: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let from = file(bytes);
        let packing = Packing::of(&from).unwrap().expect("it is compressed");
        let to = tempfile::tempfile().unwrap();
        unpack(packing, &from, &to, |_| {}, &|| false)?;
        let mut content = vec![0; usize::try_from(to.metadata().unwrap().len()).unwrap()];
        to.read_exact_at(&mut content, 0).unwrap();
        Ok(content)
    }

    fn content() -> Vec<u8> {
        let mut content = vec![0; 3 * BUFFER + 5];
        content.extend((0..100_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()));
        content.extend([0; BUFFER]);
        content
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// What a program makes of `content`; `None` where it is not installed.
    fn packed_by(program: &str, content: &[u8]) -> Option<Vec<u8>> {
        let mut input = file(content);
        input.seek(SeekFrom::Start(0)).unwrap();
        let output = std::process::Command::new(program).arg("-c").stdin(input).output();
        output.ok().filter(|output| output.status.success()).map(|output| output.stdout)
    }

    fn all_kinds(content: &[u8]) -> Vec<Vec<u8>> {
        let mut all = vec![gzip(content)];
        for program in ["xz", "zstd"] {
            match packed_by(program, content) {
                Some(packed) => all.push(packed),
                None => eprintln!("skipped: {program} is not installed"),
            }
        }
        all
    }

    #[test]
    fn what_was_packed_comes_out() {
        let content = content();
        for packed in all_kinds(&content) {
            assert!(unpacked(&packed).unwrap() == content);
            // Two after another are one file, as for the programs.
            let twice = [packed.clone(), packed].concat();
            assert!(unpacked(&twice).unwrap() == [content.clone(), content.clone()].concat());
        }
    }

    #[test]
    fn cut_and_damaged_files_are_refused() {
        for packed in all_kinds(&content()) {
            for cut in [7, 20, packed.len() / 2, packed.len() - 1] {
                let outcome = unpacked(&packed[..cut]);
                assert!(matches!(outcome, Err(UnpackError::Damaged(_))), "{cut}");
            }
            let mut damaged = packed.clone();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 0x10;
            assert!(matches!(unpacked(&damaged), Err(UnpackError::Damaged(_))));
        }
    }

    #[test]
    fn zeros_take_no_space() {
        use std::os::unix::fs::MetadataExt;
        let from = file(&gzip(&vec![0; 8 << 20]));
        let to = tempfile::tempfile().unwrap();
        unpack(Packing::Gzip, &from, &to, |_| {}, &|| false).unwrap();
        let meta = to.metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks()), (8 << 20, 0));
        let stopped = unpack(Packing::Gzip, &from, &to, |_| {}, &|| true);
        assert!(matches!(stopped, Err(UnpackError::Cancelled)));
    }

    #[test]
    fn skippable_frames_are_skipped() {
        let Some(packed) = packed_by("zstd", b"abc") else { return };
        let skip = [&SKIPPABLE.to_le_bytes()[..], &3u32.to_le_bytes(), b"xyz"].concat();
        let all = [&packed[..], &skip, &packed].concat();
        assert_eq!(unpacked(&all).unwrap(), b"abcabc");
        assert!(unpacked(&[&packed[..], &skip[..9]].concat()).is_err());
    }

    #[test]
    fn names_lose_what_is_undone() {
        for (name, want) in [
            ("disk.raw.xz", "disk.raw"),
            ("disk.img.gz", "disk.img"),
            ("disk.zst", "disk"),
            ("disk.qcow2", "disk.qcow2"),
            (".xz", ".xz"),
        ] {
            assert_eq!(unpacked_name(name), want);
        }
    }
}
