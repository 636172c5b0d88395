//! What is said between the world and a guest.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Instant;

use berth_tests::{Families, Pod, Report};

use crate::{Inhabited, programs};

/// A mebibyte goes both ways.
const MUCH: usize = 1 << 20;

/// Everything the world may ask of a guest, of each address of its pod. `vnc_is_free`: port 5900
/// is the guest's.
pub fn everything(to: &Inhabited, vnc_is_free: bool) {
    for (address, client) in to.pod.addresses().into_iter().zip(to.pod.clients()) {
        timed("streams", || streams(to, address, client, vnc_is_free));
        timed("datagrams", || datagrams(to, address, client));
        timed("pings", || pings(to, address));
        timed("hops", || hops(to, address));
        timed("sctp", || sctp(to, address));
        timed("a narrow path", || narrow_path(to, address, client));
    }
}

/// Says how long a part has taken: these tests are the longest there are.
pub fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = act();
    println!("{:8.1} s  {what}", start.elapsed().as_secs_f32());
    result
}

fn streams(to: &Inhabited, address: IpAddr, client: IpAddr, vnc_is_free: bool) {
    let outside = &to.pod.client;
    let seen = timed("ssh", || programs::ssh(outside, to.keys.path(), address, 22));
    assert_eq!(seen, client, "who logs in");
    for port in [80, 40000] {
        assert_eq!(programs::http(outside, address, port), client, "who comes to port {port}");
    }
    timed("sixty pages", || programs::many_pages(outside, address, 80, 60));
    if vnc_is_free {
        let guest = outside.tcp(address, 5900);
        assert_eq!(peer(&guest.expect("the guest has port 5900")), client);
    } else {
        let berth = outside.first_bytes(address, 5900, 12);
        assert_eq!(berth.expect("the screen is served"), b"RFB 003.008\n");
    }
    let whole = |what: std::io::Result<bool>, name| {
        assert!(what.unwrap_or_else(|e| complain(to, name, address, &e)), "{name} of {address}");
    };
    timed("fifty connections", || whole(outside.tcp_echoes(address, 7, 50), "fifty connections"));
    timed("much", || whole(outside.tcp_echo(address, 7, MUCH), "a large transfer"));
}

fn datagrams(to: &Inhabited, address: IpAddr, client: IpAddr) {
    let outside = &to.pod.client;
    let seen = outside.udp(address, 80, 1).unwrap_or_else(|e| complain(to, "udp", address, &e));
    assert_eq!(peer(&String::from_utf8_lossy(&seen)), client, "who comes by UDP");
    // One frame; several fragments.
    for length in [100, 8192] {
        let same = outside.udp_echo(address, 7, length);
        assert!(same.unwrap_or_else(|e| complain(to, "udp echo", address, &e)), "{length} bytes");
    }
    // The guest itself says that nobody is there.
    let closed = outside.udp(address, 9999, 1).map_err(|error| error.kind());
    assert_eq!(closed, Err(ErrorKind::ConnectionRefused), "a closed port of {address}");
}

fn pings(to: &Inhabited, address: IpAddr) {
    for size in [56, 4000] {
        // IPv6 may lose the first one to the path MTU.
        to.pod.client.run(&format!("ping -c 3 -i 0.3 -W 30 -s {size} {address}"));
    }
}

/// The node is the first hop; where it translates, the pod is the second.
fn hops(to: &Inhabited, address: IpAddr) {
    let node = if address.is_ipv4() { "10.91.0.1" } else { "fd91::1" };
    let node = node.parse().expect("an address");
    let way = match to.mode {
        "direct" => vec![node, address],
        _ => vec![node, address, address],
    };
    for method in ["--udp", "--icmp", "--tcp -p 80"] {
        let found = programs::traceroute(&to.pod.client, address, method);
        assert_eq!(found, way, "traceroute {method} {address}");
    }
}

fn sctp(to: &Inhabited, address: IpAddr) {
    let place = match address {
        IpAddr::V4(address) => format!("SCTP4-CONNECT:{address}:7"),
        IpAddr::V6(address) => format!("SCTP6-CONNECT:[{address}]:8"),
    };
    let mut socat = to
        .pod
        .client
        .command("socat")
        .args(["-t", "30", "-T", "60", "-", &place])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("socat is installed");
    // SCTP has no half-closed connections: the answer comes before the end.
    let mut input = socat.stdin.take().expect("a pipe");
    input.write_all(b"by sctp\n").expect("socat reads");
    let mut said = String::new();
    let output = BufReader::new(socat.stdout.take().expect("a pipe")).read_line(&mut said);
    drop(input);
    // By itself it would wait for the other end to close, which SCTP's does not.
    let _ = socat.kill();
    let ended = socat.wait_with_output().expect("socat ends");
    output.expect("socat writes text");
    assert_eq!(said, "by sctp\n", "{address}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// The path becomes narrower beyond the node: it says so to whoever sends, which is the guest.
/// (Forwarding heeds the MTU of an IPv6 route only if that is locked.)
fn narrow_path(to: &Inhabited, address: IpAddr, client: IpAddr) {
    let route = format!("{client} dev client0 mtu lock 1400");
    to.pod.router.ip(&format!("route add {route}"));
    let whole = to.pod.client.tcp_echo(address, 7, MUCH);
    assert!(whole.unwrap_or_else(|e| complain(to, "a narrow path", address, &e)));
    to.pod.router.ip(&format!("route delete {route}"));
}

/// What the guest reports of its own way out and back.
pub fn spoke(report: &Report, mode: &str, families: Families) {
    let both = |v4: &str, v6: &str| {
        let v4 = families.v4().then(|| v4.to_owned());
        v4.into_iter().chain(families.v6().then(|| v6.to_owned())).collect::<Vec<_>>()
    };
    let own = both(&Pod::V4.to_string(), &Pod::V6.to_string());
    let clients = both(&Pod::CLIENT_V4.to_string(), &Pod::CLIENT_V6.to_string());
    let pings: Vec<String> = clients.iter().flat_map(|c| [c.clone(), format!("big {c}")]).collect();
    assert_eq!(report.values("pings"), pings, "{report}");
    // Of these the client says who came.
    assert_eq!(report.values("tcp"), own, "{report}");
    assert_eq!(report.values("udp"), own, "{report}");
    for said in report.values("closed") {
        assert!(said.ends_with("Connection refused"), "{report}");
    }
    if mode == "nat" {
        return;
    }
    // A guest that has the pod's address speaks to itself; else its router stands between.
    let itself = match mode {
        "direct" => own.clone(),
        _ => both("192.168.254.1", "fd62:6572:7468::1"),
    };
    for protocol in ["tcp", "udp"] {
        let seen: Vec<String> = report
            .values(&format!("self {protocol}"))
            .iter()
            .map(|said| peer(said).to_string())
            .collect();
        assert_eq!(seen, itself, "{report}");
    }
    assert_eq!(report.values("self echo").len(), own.len(), "{report}");
    if families.v4() {
        // The name server and the search list are those of the pod.
        assert_eq!(report.value("named"), own[0], "{report}");
    }
}

/// An address as socat writes it.
pub fn peer(said: &str) -> IpAddr {
    let text = said.trim().trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = text.parse().unwrap_or_else(|_| panic!("{said:?} is no address"));
    address.to_canonical()
}

fn complain(to: &Inhabited, what: &str, address: IpAddr, error: &std::io::Error) -> ! {
    panic!("{}", to.machine.describe(&format!("{what} of {address}: {error}")));
}
