//! From rules in an order to rules without one.
//!
//! What the ordered rules decide is known for every pair of segments ([`Pairs`]). A rule of the ruleset is taken over as
//! it stands where that changes nothing: an accepting one if all that it names is allowed in the end, or refused by a
//! denying rule that is taken over too, for deny beats allow. Where this does not work, it is cut into the pieces that
//! it decides. In the end the new rules are evaluated for every pair and must give the same decisions.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::classes::Class;
use super::program::{Bits, Decided, Outcome, Program, TooMuch, Verdict, Walk};
use super::sets::Services;

/// The most rules that are come by, counted once for every way by which chains lead to them.
const WAYS_LIMIT: usize = 1_000_000;
/// The most of them that differ.
const CANDIDATES_LIMIT: usize = 50_000;
/// The most new rules.
const RULES_LIMIT: usize = 20_000;
/// A rejecting rule that would become more rules than this is left out: what it refuses is then dropped.
const REJECT_PIECES: usize = 16;

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The rules are too entangled.
    TooMuch(TooMuch),
    /// More than [`WAYS_LIMIT`] ways, [`CANDIDATES_LIMIT`] rules with different conditions on the way, or more than [`RULES_LIMIT`] new rules.
    TooManyRules,
    /// The new rules do not mean the same: a fault of this program.
    Differs(String),
}

impl From<TooMuch> for Failure {
    fn from(too_much: TooMuch) -> Failure {
        Failure::TooMuch(too_much)
    }
}

/// What is decided of every pair of classes.
pub struct Pairs {
    count: usize,
    /// By source and destination; `None` where they have no family in common.
    index: Vec<Option<u32>>,
    outcomes: Vec<Outcome>,
}

impl Pairs {
    /// Goes through the rules for every pair.
    pub fn new(program: &Program, classes: &[Class]) -> Result<Pairs, TooMuch> {
        let mut walk = Walk::new(program);
        let mut known: HashMap<(Bits, u8), u32> = HashMap::new();
        let (mut index, mut outcomes) = (Vec::new(), Vec::new());
        for source in classes {
            for destination in classes {
                let families = source.families.and(destination.families);
                if families.is_none() {
                    index.push(None);
                    continue;
                }
                let bits = source.as_source.and(&destination.as_destination);
                let key = (bits, families.0);
                let number = match known.get(&key) {
                    Some(number) => *number,
                    None => {
                        outcomes.push(walk.outcome(&key.0, families)?);
                        let number = outcomes.len() as u32 - 1;
                        known.insert(key, number);
                        number
                    }
                };
                index.push(Some(number));
            }
        }
        Ok(Pairs { count: classes.len(), index, outcomes })
    }

    /// What is decided of a pair; `None` where no packet is of both.
    pub fn outcome(&self, source: usize, destination: usize) -> Option<&Outcome> {
        let number = self.index[source * self.count + destination]?;
        Some(&self.outcomes[number as usize])
    }

    /// The outcomes of a product of classes, each once.
    fn among(&self, sources: &Bits, destinations: &Bits) -> Vec<&Outcome> {
        let mut seen = vec![false; self.outcomes.len()];
        for source in sources.iter() {
            for destination in destinations.iter() {
                if let Some(number) = self.index[source * self.count + destination] {
                    seen[number as usize] = true;
                }
            }
        }
        self.outcomes.iter().zip(seen).filter(|(_, seen)| *seen).map(|(outcome, _)| outcome).collect()
    }
}

/// A rule of the ruleset, with all the conditions on the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Candidate {
    /// `None`: the policy of a chain.
    rule: Option<usize>,
    verdict: Verdict,
    sources: Bits,
    destinations: Bits,
    services: Services,
}

/// What a rule without order does; of several that match the greatest decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Lets through.
    Allow,
    /// Refuses and tells.
    Reject,
    /// Refuses.
    Deny,
}

/// A rule without order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// The rule of the ruleset; `None`: the policy of a chain.
    pub rule: Option<usize>,
    /// What it does.
    pub action: Action,
    /// Classes.
    pub sources: Bits,
    /// Classes.
    pub destinations: Bits,
    /// Services.
    pub services: Services,
    /// `limits.new_per_second`.
    pub per_second: Option<u64>,
}

