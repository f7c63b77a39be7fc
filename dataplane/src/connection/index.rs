//! The index: buckets of slots, each one 64-bit word, and the protocols that change them.
//!
//! A bucket is one cache line of 8 slots. A word is `tag:16 | version:18 | entry:28 | state:2`; the state is EMPTY,
//! PENDING or LIVE, and an EMPTY word keeps only its version. A connection lies in one of two buckets that its hash
//! names: in the first while that one is not [`CROWDED`], else in the emptier one. The index has room for twice the
//! capacity, so buckets hold 4 connections on average; with the choice of the emptier of two, both being full is
//! practically impossible, nearly all look-ups end in the first bucket, and every look-up ends after 16 slots.
//!
//! **Insert.** The entry is filled, then its word is put into an empty slot as PENDING (compare-and-swap), then all
//! 16 slots are scanned for the same key ([`Index::settle`]):
//!   * another one is LIVE: ours is withdrawn;
//!   * another one is PENDING in a later position: it is killed, by compare-and-swap to EMPTY;
//!   * another one is PENDING in an earlier position: ours is withdrawn, and *that one* is settled in our turn. So
//!     nobody ever waits for another worker, which may be stopped at any instruction.
//!
//! At last PENDING → LIVE, by compare-and-swap. Whoever turns a word EMPTY, whatever it was before, owns the entry and
//! retires it; there is exactly one such.
//!
//! *Never are two entries with one key LIVE.* Take X before Y, both LIVE at once. Each was placed, and then somebody
//! scanned for it after a sequentially consistent fence that follows the placement. By the order of the two fences,
//! at least one scan saw the other's word. If the scan for Y saw X (LIVE or PENDING), Y was withdrawn. If the scan for
//! X saw Y LIVE, X was withdrawn; if it saw Y PENDING, it killed Y, or failed to because Y had become LIVE or EMPTY
//! meanwhile, and looked again. All cases contradict.
//!
//! **Removal** is LIVE → EMPTY with the next version, by compare-and-swap. **Look-up** compares the tag, then the
//! entry's key, then loads the word again. A worker's reference stays good until it calls
//! [`Worker::quiesce`](super::Worker::quiesce), because a retired entry is not reused before (see `reclaim`). For
//! threads that are not workers the version makes a stale word fail: it would have to come back after exactly a
//! multiple of 2¹⁸ reuses of that slot, with the same entry.

use std::hint::select_unpredictable;

use super::key::Hash;
use crate::sync::{AcqRel, Acquire, AtomicU64, Relaxed, SeqCst, fence};

/// Slots of a bucket: one cache line. Two under loom, whose models would not end otherwise.
pub(super) const SLOTS: usize = if cfg!(loom) { 2 } else { 8 };

/// From this many used slots on, the emptier of the two buckets is taken.
const CROWDED: usize = if cfg!(loom) { 2 } else { 6 };

/// Bits of an entry's number: 268 million.
pub(super) const ENTRY_BITS: u32 = 28;

const STATE_MASK: u64 = 0b11;
const EMPTY: u64 = 0;
const PENDING: u64 = 1;
const LIVE: u64 = 2;
const TAG_SHIFT: u32 = 48;
const VERSION_SHIFT: u32 = 30;
const VERSION_MASK: u64 = ((1 << 18) - 1) << VERSION_SHIFT;

/// A slot's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    fn is_empty(self) -> bool {
        self.0 & STATE_MASK == EMPTY
    }

    pub(super) fn is_live(self) -> bool {
        self.0 & STATE_MASK == LIVE
    }

    fn tag(self) -> u16 {
        (self.0 >> TAG_SHIFT) as u16
    }

    /// Whether it is LIVE with this hash's tag.
    #[inline]
    fn may_be(self, hash: Hash) -> bool {
        self.0 & (0xffff << TAG_SHIFT | STATE_MASK) == u64::from(hash.tag()) << TAG_SHIFT | LIVE
    }

    pub(super) fn entry(self) -> u32 {
        (self.0 >> 2) as u32 & ((1 << ENTRY_BITS) - 1)
    }

    /// What an empty word becomes.
    fn pending(self, tag: u16, entry: u32) -> Word {
        Word(u64::from(tag) << TAG_SHIFT | self.0 & VERSION_MASK | u64::from(entry) << 2 | PENDING)
    }

    fn live(self) -> Word {
        Word(self.0 & !STATE_MASK | LIVE)
    }

    /// What it becomes when its connection goes.
    fn emptied(self) -> Word {
        Word((self.0 & VERSION_MASK).wrapping_add(1 << VERSION_SHIFT) & VERSION_MASK)
    }
}

/// One cache line of words.
#[repr(align(64))]
struct Bucket([AtomicU64; SLOTS]);

/// Where a word stands: bucket × [`SLOTS`] + slot.
pub(super) type Position = u32;

/// What [`Index::settle`] did.
pub(super) enum Settled {
    /// The word is LIVE.
    Live,
    /// It is not, or no longer: another entry with its key was first.
    Gone,
}

pub(super) struct Index {
    buckets: Box<[Bucket]>,
}

impl Index {
    pub(super) fn new(capacity: u32) -> Index {
        let buckets = (2 * capacity as usize).div_ceil(SLOTS).max(2);
        let bucket = || Bucket(std::array::from_fn(|_| AtomicU64::new(0)));
        Index { buckets: afxdp::large_table(buckets, bucket) }
    }

    pub(super) fn positions(&self) -> usize {
        self.buckets.len() * SLOTS
    }

    fn slot(&self, position: Position) -> &AtomicU64 {
        let position = position as usize;
        &self.buckets[position / SLOTS].0[position % SLOTS]
    }

