//! How often somebody may be wrong.
//!
//! A guess costs whoever makes it: after a few wrong ones in a row the next is looked at only after a wait, which doubles.
//! Wrong passwords are counted by the user together with the address, by the address alone, so that one host cannot try one
//! password with every name, and by the user alone, for guesses from everywhere. The last of these is generous: it is the one
//! by which a stranger keeps somebody out, for [`WAIT_MAX`] at most.
//!
//! Counts are in memory and bounded. Under a flood of names and addresses the ones with the fewest wrong guesses go first.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The longest wait.
pub const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// The first wait.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Counts are kept for so long after the last wrong guess and its wait.
const MEMORY: Duration = Duration::from_secs(3600);
/// Counts at once.
const COUNTS_MAX: usize = 65_536;

/// Wrong guesses of a user from an address that cost no wait.
const FREE_TOGETHER: u32 = 5;
/// Wrong guesses from an address, whoever it claims to be.
const FREE_ADDRESS: u32 = 20;
/// Wrong guesses of a user, from everywhere.
const FREE_USER: u32 = 50;

/// The wait after so many wrong ones in a row.
pub fn wait(wrong: u32, free: u32) -> Duration {
    match wrong.checked_sub(free) {
        None | Some(0) => Duration::ZERO,
        Some(over) => WAIT_MIN.saturating_mul(1 << (over - 1).min(20)).min(WAIT_MAX),
    }
}

#[derive(Clone, Copy)]
struct Count {
    wrong: u32,
    free: u32,
    last: Instant,
}

impl Count {
    fn left(&self, now: Instant) -> Duration {
        (self.last + wait(self.wrong, self.free)).saturating_duration_since(now)
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.last + wait(self.wrong, self.free) + MEMORY
    }
}

/// The counts.
pub struct Limits {
    counts: HashMap<u64, Count>,
    /// Names of strangers are not kept, only what they hash to.
    chance: RandomState,
    capacity: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { counts: HashMap::new(), chance: RandomState::new(), capacity: COUNTS_MAX }
    }
}

/// An IPv6 host has a whole /64 to guess from.
fn place(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64 | 1,
    }
}

impl Limits {
    fn keys(&self, user: &str, address: IpAddr) -> [(u64, u32); 3] {
        let place = place(address);
        [
            (self.chance.hash_one((0, user, place)), FREE_TOGETHER),
            (self.chance.hash_one((1, place)), FREE_ADDRESS),
            (self.chance.hash_one((2, user)), FREE_USER),
        ]
    }

    /// Takes a guess in: it counts as wrong until [`Limits::right`] says otherwise, so that many at once are as many.
    ///
    /// # Errors
    ///
    /// It is too early; how long to wait.
    pub fn admit(&mut self, user: &str, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let keys = self.keys(user, address);
        let left = |key| self.counts.get(key).map_or(Duration::ZERO, |count| count.left(now));
        let longest = keys.iter().map(|(key, _)| left(key)).max().unwrap_or_default();
        if !longest.is_zero() {
            return Err(longest);
        }
        self.make_room(keys.len(), now);
        for (key, free) in keys {
            let count = self.counts.entry(key).or_insert(Count { wrong: 0, free, last: now });
            if count.is_over(now) {
                count.wrong = 0;
            }
            count.wrong = count.wrong.saturating_add(1);
            count.last = now;
        }
        Ok(())
    }

    /// A guess that was taken in was right.
    pub fn right(&mut self, user: &str, address: IpAddr) {
        let [(together, _), (place, _), (user, _)] = self.keys(user, address);
        self.counts.remove(&together);
        // Whoever has one account of his own must not use it to forget his guesses at others.
        for key in [place, user] {
            if let Some(count) = self.counts.get_mut(&key) {
                count.wrong = count.wrong.saturating_sub(1);
            }
        }
    }

    fn make_room(&mut self, wanted: usize, now: Instant) {
        if self.counts.len() + wanted <= self.capacity {
            return;
        }
        self.counts.retain(|_, count| !count.is_over(now));
        if self.counts.len() + wanted <= self.capacity {
            return;
        }
        // Half of them, so that this is not done at every guess: those that cost least to forget.
        let mut by_wrong: Vec<u32> = self.counts.values().map(|count| count.wrong).collect();
        let (_, median, _) = by_wrong.select_nth_unstable(self.capacity / 2);
        let median = *median;
        let mut surplus = self.counts.len().saturating_sub(self.capacity / 2);
        self.counts.retain(|_, count| {
            let goes = count.wrong <= median && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + last).into())
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let waits = |wrong| wait(wrong, 5).as_secs();
        assert_eq!([0, 5, 6, 7, 8, 15].map(waits), [0, 0, 1, 2, 4, 512]);
        assert_eq!([16, 100, u32::MAX].map(waits), [900; 3]);
    }

    #[test]
    fn who_guesses_waits_and_who_is_right_does_not() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        for _ in 0..6 {
            assert_eq!(limits.admit("alice", address(1), now), Ok(()));
        }
        assert_eq!(limits.admit("alice", address(1), now), Err(Duration::from_secs(1)));
        assert_eq!(limits.admit("alice", address(2), now), Ok(()), "elsewhere she may still sign in");
        assert_eq!(limits.admit("bob", address(1), now), Ok(()), "so may others here");
        let later = now + Duration::from_secs(1);
        assert_eq!(limits.admit("alice", address(1), later), Ok(()));
        limits.right("alice", address(1));
        assert_eq!(limits.admit("alice", address(1), later), Ok(()));
    }

    #[test]
    fn one_host_cannot_try_every_name() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let taken = (0..1000).filter(|n| limits.admit(&format!("user{n}"), address(1), now).is_ok()).count();
        assert_eq!(taken, FREE_ADDRESS as usize + 1);
        // Nor with an account of his own between the guesses.
        let mut limits = Limits::default();
        let taken = (0..1000).filter(|n| {
            let guess = limits.admit(&format!("user{n}"), address(1), now).is_ok();
            if limits.admit("mallory", address(1), now).is_ok() {
                limits.right("mallory", address(1));
            }
            guess
        });
        assert_eq!(taken.count(), FREE_ADDRESS as usize + 1);
        let v6 = |host: u16| IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host));
        let mut limits = Limits::default();
        let taken = (0..1000).filter(|n| limits.admit(&format!("user{n}"), v6(*n), now).is_ok()).count();
        assert_eq!(taken, FREE_ADDRESS as usize + 1, "a /64 is one host");
    }

    #[test]
    fn guesses_from_everywhere_wait_too() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let taken = (0..10_000).filter(|n| limits.admit("alice", address(*n), now).is_ok()).count();
        assert_eq!(taken, FREE_USER as usize + 1);
        assert!(limits.admit("alice", address(1), now + WAIT_MAX).is_ok(), "nobody keeps her out for longer");
    }

    #[test]
    fn a_flood_of_names_makes_no_guess_cheaper_and_takes_no_more_memory() {
        let now = Instant::now();
        let mut limits = Limits { capacity: 1024, ..Limits::default() };
        for _ in 0..7 {
            let _ = limits.admit("alice", address(1), now);
        }
        for n in 2..20_000 {
            let _ = limits.admit(&format!("user{n}"), address(n), now);
            assert!(limits.counts.len() <= 1024);
        }
        assert!(limits.admit("alice", address(1), now).is_err());
    }
}
