//! A real tap, in a network namespace of its own; skipped aloud where that is not allowed.

use std::os::fd::{FromRawFd, OwnedFd};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::event::wait_readable;
use crate::mem::GuestRam;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const PATIENCE_MS: u16 = 10_000;

/// An interface with so many queues, and a packet socket on its host side.
struct Host {
    taps: Vec<Tap>,
    socket: OwnedFd,
}

/// Runs `test` in a thread with a network namespace of its own; what fails with an error, and not
/// with a panic, is what this host does not allow.
fn in_namespace(test: impl FnOnce() -> io::Result<()> + Send + 'static) {
    let run = move || {
        // SAFETY: unshare takes no pointers, and changes only this thread's namespace.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).and_then(|_| test())
    };
    if let Err(error) = std::thread::spawn(run).join().expect("the test succeeds") {
        eprintln!("skipped: no tap here: {error}");
    }
}

fn with_tap(queues: usize, flags: libc::c_int, test: fn(Host)) {
    in_namespace(move || {
        test(host(queues, flags)?);
        Ok(())
    });
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn host(queues: usize, flags: libc::c_int) -> io::Result<Host> {
    let mut files = vec![];
    for _ in 0..queues {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        let mut request = interface_request(flags);
        for (to, from) in request.ifr_name.iter_mut().zip(b"t0\0") {
            *to = *from as libc::c_char;
        }
        ioctl(&file, TUNSETIFF, &mut request)?;
        files.push(file);
    }
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: socket takes no pointers; the descriptor is new, and nobody else's.
    let socket = unsafe {
        let fd = check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into()))?;
        OwnedFd::from_raw_fd(fd)
    };
    let plain = File::from(socket.try_clone()?);
    let mut request = interface_request(libc::IFF_UP);
    for (to, from) in request.ifr_name.iter_mut().zip(b"t0\0") {
        *to = *from as libc::c_char;
    }
    ioctl(&plain, libc::SIOCSIFFLAGS as libc::Ioctl, &mut request)?;
    ioctl(&plain, libc::SIOCGIFINDEX as libc::Ioctl, &mut request)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        // SAFETY: SIOCGIFINDEX has filled the index.
        sll_ifindex: unsafe { request.ifr_ifru.ifru_ifindex },
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a sockaddr_ll of that length, alive through the call.
    check(unsafe {
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len)
    })?;
    let taps = files.into_iter().map(|file| Tap::new(file).map_err(io::Error::other));
    Ok(Host { taps: taps.collect::<io::Result<_>>()?, socket })
}

const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// A broadcast frame of an experimental type, so that nothing answers it.
fn frame(len: usize, seed: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, seed, 0x88, 0xb5]);
    frame.resize(len, seed);
    frame
}

fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x88, 0xb5])
}

impl Host {
    fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is as long as is said.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next of our frames that the host sees, sent or received.
    fn receive(&self) -> Vec<u8> {
        loop {
            let ready = wait_readable([Some(self.socket.as_fd())], Some(PATIENCE_MS)).unwrap();
            assert_eq!(ready, [true], "no frame reached the host");
            let mut data = vec![0u8; 70000];
            // SAFETY: the buffer is as long as is said.
            let len = unsafe {
                libc::recv(self.socket.as_raw_fd(), data.as_mut_ptr().cast(), data.len(), 0)
            };
            data.truncate(len as usize);
            if is_ours(&data) {
                return data;
            }
        }
    }
}

