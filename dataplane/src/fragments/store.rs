//! One worker's fragments.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use super::arena::{Arena, SLOT, Stored};
use super::list::{Link, List, NONE};
use super::share::{Key, Share};
use crate::headers::{self, Fragment, Headers};
use crate::packet::FrameBuf;
use crate::rewrite;
use crate::topology::{Hop, Mac};
use crate::verdict::{MAX_PORTS, Now, PortId, Reason};
use crate::wire::ethernet;

/// The most pieces of one datagram: 65,535 bytes in pieces of 1,024, or in pieces as 1,280-byte links carry them.
pub const PIECES_MAX: usize = 64;
/// How long copies of a forwarded datagram's fragments are told from a new datagram, nanoseconds. An identification
/// comes round within that time at 65,536 datagrams a second; a new datagram has other contents and is none of them.
const REMEMBERED_NS: u64 = 1_000_000_000;
/// Sources are told apart by a keyed hash of so many values; those that share one share its part of the memory.
const SOURCES: usize = 4096;
/// The largest datagram, and the longest fragment, bytes.
pub const JOINED: usize = 65_535;
/// The most datagrams that end for their age in one go: more end in the next.
const EXPIRE_MAX: usize = 1024;

/// One piece. In `pieces` they stand in the order received.
#[derive(Clone, Copy, Default)]
struct Piece {
    offset: u16,
    len: u16,
    /// Where the frame is, while it is here.
    slot: u32,
    /// Of the contents, when the frame is gone.
    digest: u32,
}

impl Piece {
    fn range(&self) -> (usize, usize) {
        (self.offset.into(), usize::from(self.offset) + usize::from(self.len))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For more pieces.
    Waiting,
    /// Complete and allowed, for its next hop's Ethernet address.
    Unresolved,
    /// Overlaps: what still comes is dropped for this reason.
    Condemned(Reason),
    /// Forwarded: only copies of its pieces are known.
    Passed,
}

struct Datagram {
    key: Key,
    hash: u64,
    /// The next one in the bucket.
    next: u32,
    state: State,
    /// When its first piece came, when it became complete, or when it passed: what its state is counted from.
    since: Now,
    /// Its length, once the last piece is there, bytes.
    total: Option<u16>,
    /// How much of it is there, bytes.
    present: u32,
    /// What the first fragment says is carried.
    protocol: u8,
    source: u16,
    pieces: u8,
    list: [Piece; PIECES_MAX],
}

impl Datagram {
    fn pieces(&self) -> &[Piece] {
        &self.list[..usize::from(self.pieces)]
    }

    /// What it holds: frames, and itself.
    fn weight(&self) -> u32 {
        match self.state {
            State::Passed => 1,
            _ => u32::from(self.pieces).max(1),
        }
    }

    fn is_complete(&self) -> bool {
        self.total.is_some_and(|total| u32::from(total) == self.present)
    }

    /// Which list of states it is in.
    fn state_list(&self) -> usize {
        match self.state {
            State::Waiting | State::Condemned(_) => WAITING,
            State::Unresolved => UNRESOLVED,
            State::Passed => PASSED,
        }
    }
}

/// Lists by state, each in the order of `Datagram::since`; then those of ports, then those of sources, in the order in
/// which datagrams began.
const WAITING: usize = 0;
const UNRESOLVED: usize = 1;
const PASSED: usize = 2;
const PORTS: usize = 3;
const SOURCE_LISTS: usize = PORTS + MAX_PORTS;
const LISTS: usize = SOURCE_LISTS + SOURCES;

/// The links of all datagrams in one kind of list.
const BY_STATE: usize = 0;
const BY_PORT: usize = 1;
const BY_SOURCE: usize = 2;

/// What became of a fragment that was given to [`Fragments::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is dropped.
    Refused(Reason),
    /// It waits.
    Waits,
    /// It completes this datagram.
    Completes(u32),
}

