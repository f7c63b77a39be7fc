//! All pairs of ends that the policies treat alike, and which rules speak about them.
//!
//! ```text
//! networks  ─ longest matches ─▶ zones ─ by port ─▶ ends            (zones.rs, ends.rs)
//! ends      ─ same lists, same floors ─▶ classes: rows, columns
//! rules     ─ same rows, same columns ─▶ blocks
//! blocks over a row and a column      ─▶ cell
//! ```
//!
//! Rules never meet segments one by one, as in the policy compiler. A block that both policies have alike says the same
//! in both, so of two policies only the cells are looked at that some other block covers.

use std::collections::HashMap;
use std::fmt;

use bulkhead_dataplane::policy::{Action, ConditionId, Rule, RuleSet, Segment, Service};
use bulkhead_dataplane::verdict::RuleId;

use super::demands::{DemandId, Demands, Moments};
use super::ends::{self, Class, End, Lists};
use super::forms::{self, Clause};
use super::zones::zones;

/// A policy with what the connections of each rule have besides: equal numbers for equal things (limits, time-outs).
#[derive(Clone, Copy)]
pub struct Policy<'r> {
    /// The rules.
    pub rules: &'r RuleSet,
    /// By rule.
    pub effects: &'r [u32],
}

/// The most pairs of a block and a cell that are looked at: a few seconds and some hundred MiB.
const MAX_COVERED: u64 = 32 << 20;

/// The policies' lists of segments cross each other in too many places to look at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the rules' `from` and `to` lists cross in more than {MAX_COVERED} places, too many to look at all of \
             them; give rules the same lists where they mean the same segments"
        )
    }
}

impl std::error::Error for TooLarge {}

/// Rules with the same sources and destinations.
struct Block {
    columns: u32,
    /// Ascending.
    rules: Vec<RuleId>,
    /// Whether the other policy has the same.
    is_shared: bool,
}

/// The pairs of ends of `N` policies.
pub struct Atlas<'r, const N: usize> {
    /// The policies.
    pub policies: [Policy<'r>; N],
    /// Every source.
    pub sources: Vec<End<N>>,
    /// Every destination.
    pub destinations: Vec<End<N>>,
    /// Classes of sources.
    pub rows: Vec<Class<N>>,
    /// Classes of destinations.
    pub columns: Vec<Class<N>>,
    /// What the rules ask for.
    pub demands: Demands,
    /// Distinct lists of rows or columns.
    lists: Vec<Vec<u32>>,
    blocks: [Vec<Block>; N],
    blocks_of_row: [Vec<Vec<u32>>; N],
    /// Rows and columns whose floors differ.
    floors_differ: [Vec<bool>; 2],
}

/// Which blocks speak about a row and a column: of each policy. Equal for cells that are treated alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Content<const N: usize> {
    blocks: [Vec<u32>; N],
    /// Of each policy, the source's floor and the destination's.
    pub floors: [[Option<ConditionId>; 2]; N],
    /// Whether packets are IPv4, and whether IPv6.
    pub families: [bool; 2],
}

