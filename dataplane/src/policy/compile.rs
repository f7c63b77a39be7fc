//! Rule set → compiled [`Policy`].
//!
//! ```text
//! segments ─ same rules on a side ─▶ classes (rows, columns)          Σ |from| + Σ |to|
//! rules    ─ same (from, to) lists ─▶ blocks, each painted to pieces   S log S, S services in all
//! blocks over a cell               ─▶ policy, hash-consed              I + Σ over policies of P log P
//! ```
//!
//! Rules that ask for conditions, stand in different tiers or pass are blocks by their manner, and where manners meet the
//! cells name lists of clauses: see [`clauses`](super::clauses). Floors split classes as rules do.
//!
//! I counts pairs of a block and a matrix cell that it covers, P the pieces of the blocks of one policy. Rules never
//! meet segments one by one: a hundred thousand rules between one pair of lists are one block, and a rule from
//! everything to everything is one block over as many cells as there are classes. What can still explode (many
//! different wide lists crossing each other) is bounded by [`MAX_COVERED`] and [`MAX_PIECES`]; beyond them
//! compiling is refused before memory is spent.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::cells::{Blocks, Cells, Compiled};
use super::classes::Side;
use super::clauses::{Demands, Manners, TooMany};
pub use super::clauses::{MAX_ALTERNATIVES, MAX_CLAUSES};
use super::conditions::{Bits, ConditionId};
use super::matrix::Matrix;
use super::rules::{Action, MAX_TIERS, Rule, RuleSet, Service};
use super::{Place, Policy};
use crate::connection::Limits;
use crate::trie::Trie;
use crate::verdict::{MAX_PORTS, PortId, RuleId, SegmentId};

/// The most segments of a rule set.
pub const MAX_SEGMENTS: usize = 1 << 16;
/// The most networks over all segments: bounds the nodes of the tries to 128 MiB, however the networks lie.
pub const MAX_NETWORKS: usize = 1 << 17;
/// The most rules of a rule set.
pub const MAX_RULES: usize = 1 << 20;
/// The most pairs of a block (rules with the same `from` and `to`) and a matrix cell that it covers: bounds the
/// matrix to 8 Mi occupied cells and compiling it to about a second.
pub const MAX_COVERED: usize = 8 << 20;
/// The most pieces of port tables to be merged: bounds the port tables, and merging them to a few seconds.
pub const MAX_PIECES: usize = 32 << 20;

/// Why a rule set cannot be compiled. Segments, rules and ports are named by id; the caller knows their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// A rule names a segment that does not exist.
    UnknownSegment {
        /// The rule.
        rule: RuleId,
        /// What it names.
        segment: SegmentId,
    },
    /// A rule's service ends before it begins.
    InvertedRange {
        /// The rule.
        rule: RuleId,
        /// Its service.
        service: Service,
    },
    /// A segment lies behind a port whose number is [`MAX_PORTS`] or more.
    UnknownPort {
        /// The segment.
        segment: SegmentId,
        /// The port.
        port: PortId,
    },
    /// Two segments hold the same network (host bits aside), so no longest match can tell them apart.
    SameNetwork {
        /// The network.
        network: IpNet,
        /// The segment that holds it first.
        first: SegmentId,
        /// The other one.
        second: SegmentId,
    },
    /// A rule or a floor names a condition that does not exist.
    UnknownCondition(ConditionId),
    /// A rule's tier is [`MAX_TIERS`] or more.
    UnknownTier(RuleId),
    /// A rule asks for what only a rule that allows can ask for (or, if it passes, for any identity).
    MisplacedCondition(RuleId),
    /// More segments than [`MAX_SEGMENTS`].
    TooManySegments(usize),
    /// More networks than [`MAX_NETWORKS`].
    TooManyNetworks(usize),
    /// More rules than [`MAX_RULES`].
    TooManyRules(usize),
    /// The rules' lists of segments cross each other in more places than [`MAX_COVERED`].
    TooManyPairs(usize),
    /// Merging the port ranges of overlapping rules takes more pieces than [`MAX_PIECES`]; this rule is among those
    /// between the pair of segments where the limit was passed.
    TooManyPieces(RuleId),
    /// More than [`MAX_ALTERNATIVES`] rules that ask for different things meet between the same segments at the same
    /// port; this is one of them.
    TooManyAlternatives(RuleId),
    /// Rules that ask for different things, or stand in different tiers, meet in so many combinations that it takes more
    /// than [`MAX_CLAUSES`] clauses to write them down; this rule is among those where the limit was passed.
    TooManyClauses(RuleId),
}

