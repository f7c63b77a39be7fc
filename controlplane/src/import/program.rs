//! A ruleset in the form that both languages are read into, and what it does with a connection.
//!
//! The rules' conditions are products: so many sources × so many destinations × so many services. What is decided of a
//! pair of ends is therefore computed once for all services together: the set of services still undecided goes through
//! the rules that match the two ends, and every rule takes its share of it.
//!
//! A rule may have a condition that no policy of ours can express (a mark, a time of day). Such a rule is *uncertain*:
//! it matches an unknown part of what its other conditions match. What is computed is then what is allowed whatever
//! that part may be.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::sets::{Addresses, Families, Services};
use crate::config::At;

/// The most rules that may be looked at over all pairs of segments: a second or two of work.
pub const STEPS_LIMIT: u64 = 5_000_000;
/// The deepest nesting of chains: nftables' own limit (`NFT_JUMP_STACK_SIZE`).
pub const DEPTH_LIMIT: usize = 16;

/// A set of rules, or of anything that is numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// None of `count`.
    pub fn none(count: usize) -> Bits {
        Bits(vec![0; count.div_ceil(64)])
    }

    /// Puts a number in.
    pub fn set(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Whether the number is in.
    pub fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// What is in both.
    pub fn and(&self, other: &Bits) -> Bits {
        Bits(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// Whether nothing is in.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// What is in, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|&number| self.has(number))
    }

    /// How many are in.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// Interfaces by name; `*` at the end of a pattern stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceMatch {
    /// Any of them.
    pub patterns: Vec<String>,
    /// None of them instead.
    pub negated: bool,
}

impl InterfaceMatch {
    /// Whether the interface of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        let is_meant = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        };
        self.patterns.iter().any(is_meant) != self.negated
    }
}

/// What a rule asks of one end of a connection; everything must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The interface that it lies behind.
    pub interfaces: Vec<InterfaceMatch>,
    /// Sets that it is in, or (`true`) not in, by their places in [`Program::sets`].
    pub addresses: Vec<(usize, bool)>,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Let it through.
    Accept,
    /// Drop it.
    Drop,
    /// Drop it and tell the sender.
    Reject,
    /// Go through another chain, then on.
    Jump(usize),
    /// Go through another chain, then back to who called this one.
    Goto(usize),
    /// Back to who called this chain.
    Return,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where it stands.
    pub at: At,
    /// What it is called, or says of itself.
    pub comment: Option<String>,
    /// What it asks of the originator.
    pub source: End,
    /// What it asks of the responder.
    pub destination: End,
    /// Of which families.
    pub families: Families,
    /// Of which services.
    pub services: Services,
    /// Whether these are all its conditions.
    pub certain: bool,
    /// Whether it can match the first packet of a connection.
    pub first: bool,
    /// Whether it can match later packets.
    pub later: bool,
    /// It accepts so many new connections a second, and what is beyond goes on to the next rule.
    pub per_second: Option<u64>,
    /// What it does.
    pub verdict: Verdict,
    /// In a chain in which the last match counts: this match counts at once.
    pub quick: bool,
}

/// Rules in their order.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// The rules, by their places in [`Program::rules`].
    pub rules: Vec<usize>,
}

/// Which of several matching rules decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first, as in nftables.
    First,
    /// The last, unless one is quick, as in pf.
    Last,
}

/// One of the places where a forwarded packet is judged; all must accept it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The chain.
    pub chain: usize,
    /// Which match counts.
    pub order: Order,
    /// The families that come here; the others are not judged.
    pub families: Families,
    /// What becomes of what no rule decides: accept, drop or reject.
    pub policy: Verdict,
    /// Whether rules of this place rather than of others give their names to what is allowed.
    pub is_main: bool,
}

/// An interface and what lies behind it.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The networks; of nested ones the innermost counts, over all interfaces.
    pub networks: Vec<IpNet>,
}

/// A set of addresses that rules name.
#[derive(Clone, Debug)]
pub struct AddressSet {
    /// What it is called in the file.
    pub name: Option<String>,
    /// What is in it.
    pub addresses: Addresses,
    /// Where it was first used or defined.
    pub at: At,
}

