//! What a replay came to: packets by verdict, reason, rule and pair of segments, with samples.

use std::collections::HashMap;

use bulkhead_dataplane::verdict::Reason;
use serde_json::{Value, json};

use super::judge::{Dropped, Fate, Said};

/// The most different kinds of outcome that are told apart.
const GROUPS_MAX: usize = 65_536;
/// Samples of each.
const SAMPLES: usize = 3;

/// What one policy said, in names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Told {
    /// What becomes of it.
    pub fate: Fate,
    /// Why not.
    pub reason: Option<Reason>,
    /// The deciding rule.
    pub rule: Option<String>,
}

impl Told {
    /// The answer as a JSON object.
    pub fn to_json(&self) -> Value {
        json!({ "verdict": self.fate.name(), "reason": self.reason.map(Reason::name), "rule": self.rule })
    }
}

/// Names of the originator's segment and the responder's.
type Pair = (Option<String>, Option<String>);

/// What had the same outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What each policy said, the new one first.
    pub told: Vec<Told>,
    /// Between which segments.
    pub pair: Pair,
    /// How many packets, or recorded connections.
    pub packets: u64,
    /// How many of the packets opened a connection.
    pub opened: u64,
    /// Bytes of the frames.
    pub bytes: u64,
    /// When the first and the last came.
    pub span: (String, String),
    /// Some of them.
    pub samples: Vec<String>,
}

/// The sum of a replay.
#[derive(Debug, Default)]
pub struct Tally {
    groups: HashMap<(Vec<Told>, Pair), Group>,
    /// Packets for which there was no room among the groups.
    pub overflow: u64,
    /// Packets, or recorded connections, that were read.
    pub read: u64,
    /// Of those, forwarded by the new policy.
    pub forwarded: u64,
    /// Refused by it.
    pub refused: u64,
    /// Fragments that wait at the end.
    pub held: u64,
    /// Packets about which two policies agree.
    pub same: u64,
    /// Not judged: captured where they left the gateway.
    pub leaving: u64,
    /// Not judged: of interfaces that are not Ethernet. They are not among those read.
    pub foreign: u64,
    /// Not judged: so little was kept that not even the ports are known.
    pub too_short: u64,
    /// Not judged: longer than any packet.
    pub oversized: u64,
    /// Judged though only their beginning was kept.
    pub cut: u64,
    /// Stamped earlier than one before them.
    pub backwards: u64,
    /// Events: ends of connections, which are no questions.
    pub ended: u64,
    /// Events: lines about no connection.
    pub others: u64,
    /// Events that the file says were lost.
    pub lost: u64,
}

impl Tally {
    /// Counts what became of a packet.
    pub(super) fn ledger(&mut self, said: &Said) {
        let packets = said.fragments.max(1);
        match said.fate {
            Fate::Forward => self.forwarded += packets,
            Fate::Drop | Fate::Answer => self.refused += packets,
            // Counted when its wait is over.
            Fate::Wait => {}
        }
        self.refused += said.displaced;
    }

    /// Counts fragments that waited in vain.
    pub(super) fn gone(&mut self, dropped: &Dropped) {
        self.refused += dropped.iter().map(|(_, count)| count).sum::<u64>();
    }

    pub(super) fn add(
        &mut self,
        told: Vec<Told>,
        pair: Pair,
        opened: bool,
        bytes: u64,
        ts: String,
        sample: String,
    ) {
        let is_full = self.groups.len() >= GROUPS_MAX;
        let key = (told, pair);
        if is_full && !self.groups.contains_key(&key) {
            self.overflow += 1;
            return;
        }
        let group = self.groups.entry(key).or_insert_with_key(|(told, pair)| Group {
            told: told.clone(),
            pair: pair.clone(),
            packets: 0,
            opened: 0,
            bytes: 0,
            span: (ts.clone(), ts.clone()),
            samples: Vec::new(),
        });
        group.packets += 1;
        group.opened += u64::from(opened);
        group.bytes += bytes;
        group.span.1 = ts;
        if group.samples.len() < SAMPLES {
            group.samples.push(sample);
        }
    }

    /// Packets that were not judged.
    pub fn left_out(&self) -> u64 {
        self.leaving + self.too_short + self.oversized
    }

    /// The groups, the most frequent first.
    pub fn groups(&self) -> Vec<&Group> {
        let mut groups: Vec<_> = self.groups.values().collect();
        groups.sort_unstable_by(|a, b| {
            b.packets.cmp(&a.packets).then_with(|| (&a.told, &a.pair).cmp(&(&b.told, &b.pair)))
        });
        groups
    }

    /// How many groups differ, with two policies: all of them.
    pub fn differences(&self) -> u64 {
        self.groups.values().map(|group| group.packets).sum::<u64>() + self.overflow
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let group = |group: &&Group| {
            let mut value = json!({
                "from": group.pair.0, "to": group.pair.1, "packets": group.packets, "opened": group.opened,
                "bytes": group.bytes, "first": group.span.0, "last": group.span.1, "samples": group.samples,
            });
            match &group.told[..] {
                [new, old] => {
                    value["new"] = new.to_json();
                    value["old"] = old.to_json();
                }
                told => {
                    for (key, said) in
                        told.iter().flat_map(|told| told.to_json().as_object().cloned()).flatten()
                    {
                        value[key] = said;
                    }
                }
            }
            value
        };
        json!({
            "read": self.read, "forwarded": self.forwarded, "refused": self.refused, "held": self.held,
            "same": self.same, "left_out": {
                "leaving": self.leaving, "not_ethernet": self.foreign, "too_short": self.too_short,
                "oversized": self.oversized, "ended": self.ended, "others": self.others,
            },
            "cut": self.cut, "backwards": self.backwards, "events_lost": self.lost,
            "groups_overflow": self.overflow, "groups": self.groups().iter().map(group).collect::<Vec<_>>(),
        })
    }
}
