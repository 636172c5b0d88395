//! Discard and write-zeroes: a list of ranges (VIRTIO 1.3 §5.2.6, `virtio_blk_discard_write_zeroes`).
//!
//! ```text
//! sector (8) · number of sectors (4) · flags (4): bit 0 the space may be given back
//! ```
//! All of a list is checked before any of it is done. What is done is not done again when the rest
//! has to wait for room.

use super::config::{MAX_SEGMENT_SECTORS, MAX_SEGMENTS, SECTOR};
use super::disk::Disk;
use super::request::{Kind, S_IOERR, S_UNSUPP};
use crate::block::BlockError;
use crate::virtio::buffers::Buffers;

const SEGMENT_LEN: usize = 16;
const FLAG_UNMAP: u32 = 1;

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The contents may go.
    Discard,
    /// The contents become zeroes.
    WriteZeroes,
}

/// The ranges of one request.
#[derive(Debug)]
pub struct Segments {
    command: Command,
    list: Vec<Segment>,
    /// How many of them are done.
    done: usize,
}

#[derive(Debug)]
struct Segment {
    /// In bytes.
    offset: u64,
    len: u64,
    unmap: bool,
}

impl Segments {
    /// Reads a list.
    ///
    /// # Errors
    /// The status of a list that is malformed, or does not fit the disk.
    pub fn read(disk: &Disk, command: Command, list: &mut Buffers<'_>) -> Result<Segments, u8> {
        let most = MAX_SEGMENTS as usize * SEGMENT_LEN;
        if list.is_empty() || !list.len().is_multiple_of(SEGMENT_LEN) || list.len() > most {
            return Err(S_IOERR);
        }
        let mut segments = Segments { command, list: Vec::new(), done: 0 };
        let mut bytes = [0; SEGMENT_LEN];
        while list.read(&mut bytes).is_some() {
            let [a, b, sectors, flags] = *bytes.as_chunks().0 else { return Err(S_IOERR) };
            let sector = u64::from(u32::from_le_bytes(b)) << 32 | u64::from(u32::from_le_bytes(a));
            let (sectors, flags) = (u32::from_le_bytes(sectors), u32::from_le_bytes(flags));
            let allowed = if command == Command::WriteZeroes { FLAG_UNMAP } else { 0 };
            if flags & !allowed != 0 {
                return Err(S_UNSUPP);
            }
            if sectors > MAX_SEGMENT_SECTORS {
                return Err(S_IOERR);
            }
            let len = u64::from(sectors) * SECTOR;
            let offset = disk.locate(Kind::Out, sector, len as usize)?;
            segments.list.push(Segment { offset, len, unmap: flags & FLAG_UNMAP != 0 });
        }
        Ok(segments)
    }

    /// Bytes in all ranges.
    pub fn bytes(&self) -> u64 {
        self.list.iter().fold(0, |sum, segment| sum.saturating_add(segment.len))
    }

    /// Does what is not done yet.
    ///
    /// # Errors
    /// The backend's; what comes after the range that failed is not done.
    pub fn run(&mut self, disk: &Disk) -> Result<(), BlockError> {
        while let Some(Segment { offset, len, unmap }) = self.list.get(self.done) {
            match self.command {
                _ if *len == 0 => {}
                Command::Discard => disk.backend.discard(*offset, *len)?,
                Command::WriteZeroes => disk.backend.zero(*offset, *len, *unmap)?,
            }
            self.done += 1;
        }
        if disk.write_through { disk.backend.flush() } else { Ok(()) }
    }
}
