//! Policies beside the running one: they are asked what it is asked, decide nothing, and where they would have decided
//! otherwise that is counted.
//!
//! They are asked where the running policy is asked: for the packet that opens a connection or is refused one, and when
//! a live connection is judged again. A settled connection's packets cost nothing for it. What differs is counted in
//! a table of fixed size per worker, by both rules, both reasons and the pair of segments, and told as events; what finds
//! no room in either is counted as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::policy::{Decision, Policy, Query};
use crate::topology::Mac;
use crate::verdict::{Now, Reason, RuleId, SegmentId};

/// Differences that a worker tells apart: 4,096 of 64 bytes.
const CELLS: usize = 4096;
/// Cells that are looked at for one difference.
const PROBES: usize = 32;
/// Of a shadow, each difference is told so many times; after that at every doubling.
const TOLD: u64 = 16;

/// Why a policy is asked beside the running one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// It may become the running one: everything that differs counts.
    Shadow,
    /// The running policy with nothing in audit: what it would let through or refuse counts.
    Audit,
}

/// What two policies say differently of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Difference {
    /// Which of the policies beside.
    pub kind: Kind,
    /// What the running policy says.
    pub running: Decision,
    /// What the other one says; its rule is numbered as in that one.
    pub beside: Decision,
}

/// A difference that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What differs.
    pub difference: Difference,
    /// Between which segments of the running policy.
    pub pair: (Option<SegmentId>, Option<SegmentId>),
    /// How often.
    pub count: u64,
    /// When first.
    pub first: Now,
    /// When last.
    pub last: Now,
}

/// A policy that is asked beside the running one, with what it would have decided otherwise. It belongs to one running
/// policy, whose numbers it counts by.
pub struct Beside {
    kind: Kind,
    policy: Arc<Policy>,
    /// By its rules, the running policy's rule of the same name; `None` where the numbers are the same.
    namesakes: Option<Box<[RuleId]>>,
    /// Only packets from then on are asked about, milliseconds of the packet path's clock.
    begins_ms: AtomicU64,
    rows: Box<[CachePadded<Row>]>,
}

/// What one worker has counted. Only it writes.
struct Row {
    asked: AtomicU64,
    overflow: AtomicU64,
    cells: Box<[Cell]>,
}

#[derive(Default)]
struct Cell {
    /// The rules, the segments, the reasons. They stand before `count` does, and stay.
    words: [AtomicU64; 3],
    count: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

impl Beside {
    /// For `workers` workers, and one more row for whoever asks about connections that are there already
    /// ([`Beside::control_row`]). Nothing is asked before [`Beside::begin`].
    pub fn new(kind: Kind, policy: Arc<Policy>, namesakes: Option<Box<[RuleId]>>, workers: usize) -> Beside {
        let row = || {
            let cells = (0..CELLS).map(|_| Cell::default()).collect();
            CachePadded::new(Row { asked: AtomicU64::new(0), overflow: AtomicU64::new(0), cells })
        };
        let rows = (0..=workers).map(|_| row()).collect();
        Beside { kind, policy, namesakes, begins_ms: AtomicU64::new(u64::MAX), rows }
    }

    /// Why it is asked.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The policy.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// From this moment on it is asked, in whole milliseconds.
    pub fn begin(&self, at: Now) {
        self.begins_ms.store(at.millis(), Ordering::Release);
    }

    /// The row that no worker counts in. One thread at a time may.
    pub fn control_row(&self) -> usize {
        self.rows.len() - 1
    }

    /// How many questions it was asked.
    pub fn asked(&self) -> u64 {
        self.rows.iter().map(|row| row.asked.load(Ordering::Relaxed)).sum()
    }

    /// How many differences found no room in the table.
    pub fn overflow(&self) -> u64 {
        self.rows.iter().map(|row| row.overflow.load(Ordering::Relaxed)).sum()
    }

    /// What differs, row by row: a difference that several workers have met is there several times.
    pub fn counted(&self) -> Vec<Counted> {
        self.rows.iter().flat_map(|row| row.cells.iter()).filter_map(|cell| cell.read(self.kind)).collect()
    }

