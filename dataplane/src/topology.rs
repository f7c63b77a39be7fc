//! Ports, addresses, routes and neighbours as plain tables. The kernel owns them, the control plane reads them over
//! netlink and publishes a [`Topology`]; the packet path asks one question of it: [`Topology::egress`].
//!
//! Neighbours are compiled into the route trie as host routes, so that one longest-prefix look-up gives the port,
//! both MAC addresses and the MTU.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::headers::{Address, Addresses};
use crate::trie::Trie;
use crate::verdict::{PortId, Reason};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// One port's state, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortState {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Largest IP packet it sends, bytes.
    pub mtu: u16,
    /// Administratively up and with carrier.
    pub up: bool,
    /// Its own addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Leads out of this port, through the gateway or (with `None`) straight to the destination.
    Via(PortId, Option<IpAddr>),
    /// Blackhole, unreachable, prohibit, or a route out of an interface that is not a port of the gateway.
    Refused,
}

/// One route; of several with the same prefix the control plane passes only the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination prefix.
    pub prefix: IpNet,
    /// What it does.
    pub kind: RouteKind,
}

/// A resolved neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The port behind which it lies.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// All that the kernel says, as plain lists. Index of `ports` is the [`PortId`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopologySpec {
    /// The ports.
    pub ports: Vec<PortState>,
    /// The routes of the main table.
    pub routes: Vec<Route>,
    /// The resolved neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Every address of the gateway's namespace, also those on interfaces that are not ports.
    pub own_addresses: Vec<IpAddr>,
}

/// A sieve before a set of addresses: of those that are not in the set, one bit tells all but one in 64, without a
/// search.
#[derive(Clone, Debug)]
struct Marks {
    words: Vec<u64>,
    /// Leaves as many bits of a product as number a bit of `words`.
    shift: u32,
}

impl Marks {
    fn new(addresses: impl Iterator<Item = u32> + Clone) -> Marks {
        let bits = (64 * addresses.clone().count()).next_power_of_two().max(64);
        let mut marks = Marks { words: vec![0; bits / 64], shift: u32::BITS - bits.trailing_zeros() };
        for address in addresses {
            let (word, bit) = marks.place(address);
            marks.words[word] |= bit;
        }
        marks
    }

    /// The upper bits of the product with the golden ratio: addresses that differ little come far apart.
    #[inline(always)]
    fn place(&self, address: u32) -> (usize, u64) {
        let number = address.wrapping_mul(0x9e37_79b1) >> self.shift;
        (number as usize / 64, 1 << (number % 64))
    }

    #[inline(always)]
    fn may_hold(&self, address: u32) -> bool {
        let (word, bit) = self.place(address);
        self.words[word] & bit != 0
    }
}

impl Default for Marks {
    fn default() -> Self {
        Marks::new(std::iter::empty())
    }
}

/// Where a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress<'a> {
    /// Out of this port with these addresses.
    Send(&'a Hop),
    /// Out of this port once the next hop's Ethernet address is known.
    Resolve(PortId, IpAddr),
    /// Not at all.
    Refuse(Reason),
}

/// A complete next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The egress port.
    pub port: PortId,
    /// Destination Ethernet address.
    pub destination: Mac,
    /// Source Ethernet address: the port's own.
    pub source: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Hop(Hop),
    Resolve(PortId, IpAddr),
    /// On-link: the destination itself is to be resolved.
    OnLink(PortId),
    Refused(Reason),
}

/// The compiled topology. The default one knows no port and refuses everything.
#[derive(Clone, Default)]
pub struct Topology {
    spec: TopologySpec,
    next: Trie<Next>,
    /// Sorted; a handful, so a binary search beats hashing.
    own_v4: Vec<Ipv4Addr>,
    own_v6: Vec<Ipv6Addr>,
    broadcasts: Vec<Ipv4Addr>,
    marked_v4: Marks,
    marked_v6: Marks,
}

