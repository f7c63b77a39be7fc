//! What is kept of one connection: 96 bytes for IPv4, 128 for IPv6.
//!
//! All fields are atomics, so that whatever workers do at the same time is memory-safe. The fields of a direction
//! stand together, and only packets of that direction write them (the handshake excepted); one writer per direction
//! is the normal case, so they are plain loads and stores. When a direction moves to another queue, an update may be
//! lost: a counter misses a packet, a window edge is a segment late until the next one. The state, which decides
//! about counting half-open connections, changes by compare-and-swap only.

use std::net::IpAddr;

use super::key::{Family, Key};
use super::tcp::State;
use super::timeouts::{Limits, MAX_TIMEOUT_MS, TimeoutClass};
use super::window::{Seq, Side};
use super::{Opening, Stamp};
use crate::headers::{Tuple, protocol};
use crate::identity::Bearer;
use crate::sync::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release, fence};
use crate::verdict::{Direction, Generation, Now, PortId, RuleId};

/// Milliseconds, modulo 2³².
pub(super) fn millis(now: Now) -> u32 {
    now.millis() as u32
}

/// How long ago, in milliseconds. Another worker's clock reading may be a little ahead of ours: that is no age.
fn age(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then).cast_signed().max(0).cast_unsigned()
}

/// The oldest that a direction gets, milliseconds: beyond every time-out, and well within half the range of 32 bits.
const OLDEST_MS: u32 = MAX_TIMEOUT_MS + MAX_TIMEOUT_MS / 2;

/// Start times count 16 ms, so that 32 bits last for two years.
const START_TICK_MS: u64 = 16;

/// The changing word of an entry: `protocol | ingress << 8 | state << 16 | time-out class << 20 | half-open << 26 |
/// was live << 27 | challenged by either direction << 28 | carried of either direction << 30`. Class and state stand together, so that they are one index of
/// the limits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head(u32);

impl Head {
    const STATE: u32 = 0xf << 16;
    const CLASS: u32 = 0x3f << 20;
    const HALF_OPEN: u32 = 1 << 26;
    const WAS_LIVE: u32 = 1 << 27;
    const CHALLENGED: u32 = 3 << 28;

    fn new(protocol: u8, ingress: PortId, state: State) -> Head {
        Head(u32::from(protocol) | u32::from(ingress.0) << 8).with_state(state, true)
    }

    pub(super) fn protocol(self) -> u8 {
        self.0 as u8
    }

    pub(super) fn ingress(self) -> PortId {
        PortId((self.0 >> 8) as u8)
    }

    /// Whether this is the state, and nothing special is going on in it.
    #[inline]
    pub(super) fn is(self, state: State) -> bool {
        self.0 & (Head::STATE | Head::CHALLENGED) == (state as u32) << 16
    }

    /// A SYN of this direction has passed over the connection, and nothing since has shown that it lives.
    pub(super) fn is_challenged_by(self, direction: Direction) -> bool {
        self.0 & 1 << (28 + direction as u32) != 0
    }

    /// The direction has more bytes than [`Half`] counts.
    fn has_carried(self, direction: Direction) -> bool {
        self.0 & 1 << (30 + direction as u32) != 0
    }

    pub(super) fn challenged_by(self, direction: Direction) -> Head {
        Head(self.0 | 1 << (28 + direction as u32))
    }

    pub(super) fn unchallenged(self) -> Head {
        Head(self.0 & !Head::CHALLENGED)
    }

    pub(super) fn state(self) -> State {
        State::ALL[((self.0 & Head::STATE) as usize >> 16).min(State::COUNT - 1)]
    }

    pub(super) fn counts_as_half_open(self) -> bool {
        self.0 & Head::HALF_OPEN != 0
    }

    /// The mark of a half-open connection can be lost, never won: once taken, by
    /// [`Entry::take_half_open`] too, it is not counted again.
    pub(super) fn with_state(self, state: State, was_half_open: bool) -> Head {
        let half_open = if was_half_open && state.is_half_open() { Head::HALF_OPEN } else { 0 };
        Head(self.0 & !(Head::STATE | Head::HALF_OPEN | Head::CHALLENGED) | (state as u32) << 16 | half_open)
    }

    pub(super) fn class(self) -> TimeoutClass {
        TimeoutClass((self.0 >> 20 & 0x3f) as u8)
    }

    fn with_class(self, class: TimeoutClass) -> Head {
        Head(self.0 & !Head::CLASS | u32::from(class.0 & 0x3f) << 20)
    }

