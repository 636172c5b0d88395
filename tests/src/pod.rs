//! A pod and what is around it, of network namespaces as network plug-ins make them:
//!
//! ```text
//! client ─────────────── router (the node) ─────────────── pod
//! eth0                   client0       pod0                eth0
//! 10.91.0.2/24           10.91.0.1/24                      10.244.7.9
//! fd91::2/64             fd91::1/64                        fd24:4:7::9
//! ```
//!
//! The router forwards between both, and translates nothing: what arrives at either end shows who
//! sent it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Namespace;

/// What a pod looks like from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As Calico has it: an address alone, and a gateway, 169.254.1.1, that is on no network; the
    /// router answers ARP for it by proxy, and has a fixed link-local address for IPv6.
    Calico,
    /// As the bridge plug-in has it: a network (/24, /64) whose first address the router's bridge
    /// has.
    Bridge,
    /// [`Bridge`](Self::Bridge), but the gateway of IPv6 is the bridge's link-local address, as
    /// where a router advertises itself.
    BridgeLinkLocal,
}

/// The address families of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// Both.
    Dual,
    /// IPv6 alone.
    V6,
}

impl Families {
    /// Whether IPv4 is among them.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is among them.
    pub fn v6(self) -> bool {
        self != Self::V4
    }
}

/// The namespaces. Needs root, iproute2 and a kernel with veth (and bridge).
pub struct Pod {
    /// Where the world is that talks to the pod.
    pub client: Namespace,
    /// The node.
    pub router: Namespace,
    /// The pod; Berth's place.
    pub pod: Namespace,
    /// Its families.
    pub families: Families,
}