/// Receives until one of our frames comes, or the outcome is another; header included.
fn next(tap: &mut Tap, bufs: &[VolatileSlice<'_>]) -> Received {
    loop {
        let ready = wait_readable([Some(tap.fd())], Some(PATIENCE_MS)).unwrap();
        assert_eq!(ready, [true], "no frame reached the tap");
        let received = tap.receive(bufs).unwrap();
        let mut start = [0u8; HEADER_LEN + 14];
        bufs[0].read(&mut start, 0).unwrap();
        if received != Received::Nothing && is_ours(&start[HEADER_LEN..]) {
            return received;
        }
    }
}

#[test]
fn frames_go_both_ways() {
    with_tap(1, FLAGS, |mut host| {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let slice = |at, len| memory.get_slice(GuestAddress(at), len).unwrap();
        let out = frame(300, 1);
        memory.write_slice(&out, GuestAddress(HEADER_LEN as u64)).unwrap();
        host.taps[0].send(&[slice(0, 20), slice(20, 292)]).unwrap();
        assert!(host.receive() == out);
        let back = frame(600, 2);
        host.send(&back);
        let bufs = [slice(0x1000, 100), slice(0x2000, 1000)];
        assert_eq!(next(&mut host.taps[0], &bufs), Received::Frame(612));
        let mut got = vec![0; 612];
        memory.read_slice(&mut got[..100], GuestAddress(0x1000)).unwrap();
        memory.read_slice(&mut got[100..], GuestAddress(0x2000)).unwrap();
        assert!(got[HEADER_LEN..] == back);
    });
}

#[test]
fn a_frame_without_room_is_told_from_one_that_fits_exactly() {
    with_tap(1, FLAGS, |mut host| {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let room = [memory.get_slice(GuestAddress(0), 412).unwrap()];
        host.send(&frame(400, 1));
        assert_eq!(next(&mut host.taps[0], &room), Received::Frame(412));
        host.send(&frame(401, 1));
        assert_eq!(next(&mut host.taps[0], &room), Received::TooLarge);
    });
}

#[test]
fn a_header_that_makes_no_sense_is_an_error_and_nothing_more() {
    with_tap(1, FLAGS, |mut host| {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        memory.write_slice(&[0xff; HEADER_LEN], GuestAddress(0)).unwrap();
        let bytes = [memory.get_slice(GuestAddress(0), 100).unwrap()];
        assert!(host.taps[0].send(&bytes).is_err());
        let short = [memory.get_slice(GuestAddress(0x1000), HEADER_LEN).unwrap()];
        assert!(host.taps[0].send(&short).is_err());
    });
}

#[test]
fn offloads_are_taken_and_given_back() {
    with_tap(1, FLAGS, |mut host| {
        let tap = &mut host.taps[0];
        let all = Offloads { csum: true, tso4: true, tso6: true, ecn: true, uso: tap.has_uso() };
        tap.set_guest_offloads(all).unwrap();
        tap.set_guest_offloads(Offloads { ecn: true, csum: true, ..Offloads::default() }).unwrap();
        tap.set_guest_offloads(Offloads::default()).unwrap();
    });
}

#[test]
fn queues_leave_and_join() {
    with_tap(2, FLAGS | libc::IFF_MULTI_QUEUE, |mut host| {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let room = [memory.get_slice(GuestAddress(0), 2000).unwrap()];
        for _ in 0..3 {
            for enabled in [false, false, true, true] {
                host.taps[1].set_enabled(enabled).unwrap();
            }
        }
        // Whatever a flow's hash is, only one queue is left for it.
        host.taps[0].set_enabled(false).unwrap();
        for seed in 0..10 {
            host.send(&frame(100, seed));
            assert_eq!(next(&mut host.taps[1], &room), Received::Frame(112));
        }
    });
}

#[test]
fn other_descriptors_are_refused() {
    let error = Tap::new(tempfile::tempfile().unwrap()).err().expect("a file is no tap");
    assert!(matches!(error, TapError::Request { request: "TUNGETIFF", .. }));
    in_namespace(|| {
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        let mut request = interface_request(libc::IFF_TAP | libc::IFF_NO_PI);
        ioctl(&file, TUNSETIFF, &mut request)?;
        assert!(matches!(Tap::new(file), Err(TapError::Flags(_))));
        Ok(())
    });
}
