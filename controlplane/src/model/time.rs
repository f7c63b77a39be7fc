//! Conditions of time: when they are open, and when that changes next.

use bulkhead_dataplane::policy::conditions::{Bits, GateId};
use jiff::civil::{DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

use super::resolve::Resolver;
use super::{Model, RuleInfo};
use crate::config::diagnostics::{Located, nearest, quoted};
use crate::config::identity;
use crate::config::schema::{Rule, Text};

/// What one gate of the compiled policy waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Open from this moment on.
    From(Timestamp),
    /// Open before this moment.
    Until(Timestamp),
    /// Open when the schedule is: an index in [`Identities::schedules`](super::Identities::schedules).
    Schedule(usize),
}

/// `[schedules.NAME]`.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// From Monday on, the days on which its hours begin.
    pub days: [bool; 7],
    /// From and to, in minutes after midnight; what ends at or before its beginning ends on the next day.
    pub hours: Vec<(u16, u16)>,
    /// Where its clocks hang.
    pub zone: TimeZone,
}

/// Rules that expire within so many days do so soon.
const SOON_DAYS: i64 = 30;

/// The end of a rule that is near or past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is past.
    Expired,
    /// It comes within 30 days.
    Soon,
}

impl Ending {
    /// As warnings and plans call it.
    pub fn kind(self) -> &'static str {
        match self {
            Ending::Expired => "expired",
            Ending::Soon => "expires-soon",
        }
    }
}

impl RuleInfo {
    /// Whether the rule has expired, or expires soon.
    pub fn ending(&self, now: Timestamp) -> Option<Ending> {
        let expires = self.expires?;
        let soon = now.checked_add((SOON_DAYS * 24).hours()).unwrap_or(Timestamp::MAX);
        match expires {
            at if at <= now => Some(Ending::Expired),
            at if at <= soon => Some(Ending::Soon),
            _ => None,
        }
    }
}

/// Minutes of a day.
const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// An edge is looked for so many days ahead: every weekday has come by then, also when a clock change swallowed one.
const AHEAD_DAYS: i64 = 15;

impl Schedule {
    /// Whether it is open at this moment.
    pub fn is_open(&self, at: Timestamp) -> bool {
        let local = self.zone.to_datetime(at);
        let minute = minute_of(local.time());
        let today = usize::from(local.weekday().to_monday_zero_offset() as u8);
        let yesterday = (today + 6) % 7;
        self.hours.iter().any(|&(from, to)| {
            if from < to {
                self.days[today] && (from..to).contains(&minute)
            } else {
                (self.days[today] && minute >= from) || (self.days[yesterday] && minute < to)
            }
        })
    }

    /// The next moment after this one at which it opens or shuts.
    pub fn next_change(&self, after: Timestamp) -> Option<Timestamp> {
        let is_open = self.is_open(after);
        let mut edges = self.edges(after);
        edges.sort_unstable();
        edges.into_iter().find(|edge| *edge > after && self.is_open(*edge) != is_open)
    }

    /// All moments of the next days at which it may change: when a local clock shows an edge, and when the clock is put
    /// forward or back.
    fn edges(&self, after: Timestamp) -> Vec<Timestamp> {
        let mut edges = Vec::new();
        let today = self.zone.to_datetime(after).date();
        for day in -1..=AHEAD_DAYS {
            let Ok(date) = today.checked_add(day.days()) else { continue };
            let minutes = self.hours.iter().flat_map(|&(from, to)| [from, to]);
            for minute in minutes {
                let midnight = date.at(0, 0, 0, 0);
                let Ok(local) = midnight.checked_add(i64::from(minute).minutes()) else { continue };
                edges.extend(self.moments(local));
            }
        }
        let end = after.checked_add((24 * AHEAD_DAYS).hours()).unwrap_or(Timestamp::MAX);
        let transitions = self.zone.following(after).map(|transition| transition.timestamp());
        edges.extend(transitions.take_while(|moment| *moment <= end));
        edges
    }

    /// When the local clock shows this: never twice but when it is put back, and not at all when it is put forward over
    /// it, which is an edge of its own.
    fn moments(&self, local: DateTime) -> Vec<Timestamp> {
        let offsets = match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => vec![offset],
            AmbiguousOffset::Gap { .. } => Vec::new(),
            AmbiguousOffset::Fold { before, after } => vec![before, after],
        };
        offsets.into_iter().filter_map(|offset| offset.to_timestamp(local).ok()).collect()
    }
}

fn minute_of(time: Time) -> u16 {
    time.hour() as u16 * 60 + time.minute() as u16
}

impl Model {
    /// Which gates are open at this moment, and the next moment at which that changes; `None` when it never does.
    pub fn gates_at(&self, at: Timestamp) -> (Bits, Option<Timestamp>) {
        let schedules = &self.identities.schedules;
        let states: Vec<_> = schedules.iter().map(|s| (s.is_open(at), s.next_change(at))).collect();
        let mut open = Bits::default();
        let mut next: Option<Timestamp> = None;
        for (id, gate) in (0..).zip(&self.identities.gates) {
            let (is_open, change) = match *gate {
                Gate::From(start) => (at >= start, Some(start)),
                Gate::Until(end) => (at < end, Some(end)),
                Gate::Schedule(index) => states[index],
            };
            if is_open {
                open.insert(id);
            }
            if let Some(change) = change.filter(|change| *change > at) {
                next = Some(next.map_or(change, |next| next.min(change)));
            }
        }
        (open, next)
    }

