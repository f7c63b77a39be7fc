//! All connections of one address family.
//!
//! **When it is full.** Opening needs a place among the half-open connections, a place in the table and a free slot
//! in one of its two buckets. Where one is missing, room is made among the connections of these two buckets and,
//! unless it is the slot that is missing, of 64 further slots (a window that moves on each time, and goes on to 512
//! slots while it finds nothing): an expired connection first, else one that is over (TIME-WAIT or reset), else the
//! half-open one that has waited longest. A place among the half-open is only made by ending a half-open one. An
//! established connection is never ended to make room. With no candidate, opening is refused:
//! [`Reason::HalfOpenLimit`] or [`Reason::TableFull`]. So a flood of SYNs ends its own oldest handshakes, at a
//! bounded price each; [`Map::evicted`] counts what was ended. At the limit of its own a source's further ones are
//! refused ([`Reason::HalfOpenSourceLimit`]) and end nothing; nor does what a rule's limits refuse.
//!
//! **After it was full**, what a flood has left shall not stay for two minutes only because UDP may: until a minute after
//! the last time that there was no place, what still waits for the other end is kept for [`PRESSED_MS`] at most.

use std::sync::{Arc, OnceLock};

use crossbeam::utils::CachePadded;

use super::entry::{Carried, Entry, Head, first_state, millis};
use super::index::{ENTRY_BITS, Index, Position, Settled, Word};
use super::key::HashKey;
use super::limits::{Accounts, Limit, NO_ACCOUNT};
use super::reclaim::{CHUNK, Cache, Epochs, Pool};
use super::sources::Sources;
use super::tcp::{self, Outcome};
use super::timeouts::{Limits, TimeoutClass};
use super::window::{self, Seq, Side};
use super::{ENDED, End, Family, Hash, Hit, Opening, Stamp, State, Summary, TableConfig, Timeouts, Worker};
use crate::headers::{TcpSegment, Transport, Tuple, protocol};
use crate::sync::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, fence};
use crate::verdict::{Direction, Now, PortId, Reason};

/// Slots beyond the two buckets that are looked at to make room.
const SAMPLE: usize = 64;

/// How many are looked at while there is no candidate at all.
const MAX_SAMPLE: usize = 512;

/// How long the other end may stay silent while there is hardly any place, milliseconds: as long as for a handshake.
/// conntrack always gives UDP so long.
const PRESSED_MS: u32 = 30_000;

/// For how long after the last time without a place that holds, milliseconds: until what was opened before is gone, and
/// what was opened meanwhile has had as long.
const RELIEF_MS: u64 = 2 * PRESSED_MS as u64;

/// How exactly that time is kept, milliseconds: in a flood it is looked at for each packet.
const RELIEF_TICK_MS: u64 = 1000;

/// How often opening starts over because other workers were faster with the same tuple.
const ATTEMPTS: usize = 16;

/// An entry's account once it has been taken off it.
const RETIRED: u32 = NO_ACCOUNT - 1;

/// What [`Map::open`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A new connection; its first packet counts as tracked.
    New(Hit),
    /// Another worker was first: track the packet as one of this connection.
    Existing(Hit),
}

/// What a packet did to its connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// Nothing worth telling.
    Passed,
    /// It may pass, but tells nothing about the connection and does not keep it: count it with [`Map::count`].
    Aside,
    /// The handshake is complete, or the first reply has come.
    Established,
    /// The first FIN.
    Closing,
    /// Reset, or both FINs acknowledged. The entry stays until its time runs out, or a new SYN comes.
    Closed,
    /// A SYN over a finished connection: [`Map::remove`] it and treat the packet as the first of a new one.
    Reopen,
}

/// The connections of one family.
pub struct Map<A: Family> {
    pub(super) index: Index,
    pub(super) entries: Box<[Entry<A::Key>]>,
    carried: Box<[Carried]>,
    pool: Pool,
    pub(super) key: HashKey,
    pub(super) limits: Limits,
    capacity: u32,
    half_open_limit: u32,
    half_open_per_source: u32,
    /// The half-open connections of each source, where that has a limit.
    sources: Option<Sources>,
    accounts: Arc<Accounts>,
    /// Each entry's account, [`RETIRED`] once it is taken off; there is none before a rule has limits. Beside the
    /// entries, so that a packet of a known connection pays nothing for it.
    account_of: OnceLock<Box<[AtomicU32]>>,
    len: CachePadded<AtomicU32>,
    half_open: CachePadded<AtomicU32>,
    evicted: CachePadded<AtomicU64>,
    /// Until when [`PRESSED_MS`] counts, in milliseconds of the clock; 0 before there was ever no place.
    pressed_until: CachePadded<AtomicU64>,
}