impl Topology {
    /// Compiles plain lists into look-up tables, in O(n log n) for n routes and neighbours.
    pub fn new(spec: TopologySpec) -> Topology {
        let mut topology = Topology::default();
        let of_ports = spec.ports.iter().flat_map(|p| &p.addresses).map(IpNet::addr);
        for address in spec.own_addresses.iter().copied().chain(of_ports) {
            match address {
                IpAddr::V4(address) => topology.own_v4.push(address),
                IpAddr::V6(address) => topology.own_v6.push(address),
            }
        }
        topology.broadcasts = spec
            .ports
            .iter()
            .flat_map(|p| &p.addresses)
            .filter_map(|net| match net {
                IpNet::V4(net) if net.prefix_len() < 31 => Some([net.broadcast(), net.network()]),
                _ => None,
            })
            .flatten()
            .collect();
        let special_v4 = topology.own_v4.iter().chain(&topology.broadcasts);
        topology.marked_v4 = Marks::new(special_v4.map(|address| address.to_bits()));
        topology.marked_v6 = Marks::new(topology.own_v6.iter().map(|address| fold(address.to_bits())));
        topology.next = next_hops(&spec, &topology.special());
        topology.own_v4.sort_unstable();
        topology.own_v6.sort_unstable();
        topology.broadcasts.sort_unstable();
        topology.spec = spec;
        topology
    }

    /// The addresses to which nothing is forwarded, and why.
    fn special(&self) -> Vec<(IpAddr, Reason)> {
        let broadcasts =
            self.broadcasts.iter().map(|address| ((*address).into(), Reason::DestinationInvalid));
        let own_v4 = self.own_v4.iter().map(|address| IpAddr::from(*address));
        let own = own_v4.chain(self.own_v6.iter().map(|address| IpAddr::from(*address)));
        broadcasts.chain(own.map(|address| (address, Reason::LocalServiceUndeclared))).collect()
    }

    /// Where a packet to this destination leaves: nowhere, if it is one of the gateway's own addresses or a directed
    /// broadcast.
    pub fn egress(&self, destination: IpAddr) -> Egress<'_> {
        match destination {
            IpAddr::V4(destination) => self.egress_in(destination),
            IpAddr::V6(destination) => self.egress_in(destination),
        }
    }

    /// As [`Topology::egress`], where the family is known.
    #[inline(always)]
    pub fn egress_in<A: Address>(&self, destination: A) -> Egress<'_> {
        match self.next.find_in(destination) {
            Some(Next::Hop(hop)) => Egress::Send(hop),
            Some(Next::Resolve(port, gateway)) => Egress::Resolve(*port, *gateway),
            Some(Next::OnLink(port)) => Egress::Resolve(*port, destination.into()),
            Some(Next::Refused(reason)) => Egress::Refuse(*reason),
            None => Egress::Refuse(Reason::NoRoute),
        }
    }

    /// The lists it was made from.
    pub fn spec(&self) -> &TopologySpec {
        &self.spec
    }

    /// A port's state.
    pub fn port(&self, port: PortId) -> Option<&PortState> {
        self.spec.ports.get(usize::from(port.0))
    }

    /// Whether the address is one of the gateway's own, or the network or broadcast address of a network that it is
    /// attached to.
    #[inline(always)]
    pub fn is_special<A: Address>(&self, address: A) -> bool {
        let bits = address.bits();
        let may_be =
            if A::IS_V4 { self.marked_v4.may_hold(bits as u32) } else { self.marked_v6.may_hold(fold(bits)) };
        may_be && self.is_listed(address.into())
    }

    #[cold]
    fn is_listed(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.is_own_v4(address) || self.is_directed_broadcast(address),
            IpAddr::V6(address) => self.is_own_v6(address),
        }
    }

    /// Whether the address is one of the gateway's own.
    pub fn is_own_v4(&self, address: Ipv4Addr) -> bool {
        self.own_v4.binary_search(&address).is_ok()
    }

    /// Whether the address is one of the gateway's own.
    #[inline]
    pub fn is_own_v6(&self, address: Ipv6Addr) -> bool {
        self.own_v6.binary_search(&address).is_ok()
    }

    /// Whether the address is the network or broadcast address of a network the gateway is attached to.
    pub fn is_directed_broadcast(&self, address: Ipv4Addr) -> bool {
        self.broadcasts.binary_search(&address).is_ok()
    }

    /// The address the gateway answers from on a port, for a peer of this family.
    /// IPv6 prefers a global address; `None` where the port has no address of the family.
    pub fn answer_address(&self, port: PortId, peer: &Addresses) -> Option<IpAddr> {
        let addresses = &self.port(port)?.addresses;
        match peer {
            Addresses::V4(..) => addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv4),
            Addresses::V6(..) => {
                let mut own = addresses.iter().map(IpNet::addr).filter(IpAddr::is_ipv6);
                let first = own.clone().next();
                own.find(|a| matches!(a, IpAddr::V6(a) if !is_link_local(a))).or(first)
            }
        }
    }
}

