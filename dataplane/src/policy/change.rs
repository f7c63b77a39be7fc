//! A rule set that differs in a few rules from one that is compiled → its policy, made from the compiled one.
//!
//! Only the cells under rules that came or went are decided anew, from the rules over them; all others are copied, with
//! the numbers that their rules have now. Rules keep their order, so whatever decided in a cell still does. What no cell
//! names any more stays behind in the copy, until there is enough of it for a policy compiled from scratch.
//!
//! Whatever needs more than that (other segments, conditions or tiers, a rule that tells segments apart that were one
//! class, a rule over very many cells) is compiled from scratch. The limits of [`compile`] hold here as there: where they
//! might be passed, it decides.

use std::collections::{HashMap, HashSet};

use super::compile::{CompileError, MAX_COVERED, MAX_PIECES, MAX_RULES, check_rule, compile};
use super::lists::{Grouping, Interner, Lists, copied};
use super::paint::{Merge, Painted};
use super::ports::{PairPolicy, TableInterner};
use super::rules::{Action, Rule, RuleSet};
use super::{Bounds, Place, Policy};
use crate::verdict::{RuleId, SegmentId};

/// The most rules that may have come or gone.
const RULES: usize = 64;
/// How far to look for the place where two rule sets are alike again.
const WINDOW: usize = 16;
/// The most cells decided anew, and the most pairs of one of them and a rule over it: some milliseconds' work.
const CELLS: usize = 8192;
const PAIRS: usize = 1 << 18;
/// As many policies may lie about that no cell names, and besides a quarter of all.
const STALE: usize = 1024;

/// As [`compile`](compile()) of `new`, in less time where it differs in a few rules from `old`, which `before` was made from.
/// What else is set in a policy is as after compiling: not at all.
pub fn recompile(before: &Policy, old: &RuleSet, new: &RuleSet) -> Result<Policy, CompileError> {
    match changed(before, old, new) {
        Some(policy) => Ok(policy),
        None => compile(new),
    }
}

/// Nothing where it has to be compiled from scratch.
pub(super) fn changed(before: &Policy, old: &RuleSet, new: &RuleSet) -> Option<Policy> {
    let is_alike = old.segments == new.segments && old.conditions == new.conditions;
    let is_known = before.rules == old.rules.len() && !before.policies.is_empty();
    if !is_alike || !is_known || new.rules.len() > MAX_RULES {
        return None;
    }
    let changes = Changes::between(&old.rules, &new.rules)?;
    let touched = Touched::new(before, old, new, &changes)?;
    let rules = touched.rules(before.trie.values(), new)?;
    let mut policy = copy(before, &changes, touched.cells.len());
    policy.rules = new.rules.len();
    policy.bounds.covered += touched.added;
    policy.bounds.pieces +=
        rules.iter().flatten().map(|rule| most_pieces(&new.rules[*rule as usize])).sum::<usize>();
    decide(&mut policy, new, &touched, &rules);
    let Bounds { covered, pieces, stale } = policy.bounds;
    let is_within =
        covered <= MAX_COVERED && pieces <= MAX_PIECES && stale <= STALE + policy.policies.len() / 4;
    is_within.then_some(policy)
}

/// Where two lists of rules differ, when the rules that they have in common stand in the same order in both.
struct Changes {
    /// By old number the new one, [`GONE`] for rules that went.
    numbers: Vec<u32>,
    /// The old numbers of rules that went, ascending.
    gone: Vec<u32>,
    /// The new numbers of rules that came, ascending.
    added: Vec<u32>,
}

const GONE: u32 = u32::MAX;

impl Changes {
    /// Nothing when they differ in more than [`RULES`], as far as can be seen from near.
    fn between(old: &[Rule], new: &[Rule]) -> Option<Changes> {
        let mut changes =
            Changes { numbers: Vec::with_capacity(old.len()), gone: Vec::new(), added: Vec::new() };
        let (mut at_old, mut at_new) = (0, 0);
        loop {
            let (rest_old, rest_new) = (&old[at_old..], &new[at_new..]);
            let alike = rest_old.iter().zip(rest_new).take_while(|(old, new)| old == new).count();
            changes.numbers.extend(at_new as u32..(at_new + alike) as u32);
            (at_old, at_new) = (at_old + alike, at_new + alike);
            let (gone, added) = next_alike(&old[at_old..], &new[at_new..])?;
            if (gone, added) == (0, 0) {
                return Some(changes);
            }
            changes.numbers.resize(at_old + gone, GONE);
            changes.gone.extend(at_old as u32..(at_old + gone) as u32);
            changes.added.extend(at_new as u32..(at_new + added) as u32);
            if changes.gone.len() + changes.added.len() > RULES {
                return None;
            }
            (at_old, at_new) = (at_old + gone, at_new + added);
        }
    }

