//! The DSDT: what has no register to be found by (ACPI 6.5 §5.2.11.1, §6, PCI Firmware 3.3 §4).
//!
//! The PCI root bridge with the windows that BARs may be put in, the ISA devices, a reservation for
//! the ECAM window and the power-management block, and S5. There is no interrupt routing: every
//! PCI function here interrupts by message.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, IO,
    Interrupt, Local, Memory32Fixed, Method, Name, Package, Path, ResourceTemplate, Return, Scope,
    Store,
};
use acpi_tables::sdt::Sdt;
use devices::input::i8042;
use devices::pci::root;
use devices::platform::{cmos, pm, pvpanic};
use devices::serial;

use super::{Board, table};
use crate::machine::layout;

/// The whole table.
pub fn build(board: &Board) -> Sdt {
    let mut aml = Vec::new();
    Scope::new(
        "\\_SB_".into(),
        vec![
            &Raw(host_bridge(board)),
            &Raw(reservations(board)),
            &Raw(panic_port()),
            &Raw(generation()),
        ],
    )
    .to_aml_bytes(&mut aml);
    let s5 = pm::SLP_TYP_S5;
    Name::new("\\_S5_".into(), &Package::new(vec![&s5, &s5, &0u8, &0u8])).to_aml_bytes(&mut aml);
    let mut dsdt = table(b"DSDT", 6);
    dsdt.append_slice(&aml);
    dsdt
}

/// AML that has been made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        self.0.iter().for_each(|byte| sink.byte(*byte));
    }
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

/// 00:00.0 and everything behind it.
fn host_bridge(board: &Board) -> Vec<u8> {
    let ecam = board.ecam as u32;
    let before_ecam = (layout::PCI_WINDOW as u32, ecam - 1);
    let after_ecam = (ecam + layout::ECAM_LEN as u32, layout::PCI_WINDOW_END as u32 - 1);
    let window = |(first, last)| {
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
    };
    let config = root::PORTS as u16;
    let config_len = root::PORTS_LEN as u16;
    let resources = ResourceTemplate::new(vec![
        // As many as the MCFG has.
        &AddressSpace::new_bus_number(0u16, 0u16),
        &IO::new(config, config, 1, config_len as u8),
        &AddressSpace::new_io(0u16, config - 1, None),
        &AddressSpace::new_io(config + config_len, 0xffff, None),
        &window((
            layout::VGA_WINDOW as u32,
            (layout::VGA_WINDOW + layout::VGA_WINDOW_LEN) as u32 - 1,
        )),
        &window(before_ecam),
        &window(after_ecam),
    ])
    .to_bytes();
    bytes(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_ADR".into(), &0u8),
            &Name::new("_SEG".into(), &0u8),
            &Name::new("_BBN".into(), &0u8),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &Raw(resources)),
            &Raw(operating_system_capabilities()),
            &Raw(isa_bridge(board)),
        ],
    ))
}

/// _OSC (PCI Firmware 3.3 §4.5.1): of all it asks for, the system gets the capability structure.
fn operating_system_capabilities() -> Vec<u8> {
    const CAPABILITY_STRUCTURE_CONTROL: u8 = 1 << 4;
    const CONTROL_FIELD: u8 = 8;
    let control: Path = "CTRL".into();
    bytes(&Method::new(
        "_OSC".into(),
        4,
        true,
        vec![
            &Store::new(&Local(0), &Arg(3)),
            &CreateDWordField::new(&control, &Local(0), &CONTROL_FIELD),
            &And::new(&control, &control, &CAPABILITY_STRUCTURE_CONTROL),
            &Return::new(&Local(0)),
        ],
    ))
}

/// 00:1f.0 and the ISA devices behind it.
fn isa_bridge(board: &Board) -> Vec<u8> {
    let ports = |first: u64, len: u64| IO::new(first as u16, first as u16, 1, len as u8);
    let com1 = ResourceTemplate::new(vec![
        &ports(serial::COM1, serial::PORTS_LEN),
        &Interrupt::new(true, true, false, false, serial::COM1_IRQ),
    ])
    .to_bytes();
    let rtc = ResourceTemplate::new(vec![&ports(cmos::PORTS, cmos::PORTS_LEN)]).to_bytes();
    bytes(&Device::new(
        "ISA_".into(),
        vec![
            &Name::new("_ADR".into(), &0x001f_0000u32),
            &Device::new(
                "COM1".into(),
                vec![
                    &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                    &Name::new("_UID".into(), &1u8),
                    &Name::new("_CRS".into(), &Raw(com1)),
                ],
            ),
            &Device::new(
                "RTC_".into(),
                vec![
                    &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
                    &Name::new("_CRS".into(), &Raw(rtc)),
                ],
            ),
            &Raw(if board.desktop { keyboard_and_mouse() } else { Vec::new() }),
        ],
    ))
}

/// What is plugged into the PS/2 controller; its ports go with the keyboard.
fn keyboard_and_mouse() -> Vec<u8> {
    let port = |port: u64| IO::new(port as u16, port as u16, 1, 1);
    let line = |line| Interrupt::new(true, true, false, false, line);
    let keyboard = ResourceTemplate::new(vec![
        &port(i8042::DATA),
        &port(i8042::COMMAND),
        &line(i8042::KEYBOARD_IRQ),
    ])
    .to_bytes();
    let mouse = ResourceTemplate::new(vec![&line(i8042::MOUSE_IRQ)]).to_bytes();
    [("KBD_", "PNP0303", keyboard), ("MOU_", "PNP0F13", mouse)]
        .map(|(name, id, resources)| {
            bytes(&Device::new(
                name.into(),
                vec![
                    &Name::new("_HID".into(), &EISAName::new(id)),
                    &Name::new("_CRS".into(), &Raw(resources)),
                ],
            ))
        })
        .concat()
}

/// PNP0C02: what must not be given to anything else; without it Linux distrusts the MCFG.
fn reservations(board: &Board) -> Vec<u8> {
    let resources = ResourceTemplate::new(vec![
        &Memory32Fixed::new(true, board.ecam as u32, layout::ECAM_LEN as u32),
        &IO::new(board.pm_base, board.pm_base, 1, pm::LEN as u8),
    ])
    .to_bytes();
    bytes(&Device::new(
        "MRES".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_CRS".into(), &Raw(resources)),
        ],
    ))
}

/// The pvpanic port, by the id that guests' drivers look for.
fn panic_port() -> Vec<u8> {
    let port = pvpanic::PORT as u16;
    let resources = ResourceTemplate::new(vec![&IO::new(port, port, 1, 1)]).to_bytes();
    bytes(&Device::new(
        "PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_STA".into(), &0x0fu8),
            &Name::new("_CRS".into(), &Raw(resources)),
        ],
    ))
}

/// Where the VM generation id is ("Virtual Machine Generation ID", Microsoft 2018). It never changes
/// while the machine runs, so there is nothing to notify of: a guest reads it at boot.
fn generation() -> Vec<u8> {
    let (low, high) = (layout::GENERATION as u32, (layout::GENERATION >> 32) as u32);
    bytes(&Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"BRTH0001"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("_STA".into(), &0x0fu8),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    ))
}

/// The encoded form of an AML object.
trait ToBytes: Aml + Sized {
    fn to_bytes(&self) -> Vec<u8> {
        bytes(self)
    }
}

impl<T: Aml> ToBytes for T {}
