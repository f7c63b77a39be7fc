//! How a policy treats one service of one pair of ends, as a list of clauses in the order in which they are asked.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::{Action, Service};
use bulkhead_dataplane::verdict::RuleId;

use super::demands::DemandId;

/// Every protocol with its ports on one line: TCP's ports, UDP's, the two echoes, then every protocol by its number.
pub mod line {
    /// UDP port 0.
    pub const UDP: u32 = 1 << 16;
    /// ICMP (IPv4).
    pub const ICMP: u32 = 2 << 16;
    /// ICMPv6.
    pub const ICMPV6: u32 = ICMP + 1;
    /// Protocol number 0. The numbers of the four before are there too, and mean nothing.
    pub const NUMBERS: u32 = ICMP + 2;
    /// One past the last.
    pub const END: u32 = NUMBERS + 256;
}

/// A place on the line as protocol and port; `None` where nothing is.
pub fn protocol_and_port(place: u32) -> Option<(u8, u16)> {
    match place {
        0..line::UDP => Some((protocol::TCP, place as u16)),
        line::UDP..line::ICMP => Some((protocol::UDP, (place - line::UDP) as u16)),
        line::ICMP => Some((protocol::ICMP, 0)),
        line::ICMPV6 => Some((protocol::ICMPV6, 0)),
        _ => match u8::try_from(place - line::NUMBERS).ok()? {
            protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => None,
            number => Some((number, 0)),
        },
    }
}

/// The place of a protocol and port.
pub fn place(protocol: u8, port: u16) -> u32 {
    match protocol {
        protocol::TCP => port.into(),
        protocol::UDP => line::UDP + u32::from(port),
        protocol::ICMP => line::ICMP,
        protocol::ICMPV6 => line::ICMPV6,
        number => line::NUMBERS + u32::from(number),
    }
}

/// The places that a service covers in a rule of this action.
pub fn span(service: Service, action: Action) -> Option<RangeInclusive<u32>> {
    Some(match service {
        Service::Any if action == Action::Allow => 0..=line::ICMPV6,
        Service::Any => 0..=line::END - 1,
        Service::Tcp(low, high) => u32::from(low)..=u32::from(high),
        Service::Udp(low, high) => line::UDP + u32::from(low)..=line::UDP + u32::from(high),
        Service::IcmpEcho => line::ICMP..=line::ICMP,
        Service::Icmpv6Echo => line::ICMPV6..=line::ICMPV6,
        Service::Protocol(number) if protocol::is_opaque(number) => {
            line::NUMBERS + u32::from(number)..=line::NUMBERS + u32::from(number)
        }
        Service::Protocol(_) => return None,
    })
}

/// The places that these services cover together, as ascending ranges that do not touch.
pub fn spans(services: &[Service], action: Action) -> Vec<(u32, u32)> {
    let spans = services.iter().filter_map(|service| span(*service, action));
    let mut spans: Vec<(u32, u32)> =
        spans.map(RangeInclusive::into_inner).filter(|(low, high)| low <= high).collect();
    spans.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(spans.len());
    for (low, high) in spans {
        match merged.last_mut() {
            Some((_, end)) if low <= end.saturating_add(1) => *end = high.max(*end),
            _ => merged.push((low, high)),
        }
    }
    merged
}

/// A rule where it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Its tier.
    pub tier: u8,
    /// What it does.
    pub action: Action,
    /// What it asks for, floors included.
    pub demand: DemandId,
    /// What the connections it allows have besides (limits, time-outs): equal numbers for equal things.
    pub effect: u32,
    /// The rule.
    pub rule: RuleId,
}

impl Clause {
    /// The order in which clauses are asked: the first that holds decides, but one that passes hands on to the next tier.
    pub fn order(&self) -> (u8, std::cmp::Reverse<Action>, RuleId) {
        (self.tier, std::cmp::Reverse(self.action), self.rule)
    }
}

/// What a clause or the lack of one comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Allowed, with this effect.
    Allow(u32),
    /// Refused, and the sender is told.
    Reject,
    /// Refused silently: by a rule, or because none holds.
    Deny,
}

impl Outcome {
    /// Of a clause that decides.
    pub fn of(clause: &Clause) -> Outcome {
        match clause.action {
            Action::Allow => Outcome::Allow(clause.effect),
            Action::Reject => Outcome::Reject,
            // A clause that passes does not decide.
            Action::Deny | Action::Pass => Outcome::Deny,
        }
    }
}

