//! The thread: frames through a socket pair in the place of a tap, a `resolv.conf` that changes.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::frame::tests::client4;
use super::server::tests::network;
use super::v4::packet::MessageType;
use super::v4::packet::tests::request;
use super::*;

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);
const ROUTER_ADVERTISEMENT: u8 = super::neighbour::ROUTER_ADVERTISEMENT;

/// The VM's end and the service's: a datagram is a frame, as with a tap.
fn wire() -> (File, File) {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (vm, service): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    (vm.into(), service.into())
}

/// The next frame.
fn next(vm: &mut File) -> Vec<u8> {
    let mut fds = [PollFd::new(vm.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()), Ok(1), "no frame");
    let mut buf = vec![0; MAX_FRAME];
    let length = vm.read(&mut buf).unwrap();
    buf.truncate(length);
    buf
}

fn start(frames: File, network: GuestNetwork, path: PathBuf) -> (Service, Arc<Counters>) {
    let counters = Arc::<Counters>::default();
    let resolver = ResolverSource::new([path]);
    (Service::start(frames, network, resolver, Arc::clone(&counters)).unwrap(), counters)
}

fn is_advertisement(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd] && frame[54] == ROUTER_ADVERTISEMENT
}

#[test]
fn frames_are_answered_and_changes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    fs::write(&path, "nameserver 10.0.0.53\n").unwrap();
    let (mut vm, frames) = wire();
    let (service, counters) = start(frames, network(), path.clone());
    assert!(is_advertisement(&next(&mut vm)), "at once, unasked");

    let discover = client4(&request(MessageType::Discover).emit());
    let has = |frame: &[u8], bytes: &[u8]| frame.windows(bytes.len()).any(|part| part == bytes);
    vm.write_all(&discover).unwrap();
    assert!(has(&next(&mut vm), &[6, 4, 10, 0, 0, 53]));
    assert_eq!(counters.offers.get(), 1);

    // Seen at the next message at the latest: the answer has it, and everybody is told.
    let other = dir.path().join("new");
    fs::write(&other, "nameserver 10.0.0.54\nnameserver fd00::54\n").unwrap();
    fs::rename(&other, &path).unwrap();
    vm.write_all(&discover).unwrap();
    let mut frames = [next(&mut vm), next(&mut vm)];
    frames.sort_by_key(|frame| is_advertisement(frame));
    let [offer, advertisement] = frames;
    assert!(has(&offer, &[6, 4, 10, 0, 0, 54]));
    assert!(is_advertisement(&advertisement) && has(&advertisement, &[0, 0x54]));

    drop(service);
    assert_eq!(vm.read(&mut [0; 1]).unwrap(), 0, "the service's end is closed");
    assert_eq!((counters.unsent.get(), counters.malformed.get()), (0, 0));
}

#[test]
fn a_wire_that_is_cut_ends_the_thread_and_a_full_one_does_not() {
    let mut bare = network();
    bare.v6 = None;
    let (mut vm, frames) = wire();
    let (service, counters) = start(frames, bare, PathBuf::new());
    let discover = client4(&request(MessageType::Discover).emit());
    // Answers pile up unread until the wire is full, and are lost from then on.
    let begin = Instant::now();
    while counters.unsent.get() == 0 {
        let _ = vm.write(&discover);
        assert!(begin.elapsed() < PATIENCE);
    }
    next(&mut vm);
    drop(vm);
    drop(service);
}
