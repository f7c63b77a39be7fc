//! One numbering for several models: ports by name, and likewise whatever conditions speak of.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use bulkhead_dataplane::policy::RuleSet;
use bulkhead_dataplane::policy::conditions::{GateId, GroupId, PostureId, TagId, UserId, Users};
use bulkhead_dataplane::verdict::PortId;

use crate::algebra::demands::{Moment, Moments};
use crate::model::{Gate, Model};

/// Names, numbered in the order in which they first come.
#[derive(Clone, Debug, Default)]
struct Numbering {
    names: Vec<String>,
    index: HashMap<String, u32>,
}

impl Numbering {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.index.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), number);
        number
    }

    fn name(&self, number: u32) -> String {
        self.names.get(number as usize).cloned().unwrap_or_else(|| format!("#{number}"))
    }
}

/// The names behind the numbers that several policies use.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    ports: Numbering,
    users: Numbering,
    groups: Numbering,
    tags: Numbering,
    postures: Numbering,
    gates: Numbering,
    moments: Moments,
}

impl Symbols {
    /// The name of a port.
    pub fn port(&self, number: u32) -> String {
        self.ports.name(number)
    }

    /// The name of a user.
    pub fn user(&self, number: u32) -> String {
        self.users.name(number)
    }

    /// The name of a group.
    pub fn group(&self, number: u32) -> String {
        self.groups.name(number)
    }

    /// The name of a tag.
    pub fn tag(&self, number: u32) -> String {
        self.tags.name(number)
    }

    /// The name of a posture.
    pub fn posture(&self, number: u32) -> String {
        self.postures.name(number)
    }

    /// What a gate is: "during schedule x", "before 2027-01-31T00:00:00Z".
    pub fn gate(&self, number: u32) -> String {
        self.gates.name(number)
    }

    /// Which gates open or shut once and for all, and when.
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// The names of one model, with its own numbers.
    pub fn of(model: &Model) -> Symbols {
        let mut symbols = Symbols::default();
        let identities = &model.identities;
        for port in &model.ports {
            symbols.ports.number(&port.name);
        }
        for user in &identities.users {
            symbols.users.number(user);
        }
        for group in &identities.groups {
            symbols.groups.number(&group.name);
        }
        for tag in &identities.tags {
            symbols.tags.number(tag);
        }
        for posture in &identities.postures {
            symbols.postures.number(&posture.name);
        }
        for gate in (0..identities.gates.len() as u32).map(GateId) {
            symbols.translate_gate(model, gate);
        }
        symbols
    }

    /// The rules of a model in this numbering, which is extended by what it does not have yet. A group stands for those
    /// that the identity provider calls its members; its declared members and groups are written out, so that the same
    /// group declared otherwise in another model is no longer the same.
    pub fn translate<'m>(&mut self, model: &'m Model) -> Cow<'m, RuleSet> {
        self.translate_set(model, &model.rules)
    }

    /// As [`translate`](Self::translate), of other rules of the model.
    pub fn translate_set<'m>(&mut self, model: &Model, rules: &'m RuleSet) -> Cow<'m, RuleSet> {
        let ports: Vec<u32> = model.ports.iter().map(|port| self.ports.number(&port.name)).collect();
        let is_same = ports.iter().zip(0..).all(|(number, index)| *number == index);
        if is_same && rules.conditions.is_empty() {
            return Cow::Borrowed(rules);
        }
        let mut rules = rules.clone();
        for port in rules.segments.iter_mut().flat_map(|segment| &mut segment.ports) {
            // Two times at most 64 ports.
            *port = PortId(ports[usize::from(port.0)] as u8);
        }
        for condition in &mut rules.conditions {
            for gate in &mut condition.gates {
                *gate = self.translate_gate(model, *gate);
            }
            if let Some(users) = &mut condition.users {
                *users = self.translate_users(model, users);
            }
            for tag in condition.devices.iter_mut().flat_map(|devices| &mut devices.tags) {
                *tag = TagId(self.tags.number(&model.identities.tags[tag.0 as usize]));
            }
            for posture in &mut condition.postures {
                let name = &model.identities.postures[posture.0 as usize].name;
                *posture = PostureId(self.postures.number(name));
            }
        }
        Cow::Owned(rules)
    }

    fn translate_gate(&mut self, model: &Model, gate: GateId) -> GateId {
        let gate = model.identities.gates[gate.0 as usize];
        let (name, moment) = match gate {
            Gate::From(at) => (format!("from {at} on"), Some(Moment::From(at.as_nanosecond()))),
            Gate::Until(at) => (format!("before {at}"), Some(Moment::Until(at.as_nanosecond()))),
            Gate::Schedule(index) => {
                (format!("during schedule {}", model.identities.schedules[index].name), None)
            }
        };
        let id = GateId(self.gates.number(&name));
        self.moments.extend(moment.map(|moment| (id, moment)));
        id
    }

    fn translate_users(&mut self, model: &Model, users: &Users) -> Users {
        let identities = &model.identities;
        let mut within: BTreeSet<GroupId> = BTreeSet::new();
        let mut open = users.groups.clone();
        while let Some(group) = open.pop() {
            if within.insert(group) {
                open.extend_from_slice(&identities.groups[group.0 as usize].groups);
            }
        }
        let groups = || within.iter().map(|group| &identities.groups[group.0 as usize]);
        let members = groups().flat_map(|group| &group.members);
        let named = users.users.iter().map(|user| &identities.users[user.0 as usize]);
        let users: BTreeSet<u32> = named.chain(members).map(|name| self.users.number(name)).collect();
        let groups: BTreeSet<u32> = groups().map(|group| self.groups.number(&group.name)).collect();
        Users {
            users: users.into_iter().map(UserId).collect(),
            groups: groups.into_iter().map(GroupId).collect(),
        }
    }
}
