//! A disk that places its data in every way there is, and a driver for it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, VolatileSlice};

use super::super::config::*;
use super::super::disk::{Disk, ID_LEN};
use super::super::{Blk, Counters, Engine};
use crate::block::ring::Idle;
use crate::block::{Access, BlockBackend, BlockError, BlockInfo, FlushPlan, Placement};
use crate::virtio::testkit::Rig;
use crate::virtio::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// Unit of placement.
pub const CLUSTER: u64 = 4096;
/// Size of the disk.
pub const CAPACITY: u64 = 1 << 20;

/// How the disk places its clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All in the file, in one piece.
    File,
    /// All in the file, no two bytes of different sectors in one piece.
    Crumbs,
    /// Unwritten clusters are zeroes, or need a call; every third one always does.
    Mixed,
    /// Everything is called.
    Call,
}

/// A disk on a temporary file, which can be told to fail.
pub struct TestDisk {
    pub file: Arc<File>,
    pub layout: Layout,
    pub written: Mutex<Vec<bool>>,
    pub lease: Arc<AtomicU32>,
    pub read_only: bool,
    pub flushes: AtomicUsize,
    pub flush_by_call: AtomicBool,
    /// What the next access to the last cluster fails with.
    pub failure: Mutex<Option<BlockError>>,
    /// There is no room for anything that changes the disk.
    pub full: AtomicBool,
    /// What a flush has to make durable, if not the file.
    pub synced: Option<Arc<File>>,
    /// How often it was told of a sync that has failed.
    pub failed_syncs: AtomicUsize,
}

impl TestDisk {
    /// A disk of zeroes.
    pub fn new(layout: Layout) -> TestDisk {
        let file = tempfile::tempfile().unwrap();
        file.set_len(CAPACITY).unwrap();
        TestDisk {
            file: Arc::new(file),
            layout,
            written: Mutex::new(vec![false; (CAPACITY / CLUSTER) as usize]),
            lease: Arc::default(),
            read_only: false,
            flushes: AtomicUsize::new(0),
            flush_by_call: AtomicBool::new(false),
            failure: Mutex::new(None),
            full: AtomicBool::new(false),
            synced: None,
            failed_syncs: AtomicUsize::new(0),
        }
    }

    fn room(&self) -> Result<(), BlockError> {
        if self.full.load(Ordering::SeqCst) { Err(BlockError::NoSpace) } else { Ok(()) }
    }

    pub fn check(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        assert!(len > 0 && offset.is_multiple_of(512) && len.is_multiple_of(512));
        assert!(offset + len <= CAPACITY, "the device checks ranges before");
        if offset + len > CAPACITY - CLUSTER
            && let Some(error) = self.failure.lock().unwrap().take()
        {
            return Err(error);
        }
        Ok(())
    }

    pub fn mark(&self, offset: u64, len: u64) {
        let clusters = offset / CLUSTER..(offset + len).div_ceil(CLUSTER);
        clusters.for_each(|cluster| self.written.lock().unwrap()[cluster as usize] = true);
    }
}

impl BlockBackend for TestDisk {
    fn info(&self) -> BlockInfo {
        BlockInfo {
            capacity: CAPACITY,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: 4096,
            discard_granularity: 4096,
            read_only: self.read_only,
        }
    }