/// Something that is to be done with what was stored, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The rewritten frame is to be sent out of this port.
    Forward(u32, PortId),
    /// The frame is dropped for this reason and now holds our own answer, to be sent out of this port.
    Answer(u32, PortId, Reason),
    /// A next hop is to be resolved.
    Resolve(PortId, IpAddr),
}

/// A complete datagram, joined: see [`headers::reassembled`].
pub struct Assembled {
    /// Its headers, or why it is malformed.
    pub headers: Result<Headers, Reason>,
    /// How its first fragment describes itself.
    pub first: Fragment,
    /// Where its end is in the buffer, bytes.
    pub end: usize,
}

/// How a fragment fits a datagram that is there.
enum Fit {
    New,
    Copy,
    Conflict(Reason),
}

/// One worker's fragments. Allocates everything at the start.
pub struct Fragments {
    share: Arc<Share>,
    worker: usize,
    buckets: Box<[u32]>,
    datagrams: Box<[Datagram]>,
    links: [Box<[Link]>; 3],
    lists: Box<[List]>,
    free_datagrams: Vec<u32>,
    arena: Arena,
    free_slots: Vec<u32>,
    /// Of what is stored, so many are already on their way out.
    releases: VecDeque<Release>,
    releasing: u32,
    unresolved: u32,
    counted: u32,
    dropped: [u32; Reason::COUNT],
}

impl Fragments {
    /// Worker number `worker`'s fragments.
    pub fn new(share: Arc<Share>, worker: usize) -> Fragments {
        let capacity = share.worker_capacity();
        let buckets = (2 * capacity as usize).next_power_of_two().max(2);
        let datagram = || Datagram {
            key: Key::default(),
            hash: 0,
            next: NONE,
            state: State::Waiting,
            since: Now(0),
            total: None,
            present: 0,
            protocol: 0,
            source: 0,
            pieces: 0,
            list: [Piece::default(); PIECES_MAX],
        };
        let links = || vec![Link::default(); capacity as usize].into_boxed_slice();
        Fragments {
            share,
            worker,
            buckets: vec![NONE; buckets].into_boxed_slice(),
            datagrams: (0..capacity).map(|_| datagram()).collect(),
            links: [links(), links(), links()],
            lists: vec![List::default(); LISTS].into_boxed_slice(),
            free_datagrams: (0..capacity).rev().collect(),
            arena: Arena::new(capacity),
            free_slots: (0..capacity).rev().collect(),
            releases: VecDeque::with_capacity(2 * capacity as usize),
            releasing: 0,
            unresolved: 0,
            counted: 0,
            dropped: [0; Reason::COUNT],
        }
    }

    /// What is shared with the other workers.
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Fragments that wait.
    pub fn held(&self) -> usize {
        self.arena.capacity() - self.free_slots.len() - self.releasing as usize
    }

    /// Datagrams that wait for more fragments or for their next hop, or that are condemned.
    pub fn datagrams(&self) -> usize {
        self.counted as usize
    }

    /// Datagrams that wait for their next hop.
    pub fn unresolved(&self) -> usize {
        self.unresolved as usize
    }

    /// The other worker that this fragment's datagram belongs to, if it is not this one's.
    pub fn belongs_to_other(&self, ingress: PortId, fragment: &Fragment) -> Option<u16> {
        let owner = self.share.owner(self.share.hash(&Key::new(ingress, fragment)));
        (owner != self.worker).then_some(owner as u16)
    }

