//! What every rule did, by its name, which is its identity: over all generations of this run, and the runs before it.
//!
//! The workers count in rows of their own, by the numbers of the generation in force. When it retires its counts are
//! folded into the totals here, and from time to time all is written to the state directory ([`super::counters`]).

use std::cmp::Ordering;
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
/// The beginning of 2025, milliseconds since 1970: no gateway was there before. What is dated earlier was dated by a clock
/// that was not set yet.
const SANE_MS: u64 = 1_735_689_600_000;

/// The wall clock beside the packet path's.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    now: Now,
    wall: SystemTime,
}

impl Clocks {
    /// Milliseconds since 1970 at a reading of the packet path's clock.
    fn ms(&self, at: Now) -> u64 {
        since_1970_ms(self.wall(at))
    }

    fn wall(&self, at: Now) -> SystemTime {
        let after = Duration::from_nanos(at.0.saturating_sub(self.now.0));
        let before = Duration::from_nanos(self.now.0.saturating_sub(at.0));
        (self.wall + after).checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether the wall clock was set since. Small differences are none, so that one moment has one time.
    fn is_set(&self, now: Now, wall: SystemTime) -> bool {
        let expected = self.wall(now);
        let apart = expected.duration_since(wall).or_else(|_| wall.duration_since(expected));
        apart.unwrap_or_default() > SET
    }
}

/// The totals.
#[derive(Debug)]
pub struct Totals {
    counters: Counters,
    clocks: Clocks,
    /// When this run began, and the present, milliseconds since 1970.
    begun_ms: u64,
    now_ms: u64,
}

impl Totals {
    /// Of a gateway that begins with these rules, at this reading of both clocks.
    pub fn new(names: &Names, now: Now, wall: SystemTime) -> Totals {
        let now_ms = since_1970_ms(wall);
        let counters = Counters { since_ms: now_ms, ..Counters::default() };
        let clocks = Clocks { now, wall };
        let mut totals = Totals { counters, clocks, begun_ms: now_ms, now_ms };
        totals.enter(names.rules.iter().map(String::as_str));
        totals
    }

    /// Takes both clocks' present. Where the wall clock was set, what this run has dated is dated anew: a machine that
    /// starts in 1970 would seem to have counted ever since.
    pub fn follow(&mut self, now: Now, wall: SystemTime) {
        if self.clocks.is_set(now, wall) {
            let (begun_ms, expected_ms, set_ms) = (self.begun_ms, self.clocks.ms(now), since_1970_ms(wall));
            let redate = |ms: u64| match ms.checked_sub(begun_ms) {
                Some(_) if ms <= expected_ms => (ms + set_ms).saturating_sub(expected_ms),
                _ => ms,
            };
            date(&mut self.counters, redate);
            self.begun_ms = redate(begun_ms);
            self.clocks = Clocks { now, wall };
        }
        self.now_ms = self.clocks.ms(now);
    }

    /// Since when there are counts, milliseconds since 1970; how often some are missing, and when that was last.
    pub fn observed(&self) -> (u64, u64, Option<u64>) {
        (self.counters.since_ms, self.counters.gaps, self.counters.last_gap_ms)
    }

    fn enter<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) {
        let now_ms = self.now_ms;
        for name in names {
            match self.counters.rules.get_mut(name) {
                Some(Counted { gone_ms: None, .. }) => {}
                Some(back) => (back.since_ms, back.gone_ms) = (now_ms, None),
                None => {
                    let new = Counted { first_ms: now_ms, since_ms: now_ms, ..Counted::default() };
                    self.counters.rules.insert(name.to_owned(), new);
                }
            }
        }
    }

    /// Adds the final counters of a policy that retired now; `next` are the rules of the one after it.
    pub fn fold(&mut self, names: &Names, counters: &RuleCounters, next: &Names) {
        for (name, id) in names.rules.iter().zip((0..).map(RuleId)) {
            let hits = counters.read(id);
            if hits != RuleHits::default() {
                add(self.counters.rules.entry(name.clone()).or_default(), &hits, &self.clocks);
            }
        }
        add(&mut self.counters.default_deny, &counters.read(RuleId::NONE), &self.clocks);
        let (gone, come) = apart(&names.rules, &next.rules);
        self.enter(come);
        for name in &gone {
            if let Some(gone) = self.counters.rules.get_mut(*name) {
                gone.gone_ms = Some(self.now_ms);
            }
        }
        if gone.is_empty() {
            return;
        }
        self.prune();
    }

