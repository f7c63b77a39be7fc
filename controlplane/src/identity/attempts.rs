//! What is remembered under a token between two requests of somebody: for a few minutes, at one address, in bounded number.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Shadow, token};
use crate::portal::wire::Secret;

/// How long an attempt may take.
pub const LASTS: Duration = Duration::from_secs(300);
/// Attempts of one address at once; the oldest goes when another one begins.
const PER_ADDRESS: usize = 8;
/// Attempts at once.
const CAPACITY: usize = 16_384;

struct Attempt<T> {
    address: IpAddr,
    begun: Instant,
    what: T,
}

/// The attempts that are not finished.
pub struct Attempts<T> {
    held: HashMap<Shadow, Attempt<T>>,
    capacity: usize,
    /// When there are too many, the oldest goes.
    is_renewed: bool,
}

impl<T> Default for Attempts<T> {
    fn default() -> Self {
        Attempts { held: HashMap::new(), capacity: CAPACITY, is_renewed: false }
    }
}

impl<T> Attempts<T> {
    /// Of programs, who go on at once: with too many the oldest goes. Whoever floods would have to begin [`CAPACITY`] of them
    /// between a program's question and its answer; if they were refused, in [`LASTS`], to keep out every program there is.
    pub fn of_programs() -> Attempts<T> {
        Attempts { is_renewed: true, ..Attempts::default() }
    }

    /// Remembers something for whoever has the token. Nothing when there are too many, of people: then others are not pushed
    /// out, for whoever floods has many addresses, and the others are who is signing in.
    pub fn begin(&mut self, address: IpAddr, what: T, now: Instant) -> Option<Secret> {
        if self.held.len() >= self.capacity {
            self.held.retain(|_, attempt| now < attempt.begun + LASTS);
        }
        let mine = self.held.iter().filter(|(_, attempt)| attempt.address == address);
        if mine.clone().count() >= PER_ADDRESS
            && let Some(oldest) = mine.min_by_key(|(_, attempt)| attempt.begun).map(|(shadow, _)| *shadow)
        {
            self.held.remove(&oldest);
        }
        if self.held.len() >= self.capacity && self.is_renewed {
            let oldest = self.held.iter().min_by_key(|(_, attempt)| attempt.begun);
            if let Some(oldest) = oldest.map(|(shadow, _)| *shadow) {
                self.held.remove(&oldest);
            }
        }
        if self.held.len() >= self.capacity {
            return None;
        }
        let token = token();
        self.held.insert(Shadow::of(&token), Attempt { address, begun: now, what });
        Some(token)
    }

    /// What was remembered, if it was for this address and not too long ago.
    pub fn find(&mut self, token: &Secret, address: IpAddr, now: Instant) -> Option<&mut T> {
        let attempt = self.held.get_mut(&Shadow::of(token))?;
        (attempt.address == address && now < attempt.begun + LASTS).then_some(&mut attempt.what)
    }

    /// Forgets it, and gives it back: it is used once.
    pub fn take(&mut self, token: &Secret, address: IpAddr, now: Instant) -> Option<T> {
        self.find(token, address, now)?;
        self.held.remove(&Shadow::of(token)).map(|attempt| attempt.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + last).into())
    }

    #[test]
    fn only_who_has_the_token_at_the_address_in_time_goes_on() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let token = attempts.begin(address(1), "alice", now).unwrap();
        assert_eq!(attempts.find(&token, address(2), now), None, "stolen, and shown elsewhere");
        assert_eq!(attempts.find(&super::token(), address(1), now), None, "guessed");
        assert_eq!(attempts.find(&token, address(1), now + LASTS), None, "too late");
        assert_eq!(attempts.find(&token, address(1), now).copied(), Some("alice"));
        assert_eq!(attempts.take(&token, address(1), now), Some("alice"));
        assert_eq!(attempts.take(&token, address(1), now), None, "once");
    }

    #[test]
    fn c7_a_flood_of_questions_kept_every_device_from_its_challenge() {
        let (mut attempts, now) = (Attempts::of_programs(), Instant::now());
        attempts.capacity = 64;
        for n in 0..1000 {
            let at = now + Duration::from_millis(n.into());
            assert!(attempts.begin(address(1 + n), (), at).is_some() && attempts.held.len() <= 64);
        }
        let at = now + Duration::from_secs(1);
        let mine = attempts.begin(address(0), (), at).expect("there is room for whoever comes");
        for n in 0..60 {
            let _ = attempts.begin(address(2000 + n), (), at + Duration::from_millis(1 + u64::from(n)));
        }
        assert_eq!(attempts.take(&mine, address(0), at + Duration::from_millis(100)), Some(()));
    }

    #[test]
    fn a_flood_pushes_out_nobody_elses() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.capacity = 64;
        let mine = attempts.begin(address(0), 0, now).unwrap();
        for n in 0..1000 {
            let _ = attempts.begin(address(1 + n % 20), n, now);
            assert!(attempts.held.len() <= 64);
        }
        assert!(attempts.find(&mine, address(0), now).is_some());
        assert!(attempts.begin(address(500), 1, now + LASTS).is_some(), "and it is over after a while");
    }
}
