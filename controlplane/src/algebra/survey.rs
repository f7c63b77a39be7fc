//! One policy looked through: which of its rules never do anything, and why. Exact, and the foundation of the lints.

use std::collections::{HashMap, HashSet};

use bulkhead_dataplane::policy::{Action, Condition, ConditionId, Query};
use bulkhead_dataplane::verdict::RuleId;

use super::atlas::{Atlas, Content, Policy, TooLarge, spans_of_rules};
use super::compare::{existing, kinds, question};
use super::demands::{Demand, DemandId, Demands, Moments};
use super::forms::{self, Clause, Outcome, line};
use super::solve::{Occasion, Question, is_conditional};

/// The most clauses over all pieces: some hundred MiB and a few seconds.
const MAX_CLAUSES: usize = 4 << 20;
/// At most so many other rules are named.
const NAMED: usize = 5;

/// Something that a condition asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Aspect {
    /// A time.
    Gates,
    /// Certain users.
    Users,
    /// Certain devices.
    Devices,
    /// A second factor that cannot be phished.
    PhishingResistant,
    /// A recent second factor.
    MfaAge,
    /// Postures.
    Postures,
    /// A low risk.
    Risk,
}

impl Aspect {
    const ALL: [Aspect; 7] = [
        Aspect::Gates,
        Aspect::Users,
        Aspect::Devices,
        Aspect::PhishingResistant,
        Aspect::MfaAge,
        Aspect::Postures,
        Aspect::Risk,
    ];

    /// The condition without this; `None` when it does not ask for it.
    pub fn without(self, condition: &Condition) -> Option<Condition> {
        let mut less = condition.clone();
        match self {
            Aspect::Gates => less.gates.clear(),
            Aspect::Users => less.users = None,
            Aspect::Devices => less.devices = None,
            Aspect::PhishingResistant => less.phishing_resistant = false,
            Aspect::MfaAge => less.mfa_max_age_s = None,
            Aspect::Postures => less.postures.clear(),
            Aspect::Risk => less.risk_below = None,
        }
        (less != *condition).then_some(less)
    }
}

/// What is the matter with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No packet is between its segments with its services.
    NeverMatches,
    /// Nobody can ever meet what it asks for.
    Unsatisfiable,
    /// Nobody can ever meet what it and a floor ask for together.
    FloorForbids,
    /// Others decide whatever it matches, and some of them otherwise.
    Shadowed(Vec<RuleId>),
    /// Without it nothing changes, because others say the same.
    Redundant(Vec<RuleId>),
    /// It refuses what nothing allows.
    DeniesNothing,
    /// Without this in its condition nothing changes: a floor asks for as much, or these others allow the same without it.
    Pointless(Aspect, Vec<RuleId>),
}

/// A fault with a packet that the rule matches, where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: RuleId,
    /// What is the matter.
    pub fault: Fault,
    /// A packet about which it speaks, and who sends it.
    pub sample: Option<(Query, Occasion)>,
}

/// Packets of which the same rules speak.
struct Piece {
    clauses: Vec<Clause>,
    floors: [Option<ConditionId>; 2],
    query: Query,
}

struct Survey<'r> {
    policy: Policy<'r>,
    demands: Demands,
    pieces: Vec<Piece>,
    /// By rule.
    pieces_of: Vec<Vec<u32>>,
    /// Rules without which nothing changes.
    dispensable: HashSet<RuleId>,
}

/// The faults of a policy's rules, by rule. All rules that are called redundant, or to deny nothing, can be taken out
/// together without changing anything.
///
/// # Errors
///
/// There is more to look at than can be looked at in bounded time.
pub fn survey(policy: Policy<'_>, moments: &Moments) -> Result<Vec<Finding>, TooLarge> {
    let mut survey = Survey::new(policy, moments)?;
    let mut findings = Vec::new();
    // Narrow rules first: of two of which either is dispensable, the wider one stays.
    let mut order: Vec<u32> = (0..policy.rules.rules.len() as u32).collect();
    order.sort_by_key(|rule| (survey.pieces_of[*rule as usize].len(), std::cmp::Reverse(*rule)));
    for rule in order.into_iter().map(RuleId) {
        if let Some((fault, sample)) = survey.fault(rule) {
            if matches!(fault, Fault::Redundant(_) | Fault::DeniesNothing) {
                survey.dispensable.insert(rule);
            }
            findings.push(Finding { rule, fault, sample });
        }
    }
    let faulty: HashSet<RuleId> = findings.iter().map(|finding| finding.rule).collect();
    for rule in (0..policy.rules.rules.len() as u32).map(RuleId).filter(|rule| !faulty.contains(rule)) {
        findings.extend(survey.pointless(rule));
    }
    findings.sort_by_key(|finding| finding.rule);
    Ok(findings)
}

