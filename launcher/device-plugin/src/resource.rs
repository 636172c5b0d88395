//! A resource: a device under a name, divided into slots, as the kubelet sees it. Pure: answers to
//! requests, out of the device's last known state.
//!
//! A device that is absent has no slots, so that a node without it has none to show; one that is
//! there and cannot be used has slots, all of them unhealthy, so that `kubectl describe node` shows
//! that something is to be mended: a capacity of which nothing can be allocated.

use crate::api::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, ContainerPreferredAllocationResponse, Device, DeviceSpec,
    HEALTHY, ListAndWatchResponse, PreferredAllocationRequest, PreferredAllocationResponse,
    UNHEALTHY,
};
use crate::device::{Kind, State};

/// A device under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What pods ask for, such as `berth.dev/kvm`.
    pub name: String,
    /// The device.
    pub kind: Kind,
    /// How many containers may share it.
    pub slots: u32,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is of something that was never offered.
    #[error("{resource} has no slot {id:?}: there are {kind}-0 to {kind}-{last}")]
    UnknownSlot {
        /// The resource's name.
        resource: String,
        /// What was asked for.
        id: String,
        /// The device's name.
        kind: &'static str,
        /// Number of the last slot.
        last: u32,
    },
    /// The device cannot be used at the moment.
    #[error("{resource} cannot be given out: {device} {state}")]
    Unhealthy {
        /// The resource's name.
        resource: String,
        /// The device's path.
        device: String,
        /// What is wrong with it.
        state: State,
    },
    /// More are wanted than there are to choose from.
    #[error("{resource}: {wanted} slots cannot be chosen from {available}")]
    TooFew {
        /// The resource's name.
        resource: String,
        /// The number wanted.
        wanted: i32,
        /// The number to choose from.
        available: usize,
    },
}

impl Resource {
    /// All slots, with the health of a device in that state.
    pub fn list(&self, state: &State) -> ListAndWatchResponse {
        let health = if state.is_healthy() { HEALTHY } else { UNHEALTHY };
        let slots = if *state == State::Absent { 0 } else { self.slots };
        let name = self.kind.name();
        let device = |slot| Device { id: format!("{name}-{slot}"), health: health.to_owned() };
        ListAndWatchResponse { devices: (0..slots).map(device).collect() }
    }

    /// What containers with slots are given: the device.
    ///
    /// # Errors
    /// [`Refusal::UnknownSlot`], [`Refusal::Unhealthy`].
    pub fn allocate(
        &self,
        request: &AllocateRequest,
        state: &State,
    ) -> Result<AllocateResponse, Refusal> {
        let containers = &request.container_requests;
        if let Some(id) =
            containers.iter().flat_map(|container| &container.ids).find(|id| !self.has(id))
        {
            return Err(Refusal::UnknownSlot {
                resource: self.name.clone(),
                id: id.clone(),
                kind: self.kind.name(),
                last: self.slots.saturating_sub(1),
            });
        }
        if !state.is_healthy() {
            return Err(Refusal::Unhealthy {
                resource: self.name.clone(),
                device: self.kind.path().display().to_string(),
                state: state.clone(),
            });
        }
        let container_responses = containers.iter().map(|container| self.give(container)).collect();
        Ok(AllocateResponse { container_responses })
    }

    fn give(&self, container: &ContainerAllocateRequest) -> ContainerAllocateResponse {
        let path = self.kind.path().display().to_string();
        let device = DeviceSpec {
            container_path: path.clone(),
            host_path: path,
            permissions: "rw".to_owned(),
        };
        // However many slots: it is one device.
        let devices = if container.ids.is_empty() { Vec::new() } else { vec![device] };
        ContainerAllocateResponse { devices }
    }

    /// Slots for containers: those that must be, then the first that are free. All are alike.
    ///
    /// # Errors
    /// [`Refusal::TooFew`].
    pub fn prefer(
        &self,
        request: &PreferredAllocationRequest,
    ) -> Result<PreferredAllocationResponse, Refusal> {
        let container_responses = request
            .container_requests
            .iter()
            .map(|container| self.choose(container))
            .collect::<Result<_, _>>()?;
        Ok(PreferredAllocationResponse { container_responses })
    }

