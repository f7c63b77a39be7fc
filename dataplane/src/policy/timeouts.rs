//! Which rules have idle limits of their own.

use super::Policy;
use crate::connection::{MAX_OVERRIDES, Overrides, Table, TimeoutClass};
use crate::verdict::RuleId;

/// The rules' limits: as sets, and which of them each rule has.
#[derive(Clone, Default)]
pub(super) struct RuleTimeouts {
    /// Different ones, in the order of their first rules.
    sets: Vec<Overrides>,
    /// By rule, an index of `sets`; shorter than the rules where all that follow have none.
    by_rule: Vec<Option<u8>>,
    /// By index of `sets`; empty until [`Policy::bind`].
    classes: Vec<TimeoutClass>,
}

impl Policy {
    /// Gives rules limits of their own: `overrides` by rule, in ascending order; rules left out have the gateway's.
    /// Call [`Policy::bind`] afterwards.
    ///
    /// # Errors
    /// The rule with which there are more than [`MAX_OVERRIDES`] different ones.
    pub fn set_timeouts(
        &mut self,
        overrides: impl IntoIterator<Item = (RuleId, Overrides)>,
    ) -> Result<(), RuleId> {
        let mut timeouts = RuleTimeouts::default();
        for (rule, set) in overrides {
            if set == Overrides::default() {
                continue;
            }
            let known = timeouts.sets.iter().position(|known| *known == set).unwrap_or_else(|| {
                timeouts.sets.push(set);
                timeouts.sets.len() - 1
            });
            if known >= MAX_OVERRIDES {
                return Err(rule);
            }
            let index = rule.index().unwrap_or(0);
            timeouts.by_rule.resize(timeouts.by_rule.len().max(index + 1), None);
            timeouts.by_rule[index] = Some(known as u8);
        }
        self.timeouts = timeouts;
        Ok(())
    }

    /// Has the table keep these limits before the policy is published.
    pub fn bind(&mut self, table: &Table) {
        self.timeouts.classes = table.claim_classes(&self.timeouts.sets);
    }

    /// Whose limits the connections of this rule have.
    #[inline]
    pub fn timeout_class(&self, rule: RuleId) -> TimeoutClass {
        let RuleTimeouts { by_rule, classes, .. } = &self.timeouts;
        let set = rule.index().and_then(|index| by_rule.get(index).copied().flatten());
        set.and_then(|set| classes.get(usize::from(set)).copied()).unwrap_or_default()
    }
}
