//! Address → value, by longest prefix, for both families: segments in [`policy`](crate::policy), next hops in
//! [`topology`](crate::topology).
//!
//! Every packet's source and destination are looked up here. A node is an array over one byte of the address; bytes
//! in which no two networks differ are skipped, and one comparison against the networks' common prefix makes up for
//! them. So the usual plan (many /24 in 10/8, many /64 in one /48) takes a comparison and one or two array loads in
//! a family. The crate `poptrie` was tried first: its six-bit strides take five levels to a /24 and eleven to a /64,
//! each with two population counts, for which the x86-64 baseline has no instruction. It took four times as long to
//! look up, and longer the more it held to insert.
//!
//! Built at once and then immutable, so that copies share it, in O(n log n) for n networks. There are fewer nodes (1 KiB each) than networks,
//! for every node separates at least two.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::headers::Address;

/// One tree for each family, so that neither can answer for the other.
#[derive(Clone)]
pub(crate) struct Trie<T> {
    v4: Tree<u32>,
    v6: Tree<u128>,
    values: Arc<[T]>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Trie { v4: Tree::default(), v6: Tree::default(), values: Arc::new([]) }
    }
}

impl<T> Trie<T> {
    /// From networks, each with the index of its value. Host bits do not count; of equal networks the last stays.
    pub(crate) fn new(networks: impl IntoIterator<Item = (IpNet, u32)>, values: Vec<T>) -> Trie<T> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, value) in networks {
            let len = network.prefix_len();
            match network {
                IpNet::V4(n) => v4.push(Network { key: n.network().to_bits(), len, value }),
                IpNet::V6(n) => v6.push(Network { key: n.network().to_bits(), len, value }),
            }
        }
        Trie { v4: Tree::new(v4), v6: Tree::new(v6), values: values.into() }
    }

    /// All values.
    pub(crate) fn values(&self) -> &[T] {
        &self.values
    }

    /// The value of the longest network that contains the address.
    #[inline]
    pub(crate) fn find(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(address) => self.find_in(address),
            IpAddr::V6(address) => self.find_in(address),
        }
    }

    /// As [`Trie::find`], where the family is known.
    #[inline(always)]
    pub(crate) fn find_in<A: Address>(&self, address: A) -> Option<&T> {
        let value = if A::IS_V4 { self.v4.find(address.bits() as u32) } else { self.v6.find(address.bits()) };
        // `NOTHING` is beyond every value.
        self.values.get(value as usize)
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

/// The value of addresses in no network.
const NOTHING: u32 = u32::MAX >> 2;

/// Where to go on: 2 bits of kind, and a value, a check, or a node (4 bits: which byte; 26 bits: its index).
#[derive(Clone, Copy)]
struct Step(u32);

const VALUE: u32 = 0;
const CHECK: u32 = 1;
const INDEX_BITS: u32 = 26;

impl Step {
    fn value(value: u32) -> Step {
        Step(VALUE << 30 | value)
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
    value: u32,
}

#[derive(Clone)]
struct Tree<K> {
    root: Step,
    nodes: Arc<[[Step; 256]]>,
    checks: Arc<[Check<K>]>,
}

impl<K> Default for Tree<K> {
    fn default() -> Self {
        Tree { root: Step::value(NOTHING), nodes: Arc::new([]), checks: Arc::new([]) }
    }
}

/// A tree while it is built.
struct Builder<K> {
    nodes: Vec<[Step; 256]>,
    checks: Vec<Check<K>>,
}

impl<K: Key> Tree<K> {
    fn new(mut networks: Vec<Network<K>>) -> Tree<K> {
        // Stable, so that of equal networks the last in the list is the last in the row.
        networks.sort_by_key(|network| (network.key, network.len));
        networks.dedup_by(|later, kept| {
            let equal = (later.key, later.len) == (kept.key, kept.len);
            if equal {
                *kept = *later;
            }
            equal
        });
        let mut builder = Builder { nodes: Vec::new(), checks: Vec::new() };
        let root = builder.build(&networks, 0, NOTHING);
        Tree { root, nodes: builder.nodes.into(), checks: builder.checks.into() }
    }

    #[inline]
    fn find(&self, key: K) -> u32 {
        let mut step = self.root;
        loop {
            step = match step.0 >> 30 {
                VALUE => return step.0,
                CHECK => {
                    let check = &self.checks[(step.0 & NOTHING) as usize];
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
}

impl<K: Key> Builder<K> {
    /// The step for addresses that share their first `known` bits with each other and with all these networks,
    /// which are sorted; where none of them matches, `outer` does.
    fn build(&mut self, mut networks: &[Network<K>], known: u8, mut outer: u32) -> Step {
        // Networks no longer than what is known hold all these addresses; the longest of them comes last.
        while let [first, rest @ ..] = networks
            && first.len <= known
        {
            outer = first.value;
            networks = rest;
        }
        let [first, .., last] = networks else {
            return match networks {
                [only] => self.checked(networks, only.len, outer),
                _ => Step::value(outer),
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
        let (mask, miss) = (K::mask(common), Step::value(outer));
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
            outers[low..low + (1 << (end - network.len))].fill(network.value);
        }
        let mut steps = outers.map(Step::value);
        let index = self.nodes.len();
        self.nodes.push(steps);
        for group in long.chunk_by(|a, b| a.key.byte(below) == b.key.byte(below)) {
            let byte = usize::from(group[0].key.byte(below));
            steps[byte] = self.build(group, end, outers[byte]);
        }
        self.nodes[index] = steps;
        Step::node(index, below)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    /// Few different bits and any length, so that networks nest, meet and are often equal.
    fn network() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| {
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(bits & 0x8101_0303), len).unwrap())
        });
        let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| {
            let bits = bits & (0x8001 << 112 | 0x3 << 64 | 0x0303);
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(bits), len).unwrap())
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn the_longest_network_answers_and_of_equal_ones_the_last(
            networks in prop::collection::vec(network(), 0..40),
        ) {
            let numbered = networks.iter().zip(0..).map(|(network, number)| (*network, number));
            let trie = Trie::new(numbered, (0..networks.len()).collect());
            // Where networks begin and end is where answers change.
            let edges = networks.iter().flat_map(|n| [n.network(), n.broadcast(), n.addr()]);
            for address in edges.chain([Ipv4Addr::new(77, 7, 7, 7).into(), Ipv6Addr::from_bits(7 << 90).into()]) {
                let holding = (0..networks.len()).filter(|n| networks[*n].contains(&address));
                let expected = holding.max_by_key(|n| (networks[*n].prefix_len(), *n));
                prop_assert_eq!(trie.find(address).copied(), expected, "{}", address);
            }
        }
    }

    #[test]
    fn an_empty_trie_knows_nothing() {
        assert_eq!(Trie::<u8>::default().find(Ipv4Addr::LOCALHOST.into()), None);
        assert_eq!(Trie::<u8>::new([], vec![]).find(Ipv6Addr::LOCALHOST.into()), None);
    }
}
