//! The port and memory-mapped I/O spaces: which register block an address belongs to.
//!
//! A vCPU's access finds its [`Region`] here, and calls it with the bus unlocked. What a write
//! asks of the machine as a whole comes back as an [`Effect`], which the caller carries out after
//! every device lock is released: so a device may ask to be moved without anyone waiting for
//! anyone. Unclaimed addresses read as ones, and swallow writes, as on a PC.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, RwLock};

/// A block of registers. Offsets are relative to the region's start, whatever its address is.
pub trait Region: Send + Sync {
    /// Reads `data.len()` (1, 2, 4 or 8) bytes. A hole reads all ones.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data.len()` (1, 2, 4 or 8) bytes.
    fn write(&self, offset: u64, data: &[u8]) -> Effect;
}

/// Memory behind a BAR: the guest reads and writes it without leaving guest mode. Where that is not
/// (yet) so, the BAR's [`Region`] serves the accesses.
pub trait MemorySlot: Send + Sync {
    /// Puts it at a guest-physical address, or nowhere.
    fn place(&self, address: Option<u64>);
}

/// What a register write asks of the machine, beyond the device itself.
#[derive(Debug, Default)]
pub enum Effect {
    /// Nothing more.
    #[default]
    None,
    /// These blocks are wanted elsewhere: [`Movable::settle`] them.
    Move(Vec<Arc<Movable>>),
    /// The guest asks for a change of the machine's state.
    Guest(GuestEvent),
}

impl Effect {
    /// Both effects, in order. A guest event outranks moves, which it makes moot.
    pub fn and(self, next: Effect) -> Effect {
        match (self, next) {
            (Effect::None, other) | (other, Effect::None) => other,
            (Effect::Move(mut first), Effect::Move(second)) => {
                first.extend(second);
                Effect::Move(first)
            }
            (Effect::Guest(event), _) | (_, Effect::Guest(event)) => Effect::Guest(event),
        }
    }
}

/// What the guest asked for through a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// ACPI S5: power off.
    PowerOff,
    /// A reset, through whichever of the reset registers.
    Reset,
    /// The guest's kernel has panicked (pvpanic).
    Panicked,
    /// The guest's kernel has panicked, and stays to write a crash dump (pvpanic).
    CrashLoaded,
}

/// An address space of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// I/O ports, 0 to 0xFFFF.
    Port,
    /// Guest-physical memory.
    Memory,
}

/// A register block that the guest may move: a BAR, the ECAM, the PM block.
///
/// Whoever decodes the guest's write says where it is wanted; whoever owns the bus brings it
/// there with [`Movable::settle`]. However the two interleave between CPUs, the last wish wins.
pub struct Movable {
    /// The address space.
    pub space: Space,
    /// Length in bytes.
    pub len: u64,
    /// The registers.
    pub region: Arc<dyn Region>,
    /// Writes that must not leave the kernel: they only signal an eventfd.
    pub doorbells: Vec<Doorbell>,
    /// Memory that takes the registers' place where it can.
    memory: Option<Arc<dyn MemorySlot>>,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    wanted: Option<u64>,
    actual: Option<u64>,
}

impl Movable {
    /// A block that is nowhere yet.
    pub fn new(
        space: Space,
        len: u64,
        region: Arc<dyn Region>,
        doorbells: Vec<Doorbell>,
    ) -> Arc<Movable> {
        Arc::new(Movable { space, len, region, doorbells, memory: None, place: Mutex::default() })
    }

    /// A block of memory that is nowhere yet; `region` serves what does not reach `memory`.
    pub fn of_memory(
        len: u64,
        region: Arc<dyn Region>,
        memory: Arc<dyn MemorySlot>,
    ) -> Arc<Movable> {
        let (space, doorbells, memory) = (Space::Memory, Vec::new(), Some(memory));
        Arc::new(Movable { space, len, region, doorbells, memory, place: Mutex::default() })
    }

    fn place_memory(&self, address: Option<u64>) {
        if let Some(memory) = &self.memory {
            memory.place(address);
        }
    }

