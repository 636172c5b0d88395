//! The VM's configuration service: DHCPv4 (RFC 2131), router advertisements (RFC 4861, RFC 8106)
//! and DHCPv6 (RFC 8415) for one interface of one VM.
//!
//! Traffic control redirects what the VM sends to these protocols from its tap to a small tap of
//! the service's own, and what is written there to the VM. So the service reads and writes whole
//! Ethernet frames, needs no raw socket and no privilege, and hears nobody else. From the outside
//! in: [`Service`] is the thread `dhcp`, [`server`] answers frames and knows the time only from
//! its caller, [`frame`] takes them apart, [`v4`], [`v6`] and [`neighbour`] are the protocols.
//!
//! The thread sleeps until a frame comes; with IPv6 also until the next advertisement is due. Name
//! servers are looked at then, and only then: see [`ResolverSource`].

mod answer;
mod bytes;
mod checksum;
pub mod counters;
mod frame;
pub mod limit;
mod neighbour;
pub mod server;
mod v4;
mod v6;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::event::Event;
use devices::worker::Worker;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::net::guest::GuestNetwork;
use crate::net::resolv::ResolverSource;
use counters::Counters;
use server::Server;

/// What is read of a frame, in bytes: more than a client's message has, if its MTU is the usual.
const MAX_FRAME: usize = 4096;
/// Frames between two looks at the stop event.
const BATCH: usize = 32;
/// RFC 4861 §6.2.1, MaxRtrAdvInterval: a third of the 600 s that are usual, which RFC 8106 §5.1
/// multiplies by three.
const ADVERTISE_EVERY: Duration = Duration::from_secs(200);

/// The running service. Dropping it stops it, and waits.
#[derive(Debug)]
pub struct Service {
    _worker: Worker<()>,
}

impl Service {
    /// Starts the thread. `frames` is non-blocking and gives one Ethernet frame a read, without
    /// any header before it: a tap opened with `IFF_NO_PI` and without `IFF_VNET_HDR`.
    ///
    /// # Errors
    /// There is no descriptor or thread left.
    pub fn start(
        frames: File,
        network: GuestNetwork,
        resolver: ResolverSource,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let advertises = network.v6.is_some();
        let server = Server::new(network, Arc::clone(&counters), Instant::now());
        let mut port = Port { frames, server, resolver, counters };
        let body = move |stop: &Event| {
            if let Err(error) = port.serve(stop, advertises) {
                log::error!(
                    "DHCP and router advertisements have ended: the service's tap is gone ({error})"
                );
            }
        };
        Ok(Self { _worker: Worker::spawn("dhcp", || (), body)? })
    }
}

/// The server, and what joins it to the world.
struct Port {
    frames: File,
    server: Server,
    resolver: ResolverSource,
    counters: Arc<Counters>,
}

impl Port {
    /// Serves until told to stop.
    fn serve(&mut self, stop: &Event, advertises: bool) -> io::Result<()> {
        self.look();
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            let mut timeout = PollTimeout::NONE;
            if advertises {
                if due <= now {
                    self.look();
                    let frame = self.server.advertise();
                    self.send(frame);
                    due = now.checked_add(ADVERTISE_EVERY).unwrap_or(now);
                }
                // A fraction of a millisecond more, so as not to wake up too soon.
                let left = due.saturating_duration_since(now) + Duration::from_millis(1);
                timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            }
            if wait(&self.frames, stop, timeout)? {
                return Ok(());
            }
            if self.receive()? {
                // Who has asked knows; others may have been told before.
                due = Instant::now();
            }
        }
    }

    /// Looks for name servers; true when there are others than before.
    fn look(&mut self) -> bool {
        match self.resolver.refresh() {
            Some(conf) => {
                self.server.set_resolver(conf);
                true
            }
            None => false,
        }
    }

    /// Answers the frames that are there, up to a batch. True: there are other name servers now.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buf = [0; MAX_FRAME];
        let mut changed = false;
        for _ in 0..BATCH {
            let length = match self.frames.read(&mut buf) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(changed),
                    ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                },
            };
            // Before the answer, so that it is of the present.
            changed |= self.look();
            let frame = buf.get(..length).unwrap_or_default();
            let answer = self.server.receive(frame, Instant::now());
            self.send(answer);
        }
        Ok(changed)
    }

    /// Writes a frame. One that cannot be written is lost, as frames are; clients ask again.
    fn send(&mut self, frame: Option<Vec<u8>>) {
        if let Some(frame) = frame
            && !self.frames.write(&frame).is_ok_and(|written| written == frame.len())
        {
            self.counters.unsent.count();
        }
    }
}

/// Sleeps until there is a frame, or the time is up, or, true, it is time to stop.
fn wait(frames: &File, stop: &Event, timeout: PollTimeout) -> io::Result<bool> {
    let mut fds = [
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        PollFd::new(frames.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(stop.take())
}

#[cfg(test)]
mod tests;
