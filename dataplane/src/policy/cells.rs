//! Rules → blocks → the lists of blocks over the cells of the matrix → what is decided in each.

use std::collections::HashMap;

use super::Bounds;
use super::classes::Side;
use super::clauses::{Clauses, Manners, Merger, TooMany};
use super::compile::{CompileError, MAX_COVERED, MAX_PIECES};
use super::conditions::ConditionId;
use super::lists::{Grouping, Interner, Lists};
use super::matrix;
use super::paint::{Merge, Painted, PaintedBlocks};
use super::ports::{PairPolicy, PortTables, TableId, TableInterner};
use super::rules::RuleSet;
use crate::verdict::RuleId;

/// What the policy of a matrix cell is made of, each once.
pub(super) struct Cells<'l> {
    lists: &'l Lists<u32>,
    /// By policy, the list and the floors of the two classes. Empty where there are no floors: then by list.
    of_policy: Vec<(u32, [Option<ConditionId>; 2])>,
}

impl<'l> Cells<'l> {
    /// Where there are floors the entries, which name lists, are made to name policies.
    pub(super) fn new(
        lists: &'l Lists<u32>,
        entries: &mut [matrix::Entry],
        from: &Side,
        to: &Side,
    ) -> Cells<'l> {
        let mut of_policy = Vec::new();
        if !from.floor_of_class.is_empty() || !to.floor_of_class.is_empty() {
            let mut known = HashMap::new();
            known.insert((matrix::EMPTY, [None; 2]), matrix::EMPTY);
            of_policy.push((matrix::EMPTY, [None; 2]));
            for (row, column, list) in entries {
                let floor =
                    |side: &Side, class: u32| side.floor_of_class.get(class as usize).copied().flatten();
                let key = (*list, [floor(from, *row), floor(to, *column)]);
                *list = *known.entry(key).or_insert_with(|| {
                    of_policy.push(key);
                    of_policy.len() as u32 - 1
                });
            }
        }
        Cells { lists, of_policy }
    }

    fn len(&self) -> usize {
        if self.of_policy.is_empty() { self.lists.len() } else { self.of_policy.len() }
    }

    fn iter(&self) -> impl Iterator<Item = (&'l [u32], [Option<ConditionId>; 2])> {
        let without = if self.of_policy.is_empty() { self.lists.len() } else { 0 };
        let without = (0..without as u32).map(|list| (list, [None; 2]));
        without.chain(self.of_policy.iter().copied()).map(|(list, floors)| (self.lists.list(list), floors))
    }
}

/// The policies of all lists of blocks.
pub(super) struct Compiled {
    pub policies: Vec<PairPolicy>,
    pub opaque: Vec<TableId>,
    pub tables: PortTables,
    pub clauses: Clauses,
    pub bounds: Bounds,
}

/// What the rules of a block share: the numbers of their two lists, and of their manner.
struct Key {
    from: u32,
    to: u32,
    manner: u32,
}

/// Rules with the same pair of lists that speak in the same manner; a block is a number here.
pub(super) struct Blocks {
    keys: Vec<Key>,
    rules: Lists<u32>,
    manners: Manners,
    /// By block, how many cells it covers.
    covers: Vec<usize>,
}

impl Blocks {
    pub(super) fn new(
        rules: &RuleSet,
        from: &Side,
        to: &Side,
        manners: Manners,
    ) -> Result<Blocks, CompileError> {
        let mut known = Interner::default();
        let mut keys = Vec::new();
        let sides = from.list_of_rule.iter().zip(&to.list_of_rule).zip(0..);
        let numbered = sides.map(|((from, to), rule)| {
            let key = Key { from: *from, to: *to, manner: manners.of_rule(rule) };
            let block = known.intern(&[key.from, key.to, key.manner]);
            if block as usize == keys.len() {
                keys.push(key);
            }
            block
        });
        let block_of_rule: Vec<u32> = numbered.collect();
        let covers =
            |key: &Key| from.classes_of_list.list(key.from).len() * to.classes_of_list.list(key.to).len();
        let covers: Vec<usize> = keys.iter().map(covers).collect();
        let covered = covers.iter().copied().fold(0, usize::saturating_add);
        if covered > MAX_COVERED {
            return Err(CompileError::TooManyPairs(covered));
        }
        let mut grouping = Grouping::new(keys.len());
        block_of_rule.iter().for_each(|block| grouping.expect(*block, 1));
        let rules = grouping.place(|placing| {
            block_of_rule
                .iter()
                .zip(0..rules.rules.len() as u32)
                .for_each(|(block, rule)| placing.put(*block, rule));
        });
        Ok(Blocks { keys, rules, manners, covers })
    }