    /// Forgets rules that are gone for long, and of too many those that went first.
    fn prune(&mut self) {
        let rules = &mut self.counters.rules;
        let mut gone: Vec<u64> = rules.values().filter_map(|counted| counted.gone_ms).collect();
        let mut oldest = self.now_ms.saturating_sub(GONE_MS);
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
    pub fn read(&self, name: Option<&str>, rule: RuleId, counters: &RuleCounters) -> Counted {
        let before = match name {
            None => Some(&self.counters.default_deny),
            Some(name) => self.counters.rules.get(name),
        };
        let mut counted = before.cloned().unwrap_or_default();
        add(&mut counted, &counters.read(rule), &self.clocks);
        counted
    }

    /// Everything, with the counters of the policy in force.
    pub fn all(&mut self, names: &Names, counters: &RuleCounters) -> Counters {
        self.prune();
        let mut all = self.counters.clone();
        for (name, id) in names.rules.iter().zip((0..).map(RuleId)) {
            if let Some(counted) = all.rules.get_mut(name) {
                add(counted, &counters.read(id), &self.clocks);
            }
        }
        add(&mut all.default_deny, &counters.read(RuleId::NONE), &self.clocks);
        all
    }

    /// Adds what earlier runs have counted. Whatever the clocks said, it was before this run.
    pub fn recall(&mut self, mut earlier: Counters) {
        let now_ms = self.now_ms;
        date(&mut earlier, |ms| if ms < SANE_MS { now_ms } else { ms });
        let counters = &mut self.counters;
        counters.since_ms = earlier.since_ms;
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
                    counted.first_ms = before.first_ms;
                    if before.gone_ms.is_none() {
                        counted.since_ms = before.since_ms;
                    }
                }
                None => {
                    let gone_ms = before.gone_ms.or(Some(now_ms));
                    counters.rules.insert(name, Counted { gone_ms, ..before });
                }
            }
        }
        self.prune();
    }
}

/// What only the one and only the other of two ascending lists has.
fn apart<'n>(old: &'n [String], new: &'n [String]) -> (Vec<&'n str>, Vec<&'n str>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return (gone, come),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.cmp(new),
        };
        let only = (old.next_if(|_| order.is_le()), new.next_if(|_| order.is_ge()));
        match only {
            (Some(old), None) => gone.push(old.as_str()),
            (None, Some(new)) => come.push(new.as_str()),
            _ => {}
        }
    }
}

