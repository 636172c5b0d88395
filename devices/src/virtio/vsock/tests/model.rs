//! The table of connections under any packets, in any order, with programs that do anything.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::super::table::Table;
use super::*;
use crate::mem::GuestRam;
use crate::virtio::buffers::Buffers;

const RAM: usize = 0x1_0000;

#[derive(Clone, Debug)]
enum Step {
    /// A packet of the guest's; most ports and operations are likely ones.
    Packet {
        op: u16,
        host: u32,
        guest: u32,
        len: u32,
        data: usize,
        flags: u32,
        alloc: u32,
        read: u32,
    },
    /// What the guest takes.
    Take {
        room: usize,
    },
    /// A program connects, and says this.
    Connect {
        port: u32,
    },
    /// A program writes, reads, or goes.
    Write {
        which: usize,
        len: usize,
    },
    Read {
        which: usize,
    },
    Close {
        which: usize,
    },
    /// The host's events are looked at.
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let ports = prop_oneof![4 => 0_u32..4, 1 => (1_u32 << 30)..(1 << 30) + 4, 1 => any::<u32>()];
    let op = prop_oneof![9 => 1_u16..8, 1 => any::<u16>()];
    let alloc = prop_oneof![3 => Just(ALLOC), 1 => 0_u32..100, 1 => any::<u32>()];
    let read = prop_oneof![3 => Just(0_u32), 1 => any::<u32>()];
    let len = prop_oneof![4 => 0_u32..5000, 4 => 30_000_u32..60_000, 1 => any::<u32>()];
    // All of it, mostly.
    let data = prop_oneof![4 => Just(usize::MAX), 1 => 0_usize..6000];
    let packet = (op, ports, 0_u32..2, len, data, 0_u32..5, alloc, read).prop_map(
        |(op, host, guest, len, data, flags, alloc, read)| Step::Packet {
            op,
            host,
            guest,
            len,
            data,
            flags,
            alloc,
            read,
        },
    );
    prop_oneof![
        8 => packet,
        4 => (1_usize..5000).prop_map(|room| Step::Take { room }),
        2 => (0_u32..4).prop_map(|port| Step::Connect { port }),
        2 => (0_usize..8, 0_usize..3000).prop_map(|(which, len)| Step::Write { which, len }),
        1 => (0_usize..8).prop_map(|which| Step::Read { which }),
        1 => (0_usize..8).prop_map(|which| Step::Close { which }),
        6 => Just(Step::Look),
    ]
}

/// Looks at every watched socket once, as the thread does; how many of them had something.
fn look(table: &mut Table<'_>) -> usize {
    table.accept().unwrap();
    let (mut slots, mut set) = (Vec::new(), Vec::new());
    for (slot, fd, flags) in table.watched() {
        slots.push(slot);
        set.push(PollFd::new(fd, flags));
    }
    poll(&mut set, PollTimeout::ZERO).unwrap();
    let events: Vec<PollFlags> = set.iter().map(|fd| fd.revents().unwrap()).collect();
    let events = slots.into_iter().zip(events).filter(|(_, events)| !events.is_empty());
    events.map(|(slot, events)| table.on_events(slot, events)).count()
}

/// Sends all that there is, until nothing would wake the thread; nor does it while the guest takes
/// nothing.
fn settle(table: &mut Table<'_>, scratch: &mut [u8]) {
    let sleeps = (0..1000).any(|_| look(table) == 0);
    assert!(sleeps, "it does not sleep while the guest does");
    for _ in 0..1000 {
        while table.has_next() && table.next(scratch).is_some() {}
        if look(table) == 0 && !table.has_next() {
            return;
        }
    }
    panic!("it never sleeps");
}

