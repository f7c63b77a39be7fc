//! Two policies compared: everything that one treats differently from the other, with somebody who meets the difference.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use bulkhead_dataplane::policy::{Action, Decision, Query, RuleSet, reference};
use bulkhead_dataplane::verdict::RuleId;

use super::atlas::{Atlas, Content, Policy, TooLarge, spans_of_rules};
use super::demands::{Demands, Moments};
use super::ends::Sample;
use super::forms::{self, Clause, FormId, Forms, Outcome, Pieces, line};
use super::solve::{Decider, GivenUp, Occasion, Question, is_conditional};

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Refused before, allowed now.
    Gained,
    /// Allowed before, refused now.
    Lost,
    /// Refused silently before; now the sender is told.
    Rejected,
    /// The sender was told before; now it is refused silently.
    Silenced,
    /// Allowed before and now, with another effect.
    Effect,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Gained, Kind::Lost, Kind::Rejected, Kind::Silenced, Kind::Effect];

    /// From this outcome to that; `None` when nothing changes.
    pub fn between(old: Outcome, new: Outcome) -> Option<Kind> {
        match (old, new) {
            (Outcome::Allow(old), Outcome::Allow(new)) => (old != new).then_some(Kind::Effect),
            (_, Outcome::Allow(_)) => Some(Kind::Gained),
            (Outcome::Allow(_), _) => Some(Kind::Lost),
            (Outcome::Deny, Outcome::Reject) => Some(Kind::Rejected),
            (Outcome::Reject, Outcome::Deny) => Some(Kind::Silenced),
            (Outcome::Deny, Outcome::Deny) | (Outcome::Reject, Outcome::Reject) => None,
        }
    }
}

/// Somebody who meets a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The packet.
    pub query: Query,
    /// Who sends it, and when.
    pub occasion: Occasion,
    /// What the policies say, by the reference evaluator.
    pub decisions: [Decision; 2],
}

/// The same difference between all of these sources and all of these destinations.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What changes.
    pub kind: Kind,
    /// Classes of sources.
    pub rows: Vec<u32>,
    /// Classes of destinations.
    pub columns: Vec<u32>,
    /// On the line of protocols: ascending, both ends included.
    pub services: Vec<(u32, u32)>,
    /// How the old and the new policy treat these services.
    pub forms: [FormId; 2],
    /// Somebody who meets it. `None` when the clauses were too much for the search: then there may be no difference.
    pub witness: Option<Witness>,
}

/// The differences between two policies.
pub struct Comparison<'r> {
    /// The pairs of ends.
    pub atlas: Atlas<'r, 2>,
    /// What [`Difference::forms`] means.
    pub forms: Forms,
    /// All of them: the first kinds first, then by place.
    pub differences: Vec<Difference>,
}

/// Ranges on the line of protocols, ascending.
type Spans = Vec<(u32, u32)>;

/// Which change, of which services.
type Change = ([FormId; 2], Kind, Rc<Vec<(u32, u32)>>);

/// Which kinds of difference there are between two forms, with who meets it.
type Kinds = Vec<(Kind, Option<Occasion>)>;

/// Compares two policies, whose ports, users, groups, tags, postures and gates have the same numbers.
///
/// # Errors
///
/// There is more to look at than can be looked at in bounded time.
pub fn compare<'r>(old: Policy<'r>, new: Policy<'r>, moments: &Moments) -> Result<Comparison<'r>, TooLarge> {
    let mut atlas = Atlas::new([old, new], moments)?;
    let mut contents: HashMap<Content<2>, usize> = HashMap::new();
    let mut cells: Vec<Vec<(u32, u32)>> = Vec::new();
    atlas.visit(|row, column, content| {
        let index = contents.get(content).copied().unwrap_or_else(|| {
            contents.insert(content.clone(), cells.len());
            cells.push(Vec::new());
            cells.len() - 1
        });
        cells[index].push((row, column));
    })?;
    let mut contents: Vec<(Content<2>, usize)> = contents.into_iter().collect();
    contents.sort_unstable_by_key(|(_, index)| *index);
    let spans = atlas.policies.map(|policy| spans_of_rules(policy.rules));
    let mut comparer = Comparer::default();
    // Cells with the same change, in whatever cells it is found.
    let mut places: HashMap<Change, Vec<(u32, u32)>> = HashMap::new();
    let mut order: Vec<Change> = Vec::new();
    for (content, index) in contents {
        let pieces = [0, 1].map(|policy| {
            let clauses = atlas.clauses(policy, &content);
            let spans: Vec<&[(u32, u32)]> =
                clauses.iter().map(|clause| spans[policy][clause.rule.0 as usize].as_slice()).collect();
            forms::pieces(&clauses, &spans, &mut comparer.forms)
        });
        for (forms, services) in differing(&pieces, content.families, &comparer.forms) {
            let services = Rc::new(services);
            for (kind, _) in comparer.kinds(forms, &atlas).iter() {
                let change = (forms, *kind, services.clone());
                let known = places.entry(change.clone()).or_insert_with(|| {
                    order.push(change);
                    Vec::new()
                });
                known.extend_from_slice(&cells[index]);
            }
        }
    }
    let mut differences = Vec::new();
    for change in order {
        let cells = places.remove(&change).unwrap_or_default();
        for (rows, columns) in rectangles(cells) {
            differences.push(comparer.difference(&atlas, &change, rows, columns));
        }
    }
    differences.sort_by(|a, b| (a.kind, &a.rows, &a.columns).cmp(&(b.kind, &b.rows, &b.columns)));
    Ok(Comparison { atlas, forms: comparer.forms, differences })
}

