//! Cells whose answer depends on more than the packet: who asks, and when.
//!
//! Between two classes and at one port several rules may match that each ask for something else. They become a list of
//! clauses in the order in which they have their say: tier by tier, in a tier pass before deny before reject before
//! allow, then by rule. The first clause that holds decides, or passes on to the next tier. Nothing stands in a list
//! that can never be reached: a tier ends behind its first clause that holds always, and all ends there when nothing
//! before it may pass. So what asks for nothing is no list but a plain [`Cell`].
//!
//! Of rules of one tier and action that ask for the same, the one with the lowest number speaks for all: it holds when
//! they hold, and what it lacks they lack. That keeps lists short, whatever the number of rules, and lets rules be
//! merged block by block like those that ask for nothing, see [`Manner`].

use super::conditions::{Circumstances, Condition, ConditionId};
use super::lists::{Interner, Item, Lists};
use super::paint::Painted;
use super::ports::{Cell, ClausesId, Piece, RULE_BITS};
use super::reference::holds;
use super::rules::{Action, Decision, Rule, RuleSet};
use crate::verdict::{Reason, RuleId};

/// The most clauses that may meet at one port between two segments: bounds what judging a packet costs to some
/// microseconds.
pub const MAX_ALTERNATIVES: usize = 1024;
/// The most clauses in all, before equal lists are kept once: bounds them to 256 MiB, and writing them to about a
/// second.
pub const MAX_CLAUSES: usize = 32 << 20;

/// A rule that may decide, and what it asks for: from the highest bit on its tier (4 bits), its strength (2), the rule
/// (30) and the number of its demands (28), so that clauses are ordered as they have their say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Clause(u64);

const DEMANDS_BITS: u32 = 28;

impl Item for Clause {
    fn bits(self) -> u64 {
        self.0
    }
}

impl Clause {
    const ACTIONS: [Action; 4] = [Action::Pass, Action::Deny, Action::Reject, Action::Allow];

    fn new(tier: u8, action: Action, rule: u32, demands: u32) -> Clause {
        debug_assert!(tier < 16 && rule < 1 << RULE_BITS && demands < 1 << DEMANDS_BITS);
        let strength = match action {
            Action::Pass => 0,
            Action::Deny => 1,
            Action::Reject => 2,
            Action::Allow => 3,
        };
        let order = (u64::from(tier) << 2 | strength) << RULE_BITS | u64::from(rule);
        Clause(order << DEMANDS_BITS | u64::from(demands))
    }

    fn tier(self) -> u8 {
        (self.0 >> (2 + RULE_BITS + DEMANDS_BITS)) as u8
    }

    fn action(self) -> Action {
        Clause::ACTIONS[(self.0 >> (RULE_BITS + DEMANDS_BITS) & 3) as usize]
    }

    fn rule(self) -> u32 {
        (self.0 >> DEMANDS_BITS) as u32 & ((1 << RULE_BITS) - 1)
    }

    /// With the rule's number in another rule set, found by that in this one; see [`Cell::renumbered`].
    fn renumbered(self, numbers: &[u32]) -> Clause {
        const RULE: u64 = (1 << RULE_BITS) - 1;
        let rule = u64::from(*numbers.get(self.rule() as usize).unwrap_or(&u32::MAX)) & RULE;
        Clause(self.0 & !(RULE << DEMANDS_BITS) | rule << DEMANDS_BITS)
    }

    fn demands(self) -> u32 {
        self.0 as u32 & ((1 << DEMANDS_BITS) - 1)
    }

    /// Asks for nothing: the list of no demands is the first.
    fn is_unconditional(self) -> bool {
        self.demands() == 0
    }
}

/// All lists of clauses of a policy.
#[derive(Clone, Default)]
pub(super) struct Clauses {
    lists: Lists<Clause>,
    /// What a clause asks for: conditions that must all hold.
    demands: Lists<u32>,
    conditions: Vec<Condition>,
}

impl Clauses {
    /// How many lists there are.
    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    /// All lists with other numbers of their rules, by their numbers here. Those of rules without one are not to be judged
    /// by any more.
    pub(super) fn renumbered(&self, numbers: &[u32]) -> Clauses {
        let Clauses { lists, demands, conditions } = self;
        let lists = lists.map(|clause| clause.renumbered(numbers));
        Clauses { lists, demands: demands.clone(), conditions: conditions.clone() }
    }

    /// What the list decides in these circumstances about a packet of this protocol.
    #[cold]
    pub(super) fn judge(&self, list: ClausesId, protocol: u8, circumstances: &Circumstances<'_>) -> Decision {
        let mut nearest: Option<(Reason, u32)> = None;
        let mut passed = None;
        for clause in self.lists.list(list.0) {
            if passed == Some(clause.tier()) {
                continue;
            }
            let demands = self.demands.list(clause.demands());
            let conditions = demands.iter().map(|condition| &self.conditions[*condition as usize]);
            match holds(clause.action(), conditions, circumstances) {
                Ok(true) if clause.action() == Action::Pass => passed = Some(clause.tier()),
                Ok(true) => return Decision::by(RuleId(clause.rule()), clause.action()),
                Ok(false) => {}
                // Strictly: of equals the first tier, and in it the lowest rule, is named.
                Err(unmet) if nearest.is_none_or(|(best, _)| unmet > best) => {
                    nearest = Some((unmet, clause.rule()));
                }
                Err(_) => {}
            }
        }
        match nearest {
            Some((unmet, rule)) => Decision::unmet(RuleId(rule), unmet),
            None => Decision::unmatched(protocol),
        }
    }
}

