//! KVM: what of it is needed, and why.
//!
//! [`vm`] is the virtual machine (memory, interrupts, doorbells), [`vcpu`] a CPU's state and its
//! run loop, [`exit`] what a CPU asks of the machine and [`exits`] how often, [`cpuid`] and
//! [`registers`] what it is made of, [`slot`] memory that moves, [`probe`] whether this KVM can run a
//! stock kernel at all.

pub mod cpuid;
pub mod exit;
pub mod exits;
pub mod probe;
pub mod registers;
pub mod routes;
pub mod slot;
pub mod vcpu;
pub mod vm;

use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

/// The device node.
pub const DEVICE: &str = "/dev/kvm";
const API_VERSION: i32 = 12;

/// What Berth cannot do without.
const REQUIRED: [(Cap, &str); 10] = [
    (Cap::UserMemory, "guest memory"),
    (Cap::Irqchip, "interrupt controllers in the kernel"),
    (Cap::Pit2, "the interval timer in the kernel"),
    (Cap::SetTssAddr, "the TSS pages"),
    (Cap::SetIdentityMapAddr, "the identity-map page"),
    (Cap::Ioeventfd, "queue kicks without an exit"),
    (Cap::Irqfd, "interrupts without a system call into the vCPU"),
    (Cap::ImmediateExit, "stopping a vCPU"),
    (Cap::ExtCpuid, "CPUID"),
    (Cap::MpState, "starting and stopping processors"),
];

/// KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The device node is not there.
    #[error(
        "/dev/kvm does not exist: enable virtualisation in the firmware (or nested virtualisation \
         for a VM), load kvm_intel or kvm_amd, and in a container pass the device in"
    )]
    Missing,
    /// It is there but may not be opened.
    #[error("/dev/kvm cannot be opened: join the kvm group, or in a container pass the device in")]
    Open(#[source] kvm_ioctls::Error),
    /// It speaks another language.
    #[error("/dev/kvm has API version {0}, 12 is needed")]
    Version(i32),
    /// It lacks something.
    #[error("/dev/kvm lacks {0}; a newer kernel has it")]
    Lacks(&'static str),
    /// It runs guest kernels in software.
    #[error(
        "/dev/kvm here runs guest kernels in KVM's instruction emulator ({0}), as a paravirtual KVM \
         does that has no hardware virtualisation below it: stock kernels do not run on it; use a \
         host with VMX or SVM, or nested virtualisation"
    )]
    Emulated(String),
    /// An ioctl failed.
    #[error("KVM: {what} failed")]
    Ioctl {
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Names the operation in an ioctl's error.
pub(crate) trait During<T> {
    fn during(self, what: &'static str) -> Result<T, KvmError>;
}

impl<T> During<T> for Result<T, kvm_ioctls::Error> {
    fn during(self, what: &'static str) -> Result<T, KvmError> {
        self.map_err(|source| KvmError::Ioctl { what, source })
    }
}

/// Opens KVM and checks that everything needed is there.
///
/// # Errors
/// [`KvmError`], with the remedy.
pub fn open() -> Result<Kvm, KvmError> {
    if !Path::new(DEVICE).exists() {
        return Err(KvmError::Missing);
    }
    let kvm = Kvm::new().map_err(KvmError::Open)?;
    match kvm.get_api_version() {
        API_VERSION => {}
        other => return Err(KvmError::Version(other)),
    }
    for (cap, what) in REQUIRED {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Lacks(what));
        }
    }
    Ok(kvm)
}