impl From<TooMany> for CompileError {
    fn from(error: TooMany) -> CompileError {
        match error {
            TooMany::Alternatives(rule) => CompileError::TooManyAlternatives(rule),
            TooMany::Clauses(rule) => CompileError::TooManyClauses(rule),
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompileError::UnknownSegment { rule, segment } => {
                write!(f, "rule {} names segment {}, which does not exist", rule.0, segment.0)
            }
            CompileError::InvertedRange { rule, service } => {
                write!(f, "rule {} has a port range that ends before it begins: {service:?}", rule.0)
            }
            CompileError::UnknownPort { segment, port } => write!(
                f,
                "segment {} lies behind port {}, but port numbers end at {}",
                segment.0,
                port.0,
                MAX_PORTS - 1
            ),
            CompileError::SameNetwork { network, first, second } => {
                write!(f, "segments {} and {} both hold the network {network}", first.0, second.0)
            }
            CompileError::UnknownCondition(condition) => {
                write!(f, "condition {} does not exist", condition.0)
            }
            CompileError::UnknownTier(rule) => {
                write!(f, "rule {} stands in a tier of number {MAX_TIERS} or more", rule.0)
            }
            CompileError::MisplacedCondition(rule) => {
                write!(f, "rule {} asks for what only a rule that allows can ask for", rule.0)
            }
            CompileError::TooManySegments(n) => write!(f, "{n} segments; the limit is {MAX_SEGMENTS}"),
            CompileError::TooManyNetworks(n) => write!(f, "{n} networks; the limit is {MAX_NETWORKS}"),
            CompileError::TooManyRules(n) => write!(f, "{n} rules; the limit is {MAX_RULES}"),
            CompileError::TooManyPairs(n) => write!(
                f,
                "the rules' from and to lists cross in {n} places; the limit is {MAX_COVERED}. \
                 Give rules the same lists where they mean the same segments"
            ),
            CompileError::TooManyPieces(rule) => write!(
                f,
                "the port ranges that rule {} overlaps with take more than {MAX_PIECES} pieces to merge. \
                 Use fewer ranges between wide lists of segments",
                rule.0
            ),
            CompileError::TooManyAlternatives(rule) => write!(
                f,
                "more than {MAX_ALTERNATIVES} rules that ask for different things meet at one port, rule {} among \
                 them. Name several groups in one rule",
                rule.0
            ),
            CompileError::TooManyClauses(rule) => write!(
                f,
                "the rules that rule {} overlaps with meet in more than {MAX_CLAUSES} combinations. \
                 Use fewer different conditions between wide lists of segments",
                rule.0
            ),
        }
    }
}

impl std::error::Error for CompileError {}

/// Compiles a rule set. Its answers are those of the [reference evaluator](super::reference), rule by rule.
pub fn compile(rules: &RuleSet) -> Result<Policy, CompileError> {
    let is_conditional = check(rules)?;
    let networks = unique_networks(rules)?;
    let demands = Demands::new(rules);
    let (floors_out, floors) = (demands.floors(|segment| segment.floor_out), demands.floors(|s| s.floor));
    let from = Side::new(rules, |rule| &rules.rules[rule].from, &floors_out);
    let to = Side::new(rules, |rule| &rules.rules[rule].to, &floors);
    let manners = if is_conditional { Manners::new(rules, &demands) } else { Manners::plain() };
    let places: Vec<Place> = rules
        .segments
        .iter()
        .enumerate()
        .map(|(id, segment)| Place {
            ports: segment.ports.iter().fold(0, |bits, port| bits | 1 << port.0),
            segment: SegmentId(id as u32),
            row: from.class_of_segment[id],
            column: to.class_of_segment[id],
        })
        .collect();
    let blocks = Blocks::new(rules, &from, &to, manners)?;
    let (mut entries, lists) = blocks.lists_of_cells(&from, &to);
    let cells = Cells::new(&lists, &mut entries, &from, &to);
    let Compiled { policies, opaque, tables, clauses, bounds } = blocks.policies(rules, &cells)?;
    Ok(Policy {
        trie: Trie::new(networks, places),
        matrix: Matrix::new(from.classes, to.classes, &entries),
        policies,
        opaque,
        tables,
        clauses,
        rules: rules.rules.len(),
        bounds,
        timeouts: Default::default(),
        limits: Limits::default(),
        protected: Vec::new(),
        permits: Vec::new(),
        gates: Bits::default(),
        identities: Arc::default(),
        restraints: Arc::default(),
    })
}

