//! What names a connection: the tuple as it is stored in an entry, and its keyed hash.

use std::hash::{BuildHasher, RandomState};
use std::hint::select_unpredictable;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::headers::{Address, Tuple};
use crate::sync::{AtomicU32, AtomicU64, Relaxed};
use crate::verdict::Direction;

/// An address family that has a connection map of its own.
pub trait Family: Address {
    /// Addresses and ports of the originating direction, as atomics in an entry.
    type Key: Key<Self>;
    /// Which of a worker's free lists is this family's: 0 for IPv4, 1 for IPv6.
    const INDEX: usize;
}

/// Addresses and ports as they lie in an entry. Written only while nobody can find the entry.
pub trait Key<A>: Default + Send + Sync {
    /// Overwrites the key.
    fn store(&self, tuple: &Tuple<A>);
    /// The stored originating tuple; the protocol is kept elsewhere in the entry.
    fn load(&self, protocol: u8) -> Tuple<A>;
    /// Which way a packet with this tuple goes, or `None` when it is not this connection's. Ignores the protocol.
    fn direction(&self, tuple: &Tuple<A>) -> Option<Direction>;
}

fn ports(source: u16, destination: u16) -> u32 {
    u32::from(source) << 16 | u32::from(destination)
}

/// 12 bytes.
#[derive(Default)]
#[repr(C)]
pub struct KeyV4 {
    source: AtomicU32,
    destination: AtomicU32,
    ports: AtomicU32,
}

impl Family for Ipv4Addr {
    type Key = KeyV4;
    const INDEX: usize = 0;
}

impl Key<Ipv4Addr> for KeyV4 {
    fn store(&self, tuple: &Tuple<Ipv4Addr>) {
        self.source.store(tuple.source.to_bits(), Relaxed);
        self.destination.store(tuple.destination.to_bits(), Relaxed);
        self.ports.store(ports(tuple.source_port, tuple.destination_port), Relaxed);
    }

    fn load(&self, protocol: u8) -> Tuple<Ipv4Addr> {
        let ports = self.ports.load(Relaxed);
        Tuple {
            source: Ipv4Addr::from_bits(self.source.load(Relaxed)),
            destination: Ipv4Addr::from_bits(self.destination.load(Relaxed)),
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            protocol,
        }
    }

    #[inline]
    fn direction(&self, tuple: &Tuple<Ipv4Addr>) -> Option<Direction> {
        let stored = (self.source.load(Relaxed), self.destination.load(Relaxed), self.ports.load(Relaxed));
        let (source, destination) = (tuple.source.to_bits(), tuple.destination.to_bits());
        if stored == (source, destination, ports(tuple.source_port, tuple.destination_port)) {
            Some(Direction::Original)
        } else if stored == (destination, source, ports(tuple.destination_port, tuple.source_port)) {
            Some(Direction::Reply)
        } else {
            None
        }
    }
}

/// 40 bytes.
#[derive(Default)]
#[repr(C)]
pub struct KeyV6 {
    source: [AtomicU64; 2],
    destination: [AtomicU64; 2],
    ports: AtomicU32,
}

fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

fn load_halves(halves: &[AtomicU64; 2]) -> [u64; 2] {
    [halves[0].load(Relaxed), halves[1].load(Relaxed)]
}

fn join(halves: [u64; 2]) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(halves[0]) << 64 | u128::from(halves[1]))
}

impl Family for Ipv6Addr {
    type Key = KeyV6;
    const INDEX: usize = 1;
}

impl Key<Ipv6Addr> for KeyV6 {
    fn store(&self, tuple: &Tuple<Ipv6Addr>) {
        for (to, from) in [(&self.source, tuple.source), (&self.destination, tuple.destination)] {
            let [high, low] = halves(from);
            to[0].store(high, Relaxed);
            to[1].store(low, Relaxed);
        }
        self.ports.store(ports(tuple.source_port, tuple.destination_port), Relaxed);
    }