/// Adds one, unless the limit is reached.
fn reserve(counter: &AtomicU32, limit: u32) -> bool {
    counter.fetch_update(AcqRel, Relaxed, |n| (n < limit).then_some(n + 1)).is_ok()
}

impl<A: Family> Map<A> {
    pub(super) fn new(
        capacity: u32,
        config: &TableConfig,
        workers: usize,
        key: HashKey,
        accounts: Arc<Accounts>,
    ) -> Map<A> {
        let capacity = capacity.min(1 << (ENTRY_BITS - 1));
        // Every worker may hold nearly two chunks; the rest is for entries in limbo.
        let spare =
            if cfg!(loom) { 3 * capacity.min(1) } else { capacity / 32 + 2 * CHUNK * workers as u32 + 64 };
        let entries = afxdp::large_table((capacity + spare) as usize, Entry::default);
        let share = u64::from(config.half_open_share_percent.min(100));
        let half_open_limit = (u64::from(capacity) * share).div_ceil(100) as u32;
        let half_open_per_source = config.half_open_per_source;
        Map {
            index: Index::new(capacity),
            pool: Pool::new(&entries),
            carried: afxdp::large_table(entries.len(), Carried::default),
            entries,
            key,
            limits: Limits::new(&config.timeouts),
            capacity,
            half_open_limit,
            half_open_per_source,
            accounts,
            account_of: OnceLock::new(),
            sources: (half_open_per_source > 0).then(|| Sources::new(half_open_limit)),
            len: CachePadded::new(AtomicU32::new(0)),
            half_open: CachePadded::new(AtomicU32::new(0)),
            evicted: CachePadded::new(AtomicU64::new(0)),
            pressed_until: CachePadded::new(AtomicU64::new(0)),
        }
    }

    pub(super) fn set_timeouts(&self, class: TimeoutClass, timeouts: &Timeouts) {
        self.limits.replace(class, timeouts);
    }

    /// The time-out classes that connections have, as bits.
    pub(super) fn classes_in_use(&self) -> u64 {
        let words = (0..self.slots()).map(|position| self.index.word(position as Position));
        let live = words.filter(|word| word.is_live());
        live.fold(0, |used, word| used | 1 << self.entries[word.entry() as usize].head().class().0)
    }

    /// Gives every connection of this class the gateway's own limits. An entry that is another connection's by now
    /// cannot have a class that is given up: no policy in force refers to it.
    pub(super) fn dissolve_class(&self, class: TimeoutClass) {
        let of_class = self.entries.iter().filter(|entry| entry.head().class() == class);
        of_class.for_each(|entry| entry.set_class(TimeoutClass::default()));
    }

    /// Has a connection live by the limits of this class from now on: its rule's, when it was judged.
    #[inline]
    pub fn set_timeout_class(&self, hit: Hit, class: TimeoutClass) {
        self.entry(hit).set_class(class);
    }

    pub(super) fn seal(&self, cache: &mut Cache, epochs: &Epochs) {
        cache.seal(&self.entries, epochs);
    }

    pub(super) fn collect(&self, cache: &mut Cache, epochs: &Epochs) {
        cache.collect(&self.entries, &self.pool, epochs);
    }

    pub(super) fn abandon(&self, cache: &mut Cache) {
        cache.abandon(&self.entries, &self.pool);
    }

    pub(super) fn dissolve(&self, cache: &mut Cache) {
        cache.dissolve(&self.entries, &self.pool);
    }