#[derive(Default)]
struct Comparer {
    forms: Forms,
    /// By the essences of both forms.
    known: HashMap<[u32; 2], Rc<Kinds>>,
}

impl Comparer {
    fn kinds(&mut self, forms: [FormId; 2], atlas: &Atlas<'_, 2>) -> Rc<Kinds> {
        let key = forms.map(|form| self.forms.essence(form));
        if let Some(kinds) = self.known.get(&key) {
            return kinds.clone();
        }
        let kinds = Rc::new(kinds(forms.map(|form| self.forms.clauses(form)), &atlas.demands));
        self.known.insert(key, kinds.clone());
        kinds
    }

    fn difference(
        &mut self,
        atlas: &Atlas<'_, 2>,
        (forms, kind, services): &Change,
        rows: Vec<u32>,
        columns: Vec<u32>,
    ) -> Difference {
        let kinds = self.kinds(*forms, atlas);
        let occasion =
            kinds.iter().find(|(known, _)| known == kind).and_then(|(_, occasion)| occasion.clone());
        let witness = occasion.and_then(|occasion| {
            let ends = (&atlas.rows[rows[0] as usize].samples, &atlas.columns[columns[0] as usize].samples);
            let query = apart(question(ends.0, ends.1, services)?, atlas);
            let decisions = [0, 1].map(|policy: usize| {
                let clauses = self.forms.clauses(forms[policy]);
                decide(atlas.policies[policy].rules, clauses, &query, &occasion)
            });
            Some(Witness { query, occasion, decisions })
        });
        Difference { kind: *kind, rows, columns, services: services.to_vec(), forms: *forms, witness }
    }
}

/// What the reference evaluator says to a packet about which only these clauses speak.
pub fn decide(rules: &RuleSet, clauses: &[Clause], query: &Query, occasion: &Occasion) -> Decision {
    let mut ids: Vec<RuleId> = clauses.iter().map(|clause| clause.rule).collect();
    ids.sort_unstable();
    reference::judge_among(rules, ids.into_iter(), query, &occasion.circumstances())
}

/// A packet between two ends for one of these services: of TCP before UDP, to the lowest port that a packet can have.
pub fn question(
    sources: &[Option<Sample>; 2],
    destinations: &[Option<Sample>; 2],
    services: &[(u32, u32)],
) -> Option<Query> {
    for family in [0, 1] {
        let (Some((ingress, source)), Some((_, destination))) = (sources[family], destinations[family])
        else {
            continue;
        };
        let other = if family == 0 { line::ICMPV6 } else { line::ICMP };
        let places = services.iter().flat_map(|(low, high)| *low..=*high);
        // No packet has port 0, if it need not be that.
        let nice = |place: &u32| *place != 0 && *place != line::UDP;
        let valid = |place: &u32| *place != other && forms::protocol_and_port(*place).is_some();
        let place = places.clone().filter(valid).find(nice).or_else(|| places.clone().find(valid));
        if let Some((protocol, destination_port)) = place.and_then(forms::protocol_and_port) {
            return Some(Query { ingress, source, destination, protocol, destination_port });
        }
    }
    None
}

/// The same question to the next address, if that is treated alike: no packet goes from an address to itself.
fn apart(query: Query, atlas: &Atlas<'_, 2>) -> Query {
    let segments = |address| atlas.policies.map(|policy| reference::segment_of(policy.rules, address));
    let next = match query.destination {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    };
    match next {
        Some(next) if query.source == query.destination && segments(next) == segments(query.destination) => {
            Query { destination: next, ..query }
        }
        _ => query,
    }
}

