//! Addresses that an operator keeps from what the rules allow: locked out, or in quarantine.
//!
//! **Quarantine** is a segment whose hosts lie elsewhere: an address in quarantine keeps its port and its session, but rules
//! see it in the quarantine segment, as source and as destination. The segment has one network of each family,
//! [`QUARANTINE_V4`] and [`QUARANTINE_V6`], of addresses that never cross (`sanity.rs` drops them), so it is a segment like
//! any other for whoever compiles, compares or explains rules: a quarantined address is judged as that address is.
//!
//! **Packets of established connections** look at nothing of this: restraints are part of a policy, a change of them is a
//! publication, and a new generation has every connection judged again at its next packet, in either direction.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rules::{Decision, Query};
use crate::verdict::Reason;

/// What stands for IPv4 addresses in quarantine: reserved (RFC 1112, section 4), and dropped as source and destination.
pub const QUARANTINE_V4: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 254);
/// What stands for IPv6 addresses in quarantine: a multicast address that is reserved and never assigned (RFC 4291, section
/// 2.7.1).
pub const QUARANTINE_V6: Ipv6Addr = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0);

/// What is done to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restraint {
    /// It reaches what the quarantine segment reaches.
    Quarantined,
    /// Nothing crosses from it or to it.
    Locked,
}

/// All restrained addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restraints {
    all: HashMap<IpAddr, Restraint>,
    has_segment: bool,
}

impl Restraints {
    /// These; of two of one address the lock counts. Without a quarantine segment in the policy (`has_segment`) nothing crosses
    /// from or to an address in quarantine.
    pub fn new(restraints: impl IntoIterator<Item = (IpAddr, Restraint)>, has_segment: bool) -> Restraints {
        let mut all = HashMap::new();
        for (address, restraint) in restraints {
            let held = all.entry(address).or_insert(restraint);
            if restraint == Restraint::Locked {
                *held = restraint;
            }
        }
        Restraints { all, has_segment }
    }

    /// The same for a policy that has a quarantine segment, or has none.
    pub fn with_segment(&self, has_segment: bool) -> Restraints {
        Restraints { all: self.all.clone(), has_segment }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// That of an address.
    #[inline]
    pub fn of(&self, address: IpAddr) -> Option<Restraint> {
        self.all.get(&address).copied()
    }

    /// Why no rule is asked: an end is locked out, or it is in quarantine and there is no segment for that.
    pub fn refusal(&self, query: &Query) -> Option<Reason> {
        let ends = [self.of(query.source), self.of(query.destination)];
        if ends.contains(&Some(Restraint::Locked)) {
            return Some(Reason::Locked);
        }
        let is_refused = !self.has_segment && ends.contains(&Some(Restraint::Quarantined));
        is_refused.then_some(Reason::Quarantined)
    }

    /// Whether either end is in quarantine.
    pub fn quarantines(&self, query: &Query) -> bool {
        [query.source, query.destination].into_iter().any(|end| self.of(end) == Some(Restraint::Quarantined))
    }

    /// An address as rules see it.
    pub fn seen(&self, address: IpAddr) -> IpAddr {
        match (self.of(address), address) {
            (Some(Restraint::Quarantined), IpAddr::V4(_)) => QUARANTINE_V4.into(),
            (Some(Restraint::Quarantined), IpAddr::V6(_)) => QUARANTINE_V6.into(),
            _ => address,
        }
    }

    /// A question as rules see it.
    pub fn seen_in<'q>(&self, query: &'q Query) -> Cow<'q, Query> {
        if !self.quarantines(query) {
            return Cow::Borrowed(query);
        }
        let (source, destination) = (self.seen(query.source), self.seen(query.destination));
        Cow::Owned(Query { source, destination, ..*query })
    }

    /// What is said of a question that the rules have answered: what no rule allows is denied for the quarantine.
    pub fn told(&self, query: &Query, decision: Decision) -> Decision {
        let is_default = matches!(decision.refusal, Some(Reason::NoRule | Reason::ProtocolUnsupported));
        if is_default && self.quarantines(query) { Decision::refused(Reason::Quarantined) } else { decision }
    }
}