/// Changes every time in it.
fn date(counters: &mut Counters, change: impl Fn(u64) -> u64) {
    counters.since_ms = change(counters.since_ms);
    counters.last_gap_ms = counters.last_gap_ms.map(&change);
    for counted in counters.rules.values_mut().chain([&mut counters.default_deny]) {
        counted.hit_ms = counted.hit_ms.map(&change);
        counted.gone_ms = counted.gone_ms.map(&change);
        (counted.first_ms, counted.since_ms) = (change(counted.first_ms), change(counted.since_ms));
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
    const ZERO_MS: u64 = 1_800_000_000_000;
    const DAY_MS: u64 = 86_400_000;

    fn wall(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    fn names(rules: &[&str]) -> Names {
        Names { rules: rules.iter().map(|&rule| rule.to_owned()).collect() }
    }

    /// So long after the start.
    fn seconds(s: u64) -> Now {
        Now(s * 1_000_000_000)
    }

    /// Of a gateway that begins at this time.
    fn begun(rules: &Names, ms: u64) -> Totals {
        Totals::new(rules, Now(0), wall(ms))
    }

    fn read(totals: &Totals, name: &str, id: u32, counters: &RuleCounters) -> Counted {
        totals.read(Some(name), RuleId(id), counters)
    }

    #[test]
    fn counters_follow_a_rule_s_name_and_not_its_number() {
        let (old, new) = (names(&["b", "c"]), names(&["a", "b"]));
        let mut totals = begun(&old, ZERO_MS);
        let before = RuleCounters::new(2, 2);
        before.hit(0, RuleId(0), 100, seconds(5));
        before.hit(1, RuleId(0), 10, seconds(6));
        before.open(0, RuleId(0));
        before.hit(0, RuleId(1), 1, seconds(1));
        before.hit(0, RuleId::NONE, 40, seconds(9));
        totals.follow(seconds(10), wall(ZERO_MS + 10_000));
        totals.fold(&old, &before, &new);
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
        assert_eq!(totals.read(None, RuleId::NONE, &after).packets, 1);
        // A rule that left and comes back goes on where it was, and is in force since it came back.
        totals.follow(seconds(30), wall(ZERO_MS + 30_000));
        totals.fold(&new, &after, &old);
        let again = RuleCounters::new(2, 2);
        let back = read(&totals, "c", 1, &again);
        assert_eq!((back.packets, back.first_ms, back.since_ms), (1, ZERO_MS, ZERO_MS + 30_000));
        assert_eq!(read(&totals, "b", 0, &again), expected);
        assert_eq!(read(&totals, "a", 0, &again).gone_ms, Some(ZERO_MS + 30_000));
    }

    #[test]
    fn what_a_run_has_counted_goes_on_in_the_next() {
        let rules = names(&["a", "b"]);
        let mut first = begun(&rules, ZERO_MS);
        let counters = RuleCounters::new(2, 1);
        counters.hit(0, RuleId(1), 100, seconds(5));
        counters.open(0, RuleId(1));
        counters.hit(0, RuleId::NONE, 1, seconds(6));
        let mut saved = first.all(&rules, &counters);
        saved.ended = true;
        // A day later another policy begins: the packet path's clock starts anew, the wall clock does not.
        let later_ms = ZERO_MS + DAY_MS;
        let rules = names(&["b", "c"]);
        let mut second = begun(&rules, later_ms);
        second.recall(saved);
        assert_eq!(second.observed(), (ZERO_MS, 0, None));
        let counters = RuleCounters::new(2, 1);
        let expected = Counted {
            packets: 1,
            bytes: 100,
            connections: 1,
            hit_ms: Some(ZERO_MS + 5000),
            first_ms: ZERO_MS,
            since_ms: ZERO_MS,
            gone_ms: None,
        };
        assert_eq!(read(&second, "b", 0, &counters), expected);
        counters.hit(0, RuleId(0), 1, seconds(3));
        let b = read(&second, "b", 0, &counters);
        assert_eq!((b.packets, b.hit_ms), (2, Some(later_ms + 3000)));
        let saved = second.all(&rules, &counters);
        assert_eq!((saved.rules["b"].packets, saved.default_deny.packets), (2, 1));
        assert_eq!((saved.rules["a"].gone_ms, saved.rules["c"].since_ms), (Some(later_ms), later_ms));
        // This one was killed.
        let mut third = begun(&rules, later_ms + 5000);
        third.recall(saved);
        assert_eq!(third.observed(), (ZERO_MS, 1, Some(later_ms + 5000)));
    }

    #[test]
    fn rules_that_are_gone_are_forgotten_after_90_days_and_the_oldest_of_too_many() {
        let many: Vec<String> = (0..GONE_KEPT + 5).map(|index| format!("r{index:06}")).collect();
        let old = Names { rules: ["old".to_owned()].into_iter().chain(many.iter().cloned()).collect() };
        let fewer = Names { rules: many.clone() };
        let mut totals = begun(&old, ZERO_MS);
        let counters = RuleCounters::new(old.rules.len(), 1);
        totals.follow(seconds(1), wall(ZERO_MS + 1000));
        totals.fold(&old, &counters, &fewer);
        assert_eq!(totals.counters.rules["old"].gone_ms, Some(ZERO_MS + 1000));
        totals.follow(seconds(2), wall(ZERO_MS + 2000));
        totals.fold(&fewer, &counters, &names(&["stays"]));
        // `stays`, and as many as are kept; `old` went first.
        assert_eq!(totals.counters.rules.len(), GONE_KEPT + 1);
        assert!(!totals.counters.rules.contains_key("old") && totals.counters.rules.contains_key("stays"));
        let mut after = |s: u64| {
            totals.follow(seconds(s), wall(ZERO_MS + s * 1000));
            totals.prune();
            totals.counters.rules.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(after(2 + GONE_MS / 1000).len(), GONE_KEPT + 1);
        assert_eq!(after(3 + GONE_MS / 1000), ["stays"]);
    }

    #[test]
    fn what_came_and_went_is_found_in_ascending_names() {
        let found = |old: &[&str], new: &[&str]| {
            let (old, new) = (names(old), names(new));
            let (gone, come) = apart(&old.rules, &new.rules);
            (gone.join(" "), come.join(" "))
        };
        let both = |gone: &str, come: &str| (gone.to_owned(), come.to_owned());
        assert_eq!(found(&["b", "d", "e"], &["a", "b", "c", "e", "f"]), both("d", "a c f"));
        assert_eq!(found(&["a", "b"], &["a", "b"]), both("", ""));
        assert_eq!(found(&["a", "b", "z"], &[]), both("a b z", ""));
        assert_eq!(found(&[], &["x"]), both("", "x"));
    }

    #[test]
    fn what_was_dated_before_the_wall_clock_was_set_is_dated_anew() {
        // A machine without a clock of its own starts in 1970.
        let (old, new) = (names(&["a", "gone"]), names(&["a", "new"]));
        let mut totals = begun(&old, 60_000);
        let gone =
            Counted { since_ms: ZERO_MS, first_ms: ZERO_MS, gone_ms: Some(ZERO_MS), ..Counted::default() };
        let earlier = Counters {
            since_ms: ZERO_MS,
            ended: true,
            rules: [("new".to_owned(), gone)].into_iter().collect(),
            ..Counters::default()
        };
        totals.recall(earlier);
        let counters = RuleCounters::new(2, 1);
        counters.hit(0, RuleId(1), 1, seconds(3));
        // Small differences are left alone.
        totals.follow(seconds(10), wall(70_900));
        totals.fold(&old, &counters, &new);
        let counters = RuleCounters::new(2, 1);
        counters.hit(0, RuleId(0), 1, seconds(15));
        assert_eq!(read(&totals, "gone", 9, &RuleCounters::new(9, 1)).hit_ms, Some(63_000));
        let set_ms = ZERO_MS + DAY_MS;
        totals.follow(seconds(20), wall(set_ms));
        let all = totals.all(&new, &counters);
        // What the earlier run has dated stays.
        assert_eq!((all.since_ms, all.rules["new"].first_ms), (ZERO_MS, ZERO_MS));
        assert_eq!((all.rules["a"].since_ms, all.rules["a"].hit_ms), (set_ms - 20_000, Some(set_ms - 5000)));
        assert_eq!(
            (all.rules["gone"].hit_ms, all.rules["gone"].gone_ms),
            (Some(set_ms - 17_000), Some(set_ms - 10_000))
        );
        assert_eq!(all.rules["new"].since_ms, set_ms - 10_000);
        // Back again, by hand.
        totals.follow(seconds(30), wall(set_ms - 3_600_000));
        assert_eq!(totals.all(&new, &counters).rules["a"].hit_ms, Some(set_ms - 3_600_000 - 15_000));
    }

    #[test]
    fn what_an_earlier_run_could_not_date_is_as_old_as_this_one_and_no_older() {
        let rules = names(&["a"]);
        let counted =
            Counted { hit_ms: Some(61_000), first_ms: 60_000, since_ms: 60_000, ..Counted::default() };
        let earlier = Counters {
            since_ms: 60_000,
            rules: [("a".to_owned(), counted)].into_iter().collect(),
            ..Counters::default()
        };
        let mut totals = begun(&rules, ZERO_MS);
        totals.recall(earlier);
        let a = read(&totals, "a", 0, &RuleCounters::new(1, 1));
        assert_eq!((a.hit_ms, a.first_ms, a.since_ms), (Some(ZERO_MS), ZERO_MS, ZERO_MS));
        assert_eq!(totals.observed(), (ZERO_MS, 1, Some(ZERO_MS)));
    }
}
