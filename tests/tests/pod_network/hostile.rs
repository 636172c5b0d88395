//! A guest that says what it may not: others' addresses, floods, nonsense. Nothing of it leaves its
//! tap, and Berth goes on serving it.

use std::fs;

use berth_tests::{Families, Namespace, Pod, Shape, SmallGuest, VirtualMachine, scratch};

/// Sent by raw frames and datagrams; what is honest comes last, so that the client has seen
/// everything before it. 203.0.113.66 and the MAC with 66s are nobody's here, and what is sent from
/// that MAC is known by its length.
const JOB: &str = r#"
tools || exit 3
for n in /sys/class/net/*; do n=${n##*/}; [ $n = lo ] || nic=$n; done
ip link set $nic up
ip address add 10.244.7.9/24 dev $nic
ip route add default via 10.244.7.1
ping -c 1 -W 30 10.91.0.2 >/tmp/said || { cat /tmp/said; exit 4; }

# Another's network address.
ip address add 203.0.113.66/32 dev $nic
for i in 1 2 3; do echo spoofed | socat -u - UDP:10.91.0.2:9000,bind=203.0.113.66; done
# A DHCP server's answer, and questions without sense: a flood of four thousand.
for i in 1 2 3; do echo offer | socat -u - UDP:10.91.0.2:68,bind=10.244.7.9:67; done
head -c 1200000 /dev/urandom >/tmp/junk
socat -u -b 300 FILE:/tmp/junk UDP-DATAGRAM:255.255.255.255:67,broadcast,bind=0.0.0.0:68
# Neighbour discovery without sense, as frames of its own making: a redirect, an advertisement.
mac=$(cat /sys/class/net/$nic/address | sed 's/:/\\x/g')
frame() { printf "\\x33\\x33\\x00\\x00\\x00\\x01\\x$mac\\x86\\xdd\\x60\\x00\\x00\\x00\\x00\\x18\\x3a\\xff\\xfe\\x80$1\\x02\\xff\\x02$1\\x01\\x$2\\x00\\x00\\x00$1$1"; }
zeroes='\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00'
for kind in 86 89; do frame "$zeroes" $kind | socat -u - INTERFACE:$nic; done
# Another's hardware address.
own=$(cat /sys/class/net/$nic/address)
ip link set $nic down
ip link set $nic address 52:54:00:66:66:66
ip link set $nic up
ip route add default via 10.244.7.1
ping -c 2 -W 2 -s 77 10.91.0.2 >/tmp/said && echo "@@ another was heard"
ip link set $nic down
ip link set $nic address $own
ip link set $nic up
ip route add default via 10.244.7.1

# It is served all the same, and heard.
echo "@@ asked"
udhcpc -i $nic -f -q -n -t 20 -T 3 -s /bin/true && echo "@@ leased"
ping -c 1 -W 30 10.91.0.2 >/tmp/said && echo "@@ heard"
"#;

/// Memory of a process's own, in KiB.
fn resident(machine: &VirtualMachine) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", machine.pid())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
#[ignore = "needs KVM: tests/run e2e"]
fn what_a_guest_may_not_say_stays_inside() {
    let pod = Pod::new(Shape::Bridge, Families::Dual, 1500);
    let seen = "table inet watch {
        counter others { }
        counter pings { }
        counter forged { }
        chain in { type filter hook prerouting priority -300; policy accept;
            ip saddr 203.0.113.66 counter name others
            udp sport 67 counter name others
            udp dport 67 counter name others
            icmp type echo-request ip length 105 counter name forged
            ip saddr 10.244.7.9 icmp type echo-request ip length != 105 counter name pings
        }
    }";
    let directory = scratch();
    let rules = directory.path().join("watch");
    fs::write(&rules, seen).expect("the directory is writable");
    // The client, and what the pod's neighbours on the node would hear.
    for place in [&pod.client, &pod.router] {
        place.run(&format!("nft -f {}", rules.display()));
    }
    let guest = SmallGuest::running(JOB).with_tools().flag("--net", "direct");
    let (_directory, mut machine) = guest.start_inside(&pod.pod);
    machine.wait_for("@@ asked");
    let kib = resident(&machine);
    // The guest has 256 MiB of it.
    assert!(kib < 320 << 10, "{kib} KiB after the flood");
    let report = machine.wait_for_exit();
    report.expect_success();
    assert!(!report.console.contains("@@ another was heard"), "{report}");
    for said in ["@@ leased", "@@ heard"] {
        assert!(report.console.contains(said), "{said}: {report}");
    }
    let count = |place: &Namespace, name: &str| -> u64 {
        let said = place.run(&format!("nft list counter inet watch {name}"));
        let words: Vec<&str> = said.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").expect("a count");
        words[at + 1].parse().expect("a number")
    };
    let learnt = pod.router.run("bridge fdb show br cni0");
    assert!(!learnt.contains("52:54:00:66:66:66"), "{learnt}");
    for (place, what) in [(&pod.client, "others"), (&pod.router, "others"), (&pod.client, "forged")]
    {
        assert_eq!(count(place, what), 0, "{what}: what is spoofed has left the pod: {report}");
    }
    assert!(count(&pod.client, "pings") >= 2, "what is honest arrives: {report}");
    let log = |part: &str| {
        let found = report.log.lines().find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("nobody says {part}: {report}")).to_owned()
    };
    assert!(log("the guest's interface: ").contains("refused by the fence"), "{report}");
    println!("{}\n{}", log("the guest's interface: "), log("the guest's configuration: "));
    // Told in numbers, not in lines.
    assert!(log("the guest's configuration: ").contains(" malformed"), "{report}");
    assert!(report.log.lines().count() < 60, "{report}");
}
