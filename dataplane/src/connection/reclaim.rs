//! When may an entry be reused? When no worker can still hold a reference to it.
//!
//! Free entries lie in chains (linked through the entries themselves): each worker has a chain of its own, and whole
//! chains wait in a shared queue for balance. A retired entry first goes to its worker's *limbo*, in batches:
//!
//! * [`Epochs::global`] counts; a worker that seals a batch raises it and stamps the batch with the new count. That
//!   happens after the entries' words were emptied, hence whoever reads a count of at least the stamp (acquire) sees
//!   them emptied and cannot find these entries any more.
//! * [`Worker::quiesce`](super::Worker::quiesce), between two bursts, says "I hold no reference" by publishing the
//!   count read. So once *every* worker has published at least the stamp, nobody holds or can get a reference.
//! * A worker that sleeps or is gone publishes [`OFFLINE`]. Coming back, it publishes the count, then passes a
//!   sequentially consistent fence before its first look-up; who reclaims passes one before it reads what workers
//!   published. Either the reclaimer's fence is first, then the returning worker's look-ups see the words emptied;
//!   or the worker's fence is first, then the reclaimer sees it online.
//!
//! A worker that is stopped without going offline keeps everybody's retired entries in limbo: capacity shrinks by
//! what is retired meanwhile, and opening fails with `table_full` at worst; nothing is ever reused too early.

use std::collections::VecDeque;

use crossbeam::utils::CachePadded;

use super::entry::Entry;
use crate::sync::{AcqRel, Acquire, AtomicU64, Queue, Relaxed, Release, SeqCst, fence};

/// The end of a chain.
const NIL: u32 = u32::MAX;

/// Entries of a chain in the shared queue.
pub(super) const CHUNK: u32 = if cfg!(loom) { 1 } else { 32 };

/// Batches in a worker's limbo; more are merged into the youngest.
const LIMBO: usize = 16;

/// Batches left by workers that went offline.
const ORPHANS: usize = 64;

const OFFLINE: u64 = u64::MAX - 1;
const UNCLAIMED: u64 = u64::MAX;

/// The count and what each worker has published of it.
pub(super) struct Epochs {
    global: CachePadded<AtomicU64>,
    locals: Box<[CachePadded<AtomicU64>]>,
}

impl Epochs {
    pub(super) fn new(workers: usize) -> Epochs {
        let local = || CachePadded::new(AtomicU64::new(UNCLAIMED));
        Epochs {
            global: CachePadded::new(AtomicU64::new(0)),
            locals: (0..workers).map(|_| local()).collect(),
        }
    }

    /// A place of one's own, offline; `None` when all are taken.
    pub(super) fn claim(&self) -> Option<usize> {
        self.locals.iter().position(|l| l.compare_exchange(UNCLAIMED, OFFLINE, AcqRel, Relaxed).is_ok())
    }

    pub(super) fn release(&self, place: usize) {
        self.locals[place].store(UNCLAIMED, Release);
    }

    pub(super) fn go_online(&self, place: usize) {
        self.locals[place].store(self.global.load(Acquire), Relaxed);
        fence(SeqCst);
    }

    pub(super) fn go_offline(&self, place: usize) {
        self.locals[place].store(OFFLINE, Release);
    }

    /// Publishes that this worker holds no reference from before.
    pub(super) fn announce(&self, place: usize) {
        self.locals[place].store(self.global.load(Acquire), Release);
    }

    /// A stamp for entries whose words are emptied.
    fn advance(&self) -> u64 {
        self.global.fetch_add(1, AcqRel) + 1
    }

    /// Batches with a stamp up to this one may be reused.
    pub(super) fn safe(&self) -> u64 {
        fence(SeqCst);
        self.locals.iter().map(|l| l.load(Acquire)).min().unwrap_or(0)
    }
}

/// Entries linked through themselves.
#[derive(Clone, Copy)]
struct Chain {
    head: u32,
    tail: u32,
    len: u32,
}

impl Chain {
    const EMPTY: Chain = Chain { head: NIL, tail: NIL, len: 0 };

    fn push<K>(&mut self, entries: &[Entry<K>], entry: u32) {
        entries[entry as usize].set_link(self.head);
        if self.len == 0 {
            self.tail = entry;
        }
        self.head = entry;
        self.len += 1;
    }

    fn pop<K>(&mut self, entries: &[Entry<K>]) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let entry = self.head;
        self.head = entries[entry as usize].link();
        self.len -= 1;
        if self.len == 0 {
            *self = Chain::EMPTY;
        }
        Some(entry)
    }

    /// Puts another chain before this one.
    fn prepend<K>(&mut self, entries: &[Entry<K>], other: Chain) {
        if other.len == 0 {
            return;
        }
        entries[other.tail as usize].set_link(self.head);
        if self.len == 0 {
            self.tail = other.tail;
        }
        self.head = other.head;
        self.len += other.len;
    }

    /// Cuts off the first `count` entries; there must be as many.
    fn split<K>(&mut self, entries: &[Entry<K>], count: u32) -> Chain {
        let mut front = Chain::EMPTY;
        for _ in 0..count {
            if let Some(entry) = self.pop(entries) {
                front.push(entries, entry);
            }
        }
        front
    }
}