    fn read_at(&self, bufs: &[VolatileSlice<'_>], mut offset: u64) -> Result<(), BlockError> {
        self.check(offset, bufs.iter().map(|buf| buf.len() as u64).sum())?;
        for buf in bufs {
            let mut data = vec![0; buf.len()];
            self.file.read_exact_at(&mut data, offset)?;
            buf.copy_from(&data);
            offset += data.len() as u64;
        }
        Ok(())
    }

    fn write_at(&self, bufs: &[VolatileSlice<'_>], mut offset: u64) -> Result<(), BlockError> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        self.check(offset, len)?;
        self.room()?;
        self.mark(offset, len);
        for buf in bufs {
            let mut data = vec![0u8; buf.len()];
            buf.read_slice(&mut data, 0).unwrap();
            self.file.write_all_at(&data, offset)?;
            offset += data.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.room()?;
        if self.failed_syncs.load(Ordering::SeqCst) > 0 {
            return Err(BlockError::Io(std::io::Error::other("on purpose")));
        }
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.zero(offset, len, true)
    }

    fn zero(&self, offset: u64, len: u64, _: bool) -> Result<(), BlockError> {
        self.check(offset, len)?;
        self.room()?;
        self.mark(offset, len);
        Ok(self.file.write_all_at(&vec![0; len as usize], offset)?)
    }

    fn place(&self, offset: u64, len: u64, access: Access) -> Result<Placement, BlockError> {
        self.check(offset, len)?;
        if access == Access::Write {
            self.room()?;
        }
        let cluster = offset / CLUSTER;
        let written = self.written.lock().unwrap()[cluster as usize];
        let rest = (CLUSTER - offset % CLUSTER).min(len);
        let file = |len| Placement::File {
            file: self.file.clone(),
            offset,
            len,
            lease: Some(self.lease.clone() as Arc<dyn std::any::Any + Send + Sync>),
        };
        Ok(match self.layout {
            // More than was asked for may lie there in one piece.
            Layout::File => file(CAPACITY - offset),
            Layout::Crumbs => file(512),
            Layout::Call => Placement::Call { len },
            Layout::Mixed if cluster % 3 == 2 => Placement::Call { len: rest },
            Layout::Mixed if written => file(rest),
            Layout::Mixed if access == Access::Read => Placement::Zeroes { len: rest },
            Layout::Mixed => Placement::Call { len: rest },
        })
    }

    fn plan_flush(&self) -> FlushPlan {
        if self.read_only {
            FlushPlan::Done
        } else if self.flush_by_call.load(Ordering::SeqCst)
            || self.full.load(Ordering::SeqCst)
            || self.failed_syncs.load(Ordering::SeqCst) > 0
        {
            FlushPlan::Call
        } else {
            FlushPlan::Sync(self.synced.as_ref().unwrap_or(&self.file).clone())
        }
    }

    fn sync_failed(&self, _: &std::io::Error) {
        self.failed_syncs.fetch_add(1, Ordering::SeqCst);
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(7)
    }
}

/// A rig, and what a block driver does with it.
pub struct Driver {
    pub rig: Rig,
    pub disk: Arc<TestDisk>,
    pub counters: Arc<Counters>,
}

/// What these drivers know, if it is offered.
pub const ALL: u64 = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_FLUSH | F_MQ;

/// An engine, and whether it may do without the ring what needs no waiting.
pub type Variant = (Engine, bool);

/// The engines that this host has; says aloud which it has not.
pub fn engines() -> Vec<Variant> {
    let mut engines = vec![(Engine::Sync, true)];
    match Idle::new(8) {
        Ok(_) => engines.extend([(Engine::IoUring, true), (Engine::IoUring, false)]),
        Err(error) => eprintln!("skipped: no io_uring here: {error}"),
    }
    engines
}

/// A disk without a device.
pub fn bare_disk(backend: TestDisk) -> Disk {
    Disk {
        name: "test".into(),
        backend: Arc::new(backend),
        serial: [0; ID_LEN],
        read_only: false,
        write_through: false,
        inline: true,
        counters: Arc::new(Counters::new(1)),
        limiter: None,
        shortages: Arc::default(),
    }
}

/// A device over `backend`, as the variant says.
pub fn blk(
    backend: Arc<dyn BlockBackend>,
    serial: &str,
    queues: u16,
    (engine, inline): Variant,
) -> Blk {
    let blk = Blk::new(backend, serial, queues, engine).unwrap();
    if inline { blk } else { blk.without_inline() }
}

impl Driver {
    pub fn new(disk: TestDisk, queues: u16, engine: Variant) -> Driver {
        let disk = Arc::new(disk);
        let blk = blk(disk.clone(), "serial-0123456789", queues, engine);
        assert_eq!(blk.engine(), engine.0);
        let counters = blk.counters();
        Driver { rig: Rig::new(Box::new(blk)), disk, counters }
    }

    pub fn up(layout: Layout, queues: u16, engine: Variant) -> Driver {
        let mut driver = Driver::new(TestDisk::new(layout), queues, engine);
        let offered = driver.rig.offered();
        driver.rig.bring_up(ALL & offered);
        driver
    }

    /// Adds a request; returns where its status will be.
    pub fn add(
        &mut self,
        queue: usize,
        kind: u32,
        sector: u64,
        out: &[(u64, u32)],
        back: &[(u64, u32)],
    ) -> u64 {
        let header = self.rig.ram.take(32);
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        self.rig.ram.write(header, &bytes);
        self.rig.ram.write(header + 16, &[0xee]);
        let readable = [&[(header, 16)], out].concat();
        let writable = [back, &[(header + 16, 1)]].concat();
        if readable.len() + writable.len() > 8 {
            let mut ram = self.rig.ram.clone();
            let size = 16 * (readable.len() + writable.len()) as u64;
            self.rig.ram.take(size);
            self.rig.queue(queue).add_indirect(&mut ram, &readable, &writable);
        } else {
            self.rig.queue(queue).add(&readable, &writable);
        }
        header + 16
    }

    /// One request, alone.
    pub fn call(&mut self, kind: u32, sector: u64, out: &[(u64, u32)], back: &[(u64, u32)]) -> u8 {
        let status = self.add(0, kind, sector, out, back);
        assert_eq!(self.rig.complete(0).len(), 1);
        self.rig.ram.read(status, 1)[0]
    }

    pub fn put(&mut self, bytes: &[u8]) -> (u64, u32) {
        (self.rig.ram.put(bytes), bytes.len() as u32)
    }

    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        let data = self.put(bytes);
        self.call(1, sector, &[data], &[])
    }

    pub fn read(&mut self, sector: u64, len: usize) -> (u8, Vec<u8>) {
        let at = self.rig.ram.take(len as u64);
        let status = self.call(0, sector, &[], &[(at, len as u32)]);
        (status, self.rig.ram.read(at, len))
    }
}