impl<'r, const N: usize> Atlas<'r, N> {
    /// Of these policies, whose ports, users, groups, tags, postures and gates have the same numbers.
    ///
    /// # Errors
    ///
    /// There is more to look at than can be looked at in bounded time.
    pub fn new(policies: [Policy<'r>; N], moments: &Moments) -> Result<Atlas<'r, N>, TooLarge> {
        let rules = policies.map(|policy| policy.rules);
        let zones = zones(rules);
        let sources = ends::sources(rules, &zones);
        let destinations = ends::destinations(&zones);
        let mut demands = Demands::new(moments.clone());
        let from = rules.map(|rules| Lists::new(rules, |rule| &rule.from, &floors(rules, |s| s.floor_out)));
        let to = rules.map(|rules| Lists::new(rules, |rule| &rule.to, &floors(rules, |s| s.floor)));
        let rows = ends::classes(&sources, &from);
        let columns = ends::classes(&destinations, &to);
        let floors_differ = [
            differing(&mut demands, rules, &rows, |segment| segment.floor_out),
            differing(&mut demands, rules, &columns, |segment| segment.floor),
        ];
        let mut atlas = Atlas {
            policies,
            sources,
            destinations,
            rows,
            columns,
            demands,
            lists: Vec::new(),
            blocks: std::array::from_fn(|_| Vec::new()),
            blocks_of_row: std::array::from_fn(|_| Vec::new()),
            floors_differ,
        };
        atlas.make_blocks(&from, &to)?;
        Ok(atlas)
    }

    fn make_blocks(&mut self, from: &[Lists; N], to: &[Lists; N]) -> Result<(), TooLarge> {
        let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
        let mut named: [HashMap<(u32, u32), Vec<RuleId>>; N] = std::array::from_fn(|_| HashMap::new());
        let mut listed = 0;
        for policy in 0..N {
            let rows = class_lists(policy, &self.rows, &from[policy], &mut known, &mut self.lists);
            let columns = class_lists(policy, &self.columns, &to[policy], &mut known, &mut self.lists);
            let lists = from[policy].of_rule.iter().zip(&to[policy].of_rule).zip(0..);
            for ((from, to), rule) in lists {
                let key = (rows[*from as usize], columns[*to as usize]);
                named[policy].entry(key).or_default().push(RuleId(rule));
            }
        }
        let shared: Vec<(u32, u32)> = match N {
            2 => named[0].keys().filter(|key| self.is_shared(&named, key)).copied().collect(),
            _ => Vec::new(),
        };
        let shared: std::collections::HashSet<(u32, u32)> = shared.into_iter().collect();
        for (policy, named) in named.into_iter().enumerate() {
            let mut all: Vec<((u32, u32), Vec<RuleId>)> = named.into_iter().collect();
            // In the order of the rules, whatever the map's was.
            all.sort_unstable_by(|a, b| a.1.cmp(&b.1));
            let mut of_row = vec![Vec::new(); self.rows.len()];
            for ((rows, columns), rules) in all {
                let number = self.blocks[policy].len() as u32;
                let rows_list = &self.lists[rows as usize];
                listed += rows_list.len() as u64;
                if listed > MAX_COVERED {
                    return Err(TooLarge);
                }
                rows_list.iter().for_each(|row| of_row[*row as usize].push(number));
                let is_shared = shared.contains(&(rows, columns));
                self.blocks[policy].push(Block { columns, rules, is_shared });
            }
            self.blocks_of_row[policy] = of_row;
        }
        Ok(())
    }

    /// Whether both policies say the same between these rows and columns.
    fn is_shared(&mut self, named: &[HashMap<(u32, u32), Vec<RuleId>>; N], key: &(u32, u32)) -> bool {
        let [ours, theirs] = [0, 1].map(|policy| named[policy].get(key));
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return false };
        ours.len() == theirs.len() && self.essence(0, ours) == self.essence(1, theirs)
    }

    /// What rules say, without their names. The order matters only where their effects differ.
    fn essence(&mut self, policy: usize, rules: &[RuleId]) -> Vec<(u8, Action, DemandId, u32, Vec<Service>)> {
        let mut essence: Vec<_> = Vec::with_capacity(rules.len());
        for id in rules {
            let Policy { rules, effects } = self.policies[policy];
            let rule: &Rule = &rules.rules[id.0 as usize];
            let demand = self.demands.merge(policy, rules, rule.action, [rule.condition, None, None]);
            let mut services = rule.services.clone();
            services.sort_unstable();
            services.dedup();
            let effect = if rule.action == Action::Allow { effects[id.0 as usize] } else { 0 };
            // Tiers are few, so that the floors' bit has room beside them.
            let tier = rule.tier << 1 | u8::from(rule.waives_floors);
            essence.push((tier, rule.action, demand, effect, services));
        }
        if essence.iter().all(|of| of.3 == essence[0].3) {
            essence.sort_unstable();
        }
        essence
    }

    /// Visits the cells of one policy that rules speak about, or of two those that may differ. A cell's ends share an
    /// address family. Row by row.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn visit(&self, mut each: impl FnMut(u32, u32, &Content<N>)) -> Result<(), TooLarge> {
        let any_column = self.floors_differ[1].contains(&true);
        // By column, the row that asked for it last.
        let mut asked = vec![u32::MAX; self.columns.len()];
        let mut contents: Vec<[Vec<u32>; N]> =
            (0..self.columns.len()).map(|_| std::array::from_fn(|_| Vec::new())).collect();
        let mut covered = 0u64;
        for (row, number) in self.rows.iter().zip(0u32..) {
            let all = N != 2 || self.floors_differ[0][number as usize];
            let of_row = |policy: usize| {
                let blocks = self.blocks_of_row[policy][number as usize].iter();
                blocks.map(move |block| (*block, &self.blocks[policy][*block as usize]))
            };
            let mut wanted: Vec<u32> = Vec::new();
            for (_, block) in (0..N).flat_map(of_row) {
                let whole = all || !block.is_shared;
                if !whole && !any_column {
                    continue;
                }
                let columns = &self.lists[block.columns as usize];
                covered += columns.len() as u64;
                for column in columns {
                    let is_wanted = whole || self.floors_differ[1][*column as usize];
                    if is_wanted && asked[*column as usize] != number {
                        asked[*column as usize] = number;
                        wanted.push(*column);
                    }
                }
            }
            if wanted.is_empty() {
                continue;
            }
            for (policy, id, block) in
                (0..N).flat_map(|policy| of_row(policy).map(move |(id, b)| (policy, id, b)))
            {
                let columns = &self.lists[block.columns as usize];
                covered += columns.len() as u64;
                for column in columns.iter().map(|column| *column as usize) {
                    if asked[column] == number {
                        contents[column][policy].push(id);
                    }
                }
            }
            if covered > MAX_COVERED {
                return Err(TooLarge);
            }
            wanted.sort_unstable();
            for column in wanted {
                let blocks =
                    std::mem::replace(&mut contents[column as usize], std::array::from_fn(|_| Vec::new()));
                let class = &self.columns[column as usize];
                let families =
                    std::array::from_fn(|f| row.samples[f].is_some() && class.samples[f].is_some());
                if families != [false; 2] {
                    let floors = std::array::from_fn(|policy| self.floors(policy, row, class));
                    each(number, column, &Content { blocks, floors, families });
                }
            }
        }
        Ok(())
    }

