//! The connection table: one for all workers, lock-free, of fixed capacity.
//!
//! | file | what |
//! |---|---|
//! | `key` | tuple in an entry, keyed symmetric hash |
//! | `entry` | what is kept of one connection |
//! | `index` | buckets of versioned words; insert, look-up and removal, and why they are right |
//! | `reclaim` | when an entry may be reused |
//! | `tcp`, `window` | the state machine and the sequence windows |
//! | `timeouts` | idle limits |
//! | `clients` | which clients of protected segments have shown that they are there |
//! | `limits` | limits of rules: connections at a time and per second |
//! | `sources` | how many connections each source has |
//! | `map` | all of it for one address family: open, track, account, remove, sweep |
//! | `find` | finding a connection, and asking for its memory before |
//!
//! A worker's burst: [`Worker::quiesce`], then for every packet [`Map::hash`] and [`Map::prefetch`], then for every packet
//! [`Map::guess`], then for every packet [`Map::find`] (or [`Map::open`]), [`Map::track_tcp`] or [`Map::track_other`], [`Map::account`]; at last
//! [`Table::sweep`]. A [`Hit`] must not be kept beyond the burst.
//!
//! Memory: an IPv4 entry has 96 bytes and 8 beside it, the index 16 per connection (twice as many slots of 8 bytes), and 1 in
//! 32 entries is a spare, which is in limbo or in a worker's hand: 124 bytes per connection, counters and bearer included.

mod clients;
mod entry;
mod find;
mod index;
mod key;
mod limits;
mod map;
mod reclaim;
mod sources;
mod tcp;
mod timeouts;
mod window;

#[cfg(all(loom, test))]
mod loom;
#[cfg(all(not(loom), test))]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crossbeam::utils::CachePadded;

pub use clients::{Challenge, Clients, Knock};
pub use entry::{End, Summary};
pub use find::{Found, Guess};
pub use key::{Family, Hash};
pub use limits::{Limit, Limits, MAX_LIMITED_RULES, MAX_RATE, RuleLimits, TooManyLimits};
pub use map::{Map, Opened, Track};
pub use tcp::State;
pub use timeouts::{MAX_OVERRIDES, MAX_TIMEOUT_MS, Overrides, TimeoutClass, Timeouts};

use crate::headers::TcpSegment;
use crate::identity::Bearer;
use crate::sync::{AtomicU32, AtomicU64, Relaxed};
use crate::verdict::{Direction, Generation, Now, PortId, RuleId};
use key::HashKey;
use limits::Accounts;
use reclaim::{Cache, Epochs};
use timeouts::Classes;

/// Handles for threads other than the configured workers: the control plane's.
const CONTROL_WORKERS: usize = 2;

/// Summaries that a worker keeps for [`Table::sweep`]: one burst of packets ends at most this many connections.
const ENDED: usize = 256;

/// How large the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// IPv4 connections, at most 2²⁷.
    pub connections_v4: u32,
    /// IPv6 connections, at most 2²⁷.
    pub connections_v6: u32,
    /// The share of each capacity, in percent, that may be half-open: TCP handshakes, UDP and echo without a reply.
    pub half_open_share_percent: u8,
    /// How many half-open connections one source (an IPv4 address or an IPv6 /64) may have; 0 for no limit of its own.
    pub half_open_per_source: u32,
    /// How many workers will ask for a [`Worker`].
    pub workers: usize,
    /// Idle limits.
    pub timeouts: Timeouts,
}

impl Default for TableConfig {
    fn default() -> TableConfig {
        TableConfig {
            connections_v4: 1 << 20,
            connections_v6: 1 << 18,
            half_open_share_percent: 25,
            half_open_per_source: 0,
            workers: 1,
            timeouts: Timeouts::default(),
        }
    }
}

/// All connections.
pub struct Table {
    /// IPv4.
    pub v4: Map<Ipv4Addr>,
    /// IPv6.
    pub v6: Map<Ipv6Addr>,
    /// Who may connect into protected segments without being asked first.
    pub clients: Clients,
    epochs: Epochs,
    /// The next slot to be swept, modulo the number of slots.
    sweep: CachePadded<AtomicU64>,
    classes: std::sync::Mutex<Classes>,
    accounts: Arc<Accounts>,
    /// [`Timeouts::fragment_ms`], for the packet path.
    fragment_ms: AtomicU32,
}