    fn choose(
        &self,
        container: &ContainerPreferredAllocationRequest,
    ) -> Result<ContainerPreferredAllocationResponse, Refusal> {
        let wanted = usize::try_from(container.allocation_size).unwrap_or(0);
        let must = &container.must_include_ids;
        let free = container.available_ids.iter().filter(|id| !must.contains(id));
        let ids: Vec<String> = must.iter().chain(free).take(wanted).cloned().collect();
        if ids.len() < wanted || must.len() > wanted {
            return Err(Refusal::TooFew {
                resource: self.name.clone(),
                wanted: container.allocation_size,
                available: container.available_ids.len(),
            });
        }
        Ok(ContainerPreferredAllocationResponse { ids })
    }

    /// Whether there is a slot of that name.
    fn has(&self, id: &str) -> bool {
        let slot = id.strip_prefix(self.kind.name()).and_then(|rest| rest.strip_prefix('-'));
        let slot = slot.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        slot.and_then(|digits| digits.parse().ok()).is_some_and(|slot: u32| slot < self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tun() -> Resource {
        Resource { name: "x.org/tun".into(), kind: Kind::Tun, slots: 12 }
    }

    fn request(containers: &[&[&str]]) -> AllocateRequest {
        let ids = |ids: &&[&str]| ids.iter().map(|&id| id.to_owned()).collect();
        let container = |container| ContainerAllocateRequest { ids: ids(container) };
        AllocateRequest { container_requests: containers.iter().map(container).collect() }
    }

    fn broken() -> State {
        State::Unusable("is a teapot".into())
    }

    #[test]
    fn the_list_is_as_healthy_as_the_device() {
        let list = |state| tun().list(&state).devices;
        assert_eq!(list(State::Absent), []);
        for (state, health) in
            [(State::Usable, HEALTHY), (State::Untried, HEALTHY), (broken(), UNHEALTHY)]
        {
            let devices = list(state);
            assert_eq!(devices.len(), 12);
            assert_eq!(devices[11], Device { id: "tun-11".into(), health: health.into() });
            assert!(devices.iter().all(|device| device.health == health));
        }
    }

    #[test]
    fn each_container_is_given_the_device_once() {
        let answer = tun()
            .allocate(&request(&[&["tun-0"], &["tun-3", "tun-11"], &[]]), &State::Usable)
            .unwrap();
        let node = DeviceSpec {
            container_path: "/dev/net/tun".into(),
            host_path: "/dev/net/tun".into(),
            permissions: "rw".into(),
        };
        let given: Vec<_> =
            answer.container_responses.into_iter().map(|container| container.devices).collect();
        assert_eq!(given, [vec![node.clone()], vec![node], vec![]]);
    }

    #[test]
    fn what_was_not_offered_is_refused() {
        for id in ["tun-12", "tun-", "tun", "kvm-0", "", "tun--1", "tun-+1", "tun-4294967296"] {
            let refusal =
                tun().allocate(&request(&[&["tun-1"], &[id]]), &State::Usable).unwrap_err();
            let sentence = format!("x.org/tun has no slot {id:?}: there are tun-0 to tun-11");
            assert_eq!(refusal.to_string(), sentence);
        }
    }

    #[test]
    fn what_cannot_be_used_is_not_given_out() {
        let refuse =
            |state| tun().allocate(&request(&[&["tun-1"]]), &state).unwrap_err().to_string();
        assert_eq!(refuse(State::Absent), "x.org/tun cannot be given out: /dev/net/tun is absent");
        assert_eq!(refuse(broken()), "x.org/tun cannot be given out: /dev/net/tun is a teapot");
    }

    #[test]
    fn any_slots_do_if_they_hold_those_that_must_be() {
        let prefer = |must: &[&str], size| {
            let own = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect();
            let container = ContainerPreferredAllocationRequest {
                available_ids: own(&["tun-5", "tun-2", "tun-9"]),
                must_include_ids: own(must),
                allocation_size: size,
            };
            let request = PreferredAllocationRequest { container_requests: vec![container] };
            tun().prefer(&request).map(|answer| answer.container_responses[0].ids.clone())
        };
        assert_eq!(prefer(&["tun-9"], 2).unwrap(), ["tun-9", "tun-5"]);
        assert_eq!(prefer(&[], 3).unwrap(), ["tun-5", "tun-2", "tun-9"]);
        assert!(prefer(&[], 0).unwrap().is_empty());
        for (must, size) in [(&[][..], 4), (&["tun-5", "tun-2"], 1)] {
            let sentence = format!("x.org/tun: {size} slots cannot be chosen from 3");
            assert_eq!(prefer(must, size).unwrap_err().to_string(), sentence);
        }
    }
}
