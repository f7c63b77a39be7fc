//! Is there anybody, at any time, for whom clauses come to a certain result? Exactly, and with who and when.
//!
//! What clauses ask about is cut into variables with a few values each: a gate is open or not, the second factor is
//! missing, older than every limit, or just as old as one of them, and so on. The values stand for all there are. The
//! search then is the usual one: draw conclusions, guess, take back. The first value of each variable says the least
//! ("nobody", "shut", "unknown") and is taken where nothing asks for more, so that what is found says no more than it has to.

use std::collections::BTreeSet;

use bulkhead_dataplane::policy::conditions::{
    Bits, Device, GateId, GroupId, Identity, Posture, PostureId, TagId, UserId, Users, Who,
};
use bulkhead_dataplane::policy::{Action, Circumstances};

use super::demands::{Demand, DemandId, Demands, Moment, Moments};
use super::forms::Clause;

/// Who is there, and which gates are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occasion {
    /// Who has signed in at the source; `None` for nobody.
    pub identity: Option<Identity>,
    /// Open gates.
    pub gates: Bits,
}

impl Occasion {
    /// As the evaluators take it.
    pub fn circumstances(&self) -> Circumstances<'_> {
        let who = self.identity.as_ref().map_or(Who::Nobody, Who::Known);
        Circumstances { who, gates: &self.gates }
    }
}

/// The search was given up: the clauses ask for too much that depends on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp;

/// Something that clauses ask about, with its values. The first says the least.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Gate(GateId),
    /// Nobody, a user that no rule names, and those that the clauses name.
    User(Vec<Option<UserId>>),
    Group(GroupId),
    Device,
    Enrolled,
    Tag(TagId),
    /// None, older than every limit, and as old as each limit, the strictest last.
    Mfa(Vec<Option<u32>>),
    PhishingResistant,
    Posture(PostureId),
    /// Unknown, and just below each limit, the strictest last.
    Risk(Vec<Option<u8>>),
}

/// A set of values, as bits.
type Values = Box<[u64]>;

/// That a variable has one of these values.
#[derive(Clone, Debug)]
struct Literal {
    variable: usize,
    values: Values,
}

/// One of these holds.
type Choice = Vec<Literal>;

/// When a clause holds: all of these.
type Formula = Vec<Choice>;

/// What the variables may still be: the bits of all their values, one after the other.
type State = Vec<u64>;

/// The clauses of one or more lists, made ready for the search.
pub struct Question {
    variables: Vec<Variable>,
    /// Where in a state each variable's values are.
    places: Vec<std::ops::Range<usize>>,
    start: State,
    formulas: Vec<Vec<Formula>>,
    /// What always holds: how gates that follow the clock depend on each other.
    clock: Formula,
    clauses: Vec<Vec<Clause>>,
    /// Work left.
    budget: usize,
}

/// The most work on one question, in clauses looked at: a few seconds.
const BUDGET: usize = 20_000_000;

/// The clause of a list that decides, as an index; `None` when none does.
pub type Decider = Option<usize>;

impl Question {
    /// About these lists of clauses, each in its order.
    pub fn new(lists: &[&[Clause]], demands: &Demands) -> Question {
        let mut wanted = Wanted::default();
        for clause in lists.iter().copied().flatten() {
            wanted.add(demands.demand(clause.demand));
        }
        let variables = wanted.variables();
        let mut places = Vec::with_capacity(variables.len());
        let mut start = State::new();
        for variable in &variables {
            let count = variable.count();
            let from = start.len();
            start.extend(full(count).iter());
            places.push(from..start.len());
        }
        let formula = |clause: &Clause| formula(clause.action, demands.demand(clause.demand), &variables);
        let formulas = lists.iter().map(|list| list.iter().map(formula).collect()).collect();
        let clauses = lists.iter().map(|list| list.to_vec()).collect();
        let clock = clock(&variables, &demands.moments);
        Question { variables, places, start, formulas, clock, clauses, budget: BUDGET }
    }

