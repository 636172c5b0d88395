//! Writing guest data: in place where the cluster is ours alone, else into new clusters.
//!
//! An allocating write claims its guest clusters, takes consecutive host clusters, fills them
//! (with what the write does not cover copied from below) without any lock, and then links them.
//! So writes to different clusters run side by side, and a pointer is set only when its data is in
//! the file. A write of whole clusters reads nothing, and one of many clusters is one `pwritev`.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::super::holes::is_hole;
use super::super::scratch::Taken;
use super::super::{Access, BlockBackend, BlockError, Placement, buffers};
use super::Qcow2;
use super::alloc::{AllocError, Allocated};
use super::geometry::{COPIED, Mapping, Run};
use super::map::Meta;

/// Most guest bytes that one step allocates clusters for; it bounds the work under the lock.
const MAX_STEP: u64 = 4 << 20;

/// Guest clusters that a writer has for itself, until dropped.
struct Claim<'a> {
    disk: &'a Qcow2,
    guest: Run,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.disk.lock().inflight.unclaim(self.guest);
        self.disk.unclaimed.notify_all();
    }
}

impl Qcow2 {
    /// Writes all of `bufs` at `offset`; the range has been checked.
    pub(super) fn write_range(
        &self,
        bufs: &[VolatileSlice<'_>],
        offset: u64,
    ) -> Result<(), BlockError> {
        let total = buffers::total(bufs);
        let mut done = 0;
        while done < total {
            let rest = buffers::part(bufs, done, total - done);
            done += self.write_some(&rest, offset + done, total - done)?;
        }
        Ok(())
    }

    /// Writes the beginning of a range; returns how much.
    fn write_some(
        &self,
        bufs: &[VolatileSlice<'_>],
        offset: u64,
        len: u64,
    ) -> Result<u64, BlockError> {
        let g = &self.image.geometry;
        let cluster = offset >> g.cluster_bits;
        let mut meta = self.lock();
        loop {
            let extent = meta.lookup(&self.image, offset, len)?;
            if let Mapping::Data { host, copied: true } = extent.mapping {
                let share = meta.inflight.share();
                drop(meta);
                let written =
                    self.image.file.write_vectored(&buffers::part(bufs, 0, extent.len), host);
                drop(share);
                return written.map(|()| extent.len);
            }
            meta.check_sound(&self.image)?;
            if meta.inflight.is_claimed(Run { start: cluster, count: 1 }) {
                meta = self.wait_unclaimed(meta);
                continue;
            }
            if Self::is_crowded(&meta) {
                drop(meta);
                self.flush_locked(&self.lock_flush())?;
                meta = self.lock();
                continue;
            }
            match self.grant(&mut meta, offset, len) {
                Ok((guest, host)) => {
                    meta.inflight.claim(guest);
                    drop(meta);
                    let claim = Claim { disk: self, guest };
                    return self.fill_and_link(&claim, host, bufs, offset, len);
                }
                Err(AllocError::TableFull { blocks }) => {
                    drop(meta);
                    self.grow_refcount_table(&self.lock_flush(), blocks)?;
                    meta = self.lock();
                }
                Err(AllocError::Block(error)) => return Err(error),
            }
        }
    }

    /// Host clusters for as many of the guest clusters from `offset` as need new ones and can be
    /// had in one run.
    fn grant(
        &self,
        meta: &mut Meta,
        offset: u64,
        len: u64,
    ) -> Result<(Run, Allocated), AllocError> {
        let g = &self.image.geometry;
        let start = offset >> g.cluster_bits;
        meta.ensure_l2(&self.image, start)?;
        let in_table = g.l2_entries() - start % g.l2_entries();
        let wanted = g.clusters_of(offset, len.min(MAX_STEP)).count.min(in_table);
        let mut count = 1;
        while count < wanted {
            let next = Run { start: start + count, count: 1 };
            let mapping = meta.mapping(&self.image, next.start)?;
            if matches!(mapping, Mapping::Data { copied: true, .. })
                || meta.inflight.is_claimed(next)
            {
                break;
            }
            count += 1;
        }
        let host = meta.allocate(&self.image, count)?;
        Ok((Run { start, count: host.run.count }, host))
    }

    /// Fills the host clusters that were allocated for a claim, and links them.
    fn fill_and_link(
        &self,
        claim: &Claim<'_>,
        host: Allocated,
        bufs: &[VolatileSlice<'_>],
        offset: u64,
        len: u64,
    ) -> Result<u64, BlockError> {
        let g = &self.image.geometry;
        let len = len.min((claim.guest.end() << g.cluster_bits) - offset);
        let filled = self.fill(claim.guest, host, &buffers::part(bufs, 0, len), offset, len);
        let mut meta = self.lock();
        let linked = filled.and_then(|()| {
            meta.check_sound(&self.image)?;
            // Loads every piece of the table first, so that no error comes in the middle.
            for cluster in claim.guest.start..claim.guest.end() {
                meta.mapping(&self.image, cluster)?;
            }
            let pairs = (claim.guest.start..claim.guest.end()).zip(host.run.start..);
            for (cluster, host) in pairs {
                meta.relink(&self.image, cluster, host << g.cluster_bits | COPIED)?;
            }
            Ok(())
        });
        match linked {
            Ok(()) => Ok(len),
            Err(error) => {
                self.abandon(&mut meta, claim.guest, host.run)?;
                Err(error)
            }
        }
    }

    /// Frees clusters that were allocated for a write that failed, those that were not linked.
    fn abandon(&self, meta: &mut Meta, guest: Run, host: Run) -> Result<(), BlockError> {
        let bits = self.image.geometry.cluster_bits;
        for (cluster, host) in (guest.start..guest.end()).zip(host.start..host.end()) {
            let linked = Mapping::Data { host: host << bits, copied: true };
            if meta.mapping(&self.image, cluster)? != linked {
                meta.release(&self.image, Run { start: host, count: 1 })?;
            }
        }
        Ok(())
    }

    /// Writes the contents of new host clusters: the guest's bytes, and around them what the guest
    /// clusters held before.
    fn fill(
        &self,
        guest: Run,
        host: Allocated,
        bufs: &[VolatileSlice<'_>],
        offset: u64,
        len: u64,
    ) -> Result<(), BlockError> {
        let bits = self.image.geometry.cluster_bits;
        let start = guest.start << bits;
        let (head_len, tail_len) = (offset - start, (guest.end() << bits) - (offset + len));
        let mut head = self.read_around(start, head_len, host.fresh)?;
        let mut tail = self.read_around(offset + len, tail_len, host.fresh)?;
        let at = (host.run.start << bits) + if head.is_empty() { head_len } else { 0 };
        let mut all = Vec::with_capacity(bufs.len() + 2);
        if !head.is_empty() {
            all.push(VolatileSlice::from(&mut head[..]));
        }
        all.extend_from_slice(bufs);
        if !tail.is_empty() {
            all.push(VolatileSlice::from(&mut tail[..]));
        }
        self.image.file.write_vectored(&all, at)
    }

    /// The guest's bytes in a range that may run over the disk's end, where they are zeroes; empty
    /// if they need not be written, being zeroes in a host cluster that reads so already.
    fn read_around(&self, offset: u64, len: u64, fresh: bool) -> Result<Taken<'_>, BlockError> {
        let on_disk = self.info().capacity.saturating_sub(offset).min(len);
        if len == 0 || (fresh && self.reads_zero(offset, on_disk)?) {
            return Ok(self.scratch.take(0));
        }
        let mut bytes = self.scratch.take(len as usize);
        let (present, beyond) = bytes.split_at_mut(on_disk as usize);
        beyond.fill(0);
        self.read_range(&[VolatileSlice::from(present)], offset)?;
        Ok(bytes)
    }

    /// Whether a range is known to be zeroes without reading data: by the image's tables, and by the
    /// holes of the files below, which nobody writes to.
    pub(super) fn reads_zero(&self, mut offset: u64, mut len: u64) -> Result<bool, BlockError> {
        while len > 0 {
            let n = match self.place_range(offset, len, Access::Read)? {
                Placement::Zeroes { len: n } => n,
                Placement::File { file, offset: at, len: n, .. }
                    if !Arc::ptr_eq(&file, self.image.file.file())
                        && is_hole(&file, at, n.min(len)) =>
                {
                    n
                }
                _ => return Ok(false),
            };
            offset += n;
            len -= n.min(len);
        }
        Ok(true)
    }

    /// Writes zeroes as data, in steps of bounded memory.
    pub(super) fn write_zeroes(&self, mut offset: u64, mut len: u64) -> Result<(), BlockError> {
        let mut zeroes = vec![0; len.min(256 << 10) as usize];
        while len > 0 {
            let n = len.min(zeroes.len() as u64);
            let piece = zeroes.get_mut(..n as usize).unwrap_or_default();
            self.write_range(&[VolatileSlice::from(piece)], offset)?;
            offset += n;
            len -= n;
        }
        Ok(())
    }
}
