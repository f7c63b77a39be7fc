//! How many connections each source has: a bounded table of exact counts that all workers share, lock-free.
//!
//! A word is `tag:36 | count:28`, 0 when it is empty; a bucket is one cache line of 8 words. A source's count is the
//! *sum* of the words with its tag in the two buckets that its hash names. Normally that is one word. Two workers
//! that count the same new source at the same instant may each take an empty word of their own; both count, and the
//! second one goes when its count does.
//!
//! * **Adding** increments a word with the tag, or fills an empty one, by compare-and-swap; then comes a sequentially
//!   consistent fence and the sum. Above the limit the increment is taken back and the source refused.
//!   *Never are more granted than the limit allows.* Of those granted and not yet removed, take the one whose fence
//!   is last: its sum sees the increments of all the others, so it was at most the limit. Two that come at once for
//!   the last place may both be refused: the count is exact, or one too low for an instant.
//! * **Removing** decrements any word with the tag: units are alike. The sum is at least one, the caller's own, so there
//!   is such a word; a pass that misses it met another worker's change, and looks again.
//!
//! A word says all there is to it, so that a compare-and-swap after any number of changes in between is still right.
//!
//! **When there is no room.** Every source in the table has a connection, and the table has four words for each
//! connection that there may be. So buckets hold two words on average, and with the choice of the emptier of two both
//! being full does not happen; were it to, the source would be refused. Two sources share a count when their keyed
//! hashes agree in 36 bits and a bucket: less than once in 2³⁴ pairs.

use super::key::Hash;
use crate::sync::{AcqRel, Acquire, AtomicU64, Relaxed, SeqCst, fence, spin_loop};

/// Words of a bucket. Two under loom, whose models would not end otherwise.
const SLOTS: usize = if cfg!(loom) { 2 } else { 8 };

/// Words for each connection.
const WORDS_PER_CONNECTION: usize = 4;

const COUNT_BITS: u32 = 28;

/// The most that one source can have: as many as the largest tables hold together.
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// Passes of removing. Each that finds nothing means that others got on; so many never happen.
const PASSES: usize = 1 << 16;

#[repr(align(64))]
struct Bucket([AtomicU64; SLOTS]);

/// See the head of this file.
pub(super) struct Sources {
    buckets: Box<[Bucket]>,
}

/// What a word holds of a hash, in place: low bits of both halves, because the high ones choose the buckets.
fn tag(hash: Hash) -> u64 {
    let Hash(bits) = hash;
    ((bits >> 32 & 0x3_ffff) << 18 | bits & 0x3_ffff) << COUNT_BITS
}

fn count(word: u64) -> u64 {
    word & COUNT_MAX
}

impl Sources {
    /// With room for the sources of so many connections.
    pub(super) fn new(connections: u32) -> Sources {
        let buckets = (WORDS_PER_CONNECTION * connections as usize).div_ceil(SLOTS).max(2);
        let bucket = || Bucket(std::array::from_fn(|_| AtomicU64::new(0)));
        Sources { buckets: (0..buckets).map(|_| bucket()).collect() }
    }