    /// Takes in a fragment; `frame` is the one that it describes. What gives way to it is counted as dropped.
    pub fn insert(&mut self, now: Now, ingress: PortId, fragment: &Fragment, frame: &[u8]) -> Inserted {
        if self.arena.capacity() == 0 {
            return Inserted::Refused(Reason::Fragment);
        }
        if frame.len() > SLOT {
            // No port receives such a frame.
            return Inserted::Refused(Reason::FragmentLimit);
        }
        let key = Key::new(ingress, fragment);
        let hash = self.share.hash(&key);
        let found = self.find(&key, hash);
        if let Some(index) = found {
            match self.fit(index, now, fragment, frame) {
                Fit::New => {}
                Fit::Copy => return Inserted::Refused(Reason::FragmentDuplicate),
                Fit::Conflict(reason) => {
                    self.condemn(index, now, reason);
                    return Inserted::Refused(reason);
                }
            }
        }
        // A passed datagram whose identification is used again has gone by now.
        let found = found.filter(|&index| self.datagrams[index as usize].state == State::Waiting);
        let source = found
            .map_or_else(|| self.source(ingress, fragment), |index| self.datagrams[index as usize].source);
        if !self.make_room(ingress, source, found) {
            if let Some(index) = found {
                self.condemn(index, now, Reason::FragmentLimit);
            }
            return Inserted::Refused(Reason::FragmentLimit);
        }
        let index = match found {
            Some(index) => index,
            None => self.begin(now, key, hash, source),
        };
        self.add(index, fragment, frame);
        match self.datagrams[index as usize].is_complete() {
            true => Inserted::Completes(index),
            false => Inserted::Waits,
        }
    }

    /// How a fragment fits what is there of its datagram. Ends a passed datagram to which it does not belong.
    fn fit(&mut self, index: u32, now: Now, fragment: &Fragment, frame: &[u8]) -> Fit {
        let datagram = &self.datagrams[index as usize];
        let (start, end) = (usize::from(fragment.offset), fragment.offset_end());
        let content = &frame[usize::from(fragment.content)..usize::from(fragment.end)];
        let total = datagram.total.map(usize::from);
        // Of a piece with this range: it is the last one if the datagram ends with it.
        let agrees = fragment.more == (total != Some(end))
            && (fragment.offset != 0 || fragment.protocol == datagram.protocol);
        match datagram.state {
            State::Condemned(reason) => return Fit::Conflict(reason),
            State::Passed => {
                let digest = self.digest(content);
                let known = |piece: &Piece| piece.range() == (start, end) && piece.digest == digest;
                if age(now, datagram.since) < REMEMBERED_NS && agrees && datagram.pieces().iter().any(known) {
                    return Fit::Copy;
                }
                self.end(index);
                return Fit::New;
            }
            State::Waiting | State::Unresolved => {}
        }
        for piece in datagram.pieces() {
            let (from, to) = piece.range();
            if (from, to) == (start, end) {
                let same = agrees && self.content(piece) == content;
                return if same { Fit::Copy } else { Fit::Conflict(Reason::FragmentOverlap) };
            }
            let beyond = !fragment.more && to > end;
            if (start < to && from < end) || beyond {
                return Fit::Conflict(Reason::FragmentOverlap);
            }
        }
        match total {
            Some(total) if !fragment.more || end > total => Fit::Conflict(Reason::FragmentOverlap),
            _ if datagram.pieces().len() == PIECES_MAX => Fit::Conflict(Reason::FragmentLimit),
            _ => Fit::New,
        }
    }

    fn content(&self, piece: &Piece) -> &[u8] {
        self.arena.content(piece.slot)
    }

    fn digest(&self, content: &[u8]) -> u32 {
        self.share.keys.hash_one(content) as u32
    }

    fn source(&self, ingress: PortId, fragment: &Fragment) -> u16 {
        let hash = self.share.keys.hash_one((ingress, fragment.addresses.source()));
        (hash % SOURCES as u64) as u16
    }