impl Table {
    /// Allocates everything the table will ever use.
    pub fn new(config: &TableConfig) -> Table {
        Table::with_key(config, HashKey::random)
    }

    fn with_key(config: &TableConfig, key: impl Fn() -> HashKey) -> Table {
        let workers = config.workers + CONTROL_WORKERS;
        let connections = config.connections_v4.saturating_add(config.connections_v6);
        let accounts = Arc::new(Accounts::new(key(), connections));
        Table {
            v4: Map::new(config.connections_v4, config, workers, key(), accounts.clone()),
            v6: Map::new(config.connections_v6, config, workers, key(), accounts.clone()),
            clients: Clients::default(),
            accounts,
            epochs: Epochs::new(workers),
            sweep: CachePadded::new(AtomicU64::new(0)),
            classes: std::sync::Mutex::new(Classes::new(config.timeouts)),
            fragment_ms: AtomicU32::new(config.timeouts.fragment_ms),
        }
    }

    /// A worker's handle, online; `None` when all of them are out. Not for the packet path.
    pub fn worker(self: &Arc<Table>) -> Option<Worker> {
        let place = self.epochs.claim()?;
        self.epochs.go_online(place);
        Some(Worker {
            table: Arc::clone(self),
            place,
            online: true,
            caches: [Cache::new(), Cache::new()],
            ended: Vec::with_capacity(ENDED),
            hand: place as u32 * 0x9e37,
        })
    }

    fn classes(&self) -> std::sync::MutexGuard<'_, Classes> {
        self.classes.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The gateway's own idle limits in force.
    pub fn timeouts(&self) -> Timeouts {
        self.classes().base()
    }

    /// Replaces the gateway's own idle limits, also for the connections that exist and in what rules leave out. Not for
    /// the packet path.
    pub fn set_timeouts(&self, timeouts: &Timeouts) {
        self.fragment_ms.store(timeouts.fragment_ms, Relaxed);
        let mut classes = self.classes();
        classes.set_base(timeouts);
        self.store(&classes);
    }

    /// How long a datagram waits for the rest of its fragments, nanoseconds.
    pub fn fragment_timeout_ns(&self) -> u64 {
        u64::from(self.fragment_ms.load(Relaxed)) * 1_000_000
    }

    fn store(&self, classes: &Classes) {
        for (class, limits) in classes.limits() {
            self.v4.set_timeouts(class, &limits);
            self.v6.set_timeouts(class, &limits);
        }
    }

    /// The classes for the policy that is about to follow the one for which this was asked last: one for each of
    /// `wanted`, of which there are at most [`MAX_OVERRIDES`], each once. Connections that live keep theirs. Not for the
    /// packet path.
    pub fn claim_classes(&self, wanted: &[Overrides]) -> Vec<TimeoutClass> {
        let mut classes = self.classes();
        let used = || self.v4.classes_in_use() | self.v6.classes_in_use();
        let claimed = classes.claim(wanted, used, |class| {
            self.v4.dissolve_class(class);
            self.v6.dissolve_class(class);
        });
        self.store(&classes);
        claimed
    }