/// Where two policies' forms differ in essence: each pair of forms once, with all its services.
fn differing(pieces: &[Pieces; 2], families: [bool; 2], forms: &Forms) -> Vec<([FormId; 2], Spans)> {
    let mut found: Vec<([FormId; 2], Spans)> = Vec::new();
    let mut index: HashMap<[FormId; 2], usize> = HashMap::new();
    let mut at = [0, 0];
    let mut start = 0;
    while start < line::END {
        for policy in [0, 1] {
            let next = |at: usize| pieces[policy].get(at + 1).filter(|(begins, _)| *begins <= start);
            while next(at[policy]).is_some() {
                at[policy] += 1;
            }
        }
        let end_of =
            |policy: usize| pieces[policy].get(at[policy] + 1).map_or(line::END, |(begins, _)| *begins);
        let end = end_of(0).min(end_of(1));
        let here = [pieces[0][at[0]].1, pieces[1][at[1]].1];
        if forms.essence(here[0]) != forms.essence(here[1]) {
            for span in existing((start, end - 1), families) {
                let number = *index.entry(here).or_insert_with(|| {
                    found.push((here, Vec::new()));
                    found.len() - 1
                });
                let spans = &mut found[number].1;
                match spans.last_mut() {
                    Some((_, high)) if *high + 1 == span.0 => *high = span.1,
                    _ => spans.push(span),
                }
            }
        }
        start = end;
    }
    found
}

/// The parts of a range in which there are packets of these families: IPv4 has no ICMPv6 and the other way round, and
/// the protocols with places of their own are not meant by their numbers.
pub fn existing((low, high): (u32, u32), [v4, v6]: [bool; 2]) -> Vec<(u32, u32)> {
    let mut spans = Vec::new();
    let mut from = low;
    let missing = [(!v4).then_some(line::ICMP), (!v6).then_some(line::ICMPV6)].into_iter().flatten();
    let numbers = [1, 6, 17, 58].map(|number| line::NUMBERS + number);
    for gap in missing.chain(numbers).filter(|gap| (low..=high).contains(gap)) {
        if from < gap {
            spans.push((from, gap - 1));
        }
        from = gap + 1;
    }
    if from <= high {
        spans.push((from, high));
    }
    spans
}

/// Cells as few products of rows and columns: rows with the same columns go together.
fn rectangles(mut cells: Vec<(u32, u32)>) -> Vec<(Vec<u32>, Vec<u32>)> {
    cells.sort_unstable();
    cells.dedup();
    let mut found: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
    let mut index: HashMap<Vec<u32>, usize> = HashMap::new();
    for group in cells.chunk_by(|a, b| a.0 == b.0) {
        let columns: Vec<u32> = group.iter().map(|(_, column)| *column).collect();
        let number = *index.entry(columns).or_insert_with_key(|columns| {
            found.push((Vec::new(), columns.clone()));
            found.len() - 1
        });
        found[number].0.push(group[0].0);
    }
    found
}

/// Every kind of difference between two forms.
pub(super) fn kinds(forms: [&[Clause]; 2], demands: &Demands) -> Kinds {
    let outcome = |list: usize, decider: Decider| {
        decider.map_or(Outcome::Deny, |index| Outcome::of(&forms[list][index]))
    };
    if !forms.iter().any(|clauses| is_conditional(clauses)) {
        // Without conditions, whatever comes first decides, but for what passes; nothing comes after that in its tier.
        let decider = |list: usize| forms[list].iter().position(|c| c.action != Action::Pass);
        let kind = Kind::between(outcome(0, decider(0)), outcome(1, decider(1)));
        return kind.map(|kind| (kind, Some(Occasion::default()))).into_iter().collect();
    }
    let deciders = |list: usize| {
        let all = forms[list].iter().enumerate().filter(|(_, clause)| clause.action != Action::Pass);
        all.map(|(index, _)| Some(index)).chain([None]).collect::<Vec<Decider>>()
    };
    let (old, new) = (deciders(0), deciders(1));
    let mut found: Kinds = Vec::new();
    let mut question = Question::new(&forms, demands);
    for kind in Kind::ALL {
        let pairs = old.iter().flat_map(|old| new.iter().map(move |new| [*old, *new]));
        let fitting = pairs.filter(|[a, b]| Kind::between(outcome(0, *a), outcome(1, *b)) == Some(kind));
        for pair in fitting {
            match question.decided_by(&pair) {
                Ok(Some(occasion)) => {
                    found.push((kind, Some(occasion)));
                    break;
                }
                Ok(None) => {}
                Err(GivenUp) => {
                    found.push((kind, None));
                    break;
                }
            }
        }
    }
    found
}
