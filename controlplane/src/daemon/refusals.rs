//! How many refusals are recorded one by one.
//!
//! Strangers cause them, as many as they like, and the audit log keeps a bounded number of records: without a limit whoever
//! is refused often enough pushes out what the log knows of everybody else. So they have a share of their own: the first
//! [`BURST`], and then [`PER_SECOND`]. The rest are counted, and the count is a record.

use std::time::{Duration, Instant};

use super::gateway::{Gateway, lock};
use crate::audit::{By, Entry, Kind};

/// Refusals that are recorded one by one after a while of silence.
const BURST: u32 = 1000;
/// How many more a second after that: at most 86,400 records a day, of some 2.5 million that the log keeps.
const PER_SECOND: u32 = 1;

/// Their share.
pub struct Refusals {
    left: u32,
    /// When the last one was added to what is left.
    filled: Instant,
    /// Not recorded one by one.
    more: u64,
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals { left: BURST, filled: Instant::now(), more: 0 }
    }
}

impl Refusals {
    /// Counts one. Whether it is recorded by itself.
    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let may = self.left > 0;
        self.left -= u32::from(may);
        self.more += u64::from(!may);
        may
    }

    /// How many there are to be recorded together, if it is time for that.
    fn rest(&mut self, now: Instant) -> Option<u64> {
        self.fill(now);
        if self.more == 0 || self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.more))
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        self.filled += Duration::from_secs(seconds);
        let filled = seconds.saturating_mul(PER_SECOND.into()).min(BURST.into());
        self.left = self.left.saturating_add(u32::try_from(filled).unwrap_or(BURST)).min(BURST);
    }
}

fn together(count: u64) -> Entry {
    Entry::new(Kind::SignInRefused, By::Gateway)
        .with("times", count)
        .with("why", "too many to be recorded one by one")
}

impl Gateway {
    /// Records soon that somebody was refused, by itself or together with others.
    pub fn refused(&self, entry: Entry) {
        if lock(&self.refusals).take(Instant::now()) {
            self.audit.later(entry);
        }
    }

    /// Records soon how many were refused of whom no record tells. To be called every second.
    pub fn follow_refusals(&self) {
        if let Some(count) = lock(&self.refusals).rest(Instant::now()) {
            self.audit.later(together(count));
        }
    }

    /// As [`Gateway::follow_refusals`], at the end.
    pub fn end_refusals(&self) {
        let more = std::mem::take(&mut lock(&self.refusals).more);
        if more > 0 {
            self.audit.later(together(more));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c12_strangers_pushed_out_of_the_log_what_it_knew_of_others() {
        let mut refusals = Refusals::default();
        let begin = Instant::now();
        let (mut alone, mut together, mut records) = (0, 0, 0);
        for ms in 0..600_000 {
            let now = begin + Duration::from_millis(ms);
            // A thousand a second, for ten minutes.
            let is_alone = refusals.take(now);
            let rest = if ms % 1000 == 0 { refusals.rest(now) } else { None };
            alone += u64::from(is_alone);
            together += rest.unwrap_or_default();
            records += u64::from(is_alone) + u64::from(rest.is_some());
        }
        assert!((1000..=1601).contains(&records), "{records}");
        assert_eq!(alone + together + refusals.more, 600_000, "each is counted once");
        // It has been quiet for long: they are recorded one by one again.
        let later = begin + Duration::from_secs(86_400);
        let more = refusals.more;
        assert_eq!(refusals.rest(later), Some(more).filter(|more| *more > 0));
        assert!((0..900).all(|_| refusals.take(later)));
    }
}