#[test]
fn a_guest_that_does_not_hear_the_answer_wakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let sockets = Sockets::new(UnixListener::bind(&path).unwrap(), path).unwrap();
    let listener = UnixListener::bind(dir.path().join("v_1")).unwrap();
    let counters = Counters::default();
    let mut table = Table::new(CID, &sockets, &counters);
    let mut scratch = vec![0; 8192];
    let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let mut send = |table: &mut Table<'_>, op, len: usize| {
        let header = Header { dst_port: 1, len: len as u32, ..header(op) };
        let mut buffers = Buffers::default();
        buffers.push(ram.get_slice(GuestAddress(0), len).unwrap());
        assert!(table.on_packet(&header, &mut buffers, &mut scratch));
    };
    send(&mut table, Op::Request, 0);
    let (mut program, _) = listener.accept().unwrap();
    // More than the socket takes; then there is room again, and the guest has not been answered.
    for _ in 0..5 {
        send(&mut table, Op::Rw, 60_000);
    }
    program.read_exact(&mut vec![0; 100_000]).unwrap();
    assert_eq!((table.len(), look(&mut table)), (1, 0));
    // Once it has been, the program gets the rest.
    program.set_nonblocking(true).unwrap();
    let mut left = 200_000;
    for _ in 0..100 {
        settle(&mut table, &mut vec![0; 8192]);
        left -= program.read(&mut vec![0; left]).unwrap_or(0);
    }
    assert_eq!(left, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn anything_may_come(steps in prop::collection::vec(step(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let sockets = Sockets::new(UnixListener::bind(&path).unwrap(), path.clone()).unwrap();
        let listeners: Vec<_> = (0..2).map(|port| {
            let listener = UnixListener::bind(dir.path().join(format!("v_{port}"))).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        }).collect();
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let counters = Counters::default();
        let mut table = Table::new(CID, &sockets, &counters);
        let mut programs: Vec<UnixStream> = Vec::new();
        let mut scratch = vec![0; 8192];
        for step in steps {
            for listener in &listeners {
                programs.extend(listener.accept().ok().map(|(stream, _)| stream));
            }
            for program in &programs {
                program.set_nonblocking(true).unwrap();
            }
            match step {
                Step::Packet { op, host, guest, len, data, flags, alloc, read } => {
                    let header = Header {
                        op, len, flags, src_port: guest, dst_port: host, buf_alloc: alloc,
                        fwd_cnt: read, ..header(Op::Rw)
                    };
                    let data = data.min(len as usize).min(RAM);
                    let mut buffers = Buffers::default();
                    buffers.push(ram.get_slice(GuestAddress(0), data).unwrap());
                    if table.has_room() {
                        table.on_packet(&header, &mut buffers, &mut scratch);
                    }
                }
                Step::Take { room } => {
                    while table.has_next() {
                        let Some((header, len)) = table.next(&mut scratch[..room]) else { break };
                        prop_assert!(len <= room && header.len as usize == len);
                        prop_assert_eq!(header.dst_cid, CID);
                        prop_assert_eq!(header.op == Op::Rw as u16, len > 0);
                    }
                }
                Step::Connect { port } => {
                    let mut program = UnixStream::connect(&path).unwrap();
                    program.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
                    programs.push(program);
                }
                Step::Write { which, len } => {
                    let _ = programs.get_mut(which).map(|program| program.write(&vec![1; len]));
                }
                Step::Read { which } => {
                    let _ = programs.get_mut(which).map(|program| program.read(&mut scratch));
                }
                Step::Close { which } if which < programs.len() => drop(programs.remove(which)),
                Step::Close { .. } => {}
                Step::Look => drop(look(&mut table)),
            }
            prop_assert!(table.len() <= CONNECTIONS_MAX);
            table.check();
        }
        settle(&mut table, &mut scratch);
        // Once all programs have gone and the guest has reset everything, nothing is left.
        drop(programs);
        settle(&mut table, &mut scratch);
        for address in table.addresses() {
            let reset = Header { src_port: address.guest, dst_port: address.host, ..header(Op::Rst) };
            table.on_packet(&reset, &mut Buffers::default(), &mut scratch);
        }
        for listener in &listeners {
            while listener.accept().is_ok() {}
        }
        settle(&mut table, &mut scratch);
        prop_assert_eq!((table.len(), counters.open()), (0, 0));
    }
}
