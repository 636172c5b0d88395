//! Booting an ELF kernel by PVH (xen/include/public/arch-x86/hvm/start_info.h, version 1).
//!
//! The kernel says by an ELF note where it is to be entered; what it needs to know is in a start
//! info block, whose address it gets in EBX. Only kernels given explicitly are booted so:
//! distributions ship bzImages.

use std::fs::File;
use std::path::Path;

use devices::mem::{Bytes, GuestAddress, GuestMemory};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};

use super::payload::Payload;
use super::{BootError, Entry, low_ram_end, place_initrds, write_cmdline};
use crate::machine::layout;

const START_INFO_MAGIC: u32 = 0x336e_c578;
const START_INFO_VERSION: u32 = 1;
/// What Linux takes on x86 (COMMAND_LINE_SIZE), the NUL included.
const CMDLINE_MAX: usize = 2048;

/// True: the file starts as an ELF file does.
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Loads the ELF file at `kernel`, ramdisks and command line, and writes the start info.
///
/// # Errors
/// [`BootError`]; nothing in guest memory can be relied on then.
pub fn load(
    memory: &GuestMemory,
    kernel: &Path,
    initrds: &[Payload],
    cmdline: &str,
    ram: &[(u64, u64)],
) -> Result<Entry, BootError> {
    let name = kernel.display().to_string();
    let mut file = File::open(kernel).map_err(|source| BootError::Read {
        what: "the kernel",
        name: name.clone(),
        source,
    })?;
    let declined = |why: String| BootError::Kernel { name: name.clone(), why };
    let floor = Some(GuestAddress(layout::HIGH_MEMORY));
    let loaded = Elf::load(&**memory, None, &mut file, floor).map_err(|error| match error {
        LoaderError::Elf(linux_loader::loader::elf::Error::ReadKernelImage) => {
            BootError::Room { what: "the kernel", len: file.metadata().map_or(0, |m| m.len()) }
        }
        other => declined(other.to_string()),
    })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(declined("it is an ELF file without a PVH entry point (CONFIG_PVH)".into()));
    };
    write_cmdline(memory, cmdline, CMDLINE_MAX - 1)?;
    // 32-bit code finds the ramdisk: it must lie below 4 GiB, as low RAM does.
    let (initrd, initrd_len) =
        place_initrds(memory, initrds, loaded.kernel_end, low_ram_end(memory))?;
    write_start_info(memory, (initrd, initrd_len), ram)?;
    Ok(Entry::Pvh { eip: entry.0 })
}

fn write_start_info(
    memory: &GuestMemory,
    (initrd, initrd_len): (u64, u64),
    ram: &[(u64, u64)],
) -> Result<(), BootError> {
    let map = layout::memory_map(ram);
    let mut entries = Vec::new();
    for (start, len, kind) in &map {
        entries.extend(start.to_le_bytes());
        entries.extend(len.to_le_bytes());
        entries.extend((*kind as u32).to_le_bytes());
        entries.extend([0; 4]);
    }
    memory.write_slice(&entries, GuestAddress(layout::PVH_MEMORY_MAP))?;

    let modules = u32::from(initrd_len > 0);
    let mut module = Vec::new();
    for field in [initrd, initrd_len, 0, 0] {
        module.extend(field.to_le_bytes());
    }
    memory.write_slice(&module, GuestAddress(layout::PVH_MODULES))?;

    let mut info = Vec::new();
    for field in [START_INFO_MAGIC, START_INFO_VERSION, 0, modules] {
        info.extend(field.to_le_bytes());
    }
    let module_list = if modules > 0 { layout::PVH_MODULES } else { 0 };
    for field in [module_list, layout::CMDLINE, layout::ACPI, layout::PVH_MEMORY_MAP] {
        info.extend(field.to_le_bytes());
    }
    info.extend((map.len() as u32).to_le_bytes());
    info.extend([0; 4]);
    memory.write_slice(&info, GuestAddress(layout::PVH_START_INFO))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory;

    /// An ELF file with one segment at 1 MiB, and a note that names the entry point.
    fn elf(note_type: u32) -> tempfile::NamedTempFile {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(16, 0);
        header.extend(2u16.to_le_bytes());
        header.extend(62u16.to_le_bytes());
        header.extend(1u32.to_le_bytes());
        for field in [0x10_0000u64, 64, 0] {
            header.extend(field.to_le_bytes());
        }
        header.extend(0u32.to_le_bytes());
        for field in [64u16, 56, 2, 64, 0, 0] {
            header.extend(field.to_le_bytes());
        }
        let mut segment = |kind: u32, offset: u64, address: u64, len: u64| {
            header.extend(kind.to_le_bytes());
            header.extend(7u32.to_le_bytes());
            for field in [offset, address, address, len, len, 4] {
                header.extend(field.to_le_bytes());
            }
        };
        segment(1, 0x100, 0x10_0000, 4);
        segment(4, 0x110, 0, 20);
        header.resize(0x100, 0);
        header.extend(b"code");
        header.resize(0x110, 0);
        for field in [4, 4, note_type] {
            header.extend(field.to_le_bytes());
        }
        header.extend(b"Xen\0");
        header.extend(0x10_0040u32.to_le_bytes());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&header).unwrap();
        file
    }

    #[test]
    fn an_elf_kernel_is_entered_where_its_note_says() {
        let memory = memory::allocate(32 << 20).unwrap();
        let ram = memory::ranges(32 << 20);
        let initrd = [Payload::from_bytes("the initial ramdisk", "i".into(), vec![9; 10])];
        let entry = load(&memory, elf(18).path(), &initrd, "quiet", &ram).unwrap();
        assert_eq!(entry, Entry::Pvh { eip: 0x10_0040 });
        let number = |at: u64| memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        assert_eq!(number(0x10_0000), u32::from_le_bytes(*b"code"));
        assert_eq!(number(layout::PVH_START_INFO), START_INFO_MAGIC);
        assert_eq!(number(layout::PVH_START_INFO + 12), 1);
        assert_eq!(u64::from(number(layout::PVH_START_INFO + 16)), layout::PVH_MODULES);
        assert_eq!(number(layout::PVH_START_INFO + 48), 5);
        assert_eq!(u64::from(number(layout::PVH_MODULES)), (32 << 20) - 0x1000);
        assert_eq!(number(layout::PVH_MODULES + 8), 12);
        assert_eq!(number(layout::PVH_MEMORY_MAP + 16), 1);
    }

    #[test]
    fn a_kernel_without_the_note_is_declined() {
        let memory = memory::allocate(32 << 20).unwrap();
        let ram = memory::ranges(32 << 20);
        let error = load(&memory, elf(1).path(), &[], "", &ram).unwrap_err();
        assert!(error.to_string().contains("CONFIG_PVH"), "{error}");
    }
}