/// A chain that may be reused once every worker has published `stamp`.
#[derive(Clone, Copy)]
struct Batch {
    chain: Chain,
    stamp: u64,
}

/// Free entries that no worker has.
pub(super) struct Pool {
    free: Queue<Chain>,
    orphans: Queue<Batch>,
}

impl Pool {
    pub(super) fn new<K>(entries: &[Entry<K>]) -> Pool {
        let total = entries.len() as u32;
        // Whole chunks only, but for what workers leave behind: those fit twice over.
        let pool =
            Pool { free: Queue::new((total / CHUNK) as usize + 1 + ORPHANS), orphans: Queue::new(ORPHANS) };
        let mut all = Chain::EMPTY;
        (0..total).rev().for_each(|entry| all.push(entries, entry));
        while all.len > 0 {
            let chain = all.split(entries, CHUNK.min(all.len));
            // The queue was made large enough for all of them.
            let _ = pool.free.push(chain);
        }
        pool
    }
}

/// One worker's free and retired entries of one map.
pub(super) struct Cache {
    free: Chain,
    retired: Chain,
    limbo: VecDeque<Batch>,
}

impl Cache {
    pub(super) fn new() -> Cache {
        Cache { free: Chain::EMPTY, retired: Chain::EMPTY, limbo: VecDeque::with_capacity(LIMBO) }
    }

    /// An entry that nobody can reach.
    pub(super) fn take<K>(&mut self, entries: &[Entry<K>], pool: &Pool, epochs: &Epochs) -> Option<u32> {
        if self.free.len == 0 {
            if let Some(chain) = pool.free.pop() {
                self.free = chain;
            } else if let Some(batch) = pool.orphans.pop() {
                if batch.stamp <= epochs.safe() {
                    self.free = batch.chain;
                } else {
                    self.adopt(entries, batch);
                }
            }
        }
        self.free.pop(entries)
    }

    /// Gives back an entry that was taken and never placed.
    pub(super) fn give_back<K>(&mut self, entries: &[Entry<K>], entry: u32) {
        self.free.push(entries, entry);
    }

    /// Takes an entry whose word was emptied. Overwrites its start time.
    pub(super) fn retire<K>(&mut self, entries: &[Entry<K>], entry: u32) {
        self.retired.push(entries, entry);
    }

    fn adopt<K>(&mut self, entries: &[Entry<K>], batch: Batch) {
        let full = self.limbo.len() == LIMBO;
        match self.limbo.back_mut() {
            Some(last) if full => {
                last.chain.prepend(entries, batch.chain);
                last.stamp = last.stamp.max(batch.stamp);
            }
            _ => self.limbo.push_back(batch),
        }
    }

    /// Closes the current batch. Its stamp is the youngest: batches stay in order.
    pub(super) fn seal<K>(&mut self, entries: &[Entry<K>], epochs: &Epochs) {
        if self.retired.len > 0 {
            let chain = std::mem::replace(&mut self.retired, Chain::EMPTY);
            self.adopt(entries, Batch { chain, stamp: epochs.advance() });
        }
    }

    /// Frees what no worker can reach any more, and shares what is too much for one.
    pub(super) fn collect<K>(&mut self, entries: &[Entry<K>], pool: &Pool, epochs: &Epochs) {
        if self.limbo.is_empty() {
            return;
        }
        let safe = epochs.safe();
        while let Some(batch) = self.limbo.front().copied().filter(|b| b.stamp <= safe) {
            self.limbo.pop_front();
            self.free.prepend(entries, batch.chain);
        }
        while self.free.len >= 2 * CHUNK {
            let chunk = self.free.split(entries, CHUNK);
            if let Err(chunk) = pool.free.push(chunk) {
                self.free.prepend(entries, chunk);
                break;
            }
        }
    }

    /// Leaves the limbo to the other workers; what the pool does not take stays here.
    pub(super) fn abandon<K>(&mut self, entries: &[Entry<K>], pool: &Pool) {
        let mut all: Option<Batch> = None;
        for batch in self.limbo.drain(..) {
            let merged = all.get_or_insert(Batch { chain: Chain::EMPTY, stamp: 0 });
            merged.chain.prepend(entries, batch.chain);
            merged.stamp = merged.stamp.max(batch.stamp);
        }
        if let Some(batch) = all
            && let Err(batch) = pool.orphans.push(batch)
        {
            self.limbo.push_back(batch);
        }
    }

    /// Leaves everything to the other workers.
    pub(super) fn dissolve<K>(&mut self, entries: &[Entry<K>], pool: &Pool) {
        // Free entries go as chunks, so that the queue's size always suffices, and the rest with the limbo.
        while self.free.len >= CHUNK {
            let chunk = self.free.split(entries, CHUNK);
            if let Err(chunk) = pool.free.push(chunk) {
                self.free.prepend(entries, chunk);
                break;
            }
        }
        if self.free.len > 0 {
            let chain = std::mem::replace(&mut self.free, Chain::EMPTY);
            self.adopt(entries, Batch { chain, stamp: 0 });
        }
        self.abandon(entries, pool);
    }
}