/// The new rules, and what there is to be said about the old ones.
#[derive(Debug, Default)]
pub struct Unordered {
    /// The new rules.
    pub rules: Vec<Emitted>,
    /// Accepting rules that decide nothing.
    pub idle: Vec<usize>,
    /// Rejecting rules (`None`: a policy) whose refusals became silent, in part or as a whole.
    pub silenced: Vec<Option<usize>>,
}

/// Rules without order that decide as the program does.
pub fn unordered(program: &Program, classes: &[Class], pairs: &Pairs) -> Result<Unordered, Failure> {
    let candidates = candidates(program, classes)?;
    let mut maker =
        Maker { program, pairs, done: Unordered::default(), refusing: Vec::new(), needed: Vec::new() };
    let is = |verdict: Verdict| candidates.iter().filter(move |candidate| candidate.verdict == verdict);
    for candidate in is(Verdict::Drop) {
        maker.deny(candidate);
    }
    for candidate in is(Verdict::Reject) {
        maker.reject(candidate);
    }
    for candidate in is(Verdict::Accept) {
        maker.accept(candidate);
        if maker.done.rules.len() > RULES_LIMIT {
            return Err(Failure::TooManyRules);
        }
    }
    let needed = std::mem::take(&mut maker.needed);
    let refusing = std::mem::take(&mut maker.refusing).into_iter().zip(needed);
    let mut done = maker.done;
    let refusing = refusing.filter(|(rule, needed)| *needed || rule.action == Action::Reject);
    done.rules.extend(refusing.map(|(rule, _)| rule));
    done.rules = merged(program, done.rules);
    done.rules.sort_by_key(|rule| rule.rule.map_or(usize::MAX, |number| number));
    done.idle.sort_unstable();
    done.idle.dedup();
    // Of a rule that several ways lead to, one may decide something.
    let busy: Vec<Option<usize>> = done.rules.iter().map(|rule| rule.rule).collect();
    done.idle.retain(|rule| !busy.contains(&Some(*rule)));
    done.silenced.sort_unstable();
    done.silenced.dedup();
    verify(&done, pairs)?;
    Ok(done)
}

/// Every rule with a verdict, in order, by every way to it; the policies last.
fn candidates(program: &Program, classes: &[Class]) -> Result<Vec<Candidate>, Failure> {
    let by_rule = |has: &dyn Fn(&Class, usize) -> bool| -> Vec<Bits> {
        let of = |rule: usize| {
            let mut bits = Bits::none(classes.len());
            (0..classes.len()).filter(|&class| has(&classes[class], rule)).for_each(|class| bits.set(class));
            bits
        };
        (0..program.rules.len()).map(of).collect()
    };
    let mut flattening = Flattening {
        program,
        sources: by_rule(&|class, rule| class.as_source.has(rule)),
        destinations: by_rule(&|class, rule| class.as_destination.has(rule)),
        found: Vec::new(),
        known: HashSet::new(),
        ways: 0,
    };
    for stage in &program.stages {
        let mut all = Bits::none(classes.len());
        let seen = |class: &usize| !classes[*class].families.and(stage.families).is_none();
        (0..classes.len()).filter(seen).for_each(|class| all.set(class));
        flattening.chain(stage.chain, (&all, &all, &program.universe), 0)?;
    }
    let mut everything = Bits::none(classes.len());
    (0..classes.len()).for_each(|class| everything.set(class));
    for verdict in [Verdict::Accept, Verdict::Reject] {
        flattening.found.push(Candidate {
            rule: None,
            verdict,
            sources: everything.clone(),
            destinations: everything.clone(),
            services: program.universe.clone(),
        });
    }
    Ok(flattening.found)
}

struct Flattening<'p> {
    program: &'p Program,
    /// By rule, the classes that may be its source.
    sources: Vec<Bits>,
    /// By rule, the classes that may be its destination.
    destinations: Vec<Bits>,
    found: Vec<Candidate>,
    known: HashSet<Candidate>,
    ways: usize,
}

