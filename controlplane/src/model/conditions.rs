//! Who and on which device: names to the numbers in the conditions of rules and floors, and back.

use std::collections::{HashMap, HashSet};

use bulkhead_dataplane::policy::Action;
use bulkhead_dataplane::policy::conditions::{
    Bits, Condition, ConditionId, Device, Devices, GateId, GroupId, Identity, Posture as State, PostureId,
    TagId, UserId, Users, Who,
};

use super::resolve::Resolver;
use super::time::{Gate, Schedule};
use crate::config::diagnostics::{At, nearest, quoted};
use crate::config::identity::{self, Asker as Written, Check, Require};
use crate::config::schema::{Config, Rule, Text};
use crate::config::values::{self, Wrong};

/// The names behind the numbers in conditions.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    /// Users that rules and floors name, ascending; a [`UserId`] is an index here.
    pub users: Vec<String>,
    /// Groups that are declared or named, ascending; a [`GroupId`] is an index here.
    pub groups: Vec<Group>,
    /// Tags of devices that rules and floors name, ascending; a [`TagId`] is an index here.
    pub tags: Vec<String>,
    /// Postures, ascending by name; a [`PostureId`] is an index here.
    pub postures: Vec<Posture>,
    /// Schedules, ascending by name.
    pub schedules: Vec<Schedule>,
    /// Conditions of time; a [`GateId`] is an index here.
    pub gates: Vec<Gate>,
    /// By user, the groups that declare them a member.
    member_of: HashMap<String, Vec<GroupId>>,
}

/// `[groups.NAME]`, or a group that a rule names.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The users that it declares.
    pub members: Vec<String>,
    /// The groups whose members are its own, ascending.
    pub groups: Vec<GroupId>,
    /// It is declared, and not only named.
    is_declared: bool,
    /// The groups that hold it.
    parents: Vec<GroupId>,
    /// Free text.
    pub description: Option<String>,
}

/// `[postures.NAME]`.
#[derive(Clone, Debug)]
pub struct Posture {
    /// Its name.
    pub name: String,
    /// Reports that are older count as unknown, seconds.
    pub max_age_s: Option<u32>,
    /// What must hold, by the name of the property, ascending.
    pub checks: Vec<(String, Check)>,
    /// Free text.
    pub description: Option<String>,
}

impl Posture {
    /// Whether a report of then still counts.
    pub fn takes(&self, reported: crate::sessions::Moment, at: bulkhead_dataplane::verdict::Now) -> bool {
        self.max_age_s.is_none_or(|max_age_s| reported.age_s(at) <= max_age_s)
    }
}

/// Who asks, in a test.
#[derive(Clone, Debug, Default)]
pub enum Asker {
    /// Nobody has shown who they are.
    #[default]
    Nobody,
    /// Their session has ended.
    Expired,
    /// This is known of them.
    Known(Box<Identity>),
}

impl Asker {
    /// As the policy asks for it.
    pub fn who(&self) -> Who<'_> {
        match self {
            Asker::Nobody => Who::Nobody,
            Asker::Expired => Who::Expired,
            Asker::Known(identity) => Who::Known(identity),
        }
    }
}

fn index<T>(sorted: &[T], name: &str, of: impl Fn(&T) -> &str) -> Option<usize> {
    sorted.binary_search_by(|entry| of(entry).cmp(name)).ok()
}

impl Identities {
    /// The user of this name; [`UserId::OTHER`] when no rule names them.
    pub fn user(&self, name: &str) -> UserId {
        index(&self.users, name, |user| user).map_or(UserId::OTHER, |index| UserId(index as u32))
    }

    /// The group of this name, if it is declared or named.
    pub fn group(&self, name: &str) -> Option<GroupId> {
        index(&self.groups, name, |group| &group.name).map(|index| GroupId(index as u32))
    }

    /// The tag of this name, if a rule or floor names it.
    pub fn tag(&self, name: &str) -> Option<TagId> {
        index(&self.tags, name, |tag| tag).map(|index| TagId(index as u32))
    }

    /// The posture of this name.
    pub fn posture(&self, name: &str) -> Option<PostureId> {
        index(&self.postures, name, |posture| &posture.name).map(|index| PostureId(index as u32))
    }

    /// The schedule of this name.
    pub fn schedule(&self, name: &str) -> Option<&Schedule> {
        self.schedule_index(name).map(|index| &self.schedules[index])
    }

    pub(super) fn schedule_index(&self, name: &str) -> Option<usize> {
        index(&self.schedules, name, |schedule| &schedule.name)
    }

