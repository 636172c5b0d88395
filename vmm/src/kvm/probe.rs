//! Can this KVM run a stock kernel? Some cannot: a paravirtual KVM, on a machine without hardware
//! virtualisation, runs guest kernel code in KVM's instruction emulator, which lacks instructions
//! that every kernel uses and is slower by orders of magnitude.
//!
//! So the boot processor is made to run two such instructions first. It costs one entry into the
//! guest, and no timing, which would depend on the host's load.

use devices::mem::{Bytes, GuestAddress, GuestMemory};
use kvm_ioctls::VcpuExit;

use super::cpuid::Template;
use super::vcpu::Vcpu;
use super::vm::Vm;
use super::{KvmError, registers};
use crate::StartError;
use crate::boot::Entry;
use crate::memory;

/// Free conventional memory; what is left there is overwritten or ignored by any kernel.
const CODE: u64 = 0x1_0000;
const PORT: u16 = 0x80;
const ANSWER: u8 = 0x2a;

/// ```text
/// mov rdi, 0x11000; cmpxchg16b [rdi]; fwait; mov al, ANSWER; out PORT, al; hlt
/// ```
const PROGRAM: [u8; 17] = [
    0x48, 0xc7, 0xc7, 0x00, 0x10, 0x01, 0x00, 0x48, 0x0f, 0xc7, 0x0f, 0x9b, 0xb0, ANSWER, 0xe6,
    PORT as u8, 0xf4,
];

/// As little as any machine has, in bytes. Only what the probe touches takes memory.
const MEMORY: u64 = 32 << 20;

/// Opens KVM and runs the probe in a machine of its own, which is gone afterwards: what a start
/// would find. Answers the most vCPUs that a machine may have here.
///
/// # Errors
/// What a start would say.
pub fn examine() -> Result<usize, StartError> {
    let kvm = super::open()?;
    let memory = memory::allocate(MEMORY)?;
    let vm = Vm::new(&kvm, memory.clone())?;
    let fd = vm.create_vcpu(0)?;
    let mut vcpu = Vcpu::new(&kvm, &Template::read(&kvm)?, (0, 1), fd)?;
    run(&mut vcpu, &memory)?;
    Ok(kvm.get_max_vcpus())
}

/// Runs the probe on the boot processor; it must be prepared again afterwards.
///
/// # Errors
/// [`KvmError::Emulated`] when the instructions did not run, [`KvmError::Ioctl`].
pub fn run(vcpu: &mut Vcpu, memory: &GuestMemory) -> Result<(), KvmError> {
    let entry = Entry::Linux { rip: CODE };
    let placed = memory
        .write_slice(&PROGRAM, GuestAddress(CODE))
        .and_then(|()| registers::write_tables(memory, entry));
    placed.expect("every machine has a mebibyte of memory");
    vcpu.prepare(entry)?;
    loop {
        let what = match vcpu.fd().run() {
            Ok(VcpuExit::IoOut(PORT, &[ANSWER])) => return Ok(()),
            Ok(VcpuExit::InternalError) => "KVM internal error at cmpxchg16b or fwait".to_owned(),
            Ok(other) => format!("cmpxchg16b and fwait ended in {other:?}"),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => continue,
            Err(source) => return Err(KvmError::Ioctl { what: "running the first vCPU", source }),
        };
        return Err(KvmError::Emulated(what));
    }
}