    /// Connections. Exact whenever nobody is opening or removing one.
    pub fn len(&self) -> u32 {
        self.len.load(Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Half-open connections: handshake incomplete, or no reply yet. Exact as [`Map::len`] is.
    pub fn half_open(&self) -> u32 {
        self.half_open.load(Relaxed)
    }

    /// How many connections fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many half-open ones are let in.
    pub fn half_open_limit(&self) -> u32 {
        self.half_open_limit
    }

    /// Half-open connections, and ones that were over, that made room for new ones.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// Slots of the index.
    pub fn slots(&self) -> usize {
        self.index.positions()
    }

    /// Bytes that the map has allocated.
    pub fn memory_bytes(&self) -> usize {
        let sources = self.sources.as_ref().map_or(0, Sources::memory_bytes);
        let accounts = self.account_of.get().map_or(0, |accounts| size_of_val(&**accounts));
        let entries = size_of_val(&*self.entries) + size_of_val(&*self.carried);
        entries + self.slots() * size_of::<u64>() + sources + accounts
    }

    fn entry(&self, hit: Hit) -> &Entry<A::Key> {
        &self.entries[hit.entry as usize]
    }

    /// Whether a quoted TCP sequence number is of data in flight (RFC 5927, section 4.1): sent, and not acknowledged.
    /// `direction` is the quoted packet's. The end itself counts: pure acknowledgements carry it. After a reset so does the
    /// number before, for it may be that of a SYN which only the reset has answered.
    pub fn check_quote_sequence(&self, hit: Hit, direction: Direction, sequence: u32) -> bool {
        let entry = self.entry(hit);
        let sides = entry.sides();
        let (sender, receiver) = (sides[direction as usize], sides[direction.reverse() as usize]);
        let is_reset = entry.head().state() == State::Closed;
        Seq(sequence).is_between(receiver.ack.minus(u32::from(is_reset)), sender.end)
    }

    /// Opens a connection for its first packet, which the policy has allowed.
    ///
    /// # Errors
    /// [`Reason::NoConnection`] for a TCP segment that is no SYN; [`Reason::HalfOpenSourceLimit`],
    /// [`Reason::HalfOpenLimit`] and [`Reason::TableFull`] as the head of this file says; what the rule's limits
    /// refuse.
    pub fn open(
        &self,
        worker: &mut Worker,
        hash: Hash,
        tuple: &Tuple<A>,
        opening: &Opening,
    ) -> Result<Opened, Reason> {
        let sides = match opening.segment {
            Some(segment) if tuple.protocol == protocol::TCP => {
                if !tcp::may_open(segment) {
                    return Err(Reason::NoConnection);
                }
                let (original, reply) = window::opening(segment);
                [original, reply]
            }
            None if tuple.protocol == protocol::TCP => return Err(Reason::NoConnection),
            _ => [Side::default(); 2],
        };
        for _ in 0..ATTEMPTS {
            if let Some(hit) = self.look_up(hash, tuple) {
                if !self.entry(hit).expired(millis(opening.now), &self.limits) {
                    return Ok(Opened::Existing(hit));
                }
                self.expire(worker, hit, opening.now);
                continue;
            }
            self.make_room(worker, hash, tuple.source, opening)?;
            let account = opening.limit.map_or(NO_ACCOUNT, Limit::account);
            let Some(entry) = self.take(worker) else {
                self.cancel(tuple.source, account);
                return Err(Reason::TableFull);
            };
            self.entries[entry as usize].fill(tuple, opening, first_state(tuple.protocol), sides);
            if let Some(accounts) = self.account_of.get() {
                accounts[entry as usize].store(account, Relaxed);
            }
            if let Some(hit) = self.publish(worker, hash, entry, opening.now)? {
                return Ok(Opened::New(hit));
            }
        }
        Err(Reason::TableFull)
    }

    fn take(&self, worker: &mut Worker) -> Option<u32> {
        worker.caches[A::INDEX].take(&self.entries, &self.pool, &worker.table.epochs)
    }

    /// Reserves one connection of this source, half-open as all begin.
    fn make_room(&self, worker: &mut Worker, hash: Hash, source: A, opening: &Opening) -> Result<(), Reason> {
        if let Some(sources) = &self.sources
            && !sources.add(self.key.source(source, 0), self.half_open_per_source)
        {
            return Err(Reason::HalfOpenSourceLimit);
        }
        if let Some(limit) = opening.limit
            && let Err(reason) = self.accounts.admit(limit, source, opening.now)
        {
            self.forget_half_open(source);
            return Err(reason);
        }
        self.make_place(worker, hash, opening.now).inspect_err(|_| {
            self.forget_half_open(source);
            self.accounts.release(opening.limit.map_or(NO_ACCOUNT, Limit::account), source);
        })
    }

    /// Reserves a place among the half-open connections and one in the table.
    fn make_place(&self, worker: &mut Worker, hash: Hash, now: Now) -> Result<(), Reason> {
        if !reserve(&self.half_open, self.half_open_limit) {
            self.press(now);
            self.evict(worker, hash, now, Room::HalfOpen);
            if !reserve(&self.half_open, self.half_open_limit) {
                return Err(Reason::HalfOpenLimit);
            }
        }
        if !reserve(&self.len, self.capacity) {
            self.press(now);
            self.evict(worker, hash, now, Room::Entry);
            if !reserve(&self.len, self.capacity) {
                self.half_open.fetch_sub(1, AcqRel);
                return Err(Reason::TableFull);
            }
        }
        Ok(())
    }

    /// There was no place.
    fn press(&self, now: Now) {
        let until = now.millis() + RELIEF_MS;
        if until >= self.pressed_until.load(Relaxed) + RELIEF_TICK_MS {
            self.pressed_until.store(until, Relaxed);
        }
    }

    /// Undoes `make_room`.
    fn cancel(&self, source: A, account: u32) {
        self.release_half_open(source);
        self.len.fetch_sub(1, AcqRel);
        self.accounts.release(account, source);
    }

    fn summary(&self, entry: u32, now: Now, end: Option<End>) -> Summary {
        self.entries[entry as usize].summary(&self.carried[entry as usize], now, end)
    }

    /// From now on entries remember their accounts.
    pub(super) fn keep_accounts(&self) {
        self.account_of.get_or_init(|| self.entries.iter().map(|_| AtomicU32::new(NO_ACCOUNT)).collect());
    }

    /// Moves a connection that was judged again to the account of the rule that lets it through now.
    ///
    /// It is put on the new account first, then the entry's word is swapped, then it is taken off the old account. If
    /// it was retired meanwhile, whoever did that has the old account's part, and the new one's is undone here. Should
    /// two workers judge it by different policies at once, the slower one's account may stay: counted once all the
    /// same, and put right when it is judged again.
    pub fn transfer(&self, hit: Hit, limit: Option<&Limit>) {
        let Some(accounts) = self.account_of.get() else { return };
        let word = &accounts[hit.entry as usize];
        let mut old = word.load(Acquire);
        if old == limit.map_or(NO_ACCOUNT, Limit::account) || old == RETIRED {
            return;
        }
        let source = self.entry(hit).original::<A>().0.source;
        let new = self.accounts.transfer(limit, source);
        while old != RETIRED {
            match word.compare_exchange(old, new, AcqRel, Acquire) {
                Ok(_) => return self.accounts.release(old, source),
                Err(now) => old = now,
            }
        }
        self.accounts.release(new, source);
    }

    /// A connection of this source is half-open no more. Once for every one that was.
    fn release_half_open(&self, source: A) {
        self.half_open.fetch_sub(1, AcqRel);
        self.forget_half_open(source);
    }

    fn forget_half_open(&self, source: A) {
        if let Some(sources) = &self.sources {
            sources.remove(self.key.source(source, 0));
        }
    }

    /// Puts a filled entry into the index. `None`: another one with this key was first.
    fn publish(&self, worker: &mut Worker, hash: Hash, entry: u32, now: Now) -> Result<Option<Hit>, Reason> {
        let placed = self.index.place(hash, entry).or_else(|| {
            self.evict(worker, hash, now, Room::Slot);
            self.index.place(hash, entry)
        });
        let Some((position, word)) = placed else {
            let (tuple, _) = self.entries[entry as usize].original::<A>();
            let account = self.account_of.get().map_or(NO_ACCOUNT, |of| of[entry as usize].load(Relaxed));
            worker.caches[A::INDEX].give_back(&self.entries, entry);
            self.cancel(tuple.source, account);
            return Err(Reason::TableFull);
        };
        let same_key = |a: u32, b: u32| {
            let (tuple, _) = self.entries[a as usize].original();
            self.entries[b as usize].matches(&tuple).is_some()
        };
        let cache = &mut worker.caches[A::INDEX];
        let settled = self.index.settle(hash, position, word, &same_key, &mut |e| self.retire(cache, e));
        // Made live and ended by others meanwhile: it was opened all the same, and its end was told.
        let opened = match settled {
            Settled::Live => true,
            Settled::Gone => self.entries[entry as usize].was_live(),
        };
        let word = Index::live(word).0;
        Ok(opened.then_some(Hit { entry, position, word, direction: Direction::Original }))
    }

    /// For whoever emptied the entry's word.
    fn retire(&self, cache: &mut Cache, entry: u32) {
        if self.entries[entry as usize].take_half_open() {
            self.release_half_open(self.entries[entry as usize].original::<A>().0.source);
        }
        if let Some(accounts) = self.account_of.get() {
            let account = accounts[entry as usize].swap(RETIRED, AcqRel);
            if account < RETIRED {
                self.accounts.release(account, self.entries[entry as usize].original::<A>().0.source);
            }
        }
        self.len.fetch_sub(1, AcqRel);
        cache.retire(&self.entries, entry);
    }

    /// Removes a connection; the summary goes to exactly one caller, whose reason it also is.
    pub fn remove(&self, worker: &mut Worker, hit: Hit, now: Now) -> Option<Summary> {
        self.cut(worker, hit.position, Word(hit.word), now, End::Removed)
    }

    fn cut(
        &self,
        worker: &mut Worker,
        position: Position,
        word: Word,
        now: Now,
        end: End,
    ) -> Option<Summary> {
        self.entries[word.entry() as usize].note_live();
        if !self.index.empty(position, word) {
            return None;
        }
        // Before retiring, which overwrites the start time.
        let summary = self.summary(word.entry(), now, Some(end));
        self.retire(&mut worker.caches[A::INDEX], word.entry());
        Some(summary)
    }

    /// Ends an expired connection in favour of a new one, and leaves the report to the next sweep. Without room for
    /// the report nothing is ended.
    fn expire(&self, worker: &mut Worker, hit: Hit, now: Now) {
        if worker.ended.len() < ENDED {
            let summary = self.cut(worker, hit.position, Word(hit.word), now, End::Expired);
            worker.ended.extend(summary);
        }
    }

    /// Ends one connection to make room, if there is one that may be ended. See the head of this file.
    fn evict(&self, worker: &mut Worker, hash: Hash, now: Now, room: Room) -> bool {
        let ms = millis(now);
        let mut best: Option<Candidate> = None;
        for position in self.index.candidates(hash) {
            best = best.max(self.candidate(position, ms, room));
        }
        if room != Room::Slot {
            for looked in 0..MAX_SAMPLE.min(self.slots()) {
                if looked >= SAMPLE && best.is_some() {
                    break;
                }
                let position = worker.hand as usize % self.slots();
                worker.hand = worker.hand.wrapping_add(1);
                best = best.max(self.candidate(position as Position, ms, room));
            }
        }
        let Some(Candidate { rank, position, word, head, .. }) = best else { return false };
        if worker.ended.len() == ENDED {
            return false;
        }
        let word = Word(word);
        // Closed first, so that no packet completes it meanwhile: then it would be an established one that goes.
        if rank == Rank::HalfOpen && !self.entries[word.entry() as usize].close(head) {
            return false;
        }
        let end = if rank == Rank::Expired { End::Expired } else { End::Evicted };
        let summary = self.cut(worker, position, word, now, end);
        worker.ended.extend(summary.map(|summary| Summary { state: head.state(), ..summary }));
        if summary.is_some() && end == End::Evicted {
            self.evicted.fetch_add(1, Relaxed);
        }
        summary.is_some()
    }

    fn candidate(&self, position: Position, now: u32, room: Room) -> Option<Candidate> {
        let word = self.index.word(position);
        if !word.is_live() {
            return None;
        }
        let entry = &self.entries[word.entry() as usize];
        let head = entry.head();
        if room == Room::HalfOpen && !head.counts_as_half_open() {
            return None;
        }
        let rank = match head.state() {
            _ if entry.expired(now, &self.limits) => Rank::Expired,
            state if state.is_over() => Rank::Over,
            state if state.is_half_open() => Rank::HalfOpen,
            _ => return None,
        };
        Some(Candidate { rank, idle_ms: entry.idle_ms(now), position, word: word.0, head })
    }

    /// By which judgement the connection passes.
    pub fn stamp(&self, hit: Hit) -> Stamp {
        self.entry(hit).stamp()
    }

    /// Replaces the judgement that [`Map::stamp`] returned; false, and nothing happens, when another worker did so
    /// meanwhile.
    pub fn restamp(&self, hit: Hit, old: Stamp, new: Stamp) -> bool {
        self.entry(hit).restamp(old, new)
    }

    /// The originating direction and the port by which it came.
    pub fn original(&self, hit: Hit) -> (Tuple<A>, PortId) {
        self.entry(hit).original()
    }

    /// The port by which its originator's packets come.
    #[inline]
    pub fn ingress(&self, hit: Hit) -> PortId {
        self.entry(hit).ingress()
    }

    /// Its state.
    pub fn state(&self, hit: Hit) -> State {
        self.entry(hit).head().state()
    }

    /// Checks a TCP segment against its connection and takes the state on.
    ///
    /// A SYN alone from the *responder* (simultaneous open) lets the responder speak first: the caller must have
    /// asked the policy about the reverse tuple before.
    ///
    /// # Errors
    /// [`Reason::TcpInvalid`] and [`Reason::TcpOutOfWindow`]; then nothing has changed.
    pub fn track_tcp(&self, hit: Hit, segment: &TcpSegment, now: Now) -> Result<Track, Reason> {
        let entry = self.entry(hit);
        loop {
            let head = entry.head();
            if head.is(State::Established) && tcp::is_plain(segment) {
                let (sender, receiver) = (entry.side(hit.direction), entry.side(hit.direction.reverse()));
                let after = tcp::judge_plain(&sender, &receiver, segment)?;
                entry.advance(hit.direction, &sender, &after);
                return Ok(Track::Passed);
            }
            let sides = entry.sides();
            let judged = tcp::judge(head.state(), sides, hit.direction, segment);
            if judged.is_err() && head.is_challenged_by(hit.direction.reverse()) && tcp::forgets(segment) {
                // Neither end knows it any more. The SYN will come again, and open a new one.
                self.advance(hit, head, State::Closed, now);
            }
            match judged? {
                Outcome::Pass => {
                    if tcp::may_open(segment) && !head.counts_as_half_open() {
                        entry.swap_head(head, head.challenged_by(hit.direction));
                    }
                    return Ok(Track::Aside);
                }
                Outcome::Reopen => return Ok(Track::Reopen),
                Outcome::Next(next, after) => {
                    if next == head.state() {
                        entry.set_sides(hit.direction, &sides, &after);
                        if head != head.unchallenged() {
                            entry.swap_head(head, head.unchallenged());
                        }
                        return Ok(Track::Passed);
                    }
                    // Sides first: whoever sees the new state sees the windows that belong to it. If another
                    // segment changes the state meanwhile, this one is judged again by the new state.
                    entry.set_sides(hit.direction, &sides, &after);
                    if self.advance(hit, head, next, now) {
                        return Ok(match next {
                            State::Established => Track::Established,
                            State::FinOriginal | State::FinReply => Track::Closing,
                            State::TimeWait | State::Closed => Track::Closed,
                            _ => Track::Passed,
                        });
                    }
                }
            }
        }
    }

    fn advance(&self, hit: Hit, head: Head, next: State, now: Now) -> bool {
        let entry = self.entry(hit);
        let new = head.with_state(next, head.counts_as_half_open());
        if !entry.swap_head(head, new) {
            return false;
        }
        if head.counts_as_half_open() && !new.counts_as_half_open() {
            self.release_half_open(entry.original::<A>().0.source);
        }
        entry.refresh(hit.direction, now);
        true
    }

    /// Takes a connection of UDP, ICMP echo or an opaque protocol on.
    ///
    /// # Errors
    /// [`Reason::NoConnection`] for an echo request from the responder or a reply from the originator: both ends
    /// happen to use one identifier, and this one's request is not what the policy has allowed.
    #[inline]
    pub fn track_other(&self, hit: Hit, transport: &Transport, now: Now) -> Result<Track, Reason> {
        let next = match (transport, hit.direction) {
            (Transport::Udp | Transport::Opaque, Direction::Reply) => State::UdpReplied,
            (Transport::EchoReply, Direction::Reply) => State::EchoReplied,

            (Transport::Udp | Transport::EchoRequest | Transport::Opaque, Direction::Original) => {
                return Ok(Track::Passed);
            }
            _ => return Err(Reason::NoConnection),
        };
        loop {
            let head = self.entry(hit).head();
            if head.state() == next {
                return Ok(Track::Passed);
            }
            // Evicted since it was found.
            if !head.state().is_half_open() {
                return Err(Reason::NoConnection);
            }
            if self.advance(hit, head, next, now) {
                return Ok(Track::Established);
            }
        }
    }

    /// Counts a packet that is really forwarded, `bytes` long from its IP header on, and restarts the idle time.
    #[inline]
    pub fn account(&self, hit: Hit, bytes: usize, now: Now) {
        self.count(hit, bytes);
        let entry = self.entry(hit);
        if entry.head().state().is_refreshed() {
            entry.refresh(hit.direction, now);
        }
    }

    /// As [`Map::account`], without restarting the idle time.
    pub fn count(&self, hit: Hit, bytes: usize) {
        if self.entry(hit).count(hit.direction, bytes as u32) {
            self.carry(hit);
        }
    }

    #[cold]
    pub(super) fn carry(&self, hit: Hit) {
        self.entry(hit).carry(&self.carried[hit.entry as usize], hit.direction);
    }

    pub(super) fn sweep(
        &self,
        worker: &mut Worker,
        now: Now,
        from: usize,
        count: usize,
        emit: &mut impl FnMut(Summary),
    ) {
        let is_pressed = now.millis() < self.pressed_until.load(Relaxed);
        for position in from..from + count {
            let position = position as Position;
            let word = self.index.word(position);
            if !word.is_live() {
                continue;
            }
            let entry = &self.entries[word.entry() as usize];
            if entry.expired(millis(now), &self.limits) {
                self.cut(worker, position, word, now, End::Expired).into_iter().for_each(&mut *emit);
            } else if is_pressed && entry.idle_ms(millis(now)) > PRESSED_MS {
                self.give_up(worker, position, word, now).into_iter().for_each(&mut *emit);
            } else {
                entry.hold_age(millis(now));
            }
        }
    }

    /// Ends what still waits for the other end.
    fn give_up(&self, worker: &mut Worker, position: Position, word: Word, now: Now) -> Option<Summary> {
        let entry = &self.entries[word.entry() as usize];
        let head = entry.head();
        // Closed first, as in `evict`: the answer may come just now.
        if !head.state().is_half_open() || !entry.close(head) {
            return None;
        }
        let summary = self.cut(worker, position, word, now, End::Expired)?;
        Some(Summary { state: head.state(), ..summary })
    }

    /// Consistent copies of the connections from this slot on; start with 0, go on with [`Hit::next_position`].
    /// For any thread. Connections that come or go meanwhile may be missed. To a thread without a [`Worker`] that is
    /// online, the hits are good for [`Map::remove`] only.
    pub fn summaries(&self, from: usize, now: Now) -> impl Iterator<Item = (Hit, Summary)> + '_ {
        (from..self.slots()).filter_map(move |position| {
            let position = position as Position;
            let word = self.index.word(position);
            if !word.is_live() {
                return None;
            }
            let summary = self.summary(word.entry(), now, None);
            // The copy is of one connection only if that is still there; see `Entry::fill`.
            fence(Acquire);
            let hit = Hit { entry: word.entry(), position, word: word.0, direction: Direction::Original };
            (self.index.word(position) == word).then_some((hit, summary))
        })
    }
}

/// What may be ended to make room, the best last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    HalfOpen,
    Over,
    Expired,
}

/// A connection that may be ended; ordered by rank, then by how long it has been idle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: Rank,
    idle_ms: u32,
    position: Position,
    word: u64,
    head: Head,
}

/// What is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// A place among the half-open connections.
    HalfOpen,
    /// A place in the table.
    Entry,
    /// A slot in one of the two buckets.
    Slot,
}
