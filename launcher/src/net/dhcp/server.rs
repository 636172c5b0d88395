//! A frame of the VM and the time in, a frame for it out: the service without its thread and file.
//!
//! Every frame is answered by one frame or none, and what is kept does not grow, so that a flood
//! costs the VM as much as us. Log lines that a guest can cause are limited.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use super::answer::LeaseEvent;
use super::counters::Counters;
use super::frame::{self, ALL_NODES, BROADCAST, Link, Packet, Refused, multicast_mac};
use super::limit::LogLimit;
use super::neighbour;
use super::{v4, v6};
use crate::net::guest::GuestNetwork;
use crate::net::resolv::ResolvConf;

/// The service's state.
#[derive(Debug)]
pub struct Server {
    network: GuestNetwork,
    resolver: ResolvConf,
    /// What routers advertised before and not any more.
    gone: ResolvConf,
    counters: Arc<Counters>,
    log_limit: LogLimit,
}

impl Server {
    /// A server that knows of no name servers yet.
    pub fn new(network: GuestNetwork, counters: Arc<Counters>, now: Instant) -> Self {
        Self {
            network,
            resolver: ResolvConf::default(),
            gone: ResolvConf::default(),
            counters,
            log_limit: LogLimit::new(now),
        }
    }

    /// Tells it what to tell of name servers from now on.
    pub fn set_resolver(&mut self, resolver: ResolvConf) {
        self.gone = std::mem::replace(&mut self.resolver, resolver);
    }

    /// Takes a frame from the VM; the answer, if there is one.
    pub fn receive(&mut self, frame: &[u8], now: Instant) -> Option<Vec<u8>> {
        let answer = frame::parse(frame, self.network.mac).and_then(|packet| match packet {
            Packet::Dhcp4(message) => self.dhcp4(message, now),
            Packet::Dhcp6 { source, multicast, message } => {
                self.dhcp6((source, multicast), message, now)
            }
            Packet::Neighbour { source, destination, kind, body } => match kind {
                neighbour::ROUTER_SOLICITATION => self.router_solicitation(source, body),
                neighbour::NEIGHBOUR_SOLICITATION => {
                    self.neighbour_solicitation(source, destination, body)
                }
                _ => Err(Refused::Other),
            },
        });
        answer.unwrap_or_else(|refused| {
            match refused {
                Refused::Foreign => &self.counters.foreign,
                Refused::Malformed => &self.counters.malformed,
                Refused::Other => &self.counters.unanswered,
            }
            .count();
            None
        })
    }

    /// A router advertisement that nobody asked for; `None` without IPv6.
    pub fn advertise(&mut self) -> Option<Vec<u8>> {
        let frame = self.router_advertisement(ALL_NODES, multicast_mac(ALL_NODES));
        // One is enough: the advertisements of an hour ago have run out by themselves.
        self.gone = ResolvConf::default();
        frame
    }

    fn dhcp4(&mut self, message: &[u8], now: Instant) -> Result<Option<Vec<u8>>, Refused> {
        use v4::packet::MessageType::{
            Ack, Decline, Discover, Inform, Nak, Offer, Release, Request,
        };
        let network = &self.network;
        let v4 = network.v4.as_ref().ok_or(Refused::Other)?;
        let asked = v4::packet::Message::parse(message).ok_or(Refused::Malformed)?;
        let resolver = &self.resolver;
        let answer = v4::answer(&asked, v4::Knowledge { network, v4, resolver })?;
        let counters = &self.counters;
        for message in [Some(&asked), answer.reply.as_ref()].into_iter().flatten() {
            match message.kind {
                Discover => &counters.discovers,
                Offer => &counters.offers,
                Request => &counters.requests,
                Decline => &counters.declines,
                Ack => &counters.acks,
                Nak => &counters.naks,
                Release => &counters.releases,
                Inform => &counters.informs,
            }
            .count();
        }
        let frame = answer.reply.and_then(|reply| {
            let to = v4::destination(&reply);
            let destination = if to.is_broadcast() { BROADCAST } else { network.mac };
            let link = Link { source: network.server_mac, destination };
            frame::dhcp4(link, v4.server, to, &reply.emit())
        });
        self.note(answer.event, now);
        Ok(frame)
    }

