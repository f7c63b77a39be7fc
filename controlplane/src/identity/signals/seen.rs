//! Which events were taken before.

use std::collections::BTreeSet;

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
        self.taken = self.taken.split_off(&(since, [0; 32]));
        if self.floor.is_some_and(|floor| issued <= floor) {
            return Err(Old);
        }
        let digest = Sha256::digest(id).into();
        // Under another date it would be another token with the same id.
        if self.taken.iter().any(|(_, known)| *known == digest) {
            return Err(Old);
        }
        self.taken.insert((issued, digest));
        if self.taken.len() > SEEN_MAX
            && let Some((oldest, _)) = self.taken.pop_first()
        {
            self.floor = self.floor.max(Some(oldest));
        }
        Ok(())
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
        assert_eq!(seen.taken.len(), 1, "what nobody takes any more is forgotten");
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_counts_as_taken() {
        let mut seen = Seen::default();
        for n in 0..=SEEN_MAX as i64 {
            seen.taken.insert((1000 + n, Sha256::digest(n.to_string()).into()));
        }
        assert_eq!(seen.first_time("new", 500_000, 0), Ok(()));
        assert_eq!(seen.taken.len(), SEEN_MAX + 1, "one out for one in");
        assert_eq!(seen.first_time("0", 1000, 0), Err(Old), "it was pushed out");
        assert_eq!(seen.first_time("unknown", 999, 0), Err(Old), "nobody can say");
        assert_eq!(seen.first_time("unknown", 2_000_000, 0), Ok(()));
    }
}
