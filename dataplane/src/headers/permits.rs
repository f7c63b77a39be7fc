//! What crosses only where the segments at both ends permit it: options, extension headers, and wrong checksums.

use std::ops::BitOrAssign;

use crate::verdict::Reason;

/// A set of unusual things: those that a packet has, or those that a segment permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[must_use]
pub struct Permits(u16);

impl Permits {
    /// Nothing.
    pub const NONE: Permits = Permits(0);
    /// IPv4 record route (RFC 791).
    pub const IPV4_RECORD_ROUTE: Permits = Permits(1);
    /// IPv4 internet timestamp (RFC 791).
    pub const IPV4_TIMESTAMP: Permits = Permits(1 << 1);
    /// IPv4 router alert (RFC 2113).
    pub const IPV4_ROUTER_ALERT: Permits = Permits(1 << 2);
    /// Any other IPv4 option but the source routes, which never cross.
    pub const IPV4_UNKNOWN_OPTION: Permits = Permits(1 << 3);
    /// IPv6 router alert, a hop-by-hop option (RFC 2711).
    pub const IPV6_ROUTER_ALERT: Permits = Permits(1 << 4);
    /// Any other hop-by-hop or destination option but padding, which always crosses, and jumbo, which never does.
    pub const IPV6_UNKNOWN_OPTION: Permits = Permits(1 << 5);
    /// Routing header type 2, mobile IPv6 (RFC 6275).
    pub const IPV6_ROUTING_2: Permits = Permits(1 << 6);
    /// Routing header type 3, RPL (RFC 6554).
    pub const IPV6_ROUTING_3: Permits = Permits(1 << 7);
    /// Routing header type 4, segment routing (RFC 8754).
    pub const IPV6_SRH: Permits = Permits(1 << 8);
    /// A wrong checksum of TCP, UDP or an echo in a packet that opens a connection.
    pub const BAD_CHECKSUM: Permits = Permits(1 << 9);

    /// Each with its name in the configuration.
    pub const ALL: [(Permits, &'static str); 10] = [
        (Permits::BAD_CHECKSUM, "bad-checksum"),
        (Permits::IPV4_RECORD_ROUTE, "ipv4-record-route"),
        (Permits::IPV4_ROUTER_ALERT, "ipv4-router-alert"),
        (Permits::IPV4_TIMESTAMP, "ipv4-timestamp"),
        (Permits::IPV4_UNKNOWN_OPTION, "ipv4-unknown-option"),
        (Permits::IPV6_ROUTER_ALERT, "ipv6-router-alert"),
        (Permits::IPV6_ROUTING_2, "ipv6-routing-2"),
        (Permits::IPV6_ROUTING_3, "ipv6-routing-3"),
        (Permits::IPV6_SRH, "ipv6-srh"),
        (Permits::IPV6_UNKNOWN_OPTION, "ipv6-unknown-option"),
    ];

    const IPV4_OPTIONS: u16 = 0xf;
    const IPV6_OPTIONS: u16 = 0x30;
    const ROUTING: u16 = 0x1c0;

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Permits> {
        Permits::ALL.iter().find(|(_, known)| *known == name).map(|(permit, _)| *permit)
    }

    /// The names of all that are in the set, in their order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Permits::ALL.into_iter().filter(move |(permit, _)| self.0 & permit.0 != 0).map(|(_, name)| name)
    }

    /// Whether it is empty, as it is of nearly every packet.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of the other are in it.
    pub const fn contains(self, other: Permits) -> bool {
        self.0 & other.0 == other.0
    }

    /// What both have.
    pub const fn intersection(self, other: Permits) -> Permits {
        Permits(self.0 & other.0)
    }

    /// Whether there is a routing header: then the transport checksum may be over another address than the header's
    /// (RFC 8200, section 8.1).
    pub const fn has_routing(self) -> bool {
        self.0 & Permits::ROUTING != 0
    }

    /// Why a packet that has these does not cross where `permitted` is permitted; `None` where it does.
    pub const fn refusal(self, permitted: Permits) -> Option<Reason> {
        let missing = self.0 & !permitted.0;
        if missing & Permits::IPV4_OPTIONS != 0 {
            Some(Reason::Ipv4OptionDenied)
        } else if missing & Permits::ROUTING != 0 {
            Some(Reason::Ipv6RoutingHeader)
        } else if missing & Permits::IPV6_OPTIONS != 0 {
            Some(Reason::Ipv6OptionDenied)
        } else {
            None
        }
    }
}

impl BitOrAssign for Permits {
    fn bitor_assign(&mut self, other: Permits) {
        self.0 |= other.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permit_has_its_own_bit_and_name_and_all_but_the_checksum_a_reason() {
        let mut all = Permits::NONE;
        for (permit, name) in Permits::ALL {
            assert_eq!(permit.0.count_ones(), 1);
            assert!(!all.contains(permit));
            all |= permit;
            assert_eq!(Permits::from_name(name), Some(permit));
            assert_eq!(permit.names().collect::<Vec<_>>(), [name]);
            assert_eq!(permit.refusal(Permits::NONE).is_none(), permit == Permits::BAD_CHECKSUM);
            assert_eq!(permit.refusal(permit), None);
        }
        assert!(Permits::ALL.is_sorted_by_key(|(_, name)| *name));
        assert_eq!(all.names().count(), Permits::ALL.len());
    }
}