/// A whole ruleset.
#[derive(Clone, Debug)]
pub struct Program {
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Address sets.
    pub sets: Vec<AddressSet>,
    /// Rules of all chains.
    pub rules: Vec<Rule>,
    /// Chains.
    pub chains: Vec<Chain>,
    /// Where forwarded packets are judged, in this order.
    pub stages: Vec<Stage>,
    /// All services there are: TCP, UDP, echo requests, and the other protocols that some rule names.
    pub universe: Services,
}

/// What is decided in the end, and by which rule (`None`: by a policy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Of these services.
    pub services: Services,
    /// Accept, Drop or Reject.
    pub verdict: Verdict,
    /// The rule.
    pub rule: Option<usize>,
}

/// What is decided of two ends; together the parts are the whole universe, and none overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Who decided what.
    pub decided: Vec<Decided>,
    /// What is allowed without limit.
    pub allowed: Services,
    /// What is allowed by rules with limits only.
    pub limited: Services,
    /// What is refused and told.
    pub rejected: Services,
}

/// The rules are too entangled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMuch {
    /// [`STEPS_LIMIT`].
    Steps,
    /// [`DEPTH_LIMIT`].
    Depth,
}

/// Goes through the rules for one pair of ends after another.
pub struct Walk<'p> {
    program: &'p Program,
    /// Steps taken so far, over all pairs.
    steps: u64,
}

/// How one stage is gone through.
#[derive(Clone, Copy)]
struct Manner<'b> {
    /// The rules whose ends match.
    bits: &'b Bits,
    /// Whether rules with a limit accept.
    with_limited: bool,
    /// Whether it is about packets that are not the first of their connection.
    later: bool,
}

