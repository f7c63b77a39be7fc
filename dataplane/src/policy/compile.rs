//! Rule set → compiled [`Policy`].
//!
//! ```text
//! segments ─ same rules on a side ─▶ classes (rows, columns)          Σ |from| + Σ |to|
//! rules    ─ same (from, to) lists ─▶ blocks, each painted to pieces   S log S, S services in all
//! blocks over a cell               ─▶ policy, hash-consed              I + Σ over policies of P log P
//! ```
//!
//! I counts pairs of a block and a matrix cell that it covers, P the pieces of the blocks of one policy. Rules never
//! meet segments one by one: a hundred thousand rules between one pair of lists are one block, and a rule from
//! everything to everything is one block over as many cells as there are classes. What can still explode (many
//! different wide lists crossing each other) is bounded by [`MAX_COVERED`] and [`MAX_PIECES`]; beyond them
//! compiling is refused before memory is spent.

use std::collections::HashMap;
use std::fmt;

use ipnet::IpNet;

use super::classes::Side;
use super::conditions::{Bits, ConditionId};
use super::lists::{Interner, Lists};
use super::matrix::{self, Matrix};
use super::ports::{Cell, Painter, PairPolicy, Piece, PortTables, Span, TableId, TableInterner};
use super::rules::{Action, MAX_TIERS, RuleSet, Service};
use super::{Place, Policy};
use crate::connection::Limits;
use crate::headers::protocol;
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
    /// A rule passes, asks for a condition, stands in a tier, or a segment has a floor.
    Conditional,
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
            CompileError::Conditional => f.write_str("conditions, tiers and floors cannot be compiled yet"),
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
        }
    }
}

impl std::error::Error for CompileError {}

/// Compiles a rule set. Its answers are those of the [reference evaluator](super::reference), rule by rule.
pub fn compile(rules: &RuleSet) -> Result<Policy, CompileError> {
    check(rules)?;
    let networks = unique_networks(rules)?;
    let from = Side::new(rules, |rule| &rules.rules[rule].from);
    let to = Side::new(rules, |rule| &rules.rules[rule].to);
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
    let blocks = Blocks::new(rules, &from, &to)?;
    let (entries, lists) = blocks.lists_of_cells(&from, &to);
    let Compiled { policies, opaque, tables } = blocks.policies(rules, &lists)?;
    Ok(Policy {
        trie: Trie::new(networks, places),
        matrix: Matrix::new(from.classes, to.classes, &entries),
        policies,
        opaque,
        tables,
        rules: rules.rules.len(),
        timeouts: Default::default(),
        limits: Limits::default(),
        protected: Vec::new(),
        permits: Vec::new(),
        gates: Bits::default(),
    })
}

/// All that can be wrong with single entries.
fn check(rules: &RuleSet) -> Result<(), CompileError> {
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
    check_conditions(rules)?;
    for (id, segment) in rules.segments.iter().enumerate() {
        if let Some(port) = segment.ports.iter().find(|port| usize::from(port.0) >= MAX_PORTS) {
            return Err(CompileError::UnknownPort { segment: SegmentId(id as u32), port: *port });
        }
    }
    for (id, rule) in rules.rules.iter().enumerate() {
        let id = RuleId(id as u32);
        let unknown = |segment: &&SegmentId| segment.0 as usize >= rules.segments.len();
        if let Some(segment) = rule.from.iter().chain(&rule.to).find(unknown) {
            return Err(CompileError::UnknownSegment { rule: id, segment: *segment });
        }
        let inverted = |service: &&Service| match service {
            Service::Tcp(low, high) | Service::Udp(low, high) => low > high,
            Service::Any | Service::IcmpEcho | Service::Icmpv6Echo | Service::Protocol(_) => false,
        };
        if let Some(service) = rule.services.iter().find(inverted) {
            return Err(CompileError::InvertedRange { rule: id, service: *service });
        }
    }
    Ok(())
}

/// Conditions exist, and stand where they mean something.
fn check_conditions(rules: &RuleSet) -> Result<(), CompileError> {
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
        if rule.tier >= MAX_TIERS {
            return Err(CompileError::UnknownTier(id));
        }
        let condition = rule.condition.map(|id| rules.condition(id));
        let is_misplaced = condition.is_some_and(|condition| match rule.action {
            Action::Allow => false,
            Action::Reject | Action::Deny => condition.asks_for_proof(),
            Action::Pass => condition.asks_for_identity(),
        });
        if is_misplaced {
            return Err(CompileError::MisplacedCondition(id));
        }
        is_conditional |= rule.tier > 0 || rule.action == Action::Pass;
    }
    if is_conditional { Err(CompileError::Conditional) } else { Ok(()) }
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