    /// For [`Limits::of`].
    #[inline]
    pub(super) fn class_and_state(self) -> usize {
        (self.0 & (Head::CLASS | Head::STATE)) as usize >> 16
    }
}

/// What packets of one direction write: 28 bytes.
#[derive(Default)]
#[repr(C)]
struct Half {
    end: AtomicU32,
    ack: AtomicU32,
    limit: AtomicU32,
    /// `largest window | scale << 16 | high bits of packets << 20`.
    window: AtomicU32,
    /// When the last packet that restarts the idle time was forwarded, milliseconds.
    seen: AtomicU32,
    /// The low 32 bits of the packet count.
    packets: AtomicU32,
    /// The low 32 bits of the byte count; the others are [`Carried`].
    bytes: AtomicU32,
}

/// How often the byte count of each direction has come round. Beside the entries, for it is looked at once in 4 GiB; good
/// only where the entry's head says so, so that a new connection need not write it.
pub(super) type Carried = [AtomicU32; 2];

/// Bits of `Half::window` that belong to the TCP window.
const WINDOW_BITS: u32 = 0x000f_ffff;
const PACKETS_SHIFT: u32 = 20;

/// Stores only what changed: a store dirties a line that the other direction's worker may be reading.
fn update(cell: &AtomicU32, value: u32) {
    if cell.load(Relaxed) != value {
        cell.store(value, Relaxed);
    }
}

impl Half {
    #[inline]
    fn side(&self) -> Side {
        let window = self.window.load(Relaxed);
        Side {
            end: Seq(self.end.load(Relaxed)),
            ack: Seq(self.ack.load(Relaxed)),
            limit: Seq(self.limit.load(Relaxed)),
            window: window as u16,
            scale: (window >> 16 & 0xf) as u8,
        }
    }

    #[inline]
    fn set_side(&self, side: &Side) {
        update(&self.end, side.end.0);
        update(&self.ack, side.ack.0);
        update(&self.limit, side.limit.0);
        let rest = self.window.load(Relaxed) & !WINDOW_BITS;
        update(&self.window, rest | u32::from(side.window) | u32::from(side.scale & 0xf) << 16);
    }

    #[inline(always)]
    fn advance(&self, before: &Side, after: &Side) {
        if after.end != before.end {
            self.end.store(after.end.0, Relaxed);
        }
        if after.ack != before.ack {
            self.ack.store(after.ack.0, Relaxed);
        }
        if after.limit != before.limit {
            self.limit.store(after.limit.0, Relaxed);
        }
        if after.window != before.window {
            self.set_side(after);
        }
    }

    /// Whether the byte count has come round.
    #[must_use]
    fn count(&self, bytes: u32) -> bool {
        let packets = self.packets.load(Relaxed).wrapping_add(1);
        self.packets.store(packets, Relaxed);
        if packets == 0 {
            let window = self.window.load(Relaxed);
            self.window.store(window.wrapping_add(1 << PACKETS_SHIFT), Relaxed);
        }
        let (bytes, has_come_round) = self.bytes.load(Relaxed).overflowing_add(bytes);
        self.bytes.store(bytes, Relaxed);
        has_come_round
    }

    fn packets(&self) -> u64 {
        let high = self.window.load(Relaxed) >> PACKETS_SHIFT;
        u64::from(high) << 32 | u64::from(self.packets.load(Relaxed))
    }

    fn reset(&self, side: &Side, now: u32) {
        self.window.store(0, Relaxed);
        self.set_side(side);
        self.seen.store(now, Relaxed);
        self.packets.store(0, Relaxed);
        self.bytes.store(0, Relaxed);
    }
}

/// All bits set stand for no rule, which no packet passes by.
const RULE_BITS: u32 = 0x00ff_ffff;
const EGRESS_SHIFT: u32 = 24;

/// Rule and egress in one word. [`compile`](crate::policy::compile()) refuses rule sets whose numbers do not fit.
fn rule_word(rule: RuleId, egress: Option<PortId>) -> u32 {
    rule.0 & RULE_BITS | u32::from(egress.map_or(u8::MAX, |port| port.0)) << EGRESS_SHIFT
}

#[inline]
fn rule_of(word: u32) -> RuleId {
    let rule = word & RULE_BITS;
    if rule == RULE_BITS { RuleId::NONE } else { RuleId(rule) }
}