    /// An occasion on which the lists are decided by these clauses: one for every list.
    ///
    /// # Errors
    ///
    /// Nothing was found in the time that there is for one question.
    pub fn decided_by(&mut self, deciders: &[Decider]) -> Result<Option<Occasion>, GivenUp> {
        let wanted = Constraints::default();
        let found = self.each_list(deciders, 0, &wanted)?;
        Ok(found.map(|state| self.occasion(&state)))
    }

    /// An occasion on which this clause of this list holds, whether it decides or not, and the lists are decided so.
    ///
    /// # Errors
    ///
    /// As [`Question::decided_by`].
    pub fn holds(
        &mut self,
        list: usize,
        clause: usize,
        deciders: &[Decider],
    ) -> Result<Option<Occasion>, GivenUp> {
        let wanted = Constraints { holding: vec![(list, clause)], failing: Vec::new() };
        let found = self.each_list(deciders, 0, &wanted)?;
        Ok(found.map(|state| self.occasion(&state)))
    }

    fn each_list(
        &mut self,
        deciders: &[Decider],
        list: usize,
        wanted: &Constraints,
    ) -> Result<Option<State>, GivenUp> {
        let Some(decider) = deciders.get(list) else {
            let start = self.start.clone();
            return self.solve(start, wanted);
        };
        self.each_tier(deciders, list, *decider, 0, wanted)
    }