    pub(super) fn word(&self, position: Position) -> Word {
        Word(self.slot(position).load(Acquire))
    }

    #[inline(always)]
    fn first(&self, hash: Hash) -> usize {
        hash.first_bucket(self.buckets.len() as u32)
    }

    fn pair(&self, hash: Hash) -> [usize; 2] {
        hash.buckets(self.buckets.len() as u32)
    }

    /// Asks for the preferred bucket's line.
    #[inline]
    pub(super) fn prefetch(&self, hash: Hash) {
        afxdp::prefetch(&self.buckets[self.first(hash)]);
    }

    /// The position and entry of some LIVE word with the hash's tag in the preferred bucket, nearly always the
    /// connection's; slot 0 and its entry, of whatever state, where there is none. Without a branch that depends on the
    /// slot, so that look-ups of a burst overlap.
    #[inline(always)]
    pub(super) fn guess(&self, hash: Hash) -> (Position, u32) {
        let bucket = self.first(hash);
        let words: &[AtomicU64; SLOTS] = &self.buckets[bucket].0;
        let mut found = (0, Word(words[0].load(Relaxed)));
        for (slot, word) in (1..).zip(&words[1..]) {
            let word = Word(word.load(Relaxed));
            found = select_unpredictable(word.may_be(hash), (slot, word), found);
        }
        ((bucket * SLOTS) as Position + found.0, found.1.entry())
    }

    /// As [`Index::find`], at this position only.
    #[inline(always)]
    pub(super) fn find_at<T>(
        &self,
        position: Position,
        hash: Hash,
        found: impl FnOnce(u32) -> Option<T>,
    ) -> Option<(Position, Word, T)> {
        let cell = self.slot(position);
        let word = Word(cell.load(Acquire));
        if !word.may_be(hash) {
            return None;
        }
        let value = found(word.entry())?;
        // What was read of the entry belongs to this word only if the word still stands.
        fence(Acquire);
        (cell.load(Relaxed) == word.0).then_some((position, word, value))
    }

    /// The first LIVE word with the hash's tag whose entry `found` accepts.
    #[inline]
    pub(super) fn find<T>(
        &self,
        hash: Hash,
        mut found: impl FnMut(u32) -> Option<T>,
    ) -> Option<(Position, Word, T)> {
        self.candidates(hash).find_map(|position| self.find_at(position, hash, &mut found))
    }

    /// All positions where a connection with this hash may lie, in the order that decides between PENDING ones.
    pub(super) fn candidates(&self, hash: Hash) -> impl Iterator<Item = Position> + use<> {
        self.pair(hash).into_iter().flat_map(|b| (b * SLOTS..(b + 1) * SLOTS).map(|p| p as Position))
    }

    /// Puts a PENDING word into an empty slot; `None` when both buckets are full.
    pub(super) fn place(&self, hash: Hash, entry: u32) -> Option<(Position, Word)> {
        loop {
            let pair = self.pair(hash);
            let empty = pair.map(|b| {
                let words = self.buckets[b].0.iter().map(|cell| Word(cell.load(Acquire)));
                words.filter(|w| w.is_empty()).count()
            });
            let second = SLOTS - empty[0] >= CROWDED && empty[1] > empty[0];
            let bucket = pair[usize::from(second)];
            let mut taken = 0;
            for (slot, cell) in self.buckets[bucket].0.iter().enumerate() {
                let old = Word(cell.load(Acquire));
                if !old.is_empty() {
                    taken += 1;
                    continue;
                }
                let word = old.pending(hash.tag(), entry);
                if cell.compare_exchange(old.0, word.0, AcqRel, Relaxed).is_ok() {
                    return Some(((bucket * SLOTS + slot) as Position, word));
                }
            }
            // A failed compare-and-swap means that somebody else got on: look again, unless all is taken.
            if taken == SLOTS && empty.iter().sum::<usize>() == 0 {
                return None;
            }
        }
    }

    /// Decides the fate of a PENDING word, one's own or another's. `same_key` compares two entries; `retire` receives
    /// every entry whose word was emptied here.
    pub(super) fn settle(
        &self,
        hash: Hash,
        position: Position,
        word: Word,
        same_key: &impl Fn(u32, u32) -> bool,
        retire: &mut impl FnMut(u32),
    ) -> Settled {
        // See "never are two entries with one key LIVE" above.
        fence(SeqCst);
        let mut earlier = true;
        for other in self.candidates(hash) {
            if other == position {
                earlier = false;
                continue;
            }
            loop {
                let rival = self.word(other);
                if rival.is_empty() || rival.tag() != hash.tag() || !same_key(rival.entry(), word.entry()) {
                    break;
                }
                if rival.is_live() || earlier {
                    if self.empty(position, word) {
                        retire(word.entry());
                    }
                    if !rival.is_live() {
                        // At most 15 levels: positions only get earlier.
                        self.settle(hash, other, rival, same_key, retire);
                    }
                    return Settled::Gone;
                }
                if self.empty(other, rival) {
                    retire(rival.entry());
                    break;
                }
            }
        }
        let live = word.live();
        match self.slot(position).compare_exchange(word.0, live.0, AcqRel, Acquire) {
            Ok(_) => Settled::Live,
            // Another worker settled it for us.
            Err(now) if now == live.0 => Settled::Live,
            Err(_) => Settled::Gone,
        }
    }

    /// The LIVE form of a word that was placed.
    pub(super) fn live(word: Word) -> Word {
        word.live()
    }

    /// Empties a slot that still holds this word; true for exactly one caller, who then owns the entry.
    pub(super) fn empty(&self, position: Position, word: Word) -> bool {
        self.slot(position).compare_exchange(word.0, word.emptied().0, AcqRel, Relaxed).is_ok()
    }
}
