//! What people's own programs say to a guest: ssh, curl and traceroute.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use berth_tests::Namespace;

use crate::talk;

/// The guest's page, in bytes.
pub const PAGE: usize = 4000;

/// Makes a pair of keys, `directory`/key; the public one, as a line.
pub fn make_key(directory: &Path) -> String {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(directory.join("key"))
        .output()
        .expect("ssh-keygen is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let public = std::fs::read_to_string(directory.join("key.pub"));
    public.expect("it has been made").trim().to_owned()
}

/// Logs in as root; the address that the guest sees the client come from.
pub fn ssh(from: &Namespace, key: &Path, address: IpAddr, port: u16) -> IpAddr {
    // What the guest says has to be computed there.
    let said = from.run(&format!(
        "ssh -F none -i {} -o BatchMode=yes -o StrictHostKeyChecking=no -o ConnectTimeout=60 \
         -o UserKnownHostsFile=/dev/null -o HostKeyAlgorithms=ssh-ed25519 -o LogLevel=ERROR \
         -p {port} root@{address} echo $((6*7)) $(hostname) $SSH_CONNECTION",
        key.join("key").display()
    ));
    let words: Vec<&str> = said.split_whitespace().collect();
    let [answer, name, peer, ..] = words.as_slice() else { panic!("ssh said {said:?}") };
    assert_eq!((*answer, *name), ("42", "small-guest"), "{said}");
    talk::peer(peer)
}

/// Asks a web server who comes to it.
pub fn http(from: &Namespace, address: IpAddr, port: u16) -> IpAddr {
    talk::peer(&from.run(&format!("curl -sS -m 60 -f {}/cgi-bin/peer", url(address, port))))
}

/// Fetches a page again and again, up to thirty at the same time, a connection for each.
pub fn many_pages(from: &Namespace, address: IpAddr, port: u16, count: usize) {
    let said = from.run(&format!(
        "curl -sS -m 300 -Z --parallel-max 30 -o /dev/null \
         -w %{{http_code}}:%{{num_connects}}:%{{size_download}}\\n {}/page?[1-{count}]",
        url(address, port)
    ));
    let whole = format!("200:1:{PAGE}");
    assert_eq!(said.lines().filter(|line| *line == whole).count(), count, "{said}");
}

/// The routers on the way to `address`, and that itself; `method` as traceroute's flags have it.
pub fn traceroute(from: &Namespace, address: IpAddr, method: &str) -> Vec<IpAddr> {
    let said = from.run(&format!("traceroute -n -q 1 -N 1 -w 20 -m 6 {method} {address}"));
    // The first line is a heading.
    let hops = said.lines().skip(1).map(|line| {
        let hop = line.split_whitespace().nth(1);
        hop.and_then(|hop| hop.parse().ok()).unwrap_or_else(|| panic!("traceroute said {said}"))
    });
    hops.collect()
}

fn url(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(address) => format!("http://{address}:{port}"),
        IpAddr::V6(address) => format!("http://[{address}]:{port}"),
    }
}
