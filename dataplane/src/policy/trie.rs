//! Address → segment, by longest prefix, for both families.
//!
//! Every packet's source is looked up here. A node is an array over one byte of the address; bytes in which no two
//! networks differ are skipped, and one comparison against the networks' common prefix makes up for them. So the
//! usual plan (many /24 in 10/8, many /64 in one /48) takes a comparison and one or two array loads in a family.
//! The crate `poptrie` was tried first: its six-bit strides take five levels to a /24 and eleven to a /64, each with
//! two population counts, for which the x86-64 baseline has no instruction. It took four times as long.
//!
//! Memory: there are fewer nodes (1 KiB each) than networks, for every node separates at least two.

use std::net::IpAddr;

use ipnet::IpNet;

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

/// One tree for each family, so that neither can answer for the other.
#[derive(Clone, Default)]
pub(super) struct Trie {
    v4: Tree<u32>,
    v6: Tree<u128>,
    places: Vec<Place>,
}

impl Trie {
    /// From networks without host bits, no two equal, each with the number of its place.
    pub(super) fn new(networks: &[(IpNet, SegmentId)], places: Vec<Place>) -> Trie {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, segment) in networks {
            match network {
                IpNet::V4(n) => {
                    v4.push(Network { key: n.addr().to_bits(), len: n.prefix_len(), place: segment.0 });
                }
                IpNet::V6(n) => {
                    v6.push(Network { key: n.addr().to_bits(), len: n.prefix_len(), place: segment.0 });
                }
            }
        }
        Trie { v4: Tree::new(v4), v6: Tree::new(v6), places }
    }

    /// The place of the longest network that contains the address.
    #[inline]
    pub(super) fn find(&self, address: IpAddr) -> Option<&Place> {
        let place = match address {
            IpAddr::V4(address) => self.v4.find(address.to_bits()),
            IpAddr::V6(address) => self.v6.find(address.to_bits()),
        };
        // `NOWHERE` is beyond every place.
        self.places.get(place as usize)
    }
}

/// An address as a number.
trait Key: Copy + Ord {
    const BITS: u8;
    /// The byte with this many bytes below it.
    fn byte(self, below: u8) -> u8;
    fn mask(len: u8) -> Self;
    fn masked(self, mask: Self) -> Self;
    fn is_in(self, prefix: Self, mask: Self) -> bool;
    /// How many leading bits are equal.
    fn common(self, other: Self) -> u8;
}

macro_rules! key {
    ($bits:ty) => {
        impl Key for $bits {
            const BITS: u8 = <$bits>::BITS as u8;

            #[inline]
            fn byte(self, below: u8) -> u8 {
                (self >> (8 * u32::from(below))) as u8
            }

            fn mask(len: u8) -> Self {
                <$bits>::MAX.checked_shl(<$bits>::BITS - u32::from(len)).unwrap_or(0)
            }

            fn masked(self, mask: Self) -> Self {
                self & mask
            }

            #[inline]
            fn is_in(self, prefix: Self, mask: Self) -> bool {
                self & mask == prefix
            }

            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
        }
    };
}

key!(u32);
key!(u128);

/// The place of addresses in no network.
const NOWHERE: u32 = u32::MAX >> 2;

/// Where to go on: 2 bits of kind, and a place, a check, or a node (4 bits: which byte; 26 bits: its index).
#[derive(Clone, Copy)]
struct Step(u32);

const PLACE: u32 = 0;
const CHECK: u32 = 1;
const INDEX_BITS: u32 = 26;

impl Step {
    fn place(place: u32) -> Step {
        Step(PLACE << 30 | place)
    }

    fn check(index: usize) -> Step {
        Step(CHECK << 30 | index as u32)
    }

    fn node(index: usize, below: u8) -> Step {
        Step(2 << 30 | u32::from(below) << INDEX_BITS | index as u32)
    }
}