/// Clauses in their order, without those that can never decide. By its number in [`Forms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FormId(pub u32);

/// What matters of a clause: tiers count from 0, rules have no names.
type Essence = (u8, Action, DemandId, u32);

/// Forms, numbered.
#[derive(Default)]
pub struct Forms {
    list: Vec<Vec<Clause>>,
    index: HashMap<Vec<Clause>, FormId>,
    /// By form, a number that forms of the same essence share.
    essence: Vec<u32>,
    essences: HashMap<Vec<Essence>, u32>,
}

impl Forms {
    /// The clauses of a form.
    pub fn clauses(&self, form: FormId) -> &[Clause] {
        &self.list[form.0 as usize]
    }

    /// The same for forms that decide alike whatever their rules are called. Different ones may still decide alike.
    pub fn essence(&self, form: FormId) -> u32 {
        self.essence[form.0 as usize]
    }

    /// The form of clauses that come in their order.
    pub fn intern<'c>(&mut self, clauses: impl Iterator<Item = &'c Clause>) -> FormId {
        let clauses = reduce(clauses);
        if let Some(form) = self.index.get(&clauses) {
            return *form;
        }
        let next = self.essences.len() as u32;
        let essence = *self.essences.entry(essence(&clauses)).or_insert(next);
        let form = FormId(self.list.len() as u32);
        self.list.push(clauses.clone());
        self.essence.push(essence);
        self.index.insert(clauses, form);
        form
    }
}

/// Drops what cannot decide: whatever comes after a clause that asks for nothing, but for later tiers that something may
/// pass on to; and a clause that asks for the same as an earlier one of its action.
pub(super) fn reduce<'c>(clauses: impl Iterator<Item = &'c Clause>) -> Vec<Clause> {
    let mut kept: Vec<Clause> = Vec::new();
    let mut settled = None;
    for clause in clauses {
        if settled == Some(clause.tier) {
            continue;
        }
        let alike = |known: &&Clause| (known.tier, known.action) == (clause.tier, clause.action);
        if kept.iter().rev().take_while(alike).any(|known| known.demand == clause.demand) {
            continue;
        }
        kept.push(*clause);
        if clause.demand == DemandId::NONE {
            let mut tier = kept.iter().rev().take_while(|known| known.tier == clause.tier);
            if !tier.any(|known| known.action == Action::Pass) {
                break;
            }
            settled = Some(clause.tier);
        }
    }
    kept
}

fn essence(clauses: &[Clause]) -> Vec<Essence> {
    let mut tier = 0;
    let mut essence: Vec<Essence> = Vec::with_capacity(clauses.len());
    for (index, clause) in clauses.iter().enumerate() {
        tier += u8::from(index > 0 && clauses[index - 1].tier != clause.tier);
        essence.push((tier, clause.action, clause.demand, clause.effect));
    }
    // Where the order of equal actions does not matter, it is that of the demands.
    let groups = essence.chunk_by_mut(|a, b| (a.0, a.1) == (b.0, b.1));
    for group in groups {
        if group[0].1 != Action::Allow || group.iter().all(|clause| clause.3 == group[0].3) {
            group.sort_unstable();
        }
    }
    essence
}

/// Where on the line which form begins; the first begins at 0.
pub type Pieces = Vec<(u32, FormId)>;

/// Cuts the line where services begin and end. `clauses` come in their order, each with its spans.
pub fn pieces(clauses: &[Clause], spans: &[&[(u32, u32)]], forms: &mut Forms) -> Pieces {
    let mut found: Pieces = Vec::new();
    sweep(spans, |start, active| {
        let form = forms.intern(active.iter().map(|index| &clauses[*index as usize]));
        if found.last().is_none_or(|(_, last)| *last != form) {
            found.push((start, form));
        }
    });
    found
}

