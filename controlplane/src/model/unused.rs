//! What is declared and named by nothing: hardly what its author meant.

use std::collections::HashSet;

use bulkhead_dataplane::policy::conditions::{Condition, GroupId};

use super::resolve::Resolver;
use super::time::Gate;
use crate::config::diagnostics::quoted;
use crate::config::schema::{Config, Text};

impl Resolver {
    /// Warns of services, groups, postures and schedules that neither a rule nor a floor names, itself or through others.
    /// `used` are the services that were named.
    pub(super) fn warn_of_unused(
        &mut self,
        config: &Config,
        used: &HashSet<String>,
        conditions: &[Condition],
    ) {
        for service in config.services.iter().filter(|service| !used.contains(&service.name.value)) {
            self.warn_unused("service", &service.name);
        }
        let groups: HashSet<GroupId> = conditions
            .iter()
            .filter_map(|condition| condition.users.as_ref())
            .flat_map(|users| self.names.list.within(&users.groups))
            .collect();
        let postures: HashSet<u32> =
            conditions.iter().flat_map(|condition| &condition.postures).map(|posture| posture.0).collect();
        let gates = &self.names.list.gates;
        let schedules: HashSet<usize> = gates
            .iter()
            .filter_map(|gate| if let Gate::Schedule(index) = gate { Some(*index) } else { None })
            .collect();
        for group in &config.groups {
            if self.names.list.group(&group.name.value).is_some_and(|id| !groups.contains(&id)) {
                self.warn_unused("group", &group.name);
            }
        }
        for (posture, id) in config.postures.iter().zip(0..) {
            if !postures.contains(&id) {
                self.warn_unused("posture", &posture.name);
            }
        }
        for (index, schedule) in config.schedules.iter().enumerate() {
            if !schedules.contains(&index) {
                self.warn_unused("schedule", &schedule.name);
            }
        }
    }

    fn warn_unused(&mut self, what: &str, name: &Text) {
        self.report
            .warn(name.at, format!("no rule uses {what} {}", quoted(&name.value)))
            .hint("name it in a rule, or take it out");
    }
}