impl Flattening<'_> {
    fn chain(
        &mut self,
        chain: usize,
        (sources, destinations, services): (&Bits, &Bits, &Services),
        depth: usize,
    ) -> Result<(), Failure> {
        let program = self.program;
        for &number in &program.chains[chain].rules {
            self.ways += 1;
            if self.ways > WAYS_LIMIT {
                return Err(Failure::TooManyRules);
            }
            let rule = &program.rules[number];
            let (from, to) =
                (sources.and(&self.sources[number]), destinations.and(&self.destinations[number]));
            let of = services.intersection(&rule.services);
            if !rule.first || from.is_empty() || to.is_empty() || of.is_empty() {
                continue;
            }
            match rule.verdict {
                Verdict::Jump(inner) | Verdict::Goto(inner) => {
                    if depth >= super::program::DEPTH_LIMIT {
                        return Err(Failure::TooMuch(TooMuch::Depth));
                    }
                    self.chain(inner, (&from, &to, &of), depth + 1)?;
                }
                Verdict::Accept | Verdict::Drop | Verdict::Reject => {
                    let candidate = Candidate {
                        rule: Some(number),
                        verdict: rule.verdict,
                        sources: from,
                        destinations: to,
                        services: of,
                    };
                    if self.known.insert(candidate.clone()) {
                        self.found.push(candidate);
                    }
                }
                Verdict::Return => {}
            }
            if self.found.len() > CANDIDATES_LIMIT {
                return Err(Failure::TooManyRules);
            }
        }
        Ok(())
    }
}

struct Maker<'p> {
    program: &'p Program,
    pairs: &'p Pairs,
    done: Unordered,
    /// Denying and rejecting rules that may be taken over as they are.
    refusing: Vec<Emitted>,
    /// Of each, whether another rule counts on it.
    needed: Vec<bool>,
}

/// What the rule decides of these.
fn decided_by<'o>(outcome: &'o Outcome, candidate: &'o Candidate) -> impl Iterator<Item = Services> + 'o {
    let is_its = |part: &&Decided| part.rule == candidate.rule && part.verdict == candidate.verdict;
    let parts = outcome.decided.iter().filter(is_its);
    parts.map(|part| part.services.intersection(&candidate.services)).filter(|services| !services.is_empty())
}

