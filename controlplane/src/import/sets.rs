//! Sets of numbers, addresses and services, and what can be done with them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::Service;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::values::service_text;

/// A set of numbers as ascending ranges, both ends included, that neither overlap nor touch.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// The numbers from `low` to `high`, both included.
    pub fn of(low: u128, high: u128) -> Ranges {
        Ranges(vec![(low, high)])
    }

    /// The union of ranges in any order; one that runs backwards is empty.
    pub fn from_list(mut list: Vec<(u128, u128)>) -> Ranges {
        list.retain(|(low, high)| low <= high);
        list.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::new();
        for (low, high) in list {
            match ranges.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => ranges.push((low, high)),
            }
        }
        Ranges(ranges)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.0.iter().copied()
    }

    /// How many ranges it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the number is in it.
    pub fn contains(&self, number: u128) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= number);
        after > 0 && self.0[after - 1].1 >= number
    }

    /// What is in either.
    pub fn union(&self, other: &Ranges) -> Ranges {
        Ranges::from_list([&self.0[..], &other.0[..]].concat())
    }

    /// What is in both.
    pub fn intersection(&self, other: &Ranges) -> Ranges {
        let (mut a, mut b, mut both) = (0, 0, Vec::new());
        while let (Some(x), Some(y)) = (self.0.get(a), other.0.get(b)) {
            let (low, high) = (x.0.max(y.0), x.1.min(y.1));
            if low <= high {
                both.push((low, high));
            }
            if x.1 < y.1 { a += 1 } else { b += 1 }
        }
        Ranges(both)
    }

    /// What is in it and not in the other.
    pub fn minus(&self, other: &Ranges) -> Ranges {
        let mut left = Vec::new();
        let mut b = 0;
        for &(mut low, high) in &self.0 {
            while other.0.get(b).is_some_and(|y| y.1 < low) {
                b += 1;
            }
            let mut c = b;
            let mut is_used_up = false;
            while let Some(&(from, to)) = other.0.get(c).filter(|y| y.0 <= high) {
                if from > low {
                    left.push((low, from - 1));
                }
                if to >= high {
                    is_used_up = true;
                    break;
                }
                low = low.max(to + 1);
                c += 1;
            }
            if !is_used_up {
                left.push((low, high));
            }
        }
        Ranges(left)
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(low, high)| format!("{low}-{high}"))).finish()
    }
}

/// The families of addresses, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Families(pub u8);

impl Families {
    /// IPv4.
    pub const V4: Families = Families(1);
    /// IPv6.
    pub const V6: Families = Families(2);
    /// Both.
    pub const BOTH: Families = Families(3);

    /// Those of both values.
    pub fn and(self, other: Families) -> Families {
        Families(self.0 & other.0)
    }

    /// Those of either value.
    pub fn or(self, other: Families) -> Families {
        Families(self.0 | other.0)
    }