/// Whether the address is in the prefix.
#[derive(Clone, Copy)]
struct Check<K> {
    prefix: K,
    mask: K,
    hit: Step,
    miss: Step,
}

#[derive(Clone, Copy)]
struct Network<K> {
    key: K,
    len: u8,
    place: u32,
}

#[derive(Clone)]
struct Tree<K> {
    root: Step,
    nodes: Vec<[Step; 256]>,
    checks: Vec<Check<K>>,
}

impl<K> Default for Tree<K> {
    fn default() -> Self {
        Tree { root: Step::place(NOWHERE), nodes: Vec::new(), checks: Vec::new() }
    }
}

impl<K: Key> Tree<K> {
    fn new(mut networks: Vec<Network<K>>) -> Tree<K> {
        networks.sort_unstable_by_key(|network| (network.key, network.len));
        let mut tree = Tree::default();
        tree.root = tree.build(&networks, 0, NOWHERE);
        tree
    }

    #[inline]
    fn find(&self, key: K) -> u32 {
        let mut step = self.root;
        loop {
            step = match step.0 >> 30 {
                PLACE => return step.0,
                CHECK => {
                    let check = &self.checks[(step.0 & NOWHERE) as usize];
                    if key.is_in(check.prefix, check.mask) { check.hit } else { check.miss }
                }
                _ => {
                    let below = (step.0 >> INDEX_BITS & 0xf) as u8;
                    let node = &self.nodes[(step.0 & ((1 << INDEX_BITS) - 1)) as usize];
                    node[usize::from(key.byte(below))]
                }
            };
        }
    }

    /// The step for addresses that share their first `known` bits with each other and with all these networks,
    /// which are sorted; where none of them matches, `outer` does.
    fn build(&mut self, mut networks: &[Network<K>], known: u8, mut outer: u32) -> Step {
        // Networks no longer than what is known hold all these addresses; the longest of them comes last.
        while let [first, rest @ ..] = networks
            && first.len <= known
        {
            outer = first.place;
            networks = rest;
        }
        let [first, .., last] = networks else {
            return match networks {
                [only] => self.checked(networks, only.len, outer),
                _ => Step::place(outer),
            };
        };
        let shortest = networks.iter().map(|network| network.len).min().unwrap_or(0);
        let common = first.key.common(last.key).min(shortest);
        if common / 8 > known / 8 {
            self.checked(networks, common, outer)
        } else {
            self.node(networks, known / 8, outer)
        }
    }

    fn checked(&mut self, networks: &[Network<K>], common: u8, outer: u32) -> Step {
        let hit = self.build(networks, common, outer);
        let (mask, miss) = (K::mask(common), Step::place(outer));
        self.checks.push(Check { prefix: networks[0].key.masked(mask), mask, hit, miss });
        Step::check(self.checks.len() - 1)
    }

    /// An array over this byte, counted from the front.
    fn node(&mut self, networks: &[Network<K>], byte: u8, outer: u32) -> Step {
        let (end, below) = (8 * (byte + 1), K::BITS / 8 - 1 - byte);
        let (mut short, long): (Vec<Network<K>>, Vec<Network<K>>) =
            networks.iter().partition(|network| network.len <= end);
        // Networks that end within the byte fill a range of it, longer ones over shorter ones.
        let mut outers = [outer; 256];
        short.sort_unstable_by_key(|network| network.len);
        for network in short {
            let low = usize::from(network.key.byte(below));
            outers[low..low + (1 << (end - network.len))].fill(network.place);
        }
        let mut steps = outers.map(Step::place);
        let index = self.nodes.len();
        self.nodes.push(steps);
        for group in long.chunk_by(|a, b| a.key.byte(below) == b.key.byte(below)) {
            let value = usize::from(group[0].key.byte(below));
            steps[value] = self.build(group, end, outers[value]);
        }
        self.nodes[index] = steps;
        Step::node(index, below)
    }
}
