//! `--net direct` done: a pod as the bridge plug-in makes it, dual stack, whose guest has its
//! addresses.

use super::super::plan::Mode;
use super::namespace::Namespace;
use super::native::{
    Guest, assert_restored, assert_same, has_flower, kill, prepare, request, undo,
};

const POD: [&str; 2] = ["10.244.2.7", "fd00:244:2::7"];
const CLIENT: [&str; 2] = ["10.9.9.9", "fd00:9::9"];

fn pod() -> Option<(Namespace, Namespace)> {
    let (pod, client) = (Namespace::new()?, Namespace::new()?);
    pod.join("eth0", &client, "cni0");
    for address in ["10.244.2.1/24", "fd00:244:2::1/64 nodad", "fe80::ee/64 nodad"] {
        client.ip(&format!("address add {address} dev cni0"));
    }
    for (address, length) in CLIENT.iter().zip(["/32 dev lo", "/128 dev lo nodad"]) {
        client.ip(&format!("address add {address}{length}"));
    }
    for address in ["10.244.2.7/24", "fd00:244:2::7/64 nodad", "fe80::7/64 nodad"] {
        pod.ip(&format!("address add {address} dev eth0"));
    }
    pod.ip("route add default via 10.244.2.1");
    pod.ip("route add default via fd00:244:2::1");
    client.serve("client", 53);
    pod.serve("pod", 5900);
    pod.serve("pod", 8080);
    pod.settle();
    Some((pod, client))
}

#[test]
fn the_guest_has_the_pods_addresses() {
    let Some((pod, client)) = pod() else { return };
    if !has_flower() {
        return;
    }
    let before = pod.state();
    let (plan, applied) = prepare(&pod, &request(Mode::Direct), true).unwrap();
    let gateway = plan.guest.v6.as_ref().and_then(|v6| v6.router_mac).unwrap();
    let guest = Guest::new(&plan, &applied);
    // Instead of the service, which answers for it.
    let gateway = crate::config::show_mac(gateway);
    guest.stack.ip(&format!("neighbour add fe80::be47:1 lladdr {gateway} dev eth0"));
    guest.stack.serve("guest", 80);
    guest.stack.serve("guest", 5900);
    guest.stack.serve("guest", 8080);
    for (own, other) in POD.iter().zip(CLIENT) {
        // Nobody translates, so the client's address is the one on its own side of the link.
        let source = if own.contains(':') { "fd00:244:2::1" } else { "10.244.2.1" };
        assert_eq!(client.tcp(own, 80), format!("guest {source}"));
        assert_eq!(client.udp(own, 80), format!("guest {source}"));
        assert_eq!(client.tcp(own, 8080), format!("guest {source}"));
        assert_eq!(client.tcp(own, 5900), format!("pod {source}"));
        assert_eq!(client.udp(own, 5900), format!("guest {source}"));
        client.run(&format!("ping -n -c 1 -W 3 -s 4000 {own}"));
        assert_eq!(guest.stack.tcp(other, 53), format!("client {own}"));
        assert_eq!(guest.stack.udp(other, 53), format!("client {own}"));
        guest.stack.run(&format!("ping -n -c 1 -W 3 -s 4000 {other}"));
    }
    // With an address that is not its own a guest reaches nobody.
    guest.stack.ip("address add 10.244.2.99/24 dev eth0");
    assert!(!guest.stack.try_run("ping -n -c 1 -W 1 -I 10.244.2.99 10.244.2.1").0);
    drop(guest);
    undo(&pod, applied);
    assert_restored(&pod, &before);
}

#[test]
fn filters_that_were_left_behind_are_replaced_and_those_of_others_stay() {
    let Some((pod, _client)) = pod() else { return };
    if !has_flower() {
        return;
    }
    let shown = |pod: &Namespace| pod.run("tc filter show dev eth0 ingress");
    let before = pod.state();
    let (_, first) = prepare(&pod, &request(Mode::Direct), true).unwrap();
    let count = shown(&pod).matches("handle 0x").count();
    kill(&pod, first);
    let (_, second) = prepare(&pod, &request(Mode::Direct), true).unwrap();
    assert_eq!(shown(&pod).matches("handle 0x").count(), count);
    undo(&pod, second);
    assert_restored(&pod, &before);

    pod.run("tc qdisc add dev eth0 clsact");
    pod.run("tc filter add dev eth0 ingress pref 7 protocol arp flower action ok");
    let before = (pod.state(), shown(&pod));
    let (_, third) = prepare(&pod, &request(Mode::Direct), true).unwrap();
    undo(&pod, third);
    assert_restored(&pod, &before.0);
    assert_same(&shown(&pod), &before.1);
}