    /// Whether no rule that stays has another number.
    fn keeps_numbers(&self) -> bool {
        self.numbers.iter().zip(0..).all(|(new, old)| *new == old || *new == GONE)
    }
}

/// How many rules to skip in either, so that the next ones are alike; all of them at the end.
fn next_alike(old: &[Rule], new: &[Rule]) -> Option<(usize, usize)> {
    let is_end = |gone: usize, added: usize| gone == old.len() && added == new.len();
    let is_alike = |gone: usize, added: usize| {
        old.get(gone).zip(new.get(added)).is_some_and(|(old, new)| old == new) || is_end(gone, added)
    };
    // The nearest place first.
    let near = (0..=2 * WINDOW).flat_map(|both| (0..=both).map(move |gone| (gone, both - gone)));
    near.into_iter().find(|(gone, added)| is_alike(*gone, *added))
}

/// The cells under rules that came or went.
struct Touched {
    /// Row and column of each.
    cells: Vec<(u32, u32)>,
    /// By row and column, the index in `cells`.
    index: HashMap<(u32, u32), u32>,
    /// How many pairs of a rule that came and a cell under it there are.
    added: usize,
}

impl Touched {
    /// Nothing when there are more than [`CELLS`], when a rule that came names a part of a class only, and when it cannot
    /// be compiled or needs more than its ports to be decided.
    fn new(before: &Policy, old: &RuleSet, new: &RuleSet, changes: &Changes) -> Option<Touched> {
        let places = before.trie.values();
        let (row, column) = (|place: &Place| place.row, |place: &Place| place.column);
        let (in_row, in_column) = (sizes(places, row), sizes(places, column));
        let mut touched = Touched { cells: Vec::new(), index: HashMap::new(), added: 0 };
        let gone = changes.gone.iter().map(|rule| (&old.rules[*rule as usize], false));
        let added = changes.added.iter().map(|rule| (RuleId(*rule), &new.rules[*rule as usize]));
        if added.clone().any(|(id, rule)| check_rule(new, id, rule).is_err()) {
            return None;
        }
        for (rule, is_added) in gone.chain(added.map(|(_, rule)| (rule, true))) {
            let segment = |id: &SegmentId| &new.segments[id.0 as usize];
            let has_floor = rule.from.iter().any(|id| segment(id).floor_out.is_some())
                || rule.to.iter().any(|id| segment(id).floor.is_some());
            let rows = whole_classes(&rule.from, places, row, &in_row)?;
            let columns = whole_classes(&rule.to, places, column, &in_column)?;
            let covered = rows.len().saturating_mul(columns.len());
            if has_floor || touched.cells.len() + covered > CELLS {
                return None;
            }
            touched.added += if is_added { covered } else { 0 };
            for cell in rows.iter().flat_map(|row| columns.iter().map(|column| (*row, *column))) {
                touched.index.entry(cell).or_insert_with(|| {
                    touched.cells.push(cell);
                    touched.cells.len() as u32 - 1
                });
            }
        }
        Some(touched)
    }