    /// Why it is not the time for a rule, in words; `None` when it is.
    pub fn untimely(&self, rule: &RuleInfo, at: Timestamp) -> Option<String> {
        if let Some(end) = rule.expires.filter(|end| at >= *end) {
            return Some(format!("it expired at {end}"));
        }
        if let Some(start) = rule.starts.filter(|start| at < *start) {
            return Some(format!("it starts at {start}"));
        }
        let name = rule.schedule.as_deref()?;
        let schedule = self.identities.schedule(name)?;
        (!schedule.is_open(at)).then(|| format!("its schedule `{name}` is shut"))
    }
}

impl Resolver {
    pub(super) fn schedules(&mut self, written: &[identity::Schedule]) -> Vec<Schedule> {
        let mut seen = std::collections::HashMap::new();
        let mut schedules = Vec::new();
        for schedule in written {
            self.claim("schedule", &schedule.name, &mut seen);
            let mut days = [schedule.days.is_empty(); 7];
            for text in &schedule.days {
                self.days(text, &mut days);
            }
            let mut hours: Vec<_> = schedule.hours.iter().filter_map(|text| self.hours(text)).collect();
            if schedule.hours.is_empty() {
                hours.push((0, DAY));
            }
            hours.sort_unstable();
            hours.dedup();
            let zone = schedule.timezone.as_ref().map_or(TimeZone::UTC, |text| self.zone(text));
            schedules.push(Schedule { name: schedule.name.value.clone(), days, hours, zone });
        }
        schedules
    }

    /// "mon" or "fri-mon".
    fn days(&mut self, text: &Text, days: &mut [bool; 7]) {
        let (first, last) = text.value.split_once('-').unwrap_or((&text.value, &text.value));
        let of = |day: &str| DAYS.iter().position(|name| *name == day);
        let (Some(first), Some(last)) = (of(first), of(last)) else {
            let hint = nearest(&text.value.to_lowercase(), DAYS)
                .unwrap_or_else(|| "write \"mon\", or \"mon-fri\" for all between".to_owned());
            self.report.error(text.at, format!("{} is no day", quoted(&text.value))).hint(hint);
            return;
        };
        let mut day = first;
        days[day] = true;
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }

    /// "08:00-18:00", or "22:00-06:00" over midnight.
    fn hours(&mut self, text: &Text) -> Option<(u16, u16)> {
        let two = |digits: &str| {
            let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u16>().ok()).flatten()
        };
        let minute = |time: &str| {
            let (hour, minute) = time.split_once(':')?;
            let (hour, minute) = (two(hour)?, two(minute)?);
            (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
        };
        let range = text.value.split_once('-');
        match range.map(|(from, to)| (minute(from), minute(to))) {
            Some((Some(from), Some(to))) if from == to => {
                self.report
                    .error(text.at, format!("{} is never open", quoted(&text.value)))
                    .hint("the whole day is \"00:00-24:00\"");
                None
            }
            Some((Some(from), Some(to))) if from < DAY => Some((from, to)),
            _ => {
                self.report
                    .error(text.at, format!("{} is no range of hours", quoted(&text.value)))
                    .hint("write \"08:00-18:00\", or \"22:00-06:00\" over midnight");
                None
            }
        }
    }

    /// From the database that is a part of the program, so that a policy means the same on every machine.
    fn zone(&mut self, text: &Text) -> TimeZone {
        let database = TimeZoneDatabase::bundled();
        match database.get(&text.value) {
            Ok(zone) => zone,
            Err(_) => {
                let names: Vec<String> = database.available().map(|name| name.to_string()).collect();
                let hint = self
                    .report
                    .nearest(&text.value, names.iter().map(String::as_str))
                    .unwrap_or_else(|| "write it as in \"Europe/Zurich\"; without it, it is UTC".to_owned());
                self.report.error(text.at, format!("unknown timezone {}", quoted(&text.value))).hint(hint);
                TimeZone::UTC
            }
        }
    }

    /// The gates of a rule.
    pub(super) fn gates(&mut self, rule: &Rule) -> Vec<GateId> {
        let mut gates = Vec::new();
        if let (Some(start), Some(end)) = (&rule.starts, &rule.expires)
            && end.value <= start.value
        {
            self.report
                .error(end.at, "this rule expires before it starts")
                .related(start.at, "it starts here");
            return gates;
        }
        let moment = |moment: &Option<Located<Timestamp>>| moment.as_ref().map(|moment| moment.value);
        gates.extend(moment(&rule.starts).map(|start| self.names.gate(Gate::From(start))));
        gates.extend(moment(&rule.expires).map(|end| self.names.gate(Gate::Until(end))));
        if let Some(name) = &rule.schedule {
            match self.names.list.schedule_index(&name.value) {
                Some(index) => {
                    self.check_overlap(rule, name, index);
                    gates.push(self.names.gate(Gate::Schedule(index)));
                }
                None => {
                    let names = self.names.list.schedules.iter().map(|schedule| schedule.name.clone());
                    let names: Vec<String> = names.collect();
                    self.unknown("schedule", name, names.iter().map(String::as_str));
                }
            }
        }
        gates.sort_unstable();
        gates
    }

    /// A rule whose schedule never opens while it is valid.
    fn check_overlap(&mut self, rule: &Rule, name: &Text, index: usize) {
        let (Some(start), Some(end)) = (&rule.starts, &rule.expires) else { return };
        let schedule = &self.names.list.schedules[index];
        let opens = || schedule.next_change(start.value).is_some_and(|change| change < end.value);
        if !schedule.is_open(start.value) && !opens() {
            self.report
                .error(name.at, "this schedule never opens between `starts` and `expires`")
                .related(start.at, "it starts here");
        }
    }
}

/// The day's name as it is written in a file; 0 is Monday.
pub fn day_name(day: usize) -> &'static str {
    DAYS[day]
}