impl Maker<'_> {
    fn emitted(&self, candidate: &Candidate, action: Action, services: Services) -> Emitted {
        Emitted {
            rule: candidate.rule,
            action,
            sources: candidate.sources.clone(),
            destinations: candidate.destinations.clone(),
            services,
            per_second: None,
        }
    }

    /// A denying rule can be taken over if nothing that it names is allowed, or refused otherwise.
    fn deny(&mut self, candidate: &Candidate) {
        let outcomes = self.pairs.among(&candidate.sources, &candidate.destinations);
        let is_pure = outcomes.iter().all(|outcome| {
            [&outcome.allowed, &outcome.limited, &outcome.rejected]
                .iter()
                .all(|services| candidate.services.intersection(services).is_empty())
        });
        if is_pure {
            self.refusing.push(self.emitted(candidate, Action::Deny, candidate.services.clone()));
            self.needed.push(false);
        }
    }

    /// A rejecting rule can be taken over if all that it names is rejected, or denied by rules taken over.
    fn reject(&mut self, candidate: &Candidate) {
        let outcomes = self.pairs.among(&candidate.sources, &candidate.destinations);
        if !outcomes.iter().any(|outcome| decided_by(outcome, candidate).next().is_some()) {
            return;
        }
        let covered =
            self.uncovered(candidate, &candidate.services, |outcome| outcome.rejected.clone(), true);
        if let Some(counted_on) = covered {
            counted_on.into_iter().for_each(|number| self.needed[number] = true);
            self.refusing.push(self.emitted(candidate, Action::Reject, candidate.services.clone()));
            self.needed.push(true);
            return;
        }
        let pieces = self.pieces(candidate, |outcome| outcome.rejected.clone());
        if pieces.len() > REJECT_PIECES {
            self.done.silenced.push(candidate.rule);
            return;
        }
        for (sources, destinations, services) in pieces {
            let piece = self.emitted(candidate, Action::Reject, services);
            self.refusing.push(Emitted { sources, destinations, ..piece });
            self.needed.push(true);
        }
    }

    fn accept(&mut self, candidate: &Candidate) {
        let outcomes = self.pairs.among(&candidate.sources, &candidate.destinations);
        if !outcomes.iter().any(|outcome| decided_by(outcome, candidate).next().is_some()) {
            self.done.idle.extend(candidate.rule);
            return;
        }
        if let Some(per_second) = candidate.rule.and_then(|rule| self.program.rules[rule].per_second) {
            self.accept_limited(candidate, per_second);
            return;
        }
        let allowed = outcomes.iter().fold(Services::default(), |all, outcome| all.union(&outcome.allowed));
        // Protocols that have to be named are named only where they are allowed.
        let mut whole = candidate.services.clone();
        whole.others = whole.others.intersection(&allowed.others.union(&Services::echo().others));
        let trimmed = candidate.services.intersection(&allowed);
        for services in [whole, trimmed] {
            let covered = self.uncovered(candidate, &services, |outcome| outcome.allowed.clone(), false);
            if let Some(counted_on) = covered {
                counted_on.into_iter().for_each(|number| self.needed[number] = true);
                self.done.rules.push(self.emitted(candidate, Action::Allow, services));
                return;
            }
        }
        for (sources, destinations, services) in self.pieces(candidate, |outcome| outcome.allowed.clone()) {
            let piece = self.emitted(candidate, Action::Allow, services);
            self.done.rules.push(Emitted { sources, destinations, ..piece });
        }
    }

    /// Its limit is shared out among its pieces, so that together they allow no more.
    fn accept_limited(&mut self, candidate: &Candidate, per_second: u64) {
        let pieces = self.pieces(candidate, |outcome| outcome.limited.clone());
        let share = (per_second / pieces.len().max(1) as u64).max(1);
        for (sources, destinations, services) in pieces {
            let piece = self.emitted(candidate, Action::Allow, services);
            let per_second = Some(share);
            self.done.rules.push(Emitted { sources, destinations, per_second, ..piece });
        }
    }

    /// `None` if some of these services are, for some pair, neither `wanted` nor refused by a rule taken over; else the
    /// rules that are counted on.
    fn uncovered(
        &self,
        candidate: &Candidate,
        services: &Services,
        wanted: impl Fn(&Outcome) -> Services,
        by_deny_only: bool,
    ) -> Option<Vec<usize>> {
        let mut counted_on = Vec::new();
        for source in candidate.sources.iter() {
            let here: Vec<usize> =
                (0..self.refusing.len()).filter(|&rule| self.refusing[rule].sources.has(source)).collect();
            for destination in candidate.destinations.iter() {
                let Some(outcome) = self.pairs.outcome(source, destination) else { continue };
                let mut left = services.minus(&wanted(outcome));
                for &rule in &here {
                    if left.is_empty() {
                        break;
                    }
                    let refusing = &self.refusing[rule];
                    let helps = refusing.destinations.has(destination)
                        && !(by_deny_only && refusing.action == Action::Reject)
                        && !left.intersection(&refusing.services).is_empty();
                    if helps {
                        left = left.minus(&refusing.services);
                        counted_on.push(rule);
                    }
                }
                if !left.is_empty() {
                    return None;
                }
            }
        }
        counted_on.sort_unstable();
        counted_on.dedup();
        Some(counted_on)
    }

    /// What the rule decides, as products, with what else of it has the same decision where that makes fewer of them.
    fn pieces(
        &self,
        candidate: &Candidate,
        wanted: impl Fn(&Outcome) -> Services,
    ) -> Vec<(Bits, Bits, Services)> {
        let count = self.pairs.count;
        let mut by_services: BTreeMap<Services, BTreeMap<usize, Bits>> = BTreeMap::new();
        for source in candidate.sources.iter() {
            for destination in candidate.destinations.iter() {
                let Some(outcome) = self.pairs.outcome(source, destination) else { continue };
                let services = candidate.services.intersection(&wanted(outcome));
                let decides = decided_by(outcome, candidate).next().is_some();
                if services.is_empty() || !decides && services != candidate.services {
                    continue;
                }
                let by_source = by_services.entry(services).or_default();
                by_source.entry(source).or_insert_with(|| Bits::none(count)).set(destination);
            }
        }
        let mut pieces = Vec::new();
        for (services, by_source) in by_services {
            let mut by_destinations: BTreeMap<Bits, Bits> = BTreeMap::new();
            for (source, destinations) in by_source {
                by_destinations.entry(destinations).or_insert_with(|| Bits::none(count)).set(source);
            }
            for (destinations, sources) in by_destinations {
                pieces.push((sources, destinations, services.clone()));
            }
        }
        pieces
    }
}