    /// Whether it has none.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether it has IPv4.
    pub fn has_v4(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it has IPv6.
    pub fn has_v6(self) -> bool {
        self.0 & 2 != 0
    }

    /// That of an address.
    pub fn of(address: &IpAddr) -> Families {
        if address.is_ipv4() { Families::V4 } else { Families::V6 }
    }
}

/// A set of addresses of both families.
#[derive(Clone, Default, PartialEq, Eq, Debug, Hash)]
pub struct Addresses {
    /// Of IPv4, as numbers.
    pub v4: Ranges,
    /// Of IPv6, as numbers.
    pub v6: Ranges,
}

/// The address as a number.
pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Addresses {
    /// Every address of these families.
    pub fn all(families: Families) -> Addresses {
        let range = |is_in: bool, high: u128| if is_in { Ranges::of(0, high) } else { Ranges::default() };
        Addresses { v4: range(families.has_v4(), u32::MAX.into()), v6: range(families.has_v6(), u128::MAX) }
    }

    /// The union of ranges of addresses, both ends included; the ends of one are of one family.
    pub fn from_list(list: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Addresses {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (low, high) in list {
            let ranges = if low.is_ipv4() { &mut v4 } else { &mut v6 };
            ranges.push((bits(low), bits(high)));
        }
        Addresses { v4: Ranges::from_list(v4), v6: Ranges::from_list(v6) }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The families that it has addresses of.
    pub fn families(&self) -> Families {
        Families(u8::from(!self.v4.is_empty()) | u8::from(!self.v6.is_empty()) << 1)
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let ranges = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        ranges.contains(bits(address))
    }

    /// What is in either.
    pub fn union(&self, other: &Addresses) -> Addresses {
        Addresses { v4: self.v4.union(&other.v4), v6: self.v6.union(&other.v6) }
    }

    /// What is in it and not in the other.
    pub fn minus(&self, other: &Addresses) -> Addresses {
        Addresses { v4: self.v4.minus(&other.v4), v6: self.v6.minus(&other.v6) }
    }

    /// The fewest networks that hold exactly these addresses, ascending, IPv4 first.
    pub fn networks(&self) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (low, high) in self.v4.iter() {
            split(low, high, 32, |start, length| {
                let address = Ipv4Addr::from_bits(start as u32);
                networks.push(Ipv4Net::new_assert(address, length).into());
            });
        }
        for (low, high) in self.v6.iter() {
            split(low, high, 128, |start, length| {
                networks.push(Ipv6Net::new_assert(Ipv6Addr::from_bits(start), length).into());
            });
        }
        networks
    }
}

impl FromIterator<IpNet> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Addresses {
        Addresses::from_list(networks.into_iter().map(|net| (net.network(), net.broadcast())))
    }
}

/// Splits a range of addresses of this many bits into networks: the largest that begins where the last one ended.
fn split(mut low: u128, high: u128, width: u32, mut found: impl FnMut(u128, u8)) {
    loop {
        // 128 zeros of `0`: as many bits as an address has, at most.
        let mut host = low.trailing_zeros().min(width);
        let last = |host: u32| if host == 128 { u128::MAX } else { low + ((1 << host) - 1) };
        while last(host) > high {
            host -= 1;
        }
        let end = last(host);
        found(low, (width - host) as u8);
        if end == high {
            return;
        }
        low = end + 1;
    }
}

/// A set of services: TCP and UDP ports, and other protocols by their numbers. ICMP and ICMPv6 mean their echo requests,
/// which are all of them that opens a connection.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Services {
    /// TCP destination ports.
    pub tcp: Ranges,
    /// UDP destination ports.
    pub udp: Ranges,
    /// Numbers of other protocols.
    pub others: Ranges,
}

/// TCP and UDP ports; port 0 never crosses.
const PORTS: (u128, u128) = (1, 65_535);

impl Services {
    /// What "any" opens: TCP, UDP and echo requests.
    pub fn transport() -> Services {
        let ports = Ranges::of(PORTS.0, PORTS.1);
        Services { tcp: ports.clone(), udp: ports, others: Services::echo().others }
    }

    /// Echo requests of both families.
    pub fn echo() -> Services {
        Services::protocols(&[protocol::ICMP, protocol::ICMPV6])
    }

    /// Everything that can cross.
    pub fn everything() -> Services {
        let opaque = (0..=255u8).filter(|&number| protocol::is_opaque(number));
        let others = opaque.chain([protocol::ICMP, protocol::ICMPV6]).map(|n| (n.into(), n.into()));
        Services { others: Ranges::from_list(others.collect()), ..Services::transport() }
    }

    /// Protocols as wholes, by number; those that never cross are left out.
    pub fn protocols(numbers: &[u8]) -> Services {
        let mut services = Services::default();
        let mut others = Vec::new();
        for &number in numbers {
            match number {
                protocol::TCP => services.tcp = Ranges::of(PORTS.0, PORTS.1),
                protocol::UDP => services.udp = Ranges::of(PORTS.0, PORTS.1),
                protocol::ICMP | protocol::ICMPV6 => others.push((number.into(), number.into())),
                _ if protocol::is_opaque(number) => others.push((number.into(), number.into())),
                _ => {}
            }
        }
        services.others = Ranges::from_list(others);
        services
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty() && self.others.is_empty()
    }

    /// What is in either.
    pub fn union(&self, other: &Services) -> Services {
        self.zip(other, Ranges::union)
    }

    /// What is in both.
    pub fn intersection(&self, other: &Services) -> Services {
        self.zip(other, Ranges::intersection)
    }

