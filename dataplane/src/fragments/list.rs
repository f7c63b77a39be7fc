//! Doubly linked lists through the datagrams: adding and taking out any of them costs the same however many there are.

/// No datagram.
pub(super) const NONE: u32 = u32::MAX;

/// A datagram's place in one list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    before: u32,
    after: u32,
}

impl Link {
    /// The next younger one.
    pub(super) fn after(&self) -> Option<u32> {
        (self.after != NONE).then_some(self.after)
    }
}

impl Default for Link {
    fn default() -> Self {
        Link { before: NONE, after: NONE }
    }
}

/// A list, the oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
    /// What its datagrams hold: fragments, and at least one for each datagram.
    pub weight: u32,
}

impl Default for List {
    fn default() -> Self {
        List { first: NONE, last: NONE, weight: 0 }
    }
}

impl List {
    /// The oldest.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// The oldest but this one.
    pub(super) fn first_but(&self, not: u32, links: &[Link]) -> Option<u32> {
        let first = if self.first == not && not != NONE { links[not as usize].after } else { self.first };
        (first != NONE).then_some(first)
    }

    /// Appends a datagram, whose link in `links` must be in no list.
    pub(super) fn push(&mut self, index: u32, links: &mut [Link]) {
        links[index as usize] = Link { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = index,
            last => links[last as usize].after = index,
        }
        self.last = index;
    }

    /// Takes a datagram of this list out.
    pub(super) fn remove(&mut self, index: u32, links: &mut [Link]) {
        let Link { before, after } = std::mem::take(&mut links[index as usize]);
        match before {
            NONE => self.first = after,
            before => links[before as usize].after = after,
        }
        match after {
            NONE => self.last = before,
            after => links[after as usize].before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(list: &List, links: &[Link]) -> Vec<u32> {
        let (mut at, mut order) = (list.first, Vec::new());
        while at != NONE {
            order.push(at);
            at = links[at as usize].after;
        }
        order
    }

    #[test]
    fn what_is_taken_out_anywhere_leaves_the_rest_in_order() {
        for out in 0..4 {
            let (mut list, mut links) = (List::default(), vec![Link::default(); 4]);
            (0..4).for_each(|index| list.push(index, &mut links));
            list.remove(out, &mut links);
            let rest: Vec<_> = (0..4).filter(|&index| index != out).collect();
            assert_eq!(order(&list, &links), rest);
            assert_eq!(list.first_but(rest[0], &links), Some(rest[1]));
            list.push(out, &mut links);
            assert_eq!(order(&list, &links), [&rest[..], &[out]].concat());
        }
        let (mut list, mut links) = (List::default(), vec![Link::default()]);
        list.push(0, &mut links);
        assert_eq!(list.first_but(0, &links), None);
        list.remove(0, &mut links);
        assert_eq!((list.first(), list.first_but(0, &links)), (None, None));
    }
}
