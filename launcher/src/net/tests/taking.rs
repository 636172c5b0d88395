//! What only one can have: published ports, and the lock.

use std::net::{TcpListener, UdpSocket};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::super::{lock, take};
use super::namespace::Namespace;
use crate::config::Publish;

#[test]
fn ports_that_are_in_use_are_refused_by_name() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (port, protocol, tail) in
        [(tcp.local_addr().unwrap().port(), 6, ""), (udp.local_addr().unwrap().port(), 17, "/udp")]
    {
        let publish = Publish { address: None, host: port, guest: 22, protocol };
        let error = take(publish).err().unwrap().to_string();
        let want = format!("--publish {port}:22{tail}: port {port} is in use on this host");
        assert_eq!(error, format!("{want}; give another"));
    }
    let elsewhere =
        Publish { address: Some([192, 0, 2, 99].into()), host: 1, guest: 1, protocol: 17 };
    let error = take(elsewhere).err().unwrap().to_string();
    assert!(error.contains("there is no address 192.0.2.99 on this host"), "{error}");
}

#[test]
fn a_port_that_was_taken_is_anothers_no_more() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let publish = Publish { address: None, host: free, guest: 53, protocol: 17 };
    let taken = take(publish).unwrap();
    assert!(take(publish).is_err());
    drop(taken);
    assert!(take(publish).is_ok());
}

#[test]
fn one_at_a_time_changes_a_network() {
    let Some(namespace) = Namespace::new() else { return };
    let first = namespace.inside(|| lock::take().unwrap());
    let start = Instant::now();
    let pause = Duration::from_millis(50);
    scope(|scope| {
        let second = scope.spawn(|| namespace.inside(|| lock::take().map(|_| start.elapsed())));
        sleep(pause);
        drop(first);
        assert!(second.join().unwrap().unwrap() >= pause);
    });
}