    /// What is in it and not in the other.
    pub fn minus(&self, other: &Services) -> Services {
        self.zip(other, Ranges::minus)
    }

    /// Whether the other has all that is in it.
    pub fn is_within(&self, other: &Services) -> bool {
        self.minus(other).is_empty()
    }

    fn zip(&self, other: &Services, each: impl Fn(&Ranges, &Ranges) -> Ranges) -> Services {
        Services {
            tcp: each(&self.tcp, &other.tcp),
            udp: each(&self.udp, &other.udp),
            others: each(&self.others, &other.others),
        }
    }

    /// The same as Bulkhead's services. `Any` stands for [`Services::transport`] in a rule that allows, and in another for
    /// all of the universe.
    pub fn list(&self, allows: bool, universe: &Services) -> Vec<Service> {
        if *self == *universe && !allows {
            return vec![Service::Any];
        }
        let transport = Services::transport();
        let mut list = Vec::new();
        let mut rest = self.clone();
        if allows && transport.is_within(self) {
            list.push(Service::Any);
            rest = self.minus(&transport);
        }
        list.extend(rest.tcp.iter().map(|(low, high)| Service::Tcp(low as u16, high as u16)));
        list.extend(rest.udp.iter().map(|(low, high)| Service::Udp(low as u16, high as u16)));
        for number in rest.others.iter().flat_map(|(low, high)| low..=high) {
            list.push(match number as u8 {
                protocol::ICMP => Service::IcmpEcho,
                protocol::ICMPV6 => Service::Icmpv6Echo,
                other => Service::Protocol(other),
            });
        }
        list
    }

    /// The same as texts of a configuration.
    pub fn texts(&self, allows: bool, universe: &Services) -> Vec<String> {
        self.list(allows, universe).into_iter().map(service_text).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Ranges> {
        proptest::collection::vec((0u128..40, 0u128..10), 0..6).prop_map(|list| {
            Ranges::from_list(list.into_iter().map(|(low, more)| (low, low + more)).collect())
        })
    }

    proptest! {
        #[test]
        fn sets_of_numbers_hold_what_they_should(a in ranges(), b in ranges()) {
            for n in 0..60 {
                prop_assert_eq!(a.union(&b).contains(n), a.contains(n) || b.contains(n));
                prop_assert_eq!(a.intersection(&b).contains(n), a.contains(n) && b.contains(n));
                prop_assert_eq!(a.minus(&b).contains(n), a.contains(n) && !b.contains(n));
            }
            prop_assert_eq!(a.minus(&b).union(&a.intersection(&b)), a);
        }

        #[test]
        fn networks_of_a_range_hold_it_exactly(low: u32, high: u32) {
            let (low, high) = (low.min(high), low.max(high));
            let set = Addresses::from_list([(Ipv4Addr::from_bits(low).into(), Ipv4Addr::from_bits(high).into())]);
            let networks = set.networks();
            prop_assert!(networks.len() <= 62);
            prop_assert_eq!(networks.into_iter().collect::<Addresses>(), set);
        }
    }

    #[test]
    fn ends_of_the_address_space_are_no_special_case() {
        let all = Addresses::all(Families::BOTH);
        assert_eq!(all.networks().iter().map(ToString::to_string).collect::<Vec<_>>(), ["0.0.0.0/0", "::/0"]);
        assert!(all.minus(&all).is_empty());
        let rest = all.minus(&["::/1".parse::<IpNet>().unwrap()].into_iter().collect());
        assert_eq!(rest.networks()[1].to_string(), "8000::/1");
    }

    #[test]
    fn any_is_said_only_where_it_means_the_same() {
        let universe = Services::transport().union(&Services::protocols(&[47, 50]));
        assert_eq!(Services::transport().texts(true, &universe), ["any"]);
        assert_eq!(universe.texts(false, &universe), ["any"]);
        assert_eq!(
            Services::transport().texts(false, &universe),
            ["tcp/1-65535", "udp/1-65535", "icmp/echo-request", "icmpv6/echo-request"]
        );
        let with_gre = Services::transport().union(&Services::protocols(&[47]));
        assert_eq!(with_gre.texts(true, &universe), ["any", "gre"]);
        assert!(Services::protocols(&[2, 0, 255]).is_empty(), "they never cross");
    }
}
