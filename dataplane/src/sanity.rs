//! What no segment may send and nothing is sent to, whatever the policy says: link-layer and address checks
//! (CONFORMANCE group S; RFC 6890, RFC 4291).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::headers::{Addresses, Fragment, Headers};
use crate::topology::Topology;
use crate::verdict::{PortId, Reason};
use crate::wire::ethernet;

/// Checks a parsed frame: its Ethernet addresses, its tag, and both IP addresses.
pub fn check(frame: &[u8], headers: &Headers, ingress: PortId, topology: &Topology) -> Result<(), Reason> {
    check_addresses(frame, headers.network, &headers.addresses, ingress, topology)
}

/// As [`check`], for a piece of a datagram.
pub fn check_fragment(
    frame: &[u8],
    fragment: &Fragment,
    ingress: PortId,
    topology: &Topology,
) -> Result<(), Reason> {
    check_addresses(frame, fragment.network, &fragment.addresses, ingress, topology)
}

#[inline(always)]
fn check_addresses(
    frame: &[u8],
    network: u16,
    addresses: &Addresses,
    ingress: PortId,
    topology: &Topology,
) -> Result<(), Reason> {
    // A tag never reaches the untagged rules; segments by VLAN come later. Priority tags (VLAN 0) are tags too.
    if usize::from(network) != ethernet::HEADER_BYTES {
        return Err(Reason::VlanUnexpected);
    }
    let own = topology.port(ingress).map(|port| port.mac).ok_or(Reason::PortDown)?;
    if frame.first_chunk::<6>() != Some(&own) {
        return Err(Reason::EthernetNotForUs);
    }
    match *addresses {
        Addresses::V4(source, destination) => v4(source, destination, topology),
        Addresses::V6(source, destination) => v6(source, destination, topology),
    }
}

fn v4(source: Ipv4Addr, destination: Ipv4Addr, topology: &Topology) -> Result<(), Reason> {
    if !is_forwardable_v4(source) || topology.is_directed_broadcast(source) {
        return Err(Reason::SourceInvalid);
    }
    if topology.is_own_v4(source) {
        return Err(Reason::SourceIsGateway);
    }
    if source == destination {
        return Err(Reason::Land);
    }
    if !is_forwardable_v4(destination) || topology.is_directed_broadcast(destination) {
        return Err(Reason::DestinationInvalid);
    }
    if topology.is_own_v4(destination) {
        return Err(Reason::LocalServiceUndeclared);
    }
    Ok(())
}

fn v6(source: Ipv6Addr, destination: Ipv6Addr, topology: &Topology) -> Result<(), Reason> {
    // Loopback and the gateway's own link-local addresses are own addresses too, but are nobody's source here.
    if !is_forwardable_v6(source) {
        return Err(Reason::SourceInvalid);
    }
    if topology.is_own_v6(source) {
        return Err(Reason::SourceIsGateway);
    }
    if source == destination {
        return Err(Reason::Land);
    }
    if topology.is_own_v6(destination) {
        return Err(Reason::LocalServiceUndeclared);
    }
    if !is_forwardable_v6(destination) {
        return Err(Reason::DestinationInvalid);
    }
    Ok(())
}

/// Not "this network" (0/8), loopback (127/8), link-local (169.254/16), multicast (224/4) or reserved (240/4, with the
/// limited broadcast address).
fn is_forwardable_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    !(first == 0 || first == 127 || first >= 224 || (first == 169 && second == 254))
}

/// Global unicast (2000::/3), unique local (fc00::/7) or the NAT64 prefixes (64:ff9b::/96, RFC 6052, and
/// 64:ff9b:1::/48, RFC 8215). All else is unspecified, loopback, mapped, link-local, multicast or unassigned.
fn is_forwardable_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, ..] = address.segments();
    first & 0xe000 == 0x2000
        || first & 0xfe00 == 0xfc00
        || (first == 0x64 && second == 0xff9b && (third == 1 || address.segments()[2..6] == [0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unicast_addresses_that_can_be_routed_are_forwardable() {
        for address in ["10.0.0.1", "192.0.2.1", "223.255.255.255", "169.253.0.1", "169.255.0.1", "1.0.0.0"] {
            assert!(is_forwardable_v4(address.parse().unwrap()), "{address}");
        }
        for address in ["0.0.0.1", "127.9.9.9", "169.254.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            assert!(!is_forwardable_v4(address.parse().unwrap()), "{address}");
        }
        for address in ["2001:db8::1", "fd00::1", "64:ff9b::a00:1", "64:ff9b:1::1", "3fff::1"] {
            assert!(is_forwardable_v6(address.parse().unwrap()), "{address}");
        }
        for address in
            ["::", "::1", "::ffff:10.0.0.1", "fe80::1", "fec0::1", "ff02::1", "4000::1", "64:ff9b::1:0:0:0"]
        {
            assert!(!is_forwardable_v6(address.parse().unwrap()), "{address}");
        }
    }
}
