//! Metrics of network interfaces, told apart by their hardware addresses. Directions are the guest's.

use std::fmt;
use std::time::Duration;

use super::super::{Nic, Told};
use super::{Family, Labels, Page};
use crate::nic::Traffic;

const FRAMES: Family = Family::new(
    "network_frames",
    "Ethernet frames to the guest (receive) and from it (transmit), whoever carried them; one that is \
     left unsegmented counts once",
);
const BYTES: Family = Family::bytes("network", "Bytes of these frames, with Ethernet headers");
const DROPPED: Family = Family::new(
    "network_dropped_frames",
    "Frames lost for want of room, or malformed; not among berth_network_frames",
);
const REFUSED: Family = Family::new(
    "network_refused_frames",
    "Frames from the guest that were not for it to send, such as with other addresses than its own",
);
const LEASE: Family = Family::new(
    "dhcp_lease",
    "1 if the guest has taken the address meant for it, by family (ipv4, ipv6); absent where others \
     give it its address",
);
const ACKNOWLEDGED: Family = Family::seconds(
    "dhcp_lease_acknowledged_timestamp",
    "When that address was acknowledged last, since the beginning of 1970; absent without a lease",
);
const TOLD: Family = Family::new(
    "dhcp_frames",
    "Frames by which the guest is told of its network: DHCP, DHCPv6, router and neighbour discovery; \
     and those that were dropped: malformed, foreign, unanswered, unsent",
);

pub(super) fn write(nics: &[Nic], started_at: Duration, page: &mut Page<'_>) -> fmt::Result {
    let counted = || nics.iter().filter_map(|nic| Some((label(nic), nic.counters.as_ref()?)));
    let directions = |of: fn(&Traffic) -> u64| {
        counted().flat_map(move |(labels, counters)| {
            [("receive", &counters.rx), ("transmit", &counters.tx)].map(|(direction, traffic)| {
                ([labels.clone(), vec![("direction", direction.to_owned())]].concat(), of(traffic))
            })
        })
    };
    page.counters(&FRAMES, directions(|traffic| traffic.frames))?;
    page.counters(&BYTES, directions(|traffic| traffic.bytes))?;
    page.counters(&DROPPED, directions(|traffic| traffic.dropped))?;
    page.counters(&REFUSED, counted().map(|(labels, counters)| (labels, counters.tx_refused)))?;

    let told = || nics.iter().filter_map(|nic| Some((label(nic), nic.told.as_ref()?)));
    let leases = || {
        told().flat_map(|(labels, Told { lease_v4, lease_v6, .. })| {
            [("ipv4", *lease_v4), ("ipv6", *lease_v6)].map(|(family, lease)| {
                ([labels.clone(), vec![("family", family.to_owned())]].concat(), lease)
            })
        })
    };
    page.gauges(&LEASE, leases().map(|(labels, lease)| (labels, u32::from(lease.is_some()))))?;
    page.gauges(
        &ACKNOWLEDGED,
        leases().filter_map(|(labels, lease)| {
            Some((labels, started_at.checked_add(lease?)?.as_secs_f64()))
        }),
    )?;
    page.counters(
        &TOLD,
        told().flat_map(|(labels, told)| {
            told.frames.iter().map(move |(kind, count)| {
                let kind = kind.to_lowercase().replace(' ', "_");
                ([labels.clone(), vec![("kind", kind)]].concat(), *count)
            })
        }),
    )
}

fn label(nic: &Nic) -> Labels {
    vec![("mac", nic.mac.clone())]
}