    /// Bytes that it has allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    fn pair(&self, hash: Hash) -> [&Bucket; 2] {
        hash.buckets(self.buckets.len() as u32).map(|bucket| &self.buckets[bucket])
    }

    /// Counts one more connection of this source, unless it has `limit` already, or there is no room for it.
    pub(super) fn add(&self, hash: Hash, limit: u32) -> bool {
        // A flood that is refused writes nothing.
        if self.count(hash) >= u64::from(limit) || !self.increment(hash) {
            return false;
        }
        fence(SeqCst);
        if self.count(hash) <= u64::from(limit) {
            return true;
        }
        self.remove(hash);
        false
    }

    /// How many this source has. Exact whenever nobody is adding or removing.
    pub(super) fn count(&self, hash: Hash) -> u64 {
        let tag = tag(hash);
        let words = self.pair(hash).into_iter().flat_map(|bucket| &bucket.0);
        words.map(|word| word.load(Relaxed)).filter(|word| word & !COUNT_MAX == tag).map(count).sum()
    }

    fn increment(&self, hash: Hash) -> bool {
        let tag = tag(hash);
        'again: loop {
            let mut empty = [None, None];
            let mut used = [0; 2];
            for (number, bucket) in self.pair(hash).into_iter().enumerate() {
                for cell in &bucket.0 {
                    let word = cell.load(Acquire);
                    if count(word) == 0 {
                        empty[number] = empty[number].or(Some(cell));
                        continue;
                    }
                    used[number] += 1;
                    if word & !COUNT_MAX != tag {
                        continue;
                    }
                    if count(word) == COUNT_MAX {
                        return false;
                    }
                    if cell.compare_exchange(word, word + 1, AcqRel, Relaxed).is_ok() {
                        return true;
                    }
                    continue 'again;
                }
            }
            let emptier = usize::from(used[1] < used[0]);
            let Some(cell) = empty[emptier] else { return false };
            if cell.compare_exchange(0, tag | 1, AcqRel, Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// Counts one connection less. Only for one that was added.
    pub(super) fn remove(&self, hash: Hash) {
        let tag = tag(hash);
        for _ in 0..PASSES {
            for cell in self.pair(hash).into_iter().flat_map(|bucket| &bucket.0) {
                let word = cell.load(Acquire);
                if count(word) == 0 || word & !COUNT_MAX != tag {
                    continue;
                }
                let less = if count(word) == 1 { 0 } else { word - 1 };
                if cell.compare_exchange(word, less, AcqRel, Relaxed).is_ok() {
                    return;
                }
            }
            spin_loop();
        }
        debug_assert!(false, "a source was removed that was never added");
    }
}

#[cfg(all(not(loom), test))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn hash(source: u64) -> Hash {
        // Spread as the keyed hash spreads them (splitmix64, Steele et al. 2014).
        let mut x = (source + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Hash(x ^ x >> 31)
    }

    #[test]
    fn a_source_gets_exactly_its_limit_and_takes_nothing_from_another() {
        let sources = Sources::new(64);
        for source in 0..6 {
            let granted = (0..20).filter(|_| sources.add(hash(source), 9)).count();
            assert_eq!((granted, sources.count(hash(source))), (9, 9));
        }
        sources.remove(hash(3));
        assert!(sources.add(hash(3), 9) && !sources.add(hash(3), 9));
        for source in 0..6 {
            (0..9).for_each(|_| sources.remove(hash(source)));
            assert_eq!(sources.count(hash(source)), 0);
        }
        assert!(sources.buckets.iter().flat_map(|bucket| &bucket.0).all(|word| word.load(Relaxed) == 0));
    }

    #[test]
    fn a_different_source_for_every_connection_finds_room_at_any_size() {
        for connections in [1, 2, 3, 10, 1000, 20_000, 100_000] {
            let sources = Sources::new(connections);
            let refused = (0..u64::from(connections)).filter(|&source| !sources.add(hash(source), 1)).count();
            assert_eq!(refused, 0, "of {connections}");
        }
    }

    #[test]
    fn with_no_room_at_all_a_source_is_refused_and_room_that_comes_free_is_found() {
        let sources = Sources::new(1);
        let known: Vec<u64> = (0..1000).filter(|&source| sources.add(hash(source), 1)).collect();
        assert_eq!(known.len(), 2 * SLOTS);
        sources.remove(hash(known[5]));
        assert!(sources.add(hash(5000), 1) && !sources.add(hash(5001), 1));
    }

    #[test]
    fn many_threads_never_hold_more_than_the_limit_and_leave_nothing() {
        const LIMIT: u32 = 3;
        let sources = Sources::new(4);
        let held = [(); 4].map(|()| AtomicU32::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (sources, held) = (&sources, &held);
                scope.spawn(move || {
                    for round in 0..20_000u64 {
                        let source = (round + thread) % 4;
                        if sources.add(hash(source), LIMIT) {
                            let now = held[source as usize].fetch_add(1, Ordering::SeqCst) + 1;
                            assert!(now <= LIMIT);
                            held[source as usize].fetch_sub(1, Ordering::SeqCst);
                            sources.remove(hash(source));
                        }
                    }
                });
            }
        });
        assert!((0..4).all(|source| sources.count(hash(source)) == 0));
    }
}