    fn load(&self, protocol: u8) -> Tuple<Ipv6Addr> {
        let ports = self.ports.load(Relaxed);
        Tuple {
            source: join(load_halves(&self.source)),
            destination: join(load_halves(&self.destination)),
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            protocol,
        }
    }

    #[inline]
    fn direction(&self, tuple: &Tuple<Ipv6Addr>) -> Option<Direction> {
        let stored = (load_halves(&self.source), load_halves(&self.destination), self.ports.load(Relaxed));
        let (source, destination) = (halves(tuple.source), halves(tuple.destination));
        if stored == (source, destination, ports(tuple.source_port, tuple.destination_port)) {
            Some(Direction::Original)
        } else if stored == (destination, source, ports(tuple.destination_port, tuple.source_port)) {
            Some(Direction::Reply)
        } else {
            None
        }
    }
}

/// The hash of a tuple; the same for both directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(pub(super) u64);

impl Hash {
    /// What a slot stores of the hash. The low bits: the buckets are chosen by the high bits of each half.
    pub(super) fn tag(self) -> u16 {
        self.0 as u16
    }

    /// The first of [`Hash::buckets`].
    #[inline(always)]
    pub(super) fn first_bucket(self, count: u32) -> usize {
        ((u64::from(self.0 as u32) * u64::from(count)) >> 32) as usize
    }

    /// The two different buckets, among `count` (at least 2), where the connection may lie, the preferred one first.
    ///
    /// A 32-bit half of the hash times the count, shifted by 32, spreads over any count without a division.
    pub(super) fn buckets(self, count: u32) -> [usize; 2] {
        let first = self.first_bucket(count);
        let second = Hash(self.0 >> 32).first_bucket(count);
        let second = if second != first {
            second
        } else if first + 1 < count as usize {
            first + 1
        } else {
            0
        };
        [first, second]
    }
}