    /// For every cell under any block its list of blocks, as a number; equal lists have one number.
    /// The number 0, [`matrix::EMPTY`], is the empty list.
    pub(super) fn lists_of_cells(&self, from: &Side, to: &Side) -> (Vec<matrix::Entry>, Lists<u32>) {
        let mut lists = Interner::default();
        lists.intern(&[]);
        let mut entries = Vec::new();
        // Of a list of one block, the number; of a block that covers one cell, that no list with it comes again.
        let mut list_of_single: Vec<Option<u32>> = vec![None; self.keys.len()];
        let mut by_column = ByColumn::new(to.classes);
        for (row, pairs) in (0..).zip(self.pairs_by_row(from, to).iter()) {
            by_column.sort(pairs, |column, blocks| {
                let list = match *blocks {
                    [block] => *list_of_single[block as usize].get_or_insert_with(|| lists.add(blocks)),
                    _ if blocks.iter().any(|block| self.covers[*block as usize] == 1) => lists.add(blocks),
                    _ => lists.intern(blocks),
                };
                entries.push((row, column, list));
            });
        }
        (entries, lists.lists)
    }

    /// Row by row all pairs of a column and a block over it, in the order of the blocks.
    fn pairs_by_row(&self, from: &Side, to: &Side) -> Lists<(u32, u32)> {
        let mut grouping = Grouping::new(from.classes);
        for key in &self.keys {
            let columns = to.classes_of_list.list(key.to).len() as u32;
            from.classes_of_list.list(key.from).iter().for_each(|row| grouping.expect(*row, columns));
        }
        grouping.place(|placing| {
            for (block, key) in (0..).zip(&self.keys) {
                let columns = to.classes_of_list.list(key.to);
                for row in from.classes_of_list.list(key.from) {
                    columns.iter().for_each(|column| placing.put(*row, (*column, block)));
                }
            }
        })
    }

    fn manner_of(&self, block: u32) -> u32 {
        self.keys[block as usize].manner
    }

    /// Whether the best cell of all blocks over a port decides there, whatever the circumstances.
    fn is_plain(&self, blocks: &[u32], floors: [Option<ConditionId>; 2]) -> bool {
        if self.manners.is_plain() {
            return true;
        }
        let manner = |block: &u32| self.manners.manner(self.manner_of(*block));
        let Some(first) = blocks.first().map(manner) else { return true };
        floors == [None; 2]
            && !first.passes
            && first.condition.is_none()
            && blocks.iter().all(|block| manner(block) == first)
    }

    /// What each block says by itself.
    fn paint(&self, rules: &RuleSet) -> PaintedBlocks {
        let (mut merge, mut all) = (Merge::default(), PaintedBlocks::with_capacity(self.rules.len()));
        for block in self.rules.iter() {
            let rules = block.iter().map(|rule| (*rule, &rules.rules[*rule as usize]));
            all.push(&merge.resolve_rules(rules));
        }
        all
    }

