//! `--net nat` done: a host with two guests, in a network of its own.

use super::super::plan::{Mode, Names, Plan, Request};
use super::namespace::Namespace;
use super::native::{
    Guest, assert_restored, assert_same, has_flower, kill, planned, prepare, request, ruleset, undo,
};
use crate::config::Publish;

/// A host in a network of its own, with a table of its own, and that network's router.
fn host() -> Option<(Namespace, Namespace)> {
    let (host, lan) = (Namespace::new()?, Namespace::new()?);
    host.join("eth0", &lan, "port0");
    host.ip("address add 10.0.5.2/24 dev eth0");
    lan.ip("address add 10.0.5.1/24 dev port0");
    host.ip("route add default via 10.0.5.1");
    // The first choice of a guest's addresses is taken.
    host.ip("route add 192.168.254.0/29 via 10.0.5.1");
    host.run("nft add table inet others");
    lan.serve("lan", 53);
    host.serve("host", 8080);
    host.settle();
    Some((host, lan))
}

#[test]
fn a_host_masquerades_its_guests_and_leads_ports_to_them() {
    let Some((host, lan)) = host() else { return };
    let flower = has_flower();
    let before = host.state();
    let publish = |host, guest, protocol| Publish { address: None, host, guest, protocol };
    let a = Request {
        name: "a".into(),
        publish: vec![publish(2222, 22, 6), publish(5353, 53, 17)],
        ..request(Mode::Nat)
    };
    let address = Some([10, 0, 5, 2].into());
    let b = Request {
        name: "b".into(),
        publish: vec![Publish { address, ..publish(2223, 22, 6) }],
        ..request(Mode::Nat)
    };
    let (plan_a, done_a) = prepare(&host, &a, flower).unwrap();
    let (plan_b, done_b) = prepare(&host, &b, flower).unwrap();
    let told = |plan: &Plan| plan.guest.v4.as_ref().unwrap().address.to_string();
    assert_eq!((told(&plan_a), told(&plan_b)), ("192.168.254.10".into(), "192.168.254.14".into()));
    let rules = [vec!["table inet others".to_owned()], planned(&plan_a), planned(&plan_b)].concat();
    assert_same(&ruleset(&host).join("\n"), &rules.join("\n"));
    assert!(prepare(&host, &a, flower).err().unwrap().contains("of this name"));

    let (guest_a, guest_b) = (Guest::new(&plan_a, &done_a), Guest::new(&plan_b, &done_b));
    for (guest, word) in [(&guest_a, "a"), (&guest_b, "b")] {
        guest.stack.serve(word, 22);
        guest.stack.serve(word, 53);
        assert_eq!(guest.stack.tcp("10.0.5.1", 53), "lan 10.0.5.2");
        guest.stack.run("ping -n -c 1 -W 3 -s 4000 10.0.5.1");
    }
    assert_eq!(lan.tcp("10.0.5.2", 2222), "a 10.0.5.1");
    assert_eq!(lan.udp("10.0.5.2", 5353), "a 10.0.5.1");
    assert_eq!(lan.tcp("10.0.5.2", 2223), "b 10.0.5.1");
    assert_eq!(lan.tcp("10.0.5.2", 8080), "host 10.0.5.1");
    // The host itself, by any of its addresses, unless one was named.
    assert_eq!(host.tcp("10.0.5.2", 2222), "a 10.0.5.2");
    assert_eq!(host.tcp("127.0.0.1", 2222), "a 192.168.254.9");
    assert_eq!(host.udp("127.0.0.1", 5353), "a 192.168.254.9");
    assert!(host.tcp("127.0.0.1", 2223).contains("refused"));
    // What is not published is nobody's.
    lan.ip("route add 192.168.254.8/29 via 10.0.5.2");
    assert_eq!(lan.tcp("192.168.254.10", 22), "nobody");
    assert_eq!(guest_a.stack.tcp("192.168.254.14", 22), "nobody");
    // Guests reach each other, and themselves, as anybody on the host does.
    assert_eq!(guest_b.stack.tcp("10.0.5.2", 2222), "a 192.168.254.9");
    assert_eq!(guest_a.stack.tcp("10.0.5.2", 2222), "a 192.168.254.9");
    assert_eq!(guest_a.stack.tcp("10.0.5.2", 8080), "host 192.168.254.10");

    drop(guest_a);
    undo(&host, done_a);
    assert_eq!(lan.tcp("10.0.5.2", 2223), "b 10.0.5.1");
    drop(guest_b);
    undo(&host, done_b);
    assert_restored(&host, &before);
}

#[test]
fn a_host_finds_what_a_killed_run_left_behind() {
    let Some((host, _lan)) = host() else { return };
    let flower = has_flower();
    let before = host.state();
    let (_, first) = prepare(&host, &request(Mode::Nat), flower).unwrap();
    let rules = ruleset(&host);
    kill(&host, first);
    assert!(host.run("nft list tables").contains(&Names::new(Mode::Nat, "vm").table));
    let (_, second) = prepare(&host, &request(Mode::Nat), flower).unwrap();
    assert_eq!(ruleset(&host), rules);
    undo(&host, second);
    assert_restored(&host, &before);
}
