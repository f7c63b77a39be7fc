//! The ledger (promise P4) and the counters of rules.
//!
//! A worker counts into a plain [`Ledger`] of its own and publishes it once a burst into a [`SharedLedger`], a
//! sequence lock: readers see whole bursts only, so that the ledger balances at every reading, also under load.

use crossbeam::utils::CachePadded;

use crate::sync::{Acquire, AtomicU64, Relaxed, Release, fence, spin_loop};
use crate::verdict::{Now, Reason, RuleId};

/// What became of every packet. Counts are packets unless the name says bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Taken from the receive rings; fragments by the worker that puts their datagrams together, whoever's ring they
    /// were in.
    pub received: u64,
    /// The same in bytes.
    pub received_bytes: u64,
    /// Given to a transmit ring.
    pub forwarded: u64,
    /// The same in bytes.
    pub forwarded_bytes: u64,
    /// Waiting at this moment: for a next hop, or for the rest of their datagram.
    pub held: u64,
    /// Our own answers sent (RST, ICMP); each stands for a packet that is also counted as dropped.
    pub answered: u64,
    /// Answers that could not be sent.
    pub answers_lost: u64,
    /// Dropped, by reason.
    pub dropped: [u64; Reason::COUNT],
}

const SCALARS: usize = 7;
const WORDS: usize = SCALARS + Reason::COUNT;

impl Default for Ledger {
    fn default() -> Self {
        Ledger::from_words(&[0; WORDS])
    }
}

impl Ledger {
    fn words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[..SCALARS].copy_from_slice(&[
            self.received,
            self.received_bytes,
            self.forwarded,
            self.forwarded_bytes,
            self.held,
            self.answered,
            self.answers_lost,
        ]);
        words[SCALARS..].copy_from_slice(&self.dropped);
        words
    }

    fn from_words(words: &[u64; WORDS]) -> Ledger {
        let mut dropped = [0; Reason::COUNT];
        dropped.copy_from_slice(&words[SCALARS..]);
        Ledger {
            received: words[0],
            received_bytes: words[1],
            forwarded: words[2],
            forwarded_bytes: words[3],
            held: words[4],
            answered: words[5],
            answers_lost: words[6],
            dropped,
        }
    }

    /// Counts one dropped packet.
    pub fn drop_for(&mut self, reason: Reason) {
        self.dropped[reason as usize] += 1;
    }

    /// Packets dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether received = forwarded + Σ dropped + held, exactly. (What the steering program gives to the host is
    /// counted there and never reaches a worker.)
    pub fn is_balanced(&self) -> bool {
        self.received == self.forwarded + self.dropped_total() + self.held
    }

    /// Adds another worker's ledger.
    pub fn add(&mut self, other: &Ledger) {
        let mut sum = self.words();
        for (total, word) in sum.iter_mut().zip(other.words()) {
            *total += word;
        }
        *self = Ledger::from_words(&sum);
    }
}

/// A ledger that its one worker publishes and anybody reads.
#[derive(Default)]
pub struct SharedLedger(SequenceLock<WORDS>);

impl SharedLedger {
    /// Publishes a ledger. Only its one worker may call this.
    pub fn publish(&self, ledger: &Ledger) {
        self.0.write(ledger.words());
    }

    /// The ledger as of the end of some burst.
    pub fn read(&self) -> Ledger {
        Ledger::from_words(&self.0.read())
    }
}

/// Words of one writer that readers see as they were after one of the writings, all of them.
struct SequenceLock<const WORDS: usize> {
    /// Odd while the words are being written.
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Default for SequenceLock<WORDS> {
    fn default() -> Self {
        SequenceLock { sequence: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl<const WORDS: usize> SequenceLock<WORDS> {
    fn write(&self, words: [u64; WORDS]) {
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence + 1, Relaxed);
        // No word below may become visible before the odd sequence number.
        fence(Release);
        for (shared, word) in self.words.iter().zip(words) {
            shared.store(word, Relaxed);
        }
        // Nor may the even one before any word.
        self.sequence.store(sequence + 2, Release);
    }

    fn read(&self) -> [u64; WORDS] {
        loop {
            let before = self.sequence.load(Acquire);
            let words = std::array::from_fn(|i| self.words[i].load(Relaxed));
            fence(Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Relaxed) == before {
                return words;
            }
            spin_loop();
        }
    }
}

/// One worker's counters of one rule, as last read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleHits {
    /// Packets decided: forwarded under an allow, dropped under a deny.
    pub packets: u64,
    /// The same in bytes of IP packet.
    pub bytes: u64,
    /// Connections opened under it.
    pub connections: u64,
    /// When it last decided a packet, or `None`.
    pub last_hit: Option<Now>,
}

impl RuleHits {
    /// Adds another worker's or another generation's counters.
    pub fn add(&mut self, other: &RuleHits) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.last_hit = self.last_hit.max(other.last_hit);
    }
}

/// Aligned so that it never touches two cache lines.
#[derive(Default)]
#[repr(align(32))]
struct RuleCell {
    packets: AtomicU64,
    bytes: AtomicU64,
    connections: AtomicU64,
    /// Nanoseconds, 0 for never.
    last_hit: AtomicU64,
}

/// The counters of all rules of one policy: one row a worker, so that a cell has one writer and needs no
/// read-modify-write.
pub struct RuleCounters {
    rows: Box<[CachePadded<Box<[RuleCell]>>]>,
}

impl RuleCounters {
    /// Zeroed counters for `rules` rules and `workers` workers, and for the default deny.
    pub fn new(rules: usize, workers: usize) -> RuleCounters {
        let row = || CachePadded::new(afxdp::large_table(rules + 1, RuleCell::default));
        RuleCounters { rows: (0..workers.max(1)).map(|_| row()).collect() }
    }