    /// Says where the block shall be; `None` for nowhere. True when that is a change.
    pub fn want(&self, address: Option<u64>) -> bool {
        let mut place = self.place.lock().expect("the place's lock is never held in a panic");
        std::mem::replace(&mut place.wanted, address) != address || place.actual != address
    }

    /// Where the block is mapped now.
    pub fn actual(&self) -> Option<u64> {
        self.place.lock().expect("the place's lock is never held in a panic").actual
    }

    /// Calls `carry(from, to)` if the block is not where it is wanted; `carry` unmaps and maps it,
    /// and answers where it is then. The place's lock is held meanwhile, the bus's taken inside.
    pub fn settle(&self, carry: impl FnOnce(Option<u64>, Option<u64>) -> Option<u64>) {
        let mut place = self.place.lock().expect("the place's lock is never held in a panic");
        if place.actual != place.wanted {
            place.actual = carry(place.actual, place.wanted);
        }
    }
}

impl fmt::Debug for Movable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:#x} bytes at {:x?}", self.space, self.len, self.actual())
    }
}

/// A write of any width at `offset` signals `eventfd` (KVM_IOEVENTFD without a data match).
#[derive(Clone, Debug)]
pub struct Doorbell {
    /// Offset in the region.
    pub offset: u64,
    /// What is signalled.
    pub eventfd: Arc<OwnedFd>,
}

/// One address space's map of regions.
#[derive(Default)]
pub struct Bus {
    regions: RwLock<BTreeMap<u64, Mapping>>,
}

struct Mapping {
    len: u64,
    region: Arc<dyn Region>,
}

/// The range asked for is taken, empty, or runs over the end of the address space.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no room on the bus for {len:#x} bytes at {base:#x}")]
pub struct Occupied {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Bus {
    /// Maps `region` at `base`.
    ///
    /// # Errors
    /// [`Occupied`] when the range overlaps one that is mapped, and nothing changes.
    pub fn insert(&self, base: u64, len: u64, region: Arc<dyn Region>) -> Result<(), Occupied> {
        let occupied = Occupied { base, len };
        let last = len.checked_sub(1).and_then(|l| base.checked_add(l)).ok_or(occupied)?;
        let mut regions = self.regions.write().expect("the map's lock is never held in a panic");
        if let Some((start, mapping)) = regions.range(..=last).next_back()
            && start + (mapping.len - 1) >= base
        {
            return Err(Occupied { base, len });
        }
        regions.insert(base, Mapping { len, region });
        Ok(())
    }

    /// Takes away `region`, if it is what starts at `base`; true when it was.
    pub fn remove(&self, base: u64, region: &Arc<dyn Region>) -> bool {
        let mut regions = self.regions.write().expect("the map's lock is never held in a panic");
        let found = regions.get(&base).is_some_and(|m| Arc::ptr_eq(&m.region, region));
        found && regions.remove(&base).is_some()
    }

    /// Brings a [`Movable`] of this space to where it is wanted. A place that is taken leaves it
    /// unmapped: on hardware the two would answer at once, which nobody can rely on.
    ///
    /// `moved` is told of each change: doorbells that went (false), and that came (true).
    pub fn settle(&self, block: &Movable, mut moved: impl FnMut(u64, bool)) {
        block.settle(|from, to| {
            if let Some(base) = from
                && self.remove(base, &block.region)
            {
                block.place_memory(None);
                moved(base, false);
            }
            let base = to?;
            match self.insert(base, block.len, block.region.clone()) {
                Ok(()) => {
                    block.place_memory(Some(base));
                    moved(base, true);
                    Some(base)
                }
                Err(occupied) => {
                    log::debug!("{occupied}");
                    None
                }
            }
        });
    }

    /// Reads from whatever is at `address`; ones where nothing is.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, region)) => region.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes to whatever is at `address`.
    pub fn write(&self, address: u64, data: &[u8]) -> Effect {
        match self.find(address, data.len()) {
            Some((offset, region)) => region.write(offset, data),
            None => Effect::None,
        }
    }