/// The secret of one table's hash.
///
/// The hash is two rounds of folded multiplication (the 128-bit product's halves xored, as in wyhash) over words
/// masked with 64-bit secrets: about 3 ns. The first round alone is a keyed universal hash (NH): without the
/// secrets, two chosen tuples collide with negligible probability, and the second round hides the linear structure
/// from whoever measures look-up times. The secrets come from the standard library's `RandomState`, which takes
/// them from the kernel's random generator. Should somebody collide tags and buckets nevertheless, a look-up still
/// compares at most 16 entries.
pub(super) struct HashKey([u64; 6]);

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl HashKey {
    pub(super) fn random() -> HashKey {
        let state = RandomState::new();
        HashKey(std::array::from_fn(|i| state.hash_one(i)))
    }

    /// A fixed key, so that a model explores the same buckets every time.
    #[cfg(all(test, loom))]
    pub(super) fn fixed(seed: u64) -> HashKey {
        HashKey(std::array::from_fn(|i| (seed + 1 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The hash of a source: an IPv4 address, or an IPv6 /64, of which a host owns every address. `account` keeps apart
    /// what is counted of the same source for different purposes.
    pub(super) fn source<A: Family>(&self, source: A, account: u32) -> Hash {
        let HashKey(key) = self;
        let prefix = if A::INDEX == 0 { source.bits() as u64 } else { (source.bits() >> 64) as u64 };
        let what = u64::from(account) << 1 | A::INDEX as u64;
        Hash(fold(fold(prefix ^ key[0], what ^ key[1]) ^ key[4], key[5] | 1))
    }

    #[inline]
    pub(super) fn hash<A: Family>(&self, tuple: &Tuple<A>) -> Hash {
        let HashKey(key) = self;
        let (source, destination) = (tuple.source.bits(), tuple.destination.bits());
        let protocol = u64::from(tuple.protocol);
        // Sorted ends make both directions equal; sorted without a branch, for it would be guessed wrong half the time.
        let round = if A::IS_V4 {
            // Two words: address, port and protocol below 64 bits each.
            let a = source as u64 | u64::from(tuple.source_port) << 32;
            let b = destination as u64 | u64::from(tuple.destination_port) << 32;
            fold(a.min(b) ^ key[0], (a.max(b) | protocol << 48) ^ key[1])
        } else {
            let swap = (source, tuple.source_port) > (destination, tuple.destination_port);
            let pick = |a, b| select_unpredictable(swap, b, a);
            let (low, high) = (pick(source, destination), pick(destination, source));
            let ports = u64::from(select_unpredictable(swap, tuple.destination_port, tuple.source_port))
                | u64::from(select_unpredictable(swap, tuple.source_port, tuple.destination_port)) << 16
                | protocol << 32;
            let ends = fold(low as u64 ^ key[0], (low >> 64) as u64 ^ key[1])
                ^ fold(high as u64 ^ key[2], (high >> 64) as u64 ^ key[3]).rotate_left(23);
            fold(ends ^ key[4], ports ^ key[5])
        };
        Hash(fold(round ^ key[4], key[5] | 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(i: u32) -> Tuple<Ipv4Addr> {
        Tuple {
            source: Ipv4Addr::from_bits(0x0a00_0000 + i),
            destination: Ipv4Addr::new(10, 20, 0, 1),
            source_port: (i * 7) as u16,
            destination_port: 443,
            protocol: 6,
        }
    }

    #[test]
    fn both_directions_hash_equal_and_protocols_differ() {
        let key = HashKey::random();
        let six = Tuple {
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::UNSPECIFIED,
            source_port: 1,
            destination_port: 2,
            protocol: 6,
        };
        assert_eq!(key.hash(&six), key.hash(&six.reverse()));
        for i in 0..1000 {
            let tuple = tuple(i);
            assert_eq!(key.hash(&tuple), key.hash(&tuple.reverse()));
            assert_ne!(key.hash(&tuple), key.hash(&Tuple { protocol: 17, ..tuple }));
            let swapped =
                Tuple { source_port: tuple.destination_port, destination_port: tuple.source_port, ..tuple };
            assert!(swapped == tuple || key.hash(&tuple) != key.hash(&swapped));
        }
    }

    #[test]
    fn the_two_buckets_always_differ_and_fill_evenly() {
        let key = HashKey::random();
        let mut load = [0u32; 61];
        for i in 0..61 * 1000 {
            let [first, second] = key.hash(&tuple(i)).buckets(61);
            assert_ne!(first, second);
            load[first] += 1;
            load[second] += 1;
        }
        // Binomial with mean 2000 and deviation 45: ten deviations never happen by chance.
        assert!(load.iter().all(|&n| (1550..2450).contains(&n)), "{load:?}");
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        let key = HashKey::random();
        let v6 = |text: &str| key.source(text.parse::<Ipv6Addr>().unwrap(), 0);
        assert_eq!(v6("fd00::1"), v6("fd00::ffff:ffff:ffff:ffff"));
        assert_ne!(v6("fd00::1"), v6("fd00:0:0:1::1"));
        let v4 = |bits: u32, account| key.source(Ipv4Addr::from_bits(bits), account);
        assert_ne!(v4(1, 0), v4(2, 0));
        assert_ne!(v4(1, 0), v4(1, 1));
        assert_ne!(v4(0, 0), v6("::"));
    }

    /// How far from even the buckets are filled, in deviations of the chi-square statistic, and how many pairs of keys
    /// share bucket and tag, so that a look-up of one compares the other.
    fn unevenness<A: Family>(key: &HashKey, tuples: &[Tuple<A>], buckets: u32) -> (f64, usize) {
        let mut load = vec![0u32; buckets as usize];
        let mut seen: Vec<(usize, u16)> = Vec::with_capacity(tuples.len());
        for tuple in tuples {
            let hash = key.hash(tuple);
            load[hash.buckets(buckets)[0]] += 1;
            seen.push((hash.buckets(buckets)[0], hash.tag()));
        }
        let mean = tuples.len() as f64 / f64::from(buckets);
        let chi: f64 = load.iter().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum();
        let freedom = f64::from(buckets - 1);
        seen.sort_unstable();
        let pairs = seen.windows(2).filter(|pair| pair[0] == pair[1]).count();
        ((chi - freedom) / (2.0 * freedom).sqrt(), pairs)
    }

    /// Under a key that the attacker does not know, keys that he has chosen are spread as keys of chance are.
    fn assert_like_random<A: Family>(family: &str, tuples: &[Tuple<A>]) {
        const BUCKETS: u32 = 1 << 12;
        let expected = (tuples.len() * tuples.len()) as f64 / 2.0 / f64::from(BUCKETS) / 65_536.0;
        for _ in 0..2 {
            let (deviations, pairs) = unevenness(&HashKey::random(), tuples, BUCKETS);
            // Six deviations of a chi-square of this size come by chance once in 10^8 times, and a Poisson number of
            // mean 8 is above 40 as rarely.
            assert!(deviations < 6.0, "{family}: {deviations}");
            assert!(
                (pairs as f64) < 5.0 * expected.max(8.0),
                "{family}: {pairs} pairs, {expected} by chance"
            );
        }
    }

    #[test]
    fn d4_a_million_keys_crafted_against_a_known_key_are_spread_evenly_by_an_unknown_one() {
        const COUNT: u32 = 1 << 16;
        let base = Tuple {
            source: Ipv4Addr::from_bits(0),
            destination: Ipv4Addr::new(10, 20, 0, 1),
            source_port: 1,
            destination_port: 443,
            protocol: 6,
        };
        let source = |bits: u32| Tuple { source: Ipv4Addr::from_bits(bits), ..base };
        let mut total = 0;
        let mut check = |family: &str, tuples: Vec<Tuple<Ipv4Addr>>| {
            total += tuples.len();
            assert_like_random(family, &tuples);
        };
        // Found by trying: under the attacker's guess of the key, all of them lie in a few buckets.
        let guess = HashKey([7; 6]);
        let crafted = (0..).map(|bits: u32| Tuple { source_port: (bits >> 16) as u16, ..source(bits << 7) });
        let in_few = |tuple: &Tuple<Ipv4Addr>| guess.hash(tuple).buckets(1 << 12)[0] < 256;
        let crafted: Vec<_> = crafted.filter(in_few).take(COUNT as usize).collect();
        assert!(unevenness(&guess, &crafted, 1 << 12).0 > 1000.0, "they do collide under the guess");
        check("crafted", crafted);
        check("ports", (0..COUNT).map(|i| Tuple { source_port: i as u16, ..source(0x0a00_0001) }).collect());
        check("addresses", (0..COUNT).map(source).collect());
        check("high bits", (0..COUNT).map(|i| source(i << 16)).collect());
        check("bit patterns", (0..COUNT).map(|i| source(i | i << 16)).collect());
        let both = |i: u32| Tuple { destination: Ipv4Addr::from_bits(!i), ..source(i) };
        check("complements", (0..COUNT).map(both).collect());
        let xor = |i: u32| Tuple { destination: Ipv4Addr::from_bits(i ^ 0x5555), ..source(i) };
        check("equal differences", (0..COUNT).map(xor).collect());
        for shift in [1, 3, 5, 8, 11, 13] {
            let stride = move |i: u32| Tuple {
                source_port: (i >> 3) as u16,
                ..source(i.wrapping_mul(1 << shift) ^ i)
            };
            check("strides", (0..COUNT).map(stride).collect());
        }
        assert!(total >= 850_000);
        let v6 = |high: u64, low: u64| Tuple {
            source: Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)),
            destination: Ipv6Addr::from_bits(1),
            source_port: 1,
            destination_port: 2,
            protocol: 17,
        };
        let count = u64::from(COUNT);
        assert_like_random("hosts of a /64", &(0..count).map(|i| v6(0xfd00, i)).collect::<Vec<_>>());
        assert_like_random("/64s", &(0..count).map(|i| v6(i << 40, 1)).collect::<Vec<_>>());
        assert_like_random("equal halves", &(0..count).map(|i| v6(i, i)).collect::<Vec<_>>());
    }

    #[test]
    fn another_start_gives_another_hash() {
        assert_ne!(HashKey::random().hash(&tuple(1)), HashKey::random().hash(&tuple(1)));
    }
}
