//! Policy: resolved rules, the compiled tables, and the slow obvious evaluator that proves them right.
//!
//! A question is answered in steps that do not depend on the number of rules: source and destination address find
//! their place in a trie each, the pair of classes finds a policy in the matrix, and protocol and port a cell in it. Where
//! the answer depends on more than the packet, the cell names a short list of clauses.

mod cells;
pub mod change;
mod classes;
mod clauses;
pub mod compile;
pub mod conditions;
pub mod explain;
mod lists;
mod matrix;
mod paint;
mod ports;
pub mod reference;
pub mod restraints;
pub mod rules;
#[cfg(test)]
mod tests;
mod timeouts;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use change::recompile;
pub use compile::{CompileError, compile};
pub use conditions::{Circumstances, Condition, ConditionId, Identity, Who};
pub use explain::{Clause, Explanation, explain, explain_restrained};
pub use rules::{Action, Decision, Query, Rule, RuleSet, Segment, Service};

use crate::connection::{Limits, RuleLimits};
use crate::headers::{Address, Permits, protocol};
use crate::identity::{Judged, Slots};
use crate::topology::Mac;
use crate::trie::Trie;
use crate::verdict::{Now, PortId, Reason, RuleId, SegmentId};
use clauses::Clauses;
use conditions::Bits;
use matrix::Matrix;
use ports::{ClausesId, PairPolicy, PortTables, TableId};
pub use restraints::{Restraint, Restraints};

/// A compiled rule set, immutable. The default is that of the empty rule set: it refuses everything.
#[derive(Clone, Default)]
pub struct Policy {
    trie: Trie<Place>,
    matrix: Matrix,
    policies: Vec<PairPolicy>,
    /// Of each policy, the table of protocols without ports, by their number: rarely asked for, so kept apart.
    opaque: Vec<TableId>,
    tables: PortTables,
    clauses: Clauses,
    rules: usize,
    bounds: Bounds,
    timeouts: timeouts::RuleTimeouts,
    limits: Limits,
    /// By segment, whether clients of its servers must show first that they are there. Empty where none is.
    protected: Vec<bool>,
    /// By segment, what unusual packets may come from it and go to it. Empty where none may.
    permits: Vec<Permits>,
    /// Which gates are open.
    gates: Bits,
    /// Who is behind which address.
    identities: Arc<Slots>,
    /// Which addresses are kept from what the rules allow.
    restraints: Arc<Restraints>,
}

/// How much there is at most of what has limits.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    /// Pairs of a block and a cell that it covers.
    covered: usize,
    /// Pieces that were merged.
    pieces: usize,
    /// Policies that no cell names, left over by [`recompile`].
    stale: usize,
}

/// All that a look-up needs of a segment, so that it stays one cache miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Bit *n*: port *n* leads to the segment.
    ports: u64,
    segment: SegmentId,
    /// Class as a source: the row in the matrix.
    row: u32,
    /// Class as a destination: the column in the matrix.
    column: u32,
}

impl Place {
    /// Whether a source in this segment may enter by this port.
    #[inline]
    fn admits(&self, ingress: PortId) -> bool {
        self.ports.checked_shr(u32::from(ingress.0)).is_some_and(|ports| ports & 1 == 1)
    }
}

impl Policy {
    /// May this originator open this connection, as long as nobody is known and by the gates as they are set?
    pub fn judge(&self, query: &Query) -> Decision {
        self.judge_in(query, &Circumstances { who: Who::Nobody, gates: &self.gates })
    }

    /// May this originator open this connection?
    pub fn judge_in(&self, query: &Query, circumstances: &Circumstances<'_>) -> Decision {
        let decision = self
            .look_up(query)
            .unwrap_or_else(|list| self.clauses.judge(list, query.protocol, circumstances));
        self.told(query, decision)
    }

    /// May this originator open this connection, being who they are now and sending from this MAC address (`None`: from
    /// the right one)? Sessions are asked for only where it depends on them.
    pub fn judge_now(&self, query: &Query, mac: Option<Mac>, now: Now) -> Judged<Decision> {
        match self.look_up(query) {
            Ok(decision) => Judged::by_nobody(self.told(query, decision)),
            Err(list) => self.identities.judge(query.source, mac, now, |who| {
                let circumstances = Circumstances { who, gates: &self.gates };
                self.told(query, self.clauses.judge(list, query.protocol, &circumstances))
            }),
        }
    }

    /// The answer, where an end is in quarantine and nothing has allowed it.
    #[inline]
    fn told(&self, query: &Query, decision: Decision) -> Decision {
        if self.restraints.is_empty() { decision } else { self.restraints.told(query, decision) }
    }

