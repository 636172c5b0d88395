//! Networks of other places, judged.

use std::io;

use super::super::finding::Level::{self, Error, Fine, Warning};
use super::*;
use crate::config::{Publish, Subnet};
use crate::net::netlink::link::{Address, Link, Route};

/// A pod with one interface.
fn pod() -> Facts {
    let mac = Some([0x0a, 0x58, 0x0a, 0xf4, 2, 7]);
    let (name, accept_ra) = ("eth0".to_owned(), Some(1));
    let address = Address { link: 2, address: [10, 244, 2, 7].into(), prefix: 24, primary: true };
    let route = Route {
        destination: None,
        ipv6: false,
        gateway: Some([10, 244, 2, 1].into()),
        link: 2,
        metric: 0,
        mtu: None,
        advertised: false,
    };
    Facts {
        links: vec![Link {
            index: 2,
            name,
            mac,
            mtu: 1450,
            up: true,
            accept_ra,
            ..Link::default()
        }],
        addresses: vec![address],
        routes: vec![route],
        ipv6_forwarding: Ipv6Forwarding::Fixed,
        ..Facts::default()
    }
}

fn network(facts: Facts) -> Network {
    Network {
        privileged: Some(true),
        tun: Ok(()),
        vhost: Ok(()),
        facts: Ok((facts, Ok(()))),
        ports: vec![],
    }
}

fn request(mode: Mode, mtu: Option<u16>) -> Request {
    Request {
        name: "vm".into(),
        mode,
        mac: UNKNOWN_MAC,
        mtu,
        cpus: 1,
        subnet: Some(Subnet::default()).filter(|_| mode == Mode::Pod),
        publish: vec![],
        dhcp: true,
        vnc: true,
    }
}

fn judged(network: &Network, request: &Request) -> Outlook {
    let mut outlook = Outlook { findings: vec![], plan: vec![] };
    network.plan(request, Place::Container, &mut outlook);
    outlook
}

fn found(outlook: &Outlook) -> Vec<(&str, Level)> {
    outlook.findings.iter().map(|finding| (finding.subject, finding.level)).collect()
}

#[test]
fn a_pod_as_it_should_be_shows_its_plan() {
    let outlook = judged(&network(pod()), &request(Mode::Pod, None));
    let want = [("network", Fine), ("mtu", Fine), ("nftables", Fine), ("forwarding", Fine)];
    assert_eq!(found(&outlook), want);
    assert_eq!(outlook.findings[1].text, "1450; 1450 fit through eth0");
    assert!(outlook.findings[3].text.contains("forward IPv4 that comes in by eth0"));
    assert!(outlook.plan[0].starts_with("guest 52:54:00:00:00:00 mtu 1450"), "{:?}", outlook.plan);
    assert!(outlook.plan.iter().any(|step| step == "bring berth0 up"), "{:?}", outlook.plan);

    let outlook = judged(&network(pod()), &request(Mode::Direct, None));
    assert_eq!(found(&outlook), [("network", Fine), ("mtu", Fine)]);
}

#[test]
fn each_trouble_is_found() {
    let wide = judged(&network(pod()), &request(Mode::Direct, Some(9000)));
    assert_eq!(found(&wide)[1], ("mtu", Warning));

    let refused = || Refused::from(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    let without = |privileged| Network {
        privileged: Some(privileged),
        facts: Ok((pod(), Err(refused()))),
        ..network(pod())
    };
    let outlook = judged(&without(true), &request(Mode::Pod, None));
    assert_eq!(found(&outlook)[2], ("nftables", Error));
    let outlook = judged(&without(false), &request(Mode::Pod, None));
    assert_eq!(found(&outlook)[2], ("nftables", Fine));

    let empty = judged(&network(Facts::default()), &request(Mode::Pod, None));
    assert_eq!(found(&empty), [("network", Error)]);
    assert_eq!(empty.plan, [""; 0]);

    let publish = Publish { address: None, host: 2222, guest: 22, protocol: 6 };
    let source = io::ErrorKind::AddrInUse.into();
    let problem = "port 2222 is in use".to_owned();
    let busy = NetError::Publish { publish, problem, source };
    let outlook =
        judged(&Network { ports: vec![busy], ..network(pod()) }, &request(Mode::Nat, None));
    assert_eq!(found(&outlook)[0], ("network", Error));
    assert!(outlook.findings[0].text.starts_with("--publish 2222:22: port 2222 is in use"));
}

#[test]
fn what_ipv6_needs_of_a_pod_is_said_as_it_has_to_be_written() {
    let six = Address { link: 2, address: "fd00::7".parse().unwrap(), prefix: 64, primary: true };
    let yaml = "securityContext: {sysctls: [{name: net.ipv6.conf.all.forwarding, value: \"1\"}]}";
    let mut dual = pod();
    dual.addresses.push(six);
    let outlook = judged(&network(dual), &request(Mode::Pod, None));
    let last = outlook.findings.last().unwrap();
    assert_eq!((last.level, last.remedy.as_deref()), (Warning, Some(yaml)));

    let alone = Facts { addresses: vec![six], ..pod() };
    let outlook = judged(&network(alone), &request(Mode::Pod, None));
    let last = outlook.findings.last().unwrap();
    assert_eq!((last.level, last.remedy.as_deref()), (Error, Some(yaml)));
}

#[test]
fn capabilities_are_asked_for_as_yaml() {
    let without = Network { privileged: Some(false), ..network(pod()) };
    let finding = without.capability(Place::Container);
    assert_eq!(finding.level, Error);
    assert_eq!(finding.remedy.unwrap(), "securityContext: {capabilities: {add: [NET_ADMIN]}}");
    assert_eq!(network(pod()).capability(Place::Host).level, Fine);
}