    /// Connections of both families.
    pub fn len(&self) -> u32 {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Half-open connections of both families.
    pub fn half_open(&self) -> u32 {
        self.v4.half_open() + self.v6.half_open()
    }

    /// Gives the rules of a policy that have limits their accounts; to be done before the policy is in force. Not for
    /// the packet path.
    ///
    /// # Errors
    /// There are not that many accounts; the limits must not be used then.
    pub fn bind(&self, limits: &mut Limits) -> Result<(), TooManyLimits> {
        if !limits.is_empty() {
            self.v4.keep_accounts();
            self.v6.keep_accounts();
        }
        self.accounts.bind(limits)
    }

    /// How many connections a rule has, if it has a limit for them.
    pub fn connections_of(&self, limit: &Limit) -> Option<u32> {
        self.accounts.connections(limit)
    }

    /// Connections of both families that made room for new ones: half-open ones, and ones that were over.
    pub fn evicted(&self) -> u64 {
        self.v4.evicted() + self.v6.evicted()
    }

    /// How many connections fit, both families together.
    pub fn capacity(&self) -> u32 {
        self.v4.capacity() + self.v6.capacity()
    }

    /// Slots that [`Table::sweep`] goes round: with this budget in sum per second, the whole table is swept once a
    /// second.
    pub fn slots(&self) -> usize {
        self.v4.slots() + self.v6.slots()
    }

    /// Reports the connections that this worker's [`Map::open`] found expired or evicted, then looks at the next
    /// `budget` slots of the table, removes expired connections and reports them. Workers share one round: each
    /// call takes the next slots. To be called once a burst, or the worker can no longer evict.
    pub fn sweep(&self, worker: &mut Worker, now: Now, budget: usize, emit: &mut impl FnMut(Summary)) {
        worker.ended.drain(..).for_each(&mut *emit);
        let (first, total) = (self.v4.slots(), self.slots());
        let budget = budget.min(total);
        if budget == 0 {
            return;
        }
        let from = (self.sweep.fetch_add(budget as u64, Relaxed) % total as u64) as usize;
        // Up to three pieces: to the end of v4, of v6, and again from the start.
        let (mut at, mut left) = (from, budget);
        while left > 0 {
            let end = if at < first { first } else { total };
            let count = left.min(end - at);
            if at < first {
                self.v4.sweep(worker, now, at, count, emit);
            } else {
                self.v6.sweep(worker, now, at - first, count, emit);
            }
            left -= count;
            at = (at + count) % total;
        }
    }
}

/// One thread's access to the table. Everything it found is good until its next [`Worker::quiesce`].
pub struct Worker {
    table: Arc<Table>,
    place: usize,
    online: bool,
    caches: [Cache; 2],
    /// Connections that `open` ended, for the next sweep to report. Never grows beyond its first capacity.
    ended: Vec<Summary>,
    /// Where the next sample for eviction starts.
    hand: u32,
}

impl Worker {
    /// Between two bursts: this thread holds no [`Hit`] any more. Also brings a paused worker back.
    #[inline]
    pub fn quiesce(&mut self) {
        let Worker { table, caches: [v4, v6], .. } = self;
        table.v4.seal(v4, &table.epochs);
        table.v6.seal(v6, &table.epochs);
        if self.online {
            table.epochs.announce(self.place);
        } else {
            table.epochs.go_online(self.place);
            self.online = true;
        }
        table.v4.collect(v4, &table.epochs);
        table.v6.collect(v6, &table.epochs);
    }

    /// Before sleeping: as [`Worker::quiesce`], and until the next one this thread does not use the table, so that
    /// the others need not wait for it.
    pub fn pause(&mut self) {
        let Worker { table, caches: [v4, v6], .. } = self;
        table.v4.seal(v4, &table.epochs);
        table.v6.seal(v6, &table.epochs);
        table.epochs.go_offline(self.place);
        self.online = false;
        table.v4.collect(v4, &table.epochs);
        table.v6.collect(v6, &table.epochs);
        table.v4.abandon(v4);
        table.v6.abandon(v6);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.pause();
        let Worker { table, caches: [v4, v6], .. } = self;
        table.v4.dissolve(v4);
        table.v6.dissolve(v6);
        table.epochs.release(self.place);
    }
}

/// A connection that was found. Good until the worker's next [`Worker::quiesce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    entry: u32,
    position: u32,
    word: u64,
    /// Which way the packet goes.
    pub direction: Direction,
}

impl Hit {
    /// Where [`Map::summaries`] goes on after this connection.
    pub fn next_position(&self) -> usize {
        self.position as usize + 1
    }
}

/// By which judgement a connection passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Of which policy. 0, which no policy has, means: judge again.
    pub generation: Generation,
    /// By which rule.
    pub rule: RuleId,
    /// The port behind which that policy has the responder: its packets may come in by it, the originator's leave by
    /// it. `None` where no packet has shown it yet.
    pub egress: Option<PortId>,
    /// Until when, in ticks of the caller's choosing; 0 for no end.
    pub valid_until: u32,
    /// By whose session. One that depends on a session has an end.
    pub bearer: Bearer,
}

/// What is known of a new connection.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The port by which its first packet came.
    pub ingress: PortId,
    /// The port by which its first packet leaves, see [`Stamp::egress`].
    pub egress: PortId,
    /// The rule that lets it through.
    pub rule: RuleId,
    /// The generation of the policy that was asked.
    pub generation: Generation,
    /// Until when, see [`Stamp::valid_until`].
    pub valid_until: u32,
    /// By whose session, see [`Stamp::bearer`].
    pub bearer: Bearer,
    /// The rule's limits.
    pub limit: Option<&'a Limit>,
    /// The time.
    pub now: Now,
    /// The first segment, for TCP: a SYN.
    pub segment: Option<&'a TcpSegment>,
}
