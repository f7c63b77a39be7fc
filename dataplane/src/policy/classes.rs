//! Segments → classes: segments named by exactly the same rules on one side, and with the same floor, need only
//! one row or column.

use std::collections::BTreeMap;

use super::conditions::ConditionId;
use super::lists::{Interner, Lists};
use super::rules::RuleSet;
use crate::verdict::SegmentId;

/// One side of all rules: their `from` lists, or their `to` lists.
pub(super) struct Side {
    /// For each rule, the number of its distinct list of segments.
    pub list_of_rule: Vec<u32>,
    /// For each distinct list, the classes that it covers, ascending.
    pub classes_of_list: Lists<u32>,
    /// For each segment, its class.
    pub class_of_segment: Vec<u32>,
    /// How many classes there are.
    pub classes: usize,
    /// For each class, the floor that its segments have on this side. Empty where none has.
    pub floor_of_class: Vec<Option<ConditionId>>,
}

impl Side {
    /// Takes time linear in the total length of the lists, but for sorting each of them. `floors` has the floor of each
    /// segment, or is empty.
    pub(super) fn new<'a>(
        rules: &'a RuleSet,
        list: impl Fn(usize) -> &'a [SegmentId],
        floors: &[Option<ConditionId>],
    ) -> Side {
        let mut interner = Interner::default();
        let mut list_of_rule = Vec::with_capacity(rules.rules.len());
        let mut list_of_single: Vec<Option<u32>> = vec![None; rules.segments.len()];
        let mut sorted: Vec<u32> = Vec::new();
        for rule in 0..rules.rules.len() {
            sorted.clear();
            sorted.extend(list(rule).iter().map(|segment| segment.0));
            sort(&mut sorted);
            list_of_rule.push(match *sorted {
                [single] => *list_of_single[single as usize].get_or_insert_with(|| interner.add(&sorted)),
                _ => interner.intern(&sorted),
            });
        }
        let mut partition = Partition::new(rules.segments.len());
        for list in interner.lists.iter() {
            if partition.is_complete() {
                break;
            }
            partition.split(list);
        }
        let mut segments_of_floor: BTreeMap<ConditionId, Vec<u32>> = BTreeMap::new();
        for (floor, segment) in floors.iter().zip(0..) {
            floor.iter().for_each(|floor| segments_of_floor.entry(*floor).or_default().push(segment));
        }
        segments_of_floor.values().for_each(|segments| partition.split(segments));
        let (class_of_segment, classes) = partition.finish();
        let mut floor_of_class = vec![None; if floors.is_empty() { 0 } else { classes }];
        for (floor, class) in floors.iter().zip(&class_of_segment) {
            floor_of_class[*class as usize] = *floor;
        }
        if classes == rules.segments.len() {
            // Classes are numbered as segments are, and every segment is one.
            let classes_of_list = interner.lists;
            return Side { list_of_rule, classes_of_list, class_of_segment, classes, floor_of_class };
        }
        let mut classes_of_list = Lists::default();
        for list in interner.lists.iter() {
            sorted.clear();
            sorted.extend(list.iter().map(|segment| class_of_segment[*segment as usize]));
            sort(&mut sorted);
            classes_of_list.push(sorted.iter().copied());
        }
        Side { list_of_rule, classes_of_list, class_of_segment, classes, floor_of_class }
    }
}

/// Ascending, each once; which most lists are already.
fn sort(list: &mut Vec<u32>) {
    if !list.is_sorted_by(|a, b| a < b) {
        list.sort_unstable();
        list.dedup();
    }
}

/// Partition refinement: each list splits every class into the members it names and those it does not.
/// Exact, unlike comparing hashes of signatures, and without writing the signatures down.
struct Partition {
    class_of: Vec<u32>,
    classes: Vec<Class>,
    /// How many classes have members.
    count: usize,
    free: Vec<u32>,
    touched: Vec<u32>,
    round: u32,
}

#[derive(Clone, Copy, Default)]
struct Class {
    size: u32,
    /// The round in which `split_to` was set.
    round: u32,
    split_to: u32,
}

impl Partition {
    fn new(members: usize) -> Partition {
        Partition {
            class_of: vec![0; members],
            classes: vec![Class { size: members as u32, ..Class::default() }],
            count: members.min(1),
            free: Vec::new(),
            touched: Vec::new(),
            round: 0,
        }
    }

    /// Whether no list can split it further.
    fn is_complete(&self) -> bool {
        self.count == self.class_of.len()
    }

    /// The list names each member at most once.
    fn split(&mut self, list: &[u32]) {
        self.round += 1;
        for member in list {
            let old = self.class_of[*member as usize] as usize;
            if self.classes[old].round != self.round {
                let new = self.free.pop().unwrap_or_else(|| {
                    self.classes.push(Class::default());
                    self.classes.len() as u32 - 1
                });
                self.classes[old].round = self.round;
                self.classes[old].split_to = new;
                self.touched.push(old as u32);
            }
            let new = self.classes[old].split_to;
            self.classes[old].size -= 1;
            self.classes[new as usize].size += 1;
            self.class_of[*member as usize] = new;
        }
        // A class that moved as a whole leaves its number to the next.
        let classes = &self.classes;
        let free = self.free.len();
        self.count += self.touched.len();
        self.free.extend(self.touched.drain(..).filter(|class| classes[*class as usize].size == 0));
        self.count -= self.free.len() - free;
    }

    /// The class of every member, numbered without gaps.
    fn finish(mut self) -> (Vec<u32>, usize) {
        let mut numbers = vec![u32::MAX; self.classes.len()];
        let mut count = 0;
        for class in &mut self.class_of {
            let number = &mut numbers[*class as usize];
            if *number == u32::MAX {
                *number = count;
                count += 1;
            }
            *class = *number;
        }
        (self.class_of, count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_a_class_exactly_when_the_same_lists_name_them() {
        let lists: [&[u32]; 5] = [&[0, 1, 2, 3], &[2, 3], &[7], &[0, 1, 2, 3, 4, 5, 6, 7], &[]];
        let mut partition = Partition::new(9);
        for (list, count) in lists.iter().zip([2, 3, 4, 5, 5]) {
            partition.split(list);
            assert_eq!((partition.count, partition.is_complete()), (count, false));
        }
        let (class_of, classes) = partition.finish();
        assert_eq!(class_of, [0, 0, 1, 1, 2, 2, 2, 3, 4]);
        assert_eq!(classes, 5);
    }

    #[test]
    fn splitting_by_the_same_members_again_and_again_takes_no_more_numbers() {
        let mut partition = Partition::new(100);
        let all: Vec<u32> = (0..100).collect();
        for _ in 0..1000 {
            partition.split(&all);
            partition.split(&[5]);
        }
        assert!(partition.classes.len() <= 5, "{}", partition.classes.len());
        assert_eq!(partition.finish().1, 2);
    }
}