    fn floors(&self, policy: usize, row: &Class<N>, column: &Class<N>) -> [Option<ConditionId>; 2] {
        let segments = &self.policies[policy].rules.segments;
        let of = |class: &Class<N>| class.segments[policy].map(|segment| &segments[segment.0 as usize]);
        [of(row).and_then(|segment| segment.floor_out), of(column).and_then(|segment| segment.floor)]
    }

    /// The rules of a policy that speak about a cell, as clauses in their order.
    pub fn clauses(&mut self, policy: usize, content: &Content<N>) -> Vec<Clause> {
        let Policy { rules, effects } = self.policies[policy];
        let ids = content.blocks[policy].iter();
        let mut clauses = Vec::new();
        for id in ids.flat_map(|block| self.blocks[policy][*block as usize].rules.iter()) {
            let rule = &rules.rules[id.0 as usize];
            let [out, into] = content.floors[policy];
            let is_bound = rule.action == Action::Allow && !rule.waives_floors;
            let floors = if is_bound { [out, into] } else { [None; 2] };
            let conditions = [rule.condition, floors[0], floors[1]];
            let demand = self.demands.merge(policy, rules, rule.action, conditions);
            let effect = if rule.action == Action::Allow { effects[id.0 as usize] } else { 0 };
            clauses.push(Clause { tier: rule.tier, action: rule.action, demand, effect, rule: *id });
        }
        clauses.sort_unstable_by_key(Clause::order);
        clauses
    }
}

/// By rule, where on the line of protocols its services lie.
pub fn spans_of_rules(rules: &RuleSet) -> Vec<Vec<(u32, u32)>> {
    rules.rules.iter().map(|rule| forms::spans(&rule.services, rule.action)).collect()
}

fn floors(rules: &RuleSet, of: impl Fn(&Segment) -> Option<ConditionId>) -> Vec<Option<ConditionId>> {
    rules.segments.iter().map(of).collect()
}

/// By class, whether its floors are not the same in all policies.
fn differing<const N: usize>(
    demands: &mut Demands,
    rules: [&RuleSet; N],
    classes: &[Class<N>],
    floor: impl Fn(&Segment) -> Option<ConditionId>,
) -> Vec<bool> {
    let mut differs = Vec::with_capacity(classes.len());
    for class in classes {
        let mut found: Vec<DemandId> = Vec::with_capacity(N);
        for (policy, rules) in rules.iter().enumerate() {
            if let Some(segment) = class.segments[policy] {
                let floor = floor(&rules.segments[segment.0 as usize]);
                found.push(demands.merge(policy, rules, Action::Allow, [floor, None, None]));
            }
        }
        found.dedup();
        differs.push(found.len() > 1);
    }
    differs
}

/// For each list of segments, the number of the list of classes that it covers.
fn class_lists<const N: usize>(
    policy: usize,
    classes: &[Class<N>],
    lists: &Lists,
    known: &mut HashMap<Vec<u32>, u32>,
    all: &mut Vec<Vec<u32>>,
) -> Vec<u32> {
    // By class of segments, the classes of ends that it is part of.
    let mut parts: HashMap<u32, Vec<u32>> = HashMap::new();
    for (class, number) in classes.iter().zip(0..) {
        if let Some(segment) = class.segments[policy] {
            parts.entry(lists.class(segment)).or_default().push(number);
        }
    }
    let mut numbers = Vec::with_capacity(lists.lists.len());
    let mut covered: Vec<u32> = Vec::new();
    let mut of_segments: Vec<u32> = Vec::new();
    for list in &lists.lists {
        of_segments.clear();
        of_segments.extend(list.iter().map(|segment| lists.class(*segment)));
        of_segments.sort_unstable();
        of_segments.dedup();
        covered.clear();
        covered.extend(of_segments.iter().filter_map(|class| parts.get(class)).flatten());
        covered.sort_unstable();
        let number = known.get(&covered).copied().unwrap_or_else(|| {
            all.push(covered.clone());
            known.insert(covered.clone(), all.len() as u32 - 1);
            all.len() as u32 - 1
        });
        numbers.push(number);
    }
    numbers
}
