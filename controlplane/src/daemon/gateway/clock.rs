//! The wall clock and the policy: rules that expire, start or follow a schedule.
//!
//! The packet path knows no wall clock; it knows which gates are open. At every edge the same compiled policy is published
//! again with other gates, as a new generation, so that live connections are judged again at their next packet.

use std::sync::Arc;

use bulkhead_dataplane::policy::Policy;
use bulkhead_dataplane::policy::conditions::Bits;
use bulkhead_dataplane::verdict::Generation;
use jiff::Timestamp;

use super::{Gateway, PoisonError, lock};
use crate::model::Model;

/// What was known of the clock at the last look.
#[derive(Debug, Default)]
pub struct Clock {
    /// The generation that was looked at.
    generation: Option<Generation>,
    /// The next moment at which one of its gates opens or shuts.
    next: Option<Timestamp>,
    /// When that was. An earlier moment now means that the clock was put back.
    last: Option<Timestamp>,
}

impl Clock {
    /// Whether the gates have to be looked at: for a new generation, at an edge, and when the clock was put back. That it
    /// was put forward over an edge is an edge.
    fn is_due(&self, generation: Generation, now: Timestamp) -> bool {
        self.generation != Some(generation)
            || self.next.is_some_and(|next| now >= next)
            || self.last.is_some_and(|last| now < last)
    }
}

impl Gateway {
    /// Opens and shuts the gates of the policy in force as the wall clock says, and returns the next moment at which that
    /// changes. Cheap when nothing does: to be called all the time.
    ///
    /// # Errors
    ///
    /// The gates changed and some worker does not know.
    pub fn follow_clock(&self) -> Result<Option<Timestamp>, String> {
        let now = Timestamp::now();
        let mut clock = lock(&self.clock);
        let in_force = self.in_force();
        let is_due = clock.is_due(in_force.generation, now);
        clock.last = Some(now);
        if !is_due {
            return Ok(clock.next);
        }
        let (open, next) = in_force.model.gates_at(now);
        let changes = *self.engine.snapshot().policy.policy.gates() != open;
        let generation = if changes {
            // Another policy may just have been published; then this look was for nothing, and the next one comes soon.
            self.publish_gates(&in_force.model, in_force.generation, open)?
        } else {
            Some(in_force.generation)
        };
        (clock.generation, clock.next) = (generation, next);
        Ok(next)
    }

    /// Publishes the policy in force with other gates; nothing when another generation is in force by now.
    fn publish_gates(
        &self,
        model: &Arc<Model>,
        expected: Generation,
        open: Bits,
    ) -> Result<Option<Generation>, String> {
        let published = self.publish_again(Some(expected), |policy, _| policy.set_gates(open));
        if let Ok(Some(generation)) | Err((Some(generation), _)) = &published {
            super::log::say(&format!(
                "the clock changed which of {} rules hold: generation {generation}",
                model.rule_infos.len()
            ));
        }
        published.map_err(|(_, error)| {
            format!("the clock changed which rules hold, and not every worker knows: {error}")
        })
    }

    /// Publishes the policy in force once more with something else about it than its tables, as a new generation, so that live
    /// connections are judged again at their next packet. Nothing when another generation than `expected` is in force by now.
    ///
    /// # Errors
    ///
    /// A worker is stuck: it judges by the new generation, whose number is given, as soon as it moves.
    pub(in crate::daemon) fn publish_again(
        &self,
        expected: Option<Generation>,
        change: impl FnOnce(&mut Policy, &Model),
    ) -> Result<Option<Generation>, (Option<Generation>, String)> {
        // Nothing else is published while they are held.
        let mut totals = self.totals();
        let retired = self.engine.snapshot().policy.clone();
        if expected.is_some_and(|expected| retired.generation != expected) {
            return Ok(None);
        }
        let model = self.in_force().model;
        let mut policy = retired.policy.clone();
        change(&mut policy, &model);
        let generation = retired.generation.next();
        // Before the publication: its events come at once.
        self.history.write().unwrap_or_else(PoisonError::into_inner).repeat(generation);
        self.sessions.serves(generation, &policy);
        let besides = self.besides.renew(&model, &policy, self.engine.workers().0);
        let published = self.engine.publish_policy_with(policy, besides);
        // Also when a worker is stuck: the policy is posted, and that worker judges by it as soon as it moves.
        let is_posted = self.engine.snapshot().generation() == generation;
        if is_posted {
            if let Some(names) = self.names(generation) {
                totals.fold(&names, &retired.counters, &names);
            }
            self.in_force.write().unwrap_or_else(PoisonError::into_inner).generation = generation;
        }
        drop(totals);
        match published {
            Ok(_) => Ok(Some(generation)),
            Err(error) => Err((is_posted.then_some(generation), error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gates_are_looked_at_for_a_new_generation_at_an_edge_and_when_the_clock_is_put_back() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let clock = Clock { generation: Some(Generation(3)), next: Some(at(100)), last: Some(at(50)) };
        assert!(!clock.is_due(Generation(3), at(50)) && !clock.is_due(Generation(3), at(99)));
        assert!(clock.is_due(Generation(3), at(100)) && clock.is_due(Generation(3), at(5000)));
        assert!(clock.is_due(Generation(3), at(49)));
        assert!(clock.is_due(Generation(4), at(60)));
        assert!(Clock::default().is_due(Generation(1), at(0)));
        let never = Clock { next: None, ..clock };
        assert!(!never.is_due(Generation(3), at(1_000_000)));
    }
}
