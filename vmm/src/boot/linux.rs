//! Booting a bzImage by the 64-bit protocol (Linux Documentation/arch/x86/boot.rst).
//!
//! The setup code in front of the kernel is not run: what it would find out is written into
//! boot_params here. Old kernels without a 64-bit entry point are declined by name.

use devices::mem::{Bytes, GuestAddress, GuestMemory};

use super::payload::Payload;
use super::{BootError, Entry, low_ram_end, place_initrds, write_cmdline};
use crate::machine::layout::{self, MemoryKind};

/// The most of a file that is looked at to know what it is.
pub const HEADER_LEN: usize = 0x1000;

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const JUMP_LEN: usize = 0x201;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const E820_MAX: usize = 128;

const SECTOR: u64 = 512;
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
/// The first protocol version whose header says whether there is a 64-bit entry point.
const VERSION_MIN: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry point's distance from the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;

/// A framebuffer that is set up: 32 bits a pixel, blue in the lowest byte, rows without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Guest-physical address.
    pub address: u32,
    /// Pixels a row, up to 16383.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// True: the file starts as a Linux kernel image does.
pub fn is_bzimage(head: &[u8]) -> bool {
    head.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
        && head.get(BOOT_FLAG..BOOT_FLAG + 2) == Some(&[0x55, 0xaa])
}

/// Loads kernel, ramdisks and command line, and writes boot_params.
///
/// # Errors
/// [`BootError`]; nothing in guest memory can be relied on then.
pub fn load(
    (memory, ram): (&GuestMemory, &[(u64, u64)]),
    kernel: &Payload,
    initrds: &[Payload],
    cmdline: &str,
    screen: Option<&Framebuffer>,
) -> Result<Entry, BootError> {
    let head = kernel.head(HEADER_LEN)?;
    let header = Header::parse(&head)
        .map_err(|why| BootError::Kernel { name: kernel.name().into(), why })?;
    let code = header.code_offset;
    let code_len = kernel.len().saturating_sub(code);
    let end = header
        .load_address
        .checked_add(code_len.max(header.init_size))
        .filter(|end| *end <= low_ram_end(memory))
        .ok_or(BootError::Room { what: "the kernel", len: header.init_size.max(code_len) })?;
    kernel.copy_to(memory, code, code_len, header.load_address)?;
    write_cmdline(memory, cmdline, header.cmdline_max)?;
    let (initrd, initrd_len) =
        place_initrds(memory, initrds, end, u64::from(header.initrd_max) + 1)?;

    let mut params = vec![0; 0x1000];
    let fields = SETUP_SECTS..header.end;
    params[fields.clone()].copy_from_slice(&head[fields]);
    params[TYPE_OF_LOADER] = LOADER_UNDEFINED;
    params[LOADFLAGS] |= LOADED_HIGH;
    put_u32(&mut params, CMD_LINE_PTR, layout::CMDLINE as u32);
    put_u32(&mut params, RAMDISK_IMAGE, initrd as u32);
    put_u32(&mut params, RAMDISK_SIZE, initrd_len as u32);
    params[ACPI_RSDP_ADDR..ACPI_RSDP_ADDR + 8].copy_from_slice(&layout::ACPI.to_le_bytes());
    write_e820(&mut params, &layout::memory_map(ram));
    if let Some(screen) = screen {
        write_screen_info(&mut params, screen);
    }
    memory.write_slice(&params, GuestAddress(layout::ZERO_PAGE))?;
    Ok(Entry::Linux { rip: header.load_address + ENTRY_64 })
}

/// What the setup header says.
#[derive(Debug)]
struct Header {
    code_offset: u64,
    load_address: u64,
    init_size: u64,
    initrd_max: u32,
    cmdline_max: usize,
    /// One past the header's last byte in the file.
    end: usize,
}

