//! Dumps of the kernel's tables, reduced to what the packet path needs.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::topology::{Mac, Neighbour, PortState, Route, RouteKind};
use bulkhead_dataplane::verdict::PortId;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Entry;
use crate::netlink::Netlink;

/// Every address with its prefix length, by interface index, in the kernel's order. Tentative ones are included:
/// a packet to an address that is being checked must not be forwarded either.
pub(super) fn addresses(netlink: &mut Netlink) -> io::Result<Vec<(u32, IpNet)>> {
    netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |object| {
        let RouteNetlinkMessage::NewAddress(message) = object else { return None };
        address(&message)
    })
}

/// On a point-to-point link IFA_LOCAL is ours and IFA_ADDRESS the peer's; IPv6 has IFA_ADDRESS alone otherwise.
fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let net = IpNet::new(local.or(plain)?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

/// The resolved neighbours behind ports, sorted, so that two dumps of equal tables are equal.
pub(super) fn neighbours(netlink: &mut Netlink, ports: &HashMap<u32, PortId>) -> io::Result<Vec<Entry>> {
    let mut entries =
        netlink.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), |object| {
            let RouteNetlinkMessage::NewNeighbour(message) = object else { return None };
            neighbour(&message, ports)
        })?;
    entries.sort_unstable_by_key(|entry| (entry.neighbour.port.0, entry.neighbour.address));
    Ok(entries)
}

/// The states in which the kernel itself would send to the entry (`NUD_VALID`, include/net/neighbour.h). Multicast
/// entries, which the kernel computes for itself, and addresses no host can have are left out.
fn neighbour(message: &NeighbourMessage, ports: &HashMap<u32, PortId>) -> Option<Entry> {
    let port = *ports.get(&message.header.ifindex)?;
    let valid = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let address = destination(message).filter(|address| valid && !address.is_multicast())?;
    let mac: Mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })?;
    let unicast = mac[0] & 1 == 0 && mac != Mac::default();
    let stale = message.header.state == NeighbourState::Stale;
    unicast.then_some(Entry { neighbour: Neighbour { port, address, mac }, stale })
}

pub(super) fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

/// Whether a route takes part in forwarding: in the main table, for every source and every type of service. Policy
/// routing (other tables, TOS, source prefixes) is not followed.
pub(super) fn is_wanted(message: &RouteMessage) -> bool {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or(u32::from(header.table)) == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.source_prefix_length == 0
        && header.tos == 0
        && !header.flags.contains(RouteFlags::Cloned)
}

/// One way of a route: the port, `None` for an interface that is none, and the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    port: Option<PortId>,
    gateway: Option<IpAddr>,
    /// The kernel has not taken it out of use, and its port is up.
    live: bool,
}

/// A route among others to its prefix; the smallest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    /// False sorts first: a route that can be used beats one that cannot, whatever the metric.
    dead: bool,
    metric: u32,
    kind: RouteKind,
}

/// The best route of every prefix, sorted by prefix.
///
/// Of several to one prefix the lowest metric wins among those that are usable; between equals the kernel's first. Of a
/// multipath route the first usable way is taken, or its first if there is none: traffic is not spread.
/// Link-local prefixes are refused, since such packets are never forwarded (RFC 4291, section 2.5.6).
pub(super) fn routes(
    netlink: &mut Netlink,
    ports: &HashMap<u32, PortId>,
    states: &[PortState],
) -> io::Result<Vec<Route>> {
    // Two requests, because the kernel's filter by table works within one family only.
    let mut best: HashMap<IpNet, Candidate> = HashMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let candidates = netlink.dump(RouteNetlinkMessage::GetRoute(request), |object| {
            let RouteNetlinkMessage::NewRoute(message) = object else { return None };
            route(&message, ports, states)
        });
        for (prefix, candidate) in supported(candidates)? {
            match best.entry(prefix) {
                Slot::Vacant(slot) => {
                    slot.insert(candidate);
                }
                Slot::Occupied(mut slot) => {
                    let current = slot.get();
                    if (candidate.dead, candidate.metric) < (current.dead, current.metric) {
                        slot.insert(candidate);
                    }
                }
            }
        }
    }
    let mut routes: Vec<Route> =
        best.into_iter().map(|(prefix, candidate)| Route { prefix, kind: candidate.kind }).collect();
    routes.sort_unstable_by_key(|route| route.prefix);
    Ok(routes)
}

/// A kernel without a table, or without IPv6, has no routes there.
fn supported<T>(dumped: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    match dumped {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(nix::libc::ENOENT | nix::libc::EAFNOSUPPORT | nix::libc::EOPNOTSUPP)
            ) =>
        {
            Ok(Vec::new())
        }
        other => other,
    }
}

fn route(
    message: &RouteMessage,
    ports: &HashMap<u32, PortId>,
    states: &[PortState],
) -> Option<(IpNet, Candidate)> {
    if !is_wanted(message) {
        return None;
    }
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let prefix =
        IpNet::new(destination.unwrap_or(any), message.header.destination_prefix_length).ok()?.trunc();
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let (kind, dead) = match message.header.kind {
        RouteType::Unicast if is_link_local(&prefix) => (RouteKind::Refused, false),
        RouteType::Unicast => match way(message, ports, states) {
            Some(Way { port: Some(port), gateway, live }) => (RouteKind::Via(port, gateway), !live),
            Some(Way { port: None, live, .. }) => (RouteKind::Refused, !live),
            None => (RouteKind::Refused, false),
        },
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            (RouteKind::Refused, false)
        }
        // Local, broadcast, anycast and multicast are about the host, not about forwarding.
        _ => return None,
    };
    Some((prefix, Candidate { dead, metric: metric.unwrap_or(0), kind }))
}

/// The way a unicast route takes; `None` for one that needs an encapsulation, which the gateway does not do.
fn way(message: &RouteMessage, ports: &HashMap<u32, PortId>, states: &[PortState]) -> Option<Way> {
    let alive = |port: Option<PortId>| {
        // Where it is not a port, only the kernel's flag is known.
        port.is_none_or(|port| states.get(usize::from(port.0)).is_some_and(|state| state.up))
    };
    let mut output = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => output = Some(*index),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return None,
            RouteAttribute::MultiPath(hops) => {
                let way = |hop: &RouteNextHop| {
                    let port = ports.get(&hop.interface_index).copied();
                    let live = !hop.flags.contains(RouteNextHopFlags::Dead) && alive(port);
                    Way { port, gateway: gateway(&hop.attributes), live }
                };
                let plain = |hop: &&RouteNextHop| {
                    !hop.attributes.iter().any(|attribute| {
                        matches!(attribute, RouteAttribute::Encap(_) | RouteAttribute::EncapType(_))
                    })
                };
                let mut ways = hops.iter().filter(plain).map(way);
                let first = ways.next()?;
                return Some(if first.live { first } else { ways.find(|way| way.live).unwrap_or(first) });
            }
            _ => {}
        }
    }
    let port = ports.get(&output?).copied();
    let live = !message.header.flags.contains(RouteFlags::Dead) && alive(port);
    Some(Way { port, gateway: gateway(&message.attributes), live })
}

/// The gateway, which may be of the other family (RFC 8950).
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn is_link_local(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => net.prefix_len() >= 16 && net.addr().is_link_local(),
        IpNet::V6(net) => net.prefix_len() >= 10 && net.addr().is_unicast_link_local(),
    }
}