impl<'r> Survey<'r> {
    fn new(policy: Policy<'r>, moments: &Moments) -> Result<Survey<'r>, TooLarge> {
        let mut atlas = Atlas::new([policy], moments)?;
        let mut contents: HashMap<Content<1>, (u32, u32)> = HashMap::new();
        let mut order: Vec<Content<1>> = Vec::new();
        atlas.visit(|row, column, content| {
            contents.entry(content.clone()).or_insert_with(|| {
                order.push(content.clone());
                (row, column)
            });
        })?;
        let spans = spans_of_rules(policy.rules);
        let mut known: HashSet<(Vec<Clause>, [Option<ConditionId>; 2])> = HashSet::new();
        let (mut pieces, mut listed) = (Vec::new(), 0);
        for content in order {
            let (row, column) = contents[&content];
            let clauses = atlas.clauses(0, &content);
            let of_clauses: Vec<&[(u32, u32)]> =
                clauses.iter().map(|clause| spans[clause.rule.0 as usize].as_slice()).collect();
            let mut steps: Vec<(u32, Vec<Clause>)> = Vec::new();
            forms::sweep(&of_clauses, |start, active| {
                listed += active.len();
                if listed <= MAX_CLAUSES {
                    steps.push((start, active.iter().map(|index| clauses[*index as usize]).collect()));
                }
            });
            if listed > MAX_CLAUSES {
                return Err(TooLarge);
            }
            let ends: Vec<u32> = steps.iter().skip(1).map(|(start, _)| *start).chain([line::END]).collect();
            for ((start, clauses), end) in steps.into_iter().zip(ends) {
                let here = existing((start, end - 1), content.families);
                let samples = (&atlas.rows[row as usize].samples, &atlas.columns[column as usize].samples);
                let Some(query) = question(samples.0, samples.1, &here) else { continue };
                let floors = content.floors[0];
                if !clauses.is_empty() && known.insert((clauses.clone(), floors)) {
                    pieces.push(Piece { clauses, floors, query });
                }
            }
        }
        let mut pieces_of = vec![Vec::new(); policy.rules.rules.len()];
        for (piece, number) in pieces.iter().zip(0..) {
            for clause in &piece.clauses {
                pieces_of[clause.rule.0 as usize].push(number);
            }
        }
        let demands = std::mem::take(&mut atlas.demands);
        Ok(Survey { policy, demands, pieces, pieces_of, dispensable: HashSet::new() })
    }

    /// The clauses of a piece, without rules that are dispensable already, and the one of this rule.
    fn clauses(&self, piece: u32, rule: RuleId) -> (Vec<Clause>, Clause) {
        let all = &self.pieces[piece as usize].clauses;
        let kept = all.iter().filter(|clause| !self.dispensable.contains(&clause.rule)).copied().collect();
        let own = all.iter().find(|clause| clause.rule == rule).copied();
        (kept, own.expect("the piece is one of this rule's"))
    }

    fn fault(&mut self, rule: RuleId) -> Option<(Fault, Option<(Query, Occasion)>)> {
        let pieces = self.pieces_of[rule.0 as usize].clone();
        let Some(first) = pieces.first() else { return Some((Fault::NeverMatches, None)) };
        let query = self.pieces[*first as usize].query;
        if let Some(fault) = self.unsatisfiable(rule, &pieces) {
            return Some((fault, Some((query, Occasion::default()))));
        }
        if pieces.iter().any(|piece| self.matters(*piece, rule)) {
            return None;
        }
        let action = self.policy.rules.rules[rule.0 as usize].action;
        let (mut same, mut otherwise): (Vec<RuleId>, Vec<RuleId>) = (Vec::new(), Vec::new());
        let (mut sample, mut differs) = (None, false);
        for piece in &pieces {
            let own = Outcome::of(&self.clauses(*piece, rule).1);
            for (other, outcome, occasion) in self.in_its_place(*piece, rule) {
                let is_otherwise = outcome != own && action != Action::Pass;
                if sample.is_none() || (is_otherwise && !differs) {
                    sample = Some((self.pieces[*piece as usize].query, occasion));
                }
                differs |= is_otherwise;
                let list = if is_otherwise { &mut otherwise } else { &mut same };
                list.extend(other.filter(|other| list.len() < NAMED && !list.contains(other)));
            }
        }
        let fault = if !otherwise.is_empty() && !pieces.iter().any(|piece| self.decides(*piece, rule)) {
            Fault::Shadowed(otherwise)
        } else if same.is_empty() && action != Action::Allow {
            Fault::DeniesNothing
        } else {
            Fault::Redundant(same)
        };
        Some((fault, sample))
    }

    /// Whether nobody can ever meet what the rule asks for, alone or with the floors.
    fn unsatisfiable(&self, rule: RuleId, pieces: &[u32]) -> Option<Fault> {
        let can_hold = |piece: &u32| {
            let (_, own) = self.clauses(*piece, rule);
            own.demand == DemandId::NONE
                || !matches!(Question::new(&[&[own]], &self.demands).decided_by(&[Some(0)]), Ok(None))
                || own.action == Action::Pass
        };
        if pieces.iter().any(can_hold) {
            return None;
        }
        let own = &self.policy.rules.rules[rule.0 as usize];
        let alone =
            own.condition.map(|id| Demand::of(own.action, std::iter::once(self.policy.rules.condition(id))));
        let impossible = |demand: Demand| {
            let mut demands = Demands::new(self.demands.moments.clone());
            let demand = demands.intern(demand);
            let clause = Clause { tier: 0, action: own.action, demand, effect: 0, rule };
            matches!(Question::new(&[&[clause]], &demands).decided_by(&[Some(0)]), Ok(None))
        };
        Some(if alone.is_some_and(impossible) { Fault::Unsatisfiable } else { Fault::FloorForbids })
    }

    /// Whether anything in the piece changes without the rule.
    fn matters(&self, piece: u32, rule: RuleId) -> bool {
        let (clauses, _) = self.clauses(piece, rule);
        let with = forms::reduce(clauses.iter());
        if !with.iter().any(|clause| clause.rule == rule) {
            return false;
        }
        let without = forms::reduce(clauses.iter().filter(|clause| clause.rule != rule));
        // What could not be found out counts as a difference.
        !kinds([&with, &without], &self.demands).is_empty()
    }

    /// Whether the rule ever decides in the piece, for anybody.
    fn decides(&self, piece: u32, rule: RuleId) -> bool {
        let (clauses, _) = self.clauses(piece, rule);
        let clauses = forms::reduce(clauses.iter());
        let place = clauses.iter().position(|clause| clause.rule == rule && clause.action != Action::Pass);
        let question = |place| Question::new(&[&clauses], &self.demands).decided_by(&[Some(place)]);
        // What could not be found out may be.
        place.is_some_and(|place| !matches!(question(place), Ok(None)))
    }

    /// Who decides in the piece when the rule holds and is not there, with what outcome, and for whom: the default too.
    fn in_its_place(&self, piece: u32, rule: RuleId) -> Vec<(Option<RuleId>, Outcome, Occasion)> {
        let (clauses, own) = self.clauses(piece, rule);
        let others = forms::reduce(clauses.iter().filter(|clause| clause.rule != rule));
        let own = [own];
        let mut question = Question::new(&[&own, &others], &self.demands);
        let is_plain = !is_conditional(&others) && !is_conditional(&own);
        let mut found = Vec::new();
        let deciding = others.iter().enumerate().filter(|(_, clause)| clause.action != Action::Pass);
        for decider in deciding.map(|(index, _)| Some(index)).chain([None]) {
            let outcome = decider.map_or(Outcome::Deny, |index| Outcome::of(&others[index]));
            let held = if own[0].action == Action::Pass {
                question.holds(0, 0, &[None, decider])
            } else {
                question.decided_by(&[Some(0), decider])
            };
            if let Ok(Some(occasion)) = held {
                found.push((decider.map(|index| others[index].rule), outcome, occasion));
                // Without conditions the first that can decide always does.
                if is_plain {
                    break;
                }
            }
        }
        found
    }

    /// What the rule asks for without need.
    fn pointless(&mut self, rule: RuleId) -> Vec<Finding> {
        let own = &self.policy.rules.rules[rule.0 as usize];
        let Some(condition) = own.condition.filter(|_| own.action == Action::Allow) else {
            return Vec::new();
        };
        let condition = self.policy.rules.condition(condition);
        let pieces = self.pieces_of[rule.0 as usize].clone();
        let mut findings = Vec::new();
        for aspect in Aspect::ALL {
            let Some(less) = aspect.without(condition) else { continue };
            let mut by_others = Vec::new();
            let changes = pieces.iter().any(|piece| self.changes_with(*piece, rule, &less, &mut by_others));
            if !changes {
                let query = pieces.first().map(|piece| self.pieces[*piece as usize].query);
                by_others.truncate(NAMED);
                findings.push(Finding {
                    rule,
                    fault: Fault::Pointless(aspect, by_others),
                    sample: query.map(|query| (query, Occasion::default())),
                });
            }
        }
        findings
    }

    /// Whether anything in the piece changes when the rule asks for less. If not, and no floor is why, adds who allows
    /// the same.
    fn changes_with(
        &mut self,
        piece: u32,
        rule: RuleId,
        less: &Condition,
        by_others: &mut Vec<RuleId>,
    ) -> bool {
        let rules = self.policy.rules;
        let floors = self.pieces[piece as usize].floors;
        let floors = floors.into_iter().flatten().map(|id| rules.condition(id));
        let demand = self.demands.intern(Demand::of(Action::Allow, std::iter::once(less).chain(floors)));
        let (clauses, own) = self.clauses(piece, rule);
        if own.demand == demand {
            return false;
        }
        let changed =
            |clause: &Clause| if clause.rule == rule { Clause { demand, ..*clause } } else { *clause };
        let changed: Vec<Clause> = clauses.iter().map(changed).collect();
        let forms = [forms::reduce(clauses.iter()), forms::reduce(changed.iter())];
        if !kinds([&forms[0], &forms[1]], &self.demands).is_empty() {
            return true;
        }
        let same = clauses.iter().filter(|clause| clause.action == Action::Allow && clause.rule != rule);
        by_others.extend(
            same.map(|clause| clause.rule).filter(|other| !by_others.contains(other)).collect::<Vec<_>>(),
        );
        false
    }
}
