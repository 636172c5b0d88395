//! What `/status` tells, as JSON, and `berth status` prints.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::units;

/// A running machine, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// `running`, `paused`, or `stopping` once its end was asked for.
    pub state: String,
    /// Why it is paused.
    #[serde(default)]
    pub paused: Option<String>,
    /// Of Berth.
    pub version: String,
    /// Seconds since the machine was started.
    pub uptime_s: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory_bytes: u64,
    /// Size of the huge pages that it is on; `null` where it is on none.
    #[serde(default)]
    pub hugepage_bytes: Option<u64>,
    /// What of it the guest was asked to do without; `null` where there is no balloon.
    #[serde(default)]
    pub balloon_target_bytes: Option<u64>,
    /// What of it the guest does without.
    #[serde(default)]
    pub balloon_bytes: Option<u64>,
    /// In the order in which the guest finds them.
    pub disks: Vec<DiskStatus>,
    /// Likewise.
    pub nics: Vec<NicStatus>,
    /// The sockets between host and guest; `null` where there are none.
    #[serde(default)]
    pub vsock: Option<VsockStatus>,
    /// What it has reached on its way up.
    #[serde(default)]
    pub stages: Vec<StageStatus>,
    /// Whether it is ready, by the rule of `--ready`.
    pub ready: bool,
    /// The rule, and if it is not ready, what is missing.
    pub readiness: String,
    /// Who watches the screen; `null` when there is no VNC server.
    pub vnc_viewers: Option<u32>,
    /// Consoles attached through this interface.
    pub consoles: u32,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The serial number that the guest reads.
    pub serial: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether the guest cannot write it.
    pub read_only: bool,
    /// How it is called in logs: its file, for most.
    #[serde(default)]
    pub name: String,
    /// Requests that failed, and of which the guest was told so.
    #[serde(default)]
    pub errors: u64,
    /// Whether it waits for room on the host, and the machine with it.
    #[serde(default)]
    pub waits_for_room: bool,
}

/// A stage of readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStatus {
    /// `console`, `lease`, `tcp`, `cloud-init` or `ready`.
    pub stage: String,
    /// When it was first reached: milliseconds since the machine was started.
    pub after_ms: u64,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicStatus {
    /// Its hardware address.
    pub mac: String,
    /// Its MTU, if it is told.
    pub mtu: Option<u16>,
    /// Addresses that are meant for the guest; none where others give it its addresses.
    pub addresses: Vec<String>,
    /// Those it has asked for and got.
    pub leased: Vec<String>,
}

/// The sockets between host and guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockStatus {
    /// Where programs of the host connect.
    pub path: String,
    /// The guest's context id.
    pub cid: u32,
    /// Connections that are open.
    pub connections: u64,
}

impl Status {
    /// For people: one fact a line.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<10} {value}");
        };
        line("name", self.name.clone());
        let why = self.paused.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        line("state", format!("{}, up for {}{why}", self.state, duration(self.uptime_s)));
        line("ready", format!("{}: {}", if self.ready { "yes" } else { "no" }, self.readiness));
        for StageStatus { stage, after_ms } in &self.stages {
            line(
                "reached",
                format!("{stage} after {}.{} s", after_ms / 1000, after_ms % 1000 / 100),
            );
        }
        line("cpus", self.cpus.to_string());
        let balloon = match (self.balloon_bytes, self.balloon_target_bytes) {
            (None, _) | (Some(0), Some(0)) => String::new(),
            (Some(size), target) => format!(
                ", {} given back of {} asked for",
                units::show(size),
                units::show(target.unwrap_or_default())
            ),
        };
        let pages =
            self.hugepage_bytes.map(|page| format!(" on huge pages of {}", units::show(page)));
        let pages = pages.unwrap_or_default();
        line("memory", format!("{}{pages}{balloon}", units::show(self.memory_bytes)));
        for disk in &self.disks {
            let how = if disk.read_only { ", read-only" } else { "" };
            let size = units::show(disk.size_bytes);
            let wrong = match disk.errors {
                0 => String::new(),
                errors => format!(", {errors} requests failed"),
            };
            let waits = if disk.waits_for_room { ", waits for room on the host" } else { "" };
            line("disk", format!("{size}{how}, serial number {}{wrong}{waits}", disk.serial));
        }
        for nic in &self.nics {
            let mut value = nic.mac.clone();
            for address in &nic.addresses {
                let leased = if nic.leased.contains(address) { " (leased)" } else { "" };
                let _ = write!(value, ", {address}{leased}");
            }
            line("network", value);
        }
        if let Some(VsockStatus { path, cid, connections }) = &self.vsock {
            let s = if *connections == 1 { "" } else { "s" };
            line("vsock", format!("{path}, context id {cid}, {connections} connection{s}"));
        }
        if let Some(viewers) = self.vnc_viewers {
            line("viewers", viewers.to_string());
        }
        line("consoles", self.consoles.to_string());
        line("version", self.version.clone());
        text
    }
}

