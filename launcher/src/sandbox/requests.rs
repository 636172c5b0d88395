//! The requests of ioctl(2) that threads make, by the device that takes them. The numbers are the
//! kernel's interface on x86-64 (`asm-generic/ioctl.h`): direction and size of the argument, type,
//! number.

/// A vCPU runs, and says what it stumbled over.
pub const KVM_RUN: u64 = 0xae80;
/// A vCPU's registers, as they are put back at a reset, and two that are read.
pub const KVM_REGISTERS: &[u64] = &[
    0xaead,      // KVM_KVMCLOCK_CTRL
    0x4004_ae99, // KVM_SET_MP_STATE
    0x4008_ae89, // KVM_SET_MSRS
    0x4040_aea0, // KVM_SET_VCPU_EVENTS
    0x4080_aea2, // KVM_SET_DEBUGREGS
    0x4090_ae82, // KVM_SET_REGS
    0x4138_ae84, // KVM_SET_SREGS
    0x4188_aea7, // KVM_SET_XCRS
    0x41a0_ae8d, // KVM_SET_FPU
    0x4400_ae8f, // KVM_SET_LAPIC
    0x8090_ae81, // KVM_GET_REGS
    0x8138_ae83, // KVM_GET_SREGS
    0x8400_ae8e, // KVM_GET_LAPIC
];
/// What the guest changes by its devices' registers: where BARs, doorbells and interrupts are.
pub const KVM_PLACES: &[u64] = &[
    0x4008_ae61, // KVM_IRQ_LINE
    0x4008_ae6a, // KVM_SET_GSI_ROUTING
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
    0x4020_ae76, // KVM_IRQFD
    0x4040_ae79, // KVM_IOEVENTFD
];
/// The board's chips, put back at a reset.
pub const KVM_CHIPS: &[u64] = &[
    0x4070_aea0, // KVM_SET_PIT2
    0x8208_ae63, // KVM_SET_IRQCHIP
];
/// What was written to the display's memory.
pub const KVM_DISPLAY: &[u64] = &[
    0x4010_ae42, // KVM_GET_DIRTY_LOG
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
];
/// A tap's queue: joined, left, told what the driver can do.
pub const TAP: &[u64] = &[
    0x4004_54d0, // TUNSETOFFLOAD
    0x4004_54d9, // TUNSETQUEUE
];
/// A pair of rings handed to the kernel, and taken back.
pub const VHOST: &[u64] = &[
    0x4008_af00, // VHOST_SET_FEATURES
    0x4008_af03, // VHOST_SET_MEM_TABLE
    0x4008_af10, // VHOST_SET_VRING_NUM
    0x4008_af12, // VHOST_SET_VRING_BASE
    0x4008_af20, // VHOST_SET_VRING_KICK
    0x4008_af21, // VHOST_SET_VRING_CALL
    0x4008_af22, // VHOST_SET_VRING_ERR
    0x4008_af30, // VHOST_NET_SET_BACKEND
    0x4028_af11, // VHOST_SET_VRING_ADDR
    0x8008_af00, // VHOST_GET_FEATURES
    0xc008_af12, // VHOST_GET_VRING_BASE
];
/// A block device's ranges, and its size.
pub const BLOCK_DEVICE: &[u64] = &[
    0x1277,      // BLKDISCARD
    0x127f,      // BLKZEROOUT
    0x8008_1272, // BLKGETSIZE64
];
/// A connection that does not block.
pub const FIONBIO: u64 = 0x5421;
/// A terminal: whether it is one, and how it behaves.
pub const TERMINAL: &[u64] = &[
    0x5401, // TCGETS
    0x5402, // TCSETS
    0x540f, // TIOCGPGRP
];