#[inline]
fn egress_of(word: u32) -> Option<PortId> {
    // Ports are numbered below 64.
    let port = (word >> EGRESS_SHIFT) as u8;
    (port != u8::MAX).then_some(PortId(port))
}

/// How old a judgement is and how long it lasts, in one word.
fn judged_word(generation: Generation, valid_until: u32) -> u64 {
    u64::from(generation.0) | u64::from(valid_until) << 32
}

#[inline(always)]
fn valid_until_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// One connection. IPv4: 40 + 2 × 28 bytes, aligned so that it never touches more than two cache lines.
#[repr(C, align(32))]
pub(super) struct Entry<K> {
    key: K,
    head: AtomicU32,
    /// `generation | valid until << 32`. Generation 0 while somebody restamps the entry; generations start at 1.
    judged: AtomicU64,
    /// `rule | egress << 24`, see [`rule_word`].
    rule: AtomicU32,
    /// The start time in ticks of 16 ms; once the entry is out of the index, the next entry of its chain.
    start_or_link: AtomicU32,
    /// By whose session it passes.
    bearer: AtomicU64,
    halves: [Half; 2],
}

impl<K: Default> Default for Entry<K> {
    fn default() -> Self {
        Entry {
            key: K::default(),
            head: AtomicU32::new(0),
            judged: AtomicU64::new(0),
            rule: AtomicU32::new(0),
            start_or_link: AtomicU32::new(0),
            bearer: AtomicU64::new(Bearer::NONE.0),
            halves: Default::default(),
        }
    }
}

impl<K> Entry<K> {
    /// Asks for all cache lines of the entry.
    #[inline]
    pub(super) fn prefetch(&self) {
        afxdp::prefetch(&self.key);
        afxdp::prefetch(&self.halves[1].bytes);
    }

    /// Writes a whole new connection. Only for an entry that no worker can reach any more.
    pub(super) fn fill<A: Family<Key = K>>(
        &self,
        tuple: &Tuple<A>,
        opening: &Opening,
        state: State,
        sides: [Side; 2],
    ) where
        K: Key<A>,
    {
        // Whoever copies the entry without being a worker (`Map::summaries`) loads a field, passes an acquire fence
        // and loads the slot word again: if it saw one of the stores below, it sees that the old word is gone.
        fence(Release);
        self.key.store(tuple);
        self.head.store(Head::new(tuple.protocol, opening.ingress, state).0, Relaxed);
        self.rule.store(rule_word(opening.rule, Some(opening.egress)), Relaxed);
        self.judged.store(judged_word(opening.generation, opening.valid_until), Relaxed);
        self.bearer.store(opening.bearer.0, Relaxed);
        self.start_or_link.store((opening.now.millis() / START_TICK_MS) as u32, Relaxed);
        for (half, side) in self.halves.iter().zip(&sides) {
            half.reset(side, millis(opening.now));
        }
    }

    /// Which way a packet with this tuple goes, or `None` when it is not of this connection.
    #[inline(always)]
    pub(super) fn matches<A: Family<Key = K>>(&self, tuple: &Tuple<A>) -> Option<(Head, Direction)>
    where
        K: Key<A>,
    {
        let direction = self.key.direction(tuple)?;
        let head = self.head();
        (head.protocol() == tuple.protocol).then_some((head, direction))
    }

    pub(super) fn original<A: Family<Key = K>>(&self) -> (Tuple<A>, PortId)
    where
        K: Key<A>,
    {
        let head = self.head();
        (self.key.load(head.protocol()), head.ingress())
    }

    pub(super) fn ingress(&self) -> PortId {
        self.head().ingress()
    }

    pub(super) fn head(&self) -> Head {
        Head(self.head.load(Acquire))
    }

    pub(super) fn swap_head(&self, from: Head, to: Head) -> bool {
        self.head.compare_exchange(from.0, to.0, AcqRel, Acquire).is_ok()
    }

    /// Has the entry live by the limits of this class from now on.
    pub(super) fn set_class(&self, class: TimeoutClass) {
        loop {
            let head = self.head();
            if head.class() == class || self.swap_head(head, head.with_class(class)) {
                return;
            }
        }
    }

    /// Notes, before a LIVE word is emptied, that it was live: see [`Entry::was_live`].
    pub(super) fn note_live(&self) {
        self.head.fetch_or(Head::WAS_LIVE, AcqRel);
    }