/// How the rules of a block speak. In a block the best rule over a port speaks for all of them, so there must be no
/// circumstances in which another of them would: they share tier and condition; those that pass are among themselves,
/// and those that allow whatever the floors; and so are, where they ask for something, those that allow, for they take a demand in another sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    pub tier: u8,
    pub condition: Option<ConditionId>,
    pub passes: bool,
    pub waives_floors: bool,
}

/// The manner of every rule.
pub(super) struct Manners {
    /// By number.
    all: Vec<Manner>,
    /// By rule, the number; empty when all speak in the same plain manner.
    of_rule: Vec<u32>,
}

impl Manners {
    /// Of rules that ask for nothing, pass nothing and stand in one tier.
    pub(super) fn plain() -> Manners {
        Manners {
            all: vec![Manner { tier: 0, condition: None, passes: false, waives_floors: false }],
            of_rule: Vec::new(),
        }
    }

    pub(super) fn new(rules: &RuleSet, demands: &Demands<'_>) -> Manners {
        const NO_CONDITION: u32 = u32::MAX;
        let mut known = Interner::default();
        let mut all = Vec::new();
        let mut number = |rule: &Rule| {
            let condition = demands.of_rule(rule);
            let passes = rule.action == Action::Pass;
            let waives_floors = rule.waives_floors && rule.action == Action::Allow;
            let manner = Manner { tier: rule.tier, condition, passes, waives_floors };
            let allows = condition.is_some() && rule.action == Action::Allow;
            let kind = u32::from(manner.tier) << 3
                | u32::from(waives_floors) << 2
                | u32::from(allows) << 1
                | u32::from(passes);
            let number = known.intern(&[condition.map_or(NO_CONDITION, |id| id.0), kind]);
            if number as usize == all.len() {
                all.push(manner);
            }
            number
        };
        let of_rule = rules.rules.iter().map(&mut number).collect();
        Manners { all, of_rule }
    }

    /// Whether all speak in the same plain manner.
    pub(super) fn is_plain(&self) -> bool {
        self.of_rule.is_empty()
    }

    /// The number of a rule's manner.
    pub(super) fn of_rule(&self, rule: usize) -> u32 {
        self.of_rule.get(rule).copied().unwrap_or(0)
    }

    pub(super) fn manner(&self, number: u32) -> Manner {
        self.all[number as usize]
    }
}

/// Which condition stands for each: equal ones for the first of them, and none for those that ask for nothing.
pub(super) struct Demands<'r> {
    rules: &'r RuleSet,
    first_equal: Vec<Option<ConditionId>>,
}

impl<'r> Demands<'r> {
    pub(super) fn new(rules: &'r RuleSet) -> Demands<'r> {
        let mut known: std::collections::HashMap<&Condition, ConditionId> = Default::default();
        let nothing = Condition::default();
        let first_equal = rules.conditions.iter().zip(0..).map(|(condition, id)| {
            (*condition != nothing).then(|| *known.entry(condition).or_insert(ConditionId(id)))
        });
        Demands { rules, first_equal: first_equal.collect() }
    }

    /// What the rule itself asks for.
    fn of_rule(&self, rule: &Rule) -> Option<ConditionId> {
        let id = self.of(rule.condition)?;
        (rule.action == Action::Allow || !self.rules.condition(id).always_binds()).then_some(id)
    }

    /// What this floor asks for.
    pub(super) fn of(&self, id: Option<ConditionId>) -> Option<ConditionId> {
        self.first_equal[id?.0 as usize]
    }

    /// By segment, its floor; empty where none has one.
    pub(super) fn floors(
        &self,
        floor: impl Fn(&super::Segment) -> Option<ConditionId>,
    ) -> Vec<Option<ConditionId>> {
        let floors: Vec<_> = self.rules.segments.iter().map(|segment| self.of(floor(segment))).collect();
        if floors.iter().all(Option::is_none) { Vec::new() } else { floors }
    }
}

/// Why there can be no list; the rule is among those it would be of.
pub(super) enum TooMany {
    /// More than [`MAX_ALTERNATIVES`] meet at one port.
    Alternatives(RuleId),
    /// More than [`MAX_CLAUSES`] in all.
    Clauses(RuleId),
}

/// From this port on the clause has its say, if it had not before; otherwise no longer.
type Edge = (u16, Clause);

/// Merges what rules of different manners say into pieces whose cells are plain or name a list.
pub(super) struct Merger {
    lists: Interner<Clause>,
    demands: Interner<u32>,
    /// Of TCP, UDP, opaque protocols and both kinds of echo; these have no ports, so all of theirs is at port 0.
    edges: [Vec<Edge>; 5],
    pieces: [Vec<Piece>; 5],
    active: Vec<Clause>,
    list: Vec<Clause>,
    /// How many clauses were active at all edges.
    met: usize,
}

impl Default for Merger {
    fn default() -> Self {
        let mut demands = Interner::default();
        demands.intern(&[]);
        let (lists, edges, pieces, active, list) = Default::default();
        Merger { lists, demands, edges, pieces, active, list, met: 0 }
    }
}

impl Merger {
    /// Adds what rules of one manner say between classes of these floors.
    pub(super) fn add(&mut self, manner: Manner, floors: [Option<ConditionId>; 2], says: &Painted<'_>) {
        let own = self.demands(&[manner.condition]);
        let floors = if manner.waives_floors { [None; 2] } else { floors };
        let to_allow = self.demands(&[manner.condition, floors[0], floors[1]]);
        let clause = |cell: Cell| {
            let (action, rule) = cell.plain()?;
            let action = if manner.passes { Action::Pass } else { action };
            // Floors bind only the rules that allow.
            let demands = if action == Action::Allow { to_allow } else { own };
            Some(Clause::new(manner.tier, action, rule, demands))
        };
        let echo = [[(0, says.icmp)], [(0, says.icmpv6)]];
        let all = [says.tcp, says.udp, says.opaque, &echo[0], &echo[1]];
        for (edges, pieces) in self.edges.iter_mut().zip(all) {
            for (index, (port, cell)) in pieces.iter().enumerate() {
                if let Some(clause) = clause(*cell) {
                    edges.push((*port, clause));
                    edges.extend(pieces.get(index + 1).map(|(end, _)| (*end, clause)));
                }
            }
        }
    }