/// Goes along the line: wherever something changes, which of the lists of spans cover what follows.
pub fn sweep(spans: &[&[(u32, u32)]], mut each: impl FnMut(u32, &BTreeSet<u32>)) {
    let mut events: Vec<(u32, u32, bool)> = Vec::new();
    for (spans, index) in spans.iter().zip(0..) {
        for (low, high) in *spans {
            events.push((*low, index, true));
            events.push((high + 1, index, false));
        }
    }
    events.sort_unstable();
    let mut active = BTreeSet::new();
    if events.first().is_none_or(|(first, ..)| *first > 0) {
        each(0, &active);
    }
    for group in events.chunk_by(|a, b| a.0 == b.0) {
        // Spans of one list do not touch, so it never ends where it begins again.
        for (_, index, begins) in group {
            if *begins {
                active.insert(*index)
            } else {
                active.remove(index)
            };
        }
        if group[0].0 < line::END {
            each(group[0].0, &active);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clause(tier: u8, action: Action, demand: u32, rule: u32) -> Clause {
        Clause { tier, action, demand: DemandId(demand), effect: 0, rule: RuleId(rule) }
    }

    #[test]
    fn a_service_covers_the_places_that_it_contains() {
        let services = [
            Service::Any,
            Service::Tcp(80, 443),
            Service::Udp(0, 65535),
            Service::IcmpEcho,
            Service::Icmpv6Echo,
            Service::Protocol(47),
            Service::Protocol(6),
            Service::Protocol(255),
        ];
        for service in services {
            for action in [Action::Allow, Action::Deny] {
                let span = span(service, action);
                for at in (0..line::END).step_by(7).chain(line::ICMP - 1..line::END) {
                    let Some((protocol, port)) = protocol_and_port(at) else { continue };
                    assert_eq!(place(protocol, port), at);
                    let covered = span.as_ref().is_some_and(|span| span.contains(&at));
                    assert_eq!(
                        covered,
                        service.contains(action, protocol, port),
                        "{service:?} {action:?} {at}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_cannot_decide_is_no_part_of_a_form() {
        let kept = |clauses: &[Clause]| reduce(clauses.iter()).iter().map(|c| c.rule.0).collect::<Vec<_>>();
        let (allow, deny, pass) = (Action::Allow, Action::Deny, Action::Pass);
        assert_eq!(kept(&[clause(0, deny, 0, 1), clause(0, allow, 0, 2), clause(1, allow, 0, 3)]), [1]);
        assert_eq!(kept(&[clause(0, pass, 0, 1), clause(0, allow, 0, 2), clause(1, allow, 0, 3)]), [1, 3]);
        assert_eq!(kept(&[clause(0, allow, 5, 1), clause(0, allow, 5, 2), clause(0, allow, 6, 3)]), [1, 3]);
        assert_eq!(kept(&[clause(0, allow, 5, 1), clause(1, allow, 5, 2)]), [1, 2]);
        let may_pass =
            [clause(0, pass, 5, 1), clause(0, deny, 0, 2), clause(0, allow, 6, 3), clause(1, allow, 0, 4)];
        assert_eq!(kept(&may_pass), [1, 2, 4], "what passes reaches the next tier past a deny");
    }

    #[test]
    fn the_names_of_rules_and_numbers_of_tiers_are_no_part_of_the_essence() {
        let mut forms = Forms::default();
        let mut essence = |clauses: &[Clause]| {
            let form = forms.intern(clauses.iter());
            forms.essence(form)
        };
        let (allow, deny) = (Action::Allow, Action::Deny);
        let one = essence(&[clause(2, deny, 1, 0), clause(5, allow, 2, 1), clause(5, allow, 3, 2)]);
        assert_eq!(one, essence(&[clause(0, deny, 1, 8), clause(1, allow, 3, 4), clause(1, allow, 2, 9)]));
        assert_ne!(one, essence(&[clause(0, deny, 1, 8), clause(0, allow, 3, 4), clause(0, allow, 2, 9)]));
        let effects = |a, b| {
            [Clause { effect: a, ..clause(0, allow, 1, 0) }, Clause { effect: b, ..clause(0, allow, 2, 1) }]
        };
        assert_ne!(
            essence(&effects(1, 2)),
            essence(&effects(2, 1)),
            "the first of both decides which effect"
        );
    }

    #[test]
    fn the_line_is_cut_where_services_begin_and_end() {
        let clauses = [clause(0, Action::Deny, 0, 0), clause(0, Action::Allow, 0, 1)];
        let mut forms = Forms::default();
        let pieces = pieces(&clauses, &[&[(80, 80)], &[(0, 100), (200, line::END - 1)]], &mut forms);
        let starts: Vec<u32> = pieces.iter().map(|(start, _)| *start).collect();
        assert_eq!(starts, [0, 80, 81, 101, 200]);
        assert_eq!(forms.clauses(pieces[1].1)[0].rule, RuleId(0));
        assert_eq!(forms.clauses(pieces[3].1), []);
        assert_eq!((pieces[0].1, pieces[2].1), (pieces[4].1, pieces[4].1));
    }
}