    /// Asks what it says of a connection of which the running policy has said `running`, whose originator sends from this
    /// MAC address (`None`: from the right one). The difference, where there is one that is to be told.
    #[cold]
    pub fn ask(
        &self,
        row: usize,
        now: Now,
        running_policy: &Policy,
        running: Decision,
        query: &Query,
        mac: Option<Mac>,
    ) -> Option<Difference> {
        if now.millis() < self.begins_ms.load(Ordering::Acquire) {
            return None;
        }
        let row = self.rows.get(row)?;
        bump(&row.asked);
        let beside = self.policy.judge_now(query, mac, now).answer;
        if !self.differs(running, beside) {
            return None;
        }
        let difference = Difference { kind: self.kind, running, beside };
        let from = running_policy.source_segment(query.ingress, query.source);
        let to = running_policy.destination_segment(query.destination);
        let count = row.count(&words(&difference, from, to), now);
        let is_told = self.kind == Kind::Audit || count <= TOLD || count.is_power_of_two();
        is_told.then_some(difference)
    }

    fn differs(&self, running: Decision, beside: Decision) -> bool {
        if running.allows() != beside.allows() {
            return true;
        }
        let namesake = match (&self.namesakes, beside.rule.index()) {
            (Some(namesakes), Some(index)) => namesakes.get(index).copied(),
            _ => Some(beside.rule),
        };
        self.kind == Kind::Shadow
            && (running.refusal != beside.refusal || namesake.is_none_or(|rule| rule != running.rule))
    }
}

impl Row {
    /// Counts a difference; how often it was there now, 0 where there is no room.
    fn count(&self, words: &[u64; 3], now: Now) -> u64 {
        let begin = words
            .iter()
            .fold(0u64, |hash, word| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
        for step in 0..PROBES {
            let cell = &self.cells[(begin as usize).wrapping_add(step) % CELLS];
            let count = cell.count.load(Ordering::Relaxed);
            if count == 0 {
                for (place, word) in cell.words.iter().zip(words) {
                    place.store(*word, Ordering::Relaxed);
                }
                cell.first.store(now.0, Ordering::Relaxed);
            } else if cell.words.iter().zip(words).any(|(place, word)| place.load(Ordering::Relaxed) != *word)
            {
                continue;
            }
            cell.last.store(now.0, Ordering::Relaxed);
            // Whoever reads this count reads the words too.
            cell.count.store(count + 1, Ordering::Release);
            return count + 1;
        }
        bump(&self.overflow);
        0
    }
}

impl Cell {
    fn read(&self, kind: Kind) -> Option<Counted> {
        let count = self.count.load(Ordering::Acquire);
        if count == 0 {
            return None;
        }
        let [rules, pair, reasons] = [0, 1, 2].map(|index| self.words[index].load(Ordering::Relaxed));
        let decision = |rule: u64, reason: u64| Decision {
            refusal: Reason::ALL.get((reason as u8).wrapping_sub(1) as usize).copied(),
            rule: RuleId(rule as u32),
        };
        let segment = |number: u64| Some(SegmentId(number as u32)).filter(|segment| segment.0 != u32::MAX);
        Some(Counted {
            difference: Difference {
                kind,
                running: decision(rules >> 32, reasons >> 8),
                beside: decision(rules, reasons),
            },
            pair: (segment(pair >> 32), segment(pair)),
            count,
            first: Now(self.first.load(Ordering::Relaxed)),
            last: Now(self.last.load(Ordering::Relaxed)),
        })
    }
}

/// A difference as numbers: the running policy's in the upper halves.
fn words(difference: &Difference, from: Option<SegmentId>, to: Option<SegmentId>) -> [u64; 3] {
    let both = |upper: u32, lower: u32| u64::from(upper) << 32 | u64::from(lower);
    let segment = |segment: Option<SegmentId>| segment.map_or(u32::MAX, |segment| segment.0);
    let reason = |decision: &Decision| decision.refusal.map_or(0, |reason| reason as u64 + 1);
    let Difference { running, beside, .. } = difference;
    [
        both(running.rule.0, beside.rule.0),
        both(segment(from), segment(to)),
        reason(running) << 8 | reason(beside),
    ]
}

/// Only one thread writes.
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// One byte holds a reason and none.
const _: () = assert!(Reason::COUNT < u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Rule, RuleSet, Segment, Service, compile};
    use crate::verdict::PortId;

    fn policy(ports: &[(u16, Action)]) -> Arc<Policy> {
        let segment = |port: u8, network: &str| Segment {
            ports: vec![PortId(port)],
            networks: vec![network.parse().unwrap()],
            ..Segment::default()
        };
        let rule = |&(port, action)| Rule {
            from: vec![SegmentId(0)],
            to: vec![SegmentId(1)],
            services: vec![Service::Tcp(port, port)],
            action,
            ..Rule::default()
        };
        Arc::new(
            compile(&RuleSet {
                segments: vec![segment(0, "10.1.0.0/24"), segment(1, "10.2.0.0/24")],
                rules: ports.iter().map(rule).collect(),
                conditions: vec![],
            })
            .unwrap(),
        )
    }