    /// The number of the set of these conditions.
    fn demands(&mut self, conditions: &[Option<ConditionId>]) -> u32 {
        let mut set: Vec<u32> = conditions.iter().flatten().map(|id| id.0).collect();
        set.sort_unstable();
        set.dedup();
        self.demands.intern(&set)
    }

    /// What all says together that was added since the last call.
    pub(super) fn resolve(&mut self) -> Result<Painted<'_>, TooMany> {
        for index in 0..self.edges.len() {
            self.resolve_edges(index)?;
        }
        let [tcp, udp, opaque, icmp, icmpv6] = &self.pieces;
        Ok(Painted { tcp, udp, opaque, icmp: icmp[0].1, icmpv6: icmpv6[0].1 })
    }

    fn resolve_edges(&mut self, index: usize) -> Result<(), TooMany> {
        let mut edges = std::mem::take(&mut self.edges[index]);
        let mut pieces = std::mem::take(&mut self.pieces[index]);
        edges.sort_unstable();
        self.active.clear();
        pieces.clear();
        if edges.first().is_none_or(|(port, _)| *port > 0) {
            pieces.push((0, Cell::NONE));
        }
        for at_port in edges.chunk_by(|a, b| a.0 == b.0) {
            for (_, clause) in at_port {
                match self.active.binary_search(clause) {
                    Ok(place) => drop(self.active.remove(place)),
                    Err(place) => self.active.insert(place, *clause),
                }
            }
            if let Some(beyond) = self.active.get(MAX_ALTERNATIVES) {
                return Err(TooMany::Alternatives(RuleId(beyond.rule())));
            }
            self.met += self.active.len();
            if self.met > MAX_CLAUSES {
                return Err(TooMany::Clauses(RuleId(at_port[0].1.rule())));
            }
            let cell = self.cell();
            if pieces.last().is_none_or(|(_, last)| *last != cell) {
                pieces.push((at_port[0].0, cell));
            }
        }
        edges.clear();
        self.edges[index] = edges;
        self.pieces[index] = pieces;
        Ok(())
    }

    /// What the active clauses say together.
    fn cell(&mut self) -> Cell {
        self.list.clear();
        for tier in self.active.chunk_by(|a, b| a.tier() == b.tier()) {
            match tier.iter().position(|clause| clause.is_unconditional()) {
                // It passes always and says nothing, so it is as if the tier were not there.
                Some(last) if tier[last].action() == Action::Pass => {}
                Some(last) => {
                    self.list.extend(&tier[..=last]);
                    if tier[..last].iter().all(|clause| clause.action() != Action::Pass) {
                        break;
                    }
                }
                None => self.list.extend(tier),
            }
        }
        // To pass on to nothing says nothing.
        while self.list.pop_if(|clause| clause.action() == Action::Pass).is_some() {}
        match self.list.first() {
            None => Cell::NONE,
            Some(first) if first.is_unconditional() => Cell::new(first.action(), first.rule()),
            Some(_) => Cell::clauses(ClausesId(self.lists.intern(&self.list))),
        }
    }

    pub(super) fn finish(self, conditions: &[Condition]) -> Clauses {
        Clauses { lists: self.lists.lists, demands: self.demands.lists, conditions: conditions.to_vec() }
    }
}