    /// By cell, the rules over it. Nothing when they do not all speak in one plain manner, so that the best of them
    /// decides, and when there are too many.
    fn rules(&self, places: &[Place], new: &RuleSet) -> Option<Lists<u32>> {
        let (mut is_row, mut is_column) = (vec![false; places.len()], vec![false; places.len()]);
        let mut tier_of_cell: Vec<Option<u8>> = vec![None; self.cells.len()];
        let (rows, columns): (HashSet<u32>, HashSet<u32>) = self.cells.iter().copied().unzip();
        for (index, place) in places.iter().enumerate() {
            (is_row[index], is_column[index]) = (rows.contains(&place.row), columns.contains(&place.column));
        }
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        let (mut rows, mut columns) = (Vec::new(), Vec::new());
        for (id, rule) in (0..).zip(&new.rules) {
            let touches =
                |list: &[SegmentId], is_touched: &[bool]| list.iter().any(|s| is_touched[s.0 as usize]);
            if !touches(&rule.from, &is_row) || !touches(&rule.to, &is_column) {
                continue;
            }
            classes(&rule.from, places, |place| place.row, &mut rows);
            classes(&rule.to, places, |place| place.column, &mut columns);
            for cell in rows.iter().flat_map(|row| columns.iter().map(|column| (*row, *column))) {
                let Some(index) = self.index.get(&cell) else { continue };
                let tier = tier_of_cell[*index as usize].get_or_insert(rule.tier);
                let is_plain = rule.condition.is_none() && rule.action != Action::Pass && *tier == rule.tier;
                if !is_plain || pairs.len() == PAIRS {
                    return None;
                }
                pairs.push((*index, id));
            }
        }
        let mut grouping = Grouping::new(self.cells.len());
        pairs.iter().for_each(|(cell, _)| grouping.expect(*cell, 1));
        Some(grouping.place(|placing| pairs.iter().for_each(|(cell, rule)| placing.put(*cell, *rule))))
    }
}

/// By class, how many segments it has.
fn sizes(places: &[Place], class: impl Fn(&Place) -> u32) -> Vec<u32> {
    let mut sizes = Vec::new();
    for class in places.iter().map(class) {
        sizes.resize(sizes.len().max(class as usize + 1), 0);
        sizes[class as usize] += 1;
    }
    sizes
}

/// The classes of the segments, ascending, each once.
fn classes(list: &[SegmentId], places: &[Place], class: impl Fn(&Place) -> u32, classes: &mut Vec<u32>) {
    classes.clear();
    classes.extend(list.iter().map(|segment| class(&places[segment.0 as usize])));
    classes.sort_unstable();
    classes.dedup();
}

/// As [`classes`], unless one of them has more segments than are named.
fn whole_classes(
    list: &[SegmentId],
    places: &[Place],
    class: impl Fn(&Place) -> u32,
    sizes: &[u32],
) -> Option<Vec<u32>> {
    let mut named = list.to_vec();
    named.sort_unstable();
    named.dedup();
    let mut all = Vec::new();
    classes(&named, places, class, &mut all);
    let segments: usize = all.iter().map(|class| sizes[*class as usize] as usize).sum();
    (segments == named.len()).then_some(all)
}

/// At least as many pieces as the rule counts for in any cell.
fn most_pieces(rule: &Rule) -> usize {
    // Of three kinds of protocols: two pieces around each range, one more, and as many that say something.
    3 * (3 * rule.services.len() + 1)
}

/// All tables, with the new numbers of the rules, and with room for so many policies more.
fn copy(before: &Policy, changes: &Changes, more: usize) -> Policy {
    let numbers = (!changes.keeps_numbers()).then_some(changes.numbers.as_slice());
    Policy {
        trie: before.trie.clone(),
        matrix: before.matrix.clone(),
        policies: copied(&before.policies, more, numbers, PairPolicy::renumbered),
        opaque: copied(&before.opaque, more, None, |table, _| *table),
        tables: before.tables.copied(more, numbers),
        clauses: numbers.map_or_else(|| before.clauses.clone(), |numbers| before.clauses.renumbered(numbers)),
        bounds: before.bounds,
        ..Policy::default()
    }
}

/// Decides the cells from the rules over them. A cell without rules gets a policy of its own that is silent, for in a sparse
/// matrix what is occupied has to stay so.
fn decide(policy: &mut Policy, new: &RuleSet, touched: &Touched, rules: &Lists<u32>) {
    let mut interner = TableInterner::after(std::mem::take(&mut policy.tables));
    let (mut lists, mut merge) = (Interner::default(), Merge::default());
    let first = policy.policies.len() as u32;
    for ((row, column), list) in touched.cells.iter().zip(rules.iter()) {
        let number = first + lists.intern(list);
        if number as usize == policy.policies.len() {
            let numbered = list.iter().map(|rule| (*rule, &new.rules[*rule as usize]));
            let Painted { tcp, udp, opaque, icmp, icmpv6 } = merge.resolve_rules(numbered);
            policy.opaque.push(interner.intern(opaque));
            policy.policies.push(PairPolicy::new(tcp, udp, icmp, icmpv6, &mut interner));
        }
        policy.matrix.set(*row, *column, number);
    }
    policy.bounds.stale += policy.policies.len() - first as usize;
    policy.tables = interner.tables;
}