    fn query(port: u16) -> Query {
        Query {
            ingress: PortId(0),
            source: "10.1.0.5".parse().unwrap(),
            destination: "10.2.0.5".parse().unwrap(),
            protocol: 6,
            destination_port: port,
        }
    }

    #[test]
    fn what_differs_is_counted_by_rules_reasons_and_pair_and_what_does_not_is_not() {
        let running = policy(&[(22, Action::Allow), (80, Action::Allow), (443, Action::Allow)]);
        let other = policy(&[(443, Action::Allow), (80, Action::Deny), (23, Action::Allow)]);
        // By name: rule 0 of the other is rule 2 of the running one, 1 is 1, and 2 is new.
        let namesakes: Box<[RuleId]> = [RuleId(2), RuleId(1), RuleId::NONE].into();
        let shadow = Beside::new(Kind::Shadow, other.clone(), Some(namesakes), 2);
        let ask = |beside: &Beside, row, at, port| {
            beside.ask(row, Now(at), &running, running.judge(&query(port)), &query(port), None)
        };
        assert_eq!(ask(&shadow, 0, u64::MAX - 1, 80), None, "it has not begun");
        shadow.begin(Now(5_000_000));
        assert_eq!(ask(&shadow, 0, 4_999_999, 80), None);
        assert_eq!(shadow.asked(), 0);
        for (row, at, port) in
            [(0, 5, 443), (0, 6, 80), (0, 7, 80), (1, 8, 80), (2, 9, 22), (0, 10, 23), (0, 11, 99)]
        {
            ask(&shadow, row, at * 1_000_000, port);
        }
        let mut told: Vec<_> = shadow
            .counted()
            .iter()
            .map(|c| {
                (
                    c.difference.running,
                    c.difference.beside,
                    c.pair,
                    c.count,
                    c.first.millis(),
                    c.last.millis(),
                )
            })
            .collect();
        told.sort_by_key(|row| row.4);
        let pair = (Some(SegmentId(0)), Some(SegmentId(1)));
        let allow = |rule| Decision { refusal: None, rule: RuleId(rule) };
        let refused = |reason, rule| Decision { refusal: Some(reason), rule };
        let denied = refused(Reason::RuleDenied, RuleId(1));
        let none = refused(Reason::NoRule, RuleId::NONE);
        let expected = [
            (allow(1), denied, pair, 2, 6, 7),
            (allow(1), denied, pair, 1, 8, 8),
            (allow(0), none, pair, 1, 9, 9),
            (none, allow(2), pair, 1, 10, 10),
        ];
        assert_eq!((told, shadow.asked(), shadow.overflow()), (expected.to_vec(), 7, 0));

        let audit = Beside::new(Kind::Audit, policy(&[(22, Action::Allow), (9, Action::Deny)]), None, 1);
        audit.begin(Now(0));
        for port in [22, 80, 9, 99] {
            ask(&audit, 0, 1, port);
        }
        let counted = audit.counted();
        // 9 is refused by either: that no rule says so, or one, is nothing that an audit counts.
        assert_eq!((counted.len(), counted[0].difference.beside.refusal), (1, Some(Reason::NoRule)));
    }

    #[test]
    fn a_shadow_tells_the_first_ones_and_then_every_doubling() {
        let running = policy(&[(22, Action::Allow)]);
        let shadow = Beside::new(Kind::Shadow, policy(&[]), Some([].into()), 1);
        shadow.begin(Now(0));
        let told = (0..1024).filter(|&at| {
            shadow.ask(0, Now(at), &running, running.judge(&query(22)), &query(22), None).is_some()
        });
        assert_eq!(told.count() as u64, TOLD + 6);
        assert_eq!(shadow.counted()[0].count, 1024);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let row = &Beside::new(Kind::Shadow, policy(&[]), None, 0).rows[0];
        let mut counted = 0;
        for number in 0..3 * CELLS as u64 {
            counted += u64::from(row.count(&[number, 0, 0], Now(1)) > 0);
        }
        assert_eq!(counted + row.overflow.load(Ordering::Relaxed), 3 * CELLS as u64);
        assert!(counted as usize <= CELLS && counted as usize > CELLS / 2);
    }
}