/// Rules of one statement that differ in one part only, put together: a statement with a set of combinations is many.
fn merged(program: &Program, rules: Vec<Emitted>) -> Vec<Emitted> {
    let mut by_statement: BTreeMap<_, Vec<Emitted>> = BTreeMap::new();
    for rule in rules {
        let at = rule.rule.map(|number| program.rules[number].at);
        by_statement.entry((at, rule.action, rule.per_second.is_some())).or_default().push(rule);
    }
    let mut done = Vec::new();
    for ((_, _, is_limited), mut rules) in by_statement {
        if !is_limited {
            rules = merge_by(
                rules,
                |r| (r.sources.clone(), r.destinations.clone()),
                |into, from| {
                    into.services = into.services.union(&from.services);
                },
            );
            rules = merge_by(
                rules,
                |r| (r.sources.clone(), r.services.clone()),
                |into, from| {
                    from.destinations.iter().for_each(|class| into.destinations.set(class));
                },
            );
            rules = merge_by(
                rules,
                |r| (r.destinations.clone(), r.services.clone()),
                |into, from| {
                    from.sources.iter().for_each(|class| into.sources.set(class));
                },
            );
        }
        done.extend(rules);
    }
    done
}

fn merge_by<K: Ord>(
    rules: Vec<Emitted>,
    key: impl Fn(&Emitted) -> K,
    merge: impl Fn(&mut Emitted, &Emitted),
) -> Vec<Emitted> {
    let mut places: BTreeMap<K, usize> = BTreeMap::new();
    let mut done: Vec<Emitted> = Vec::new();
    for rule in rules {
        match places.get(&key(&rule)) {
            Some(&place) => merge(&mut done[place], &rule),
            None => {
                places.insert(key(&rule), done.len());
                done.push(rule);
            }
        }
    }
    done
}

/// Evaluates the new rules, deny before reject before allow, and compares with what the old ones decide.
fn verify(new: &Unordered, pairs: &Pairs) -> Result<(), Failure> {
    for source in 0..pairs.count {
        let from: Vec<&Emitted> = new.rules.iter().filter(|rule| rule.sources.has(source)).collect();
        for destination in 0..pairs.count {
            let Some(outcome) = pairs.outcome(source, destination) else { continue };
            let mut by_action: BTreeMap<Action, Services> = BTreeMap::new();
            let mut limited = Services::default();
            for rule in from.iter().filter(|rule| rule.destinations.has(destination)) {
                if rule.per_second.is_some() {
                    limited = limited.union(&rule.services);
                    continue;
                }
                let all = by_action.entry(rule.action).or_default();
                *all = all.union(&rule.services);
            }
            let mut take = |action| by_action.remove(&action).unwrap_or_default();
            let (denied, rejected, allowed) = (take(Action::Deny), take(Action::Reject), take(Action::Allow));
            let refused = denied.union(&rejected);
            let (rejected, allowed) = (rejected.minus(&denied), allowed.minus(&refused));
            let limited = limited.minus(&refused).minus(&allowed);
            let is_told = rejected == outcome.rejected || !new.silenced.is_empty();
            if allowed != outcome.allowed || limited != outcome.limited || !is_told {
                return Err(Failure::Differs(format!(
                    "of class {source} and class {destination} it allows {allowed:?}, {limited:?} and rejects {rejected:?}, \
                     and should {outcome:?}"
                )));
            }
        }
    }
    Ok(())
}
