//! For tests: writes down every change of an image's file, so that a power cut can be played.
//!
//! A cut may lose any part of what was written since the last finished `fdatasync`, sector by
//! sector, in any order. [`Recorder::cut`] rebuilds a file as one such cut would leave it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::BlockError;

/// The unit that reaches the disk whole or not at all.
const SECTOR: usize = 512;

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Punch { offset: u64, len: u64 },
    Length(u64),
    Sync,
}

/// The changes so far, in order.
#[derive(Default)]
pub(super) struct Recorder {
    changes: Mutex<Vec<Change>>,
    /// When set, writes fail as on a full disk after this many more bytes.
    room: Mutex<Option<u64>>,
    /// What the next sync fails with.
    broken: Mutex<Option<i32>>,
}

impl Recorder {
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), BlockError> {
        if let Some(room) = self.room.lock().unwrap().as_mut() {
            *room = room.checked_sub(bytes.len() as u64).ok_or(BlockError::NoSpace)?;
        }
        self.changes.lock().unwrap().push(Change::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    pub(super) fn punch(&self, offset: u64, len: u64) {
        self.changes.lock().unwrap().push(Change::Punch { offset, len });
    }

    pub(super) fn set_len(&self, len: u64) {
        self.changes.lock().unwrap().push(Change::Length(len));
    }

    pub(super) fn sync(&self) -> std::io::Result<()> {
        if let Some(errno) = self.broken.lock().unwrap().take() {
            return Err(std::io::Error::from_raw_os_error(errno));
        }
        self.changes.lock().unwrap().push(Change::Sync);
        Ok(())
    }

    /// Lets the next sync fail.
    pub(super) fn fail_sync(&self, errno: i32) {
        *self.broken.lock().unwrap() = Some(errno);
    }

    /// Lets writes fail with "no space" after `bytes` more; `None`: never.
    pub(super) fn limit(&self, bytes: Option<u64>) {
        *self.room.lock().unwrap() = bytes;
    }

    /// How many changes there are.
    pub(super) fn len(&self) -> usize {
        self.changes.lock().unwrap().len()
    }

    /// How many of the changes from `from` on were writes, and syncs.
    pub(super) fn since(&self, from: usize) -> (usize, usize) {
        let changes = self.changes.lock().unwrap();
        let count = |kind: fn(&&Change) -> bool| changes[from..].iter().filter(kind).count();
        (count(|c| matches!(c, Change::Write { .. })), count(|c| matches!(c, Change::Sync)))
    }

    /// The instants right before an `fdatasync` ended.
    pub(super) fn syncs(&self) -> Vec<usize> {
        let changes = self.changes.lock().unwrap();
        let syncs = changes.iter().enumerate().filter(|(_, c)| matches!(c, Change::Sync));
        syncs.map(|(at, _)| at).collect()
    }

    /// The instants right after something was written at `offset`.
    pub(super) fn after_writes_at(&self, offset: u64) -> Vec<usize> {
        let changes = self.changes.lock().unwrap();
        let at = |c: &Change| matches!(c, Change::Write { offset: o, .. } if *o == offset);
        changes.iter().enumerate().filter(|(_, c)| at(c)).map(|(i, _)| i + 1).collect()
    }

    /// Rebuilds into `file`, which holds the contents from before the first change, what is left
    /// when the power fails after `at` changes. `keep` decides sector by sector about those that
    /// were not synced: whether this change of it survived.
    pub(super) fn cut(&self, file: &File, at: usize, mut keep: impl FnMut() -> bool) {
        let changes = self.changes.lock().unwrap();
        let happened = &changes[..at];
        let durable =
            happened.iter().rposition(|c| matches!(c, Change::Sync)).map_or(0, |last| last + 1);
        for (index, change) in happened.iter().enumerate() {
            let mut survives = || index < durable || keep();
            match change {
                Change::Write { offset, bytes } => {
                    let mut done = 0;
                    while done < bytes.len() {
                        let into = (*offset as usize + done) % SECTOR;
                        let n = (SECTOR - into).min(bytes.len() - done);
                        if survives() {
                            file.write_all_at(&bytes[done..done + n], offset + done as u64)
                                .unwrap();
                        }
                        done += n;
                    }
                }
                Change::Punch { offset, len } => {
                    let end = (offset + len).min(file.metadata().unwrap().len());
                    let mut from = *offset;
                    while from < end {
                        let to = (from + SECTOR as u64).min(end);
                        if survives() {
                            file.write_all_at(&vec![0; (to - from) as usize], from).unwrap();
                        }
                        from = to;
                    }
                }
                Change::Length(len) => {
                    if survives() {
                        file.set_len(*len).unwrap();
                    }
                }
                Change::Sync => {}
            }
        }
    }
}
