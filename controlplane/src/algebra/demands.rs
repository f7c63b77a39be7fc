//! What a rule asks for, floors included, in one normal form: equal demands have equal numbers, whatever policy they are of.

use std::collections::HashMap;

use bulkhead_dataplane::policy::conditions::{GateId, PostureId, TagId, Users};
use bulkhead_dataplane::policy::{Action, Condition, ConditionId, RuleSet};

/// A [`Demand`] by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DemandId(pub u32);

impl DemandId {
    /// Nothing is asked for.
    pub const NONE: DemandId = DemandId(0);
}

/// A conjunction of conditions. Every list is ascending and without repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Demand {
    /// All must be open.
    pub gates: Vec<GateId>,
    /// The user must be in all of these.
    pub users: Vec<Users>,
    /// A device must be known.
    pub device: bool,
    /// It must be enrolled.
    pub enrolled: bool,
    /// It must have one tag of each.
    pub tags: Vec<Vec<TagId>>,
    /// The second factor cannot be phished.
    pub phishing_resistant: bool,
    /// The second factor's age, seconds.
    pub mfa_max_age_s: Option<u32>,
    /// All must be met.
    pub postures: Vec<PostureId>,
    /// The risk must be less.
    pub risk_below: Option<u8>,
}

impl Demand {
    /// All of these together, as they count in a rule of this action: one that does not allow asks for time and users
    /// only, and holds for who is unknown, so "any user" says nothing in it.
    pub fn of<'c>(action: Action, conditions: impl Iterator<Item = &'c Condition>) -> Demand {
        let mut demand = Demand::default();
        let mut any_user = false;
        for condition in conditions {
            demand.gates.extend_from_slice(&condition.gates);
            if let Some(users) = &condition.users {
                let mut users = users.clone();
                users.users.sort_unstable();
                users.users.dedup();
                users.groups.sort_unstable();
                users.groups.dedup();
                if users == Users::default() { any_user = true } else { demand.users.push(users) }
            }
            if action != Action::Allow {
                continue;
            }
            if let Some(devices) = &condition.devices {
                demand.device = true;
                demand.enrolled |= devices.enrolled;
                if !devices.tags.is_empty() {
                    let mut tags = devices.tags.clone();
                    tags.sort_unstable();
                    tags.dedup();
                    demand.tags.push(tags);
                }
            }
            demand.phishing_resistant |= condition.phishing_resistant;
            demand.mfa_max_age_s = least(demand.mfa_max_age_s, condition.mfa_max_age_s);
            demand.postures.extend_from_slice(&condition.postures);
            demand.risk_below = least(demand.risk_below, condition.risk_below);
        }
        if any_user && demand.users.is_empty() && action == Action::Allow {
            demand.users.push(Users::default());
        }
        demand.gates.sort_unstable();
        demand.gates.dedup();
        demand.users.sort_unstable_by(|a, b| (&a.users, &a.groups).cmp(&(&b.users, &b.groups)));
        demand.users.dedup();
        demand.tags.sort_unstable();
        demand.tags.dedup();
        demand.postures.sort_unstable();
        demand.postures.dedup();
        demand
    }
}

fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Which conditions, of which policy (an index), in a rule that allows or not.
type Known = (usize, bool, [Option<ConditionId>; 3]);

/// When a gate opens or shuts once and for all, on a clock of any unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Open from then on.
    From(i128),
    /// Open before.
    Until(i128),
}

impl Moment {
    /// Whether it is open at a time.
    pub fn is_open(self, at: i128) -> bool {
        match self {
            Moment::From(start) => at >= start,
            Moment::Until(end) => at < end,
        }
    }

    /// When it changes.
    pub fn at(self) -> i128 {
        match self {
            Moment::From(at) | Moment::Until(at) => at,
        }
    }
}

/// Gates that depend on each other, because all of them follow the same clock; all others are free.
pub type Moments = HashMap<GateId, Moment>;

/// Demands, numbered.
pub struct Demands {
    /// Which gates follow the clock.
    pub moments: Moments,
    list: Vec<Demand>,
    index: HashMap<Demand, DemandId>,
    /// Those already put together.
    known: HashMap<Known, DemandId>,
}

impl Default for Demands {
    fn default() -> Self {
        Demands::new(Moments::new())
    }
}

impl Demands {
    /// None yet, and these gates follow the clock.
    pub fn new(moments: Moments) -> Demands {
        let nothing = Demand::default();
        Demands {
            moments,
            list: vec![nothing.clone()],
            index: HashMap::from([(nothing, DemandId::NONE)]),
            known: HashMap::new(),
        }
    }

    /// The demand of this number.
    pub fn demand(&self, id: DemandId) -> &Demand {
        &self.list[id.0 as usize]
    }

    /// The number of a demand.
    pub fn intern(&mut self, demand: Demand) -> DemandId {
        if let Some(id) = self.index.get(&demand) {
            return *id;
        }
        let id = DemandId(self.list.len() as u32);
        self.index.insert(demand.clone(), id);
        self.list.push(demand);
        id
    }

    /// The number of what these conditions together ask for in a rule of this action.
    pub fn merge(
        &mut self,
        policy: usize,
        rules: &RuleSet,
        action: Action,
        conditions: [Option<ConditionId>; 3],
    ) -> DemandId {
        if conditions == [None; 3] {
            return DemandId::NONE;
        }
        let key = (policy, action == Action::Allow, conditions);
        if let Some(id) = self.known.get(&key) {
            return *id;
        }
        let all = conditions.into_iter().flatten().map(|id| rules.condition(id));
        let id = self.intern(Demand::of(action, all));
        self.known.insert(key, id);
        id
    }
}