impl Header {
    /// # Errors
    /// What is wrong, as a phrase.
    fn parse(head: &[u8]) -> Result<Header, String> {
        if !is_bzimage(head) || head.len() < INIT_SIZE + 4 {
            return Err("it is not a Linux bzImage".into());
        }
        let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let version = u16_at(VERSION);
        if version < VERSION_MIN || u16_at(XLOADFLAGS) & XLF_KERNEL_64 == 0 {
            let (major, minor) = (version >> 8, version & 0xff);
            return Err(format!(
                "it has no 64-bit entry point (boot protocol {major}.{minor:02}, 2.12 is needed)"
            ));
        }
        let setup_sectors = if head[SETUP_SECTS] == 0 { 4 } else { u64::from(head[SETUP_SECTS]) };
        let load_address =
            u64::from(u32_at(PREF_ADDRESS)) | u64::from(u32_at(PREF_ADDRESS + 4)) << 32;
        if load_address < layout::HIGH_MEMORY {
            return Err(format!("it wants to be loaded at {load_address:#x}, below 1 MiB"));
        }
        Ok(Header {
            code_offset: (setup_sectors + 1) * SECTOR,
            load_address,
            init_size: u32_at(INIT_SIZE).into(),
            initrd_max: u32_at(INITRD_ADDR_MAX),
            cmdline_max: u32_at(CMDLINE_SIZE) as usize,
            end: (MAGIC + usize::from(head[JUMP_LEN])).clamp(INIT_SIZE + 4, 0x290).min(head.len()),
        })
    }
}

fn write_e820(params: &mut [u8], map: &[(u64, u64, MemoryKind)]) {
    let count = map.len().min(E820_MAX);
    params[E820_ENTRIES] = count as u8;
    for (index, (start, len, kind)) in map.iter().take(count).enumerate() {
        let at = E820_TABLE + 20 * index;
        params[at..at + 8].copy_from_slice(&start.to_le_bytes());
        params[at + 8..at + 16].copy_from_slice(&len.to_le_bytes());
        put_u32(params, at + 16, *kind as u32);
    }
}

