//! The second half of a check: what was counted, beside what refcount blocks and COPIED flags say.
//!
//! One refcount block in memory at a time, and a counter for each cluster that is counted
//! (`check.rs`); what is wrong is reported as it is met, never gathered.

use std::collections::HashSet;

use super::super::Fault;
use super::check::{CheckReport, Counts, MAX_FINDINGS, Walk, read_table};
use super::geometry::{COPIED, Mapping, Run};

impl Walk<'_> {
    /// Compares what was counted with what the refcount blocks and COPIED flags say.
    pub(super) fn compare(&mut self, blocks: &[Option<u64>]) -> Result<(), Fault> {
        let per_block = self.g.refblock_entries();
        let in_file = self.len.div_ceil(self.g.cluster());
        let mut stated = Counts::default();
        let mut contents = vec![0; self.g.cluster() as usize];
        let mut last = 0;
        for (index, block) in blocks.iter().enumerate() {
            let Some(offset) = block else { continue };
            self.file.read(&mut contents, *offset)?;
            for i in 0..per_block {
                let (cluster, count) =
                    (index as u64 * per_block + i, self.g.refcount(&contents, i));
                if count == 0 {
                    continue;
                }
                stated.add(Run { start: cluster, count: 1 }, count)?;
                self.report.leaks += u64::from(count > self.counts.get(cluster));
                last = if cluster < in_file { cluster } else { last };
            }
        }
        let mut low = CheckReport::default();
        for (cluster, used) in self.counts.iter() {
            self.report.used_clusters += 1;
            last = last.max(cluster);
            let count = stated.get(cluster);
            if count < used {
                low.corrupt(format_args!(
                    "cluster {cluster} is used {used} times but counted {count}"
                ));
            }
        }
        self.report.image_end = (last + 1) << self.g.cluster_bits;
        let mut flags = CheckReport::default();
        self.each_flag_error(&stated, |at, entry| {
            flags.corrupt(format_args!("entry {entry:#x} at {at:#x} has a wrong COPIED flag"));
            Ok(())
        })?;
        for more in [low, flags] {
            self.report.corruptions += more.corruptions;
            let room = MAX_FINDINGS - self.report.findings.len();
            self.report.findings.extend(more.findings.into_iter().take(room));
        }
        Ok(())
    }

    /// Calls `found` with place and value of every L1 and L2 entry of the disk whose COPIED flag
    /// disagrees with `counts`.
    pub(super) fn each_flag_error(
        &self,
        counts: &Counts,
        mut found: impl FnMut(u64, u64) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let wrong = |entry: u64, host: u64| {
            (entry & COPIED != 0) != (counts.get(host >> self.g.cluster_bits) == 1)
        };
        let entries = u64::from(self.header.l1_size);
        let l1 = read_table(self.file, self.header.l1_offset, entries, self.len)?;
        let mut table = vec![0; self.g.cluster() as usize];
        let mut walked = HashSet::new();
        for (index, l1_entry) in l1.iter().enumerate() {
            let Ok(Some(l2)) = self.g.l1_offset(*l1_entry) else { continue };
            if l2 >= self.len {
                continue;
            }
            if wrong(*l1_entry, l2) {
                found(self.header.l1_offset + index as u64 * 8, *l1_entry)?;
            }
            if !walked.insert(l2) {
                continue;
            }
            self.file.read(&mut table, l2)?;
            for (index, entry) in table.as_chunks().0.iter().enumerate() {
                let entry = u64::from_be_bytes(*entry);
                let is_wrong = match self.g.l2_mapping(entry) {
                    Ok(Mapping::Data { host, .. } | Mapping::Zero { host: Some(host) }) => {
                        host < self.len && wrong(entry, host)
                    }
                    // Never written in place, so never flagged.
                    Ok(Mapping::Compressed { .. }) => entry & COPIED != 0,
                    _ => false,
                };
                if is_wrong {
                    found(l2 + index as u64 * 8, entry)?;
                }
            }
        }
        Ok(())
    }
}