    /// Of a list, from its clause number `from` on, where a tier begins: nothing decides before the decider's tier.
    fn each_tier(
        &mut self,
        deciders: &[Decider],
        list: usize,
        decider: Decider,
        from: usize,
        wanted: &Constraints,
    ) -> Result<Option<State>, GivenUp> {
        let clauses = &self.clauses[list];
        let Some(first) = clauses.get(from) else {
            return match decider {
                None => self.each_list(deciders, list + 1, wanted),
                Some(_) => Ok(None),
            };
        };
        let tier = first.tier;
        let end = from + clauses[from..].iter().take_while(|clause| clause.tier == tier).count();
        if let Some(decider) = decider.filter(|decider| (from..end).contains(decider)) {
            let mut wanted = wanted.clone();
            wanted.failing.extend((from..decider).map(|clause| (list, clause)));
            wanted.holding.push((list, decider));
            return self.each_list(deciders, list + 1, &wanted);
        }
        // Either nothing in the tier holds, or something passes.
        let passing: Vec<usize> =
            (from..end).filter(|index| clauses[*index].action == Action::Pass).collect();
        let mut nothing = wanted.clone();
        nothing.failing.extend((from..end).map(|clause| (list, clause)));
        if let Some(found) = self.each_tier(deciders, list, decider, end, &nothing)? {
            return Ok(Some(found));
        }
        for pass in passing {
            let mut wanted = wanted.clone();
            wanted.holding.push((list, pass));
            if let Some(found) = self.each_tier(deciders, list, decider, end, &wanted)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn solve(&mut self, mut state: State, wanted: &Constraints) -> Result<Option<State>, GivenUp> {
        let work = 1 + wanted.holding.len() + wanted.failing.len();
        self.budget = self.budget.checked_sub(work).ok_or(GivenUp)?;
        if !self.conclude(&mut state, wanted) {
            return Ok(None);
        }
        // What is left open is a choice: which of its literals holds, or which of its choices fails.
        let formula = |&(list, clause): &(usize, usize)| &self.formulas[list][clause];
        let always = wanted.holding.iter().flat_map(formula).chain(&self.clock);
        let open_choice = always.clone().find(|choice| !self.is_sure(&state, choice));
        let mut guesses: Vec<State> = Vec::new();
        if let Some(choice) = open_choice {
            for literal in choice {
                let mut guess = state.clone();
                if self.restrict(&mut guess, literal, true) {
                    guesses.push(guess);
                }
            }
        } else if let Some(open) = wanted.failing.iter().map(formula).find(|f| !self.is_failing(&state, f)) {
            // Most of what must fail does when nothing is said that need not be.
            let least = self.least(&state);
            if wanted.failing.iter().map(formula).all(|formula| self.is_failing(&least, formula)) {
                return Ok(Some(least));
            }
            for choice in open.iter().filter(|choice| !self.is_sure(&state, choice)) {
                let mut guess = state.clone();
                if choice.iter().all(|literal| self.restrict(&mut guess, literal, false)) {
                    guesses.push(guess);
                }
            }
        } else {
            return Ok(Some(state));
        }
        for guess in guesses {
            if let Some(found) = self.solve(guess, wanted)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Draws every conclusion that needs no guess; `false` when there is a contradiction.
    fn conclude(&self, state: &mut State, wanted: &Constraints) -> bool {
        loop {
            let before = state.clone();
            let holding = wanted.holding.iter().flat_map(|(list, clause)| &self.formulas[*list][*clause]);
            for choice in holding.chain(&self.clock) {
                let mut possible = choice.iter().filter(|literal| self.is_possible(state, literal));
                match (possible.next(), possible.next()) {
                    (None, _) => return false,
                    (Some(only), None) => {
                        self.restrict(state, only, true);
                    }
                    _ => {}
                }
            }
            for (list, clause) in &wanted.failing {
                let formula = &self.formulas[*list][*clause];
                if self.is_failing(state, formula) {
                    continue;
                }
                let mut unsure = formula.iter().filter(|choice| !self.is_sure(state, choice));
                match (unsure.next(), unsure.next()) {
                    (None, _) => return false,
                    (Some(only), None)
                        if !only.iter().all(|literal| self.restrict(state, literal, false)) =>
                    {
                        return false;
                    }
                    _ => {}
                }
            }
            if *state == before {
                return true;
            }
        }
    }

    fn words<'s>(&self, state: &'s State, literal: &Literal) -> &'s [u64] {
        &state[self.places[literal.variable].clone()]
    }

    fn is_possible(&self, state: &State, literal: &Literal) -> bool {
        self.words(state, literal).iter().zip(&literal.values).any(|(may, wanted)| may & wanted != 0)
    }

    fn is_certain(&self, state: &State, literal: &Literal) -> bool {
        self.words(state, literal).iter().zip(&literal.values).all(|(may, wanted)| may & !wanted == 0)
    }

    fn is_sure(&self, state: &State, choice: &Choice) -> bool {
        choice.iter().any(|literal| self.is_certain(state, literal))
    }

    fn fails(&self, state: &State, choice: &Choice) -> bool {
        !choice.iter().any(|literal| self.is_possible(state, literal))
    }

    fn is_failing(&self, state: &State, formula: &Formula) -> bool {
        formula.iter().any(|choice| self.fails(state, choice))
    }

    /// Leaves every variable the value that says the least.
    fn least(&self, state: &State) -> State {
        let mut least = vec![0; state.len()];
        for place in &self.places {
            if let Some(word) = place.clone().find(|word| state[*word] != 0) {
                least[word] = state[word] & state[word].wrapping_neg();
            }
        }
        least
    }

    /// Takes the literal for true or false; `false` when it cannot be.
    fn restrict(&self, state: &mut State, literal: &Literal, holds: bool) -> bool {
        let words = &mut state[self.places[literal.variable].clone()];
        for (may, wanted) in words.iter_mut().zip(&literal.values) {
            *may &= if holds { *wanted } else { !*wanted };
        }
        words.iter().any(|word| *word != 0)
    }

    /// Takes of every variable the value that says the least.
    fn occasion(&self, state: &State) -> Occasion {
        let (mut identity, mut gates) = (Identity::default(), Bits::default());
        let mut device = Device::default();
        let mut has_device = false;
        for (variable, place) in self.variables.iter().zip(&self.places) {
            let words = &state[place.clone()];
            let value = words.iter().zip(0..).find_map(|(word, index)| {
                (*word != 0).then(|| 64 * index as usize + word.trailing_zeros() as usize)
            });
            let value = value.unwrap_or_default();
            match variable {
                Variable::User(users) => identity.user = users[value],
                Variable::Mfa(ages) => identity.mfa_age_s = ages[value],
                Variable::Risk(risks) => identity.risk = risks[value],
                _ if value == 0 => {}
                Variable::Gate(gate) => gates.insert(gate.0),
                Variable::Group(group) => identity.groups.insert(group.0),
                Variable::Device => has_device = true,
                Variable::Enrolled => device.enrolled = true,
                Variable::Tag(tag) => device.tags.insert(tag.0),
                Variable::PhishingResistant => identity.phishing_resistant = true,
                Variable::Posture(posture) => {
                    let index = posture.0 as usize;
                    let count = identity.postures.len().max(index + 1);
                    identity.postures.resize(count, Posture::Unknown);
                    identity.postures[index] = Posture::Met;
                }
            }
        }
        identity.device = has_device.then_some(device);
        let known = identity != Identity::default();
        Occasion { identity: known.then_some(identity), gates }
    }
}

/// What must hold and what must fail: list and clause.
#[derive(Clone, Default)]
struct Constraints {
    holding: Vec<(usize, usize)>,
    failing: Vec<(usize, usize)>,
}

/// All that demands ask about.
#[derive(Default)]
struct Wanted {
    gates: BTreeSet<GateId>,
    users: BTreeSet<UserId>,
    /// Whether it matters if there is a user at all.
    user: bool,
    groups: BTreeSet<GroupId>,
    device: bool,
    tags: BTreeSet<TagId>,
    mfa: bool,
    mfa_ages_s: BTreeSet<u32>,
    phishing_resistant: bool,
    postures: BTreeSet<PostureId>,
    risks: BTreeSet<u8>,
}

impl Wanted {
    fn add(&mut self, demand: &Demand) {
        self.gates.extend(&demand.gates);
        self.user |= !demand.users.is_empty();
        for users in &demand.users {
            self.users.extend(&users.users);
            self.groups.extend(&users.groups);
        }
        self.device |= demand.device;
        self.tags.extend(demand.tags.iter().flatten());
        self.mfa |= demand.phishing_resistant || demand.mfa_max_age_s.is_some();
        self.mfa_ages_s.extend(demand.mfa_max_age_s);
        self.phishing_resistant |= demand.phishing_resistant;
        self.postures.extend(&demand.postures);
        self.risks.extend(demand.risk_below);
    }

    fn variables(self) -> Vec<Variable> {
        let mut all: Vec<Variable> = self.gates.into_iter().map(Variable::Gate).collect();
        if self.user {
            let named = self.users.into_iter().filter(|user| *user != UserId::OTHER).map(Some);
            all.push(Variable::User([None, Some(UserId::OTHER)].into_iter().chain(named).collect()));
        }
        all.extend(self.groups.into_iter().map(Variable::Group));
        if self.device {
            all.extend([Variable::Device, Variable::Enrolled]);
        }
        all.extend(self.tags.into_iter().map(Variable::Tag));
        if self.mfa {
            let limits = self.mfa_ages_s.iter().rev().copied();
            let older = self.mfa_ages_s.last().map_or(Some(0), |limit| limit.checked_add(1));
            all.push(Variable::Mfa(
                [None].into_iter().chain(older.into_iter().chain(limits).map(Some)).collect(),
            ));
        }
        if self.phishing_resistant {
            all.push(Variable::PhishingResistant);
        }
        all.extend(self.postures.into_iter().map(Variable::Posture));
        if !self.risks.is_empty() {
            // No risk is below 0.
            let below = self.risks.iter().rev().filter_map(|limit| limit.checked_sub(1)).map(Some);
            all.push(Variable::Risk([None].into_iter().chain(below).collect()));
        }
        all
    }
}

impl Variable {
    /// How many values it has.
    fn count(&self) -> usize {
        match self {
            Variable::User(users) => users.len(),
            Variable::Mfa(ages) => ages.len(),
            Variable::Risk(risks) => risks.len(),
            _ => 2,
        }
    }
}

/// All of so many values.
fn full(count: usize) -> Values {
    set(count, |_| true)
}

/// Those of so many values that are meant.
fn set(count: usize, is_meant: impl Fn(usize) -> bool) -> Values {
    let mut words = vec![0; count.div_ceil(64)];
    (0..count).filter(|value| is_meant(*value)).for_each(|value| words[value / 64] |= 1 << (value % 64));
    words.into()
}

/// When a rule of this action with this demand holds.
fn formula(action: Action, demand: &Demand, variables: &[Variable]) -> Formula {
    let literal = |variable: &Variable, is_meant: &dyn Fn(usize) -> bool| {
        let index = variables.iter().position(|known| known == variable).unwrap_or_default();
        Literal { variable: index, values: set(variable.count(), is_meant) }
    };
    let yes = |variable: Variable| literal(&variable, &|value| value == 1);
    // The one variable of a kind.
    let one = |is: fn(&Variable) -> bool| variables.iter().find(|known| is(known)).cloned();
    let mut formula: Formula = demand.gates.iter().map(|gate| vec![yes(Variable::Gate(*gate))]).collect();
    if let Some(Variable::User(values)) = one(|known| matches!(known, Variable::User(_))) {
        let variable = Variable::User(values.clone());
        let allows = action == Action::Allow;
        for Users { users, groups } in &demand.users {
            if allows {
                formula.push(vec![literal(&variable, &|value| values[value].is_some())]);
            }
            if users.is_empty() && groups.is_empty() {
                continue;
            }
            // Who denies holds for who is unknown too.
            let is_meant = |value: usize| values[value].map_or(!allows, |user| users.contains(&user));
            let mut choice = vec![literal(&variable, &is_meant)];
            choice.extend(groups.iter().map(|group| yes(Variable::Group(*group))));
            formula.push(choice);
        }
    }
    if demand.device {
        formula.push(vec![yes(Variable::Device)]);
    }
    if demand.enrolled {
        formula.push(vec![yes(Variable::Enrolled)]);
    }
    formula.extend(
        demand.tags.iter().map(|tags| tags.iter().map(|tag| yes(Variable::Tag(*tag))).collect::<Choice>()),
    );
    if let Some(Variable::Mfa(ages)) = one(|known| matches!(known, Variable::Mfa(_))) {
        let variable = Variable::Mfa(ages.clone());
        if demand.phishing_resistant {
            formula.push(vec![literal(&variable, &|value| ages[value].is_some())]);
            formula.push(vec![yes(Variable::PhishingResistant)]);
        }
        if let Some(limit) = demand.mfa_max_age_s {
            formula.push(vec![literal(&variable, &|value| ages[value].is_some_and(|age| age <= limit))]);
        }
    }
    formula.extend(demand.postures.iter().map(|posture| vec![yes(Variable::Posture(*posture))]));
    if let (Some(limit), Some(Variable::Risk(risks))) =
        (demand.risk_below, one(|known| matches!(known, Variable::Risk(_))))
    {
        let below = |value: usize| risks[value].is_some_and(|risk| risk < limit);
        formula.push(vec![literal(&Variable::Risk(risks.clone()), &below)]);
    }
    formula
}

/// Gates that follow the clock are together what they are at some time; what two of them are at no time is excluded.
fn clock(variables: &[Variable], moments: &Moments) -> Formula {
    let timed: Vec<(usize, Moment)> = variables
        .iter()
        .enumerate()
        .filter_map(|(index, variable)| match variable {
            Variable::Gate(gate) => Some((index, *moments.get(gate)?)),
            _ => None,
        })
        .collect();
    let mut formula = Formula::new();
    for (number, (one, first)) in timed.iter().enumerate() {
        for (other, second) in &timed[number + 1..] {
            // Before both, and from each on.
            let times = [first.at().min(second.at()) - 1, first.at(), second.at()];
            for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
                if !times.iter().any(|at| (first.is_open(*at), second.is_open(*at)) == (a, b)) {
                    let not = |variable: &usize, value: bool| Literal {
                        variable: *variable,
                        values: set(2, |other| other != usize::from(value)),
                    };
                    formula.push(vec![not(one, a), not(other, b)]);
                }
            }
        }
    }
    formula
}

/// Whether any of these clauses asks for anything.
pub fn is_conditional(clauses: &[Clause]) -> bool {
    clauses.iter().any(|clause| clause.demand != DemandId::NONE)
}