    /// All groups of a user: those that declare them a member, those that the identity provider tells, and every group
    /// that holds one of these.
    pub fn groups_of<'a>(&self, user: &str, told: impl IntoIterator<Item = &'a str>) -> Bits {
        let declared = self.member_of.get(user).into_iter().flatten().copied();
        let mut open: Vec<GroupId> =
            declared.chain(told.into_iter().filter_map(|name| self.group(name))).collect();
        let mut all = Bits::default();
        while let Some(group) = open.pop() {
            if !all.contains(group.0) {
                all.insert(group.0);
                open.extend_from_slice(&self.groups[group.0 as usize].parents);
            }
        }
        all
    }

    /// These groups and all within them.
    pub(super) fn within(&self, groups: &[GroupId]) -> Vec<GroupId> {
        let mut open = groups.to_vec();
        let mut all = HashSet::new();
        while let Some(group) = open.pop() {
            if all.insert(group) {
                open.extend_from_slice(&self.groups[group.0 as usize].groups);
            }
        }
        all.into_iter().collect()
    }

    /// Whether somebody can be said to be in a group: where one is declared, all have to be.
    ///
    /// # Errors
    ///
    /// It is no name, or unknown, with the nearest one.
    pub fn check_told(&self, group: &str) -> Result<(), Wrong> {
        values::identity(group, "group")?;
        if self.group(group).is_some() || !self.groups.iter().any(|group| group.is_declared) {
            return Ok(());
        }
        let names = self.groups.iter().map(|group| group.name.as_str());
        Err(Wrong { message: format!("unknown group {}", quoted(group)), hint: nearest(group, names) })
    }

    /// Who asks; postures of other names say nothing. `None` when something is said, but not of whom.
    pub fn asker(&self, written: &Written) -> Option<Asker> {
        if written.expired {
            return Some(Asker::Expired);
        }
        let mut postures = vec![State::Unknown; self.postures.len()];
        for (name, state) in &written.postures {
            if let Some(id) = self.posture(&name.value) {
                postures[id.0 as usize] = state.value;
            }
        }
        if written.user.is_none() && written.device.is_none() {
            let says_nothing =
                written.postures.is_empty() && written.mfa_age_s.is_none() && written.risk.is_none();
            return says_nothing.then_some(Asker::Nobody);
        }
        let told = written.groups.iter().map(|name| name.value.as_str());
        let user = written.user.as_ref().map(|name| name.value.as_str());
        Some(Asker::Known(Box::new(Identity {
            user: user.map(|name| self.user(name)),
            groups: user.map(|name| self.groups_of(name, told)).unwrap_or_default(),
            device: written.device.as_ref().map(|device| Device {
                enrolled: device.enrolled,
                tags: self.tags_of(device.tags.iter().map(|tag| tag.value.as_str())),
            }),
            mfa_age_s: written.mfa_age_s,
            phishing_resistant: written.phishing_resistant,
            postures,
            risk: written.risk,
        })))
    }

    /// The tags that rules know, of those a device has.
    pub fn tags_of<'a>(&self, tags: impl IntoIterator<Item = &'a str>) -> Bits {
        tags.into_iter().filter_map(|name| self.tag(name)).map(|tag| tag.0).collect()
    }
}

/// The names, and the numbers given out while rules are resolved.
#[derive(Default)]
pub(super) struct Names {
    pub list: Identities,
    gates: HashMap<Gate, GateId>,
    pub conditions: Vec<Condition>,
    known: HashMap<Condition, ConditionId>,
}

impl Names {
    pub fn gate(&mut self, gate: Gate) -> GateId {
        *self.gates.entry(gate).or_insert_with(|| {
            self.list.gates.push(gate);
            GateId(self.list.gates.len() as u32 - 1)
        })
    }

    /// Equal conditions have one number; what asks for nothing has none.
    fn condition(&mut self, condition: Condition) -> Option<ConditionId> {
        if condition == Condition::default() {
            return None;
        }
        let next = ConditionId(self.conditions.len() as u32);
        let id = *self.known.entry(condition).or_insert_with_key(|condition| {
            self.conditions.push(condition.clone());
            next
        });
        Some(id)
    }
}

/// Everything in the configuration that says who or on which device: users, then floors.
fn requires(config: &Config) -> impl Iterator<Item = &Require> {
    let floors = config.segments.iter().flat_map(|segment| [&segment.require, &segment.require_from]);
    floors.chain(config.rules.iter().map(|rule| &rule.require)).flatten().map(Box::as_ref)
}

fn users(config: &Config) -> impl Iterator<Item = &identity::Users> {
    let of_rules = config.rules.iter().filter_map(|rule| rule.users.as_deref());
    of_rules.chain(requires(config).filter_map(|require| require.users.as_ref()))
}