/// Destination → next hop: the routes, and as host routes the neighbours and these special addresses.
fn next_hops(spec: &TopologySpec, special: &[(IpAddr, Reason)]) -> Trie<Next> {
    let known: HashMap<(PortId, IpAddr), Mac> =
        spec.neighbours.iter().map(|n| ((n.port, n.address), n.mac)).collect();
    let is_up = |port: PortId| spec.ports.get(usize::from(port.0)).is_some_and(|p| p.up);
    let hop = |port: PortId, destination: Mac| {
        let state = &spec.ports[usize::from(port.0)];
        Next::Hop(Hop { port, destination, source: state.mac, mtu: state.mtu })
    };
    let compiled = |kind: RouteKind| match kind {
        RouteKind::Refused => Next::Refused(Reason::RouteRefused),
        RouteKind::Via(port, _) if !is_up(port) => Next::Refused(Reason::PortDown),
        RouteKind::Via(port, None) => Next::OnLink(port),
        RouteKind::Via(port, Some(gateway)) => match known.get(&(port, gateway)) {
            Some(&mac) => hop(port, mac),
            None => Next::Resolve(port, gateway),
        },
    };
    let mut values = Vec::new();
    let mut networks = Vec::with_capacity(spec.routes.len() + spec.neighbours.len());
    // A full table of routes leads to a handful of gateways: equal routes share a value, which stays in the cache.
    let mut shared: HashMap<RouteKind, u32> = HashMap::new();
    for route in &spec.routes {
        let value = *shared.entry(route.kind).or_insert_with(|| {
            values.push(compiled(route.kind));
            values.len() as u32 - 1
        });
        networks.push((route.prefix, value));
    }
    let routes = Trie::new(networks.iter().copied(), values.clone());
    // A neighbour is a host route, but only where the routes agree that it is on this link: a neighbour entry
    // must not override a route that leads elsewhere.
    for neighbour in &spec.neighbours {
        let on_link =
            matches!(routes.find(neighbour.address), Some(Next::OnLink(port)) if *port == neighbour.port);
        if on_link {
            networks.push((IpNet::from(neighbour.address), values.len() as u32));
            values.push(hop(neighbour.port, neighbour.mac));
        }
    }
    for (address, reason) in special {
        networks.push((IpNet::from(*address), values.len() as u32));
        values.push(Next::Refused(*reason));
    }
    if networks.len() == spec.routes.len() { routes } else { Trie::new(networks, values) }
}

/// An address in 32 bits, for [`Marks`].
fn fold(bits: u128) -> u32 {
    let half = (bits >> 64) as u64 ^ bits as u64;
    (half >> 32) as u32 ^ half as u32
}