impl Pod {
    /// The pod's own.
    pub const V4: Ipv4Addr = Ipv4Addr::new(10, 244, 7, 9);
    /// The pod's own.
    pub const V6: Ipv6Addr = Ipv6Addr::new(0xfd24, 4, 7, 0, 0, 0, 0, 9);
    /// The client's.
    pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 2);
    /// The client's.
    pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd91, 0, 0, 0, 0, 0, 0, 2);
    /// Where the pod's resolv.conf searches for short names.
    pub const SEARCH: &str = "default.svc.cluster.test svc.cluster.test cluster.test";

    /// Makes them. `mtu` is that of the pod's interface; the client's is 1500, or that if more.
    ///
    /// # Panics
    /// If they cannot be made.
    pub fn new(shape: Shape, families: Families, mtu: u32) -> Self {
        let made = Self {
            client: Namespace::new("client"),
            router: Namespace::new("router"),
            pod: Namespace::new("pod"),
            families,
        };
        made.lay_cables(mtu);
        made.outside();
        match shape {
            Shape::Calico => made.calico(),
            Shape::Bridge => made.bridge(mtu, "fd24:4:7::1"),
            Shape::BridgeLinkLocal => made.bridge(mtu, "fe80::24"),
        }
        let servers: String =
            made.clients().iter().map(|address| format!("nameserver {address}\n")).collect();
        made.pod.set_resolv_conf(&format!("{servers}search {}\noptions ndots:5\n", Self::SEARCH));
        made
    }

    /// The pod's addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.of_families(Self::V4, Self::V6)
    }

    /// The client's addresses.
    pub fn clients(&self) -> Vec<IpAddr> {
        self.of_families(Self::CLIENT_V4, Self::CLIENT_V6)
    }

    fn of_families(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<IpAddr> {
        let v4 = self.families.v4().then_some(IpAddr::V4(v4));
        let v6 = self.families.v6().then_some(IpAddr::V6(v6));
        v4.into_iter().chain(v6).collect()
    }

    fn lay_cables(&self, mtu: u32) {
        let (client, pod) = (self.client.name(), self.pod.name());
        let outside = mtu.max(1500);
        self.router.ip(&format!(
            "link add client0 mtu {outside} type veth peer name eth0 mtu {outside} netns {client}
             link add pod0 address ee:ee:ee:ee:ee:ee mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod}"
        ));
        // With link-local addresses: without one a router looks for no neighbours.
        self.client.ip("link set eth0 up");
        self.router.ip("link set client0 up");
        self.pod.ip("link set eth0 up");
        for family in ["ipv4", "ipv6"] {
            self.router.sysctl(&format!("net/{family}/conf/all/forwarding"), "1");
        }
    }

    fn outside(&self) {
        if self.families.v4() {
            self.client.ip("address add 10.91.0.2/24 dev eth0\nroute add default via 10.91.0.1");
            // With a default route it answers by proxy for any address, 169.254.1.1 among them.
            self.router.ip(
                "address add 10.91.0.1/24 dev client0\nroute add default via 10.91.0.2 dev client0",
            );
        }
        if self.families.v6() {
            self.client.ip(
                "address add fd91::2/64 dev eth0 nodad\nroute add default via fd91::1 dev eth0",
            );
            self.router.ip("address add fd91::1/64 dev client0 nodad");
        }
    }

    fn calico(&self) {
        self.router.ip("link set pod0 addrgenmode none\nlink set pod0 up");
        if self.families.v4() {
            self.router.sysctl("net/ipv4/conf/pod0/proxy_arp", "1");
            // Else an answer by proxy waits for up to 0.8 s.
            self.router.sysctl("net/ipv4/neigh/pod0/proxy_delay", "0");
            self.router.ip(&format!("route add {} dev pod0", Self::V4));
            self.pod.ip(&format!(
                "address add {}/32 dev eth0
                 route add 169.254.1.1 dev eth0 scope link
                 route add default via 169.254.1.1 dev eth0",
                Self::V4
            ));
        }
        if self.families.v6() {
            self.router.ip(&format!(
                "address add fe80::ecff:feee:eeee/64 dev pod0 nodad\nroute add {} dev pod0",
                Self::V6
            ));
            self.pod.ip(&format!(
                "address add {}/128 dev eth0 nodad
                 route add default via fe80::ecff:feee:eeee dev eth0",
                Self::V6
            ));
        }
    }

    fn bridge(&self, mtu: u32, gateway6: &str) {
        self.router.ip(&format!(
            "link add cni0 mtu {mtu} type bridge
             link set cni0 addrgenmode none
             link set pod0 addrgenmode none
             link set pod0 master cni0
             link set pod0 up
             link set cni0 up"
        ));
        if self.families.v4() {
            self.router.ip("address add 10.244.7.1/24 dev cni0");
            self.pod.ip(&format!(
                "address add {}/24 dev eth0\nroute add default via 10.244.7.1",
                Self::V4
            ));
        }
        if self.families.v6() {
            self.router.ip(
                "address add fd24:4:7::1/64 dev cni0 nodad\naddress add fe80::24/64 dev cni0 nodad",
            );
            self.pod.ip(&format!(
                "address add {}/64 dev eth0 nodad\nroute add default via {gateway6} dev eth0",
                Self::V6
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shapes alone, without a guest: the pod's own stack answers.
    #[test]
    fn a_client_reaches_a_pod_of_any_shape() {
        if !nix::unistd::geteuid().is_root() || !crate::has_program("ping") {
            eprintln!("SKIPPED: no right to make a network namespace here, or no ping");
            return;
        }
        for (shape, families, mtu) in [
            (Shape::Calico, Families::Dual, 1450),
            (Shape::Bridge, Families::Dual, 1500),
            (Shape::BridgeLinkLocal, Families::V6, 1500),
            (Shape::Calico, Families::V6, 1500),
            (Shape::Bridge, Families::V4, 9000),
        ] {
            let pod = Pod::new(shape, families, mtu);
            for address in pod.addresses() {
                // IPv6 loses the first one to the path MTU.
                pod.client.run(&format!("ping -c 2 -i 0.2 -W 5 -s 4000 {address}"));
            }
            for address in pod.clients() {
                pod.pod.run(&format!("ping -c 2 -i 0.2 -W 5 -s 4000 {address}"));
            }
            assert_eq!(pod.pod.state(), pod.pod.state());
        }
    }
}
