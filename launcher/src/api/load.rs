//! A thousand probes over TCP: each is answered, and few threads are there for them at any time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::origin::Origin;
use super::serve;
use super::tests::room;
use crate::server::gate::{Gate, HTTP};
use crate::server::{Caller, Server, Services};

const REQUESTS: usize = 1000;
const CLIENTS: usize = 4;

/// Connections that are served now, and the most there were.
#[derive(Default)]
struct Load {
    now: AtomicUsize,
    most: AtomicUsize,
}

fn server() -> (Server, SocketAddr, Arc<Load>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let load = Arc::<Load>::default();
    let (room, count) = (room(true), Arc::clone(&load));
    let http = Box::new(move |caller: Caller| {
        let now = count.now.fetch_add(1, Ordering::SeqCst) + 1;
        count.most.fetch_max(now, Ordering::SeqCst);
        let Caller { stream, first, from, .. } = caller;
        serve(stream, first, Origin::Network(from), &room.api);
        count.now.fetch_sub(1, Ordering::SeqCst);
    });
    let rfb = Box::new(|_: Caller| panic!("nobody speaks RFB"));
    let services = Services { rfb, http, certificate: None };
    (Server::start(vec![listener], services, Gate::new(Instant::now())).unwrap(), address, load)
}

/// Asks `count` times over one connection; the last says that it is.
fn ask(address: SocketAddr, count: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    for number in 1..=count {
        let close = if number == count { "Connection: close\r\n" } else { "" };
        let request = format!("GET /healthz HTTP/1.1\r\nHost: kubelet\r\n{close}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\nok\n") {
            assert_eq!(
                stream.read(&mut byte).unwrap(),
                1,
                "{:?}",
                String::from_utf8_lossy(&answer)
            );
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_thousand_probes_are_answered_by_few_threads() {
    // Kubelet makes a connection for each; others keep theirs.
    for each in [1, 125] {
        let (server, address, load) = server();
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    for _ in 0..REQUESTS / CLIENTS / each {
                        ask(address, each);
                    }
                });
            }
        });
        let most = load.most.load(Ordering::SeqCst);
        assert!((1..=HTTP).contains(&most), "{most} at once");
        drop(server);
        assert_eq!(load.now.load(Ordering::SeqCst), 0, "every thread has ended");
    }
}