    fn dhcp6(
        &mut self,
        (source, multicast): (Ipv6Addr, bool),
        message: &[u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Refused> {
        use v6::packet::kind;
        let network = &self.network;
        let v6 = network.v6.as_ref().ok_or(Refused::Other)?;
        let asked = v6::packet::Message::parse(message).ok_or(Refused::Malformed)?;
        let resolver = &self.resolver;
        let answer = v6::answer(&asked, multicast, v6::Knowledge { network, v6, resolver })?;
        self.counters.v6_messages.count();
        if asked.kind == kind::DECLINE {
            self.counters.v6_declines.count();
        }
        match answer.reply.as_ref().map(|reply| reply.kind) {
            Some(kind::ADVERTISE) => self.counters.v6_advertises.count(),
            Some(_) => self.counters.v6_replies.count(),
            None => {}
        }
        let link = Link { source: network.server_mac, destination: network.mac };
        let frame =
            answer.reply.and_then(|reply| frame::dhcp6(link, v6.router, source, &reply.emit()));
        self.note(answer.event, now);
        Ok(frame)
    }

    fn router_solicitation(
        &mut self,
        source: Ipv6Addr,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Refused> {
        if self.network.v6.is_none() {
            return Err(Refused::Other);
        }
        if !neighbour::is_router_solicitation(source, body) {
            return Err(Refused::Malformed);
        }
        self.counters.router_solicitations.count();
        // RFC 4861 §6.2.6.
        let frame = match source.is_unspecified() {
            true => self.router_advertisement(ALL_NODES, multicast_mac(ALL_NODES)),
            false => self.router_advertisement(source, self.network.mac),
        };
        Ok(frame)
    }

    fn router_advertisement(&self, to: Ipv6Addr, destination: [u8; 6]) -> Option<Vec<u8>> {
        let v6 = self.network.v6.as_ref()?;
        let link = Link { source: self.network.server_mac, destination };
        let body = neighbour::router_advertisement(&self.network, v6, &self.resolver, &self.gone);
        self.counters.router_advertisements.count();
        frame::neighbour(link, v6.router, to, neighbour::ROUTER_ADVERTISEMENT, &body)
    }

    fn neighbour_solicitation(
        &mut self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Refused> {
        let network = &self.network;
        let v6 = network.v6.as_ref().ok_or(Refused::Other)?;
        let mac = v6.router_mac.ok_or(Refused::Other)?;
        let target = neighbour::solicited(source, destination, body).ok_or(Refused::Malformed)?;
        if target != v6.router {
            return Err(Refused::Other);
        }
        self.counters.neighbour_solicitations.count();
        self.counters.neighbour_advertisements.count();
        let probe = source.is_unspecified();
        let (to, destination) = match probe {
            true => (ALL_NODES, multicast_mac(ALL_NODES)),
            false => (source, network.mac),
        };
        let link = Link { source: network.server_mac, destination };
        let body = neighbour::neighbour_advertisement(target, mac, probe);
        Ok(frame::neighbour(link, target, to, neighbour::NEIGHBOUR_ADVERTISEMENT, &body))
    }

    /// Notes what became of a lease.
    fn note(&mut self, event: Option<LeaseEvent>, now: Instant) {
        let Some(event) = event else { return };
        let news = match event {
            LeaseEvent::Acknowledged(address) => self.counters.acknowledge(address, now),
            LeaseEvent::Released(address) => self.counters.forget(address),
            LeaseEvent::Declined(address) => {
                self.counters.forget(address);
                true
            }
            LeaseEvent::Refused(_) => true,
        };
        // Renewals are no news, but a guest may take and release its address all day.
        if !news || !self.log_limit.allows(now) {
            return;
        }
        match event {
            LeaseEvent::Acknowledged(address) => {
                log::info!("the guest has its address {address} by {}", protocol(address));
            }
            LeaseEvent::Released(address) => log::info!("the guest has released {address}"),
            LeaseEvent::Declined(address) => log::warn!(
                "the guest declines {address}: it has seen somebody else use it; it will be \
                 offered again, there is no other"
            ),
            LeaseEvent::Refused(address) => {
                log::info!("the guest asked for {address}, which is not its address here");
            }
        }
    }
}

fn protocol(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "DHCPv4",
        IpAddr::V6(_) => "DHCPv6",
    }
}

#[cfg(test)]
pub mod tests;
