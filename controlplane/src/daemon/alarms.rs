//! What an operator must see: kept for `status`, and told on standard error at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::gateway::lock;
use super::log;
use super::time::rfc3339;
use crate::api::types::Alarm;

/// The last alarms kept.
const KEPT: usize = 64;

/// The last alarms and the count of all.
#[derive(Default)]
pub struct Alarms(Mutex<(u64, VecDeque<Arc<Alarm>>)>);

impl Alarms {
    /// Records one and prints it.
    pub fn raise(&self, message: String) -> Arc<Alarm> {
        let alarm = Arc::new(Alarm { ts: rfc3339(SystemTime::now()), message });
        log::complain(&format!("{} ALARM {}", alarm.ts, alarm.message));
        let mut alarms = lock(&self.0);
        alarms.0 += 1;
        if alarms.1.len() == KEPT {
            alarms.1.pop_front();
        }
        alarms.1.push_back(alarm.clone());
        alarm
    }

    /// How many there were, and the last of them, oldest first.
    pub fn read(&self) -> (u64, Vec<Alarm>) {
        let alarms = lock(&self.0);
        (alarms.0, alarms.1.iter().map(|alarm| Alarm::clone(alarm)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_alarms_are_counted_and_the_last_are_kept() {
        let alarms = Alarms::default();
        for number in 1..=KEPT + 2 {
            alarms.raise(format!("number {number}"));
        }
        let (count, kept) = alarms.read();
        assert_eq!((count, kept.len()), (KEPT as u64 + 2, KEPT));
        assert_eq!(kept[0].message, "number 3");
    }
}