    fn find(&self, key: &Key, hash: u64) -> Option<u32> {
        let mut at = self.buckets[self.bucket(hash)];
        while at != NONE {
            let datagram = &self.datagrams[at as usize];
            if datagram.hash == hash && datagram.key == *key {
                return Some(at);
            }
            at = datagram.next;
        }
        None
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Makes room for one more fragment, and for its datagram if none is there. False where there can be none.
    fn make_room(&mut self, ingress: PortId, source: u16, current: Option<u32>) -> bool {
        let capacity = self.arena.capacity() as u32;
        let not = current.unwrap_or(NONE);
        loop {
            let source_list = SOURCE_LISTS + usize::from(source);
            let port_list = PORTS + usize::from(ingress.0) % MAX_PORTS;
            let victim = if self.lists[source_list].weight >= capacity / 8 {
                self.lists[source_list].first_but(not, &self.links[BY_SOURCE])
            } else if self.lists[port_list].weight >= capacity / 2 {
                self.lists[port_list].first_but(not, &self.links[BY_PORT])
            } else if self.free_slots.is_empty() {
                self.oldest(&[WAITING, UNRESOLVED], not)
            } else if current.is_none() && self.free_datagrams.is_empty() {
                self.oldest(&[PASSED, WAITING, UNRESOLVED], not)
            } else {
                return true;
            };
            let Some(victim) = victim else { return false };
            self.drop_all(victim, Reason::FragmentLimit);
        }
    }

    fn oldest(&self, lists: &[usize], not: u32) -> Option<u32> {
        lists.iter().find_map(|&list| self.lists[list].first_but(not, &self.links[BY_STATE]))
    }

    fn begin(&mut self, now: Now, key: Key, hash: u64, source: u16) -> u32 {
        // `make_room` has seen to it that there is one.
        let index = self.free_datagrams.pop().unwrap_or(0);
        let bucket = self.bucket(hash);
        let datagram = &mut self.datagrams[index as usize];
        datagram.key = key;
        datagram.hash = hash;
        datagram.next = std::mem::replace(&mut self.buckets[bucket], index);
        datagram.state = State::Waiting;
        datagram.since = now;
        datagram.total = None;
        datagram.present = 0;
        datagram.pieces = 0;
        datagram.source = source;
        self.enter(index);
        index
    }

    fn add(&mut self, index: u32, fragment: &Fragment, frame: &[u8]) {
        let Some(slot) = self.free_slots.pop() else { return };
        self.arena.store(slot, frame, fragment);
        let datagram = &mut self.datagrams[index as usize];
        let len = fragment.content_len() as u16;
        datagram.list[usize::from(datagram.pieces)] = Piece { offset: fragment.offset, len, slot, digest: 0 };
        datagram.pieces += 1;
        datagram.present += u32::from(len);
        if fragment.offset == 0 {
            datagram.protocol = fragment.protocol;
        }
        if !fragment.more {
            // No longer than a packet: `headers::fragment` has seen to it.
            datagram.total = Some(fragment.offset_end() as u16);
        }
        // It keeps its place: a datagram does not grow younger by another piece. Its first one is counted already.
        if datagram.pieces > 1 {
            for list in self.list_of(index) {
                self.lists[list].weight += 1;
            }
        }
    }

    fn list_of(&self, index: u32) -> [usize; 3] {
        let datagram = &self.datagrams[index as usize];
        let port = PORTS + usize::from(datagram.key.ingress) % MAX_PORTS;
        [datagram.state_list(), port, SOURCE_LISTS + usize::from(datagram.source)]
    }

    /// The lists that a datagram is in: of its state, its port, its source. A passed one is in the first alone, because
    /// it holds nothing.
    fn memberships(&self, index: u32) -> impl Iterator<Item = (usize, usize)> + use<> {
        let kinds = if self.datagrams[index as usize].state == State::Passed { 1 } else { 3 };
        self.list_of(index).into_iter().enumerate().take(kinds)
    }

    /// Enters a datagram in its lists, behind all others.
    fn enter(&mut self, index: u32) {
        let datagram = &self.datagrams[index as usize];
        let weight = datagram.weight();
        self.unresolved += u32::from(datagram.state == State::Unresolved);
        self.counted += u32::from(datagram.state != State::Passed);
        for (kind, list) in self.memberships(index) {
            self.lists[list].push(index, &mut self.links[kind]);
            self.lists[list].weight += weight;
        }
    }

    /// Takes a datagram out of its lists, before its state or its weight changes.
    fn leave(&mut self, index: u32) {
        let datagram = &self.datagrams[index as usize];
        let weight = datagram.weight();
        self.unresolved -= u32::from(datagram.state == State::Unresolved);
        self.counted -= u32::from(datagram.state != State::Passed);
        for (kind, list) in self.memberships(index) {
            self.lists[list].remove(index, &mut self.links[kind]);
            self.lists[list].weight -= weight;
        }
    }

    fn change(&mut self, index: u32, now: Now, state: State) {
        self.leave(index);
        let datagram = &mut self.datagrams[index as usize];
        datagram.state = state;
        datagram.since = now;
        self.enter(index);
    }

    /// Drops what is there of a datagram, and from now on what comes.
    fn condemn(&mut self, index: u32, now: Now, reason: Reason) {
        if matches!(self.datagrams[index as usize].state, State::Condemned(_)) {
            return;
        }
        self.leave(index);
        self.drop_pieces(index, reason);
        let datagram = &mut self.datagrams[index as usize];
        datagram.state = State::Condemned(reason);
        datagram.since = now;
        self.enter(index);
    }

    /// Drops a datagram and forgets it.
    pub fn drop_all(&mut self, index: u32, reason: Reason) {
        self.leave(index);
        self.drop_pieces(index, reason);
        self.forget(index);
    }

    /// The datagram is in no list meanwhile.
    fn drop_pieces(&mut self, index: u32, reason: Reason) {
        let datagram = &mut self.datagrams[index as usize];
        if datagram.state != State::Passed {
            self.dropped[reason as usize] += u32::from(datagram.pieces);
            self.free_slots.extend(datagram.pieces().iter().map(|piece| piece.slot));
        }
        datagram.pieces = 0;
    }

    fn end(&mut self, index: u32) {
        self.leave(index);
        self.forget(index);
    }

    fn forget(&mut self, index: u32) {
        let Datagram { hash, next, .. } = self.datagrams[index as usize];
        let bucket = self.bucket(hash);
        let mut at = self.buckets[bucket];
        if at == index {
            self.buckets[bucket] = next;
        } else {
            while at != NONE {
                let before = &mut self.datagrams[at as usize];
                if before.next == index {
                    before.next = next;
                    break;
                }
                at = before.next;
            }
        }
        self.free_datagrams.push(index);
    }

    /// Drops what has waited for more fragments for `timeout_ns`, and forgets what has passed.
    pub fn expire(&mut self, now: Now, timeout_ns: u64) {
        for (list, limit) in [(WAITING, timeout_ns), (PASSED, REMEMBERED_NS)] {
            for _ in 0..EXPIRE_MAX {
                let Some(oldest) = self.lists[list].first() else { break };
                if age(now, self.datagrams[oldest as usize].since) < limit {
                    break;
                }
                self.drop_all(oldest, Reason::FragmentTimeout);
            }
        }
    }

    /// A datagram that has waited for its next hop for at least `limit_ns`.
    pub fn overdue(&self, now: Now, limit_ns: u64) -> Option<u32> {
        let oldest = self.lists[UNRESOLVED].first()?;
        (age(now, self.datagrams[oldest as usize].since) >= limit_ns).then_some(oldest)
    }

    /// Drops everything.
    pub fn clear(&mut self, reason: Reason) {
        for list in [WAITING, UNRESOLVED, PASSED] {
            while let Some(oldest) = self.lists[list].first() {
                self.drop_all(oldest, reason);
            }
        }
    }

    /// The datagrams that wait for their next hop, into `out`, the oldest first.
    pub fn list_unresolved(&self, out: &mut Vec<u32>) {
        out.clear();
        let mut at = self.lists[UNRESOLVED].first();
        while let Some(index) = at {
            out.push(index);
            at = self.links[BY_STATE][index as usize].after();
        }
    }

    /// Joins a complete datagram's pieces in `buffer`, which must have [`JOINED`] bytes. `None` for one that has no
    /// first piece, which a complete one has.
    pub fn assemble(&self, index: u32, buffer: &mut [u8]) -> Option<Assembled> {
        let datagram = &self.datagrams[index as usize];
        let total = usize::from(datagram.total?);
        let longest = self.pieces(index).map(Fragment::ip_len).max()?;
        let hop_limit = self.pieces(index).map(|fragment| fragment.hop_limit).min()?;
        let first = *self.pieces(index).find(|fragment| fragment.offset == 0)?;
        // So that the packet is not longer than what is there: see `headers::reassembled`.
        let start = longest.saturating_sub(total);
        let end = start + total;
        let joined = buffer.get_mut(..end)?;
        for piece in datagram.pieces() {
            let (from, to) = piece.range();
            joined.get_mut(start + from..start + to)?.copy_from_slice(self.content(piece));
        }
        let headers = headers::reassembled(joined, start, &first, longest, hop_limit);
        Some(Assembled { headers, first, end })
    }

    /// The port by which a datagram came in.
    pub fn ingress(&self, index: u32) -> PortId {
        PortId(self.datagrams[index as usize].key.ingress)
    }

    /// How a datagram's fragments describe themselves, in the order received.
    pub fn pieces(&self, index: u32) -> impl Iterator<Item = &Fragment> {
        let pieces = self.datagrams[index as usize].pieces();
        pieces.iter().filter_map(|piece| self.arena.fragment(piece.slot))
    }

    /// The MAC addresses that sent a datagram's fragments.
    pub fn senders(&self, index: u32) -> impl Iterator<Item = Mac> {
        let pieces = self.datagrams[index as usize].pieces();
        pieces.iter().filter_map(|piece| ethernet::source(self.arena.frame(piece.slot)))
    }

    /// Rewrites a datagram's fragments for their next hop and releases them in the order received.
    pub fn forward(&mut self, index: u32, now: Now, headers: &Headers, hop: &Hop) {
        self.leave(index);
        let datagram = &mut self.datagrams[index as usize];
        let mut list = datagram.list;
        let pieces = usize::from(datagram.pieces);
        for piece in &mut list[..pieces] {
            piece.digest = self.digest(self.content(piece));
            let (mut frame, fragment) = self.arena.stored(piece.slot);
            let rewritten = fragment
                .is_some_and(|fragment| rewrite::forward(frame.bytes_mut(), &fragment.headers(headers), hop));
            if rewritten {
                self.release(Release::Forward(piece.slot, hop.port));
            } else {
                // The least of their hop limits was looked at when the datagram was judged, so this does not happen.
                self.dropped[Reason::HopLimitExceeded as usize] += 1;
                self.free_slots.push(piece.slot);
            }
        }
        let datagram = &mut self.datagrams[index as usize];
        datagram.list = list;
        datagram.state = State::Passed;
        datagram.since = now;
        self.enter(index);
    }

    /// Lets a complete datagram wait for its next hop, which is to be resolved.
    pub fn hold(&mut self, index: u32, now: Now, port: PortId, next_hop: IpAddr) {
        if self.datagrams[index as usize].state != State::Unresolved {
            self.change(index, now, State::Unresolved);
            self.releases.push_back(Release::Resolve(port, next_hop));
        }
    }

    /// Drops a datagram, whose first fragment `answer` may turn into an answer out of the port that it returns.
    pub fn refuse(
        &mut self,
        index: u32,
        reason: Reason,
        answer: impl FnOnce(&mut Stored<'_>, &Fragment) -> Option<PortId>,
    ) {
        self.leave(index);
        let datagram = &mut self.datagrams[index as usize];
        if let Some(first) = datagram.pieces().iter().position(|piece| piece.offset == 0) {
            let slot = datagram.list[first].slot;
            let (mut frame, fragment) = self.arena.stored(slot);
            if let Some(port) = fragment.and_then(|fragment| answer(&mut frame, &fragment)) {
                datagram.pieces -= 1;
                datagram.list.swap(first, usize::from(datagram.pieces));
                self.release(Release::Answer(slot, port, reason));
            }
        }
        self.drop_pieces(index, reason);
        self.forget(index);
    }

    fn release(&mut self, release: Release) {
        self.releasing += 1;
        self.releases.push_back(release);
    }

    /// How much waits to be done.
    pub fn releases(&self) -> usize {
        self.releases.len()
    }

    /// The next thing to do. A frame that it names is to be given back by [`Fragments::free`].
    pub fn next_release(&mut self) -> Option<Release> {
        self.releases.pop_front()
    }

    /// A stored frame.
    pub fn frame(&self, slot: u32) -> &[u8] {
        self.arena.frame(slot)
    }

    /// Gives a released frame's memory back.
    pub fn free(&mut self, slot: u32) {
        self.releasing -= 1;
        self.free_slots.push(slot);
    }

    /// Calls `count` with every reason for which stored fragments were dropped since the last call, and how many.
    pub fn take_dropped(&mut self, mut count: impl FnMut(Reason, u32)) {
        for (&reason, dropped) in Reason::ALL.iter().zip(&mut self.dropped) {
            if *dropped > 0 {
                count(reason, std::mem::take(dropped));
            }
        }
    }
}

#[cfg(test)]
impl Fragments {
    /// Panics unless lists, table and free memory account for every datagram and every frame once.
    pub(super) fn assert_consistent(&self) {
        let capacity = self.arena.capacity();
        let mut seen = vec![0; capacity];
        self.free_slots.iter().for_each(|slot| seen[*slot as usize] += 1);
        for release in &self.releases {
            if let Release::Forward(slot, _) | Release::Answer(slot, ..) = release {
                seen[*slot as usize] += 1;
            }
        }
        let in_list = |list: usize, kind: usize| {
            let first = self.lists[list].first();
            std::iter::successors(first, move |at| self.links[kind][*at as usize].after())
        };
        let mut live = vec![0; capacity];
        for kind in [BY_STATE, BY_PORT, BY_SOURCE] {
            let lists = [0..PORTS, PORTS..SOURCE_LISTS, SOURCE_LISTS..LISTS][kind].clone();
            for list in lists {
                let mut weight = 0;
                for index in in_list(list, kind) {
                    let datagram = &self.datagrams[index as usize];
                    assert_eq!(self.list_of(index)[kind], list);
                    weight += datagram.weight();
                    if kind == BY_STATE {
                        live[index as usize] += 1;
                        assert_eq!(self.find(&datagram.key, datagram.hash), Some(index));
                        if datagram.state != State::Passed {
                            datagram.pieces().iter().for_each(|piece| seen[piece.slot as usize] += 1);
                        }
                    } else {
                        assert_ne!(datagram.state, State::Passed);
                    }
                }
                assert_eq!(self.lists[list].weight, weight);
            }
        }
        self.free_datagrams.iter().for_each(|index| live[*index as usize] += 1);
        assert!(seen.iter().all(|count| *count == 1), "every frame has one place");
        assert!(live.iter().all(|count| *count == 1), "every datagram has one place");
        assert!(self.lists[SOURCE_LISTS..].iter().all(|list| list.weight as usize <= capacity / 8));
        assert!(self.lists[PORTS..SOURCE_LISTS].iter().all(|list| list.weight as usize <= capacity / 2));
    }
}

/// How long ago, nanoseconds.
fn age(now: Now, then: Now) -> u64 {
    now.0.saturating_sub(then.0)
}
