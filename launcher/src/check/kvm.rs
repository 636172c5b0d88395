//! KVM: there, ours to open, and running guest code on the processor itself.

use std::fs;
use std::path::Path;

use vmm::StartError;
use vmm::kvm::{KvmError, probe};

use super::Place;
use super::finding::Finding;
use crate::failure::sentence;

const SUBJECT: &str = "kvm";
/// For a container.
const YAML: &str = "give the container resources: {limits: {berth.dev/kvm: \"1\"}}";

/// What there is.
pub struct Kvm {
    /// The most vCPUs of a machine, or why there is none.
    pub usable: Result<usize, StartError>,
    /// Whether this host is a virtual machine itself.
    pub nested: bool,
}

impl Kvm {
    /// Looks; runs a few instructions in a machine of its own.
    pub fn gather() -> Self {
        let processor = fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
        let mut flags = processor.lines().filter(|line| line.starts_with("flags"));
        let nested = flags.any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"));
        Self { usable: probe::examine(), nested }
    }

    /// Whether a machine of so many vCPUs runs on it.
    pub fn judge(&self, cpus: u32, place: Place) -> Finding {
        let error = match &self.usable {
            Ok(max) if usize::try_from(cpus).is_ok_and(|cpus| cpus > *max) => {
                let text = format!("{cpus} vCPUs are asked for, and this KVM has at most {max}");
                return Finding::error(SUBJECT, text).remedy(format!("--cpus {max}"));
            }
            Ok(_) if self.nested => {
                let text = "usable, though this host is a virtual machine itself: guests are slower \
                            than on hardware";
                return Finding::fine(SUBJECT, text);
            }
            Ok(_) => return Finding::fine(SUBJECT, "usable, and runs on the processor itself"),
            Err(error) => error,
        };
        let (text, remedy) = match error {
            StartError::Kvm(KvmError::Missing) => (
                "there is no /dev/kvm".to_owned(),
                place.pick(
                    YAML,
                    "switch virtualisation on in the firmware (for a virtual machine: nested \
                     virtualisation), then: modprobe kvm_intel || modprobe kvm_amd",
                ),
            ),
            StartError::Kvm(KvmError::Open(cause)) => (
                format!("/dev/kvm cannot be opened: {cause}"),
                place.pick(YAML, "usermod -aG kvm $USER, and log in again"),
            ),
            StartError::Kvm(KvmError::Emulated(_)) => (
                "/dev/kvm has no hardware virtualisation below it: it interprets, and stock kernels \
                 do not run"
                    .to_owned(),
                place.pick(
                    "put the pod on a node with VMX or SVM, by a nodeSelector",
                    "use a host with VMX or SVM, or switch nested virtualisation on",
                ),
            ),
            other => return Finding::error(SUBJECT, sentence(other)),
        };
        Finding::error(SUBJECT, text).remedy(remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn judged(usable: Result<usize, KvmError>, cpus: u32, place: Place) -> (Level, String) {
        let kvm = Kvm { usable: usable.map_err(StartError::Kvm), nested: false };
        let finding = kvm.judge(cpus, place);
        (finding.level, finding.to_string())
    }

    #[test]
    fn each_trouble_has_its_remedy() {
        assert_eq!(judged(Ok(64), 64, Place::Host).0, Level::Fine);
        let (level, text) = judged(Ok(2), 4, Place::Host);
        assert!(level == Level::Error && text.ends_with("; --cpus 2"), "{text}");
        for (place, part) in [(Place::Host, "modprobe kvm_intel"), (Place::Container, "limits")] {
            let (level, text) = judged(Err(KvmError::Missing), 1, place);
            assert!(level == Level::Error && text.contains(part), "{text}");
        }
        let (_, text) = judged(Err(KvmError::Emulated("x".into())), 1, Place::Container);
        assert!(text.contains("nodeSelector"), "{text}");
        let (level, text) = judged(Err(KvmError::Lacks("irqfd")), 1, Place::Host);
        assert!(level == Level::Error && text.contains("a newer kernel has it"), "{text}");
    }
}
