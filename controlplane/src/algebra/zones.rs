//! Which addresses the policies treat alike: the longest match of all policies at once.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::policy::RuleSet;
use bulkhead_dataplane::verdict::SegmentId;
use ipnet::IpNet;

/// Of each of `N` policies the segment.
pub type Segments<const N: usize> = [Option<SegmentId>; N];

/// All addresses whose longest matches lie in these segments.
#[derive(Clone, Debug)]
pub struct Zone<const N: usize> {
    /// Of each policy, the segment that the addresses belong to; not all are `None`.
    pub segments: Segments<N>,
    /// One of the IPv4 and one of the IPv6 addresses, where there are any.
    pub samples: [Option<IpAddr>; 2],
}

/// A network, its segment, and of which policy.
struct Piece {
    low: u128,
    high: u128,
    policy: usize,
    segment: SegmentId,
}

/// Every zone but that of the addresses that belong to no segment of any policy. Takes n log n for n networks.
pub fn zones<const N: usize>(policies: [&RuleSet; N]) -> Vec<Zone<N>> {
    let mut found = Found { zones: Vec::new(), index: HashMap::new() };
    for v4 in [true, false] {
        let mut pieces = Vec::new();
        for (policy, rules) in policies.iter().enumerate() {
            for (segment, id) in rules.segments.iter().zip(0..) {
                let networks = segment.networks.iter().filter(|network| network.addr().is_ipv4() == v4);
                pieces.extend(networks.map(|network| {
                    let (low, high) = bounds(network);
                    Piece { low, high, policy, segment: SegmentId(id) }
                }));
            }
        }
        // A network comes before those inside it.
        pieces.sort_by_key(|piece| (piece.low, Reverse(piece.high)));
        found.sweep(&pieces, v4);
    }
    found.zones
}

struct Found<const N: usize> {
    /// With how good the samples are.
    zones: Vec<Zone<N>>,
    index: HashMap<Segments<N>, (usize, [u8; 2])>,
}

impl<const N: usize> Found<N> {
    /// Networks nest or lie apart, whatever policy they are of, so those around an address are a stack.
    fn sweep(&mut self, pieces: &[Piece], v4: bool) {
        let mut around: Vec<&Piece> = Vec::new();
        let mut from: u128 = 0;
        for piece in pieces {
            while let Some(inner) = around.last().filter(|inner| inner.high < piece.low) {
                let high = inner.high;
                self.add(&around, from, high, v4);
                // It lies below another address, so there is one behind it.
                from = high + 1;
                around.pop();
            }
            if from < piece.low {
                self.add(&around, from, piece.low - 1, v4);
                from = piece.low;
            }
            around.push(piece);
        }
        while let Some(inner) = around.last() {
            let high = inner.high;
            // Several may end at the same address; then `from` lies behind it already.
            if from <= high {
                self.add(&around, from, high, v4);
                let Some(next) = high.checked_add(1) else { return };
                from = next;
            }
            around.pop();
        }
    }

    fn add(&mut self, around: &[&Piece], low: u128, high: u128, v4: bool) {
        if around.is_empty() || low > high {
            return;
        }
        let segments: Segments<N> = std::array::from_fn(|policy| {
            around.iter().rev().find(|piece| piece.policy == policy).map(|piece| piece.segment)
        });
        let family = usize::from(!v4);
        let (sample, quality) = sample(low, high, v4);
        let zones = &mut self.zones;
        let (index, best) = self.index.entry(segments).or_insert_with(|| {
            zones.push(Zone { segments, samples: [None; 2] });
            (zones.len() - 1, [0; 2])
        });
        if best[family] < quality {
            best[family] = quality;
            zones[*index].samples[family] = Some(sample);
        }
    }
}

fn bounds(network: &IpNet) -> (u128, u128) {
    match network {
        IpNet::V4(net) => (net.network().to_bits().into(), net.broadcast().to_bits().into()),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() }
}

/// An address of the range to show to people, and how good it is: 3 for a host's, 2 for a network's own, 1 for one that
/// no packet has (the gateway drops those before it asks the policy).
fn sample(low: u128, high: u128, v4: bool) -> (IpAddr, u8) {
    // Where a range begins with what no packet has: in the first that some host may have.
    let usual: &[&str] = if v4 { &["1.0.0.1"] } else { &["2001:db8::1", "fd00::1"] };
    let usual = usual.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    let within = |address: &IpAddr| (low..=high).contains(&bits(*address));
    let first = address(low, v4);
    let candidates = (low < high).then(|| address(low + 1, v4)).into_iter();
    let good = candidates.chain(usual).filter(within).find(|address| is_a_hosts(*address));
    match good {
        Some(address) => (address, 3),
        None if is_a_hosts(first) => (first, 2),
        None => (first, 1),
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether the gateway forwards packets of such an address, as far as sanity goes.
fn is_a_hosts(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && first < 224 && !v4.is_loopback() && !v4.is_link_local()
        }
        IpAddr::V6(v6) => matches!(v6.octets()[0], 0x20..=0x3f | 0xfc | 0xfd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_dataplane::policy::Segment;
    use bulkhead_dataplane::policy::reference::segment_of;

    fn rules(segments: &[&[&str]]) -> RuleSet {
        let segment = |networks: &&[&str]| Segment {
            networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
            ..Segment::default()
        };
        RuleSet { segments: segments.iter().map(segment).collect(), ..RuleSet::default() }
    }

    #[test]
    fn zones_are_the_longest_matches_of_both_policies_and_samples_lie_in_them() {
        let old = rules(&[&["10.0.0.0/8", "fd00::/16"], &["10.1.0.0/16", "10.1.2.3/32"], &["0.0.0.0/0"]]);
        let new = rules(&[&["10.1.0.0/24"], &["::/0", "255.255.255.255/32"]]);
        let zones = zones([&old, &new]);
        let mut seen: Vec<Segments<2>> = zones.iter().map(|zone| zone.segments).collect();
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "each combination is one zone");
        for zone in &zones {
            for sample in zone.samples.into_iter().flatten() {
                assert_eq!(zone.segments, [segment_of(&old, sample), segment_of(&new, sample)], "{sample}");
            }
        }
        let segment = |number| Some(SegmentId(number));
        let expected: [(Segments<2>, [bool; 2]); 6] = [
            ([None, segment(1)], [false, true]),
            ([segment(0), None], [true, false]),
            ([segment(0), segment(1)], [false, true]),
            ([segment(1), None], [true, false]),
            ([segment(1), segment(0)], [true, false]),
            ([segment(2), segment(1)], [true, false]),
        ];
        for (segments, families) in expected {
            let zone = zones.iter().find(|zone| zone.segments == segments).expect("there is such a zone");
            assert_eq!(zone.samples.map(|sample| sample.is_some()), families, "{segments:?}");
        }
        assert_eq!(count, 7, "and the rest of IPv4");
    }

    #[test]
    fn samples_are_addresses_that_hosts_have_where_there_is_a_choice() {
        let shown = |network: &str| {
            let zones = zones([&rules(&[&[network]])]);
            zones[0].samples.into_iter().flatten().next().unwrap().to_string()
        };
        assert_eq!(shown("10.1.0.0/24"), "10.1.0.1");
        assert_eq!(shown("10.1.0.7/32"), "10.1.0.7");
        assert_eq!(shown("0.0.0.0/0"), "1.0.0.1");
        assert_eq!(shown("::/0"), "2001:db8::1");
        assert_eq!(shown("224.0.0.0/4"), "224.0.0.0");
    }
}