    /// Whether the entry was a connection before its word was emptied. Its opener cannot tell otherwise, when another
    /// worker made it live and a third one ended it before the opener looked.
    pub(super) fn was_live(&self) -> bool {
        self.head().0 & Head::WAS_LIVE != 0
    }

    /// Closes a half-open connection that is about to be evicted; its mark stays, for whoever retires it. False when
    /// the connection got on meanwhile.
    pub(super) fn close(&self, head: Head) -> bool {
        self.swap_head(head, Head(head.with_state(State::Closed, false).0 | head.0 & Head::HALF_OPEN))
    }

    /// Takes the mark of a half-open connection; true for exactly one caller, and only while it is one.
    pub(super) fn take_half_open(&self) -> bool {
        self.head.fetch_and(!Head::HALF_OPEN, AcqRel) & Head::HALF_OPEN != 0
    }

    #[inline]
    pub(super) fn side(&self, direction: Direction) -> Side {
        self.halves[direction as usize].side()
    }

    pub(super) fn sides(&self) -> [Side; 2] {
        [self.halves[0].side(), self.halves[1].side()]
    }

    /// Stores what has changed of a direction's side since it was `before`.
    #[inline(always)]
    pub(super) fn advance(&self, direction: Direction, before: &Side, after: &Side) {
        self.halves[direction as usize].advance(before, after);
    }

    /// Stores the sender's side, and the receiver's only where it changed, as it does in the handshake.
    pub(super) fn set_sides(&self, sender: Direction, before: &[Side; 2], after: &[Side; 2]) {
        self.halves[sender as usize].set_side(&after[sender as usize]);
        let receiver = sender.reverse() as usize;
        if before[receiver] != after[receiver] {
            self.halves[receiver].set_side(&after[receiver]);
        }
    }

    /// Restarts the idle time.
    pub(super) fn refresh(&self, direction: Direction, now: Now) {
        update(&self.halves[direction as usize].seen, millis(now));
    }

    /// True: the count has come round, which [`Entry::carry`] is to note.
    #[must_use]
    pub(super) fn count(&self, direction: Direction, bytes: u32) -> bool {
        self.halves[direction as usize].count(bytes)
    }

    pub(super) fn carry(&self, carried: &Carried, direction: Direction) {
        let word = &carried[direction as usize];
        let before = if self.head().has_carried(direction) { word.load(Relaxed) } else { 0 };
        word.store(before.wrapping_add(1), Relaxed);
        self.head.fetch_or(1 << (30 + direction as u32), AcqRel);
    }

    /// Milliseconds since the last packet, of either direction, that restarts the idle time.
    #[inline]
    pub(super) fn idle_ms(&self, now: u32) -> u32 {
        let [a, b] = &self.halves;
        age(now, a.seen.load(Relaxed)).min(age(now, b.seen.load(Relaxed)))
    }

    /// Keeps the age of a direction that has long been silent from coming round: half the range of 32-bit
    /// milliseconds (24 days) later it would look new again. To be called more often than that.
    pub(super) fn hold_age(&self, now: u32) {
        for half in &self.halves {
            let seen = half.seen.load(Relaxed);
            if age(now, seen) > OLDEST_MS {
                // Not over a packet that came just now.
                let _ = half.seen.compare_exchange(seen, now.wrapping_sub(OLDEST_MS), Relaxed, Relaxed);
            }
        }
    }

    #[inline]
    pub(super) fn expired(&self, now: u32, limits: &Limits) -> bool {
        self.expired_as(self.head(), now, limits)
    }

    /// As [`Entry::expired`], where the head has been loaded.
    #[inline(always)]
    pub(super) fn expired_as(&self, head: Head, now: u32, limits: &Limits) -> bool {
        self.idle_ms(now) > limits.of(head.class_and_state())
    }

    /// The judgement it was let through by. Generation 0, which no policy has, while somebody is changing it.
    #[inline(always)]
    pub(super) fn stamp(&self) -> Stamp {
        let judged = self.judged.load(Acquire);
        let by = self.bearer.load(Acquire);
        // After the bearer: whoever sees a bearer sees its rule.
        let rule = self.rule.load(Relaxed);
        fence(Acquire);
        // Judgements of one generation that differ in more than the egress differ in their bearer. In this order: whoever
        // sees the word with which a restamp ended sees the bearer that it wrote.
        let is_stable = self.judged.load(Acquire) == judged && self.bearer.load(Relaxed) == by;
        Stamp {
            generation: Generation(if is_stable { judged as u32 } else { 0 }),
            rule: rule_of(rule),
            egress: egress_of(rule),
            valid_until: valid_until_of(judged),
            bearer: Bearer(by),
        }
    }

