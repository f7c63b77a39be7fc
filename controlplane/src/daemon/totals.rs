//! What every rule did, by its name, which is its identity: over all generations of this run, and the runs before it.
//!
//! The workers count in rows of their own, by the numbers of the generation in force. When it retires its counts are
//! folded into the totals here, and from time to time all is written to the state directory ([`super::counters`]).

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use bulkhead_dataplane::counters::{RuleCounters, RuleHits};
use bulkhead_dataplane::verdict::{Now, RuleId};

use super::generations::Names;
use super::lifecycle::since_1970_ms;
use crate::store::{Counted, Counters};

/// So many rules that no policy in force has are remembered.
const GONE_KEPT: usize = 65_536;
/// For so long they are: 90 days.
const GONE_MS: u64 = 90 * 86_400_000;
/// When the wall clock was set by more than this, it is believed anew.
const SET: Duration = Duration::from_secs(1);

/// The wall clock beside the packet path's.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    now: Now,
    wall: SystemTime,
}

impl Clocks {
    /// Both at one moment.
    pub fn new(now: Now, wall: SystemTime) -> Clocks {
        Clocks { now, wall }
    }

    /// Milliseconds since 1970 at a reading of the packet path's clock.
    pub fn ms(&self, at: Now) -> u64 {
        since_1970_ms(self.wall(at))
    }

    fn wall(&self, at: Now) -> SystemTime {
        let after = Duration::from_nanos(at.0.saturating_sub(self.now.0));
        let before = Duration::from_nanos(self.now.0.saturating_sub(at.0));
        (self.wall + after).checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Looks at both again. Small differences are left alone, so that one moment has one time.
    pub fn follow(&mut self, now: Now, wall: SystemTime) {
        let expected = self.wall(now);
        let apart = expected.duration_since(wall).or_else(|_| wall.duration_since(expected));
        if apart.unwrap_or_default() > SET {
            *self = Clocks { now, wall };
        }
    }
}

/// The totals.
#[derive(Debug)]
pub struct Totals {
    counters: Counters,
}

impl Totals {
    /// Of a gateway that begins with these rules.
    pub fn new(names: &Names, now_ms: u64) -> Totals {
        let mut totals = Totals { counters: Counters { since_ms: now_ms, ..Counters::default() } };
        totals.enter(names, now_ms);
        totals
    }

    /// Since when there are counts, milliseconds since 1970; how often some are missing, and when that was last.
    pub fn observed(&self) -> (u64, u64, Option<u64>) {
        (self.counters.since_ms, self.counters.gaps, self.counters.last_gap_ms)
    }

    fn enter(&mut self, names: &Names, now_ms: u64) {
        for name in &names.rules {
            match self.counters.rules.get_mut(name) {
                Some(Counted { gone_ms: None, .. }) => {}
                Some(back) => (back.since_ms, back.gone_ms) = (now_ms, None),
                None => {
                    let new = Counted { first_ms: now_ms, since_ms: now_ms, ..Counted::default() };
                    self.counters.rules.insert(name.clone(), new);
                }
            }
        }
    }

    /// Adds the final counters of a policy that retired now; `next` are the rules of the one after it.
    pub fn fold(
        &mut self,
        names: &Names,
        counters: &RuleCounters,
        next: &Names,
        clocks: &Clocks,
        now_ms: u64,
    ) {
        for (name, id) in names.rules.iter().zip((0..).map(RuleId)) {
            let hits = counters.read(id);
            if hits != RuleHits::default() {
                add(self.counters.rules.entry(name.clone()).or_default(), &hits, clocks);
            }
        }
        add(&mut self.counters.default_deny, &counters.read(RuleId::NONE), clocks);
        if names != next {
            let kept: HashSet<&str> = next.rules.iter().map(String::as_str).collect();
            for name in names.rules.iter().filter(|name| !kept.contains(name.as_str())) {
                if let Some(gone) = self.counters.rules.get_mut(name) {
                    gone.gone_ms = Some(now_ms);
                }
            }
            self.enter(next, now_ms);
        }
        self.prune(now_ms);
    }

    /// Forgets rules that are gone for long, and of too many those that went first.
    fn prune(&mut self, now_ms: u64) {
        let rules = &mut self.counters.rules;
        let mut gone: Vec<u64> = rules.values().filter_map(|counted| counted.gone_ms).collect();
        let mut oldest = now_ms.saturating_sub(GONE_MS);
        if gone.len() > GONE_KEPT {
            gone.sort_unstable();
            oldest = oldest.max(gone[gone.len() - GONE_KEPT]);
        }
        rules.retain(|_, counted| counted.gone_ms.is_none_or(|gone| gone >= oldest));
        // Many may have gone at once.
        let mut left = rules.values().filter(|counted| counted.gone_ms.is_some()).count();
        rules.retain(|_, counted| {
            let forget = left > GONE_KEPT && counted.gone_ms == Some(oldest);
            left -= usize::from(forget);
            !forget
        });
    }