/// Days, hours, minutes and seconds, without those in front that are none.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let (s, m, h) = (seconds % 60, minutes % 60, hours % 24);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{m} min {s} s"),
        (0, _, _) => format!("{h} h {m} min"),
        _ => format!("{days} d {h} h"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A disk of which nothing is wrong.
    pub fn disk(serial: &str, size_bytes: u64) -> DiskStatus {
        DiskStatus {
            serial: serial.into(),
            size_bytes,
            read_only: false,
            name: format!("/image/{serial}"),
            errors: 0,
            waits_for_room: false,
        }
    }

    /// A machine as it could be.
    pub fn example() -> Status {
        let drive = DiskStatus { read_only: true, ..disk("config-2", 393_216) };
        Status {
            name: "web-1".into(),
            state: "running".into(),
            paused: None,
            version: "0.1.0".into(),
            uptime_s: 3723,
            cpus: 2,
            memory_bytes: 2 << 30,
            hugepage_bytes: None,
            balloon_target_bytes: Some(0),
            balloon_bytes: Some(0),
            disks: vec![disk("root", 10 << 30), drive],
            stages: vec![StageStatus { stage: "console".into(), after_ms: 1279 }],
            nics: vec![NicStatus {
                mac: "52:54:00:12:34:56".into(),
                mtu: Some(1450),
                addresses: vec!["192.168.254.2".into(), "fd00::2".into()],
                leased: vec!["192.168.254.2".into()],
            }],
            vsock: Some(VsockStatus { path: "/run/web-1.vsock".into(), cid: 3, connections: 2 }),
            ready: true,
            readiness: "lease: the guest has 192.168.254.2".into(),
            vnc_viewers: Some(1),
            consoles: 0,
        }
    }

    #[test]
    fn for_people() {
        assert_eq!(
            example().to_text(),
            "name       web-1\n\
             state      running, up for 1 h 2 min\n\
             ready      yes: lease: the guest has 192.168.254.2\n\
             reached    console after 1.2 s\n\
             cpus       2\n\
             memory     2 GiB\n\
             disk       10 GiB, serial number root\n\
             disk       384 KiB, read-only, serial number config-2\n\
             network    52:54:00:12:34:56, 192.168.254.2 (leased), fd00::2\n\
             vsock      /run/web-1.vsock, context id 3, 2 connections\n\
             viewers    1\n\
             consoles   0\n\
             version    0.1.0\n"
        );
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(100_000), "1 d 3 h");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut status = example();
        status.state = "paused".into();
        status.paused = Some("there is no room for /image/root".into());
        (status.disks[0].errors, status.disks[0].waits_for_room) = (3, true);
        (status.balloon_bytes, status.balloon_target_bytes) = (Some(64 << 20), Some(96 << 20));
        let text = status.to_text();
        status.hugepage_bytes = Some(1 << 30);
        assert!(status.to_text().contains("memory     2 GiB on huge pages of 1 GiB, 64 MiB given"));
        for line in [
            "memory     2 GiB, 64 MiB given back of 96 MiB asked for\n",
            "state      paused, up for 1 h 2 min; there is no room for /image/root\n",
            "disk       10 GiB, serial number root, 3 requests failed, waits for room on the host\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn for_programs() {
        let json = serde_json::to_string(&example()).unwrap();
        assert!(json.starts_with(r#"{"name":"web-1","state":"running""#), "{json}");
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), example());
    }
}
