//! Connections of every kind, by TCP on this host.

use std::io::{Read, Write};
use std::net::SocketAddr;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A server that says which service a connection came to, and what it had said.
fn server(certificate: Option<Arc<Certificate>>) -> (Server, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = |name: &'static str| -> Service {
        Box::new(move |mut caller: Caller| {
            let first = String::from_utf8_lossy(&caller.first).into_owned();
            let text = format!("{name} {} {} {first:?}\n", caller.from, caller.private);
            caller.stream.write_all(text.as_bytes()).unwrap();
            caller.stream.flush().unwrap();
            wait_readable([Some(caller.stream.fd()), Some(caller.stop.as_fd())], None).unwrap();
        })
    };
    let services = Services { rfb: service("rfb"), http: service("http"), certificate };
    (Server::start(vec![listener], services, Gate::new(Instant::now())).unwrap(), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => line.extend(byte),
            _ => break,
        }
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn one_port_for_all() {
    let (_server, address) = server(None);
    for (says, want) in [
        (&b""[..], "rfb 127.0.0.1 false \"\"\n"),
        (b"RFB 003.008\n", "rfb 127.0.0.1 false \"RFB 003.008\\n\"\n"),
        (b"GET / HTTP/1.1\r\n", "http 127.0.0.1 false \"GET / HTTP/1.1\\r\\n\"\n"),
        (b"\x16\x03\x01", ""),
    ] {
        let mut stream = connect(address);
        stream.write_all(says).unwrap();
        assert_eq!(line(&mut stream), want);
    }
}

/// A browser connects before it knows what to ask, and asks when it has read what came.
#[test]
fn a_connection_made_ahead_is_not_greeted() {
    let (_server, address) = server(None);
    let mut first = connect(address);
    first.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(line(&mut first).starts_with("http"));
    let mut second = connect(address);
    std::thread::sleep(SILENCE * 3);
    second.write_all(b"GET /berth.js HTTP/1.1\r\n").unwrap();
    assert!(line(&mut second).starts_with("http"));
    // Who never says anything is a viewer all the same.
    assert!(line(&mut connect(address)).starts_with("rfb"));
}

#[test]
fn the_end_ends_every_connection() {
    let (server, address) = server(None);
    let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(address)).collect();
    for stream in &mut streams {
        assert!(line(stream).starts_with("rfb"));
    }
    drop(server);
    assert!(streams.iter_mut().all(|stream| line(stream).is_empty()));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn there_are_only_so_many_connections() {
    let (_server, address) = server(None);
    let mut kept: Vec<TcpStream> = (0..gate::NEWCOMERS).map(|_| connect(address)).collect();
    for stream in &mut kept {
        assert!(line(stream).starts_with("rfb"));
    }
    assert_eq!(line(&mut connect(address)), "", "closed at once");
    drop(kept.pop());
    // The place is free when the thread has noticed.
    let again = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        line(&mut connect(address)).starts_with("rfb")
    });
    assert!(again);
}

/// A certificate for this host and its key, by an authority of our own, whose certificate is
/// `ca.pem` in `dir`. `None`, aloud, where openssl is not installed.
pub fn certificate(dir: &std::path::Path) -> Option<(std::path::PathBuf, std::path::PathBuf)> {
    let openssl = |args: &str| {
        let args: Vec<&str> = args.split(' ').collect();
        std::process::Command::new("openssl").args(args).current_dir(dir).output()
    };
    std::fs::write(dir.join("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    for args in [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests -keyout ca.key -out ca.pem \
         -addext basicConstraints=critical,CA:TRUE",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout \
         key.pem -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile san -days 2 \
         -out cert.pem",
    ] {
        match openssl(args) {
            Ok(output) => {
                let told = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "openssl {args}: {told}");
            }
            Err(error) => {
                eprintln!("skipped: openssl cannot be run ({error})");
                return None;
            }
        }
    }
    Some((dir.join("cert.pem"), dir.join("key.pem")))
}

/// A client's side of TLS that trusts what is in this file.
fn tls_client(certificate: &std::path::Path) -> rustls::ClientConnection {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls_graviola::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

#[test]
fn tls_has_the_same_inside() {
    let dir = tempfile::tempdir().unwrap();
    let Some((cert, key)) = certificate(dir.path()) else { return };
    let loaded = Arc::new(Certificate::load(&cert, &key).unwrap());
    let (_server, address) = server(Some(loaded));
    for (says, want) in [
        (&b"GET / HTTP/1.1\r\n"[..], "http 127.0.0.1 true \"GET / HTTP/1.1\\r\\n\"\n"),
        (b"RFB 003.008\n", "rfb 127.0.0.1 true \"RFB 003.008\\n\"\n"),
    ] {
        let (mut tls, mut stream) = (tls_client(&dir.path().join("ca.pem")), connect(address));
        let mut tls = rustls::Stream::new(&mut tls, &mut stream);
        tls.write_all(says).unwrap();
        assert_eq!(line(&mut tls), want);
    }
    // Nonsense inside a record ends that connection and no other.
    let mut stream = connect(address);
    stream.write_all(b"\x16\x03\x01\xff\xffnonsense").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let mut stream = connect(address);
    assert!(line(&mut stream).starts_with("rfb"));
}

#[test]
fn a_certificate_that_is_renewed_is_used_and_a_bad_one_is_not() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some((cert, key)) = certificate(dir.path()) else { return };
    let loaded = Certificate::load(&cert, &key).unwrap();
    let first = loaded.current();
    assert!(Arc::ptr_eq(&first, &loaded.current()));
    std::fs::write(&cert, "nonsense").unwrap();
    assert!(Arc::ptr_eq(&first, &loaded.current()), "the last good one stays");
    let Some((new_cert, new_key)) = certificate(other.path()) else { return };
    std::fs::copy(&new_key, &key).unwrap();
    std::fs::copy(&new_cert, &cert).unwrap();
    assert!(!Arc::ptr_eq(&first, &loaded.current()));
    let mixed = Certificate::load(&cert, &dir.path().join("none"));
    assert!(mixed.is_err_and(|error| error.to_string().contains("none cannot be read as a key")));
}