    /// The policy of each cell. A policy of one block is that block's pieces, one of several merges theirs.
    pub(super) fn policies(&self, rules: &RuleSet, cells: &Cells<'_>) -> Result<Compiled, CompileError> {
        let painted = self.paint(rules);
        let pieces = self.bound_pieces(cells, &painted)?;
        let mut interner = TableInterner::default();
        let mut policies = Vec::with_capacity(cells.len());
        let mut opaque_tables = Vec::with_capacity(cells.len());
        let (mut merge, mut merger) = (Merge::default(), Merger::default());
        for (blocks, floors) in cells.iter() {
            let Painted { tcp, udp, opaque, icmp, icmpv6 } = match blocks {
                _ if !self.is_plain(blocks, floors) => {
                    self.merge(blocks, floors, &painted, &mut merge, &mut merger)?
                }
                [block] => painted.block(*block),
                _ => merge.resolve(blocks, &painted),
            };
            opaque_tables.push(interner.intern(opaque));
            policies.push(PairPolicy::new(tcp, udp, icmp, icmpv6, &mut interner));
        }
        let clauses = merger.finish(&rules.conditions);
        let bounds = Bounds { covered: self.covers.iter().sum(), pieces, stale: 0 };
        Ok(Compiled { policies, opaque: opaque_tables, tables: interner.tables, clauses, bounds })
    }

    /// What blocks of different manners say together: those of one manner are merged as plain ones are, and then the
    /// manners.
    fn merge<'m>(
        &self,
        blocks: &[u32],
        floors: [Option<ConditionId>; 2],
        painted: &PaintedBlocks,
        merge: &mut Merge,
        merger: &'m mut Merger,
    ) -> Result<Painted<'m>, TooMany> {
        let mut by_manner = blocks.to_vec();
        by_manner.sort_unstable_by_key(|block| self.manner_of(*block));
        for group in by_manner.chunk_by(|a, b| self.manner_of(*a) == self.manner_of(*b)) {
            let manner = self.manners.manner(self.manner_of(group[0]));
            match group {
                [block] => merger.add(manner, floors, &painted.block(*block)),
                _ => merger.add(manner, floors, &merge.resolve(group, painted)),
            }
        }
        merger.resolve()
    }

    /// Refuses before merging what would take too long: merged pieces are at most as many as those that are merged.
    /// Otherwise says how many these are at most.
    fn bound_pieces(&self, cells: &Cells<'_>, painted: &PaintedBlocks) -> Result<usize, CompileError> {
        let costs = painted.costs();
        let everywhere = costs.iter().zip(&self.covers).map(|(cost, covers)| *cost as usize * covers);
        let everywhere = everywhere.fold(0, usize::saturating_add);
        if everywhere <= MAX_PIECES {
            return Ok(everywhere);
        }
        // Equal cells are merged once.
        let mut merged = 0;
        for (blocks, _) in cells.iter() {
            merged += blocks.iter().map(|block| costs[*block as usize] as usize).sum::<usize>();
            if merged > MAX_PIECES {
                return Err(CompileError::TooManyPieces(RuleId(self.rules.list(blocks[0])[0])));
            }
        }
        Ok(merged)
    }
}

/// Sorts the pairs of a row by column. Keeps its buffers between rows.
struct ByColumn {
    /// By column, how many blocks are over it, and then where its next one goes. All zero between calls.
    places: Vec<u32>,
    /// The columns with blocks.
    columns: Vec<u32>,
    blocks: Vec<u32>,
}

impl ByColumn {
    fn new(columns: usize) -> ByColumn {
        ByColumn { places: vec![0; columns], columns: Vec::new(), blocks: Vec::new() }
    }

    /// Calls back with every column that has blocks, and these, in the order of the pairs.
    fn sort(&mut self, pairs: &[(u32, u32)], mut column_blocks: impl FnMut(u32, &[u32])) {
        self.columns.clear();
        for (column, _) in pairs {
            let count = &mut self.places[*column as usize];
            if *count == 0 {
                self.columns.push(*column);
            }
            *count += 1;
        }
        let mut start = 0;
        for column in &self.columns {
            start += std::mem::replace(&mut self.places[*column as usize], start);
        }
        self.blocks.resize(pairs.len(), 0);
        for (column, block) in pairs {
            let place = &mut self.places[*column as usize];
            self.blocks[*place as usize] = *block;
            *place += 1;
        }
        let mut start = 0;
        for column in &self.columns {
            let end = std::mem::take(&mut self.places[*column as usize]) as usize;
            column_blocks(*column, &self.blocks[start..end]);
            start = end;
        }
    }
}