    /// The region that holds all `len` bytes at `address`, and the offset in it.
    fn find(&self, address: u64, len: usize) -> Option<(u64, Arc<dyn Region>)> {
        let regions = self.regions.read().expect("the map's lock is never held in a panic");
        let (start, mapping) = regions.range(..=address).next_back()?;
        let offset = address - start;
        let end = offset.checked_add(len as u64)?;
        (end <= mapping.len).then(|| (offset, mapping.region.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Region for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, _: u64, _: &[u8]) -> Effect {
            Effect::Guest(GuestEvent::Reset)
        }
    }

    #[test]
    fn accesses_find_their_region_or_read_ones() {
        let bus = Bus::default();
        bus.insert(0x100, 0x10, Arc::new(Echo)).unwrap();
        let mut data = [0; 4];
        bus.read(0x104, &mut data);
        assert_eq!(data, [4; 4]);
        for hole in [0xff, 0x10e, 0x110, u64::MAX] {
            bus.read(hole, &mut data);
            assert_eq!(data, [0xff; 4], "at {hole:#x}");
            assert!(matches!(bus.write(hole, &data), Effect::None));
        }
        assert!(matches!(bus.write(0x10c, &data), Effect::Guest(GuestEvent::Reset)));
    }

    #[test]
    fn overlaps_are_refused_and_change_nothing() {
        let bus = Bus::default();
        bus.insert(0x100, 0x10, Arc::new(Echo)).unwrap();
        for (base, len) in [(0xf8, 9), (0x100, 1), (0x10f, 1), (0xf8, 0x100), (0x200, 0)] {
            assert_eq!(bus.insert(base, len, Arc::new(Echo)), Err(Occupied { base, len }));
        }
        assert!(bus.insert(u64::MAX, 2, Arc::new(Echo)).is_err());
        bus.insert(u64::MAX, 1, Arc::new(Echo)).unwrap();
        bus.insert(0xf8, 8, Arc::new(Echo)).unwrap();
        bus.insert(0x110, 1, Arc::new(Echo)).unwrap();
        let echo: Arc<dyn Region> = Arc::new(Echo);
        assert!(!bus.remove(0x100, &echo), "another region's place is not given away");
        bus.insert(0x200, 1, echo.clone()).unwrap();
        assert!(bus.remove(0x200, &echo));
        assert!(!bus.remove(0x200, &echo));
    }

    #[derive(Default)]
    struct Places(Mutex<Vec<Option<u64>>>);

    impl MemorySlot for Places {
        fn place(&self, address: Option<u64>) {
            self.0.lock().unwrap().push(address);
        }
    }

    #[test]
    fn memory_goes_where_its_block_goes() {
        let bus = Bus::default();
        let places = Arc::new(Places::default());
        let block = Movable::of_memory(0x10, Arc::new(Echo), places.clone());
        bus.insert(0x308, 1, Arc::new(Echo)).unwrap();
        for address in [Some(0x100), Some(0x200), Some(0x300), None] {
            block.want(address);
            bus.settle(&block, |_, _| ());
        }
        assert_eq!(*places.0.lock().unwrap(), [Some(0x100), None, Some(0x200), None]);
    }

    #[test]
    fn a_block_goes_where_it_was_last_wanted() {
        let bus = Bus::default();
        let block = Movable::new(Space::Memory, 0x10, Arc::new(Echo), Vec::new());
        let mut moves = Vec::new();
        assert!(block.want(Some(0x100)));
        assert!(block.want(Some(0x200)));
        bus.settle(&block, |base, came| moves.push((base, came)));
        bus.settle(&block, |base, came| moves.push((base, came)));
        assert!(!block.want(Some(0x200)));
        assert!(block.want(Some(0x300)));
        bus.insert(0x308, 1, Arc::new(Echo)).unwrap();
        bus.settle(&block, |base, came| moves.push((base, came)));
        assert_eq!(block.actual(), None, "a taken place leaves it unmapped");
        block.want(None);
        bus.settle(&block, |base, came| moves.push((base, came)));
        assert_eq!(moves, [(0x200, true), (0x200, false)]);
    }
}