fn is_link_local(address: &Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TopologySpec {
        let port = |last: u8, net: &str| PortState {
            mac: [2, 0, 0, 0, 0, last],
            mtu: 1500,
            up: true,
            addresses: vec![net.parse().unwrap()],
        };
        TopologySpec {
            ports: vec![port(1, "10.1.0.1/24"), port(2, "10.2.0.1/24")],
            routes: vec![
                Route { prefix: "10.1.0.0/24".parse().unwrap(), kind: RouteKind::Via(PortId(0), None) },
                Route { prefix: "10.2.0.0/24".parse().unwrap(), kind: RouteKind::Via(PortId(1), None) },
                Route {
                    prefix: "0.0.0.0/0".parse().unwrap(),
                    kind: RouteKind::Via(PortId(1), Some("10.2.0.254".parse().unwrap())),
                },
                Route { prefix: "192.0.2.0/24".parse().unwrap(), kind: RouteKind::Refused },
            ],
            neighbours: vec![Neighbour {
                port: PortId(0),
                address: "10.1.0.9".parse().unwrap(),
                mac: [2, 9, 9, 9, 9, 9],
            }],
            own_addresses: vec![],
        }
    }

    #[test]
    fn a_known_neighbour_gives_a_complete_hop_and_an_unknown_one_asks_for_resolution() {
        let topology = Topology::new(spec());
        let hop =
            Hop { port: PortId(0), destination: [2, 9, 9, 9, 9, 9], source: [2, 0, 0, 0, 0, 1], mtu: 1500 };
        assert_eq!(topology.egress("10.1.0.9".parse().unwrap()), Egress::Send(&hop));
        let unknown: IpAddr = "10.1.0.8".parse().unwrap();
        assert_eq!(topology.egress(unknown), Egress::Resolve(PortId(0), unknown));
        assert_eq!(
            topology.egress("8.8.8.8".parse().unwrap()),
            Egress::Resolve(PortId(1), "10.2.0.254".parse().unwrap())
        );
        assert_eq!(topology.egress("192.0.2.1".parse().unwrap()), Egress::Refuse(Reason::RouteRefused));
        assert_eq!(topology.egress("2001:db8::1".parse().unwrap()), Egress::Refuse(Reason::NoRoute));
    }

    #[test]
    fn nothing_goes_to_the_gateway_itself_or_to_a_directed_broadcast() {
        let mut spec = spec();
        spec.own_addresses.push("192.0.2.9".parse().unwrap());
        // Not even when somebody claims the address.
        spec.neighbours[0].address = "10.1.0.1".parse().unwrap();
        let topology = Topology::new(spec);
        for (address, reason) in [
            ("10.1.0.1", Reason::LocalServiceUndeclared),
            ("192.0.2.9", Reason::LocalServiceUndeclared),
            ("10.1.0.255", Reason::DestinationInvalid),
            ("10.2.0.0", Reason::DestinationInvalid),
        ] {
            let address: Ipv4Addr = address.parse().unwrap();
            assert_eq!(topology.egress(address.into()), Egress::Refuse(reason), "{address}");
            assert!(topology.is_special(address));
        }
    }

    #[test]
    fn few_addresses_have_to_be_searched_for() {
        let mut spec = spec();
        spec.own_addresses = (0..200).map(|n| Ipv4Addr::new(10, 3, n, 1).into()).collect();
        let topology = Topology::new(spec);
        let hosts = (0..200).flat_map(|n| (2..200).map(move |host| Ipv4Addr::new(10, 3, n, host)));
        let taken = hosts.clone().filter(|host| topology.marked_v4.may_hold(host.to_bits())).count();
        assert!(taken < hosts.count() / 32, "{taken}");
    }

    #[test]
    fn a_neighbour_on_one_link_does_not_override_a_route_to_another() {
        let mut spec = spec();
        spec.neighbours[0].address = "10.2.0.7".parse().unwrap();
        let topology = Topology::new(spec);
        let address: IpAddr = "10.2.0.7".parse().unwrap();
        assert_eq!(topology.egress(address), Egress::Resolve(PortId(1), address));
    }

    #[test]
    fn a_route_out_of_a_port_that_is_down_is_refused() {
        let mut spec = spec();
        spec.ports[0].up = false;
        let topology = Topology::new(spec);
        assert_eq!(topology.egress("10.1.0.9".parse().unwrap()), Egress::Refuse(Reason::PortDown));
    }
}
