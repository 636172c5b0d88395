//! From a boot source to the state the first vCPU starts in.
//!
//! [`linux`] boots a bzImage by the 64-bit protocol, [`pvh`] an ELF kernel by PVH; [`guestfs`]
//! finds out what a disk's own boot loader would have booted. All of it runs again at every reset,
//! so that a guest that has installed a new kernel gets it.

pub mod cmdline;
pub mod guestfs;
pub mod linux;
pub mod payload;
pub mod pvh;

use std::sync::Arc;

use devices::block::BlockBackend;
use devices::mem::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError};

use self::cmdline::CmdlineError;
use self::guestfs::BootPolicy;
use self::linux::Framebuffer;
use self::payload::Payload;
use crate::config::BootConfig;
use crate::machine::layout;

/// How the first vCPU enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode with paging, RSI pointing to boot_params (Linux x86 boot protocol, "64-bit").
    Linux {
        /// Where execution starts.
        rip: u64,
    },
    /// 32-bit protected mode without paging, EBX pointing to the start info (PVH).
    Pvh {
        /// Where execution starts.
        eip: u64,
    },
}

/// The kernel could not be put into place.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be opened or read.
    #[error("cannot read {what} {name}")]
    Read {
        /// Kernel or initial ramdisk.
        what: &'static str,
        /// Its path.
        name: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kernel is of a kind that cannot be booted.
    #[error("{name} cannot be booted: {why}")]
    Kernel {
        /// Its path.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The pieces do not fit into the guest's RAM.
    #[error(
        "{what} of {len} bytes does not fit into the guest's memory; give it more with --memory"
    )]
    Room {
        /// Which piece.
        what: &'static str,
        /// Its length.
        len: u64,
    },
    /// The command line cannot be passed on.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// The guest's own disk offers nothing.
    #[error(transparent)]
    NothingFound(#[from] guestfs::NothingFound),
    /// A write to guest memory failed.
    #[error("cannot write to guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// What was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// How to enter it.
    pub entry: Entry,
    /// What was chosen and why, in a sentence for the log.
    pub reason: String,
}

/// Loads whatever `config` says into guest memory. Protocols that can tell of a framebuffer tell of
/// `screen`.
///
/// # Errors
/// [`BootError`]; nothing in guest memory can be relied on then.
pub fn load(
    config: &BootConfig,
    disks: &[Arc<dyn BlockBackend>],
    memory: &GuestMemory,
    ram: &[(u64, u64)],
    screen: Option<&Framebuffer>,
) -> Result<Loaded, BootError> {
    match config {
        BootConfig::Kernel { kernel, initrd, cmdline } => {
            let payload = Payload::open("the kernel", kernel)?;
            let initrds = match initrd {
                Some(path) => vec![Payload::open("the initial ramdisk", path)?],
                None => Vec::new(),
            };
            let elf = pvh::is_elf(&payload.head(4)?);
            let entry = if elf {
                pvh::load(memory, kernel, &initrds, cmdline, ram)?
            } else {
                linux::load((memory, ram), &payload, &initrds, cmdline, screen)?
            };
            let kind = if elf { "ELF, PVH" } else { "bzImage" };
            Ok(Loaded { entry, reason: format!("{} ({kind}), as asked for", payload.name()) })
        }
        BootConfig::Disk { disk, cmdline_extra } => {
            let memory_bytes = ram.iter().map(|(_, len)| len).sum();
            let policy = BootPolicy { memory_bytes, ..BootPolicy::default() };
            let choice = guestfs::choose(&disks[*disk], &policy)?;
            let cmdline = cmdline::compose(
                &choice.cmdline,
                cmdline_extra,
                false,
                layout::CMDLINE_LEN as usize,
            )?;
            let kernel =
                Payload::from_bytes("the kernel", "the disk's kernel".into(), choice.kernel);
            let initrds: Vec<Payload> = choice
                .initrds
                .into_iter()
                .map(|i| Payload::from_bytes("the initial ramdisk", "the disk's".into(), i))
                .collect();
            let entry = linux::load((memory, ram), &kernel, &initrds, &cmdline, screen)?;
            Ok(Loaded { entry, reason: format!("{}; command line: {cmdline}", choice.reason) })
        }
    }
}

/// Writes the command line where both protocols expect it.
fn write_cmdline(memory: &GuestMemory, cmdline: &str, max: usize) -> Result<(), BootError> {
    let limit = max.min(layout::CMDLINE_LEN as usize - 1);
    if cmdline.len() > limit {
        return Err(CmdlineError::TooLong { len: cmdline.len(), limit }.into());
    }
    if let Some(at) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(CmdlineError::ControlCharacter(at).into());
    }
    memory.write_slice(cmdline.as_bytes(), GuestAddress(layout::CMDLINE))?;
    memory.write_slice(&[0], GuestAddress(layout::CMDLINE + cmdline.len() as u64))?;
    Ok(())
}

/// Places the initial ramdisks, one after the other, as high as may be: page-aligned, below
/// `limit`, and above `floor`. Answers guest address and length; (0, 0) when there are none.
fn place_initrds(
    memory: &GuestMemory,
    initrds: &[Payload],
    floor: u64,
    limit: u64,
) -> Result<(u64, u64), BootError> {
    // Each archive starts on a 4-byte boundary: so the kernel's unpacker wants it.
    let lengths = initrds.iter().map(|i| i.len().next_multiple_of(4));
    let total: u64 = lengths.clone().sum();
    if total == 0 {
        return Ok((0, 0));
    }
    let room = || BootError::Room { what: "the initial ramdisk", len: total };
    let low_ram_end = low_ram_end(memory);
    let base = limit.min(low_ram_end).checked_sub(total).ok_or_else(room)? & !0xfff;
    if base < floor {
        return Err(room());
    }
    let mut at = base;
    for (initrd, len) in initrds.iter().zip(lengths) {
        initrd.copy_to(memory, 0, initrd.len(), at)?;
        let padding = (len - initrd.len()) as usize;
        memory.write_slice(&[0; 4][..padding], GuestAddress(at + initrd.len()))?;
        at += len;
    }
    Ok((base, total))
}

/// One past the last byte of RAM below the PCI window.
fn low_ram_end(memory: &GuestMemory) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, |region| {
        use devices::mem::GuestMemoryRegion;
        region.len()
    })
}