fn sorted<'a>(names: impl Iterator<Item = &'a Text>) -> Vec<String> {
    let names: HashSet<&str> = names.map(|name| name.value.as_str()).collect();
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

impl Resolver {
    /// Numbers every name that conditions speak of, and checks those that have to be declared.
    pub(super) fn identities(&mut self, config: &mut Config) {
        config.groups.sort_by(|a, b| a.name.value.cmp(&b.name.value));
        config.postures.sort_by(|a, b| a.name.value.cmp(&b.name.value));
        config.schedules.sort_by(|a, b| a.name.value.cmp(&b.name.value));
        self.names.list.schedules = self.schedules(&config.schedules);
        self.names.list.postures = self.postures(&config.postures);
        let named = users(config).flat_map(|users| &users.users).filter(|name| name.value != "any");
        self.names.list.users = sorted(named);
        let tags = requires(config).filter_map(|require| require.devices.as_ref()).flat_map(|d| &d.tags);
        self.names.list.tags = sorted(tags);
        self.groups(config);
        for posture in requires(config).flat_map(|require| &require.postures) {
            self.check_posture(posture);
        }
    }

    fn postures(&mut self, written: &[identity::Posture]) -> Vec<Posture> {
        let mut seen = HashMap::new();
        let mut postures = Vec::new();
        for posture in written {
            self.claim("posture", &posture.name, &mut seen);
            let mut checks: Vec<_> =
                posture.checks.iter().map(|(key, check)| (key.value.clone(), check.clone())).collect();
            checks.sort_by(|a, b| a.0.cmp(&b.0));
            postures.push(Posture {
                name: posture.name.value.clone(),
                max_age_s: posture.max_age.map(|age| age.as_secs() as u32),
                checks,
                description: posture.description.as_ref().map(|text| text.value.clone()),
            });
        }
        postures
    }

    fn check_posture(&mut self, name: &Text) -> Option<PostureId> {
        let found = self.names.list.posture(&name.value);
        if found.is_none() {
            let known: Vec<String> = self.names.list.postures.iter().map(|p| p.name.clone()).collect();
            self.unknown("posture", name, known.iter().map(String::as_str));
        }
        found
    }

    /// The groups. Where one is declared, all have to be: then a slip in a rule is told from a group that only the
    /// identity provider knows.
    fn groups(&mut self, config: &Config) {
        let mut seen = HashMap::new();
        for group in &config.groups {
            if let Some(&first) = seen.get(group.name.value.as_str()) {
                let message = format!("two groups are named {}", quoted(&group.name.value));
                self.report.error(group.name.at, message).related(first, "the first one");
            } else {
                seen.insert(group.name.value.as_str(), group.name.at);
            }
        }
        let declared: Vec<String> = sorted(config.groups.iter().map(|group| &group.name));
        let of_rules = users(config).flat_map(|users| &users.groups);
        let of_tests = config.tests.iter().flat_map(|test| &test.asker.groups);
        let nested = config.groups.iter().flat_map(|group| &group.groups);
        let named: Vec<&Text> = of_rules.chain(nested).chain(of_tests).collect();
        if !declared.is_empty() {
            for name in &named {
                if declared.binary_search(&name.value).is_err() {
                    self.unknown("group", name, declared.iter().map(String::as_str));
                }
            }
        }
        let all = sorted(config.groups.iter().map(|group| &group.name).chain(named));
        let groups = &mut self.names.list.groups;
        *groups = all.into_iter().map(|name| Group { name, ..Group::default() }).collect();
        for written in &config.groups {
            let id = self.names.list.group(&written.name.value).expect("all declared ones are in the list");
            let nested = written.groups.iter().filter_map(|name| self.names.list.group(&name.value));
            let mut nested: Vec<GroupId> = nested.collect();
            nested.sort_unstable();
            nested.dedup();
            for inner in &nested {
                self.names.list.groups[inner.0 as usize].parents.push(id);
            }
            for member in &written.members {
                self.names.list.member_of.entry(member.value.clone()).or_default().push(id);
            }
            let group = &mut self.names.list.groups[id.0 as usize];
            group.is_declared = true;
            group.groups = nested;
            group.members = sorted(written.members.iter());
            group.description = written.description.as_ref().map(|text| text.value.clone());
        }
        self.group_cycles(config);
    }

    /// Reports each group that lies on a circle of groups, once a circle: depth first, without recursion.
    fn group_cycles(&mut self, config: &Config) {
        let by_name: HashMap<&str, &identity::Group> =
            config.groups.iter().map(|group| (group.name.value.as_str(), group)).collect();
        let mut done: HashSet<&str> = HashSet::new();
        for start in &config.groups {
            // The way down: a group, and which of its nested ones comes next.
            let mut way: Vec<(&str, usize)> = Vec::new();
            let mut on_way: HashSet<&str> = HashSet::new();
            if done.insert(&start.name.value) {
                way.push((&start.name.value, 0));
                on_way.insert(&start.name.value);
            }
            while let Some((name, next)) = way.last_mut() {
                let Some(inner) = by_name.get(*name).and_then(|group| group.groups.get(*next)) else {
                    on_way.remove(*name);
                    way.pop();
                    continue;
                };
                *next += 1;
                let inner_name = inner.value.as_str();
                if on_way.contains(inner_name) {
                    let from = way.iter().position(|(name, _)| *name == inner_name).unwrap_or_default();
                    let mut circle: Vec<&str> = way[from..].iter().map(|(name, _)| *name).collect();
                    circle.push(inner_name);
                    let message = format!("group {} contains itself", quoted(inner_name));
                    self.report.error(inner.at, message).label(circle.join(" → "));
                } else if by_name.contains_key(inner_name) && done.insert(inner_name) {
                    way.push((inner_name, 0));
                    on_way.insert(inner_name);
                }
            }
        }
    }

    fn users_of(&self, written: &identity::Users) -> Users {
        let names = &self.names.list;
        let users = written.users.iter().filter(|name| name.value != "any");
        let mut users: Vec<UserId> = users.map(|name| names.user(&name.value)).collect();
        let mut groups: Vec<GroupId> =
            written.groups.iter().filter_map(|name| names.group(&name.value)).collect();
        users.sort_unstable();
        users.dedup();
        groups.sort_unstable();
        groups.dedup();
        Users { users, groups }
    }

    fn devices_of(&self, written: &identity::Devices) -> Devices {
        let mut tags: Vec<TagId> =
            written.tags.iter().filter_map(|name| self.names.list.tag(&name.value)).collect();
        tags.sort_unstable();
        tags.dedup();
        Devices { enrolled: written.enrolled, tags }
    }

    fn demands(&self, require: Option<&Require>) -> Condition {
        let Some(require) = require else { return Condition::default() };
        let postures = require.postures.iter().filter_map(|name| self.names.list.posture(&name.value));
        let mut postures: Vec<PostureId> = postures.collect();
        postures.sort_unstable();
        postures.dedup();
        Condition {
            gates: Vec::new(),
            users: require.users.as_ref().map(|users| self.users_of(users)),
            devices: require
                .devices
                .as_ref()
                .map(|devices| self.devices_of(devices))
                .filter(|devices| *devices != Devices::default()),
            phishing_resistant: require.phishing_resistant,
            mfa_max_age_s: require.mfa_max_age_s,
            postures,
            risk_below: require.risk_below,
        }
    }

    /// The condition of a segment's floor.
    pub(super) fn floor(&mut self, require: Option<&Require>) -> Option<ConditionId> {
        let condition = self.demands(require);
        self.names.condition(condition)
    }

    /// The condition of a rule.
    pub(super) fn condition(&mut self, rule: &Rule, action: Action) -> Option<ConditionId> {
        if rule.users.is_none()
            && rule.require.is_none()
            && rule.schedule.is_none()
            && rule.starts.is_none()
            && rule.expires.is_none()
        {
            return None;
        }
        if action != Action::Allow
            && let Some(require) = &rule.require
        {
            let hint = "only rules that allow ask for something; to deny all but some, allow those alone";
            self.report.error(require.at, "`require` of a rule that lets nothing through").hint(hint);
            return None;
        }
        if action == Action::Pass
            && let Some(users) = &rule.users
        {
            let hint = "what passes is left to the next tier, whoever asks; say there who may";
            self.report.error(users.at, "`users` of a rule that passes").hint(hint);
            return None;
        }
        let mut condition = self.demands(rule.require.as_deref());
        condition.users = rule.users.as_deref().map(|users| self.users_of(users));
        condition.gates = self.gates(rule);
        self.names.condition(condition)
    }

    /// The tier of this name; the last one when none is given.
    pub(super) fn tier(&mut self, tier: Option<&Text>, tiers: &[String]) -> u8 {
        let last = tiers.len().saturating_sub(1) as u8;
        let Some(tier) = tier else { return last };
        match tiers.iter().position(|name| *name == tier.value) {
            Some(index) => index as u8,
            None => {
                let hint = self.report.nearest(&tier.value, tiers.iter().map(String::as_str));
                let hint = hint.unwrap_or_else(|| format!("`tiers` are {}", tiers.join(", ")));
                self.report.error(tier.at, format!("unknown tier {}", quoted(&tier.value))).hint(hint);
                last
            }
        }
    }

    /// Who asks, in a test.
    pub(super) fn asker(&mut self, written: &Written, at: At) -> Asker {
        for (name, _) in &written.postures {
            self.check_posture(name);
        }
        self.names.list.asker(written).unwrap_or_else(|| {
            let hint = "say who asks: `user = \"alice\"`, or at least from which device: `device = { enrolled = true }`";
            self.report.error(at, "this test says something of nobody").hint(hint);
            Asker::Nobody
        })
    }
}