/// What a block or several say together: pieces of TCP and UDP ports and of the numbers of opaque protocols, and the
/// cells of both kinds of echo.
struct Painted<'p> {
    tcp: &'p [Piece],
    udp: &'p [Piece],
    opaque: &'p [Piece],
    icmp: Cell,
    icmpv6: Cell,
}

/// The policies of all lists of blocks.
struct Compiled {
    policies: Vec<PairPolicy>,
    opaque: Vec<TableId>,
    tables: PortTables,
}

/// Rules with the same pair of lists; a block is a number here.
struct Blocks {
    /// The numbers of the two lists.
    sides: Lists<u32>,
    rules: Lists<u32>,
}

impl Blocks {
    fn new(rules: &RuleSet, from: &Side, to: &Side) -> Result<Blocks, CompileError> {
        let mut pairs = Interner::default();
        let sides = from.list_of_rule.iter().zip(&to.list_of_rule);
        let block_of_rule: Vec<u32> = sides.map(|(from, to)| pairs.intern(&[*from, *to])).collect();
        let sides = pairs.lists;
        let covered =
            |pair: &[u32]| from.classes_of_list.list(pair[0]).len() * to.classes_of_list.list(pair[1]).len();
        let all = sides.iter().map(covered).fold(0, usize::saturating_add);
        if all > MAX_COVERED {
            return Err(CompileError::TooManyPairs(all));
        }
        let numbered = block_of_rule.iter().copied().zip(0..rules.rules.len() as u32);
        let rules = Lists::grouped(sides.len(), numbered);
        Ok(Blocks { sides, rules })
    }

    /// For every cell under any block its list of blocks, as a number; equal lists have one number.
    /// The number 0, [`matrix::EMPTY`], is the empty list.
    fn lists_of_cells(&self, from: &Side, to: &Side) -> (Vec<matrix::Entry>, Lists<u32>) {
        let rows = self.sides.iter().zip(0..).flat_map(|(pair, block)| {
            from.classes_of_list.list(pair[0]).iter().map(move |row| (*row, block))
        });
        let blocks_of_row: Lists<u32> = Lists::grouped(from.classes, rows);
        let mut interner = Interner::default();
        interner.intern(&[]);
        let mut entries = Vec::new();
        let mut list_of_column: Vec<Vec<u32>> = vec![Vec::new(); to.classes];
        let mut columns: Vec<u32> = Vec::new();
        for (row, blocks) in blocks_of_row.iter().enumerate() {
            for block in blocks {
                for column in to.classes_of_list.list(self.sides.list(*block)[1]) {
                    let list = &mut list_of_column[*column as usize];
                    if list.is_empty() {
                        columns.push(*column);
                    }
                    list.push(*block);
                }
            }
            for column in columns.drain(..) {
                let list = &mut list_of_column[column as usize];
                entries.push((row as u32, column, interner.intern(list)));
                list.clear();
            }
        }
        (entries, interner.lists)
    }

    /// The policy of each list. A policy of one block is that block's pieces, one of several merges theirs.
    fn policies(&self, rules: &RuleSet, lists: &Lists<u32>) -> Result<Compiled, CompileError> {
        let (mut painter, mut udp_painter) = (Painter::default(), Painter::default());
        let mut spans = Spans::default();
        let (mut tcp, mut udp, mut opaque) = (Lists::default(), Lists::default(), Lists::default());
        let mut icmp: Vec<(Cell, Cell)> = Vec::with_capacity(self.rules.len());
        for block in self.rules.iter() {
            spans.clear();
            block.iter().for_each(|rule| spans.add_rule(rules, *rule));
            tcp.push(painter.resolve(&mut spans.tcp).iter().copied());
            udp.push(painter.resolve(&mut spans.udp).iter().copied());
            opaque.push(painter.resolve(&mut spans.opaque).iter().copied());
            icmp.push((spans.icmp, spans.icmpv6));
        }
        let painted = |block: u32| {
            let (icmp, icmpv6) = icmp[block as usize];
            let opaque = opaque.list(block);
            Painted { tcp: tcp.list(block), udp: udp.list(block), opaque, icmp, icmpv6 }
        };
        self.bound_pieces(lists, painted)?;
        let mut interner = TableInterner::default();
        let mut policies = Vec::with_capacity(lists.len());
        let mut tables = Vec::with_capacity(lists.len());
        for list in lists.iter() {
            policies.push(match list {
                [block] => {
                    let Painted { tcp, udp, opaque, icmp, icmpv6 } = painted(*block);
                    tables.push(interner.intern(opaque));
                    PairPolicy::new(tcp, udp, icmp, icmpv6, &mut interner)
                }
                blocks => {
                    spans.clear();
                    blocks.iter().for_each(|block| spans.add_painted(&painted(*block)));
                    tables.push(interner.intern(painter.resolve(&mut spans.opaque)));
                    let tcp = painter.resolve(&mut spans.tcp);
                    let udp = udp_painter.resolve(&mut spans.udp);
                    PairPolicy::new(tcp, udp, spans.icmp, spans.icmpv6, &mut interner)
                }
            });
        }
        Ok(Compiled { policies, opaque: tables, tables: interner.tables })
    }

