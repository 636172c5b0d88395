//! CPUID, as KVM supports it, made to fit a machine of one socket with n cores.
//!
//! Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E. APIC ids are vCPU numbers.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use super::{During, KvmError};

const FEATURES: u32 = 0x1;
const CACHES_INTEL: u32 = 0x4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const ADDRESS_SIZES: u32 = 0x8000_0008;
const CACHES_AMD: u32 = 0x8000_001d;
const TOPOLOGY_AMD: u32 = 0x8000_001e;

const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// What every vCPU's CPUID starts from.
pub struct Template {
    supported: CpuId,
    tsc_deadline: bool,
}

impl Template {
    /// Asks KVM what it supports.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`].
    pub fn read(kvm: &Kvm) -> Result<Template, KvmError> {
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).during("asking for CPUID")?;
        Ok(Template { supported, tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer) })
    }

    /// CPUID of vCPU `id` of `cpus`.
    pub fn of(&self, id: u32, cpus: u32) -> CpuId {
        let mut entries: Vec<kvm_cpuid_entry2> = self
            .supported
            .as_slice()
            .iter()
            .filter(|e| e.function != TOPOLOGY && e.function != TOPOLOGY_V2)
            .copied()
            .collect();
        for entry in &mut entries {
            self.fit(entry, id, cpus);
        }
        let basic_max = entries.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
        if basic_max >= TOPOLOGY {
            entries.extend(topology(id, cpus));
        }
        CpuId::from_entries(&entries)
            .expect("no more entries than KVM gave, and its table has room")
    }

    /// How many bits a physical address has.
    pub fn physical_bits(&self) -> u32 {
        let sizes = self.supported.as_slice().iter().find(|e| e.function == ADDRESS_SIZES);
        sizes.map_or(36, |entry| entry.eax & 0xff)
    }

    fn fit(&self, entry: &mut kvm_cpuid_entry2, id: u32, cpus: u32) {
        match entry.function {
            FEATURES => {
                entry.ebx = entry.ebx & 0x0000_ffff | id << 24 | cpus.next_power_of_two() << 16;
                entry.ecx |= ECX_HYPERVISOR;
                if self.tsc_deadline {
                    entry.ecx |= ECX_TSC_DEADLINE;
                }
                entry.edx = if cpus > 1 { entry.edx | EDX_HTT } else { entry.edx & !EDX_HTT };
            }
            CACHES_INTEL | CACHES_AMD if entry.eax & 0x1f != 0 => {
                // Caches up to level 2 are a core's own; the last level is everyone's.
                let sharing =
                    if entry.eax >> 5 & 7 >= 3 { cpus.next_power_of_two() - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
                if entry.function == CACHES_INTEL {
                    entry.eax |= (cpus.next_power_of_two() - 1).min(63) << 26;
                }
            }
            ADDRESS_SIZES => {
                entry.ecx = entry.ecx & !0xf0ff | (cpus - 1) & 0xff | apic_id_bits(cpus) << 12;
            }
            TOPOLOGY_AMD => {
                // Extended APIC id; compute unit is the core, alone in it; node 0 of one.
                (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0);
            }
            _ => {}
        }
    }
}

/// Extended topology: one thread a core, all cores in one package.
fn topology(id: u32, cpus: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: id,
        ..Default::default()
    };
    [level(0, 0, 1, LEVEL_SMT), level(1, apic_id_bits(cpus), cpus, LEVEL_CORE), level(2, 0, 0, 0)]
}

/// How many bits of an APIC id tell cores apart.
fn apic_id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        let leaf =
            |function, index, eax| kvm_cpuid_entry2 { function, index, eax, ..Default::default() };
        let entries = [
            leaf(0, 0, 0x1f),
            leaf(FEATURES, 0, 0x806f8),
            leaf(CACHES_INTEL, 0, 0x1 << 5 | 1),
            leaf(CACHES_INTEL, 3, 0x3 << 5 | 3),
            leaf(TOPOLOGY, 0, 99),
            leaf(TOPOLOGY_V2, 0, 99),
            leaf(ADDRESS_SIZES, 0, 0x3030),
            leaf(TOPOLOGY_AMD, 0, 99),
        ];
        Template { supported: CpuId::from_entries(&entries).unwrap(), tsc_deadline: true }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid.as_slice().iter().find(|e| (e.function, e.index) == (function, index)).unwrap()
    }

    #[test]
    fn every_leaf_tells_the_same_topology() {
        let cpuid = template().of(5, 6);
        let features = find(&cpuid, FEATURES, 0);
        assert_eq!((features.ebx >> 24, features.ebx >> 16 & 0xff), (5, 8));
        assert_ne!(features.ecx & ECX_HYPERVISOR, 0);
        assert_ne!(features.ecx & ECX_TSC_DEADLINE, 0);
        assert_ne!(features.edx & EDX_HTT, 0);
        assert_eq!(find(&cpuid, CACHES_INTEL, 0).eax >> 14 & 0xfff, 0);
        assert_eq!(find(&cpuid, CACHES_INTEL, 3).eax >> 14 & 0xfff, 7);
        assert_eq!(find(&cpuid, CACHES_INTEL, 3).eax >> 26, 7);
        let core = find(&cpuid, TOPOLOGY, 1);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
        assert_eq!(find(&cpuid, TOPOLOGY, 0).eax, 0);
        assert!(cpuid.as_slice().iter().all(|e| e.function != TOPOLOGY_V2));
        assert_eq!(find(&cpuid, ADDRESS_SIZES, 0).ecx, 5 | 3 << 12);
        assert_eq!(find(&cpuid, TOPOLOGY_AMD, 0).eax, 5);
    }

    #[test]
    fn a_single_cpu_has_no_siblings() {
        let cpuid = template().of(0, 1);
        assert_eq!(find(&cpuid, FEATURES, 0).edx & EDX_HTT, 0);
        assert_eq!(find(&cpuid, TOPOLOGY, 1).eax, 0);
        assert_eq!(find(&cpuid, CACHES_INTEL, 3).eax >> 26, 0);
    }
}