/// All that can be wrong with single entries. Whether anything asks for a condition, passes or stands in a tier.
fn check(rules: &RuleSet) -> Result<bool, CompileError> {
    let networks = rules.segments.iter().map(|segment| segment.networks.len()).sum();
    if rules.segments.len() > MAX_SEGMENTS {
        return Err(CompileError::TooManySegments(rules.segments.len()));
    }
    if networks > MAX_NETWORKS {
        return Err(CompileError::TooManyNetworks(networks));
    }
    if rules.rules.len() > MAX_RULES {
        return Err(CompileError::TooManyRules(rules.rules.len()));
    }
    let is_conditional = check_conditions(rules)?;
    for (id, segment) in rules.segments.iter().enumerate() {
        if let Some(port) = segment.ports.iter().find(|port| usize::from(port.0) >= MAX_PORTS) {
            return Err(CompileError::UnknownPort { segment: SegmentId(id as u32), port: *port });
        }
    }
    for (id, rule) in (0..).map(RuleId).zip(&rules.rules) {
        check_ends(rules, id, rule)?;
    }
    Ok(is_conditional)
}

/// All that can be wrong with a rule.
pub(super) fn check_rule(rules: &RuleSet, id: RuleId, rule: &Rule) -> Result<(), CompileError> {
    match rule.condition {
        Some(condition) if condition.0 as usize >= rules.conditions.len() => {
            return Err(CompileError::UnknownCondition(condition));
        }
        _ => check_condition(rules, id, rule)?,
    }
    check_ends(rules, id, rule)
}

/// Its segments exist, and its ranges of ports are some.
fn check_ends(rules: &RuleSet, id: RuleId, rule: &Rule) -> Result<(), CompileError> {
    let unknown = |segment: &&SegmentId| segment.0 as usize >= rules.segments.len();
    if let Some(segment) = rule.from.iter().chain(&rule.to).find(unknown) {
        return Err(CompileError::UnknownSegment { rule: id, segment: *segment });
    }
    let inverted = |service: &&Service| match service {
        Service::Tcp(low, high) | Service::Udp(low, high) => low > high,
        Service::Any | Service::IcmpEcho | Service::Icmpv6Echo | Service::Protocol(_) => false,
    };
    match rule.services.iter().find(inverted) {
        Some(service) => Err(CompileError::InvertedRange { rule: id, service: *service }),
        None => Ok(()),
    }
}

/// Conditions exist, and stand where they mean something. Whether there is any, or a tier, or a rule that passes.
fn check_conditions(rules: &RuleSet) -> Result<bool, CompileError> {
    let floors = rules.segments.iter().flat_map(|segment| [segment.floor, segment.floor_out]);
    let named = floors.chain(rules.rules.iter().map(|rule| rule.condition)).flatten();
    let mut is_conditional = false;
    for id in named {
        is_conditional = true;
        if id.0 as usize >= rules.conditions.len() {
            return Err(CompileError::UnknownCondition(id));
        }
    }
    for (id, rule) in (0..).map(RuleId).zip(&rules.rules) {
        check_condition(rules, id, rule)?;
        is_conditional |= rule.tier > 0 || rule.action == Action::Pass;
    }
    Ok(is_conditional)
}

/// A rule's tier is one, and its condition, which exists, means something in a rule of its action.
fn check_condition(rules: &RuleSet, id: RuleId, rule: &Rule) -> Result<(), CompileError> {
    if rule.tier >= MAX_TIERS {
        return Err(CompileError::UnknownTier(id));
    }
    let condition = rule.condition.map(|id| rules.condition(id));
    let is_misplaced = condition.is_some_and(|condition| match rule.action {
        Action::Allow => false,
        Action::Reject | Action::Deny => condition.asks_for_proof(),
        Action::Pass => condition.asks_for_identity(),
    });
    if is_misplaced { Err(CompileError::MisplacedCondition(id)) } else { Ok(()) }
}

/// All networks without host bits, each once.
fn unique_networks(rules: &RuleSet) -> Result<Vec<(IpNet, u32)>, CompileError> {
    let mut owners: HashMap<IpNet, SegmentId> = HashMap::new();
    let mut networks = Vec::new();
    for (id, segment) in rules.segments.iter().enumerate() {
        let second = SegmentId(id as u32);
        for network in segment.networks.iter().map(IpNet::trunc) {
            let first = *owners.entry(network).or_insert_with(|| {
                networks.push((network, second.0));
                second
            });
            if first != second {
                return Err(CompileError::SameNetwork { network, first, second });
            }
        }
    }
    Ok(networks)
}
