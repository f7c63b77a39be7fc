//! Addresses sorted into classes: those that no rule tells apart, behind one interface. A class becomes a segment.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::headers::protocol;
use ipnet::IpNet;

use super::program::{AddressSet, Bits, End, Program, Rule};
use super::sets::{Families, Services};

/// The most networks that all rules and interfaces may name together.
pub const NETWORKS_LIMIT: usize = 200_000;
/// The most segments.
pub const SEGMENTS_LIMIT: usize = 1_000;

/// Addresses that every rule treats alike.
#[derive(Clone, Debug)]
pub struct Class {
    /// Behind which interface.
    pub interface: usize,
    /// Of which families it has addresses.
    pub families: Families,
    /// Networks whose longest match over all classes is this one.
    pub networks: Vec<IpNet>,
    /// The sets that all of it is in.
    pub sets: Vec<u32>,
    /// Rules that may match with a source in it.
    pub as_source: Bits,
    /// Rules that may match with a destination in it.
    pub as_destination: Bits,
}

/// There are too many of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// [`NETWORKS_LIMIT`].
    Networks,
    /// [`SEGMENTS_LIMIT`].
    Segments,
}

/// What is known of one network, those inside it excepted.
#[derive(Clone, Debug, Default)]
struct Place {
    interface: Option<usize>,
    sets: Vec<u32>,
}

/// What makes a class: interface, family where it matters, rules that match.
type Signature = (usize, Families, Bits, Bits);

/// Sorts all addresses that lie behind an interface. Ascending by their first networks.
pub fn classes(program: &Program) -> Result<Vec<Class>, TooMany> {
    let named = named_networks(program)?;
    // A stage that sees one family only tells the families apart without naming an address.
    let families_differ = program.stages.iter().any(|stage| stage.families != Families::BOTH);
    let mut classes: Vec<Class> = Vec::new();
    let mut by_signature: HashMap<Signature, usize> = HashMap::new();
    let mut by_place: HashMap<(usize, Vec<u32>, bool), usize> = HashMap::new();
    let mut way: Vec<Step> = Vec::new();
    for (index, (network, own)) in named.iter().enumerate() {
        while way.last().is_some_and(|step| !step.network.contains(network)) {
            way.pop();
        }
        let above = way.last();
        let mut place = above.map(|step| step.place.clone()).unwrap_or_default();
        place.interface = own.interface.or(place.interface);
        place.sets.extend(&own.sets);
        place.sets.sort_unstable();
        place.sets.dedup();
        let mut class_above = above.and_then(|step| step.class);
        if let Some(interface) = place.interface
            && !is_covered(network, named[index + 1..].iter().map(|(inner, _)| inner))
        {
            let families = Families::of(&network.addr());
            let key = (interface, place.sets.clone(), families.has_v4());
            let class = *by_place.entry(key).or_insert_with(|| {
                let class = class_of(program, interface, families, &place.sets);
                let told_apart = if families_differ { families } else { Families::BOTH };
                let signature =
                    (interface, told_apart, class.as_source.clone(), class.as_destination.clone());
                *by_signature.entry(signature).or_insert_with(|| {
                    classes.push(class);
                    classes.len() - 1
                })
            });
            if classes.len() > SEGMENTS_LIMIT {
                return Err(TooMany::Segments);
            }
            let found = &mut classes[class];
            found.families = found.families.or(families);
            found.sets.retain(|set| place.sets.contains(set));
            if class_above != Some(class) {
                found.networks.push(*network);
            }
            class_above = Some(class);
        }
        way.push(Step { network: *network, place, class: class_above });
    }
    // A network inside its own class's may have had a third one in between; what is left has some.
    classes.retain(|class| !class.networks.is_empty());
    Ok(classes)
}

/// A network on the way from the outermost to the present one.
struct Step {
    network: IpNet,
    place: Place,
    /// The class of what is in it and in none inside it.
    class: Option<usize>,
}

/// Every network that an interface or a set names, the outer before those inside.
fn named_networks(program: &Program) -> Result<Vec<(IpNet, Place)>, TooMany> {
    let mut named: BTreeMap<IpNet, Place> = BTreeMap::new();
    for (number, interface) in program.interfaces.iter().enumerate() {
        for network in &interface.networks {
            named.entry(network.trunc()).or_default().interface = Some(number);
        }
    }
    let mut count = named.len();
    for (number, set) in program.sets.iter().enumerate() {
        for network in set.addresses.networks() {
            named.entry(network).or_default().sets.push(number as u32);
            count += 1;
            if count > NETWORKS_LIMIT {
                return Err(TooMany::Networks);
            }
        }
    }
    Ok(named.into_iter().collect())
}

/// Whether those that follow and lie inside leave nothing of it.
fn is_covered<'n>(network: &IpNet, following: impl Iterator<Item = &'n IpNet>) -> bool {
    let mut next = Some(network.network());
    for inner in following {
        if !network.contains(inner) || next.is_none_or(|next| inner.network() > next) {
            break;
        }
        if next.is_some_and(|next| inner.network() == next) {
            next = after(inner.broadcast()).filter(|next| network.contains(next));
        }
    }
    next.is_none()
}

/// The address after this one; none after the last.
pub fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?).into(),
    })
}

fn class_of(program: &Program, interface: usize, families: Families, sets: &[u32]) -> Class {
    let name = &program.interfaces[interface].name;
    let count = program.rules.len();
    let (mut as_source, mut as_destination) = (Bits::none(count), Bits::none(count));
    let matches = |end: &End| {
        end.interfaces.iter().all(|interfaces| interfaces.matches(name))
            && end.addresses.iter().all(|&(set, negated)| sets.contains(&(set as u32)) != negated)
    };
    let is_of =
        |rule: &Rule| !rule.families.and(families).is_none() || is_family_implied(rule, &program.sets);
    for (number, rule) in program.rules.iter().enumerate().filter(|(_, rule)| is_of(rule)) {
        if matches(&rule.source) {
            as_source.set(number);
        }
        if matches(&rule.destination) {
            as_destination.set(number);
        }
    }
    Class { interface, families, networks: Vec::new(), sets: sets.to_vec(), as_source, as_destination }
}

/// Whether a rule's family follows from the rest of it, so that it need not tell classes apart: one of its ends has to be
/// in a set of that family, or it is about the family's own echo requests.
fn is_family_implied(rule: &Rule, sets: &[AddressSet]) -> bool {
    let ends = rule.source.addresses.iter().chain(&rule.destination.addresses);
    let mut wanted = ends.filter(|(_, negated)| !negated).map(|(set, _)| sets[*set].addresses.families());
    let is_echo = |number, family: Families| {
        rule.services.is_within(&Services::protocols(&[number])) && !rule.families.and(family).is_none()
    };
    wanted.any(|families| families.and(rule.families) == families)
        || is_echo(protocol::ICMP, Families::V4)
        || is_echo(protocol::ICMPV6, Families::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn a_network_that_those_inside_it_use_up_is_nobodys() {
        let all = nets(&["10.0.0.0/24", "10.0.0.0/25", "10.0.0.7/32", "10.0.0.128/25"]);
        assert!(is_covered(&all[0], all[1..].iter()));
        assert!(!is_covered(&all[1], all[2..].iter()));
        let gap = nets(&["10.0.0.0/24", "10.0.0.0/26", "10.0.0.128/25"]);
        assert!(!is_covered(&gap[0], gap[1..].iter()));
        let whole = nets(&["::/0", "::/1", "8000::/1"]);
        assert!(is_covered(&whole[0], whole[1..].iter()));
    }
}