    /// The answer, or the list of clauses on which it depends.
    fn look_up(&self, query: &Query) -> Result<Decision, ClausesId> {
        let Some(mut source) = self.trie.find(query.source).filter(|place| place.admits(query.ingress))
        else {
            return Ok(Decision::refused(Reason::SpoofedSource));
        };
        let Some(mut destination) = self.trie.find(query.destination).filter(|_| query.is_of_one_family())
        else {
            return Ok(Decision::refused(Reason::NoDestinationSegment));
        };
        if !self.restraints.is_empty() {
            if let Some(reason) = self.restraints.refusal(query) {
                return Ok(Decision::refused(reason));
            }
            for (place, end) in [(&mut source, query.source), (&mut destination, query.destination)] {
                if self.restraints.of(end) == Some(Restraint::Quarantined) {
                    let Some(quarantine) = self.trie.find(self.restraints.seen(end)) else {
                        return Ok(Decision::refused(Reason::Quarantined));
                    };
                    *place = quarantine;
                }
            }
        }
        if !query.protocol_fits_family() {
            return Ok(Decision::refused(Reason::NoRule));
        }
        let pair = self.matrix.find(source.row, destination.column) as usize;
        let cell = match query.protocol {
            protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => {
                self.policies[pair].find(&self.tables, query.protocol, query.destination_port)
            }
            number => self.tables.find(self.opaque[pair], number.into()),
        };
        cell.decision(query.protocol)
    }

    /// The segment of a source address, if the address may enter by this port; asked for every packet.
    #[inline]
    pub fn source_segment(&self, ingress: PortId, address: IpAddr) -> Option<SegmentId> {
        let place = self.trie.find(address)?;
        place.admits(ingress).then_some(place.segment)
    }

    /// Whether the address belongs to a segment that lies behind this port.
    #[inline]
    pub fn is_behind<A: Address>(&self, port: PortId, address: A) -> bool {
        self.trie.find_in(address).is_some_and(|place| place.admits(port))
    }

    /// The segment of a destination address.
    #[inline]
    pub fn destination_segment(&self, address: IpAddr) -> Option<SegmentId> {
        self.trie.find(address).map(|place| place.segment)
    }

    /// Limits of its rules; they hold once [`Table::bind`](crate::connection::Table::bind) has been called with
    /// [`Policy::limits_mut`].
    pub fn set_limits(&mut self, limits: Vec<(RuleId, RuleLimits)>) {
        self.limits = Limits::new(limits);
    }

    /// The limits of its rules.
    #[inline]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The limits of its rules, to be bound to a table.
    pub fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// Protects segments against SYN floods: by segment, whether it is.
    pub fn set_protected(&mut self, protected: Vec<bool>) {
        self.protected = if protected.contains(&true) { protected } else { Vec::new() };
    }

    /// Whether any segment is protected.
    pub fn protects(&self) -> bool {
        !self.protected.is_empty()
    }

    /// Whether clients of this server must show first that they are there.
    #[inline]
    pub fn is_protected(&self, server: IpAddr) -> bool {
        self.protects()
            && self
                .destination_segment(server)
                .and_then(|segment| self.protected.get(segment.0 as usize))
                .is_some_and(|protected| *protected)
    }

    /// Has it ask these sessions. They are numbered by the rules that it was compiled from.
    pub fn set_identities(&mut self, identities: Arc<Slots>) {
        self.identities = identities;
    }

    /// The sessions that it asks.
    #[inline]
    pub fn identities(&self) -> &Arc<Slots> {
        &self.identities
    }

    /// Keeps these addresses from what the rules allow, and no others. The tables stay as they are.
    pub fn set_restraints(&mut self, restraints: Arc<Restraints>) {
        self.restraints = restraints;
    }

    /// Which addresses it keeps from what the rules allow.
    pub fn restraints(&self) -> &Arc<Restraints> {
        &self.restraints
    }

    /// Which gates are open.
    pub fn gates(&self) -> &Bits {
        &self.gates
    }

    /// Opens these gates and shuts all others. The tables stay as they are.
    pub fn set_gates(&mut self, open: Bits) {
        self.gates = open;
    }

    /// Permits unusual packets: by segment, what may come from it and go to it.
    pub fn set_permits(&mut self, permits: Vec<Permits>) {
        self.permits = if permits.iter().all(|set| set.is_empty()) { Vec::new() } else { permits };
    }

    /// What both ends of a packet permit.
    pub fn permits(&self, source: IpAddr, destination: IpAddr) -> Permits {
        let of = |address| {
            let segment = self.destination_segment(address)?;
            self.permits.get(segment.0 as usize).copied()
        };
        if self.permits.is_empty() {
            return Permits::NONE;
        }
        of(source).unwrap_or_default().intersection(of(destination).unwrap_or_default())
    }

    /// How many rules it was compiled from: every [`RuleId`](crate::verdict::RuleId) it names is below.
    pub fn rule_count(&self) -> usize {
        self.rules
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("rules", &self.rules)
            .field("policies", &self.policies.len())
            .field("port_pieces", &self.tables.len())
            .field("clause_lists", &self.clauses.len())
            .finish()
    }
}