    /// One worker's counters; only that worker may count in them.
    #[inline]
    pub fn row(&self, worker: usize) -> RuleRow<'_> {
        RuleRow(&self.rows[worker])
    }

    /// Counts a packet that this rule decided. `RuleId::NONE` is the default deny.
    pub fn hit(&self, worker: usize, rule: RuleId, bytes: usize, now: Now) {
        self.row(worker).hit(rule, bytes, now);
    }

    /// Counts a connection opened under this rule.
    pub fn open(&self, worker: usize, rule: RuleId) {
        bump(&self.cell(worker, rule).connections, 1);
    }

    fn cell(&self, worker: usize, rule: RuleId) -> &RuleCell {
        self.row(worker).cell(rule)
    }

    /// The counters of a rule, summed over workers. `RuleId::NONE` is the default deny.
    pub fn read(&self, rule: RuleId) -> RuleHits {
        let mut sum = RuleHits::default();
        for worker in 0..self.rows.len() {
            let cell = self.cell(worker, rule);
            let last = cell.last_hit.load(Relaxed);
            sum.add(&RuleHits {
                packets: cell.packets.load(Relaxed),
                bytes: cell.bytes.load(Relaxed),
                connections: cell.connections.load(Relaxed),
                last_hit: (last != 0).then_some(Now(last)),
            });
        }
        sum
    }
}

/// One worker's counters of all rules, at hand for a burst.
#[derive(Clone, Copy)]
pub struct RuleRow<'a>(&'a [RuleCell]);

impl<'a> RuleRow<'a> {
    /// Asks for the line of the rule's counters.
    #[inline(always)]
    pub fn prefetch(self, rule: RuleId) {
        afxdp::prefetch(self.cell(rule));
    }

    /// See [`RuleCounters::hit`].
    #[inline(always)]
    pub fn hit(self, rule: RuleId, bytes: usize, now: Now) {
        let cell = self.cell(rule);
        bump(&cell.packets, 1);
        bump(&cell.bytes, bytes as u64);
        cell.last_hit.store(now.0.max(1), Relaxed);
    }

    /// The last one is the default deny's: `RuleId::NONE` is the largest number.
    #[inline(always)]
    fn cell(self, rule: RuleId) -> &'a RuleCell {
        &self.0[(rule.0 as usize).min(self.0.len() - 1)]
    }
}

/// Adds without a read-modify-write: the caller is the only writer.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_never_sees_half_a_burst() {
        let shared = SharedLedger::default();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut ledger = Ledger::default();
                for burst in 1..20_000_u64 {
                    ledger.received += burst;
                    ledger.forwarded += burst - 1;
                    ledger.drop_for(Reason::NoRule);
                    shared.publish(&ledger);
                }
                stop.store(true, Relaxed);
            });
            while !stop.load(Relaxed) {
                assert!(shared.read().is_balanced());
            }
        });
        assert_eq!(shared.read().dropped[Reason::NoRule as usize], 19_999);
    }

    #[test]
    fn rule_counters_sum_over_workers_and_keep_the_default_apart() {
        let counters = RuleCounters::new(2, 2);
        counters.hit(0, RuleId(1), 100, Now(5));
        counters.hit(1, RuleId(1), 50, Now(9));
        counters.open(1, RuleId(1));
        counters.hit(1, RuleId::NONE, 7, Now(3));
        let expected = RuleHits { packets: 2, bytes: 150, connections: 1, last_hit: Some(Now(9)) };
        assert_eq!(counters.read(RuleId(1)), expected);
        assert_eq!(counters.read(RuleId(0)), RuleHits::default());
        assert_eq!(counters.read(RuleId::NONE).packets, 1);
    }
}

/// See `connection/loom.rs` for how to run it.
#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use ::loom::model::Builder;
    use ::loom::thread;

    use super::*;

    #[test]
    fn loom_a_reading_is_of_the_end_of_one_burst_and_never_older_than_the_one_before() {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let shared = Arc::new(SequenceLock::<2>::default());
            let worker = {
                let shared = shared.clone();
                thread::spawn(move || {
                    for burst in 1..=2 {
                        shared.write([burst, burst * 10]);
                    }
                })
            };
            let mut last = 0;
            for _ in 0..2 {
                let [received, forwarded] = shared.read();
                assert_eq!(forwarded, received * 10, "half of a burst");
                assert!(received >= last, "back in time");
                last = received;
            }
            worker.join().unwrap();
            assert_eq!(shared.read(), [2, 20]);
        });
    }
}
