//! Many short lists in one piece of memory, numbered; and finding out which of them are equal.

use std::ops::Range;

/// Lists back to back.
#[derive(Clone)]
pub(super) struct Lists<T> {
    items: Vec<T>,
    /// Where each list ends in `items`.
    ends: Vec<u32>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Lists { items: Vec::new(), ends: Vec::new() }
    }
}

impl<T: Copy> Lists<T> {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn push(&mut self, list: impl IntoIterator<Item = T>) {
        self.items.extend(list);
        self.ends.push(self.items.len() as u32);
    }

    pub(super) fn list(&self, number: u32) -> &[T] {
        &self.items[self.range(number)]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[T]> + Clone {
        (0..self.ends.len() as u32).map(|number| self.list(number))
    }

    /// Lists of as many items.
    pub(super) fn map<U>(&self, item: impl Fn(T) -> U) -> Lists<U> {
        Lists { items: self.items.iter().map(|old| item(*old)).collect(), ends: self.ends.clone() }
    }

    fn range(&self, number: u32) -> Range<usize> {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        start as usize..self.ends[number as usize] as usize
    }
}

/// A copy with room for so many items more; with other numbers of rules, if there are some.
pub(super) fn copied<T: Clone>(
    items: &[T],
    more: usize,
    numbers: Option<&[u32]>,
    renumbered: impl Fn(&T, &[u32]) -> T,
) -> Vec<T> {
    let mut copy = Vec::with_capacity(items.len() + more);
    match numbers {
        Some(numbers) => copy.extend(items.iter().map(|item| renumbered(item, numbers))),
        None => copy.extend_from_slice(items),
    }
    copy
}

/// Sorts items into lists in two passes over them, each list in the order of its items: [`Grouping::expect`] counts, and
/// [`Grouping::place`] places.
pub(super) struct Grouping {
    /// First the length of each list, then where its next item goes.
    ends: Vec<u32>,
}

impl Grouping {
    pub(super) fn new(lists: usize) -> Grouping {
        Grouping { ends: vec![0; lists] }
    }

    /// So many more items will be of this list.
    pub(super) fn expect(&mut self, list: u32, items: u32) {
        self.ends[list as usize] += items;
    }

    /// Calls back to have all items placed that were expected, each with its list.
    pub(super) fn place<T: Copy + Default>(
        mut self,
        place_all: impl FnOnce(&mut Placing<'_, T>),
    ) -> Lists<T> {
        let mut start = 0;
        for end in &mut self.ends {
            start += std::mem::replace(end, start);
        }
        let mut items = vec![T::default(); start as usize];
        place_all(&mut Placing { ends: &mut self.ends, items: &mut items });
        Lists { items, ends: self.ends }
    }
}

/// The second pass of [`Grouping`].
pub(super) struct Placing<'g, T> {
    /// Where the next item of each list goes: behind all of them, where it ends.
    ends: &'g mut [u32],
    items: &'g mut [T],
}

impl<T> Placing<'_, T> {
    #[inline]
    pub(super) fn put(&mut self, list: u32, item: T) {
        let place = &mut self.ends[list as usize];
        self.items[*place as usize] = item;
        *place += 1;
    }
}

/// What a list to be compared consists of.
pub(super) trait Item: Copy + Eq {
    /// Different for different items.
    fn bits(self) -> u64;
}

impl Item for u32 {
    fn bits(self) -> u64 {
        self.into()
    }
}

/// Gives equal lists one number, in the order in which they first come. An open-addressing table of numbers beside
/// the lists themselves, at most half full, so that a list is stored once and found without an allocation.
/// The hash needs no secret: what is hashed is the configuration, never bytes from the wire.
pub(super) struct Interner<T> {
    pub lists: Lists<T>,
    /// Number of a list and the upper half of its hash, whose first bits say where to look; [`FREE`] where none is.
    slots: Vec<(u32, u32)>,
    /// How many slots are taken.
    taken: usize,
}

const FREE: u32 = u32::MAX;

impl<T: Item> Default for Interner<T> {
    fn default() -> Self {
        Interner { lists: Lists::default(), slots: vec![(FREE, 0); 64], taken: 0 }
    }
}

impl<T: Item> Interner<T> {
    /// The list's number.
    pub(super) fn intern(&mut self, list: &[T]) -> u32 {
        if 2 * (self.taken + 1) > self.slots.len() {
            self.grow();
        }
        let tag = (hash(list) >> 32) as u32;
        let mut slot = first_slot(tag, self.slots.len());
        loop {
            match self.slots[slot] {
                (FREE, _) => break,
                (number, t) if t == tag && self.lists.list(number) == list => return number,
                _ => slot = (slot + 1) & (self.slots.len() - 1),
            }
        }
        let number = self.add(list);
        self.slots[slot] = (number, tag);
        self.taken += 1;
        number
    }

    /// The number of a list that comes only once: it is not looked for.
    pub(super) fn add(&mut self, list: &[T]) -> u32 {
        let number = self.lists.len() as u32;
        self.lists.push(list.iter().copied());
        number
    }

    /// Neighbours stay neighbours, so it takes one pass over both tables and looks at no list.
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        let size = 2 * old.len();
        self.slots.resize(size, (FREE, 0));
        for (number, tag) in old.into_iter().filter(|(number, _)| *number != FREE) {
            let mut slot = first_slot(tag, size);
            while self.slots[slot].0 != FREE {
                slot = (slot + 1) & (size - 1);
            }
            self.slots[slot] = (number, tag);
        }
    }
}

/// The first slot for a tag, in a table of this many, which is a power of two.
#[inline]
fn first_slot(tag: u32, slots: usize) -> usize {
    ((u64::from(tag) * slots as u64) >> 32) as usize
}

/// Multiply and fold: the high half of a product depends on all bits of its factors.
fn hash<T: Item>(list: &[T]) -> u64 {
    // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, section 6.4), and pi's fraction.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    const PI: u64 = 0x2437_3a8f_6a88_85a3;
    list.iter().fold(list.len() as u64 ^ PI, |hash, item| {
        let product = u128::from(hash ^ item.bits().wrapping_mul(GOLDEN) ^ PI) * u128::from(GOLDEN);
        (product >> 64) as u64 ^ product as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_have_one_number_and_different_ones_two_however_many_there_are() {
        let lists: Vec<Vec<u32>> = (0..5000).map(|i| (0..i % 7).map(|k| i / 7 * (k + 1)).collect()).collect();
        let mut interner = Interner::default();
        let mut known: std::collections::HashMap<&[u32], u32> = std::collections::HashMap::new();
        for list in lists.iter().chain(&lists) {
            let next = known.len() as u32;
            let expected = *known.entry(list).or_insert(next);
            assert_eq!(interner.intern(list), expected);
            assert_eq!(interner.lists.list(expected), list.as_slice());
        }
        assert_eq!(interner.lists.len(), known.len());
    }

    #[test]
    fn grouping_keeps_the_order_of_the_items_and_empty_lists() {
        let group = |lists: usize, pairs: &[(u32, char)]| {
            let mut grouping = Grouping::new(lists);
            pairs.iter().for_each(|(list, _)| grouping.expect(*list, 1));
            grouping.place(|placing| pairs.iter().for_each(|(list, item)| placing.put(*list, *item)))
        };
        let lists = group(5, &[(3, 'a'), (1, 'b'), (3, 'c'), (1, 'd'), (1, 'e')]);
        let all: Vec<String> = lists.iter().map(|list| list.iter().collect()).collect();
        assert_eq!(all, ["", "bde", "", "ac", ""]);
        assert_eq!(group(2, &[]).list(1), []);
    }
}
