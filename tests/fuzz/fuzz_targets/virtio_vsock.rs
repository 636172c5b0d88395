//! The sockets between host and guest under a driver that does anything, while programs of the host
//! come, talk and go. An even first byte: registers and rings as they come. An odd one: packets whose
//! headers are well-formed, of likely ports, in any order.
#![no_main]

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::OnceLock;

use devices::virtio::F_VERSION_1;
use devices::virtio::testkit::{Rig, drive};
use devices::virtio::vsock::packet::{Header, TYPE_STREAM};
use devices::virtio::vsock::{Sockets, Vsock};
use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{MsgFlags, send};

const CID: u32 = 3;
const RX: usize = 0;
const TX: usize = 1;
/// Packets, and what programs do, in one run.
const STEPS_MAX: usize = 200;
/// Where packets lie in the guest's RAM, one behind the other.
const PACKET: u64 = 2048;

/// The host's sockets, made once.
struct Host {
    path: PathBuf,
    /// Where programs connect.
    door: UnixListener,
    /// Where the guest's connections to port 1 lead.
    one: UnixListener,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("berth-fuzz-vsock-{}", std::process::id()));
        // What a process of the same number has left.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("the directory can be made");
        let path = dir.join("v");
        let bind = |path: &PathBuf| {
            let listener = UnixListener::bind(path).expect("a socket");
            listener.set_nonblocking(true).expect("it need not wait");
            listener
        };
        Host { door: bind(&path), one: bind(&dir.join("v_1")), path }
    })
}

/// Writes what is taken at once; without a signal, should the other end be closed.
fn say(program: &UnixStream, bytes: &[u8]) {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let _ = send(program.as_raw_fd(), bytes, flags);
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }
}

/// One packet: most fields are likely ones.
fn packet([op, host, guest, len, data, flags, alloc, read]: [u8; 8]) -> (Header, usize) {
    let header = Header {
        src_cid: u64::from(CID) + u64::from(flags & 0xe0 == 0xe0),
        dst_cid: 2 + u64::from(flags & 0xf0 == 0xd0),
        src_port: u32::from(guest & 3),
        dst_port: match host & 7 {
            0..=3 => 1,
            4 => (1 << 30) + u32::from(host >> 3),
            5 => 1 << 30,
            other => other.into(),
        },
        len: u32::from(len) << (data & 7),
        kind: TYPE_STREAM + u16::from(flags & 0xf0 == 0xc0),
        op: u16::from(op & 15),
        flags: u32::from(flags & 7),
        buf_alloc: u32::from(alloc) << (alloc & 15),
        fwd_cnt: u32::from(read).wrapping_mul(0x0101_0101) >> (read & 31),
    };
    (header, usize::from(data) << 3)
}

fn talk(input: &mut Input<'_>, device: Vsock, host: &Host) {
    let mut rig = Rig::new(Box::new(device));
    rig.bring_up(F_VERSION_1);
    let (rx, tx) = (rig.ram.take(64 * PACKET), rig.ram.take(64 * PACKET));
    for number in 0..64 {
        rig.queue(RX).add(&[], &[(rx + number * PACKET, PACKET as u32)]);
    }
    let mut programs: Vec<UnixStream> = Vec::new();
    for step in 0..STEPS_MAX {
        let Some([what, which]) = input.take() else { break };
        programs.extend(host.one.accept().ok().map(|(stream, _)| stream));
        let program = programs.get_mut(usize::from(which & 7));
        match what & 7 {
            0 => {
                let Ok(stream) = UnixStream::connect(&host.path) else { continue };
                say(&stream, format!("CONNECT {}\n", which & 3).as_bytes());
                programs.push(stream);
            }
            1 => {
                if let Some(program) = program {
                    let _ = program.set_nonblocking(true);
                    let _ = program.read(&mut vec![0; 1 << (which >> 4)]);
                }
            }
            2 => {
                if let Some(program) = program {
                    let _ = program.set_nonblocking(true);
                    say(program, &vec![which; 1 << (which >> 4)]);
                }
            }
            3 if usize::from(which & 7) < programs.len() => {
                drop(programs.remove(usize::from(which & 7)));
            }
            4 => {
                rig.queue(RX).take_used();
                while rig.queue(RX).free() > 192 {
                    rig.queue(RX).add(&[], &[(rx, u32::from(which) << 3)]);
                }
                rig.kick(RX);
            }
            5 if which == 0 => rig.bring_up(F_VERSION_1),
            _ => {
                let Some((header, data)) = input.take().map(packet) else { break };
                rig.queue(TX).take_used();
                let at = tx + (step as u64 % 64) * PACKET;
                rig.ram.write(at, &header.to_bytes());
                if rig.queue(TX).free() > 0 {
                    rig.queue(TX).add(&[(at, 44 + (data % 2000) as u32)], &[]);
                    rig.kick(TX);
                }
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    let host = host();
    // Whoever has come in the run before.
    while host.door.accept().is_ok() {}
    while host.one.accept().is_ok() {}
    let Ok(door) = host.door.try_clone() else { return };
    let Ok(sockets) = Sockets::new(door, host.path.clone()) else { return };
    let Ok(device) = Vsock::new(CID, sockets) else { return };
    if mode & 1 == 0 {
        let program = UnixStream::connect(&host.path).expect("somebody listens");
        say(&program, format!("CONNECT {mode}\n").as_bytes());
        drive(rest, Box::new(device));
    } else {
        talk(&mut Input(rest), device, host);
    }
});