impl<'p> Walk<'p> {
    /// Begins.
    pub fn new(program: &'p Program) -> Walk<'p> {
        Walk { program, steps: 0 }
    }

    /// What becomes of first packets between two ends of these families that the rules in `bits` match.
    pub fn outcome(&mut self, bits: &Bits, families: Families) -> Result<Outcome, TooMuch> {
        let has_limited = bits.iter().any(|rule| self.program.rules[rule].per_second.is_some());
        let manner = Manner { bits, with_limited: false, later: false };
        let mut outcome = Outcome::default();
        let strict = self.stages(families, manner)?;
        for part in &strict {
            match part.verdict {
                Verdict::Accept => outcome.allowed = outcome.allowed.union(&part.services),
                Verdict::Reject => outcome.rejected = outcome.rejected.union(&part.services),
                _ => {}
            }
        }
        outcome.decided = gathered(strict);
        if has_limited {
            let lenient = self.stages(families, Manner { with_limited: true, ..manner })?;
            self.add_limited(&mut outcome, lenient);
        }
        Ok(outcome)
    }

    /// What only rules with a limit allow is theirs.
    fn add_limited(&self, outcome: &mut Outcome, lenient: Vec<Decided>) {
        for part in lenient {
            let is_limited = part.rule.is_some_and(|rule| self.program.rules[rule].per_second.is_some());
            let services = part.services.minus(&outcome.allowed);
            if part.verdict != Verdict::Accept || !is_limited || services.is_empty() {
                continue;
            }
            for old in &mut outcome.decided {
                old.services = old.services.minus(&services);
            }
            outcome.limited = outcome.limited.union(&services);
            outcome.rejected = outcome.rejected.minus(&services);
            outcome.decided.push(Decided { services, ..part });
        }
        outcome.decided.retain(|part| !part.services.is_empty());
    }

    /// The services of later packets that pass between two ends, where ports do not matter.
    pub fn later(&mut self, bits: &Bits, families: Families) -> Result<Services, TooMuch> {
        let parts = self.stages(families, Manner { bits, with_limited: true, later: true })?;
        let passed = parts.iter().filter(|part| part.verdict == Verdict::Accept);
        Ok(passed.fold(Services::default(), |all, part| all.union(&part.services)))
    }

    /// All stages: what one accepts goes on to the next.
    fn stages(&mut self, families: Families, manner: Manner<'_>) -> Result<Vec<Decided>, TooMuch> {
        let program = self.program;
        let whole = Decided { services: program.universe.clone(), verdict: Verdict::Accept, rule: None };
        let mut parts = vec![whole];
        for stage in program.stages.iter().filter(|stage| !stage.families.and(families).is_none()) {
            let judged = self.stage(stage, manner)?;
            let mut next: Vec<Decided> = Vec::new();
            for part in parts {
                if part.verdict != Verdict::Accept {
                    next.push(part);
                    continue;
                }
                for now in &judged {
                    let services = part.services.intersection(&now.services);
                    if services.is_empty() {
                        continue;
                    }
                    // A rule rather than a policy, and one of the main stage rather than of another.
                    let keeps = part.rule.is_some() && (now.rule.is_none() || !stage.is_main);
                    let rule = if now.verdict == Verdict::Accept && keeps { part.rule } else { now.rule };
                    next.push(Decided { services, verdict: now.verdict, rule });
                }
            }
            parts = next;
        }
        Ok(parts)
    }

    fn stage(&mut self, stage: &Stage, manner: Manner<'_>) -> Result<Vec<Decided>, TooMuch> {
        let universe = self.program.universe.clone();
        if stage.order == Order::Last {
            return self.last_match(stage, universe, manner);
        }
        let mut decided = Vec::new();
        let through = Through { decided: &mut decided, depth: 0, unsure: false };
        let (rest, _) = self.chain(stage.chain, universe, manner, through)?;
        if !rest.is_empty() {
            decided.push(Decided { services: rest, verdict: stage.policy, rule: None });
        }
        Ok(decided)
    }

    fn count(&mut self) -> Result<(), TooMuch> {
        self.steps += 1;
        if self.steps > STEPS_LIMIT { Err(TooMuch::Steps) } else { Ok(()) }
    }

    /// What of `active` this rule can match; nothing if it does not apply.
    fn hit(&self, rule: &Rule, active: &Services, manner: Manner<'_>) -> Services {
        if !manner.later {
            return if rule.first { active.intersection(&rule.services) } else { Services::default() };
        }
        if !rule.later {
            return Services::default();
        }
        // Of later packets the ports are not known: a reply comes from the port and goes to any. So a protocol counts
        // as a whole or not at all.
        let mut hit = active.intersection(&rule.services);
        if hit.tcp != active.tcp {
            hit.tcp = Default::default();
        }
        if hit.udp != active.udp {
            hit.udp = Default::default();
        }
        hit
    }

    fn last_match(
        &mut self,
        stage: &Stage,
        universe: Services,
        manner: Manner<'_>,
    ) -> Result<Vec<Decided>, TooMuch> {
        let program = self.program;
        let mut undecided = vec![Decided { services: universe, verdict: stage.policy, rule: None }];
        let mut decided = Vec::new();
        for &number in &program.chains[stage.chain].rules {
            let rule = &program.rules[number];
            if !manner.bits.has(number) || rule.verdict == Verdict::Accept && !rule.certain {
                continue;
            }
            self.count()?;
            let mut services = Services::default();
            for part in &mut undecided {
                let hit = self.hit(rule, &part.services, manner);
                if !hit.is_empty() {
                    part.services = part.services.minus(&hit);
                    services = services.union(&hit);
                }
            }
            if services.is_empty() {
                continue;
            }
            undecided.retain(|part| !part.services.is_empty());
            let parts = if rule.quick { &mut decided } else { &mut undecided };
            parts.push(Decided { services, verdict: rule.verdict, rule: Some(number) });
        }
        decided.extend(undecided);
        Ok(decided)
    }

    /// Takes `active` through a chain. Gives what goes on behind the rule that jumped here, and what an unsure way would
    /// have accepted.
    ///
    /// On an unsure way it is not known whether packets come here at all: what is dropped here counts as dropped, and what
    /// is accepted here counts only if it would also be accepted by those who never came here.
    fn chain(
        &mut self,
        chain: usize,
        active: Services,
        manner: Manner<'_>,
        through: Through<'_>,
    ) -> Result<(Services, Services), TooMuch> {
        let program = self.program;
        let Through { decided, depth, unsure } = through;
        if depth > DEPTH_LIMIT {
            return Err(TooMuch::Depth);
        }
        let mut state = State { active, unsure, depth, ..State::default() };
        for &number in &program.chains[chain].rules {
            if state.active.is_empty() && state.perhaps_gone.is_empty() {
                break;
            }
            let rule = &program.rules[number];
            if !manner.bits.has(number) {
                continue;
            }
            self.count()?;
            let hit = self.hit(rule, &state.active, manner);
            let gone_hit = self.hit(rule, &state.perhaps_gone, manner);
            if hit.is_empty() && gone_hit.is_empty() {
                continue;
            }
            let part = |services| Decided { services, verdict: rule.verdict, rule: Some(number) };
            match rule.verdict {
                Verdict::Accept if !rule.certain => continue,
                Verdict::Accept if rule.per_second.is_some() && !manner.with_limited => continue,
                Verdict::Accept if unsure => state.escaped = state.escaped.union(&hit),
                Verdict::Accept => {
                    if !hit.is_empty() {
                        decided.push(part(hit.clone()));
                    }
                    state.returned = state.returned.union(&gone_hit);
                }
                Verdict::Drop | Verdict::Reject => decided.push(part(hit.union(&gone_hit))),
                Verdict::Return if rule.certain => {
                    state.returned = state.returned.union(&hit).union(&gone_hit);
                }
                // Who is unsure to be here returns in the end either way.
                Verdict::Return if unsure => continue,
                Verdict::Return => state.perhaps_gone = state.perhaps_gone.union(&hit),
                Verdict::Jump(_) | Verdict::Goto(_) => {
                    self.jump(rule, &mut state, (hit, gone_hit), manner, decided)?;
                    continue;
                }
            }
            state.active = state.active.minus(&hit);
            if rule.verdict != Verdict::Return || rule.certain {
                state.perhaps_gone = state.perhaps_gone.minus(&gone_hit);
            }
        }
        Ok((state.returned.union(&state.active).union(&state.perhaps_gone), state.escaped))
    }

    /// Takes what a jump or goto hits through its chain: of the active, and of those that are perhaps gone.
    fn jump(
        &mut self,
        rule: &Rule,
        state: &mut State,
        (hit, gone_hit): (Services, Services),
        manner: Manner<'_>,
        decided: &mut Vec<Decided>,
    ) -> Result<(), TooMuch> {
        let (to, is_jump) = match rule.verdict {
            Verdict::Jump(to) => (to, true),
            Verdict::Goto(to) => (to, false),
            _ => return Ok(()),
        };
        let depth = state.depth + 1;
        if !hit.is_empty() {
            state.active = state.active.minus(&hit);
            let unsure = state.unsure || !rule.certain;
            let (back, away) = self.chain(to, hit, manner, Through { decided, depth, unsure })?;
            // Where it is unsure whether they went there at all, those that came back from a goto are gone from here, or
            // still here.
            let back_to = match (is_jump, rule.certain) {
                (true, _) => &mut state.active,
                (false, true) => &mut state.returned,
                (false, false) if state.unsure => &mut state.active,
                (false, false) => &mut state.perhaps_gone,
            };
            *back_to = back_to.union(&back);
            let away_to = if rule.certain { &mut state.escaped } else { &mut state.active };
            *away_to = away_to.union(&away);
        }
        if !gone_hit.is_empty() {
            state.perhaps_gone = state.perhaps_gone.minus(&gone_hit);
            let (back, away) = self.chain(to, gone_hit, manner, Through { decided, depth, unsure: true })?;
            let back_to =
                if is_jump || !rule.certain { &mut state.perhaps_gone } else { &mut state.returned };
            *back_to = back_to.union(&back);
            let away_to = if rule.certain { &mut state.returned } else { &mut state.perhaps_gone };
            *away_to = away_to.union(&away);
        }
        Ok(())
    }
}

/// One part for each rule and verdict, whatever ways led to it.
fn gathered(parts: Vec<Decided>) -> Vec<Decided> {
    let mut all: BTreeMap<(Option<usize>, Verdict), Services> = BTreeMap::new();
    for part in parts {
        let services = all.entry((part.rule, part.verdict)).or_default();
        *services = services.union(&part.services);
    }
    all.into_iter().map(|((rule, verdict), services)| Decided { services, verdict, rule }).collect()
}

/// Where the services are while a chain is gone through.
#[derive(Default)]
struct State {
    /// Here.
    active: Services,
    /// Here, unless they have left by a return of which it is not known whether it matched.
    perhaps_gone: Services,
    /// Back at who called this chain.
    returned: Services,
    /// On an unsure way: accepted, if they came here at all.
    escaped: Services,
    unsure: bool,
    depth: usize,
}

/// How a chain is come to.
struct Through<'d> {
    decided: &'d mut Vec<Decided>,
    depth: usize,
    unsure: bool,
}
