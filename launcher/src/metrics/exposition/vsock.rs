//! Metrics of the sockets between host and guest. Directions are the guest's.

use std::fmt;

use super::{Family, Labels, Page, alone};
use crate::machine::VsockCounts;

const OPEN: Family = Family::new(
    "vsock_connections",
    "Connections between programs of this host and of the guest that are open",
);
const MADE: Family = Family::new(
    "vsock_connections_made",
    "Such connections so far, by who asked for them: guest, host",
);
const REFUSED: Family = Family::new(
    "vsock_connections_refused",
    "Such connections that were asked for and not made: nobody listened, or there were too many",
);
const BYTES: Family = Family::bytes(
    "vsock",
    "Data through these connections, to the guest (receive) and from it (transmit)",
);
const MALFORMED: Family = Family::new(
    "vsock_malformed_packets",
    "What was no packet, or no guest's to send: the guest's driver is wrong",
);

pub(super) fn write(vsock: Option<&VsockCounts>, page: &mut Page<'_>) -> fmt::Result {
    let Some(counts) = vsock else { return Ok(()) };
    let label = |name, value: &str| -> Labels { vec![(name, value.to_owned())] };
    page.gauges(&OPEN, alone(Some(counts.open)))?;
    let made = [("guest", counts.from_guest), ("host", counts.from_host)];
    page.counters(&MADE, made.map(|(by, count)| (label("by", by), count)))?;
    page.counters(&REFUSED, alone(Some(counts.refused)))?;
    let bytes = [("receive", counts.rx_bytes), ("transmit", counts.tx_bytes)];
    page.counters(&BYTES, bytes.map(|(way, count)| (label("direction", way), count)))?;
    page.counters(&MALFORMED, alone(Some(counts.malformed)))
}