/// struct screen_info (include/uapi/linux/screen_info.h), at the start of boot_params. Its type is
/// the one that every framebuffer driver of Linux takes, with EFI or without.
fn write_screen_info(params: &mut [u8], screen: &Framebuffer) {
    const IS_VGA: usize = 0x0f;
    const TYPE_EFI: u8 = 0x70;
    const WIDTH: usize = 0x12;
    const HEIGHT: usize = 0x14;
    const DEPTH: usize = 0x16;
    const BASE: usize = 0x18;
    const SIZE: usize = 0x1c;
    const LINE_LENGTH: usize = 0x24;
    /// Size and position of red, green, blue and what is unused.
    const COLOURS: usize = 0x26;
    const PAGES: usize = 0x32;
    let mut put_u16 =
        |at: usize, value: u16| params[at..at + 2].copy_from_slice(&value.to_le_bytes());
    let line_length = screen.width.saturating_mul(4);
    put_u16(WIDTH, screen.width);
    put_u16(HEIGHT, screen.height);
    put_u16(DEPTH, 32);
    put_u16(LINE_LENGTH, line_length);
    put_u16(PAGES, 1);
    params[IS_VGA] = TYPE_EFI;
    params[COLOURS..COLOURS + 8].copy_from_slice(&[8, 16, 8, 8, 8, 0, 8, 24]);
    put_u32(params, BASE, screen.address);
    put_u32(params, SIZE, u32::from(line_length) * u32::from(screen.height));
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    /// A file with the header of a current kernel, and `code` behind one setup sector.
    fn image(code: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR as usize];
        image[SETUP_SECTS] = 1;
        image[BOOT_FLAG..MAGIC].copy_from_slice(&[0x55, 0xaa, 0xeb, 0x6a]);
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x020fu16.to_le_bytes());
        image[XLOADFLAGS] = 0x3f;
        put_u32(&mut image, INITRD_ADDR_MAX, 0x7fff_ffff);
        put_u32(&mut image, CMDLINE_SIZE, 2047);
        put_u32(&mut image, PREF_ADDRESS, 0x100_0000);
        put_u32(&mut image, INIT_SIZE, 0x40_0000);
        image.extend(code);
        image
    }

    fn payload(bytes: Vec<u8>) -> Payload {
        Payload::from_bytes("the kernel", "vmlinuz".into(), bytes)
    }

    #[test]
    fn everything_is_where_the_protocol_says() {
        let memory = memory::allocate(64 << 20).unwrap();
        let ram = memory::ranges(64 << 20);
        let initrds = [payload(vec![1; 5]), payload(vec![2; 8])];
        let entry =
            load((&memory, &ram), &payload(image(b"code")), &initrds, "root=/dev/vda1 ro", None)
                .unwrap();
        assert_eq!(entry, Entry::Linux { rip: 0x100_0200 });
        let read = |at: u64, len: usize| {
            let mut bytes = vec![0; len];
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        };
        let number = |at: usize| {
            u32::from_le_bytes(read(layout::ZERO_PAGE + at as u64, 4).try_into().unwrap())
        };
        assert_eq!(read(0x100_0000, 4), b"code");
        assert_eq!(read(layout::CMDLINE, 18), b"root=/dev/vda1 ro\0");
        assert_eq!(number(CMD_LINE_PTR), layout::CMDLINE as u32);
        let initrd = u64::from(number(RAMDISK_IMAGE));
        assert_eq!((initrd, number(RAMDISK_SIZE)), ((64 << 20) - 0x1000, 16));
        assert_eq!(read(initrd, 16), [1, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(read(layout::ZERO_PAGE + E820_ENTRIES as u64, 1), [5]);
        assert_eq!(number(E820_TABLE + 8), layout::EBDA as u32);
        assert_eq!(read(layout::ZERO_PAGE + TYPE_OF_LOADER as u64, 1), [0xff]);
    }

    #[test]
    fn a_framebuffer_is_told_of_when_there_is_one() {
        let memory = memory::allocate(64 << 20).unwrap();
        let ram = memory::ranges(64 << 20);
        let mut info = [0; 0x40];
        let screen = Framebuffer { address: 0x8000_0000, width: 1024, height: 768 };
        for screen in [None, Some(&screen)] {
            load((&memory, &ram), &payload(image(&[])), &[], "", screen).unwrap();
            memory.read_slice(&mut info, GuestAddress(layout::ZERO_PAGE)).unwrap();
            assert_eq!(info.iter().any(|byte| *byte != 0), screen.is_some());
        }
        assert_eq!(info[0x0f..0x18], [0x70, 0, 0, 0, 4, 0, 3, 32, 0]);
        assert_eq!(info[0x18..0x20], [0, 0, 0, 0x80, 0, 0, 0x30, 0]);
        assert_eq!(info[0x24..0x34], [0, 16, 8, 16, 8, 8, 8, 0, 8, 24, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn wrong_kernels_are_declined_with_the_reason() {
        let memory = memory::allocate(64 << 20).unwrap();
        let ram = memory::ranges(64 << 20);
        let attempt = |bytes: Vec<u8>| {
            load((&memory, &ram), &payload(bytes), &[], "", None).unwrap_err().to_string()
        };
        assert!(attempt(vec![0; 100]).contains("not a Linux bzImage"));
        assert!(attempt(Vec::new()).contains("not a Linux bzImage"));
        let mut old = image(&[]);
        old[VERSION] = 0x0a;
        assert!(attempt(old).contains("boot protocol 2.10"));
        let mut low = image(&[]);
        put_u32(&mut low, PREF_ADDRESS, 0x1000);
        assert!(attempt(low).contains("below 1 MiB"));
        let mut large = image(&[]);
        put_u32(&mut large, INIT_SIZE, 0x400_0000);
        assert!(attempt(large).contains("does not fit"));
        let mut far = image(&[]);
        put_u32(&mut far, PREF_ADDRESS + 4, u32::MAX);
        assert!(attempt(far).contains("does not fit"));
    }

    #[test]
    fn the_kernel_s_own_command_line_limit_holds() {
        let memory = memory::allocate(64 << 20).unwrap();
        let ram = memory::ranges(64 << 20);
        let with = |cmdline: &str| load((&memory, &ram), &payload(image(&[])), &[], cmdline, None);
        assert!(with(&"x".repeat(2047)).is_ok());
        let error = with(&"x".repeat(2048)).unwrap_err().to_string();
        assert!(error.contains("2048") && error.contains("2047"), "{error}");
        assert!(with("a\0b").is_err());
    }

    #[test]
    fn a_ramdisk_that_does_not_fit_is_refused() {
        let memory = memory::allocate(64 << 20).unwrap();
        let ram = memory::ranges(64 << 20);
        let initrd = [payload(vec![0; 60 << 20])];
        let error = load((&memory, &ram), &payload(image(&[])), &initrd, "", None).unwrap_err();
        assert!(error.to_string().contains("initial ramdisk"), "{error}");
    }

    #[test]
    fn arbitrary_headers_never_panic() {
        let memory = memory::allocate(32 << 20).unwrap();
        let ram = memory::ranges(32 << 20);
        proptest::proptest!(|(bytes in proptest::collection::vec(0u8.., 0..0x300usize))| {
            let mut image = image(&[]);
            image.resize(0x600, 0);
            for (at, byte) in bytes.iter().enumerate() {
                if at % 3 == 0 && !(BOOT_FLAG..VERSION).contains(&(SETUP_SECTS + at)) {
                    image[(SETUP_SECTS + at) % 0x600] = *byte;
                }
            }
            let _ = load((&memory, &ram), &payload(image), &[], "quiet", None);
        });
    }
}