    /// Refuses before merging what would take too long: merged pieces are at most as many as those that are merged.
    fn bound_pieces<'p>(
        &self,
        lists: &Lists<u32>,
        painted: impl Fn(u32) -> Painted<'p>,
    ) -> Result<(), CompileError> {
        // What is merged are the pieces where a rule matches; what results has as many boundaries.
        let ruled = |pieces: &[Piece]| pieces.iter().filter(|(_, cell)| *cell != Cell::NONE).count();
        let pieces_of_block: Vec<usize> = (0..self.rules.len() as u32)
            .map(|block| {
                let Painted { tcp, udp, opaque, .. } = painted(block);
                [tcp, udp, opaque].map(|pieces| pieces.len() + ruled(pieces)).iter().sum()
            })
            .collect();
        let mut merged = 0;
        for list in lists.iter() {
            merged += list.iter().map(|block| pieces_of_block[*block as usize]).sum::<usize>();
            if merged > MAX_PIECES {
                return Err(CompileError::TooManyPieces(RuleId(self.rules.list(list[0])[0])));
            }
        }
        Ok(())
    }
}

/// What several rules or blocks say, not yet painted.
struct Spans {
    tcp: Vec<Span>,
    udp: Vec<Span>,
    opaque: Vec<Span>,
    icmp: Cell,
    icmpv6: Cell,
}

impl Default for Spans {
    fn default() -> Self {
        let (tcp, udp, opaque) = Default::default();
        Spans { tcp, udp, opaque, icmp: Cell::NONE, icmpv6: Cell::NONE }
    }
}

impl Spans {
    fn clear(&mut self) {
        self.tcp.clear();
        self.udp.clear();
        self.opaque.clear();
        self.icmp = Cell::NONE;
        self.icmpv6 = Cell::NONE;
    }

    fn add_rule(&mut self, rules: &RuleSet, rule: u32) {
        let action = rules.rules[rule as usize].action;
        let cell = Cell::new(action, rule);
        for service in &rules.rules[rule as usize].services {
            match *service {
                Service::Any => {
                    self.tcp.push(Span { low: 0, high: u16::MAX, cell });
                    self.udp.push(Span { low: 0, high: u16::MAX, cell });
                    self.icmp = self.icmp.min(cell);
                    self.icmpv6 = self.icmpv6.min(cell);
                    if action != Action::Allow {
                        self.opaque.push(Span { low: 0, high: u16::MAX, cell });
                    }
                }
                Service::Tcp(low, high) => self.tcp.push(Span { low, high, cell }),
                Service::Udp(low, high) => self.udp.push(Span { low, high, cell }),
                Service::IcmpEcho => self.icmp = self.icmp.min(cell),
                Service::Icmpv6Echo => self.icmpv6 = self.icmpv6.min(cell),
                // The others have their own places.
                Service::Protocol(number) if protocol::is_opaque(number) => {
                    self.opaque.push(Span { low: number.into(), high: number.into(), cell });
                }
                Service::Protocol(_) => {}
            }
        }
    }

    fn add_painted(&mut self, painted: &Painted<'_>) {
        let to_spans = |pieces: &[Piece], spans: &mut Vec<Span>| {
            for (index, (low, cell)) in pieces.iter().enumerate() {
                let high = pieces.get(index + 1).map_or(u16::MAX, |(next, _)| next - 1);
                if *cell != Cell::NONE {
                    spans.push(Span { low: *low, high, cell: *cell });
                }
            }
        };
        to_spans(painted.tcp, &mut self.tcp);
        to_spans(painted.udp, &mut self.udp);
        to_spans(painted.opaque, &mut self.opaque);
        self.icmp = self.icmp.min(painted.icmp);
        self.icmpv6 = self.icmpv6.min(painted.icmpv6);
    }
}