    /// A rule's counts; `counters` are those of the policy in force. `None` is the default deny.
    pub fn read(
        &self,
        name: Option<&str>,
        rule: RuleId,
        counters: &RuleCounters,
        clocks: &Clocks,
    ) -> Counted {
        let before = match name {
            None => Some(&self.counters.default_deny),
            Some(name) => self.counters.rules.get(name),
        };
        let mut counted = before.cloned().unwrap_or_default();
        add(&mut counted, &counters.read(rule), clocks);
        counted
    }

    /// Everything, with the counters of the policy in force.
    pub fn all(&mut self, names: &Names, counters: &RuleCounters, clocks: &Clocks, now_ms: u64) -> Counters {
        self.prune(now_ms);
        let mut all = self.counters.clone();
        for (name, id) in names.rules.iter().zip((0..).map(RuleId)) {
            if let Some(counted) = all.rules.get_mut(name) {
                add(counted, &counters.read(id), clocks);
            }
        }
        add(&mut all.default_deny, &counters.read(RuleId::NONE), clocks);
        all
    }

    /// Adds what earlier runs have counted.
    pub fn recall(&mut self, earlier: Counters, now_ms: u64) {
        let counters = &mut self.counters;
        counters.since_ms = counters.since_ms.min(earlier.since_ms);
        counters.gaps += earlier.gaps;
        counters.last_gap_ms = counters.last_gap_ms.or(earlier.last_gap_ms);
        if !earlier.ended {
            counters.gaps += 1;
            counters.last_gap_ms = Some(now_ms);
        }
        merge(&mut counters.default_deny, &earlier.default_deny);
        for (name, before) in earlier.rules {
            match counters.rules.get_mut(&name) {
                Some(counted) => {
                    merge(counted, &before);
                    counted.first_ms = counted.first_ms.min(before.first_ms);
                    if before.gone_ms.is_none() {
                        counted.since_ms = counted.since_ms.min(before.since_ms);
                    }
                }
                None => {
                    let gone_ms = before.gone_ms.or(Some(now_ms));
                    counters.rules.insert(name, Counted { gone_ms, ..before });
                }
            }
        }
        self.prune(now_ms);
    }
}

fn add(counted: &mut Counted, hits: &RuleHits, clocks: &Clocks) {
    let RuleHits { packets, bytes, connections, last_hit } = *hits;
    let hit_ms = last_hit.map(|at| clocks.ms(at));
    merge(counted, &Counted { packets, bytes, connections, hit_ms, ..Counted::default() });
}

/// Adds the counts, not the times of being in force.
fn merge(counted: &mut Counted, other: &Counted) {
    counted.packets = counted.packets.saturating_add(other.packets);
    counted.bytes = counted.bytes.saturating_add(other.bytes);
    counted.connections = counted.connections.saturating_add(other.connections);
    counted.hit_ms = counted.hit_ms.max(other.hit_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds since 1970 at the packet path's 0.
    const ZERO_MS: u64 = 1_700_000_000_000;
    const DAY_MS: u64 = 86_400_000;

    fn clocks() -> Clocks {
        Clocks::new(Now(0), SystemTime::UNIX_EPOCH + Duration::from_millis(ZERO_MS))
    }

    fn names(rules: &[&str]) -> Names {
        Names { rules: rules.iter().map(|&rule| rule.to_owned()).collect() }
    }

    /// So long after the start.
    fn seconds(s: u64) -> Now {
        Now(s * 1_000_000_000)
    }

    fn read(totals: &Totals, name: &str, id: u32, counters: &RuleCounters) -> Counted {
        totals.read(Some(name), RuleId(id), counters, &clocks())
    }

    #[test]
    fn counters_follow_a_rule_s_name_and_not_its_number() {
        let (old, new) = (names(&["b", "c"]), names(&["a", "b"]));
        let mut totals = Totals::new(&old, ZERO_MS);
        let before = RuleCounters::new(2, 2);
        before.hit(0, RuleId(0), 100, seconds(5));
        before.hit(1, RuleId(0), 10, seconds(6));
        before.open(0, RuleId(0));
        before.hit(0, RuleId(1), 1, seconds(1));
        before.hit(0, RuleId::NONE, 40, seconds(9));
        totals.fold(&old, &before, &new, &clocks(), ZERO_MS + 10_000);
        let after = RuleCounters::new(2, 2);
        after.hit(0, RuleId(1), 1000, seconds(20));
        let expected = Counted {
            packets: 3,
            bytes: 1110,
            connections: 1,
            hit_ms: Some(ZERO_MS + 20_000),
            first_ms: ZERO_MS,
            since_ms: ZERO_MS,
            gone_ms: None,
        };
        assert_eq!(read(&totals, "b", 1, &after), expected);
        let new_ms = ZERO_MS + 10_000;
        let unused = Counted { first_ms: new_ms, since_ms: new_ms, ..Counted::default() };
        assert_eq!(read(&totals, "a", 0, &after), unused);
        assert_eq!(totals.read(None, RuleId::NONE, &after, &clocks()).packets, 1);
        // A rule that left and comes back goes on where it was, and is in force since it came back.
        totals.fold(&new, &after, &old, &clocks(), ZERO_MS + 30_000);
        let again = RuleCounters::new(2, 2);
        let back = read(&totals, "c", 1, &again);
        assert_eq!((back.packets, back.first_ms, back.since_ms), (1, ZERO_MS, ZERO_MS + 30_000));
        assert_eq!(read(&totals, "b", 0, &again), expected);
        assert_eq!(read(&totals, "a", 0, &again).gone_ms, Some(ZERO_MS + 30_000));
    }

    #[test]
    fn what_a_run_has_counted_goes_on_in_the_next() {
        let rules = names(&["a", "b"]);
        let mut first = Totals::new(&rules, ZERO_MS);
        let counters = RuleCounters::new(2, 1);
        counters.hit(0, RuleId(1), 100, seconds(5));
        counters.open(0, RuleId(1));
        counters.hit(0, RuleId::NONE, 1, seconds(6));
        let mut saved = first.all(&rules, &counters, &clocks(), ZERO_MS + 7000);
        saved.ended = true;
        // A day later another policy begins: the packet path's clock starts anew, the wall clock does not.
        let later_ms = ZERO_MS + DAY_MS;
        let clocks = Clocks::new(Now(0), SystemTime::UNIX_EPOCH + Duration::from_millis(later_ms));
        let rules = names(&["b", "c"]);
        let mut second = Totals::new(&rules, later_ms);
        second.recall(saved, later_ms);
        assert_eq!(second.observed(), (ZERO_MS, 0, None));
        let counters = RuleCounters::new(2, 1);
        let b = second.read(Some("b"), RuleId(0), &counters, &clocks);
        let expected = Counted {
            packets: 1,
            bytes: 100,
            connections: 1,
            hit_ms: Some(ZERO_MS + 5000),
            first_ms: ZERO_MS,
            since_ms: ZERO_MS,
            gone_ms: None,
        };
        assert_eq!(b, expected);
        counters.hit(0, RuleId(0), 1, seconds(3));
        let b = second.read(Some("b"), RuleId(0), &counters, &clocks);
        assert_eq!((b.packets, b.hit_ms), (2, Some(later_ms + 3000)));
        let saved = second.all(&rules, &counters, &clocks, later_ms + 4000);
        assert_eq!((saved.rules["b"].packets, saved.default_deny.packets), (2, 1));
        assert_eq!((saved.rules["a"].gone_ms, saved.rules["c"].since_ms), (Some(later_ms), later_ms));
        // This one was killed.
        let mut third = Totals::new(&rules, later_ms + 5000);
        third.recall(saved, later_ms + 5000);
        assert_eq!(third.observed(), (ZERO_MS, 1, Some(later_ms + 5000)));
    }

    #[test]
    fn rules_that_are_gone_are_forgotten_after_90_days_and_the_oldest_of_too_many() {
        let many: Vec<String> = (0..GONE_KEPT + 5).map(|index| format!("r{index:06}")).collect();
        let old = Names { rules: ["old".to_owned()].into_iter().chain(many.iter().cloned()).collect() };
        let fewer = Names { rules: many.clone() };
        let none = names(&["stays"]);
        let mut totals = Totals::new(&old, ZERO_MS);
        let counters = RuleCounters::new(old.rules.len(), 1);
        totals.fold(&old, &counters, &fewer, &clocks(), ZERO_MS + 1);
        assert_eq!(totals.counters.rules["old"].gone_ms, Some(ZERO_MS + 1));
        totals.fold(&fewer, &counters, &none, &clocks(), ZERO_MS + 2);
        // `stays`, and as many as are kept; `old` went first.
        assert_eq!(totals.counters.rules.len(), GONE_KEPT + 1);
        assert!(!totals.counters.rules.contains_key("old") && totals.counters.rules.contains_key("stays"));
        totals.prune(ZERO_MS + 2 + GONE_MS);
        assert_eq!(totals.counters.rules.len(), GONE_KEPT + 1);
        totals.prune(ZERO_MS + 3 + GONE_MS);
        assert_eq!(totals.counters.rules.keys().collect::<Vec<_>>(), ["stays"]);
    }

    #[test]
    fn a_wall_clock_that_is_set_after_the_start_dates_what_was_before_anew() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let mut clocks = Clocks::new(seconds(100), start);
        assert_eq!(clocks.ms(seconds(101)), 61_000);
        // A machine without a clock of its own starts in 1970.
        assert_eq!(clocks.ms(seconds(0)), 0);
        clocks.follow(seconds(110), start + Duration::from_millis(10_900));
        assert_eq!(clocks.ms(seconds(101)), 61_000);
        let true_time = SystemTime::UNIX_EPOCH + Duration::from_millis(ZERO_MS);
        clocks.follow(seconds(120), true_time);
        assert_eq!(clocks.ms(seconds(101)), ZERO_MS - 19_000);
        clocks.follow(seconds(130), true_time);
        assert_eq!(clocks.ms(seconds(130)), ZERO_MS);
    }
}
