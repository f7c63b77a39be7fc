//! Address → segment, by longest prefix, for both families.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use poptrie::Poptrie;

use crate::verdict::{PortId, SegmentId};

/// All that a look-up needs of a segment, so that it stays one cache miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Bit *n*: port *n* leads to the segment.
    pub ports: u64,
    pub segment: SegmentId,
    /// Class as a source: the row in the matrix.
    pub row: u32,
    /// Class as a destination: the column in the matrix.
    pub column: u32,
}

impl Place {
    /// Whether a source in this segment may enter by this port.
    #[inline]
    pub(super) fn admits(&self, ingress: PortId) -> bool {
        self.ports.checked_shr(u32::from(ingress.0)).is_some_and(|ports| ports & 1 == 1)
    }
}

/// One trie for each family, so that neither can answer for the other.
#[derive(Clone, Default)]
pub(super) struct Trie {
    v4: Poptrie<Ipv4Net, Place>,
    v6: Poptrie<Ipv6Net, Place>,
}

impl Trie {
    /// From networks without host bits, no two equal.
    pub(super) fn new(networks: impl Iterator<Item = (IpNet, Place)> + Clone) -> Trie {
        Trie {
            v4: networks
                .clone()
                .filter_map(|(net, place)| match net {
                    IpNet::V4(net) => Some((net, place)),
                    IpNet::V6(_) => None,
                })
                .collect(),
            v6: networks
                .filter_map(|(net, place)| match net {
                    IpNet::V4(_) => None,
                    IpNet::V6(net) => Some((net, place)),
                })
                .collect(),
        }
    }

    /// The place of the longest network that contains the address.
    #[inline]
    pub(super) fn find(&self, address: IpAddr) -> Option<&Place> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address),
            IpAddr::V6(address) => self.v6.lookup(address),
        }
    }
}
