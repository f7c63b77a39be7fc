//! Rules whose end is near or past: a plan is when somebody looks at rules anyway.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Ending, Model};

/// A rule that has expired, or expires soon: of which `check` warns as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiring {
    /// Its name.
    pub rule: String,
    /// As `check` calls it: `expired` or `expires-soon`.
    pub kind: String,
    /// When.
    pub expires: String,
    /// Until then, seconds; `None` when that is past.
    pub left_s: Option<u64>,
    /// Whether it ends so in the old configuration.
    pub old: bool,
    /// Whether it ends so in the new one.
    pub new: bool,
    /// `path:line:column` of it, in the new configuration if it ends so there.
    pub at: String,
}

/// The rules of both that have expired or expire soon, the first to expire first. A rule that ends otherwise in the new
/// configuration than in the old one is told for each.
pub fn expiring(old: &Model, new: &Model, now: Timestamp) -> Vec<Expiring> {
    let mut found: BTreeMap<(Timestamp, &str), Expiring> = BTreeMap::new();
    for (model, is_new) in [(old, false), (new, true)] {
        for info in &model.rule_infos {
            let (Some(expires), Some(ending)) = (info.expires, info.ending(now)) else { continue };
            let row = found.entry((expires, &info.name)).or_insert_with(|| Expiring {
                rule: info.name.clone(),
                kind: ending.kind().to_owned(),
                expires: expires.to_string(),
                left_s: (ending == Ending::Soon)
                    .then(|| expires.duration_since(now).as_secs().unsigned_abs()),
                old: false,
                new: false,
                at: String::new(),
            });
            *(if is_new { &mut row.new } else { &mut row.old }) = true;
            row.at = model.sources.place(info.at);
        }
    }
    found.into_values().collect()
}
