//! Loading what a configuration names, within bounds.
//!
//! Runs on the thread of [`choose`](super::choose).

use std::ops::Range;

use super::Choice;
use super::entries::uki;
use super::fs::FsError;
use super::search::Search;

/// Largest kernel, in bytes.
const MAX_KERNEL: u64 = 256 << 20;
/// Largest initial ramdisk, in bytes.
const MAX_INITRD: u64 = 1 << 30;
/// Initial ramdisks of one entry.
const MAX_INITRDS: usize = 16;

/// What a configuration says to load.
pub struct Plan {
    /// The partition and file that said so, and which entry.
    pub origin: String,
    /// What to load.
    pub files: Files,
}

/// The files of a plan; paths with the index of their partition.
pub enum Files {
    /// Kernel and ramdisks in files of their own.
    Separate {
        /// The kernel.
        kernel: (usize, String),
        /// The initial ramdisks, in order.
        initrds: Vec<(usize, String)>,
        /// The command line.
        cmdline: String,
    },
    /// Everything in one file.
    Unified {
        /// Index of the partition.
        partition: usize,
        /// The file.
        path: String,
    },
}

impl Search<'_> {
    /// Loads what a plan names; what is not there is noted against the configuration at `path`.
    pub(super) fn load(&mut self, index: usize, path: &str, plan: Plan) -> Option<Choice> {
        match self.try_load(index, plan) {
            Ok(choice) => Some(choice),
            Err(error) => {
                self.note(index, format!("{path}: {error}"));
                None
            }
        }
    }

    fn try_load(&mut self, index: usize, plan: Plan) -> Result<Choice, FsError> {
        let mut left = self.policy.memory_bytes;
        let mut reason = plan.origin;
        let (kernel, initrds, cmdline) = match plan.files {
            Files::Separate { kernel: (partition, path), initrds, cmdline } => {
                let kernel = self.piece(partition, &path, MAX_KERNEL, &mut left)?;
                reason.push_str(&format!(": {path}"));
                if partition != index {
                    let found = self.volumes.parts.get(partition);
                    let shown = found.map(|part| part.partition.to_string());
                    reason.push_str(&format!(" on {}", shown.unwrap_or_default()));
                }
                let mut pieces = Vec::new();
                for (partition, path) in initrds.iter().take(MAX_INITRDS) {
                    pieces.push(self.piece(*partition, path, MAX_INITRD, &mut left)?);
                    reason.push_str(&format!(" + {path}"));
                }
                (kernel, pieces, cmdline)
            }
            Files::Unified { partition, path } => {
                let max = MAX_KERNEL + MAX_INITRD;
                let file = self.piece(partition, &path, max, &mut left)?;
                let image = uki::parse(&file).ok_or_else(|| {
                    FsError::Reader(format!("{path} is not a unified kernel image"))
                })?;
                let part = |range: Range<usize>| file.get(range).unwrap_or_default().to_vec();
                let initrds = image.initrds.into_iter().map(part).collect();
                (file.get(image.linux).unwrap_or_default().to_vec(), initrds, image.cmdline)
            }
        };
        Ok(Choice { kernel, initrds, cmdline, reason })
    }

    /// One file, counted against what may be loaded in all.
    fn piece(
        &mut self,
        partition: usize,
        path: &str,
        max: u64,
        left: &mut u64,
    ) -> Result<Vec<u8>, FsError> {
        let bytes = self.volumes.read_file(partition, path, max.min(*left))?;
        *left = left.saturating_sub(bytes.len() as u64);
        Ok(bytes)
    }
}
