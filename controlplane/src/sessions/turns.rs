//! By whose session something was decided that carries a slot's number only.
//!
//! Every policy has slots of its own, and whatever is written to a slot makes another *turn* of it. An event or a connection
//! names the turn and the generation that decided, perhaps long ago; so turns are remembered for a while.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bulkhead_dataplane::verdict::Generation;

use super::Session;

/// So many turns are remembered.
const TURNS: usize = 1 << 18;
/// So many generations: longer than the names of their rules.
const GENERATIONS: usize = 256;

/// The last turns of the slots of all policies.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The slots, by a number of ours, that a generation asked.
    asked: BTreeMap<u32, u64>,
    sessions: HashMap<(u64, u64), Arc<Session>>,
    /// Oldest first.
    order: VecDeque<(u64, u64)>,
}

impl Turns {
    /// A generation asks these slots.
    pub fn serves(&mut self, generation: Generation, slots: u64) {
        // Numbers of generations begin anew after four billion of them; then a few are forgotten early.
        if self.asked.len() == GENERATIONS {
            self.asked.pop_first();
        }
        self.asked.insert(generation.0, slots);
    }

    /// The slots that a generation asked.
    pub fn asked(&self, generation: Generation) -> Option<u64> {
        self.asked.get(&generation.0).copied()
    }

    /// From now on a turn of these slots is this session's.
    pub fn note(&mut self, slots: u64, turn: u64, session: Arc<Session>) {
        if self.order.len() == TURNS
            && let Some(oldest) = self.order.pop_front()
        {
            self.sessions.remove(&oldest);
        }
        if self.sessions.insert((slots, turn), session).is_none() {
            self.order.push_back((slots, turn));
        }
    }

    /// Whose a turn was.
    pub fn whose(&self, slots: u64, turn: u64) -> Option<Arc<Session>> {
        self.sessions.get(&(slots, turn)).cloned()
    }
}
