//! Which signed messages were taken before.

use std::collections::{BTreeSet, HashSet};

use sha2::{Digest, Sha256};

/// How many are remembered of one issuer. With more within a day, the older ones count as taken.
pub const SEEN_MAX: usize = 65_536;

/// It was taken before, or is too old for anybody to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Old;

/// The ids of what was taken, with when it was issued.
#[derive(Debug, Default)]
pub struct Seen {
    taken: BTreeSet<(i64, [u8; 32])>,
    /// The same without their dates.
    ids: HashSet<[u8; 32]>,
    /// Nothing issued then or before is taken any more.
    floor: Option<i64>,
}

impl Seen {
    /// Remembers an id, and forgets those issued before `since`, which nobody takes any more anyway.
    ///
    /// # Errors
    ///
    /// It was remembered already, or might have been.
    pub fn first_time(&mut self, id: &str, issued: i64, since: i64) -> Result<(), Old> {
        while let Some(oldest) = self.taken.first().copied().filter(|(issued, _)| *issued < since) {
            self.forget(oldest);
        }
        if self.floor.is_some_and(|floor| issued <= floor) {
            return Err(Old);
        }
        // Under another date it would be another message with the same id.
        let digest = Sha256::digest(id).into();
        if !self.ids.insert(digest) {
            return Err(Old);
        }
        self.taken.insert((issued, digest));
        if self.taken.len() > SEEN_MAX
            && let Some(oldest) = self.taken.first().copied()
        {
            self.forget(oldest);
            self.floor = self.floor.max(Some(oldest.0));
        }
        Ok(())
    }

    fn forget(&mut self, one: (i64, [u8; 32])) {
        self.taken.remove(&one);
        self.ids.remove(&one.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_once_whatever_its_date() {
        let mut seen = Seen::default();
        assert_eq!(seen.first_time("a", 100, 0), Ok(()));
        assert_eq!(seen.first_time("a", 100, 0), Err(Old));
        assert_eq!(seen.first_time("a", 101, 0), Err(Old));
        assert_eq!(seen.first_time("b", 100, 0), Ok(()));
        assert_eq!(seen.first_time("b", 100, 100), Err(Old), "still within the day");
        assert_eq!(seen.first_time("c", 200, 101), Ok(()));
        assert_eq!((seen.taken.len(), seen.ids.len()), (1, 1), "what nobody takes any more is forgotten");
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_counts_as_taken() {
        let mut seen = Seen::default();
        for n in 0..SEEN_MAX as i64 {
            assert_eq!(seen.first_time(&n.to_string(), 1000 + n, 0), Ok(()));
        }
        assert_eq!(seen.first_time("new", 500_000, 0), Ok(()));
        assert_eq!((seen.taken.len(), seen.ids.len()), (SEEN_MAX, SEEN_MAX), "one out for one in");
        assert_eq!(seen.first_time("0", 1000, 0), Err(Old), "it was pushed out");
        assert_eq!(seen.first_time("unknown", 999, 0), Err(Old), "nobody can say");
        assert_eq!(seen.first_time("unknown", 2_000_000, 0), Ok(()));
    }
}