    /// The bearer of [`Entry::stamp`], as of some time.
    #[inline]
    pub(super) fn bearer(&self) -> Bearer {
        Bearer(self.bearer.load(Relaxed))
    }

    /// The rule of [`Entry::stamp`], as of some time.
    #[inline]
    pub(super) fn rule(&self) -> RuleId {
        rule_of(self.rule.load(Relaxed))
    }

    /// Replaces the judgement `old` as a whole; not at all when somebody else did or is doing so. Judgements of one
    /// generation that differ in more than the egress differ in their bearer, so that readers can tell them apart.
    pub(super) fn restamp(&self, old: Stamp, new: Stamp) -> bool {
        debug_assert!(
            old.generation != new.generation
                || old.bearer != new.bearer
                || old == Stamp { egress: old.egress, ..new }
        );
        let (was, held) =
            (judged_word(old.generation, old.valid_until), judged_word(Generation(0), old.valid_until));
        if old.generation.0 == 0 || self.judged.compare_exchange(was, held, AcqRel, Relaxed).is_err() {
            return false;
        }
        if self.bearer() != old.bearer {
            // Somebody has replaced it by one of the same generation.
            self.judged.store(was, Release);
            return false;
        }
        // A reader that sees one of the next stores also sees, after its fence, that the judgement is not `old`.
        fence(Release);
        self.rule.store(rule_word(new.rule, new.egress), Relaxed);
        self.bearer.store(new.bearer.0, Release);
        self.judged.store(judged_word(new.generation, new.valid_until), Release);
        true
    }

    pub(super) fn link(&self) -> u32 {
        self.start_or_link.load(Relaxed)
    }

    pub(super) fn set_link(&self, next: u32) {
        self.start_or_link.store(next, Relaxed);
    }

    pub(super) fn summary<A: Family<Key = K>>(&self, carried: &Carried, now: Now, end: Option<End>) -> Summary
    where
        K: Key<A>,
    {
        let head = self.head();
        let tuple = self.key.load(head.protocol());
        let [a, b] = &self.halves;
        let bytes = |direction: Direction| {
            let high =
                if head.has_carried(direction) { carried[direction as usize].load(Relaxed) } else { 0 };
            u64::from(high) << 32 | u64::from(self.halves[direction as usize].bytes.load(Relaxed))
        };
        Summary {
            tuple: Tuple {
                source: tuple.source.into(),
                destination: tuple.destination.into(),
                source_port: tuple.source_port,
                destination_port: tuple.destination_port,
                protocol: tuple.protocol,
            },
            ingress: head.ingress(),
            stamp: self.stamp(),
            state: head.state(),
            opened_ms: u64::from(self.start_or_link.load(Relaxed)) * START_TICK_MS,
            idle_ms: self.idle_ms(millis(now)),
            packets: [a.packets(), b.packets()],
            bytes: [bytes(Direction::Original), bytes(Direction::Reply)],
            end,
        }
    }
}

/// The state in which a connection of this protocol starts.
pub(super) fn first_state(protocol: u8) -> State {
    match protocol {
        protocol::TCP => State::SynSent,
        protocol::ICMP | protocol::ICMPV6 => State::EchoUnreplied,
        // UDP, and what a rule opens as a whole: tunnels, IPsec, SCTP. All that is seen of either are its directions.
        _ => State::UdpUnreplied,
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its idle time ran out.
    Expired,
    /// It was half-open or over, and made room for a new one.
    Evicted,
    /// [`Map::remove`](super::Map::remove): the caller knows why.
    Removed,
}

/// A copy of a connection, for events and listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The originating direction.
    pub tuple: Tuple<IpAddr>,
    /// The port by which the first packet came.
    pub ingress: PortId,
    /// The judgement that let it through last. Generation 0 when the copy was taken while it changed.
    pub stamp: Stamp,
    /// Its state.
    pub state: State,
    /// When it was opened: milliseconds on the clock of [`Now`], to 16 ms, modulo 795 days.
    pub opened_ms: u64,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
    /// Packets forwarded, by direction (modulo 2⁴⁴).
    pub packets: [u64; 2],
    /// Bytes of the IP packets forwarded, by direction.
    pub bytes: [u64; 2],
    /// Why it ended; `None` for a live one.
    pub end: Option<End>,
}
