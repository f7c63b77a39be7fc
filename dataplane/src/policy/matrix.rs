//! (source class, destination class) → number of the policy between them.

/// Up to this many cells the matrix is an array (16 MiB of `u32`): one multiplication and one load.
pub(super) const DENSE_CELLS: usize = 4 << 20;

/// The policy of pairs that no rule names.
pub(super) const EMPTY: u32 = 0;

/// A matrix whose cells are [`EMPTY`] unless set.
#[derive(Clone)]
pub(super) enum Matrix {
    Dense { columns: u32, cells: Vec<u32> },
    Sparse(Sparse),
}

impl Default for Matrix {
    fn default() -> Self {
        Matrix::Dense { columns: 0, cells: Vec::new() }
    }
}

/// One occupied cell: row, column, policy.
pub(super) type Entry = (u32, u32, u32);

impl Matrix {
    /// From the occupied cells, each named once.
    pub(super) fn new(rows: usize, columns: usize, entries: &[Entry]) -> Matrix {
        Matrix::with_dense_limit(rows, columns, entries, DENSE_CELLS)
    }

    fn with_dense_limit(rows: usize, columns: usize, entries: &[Entry], limit: usize) -> Matrix {
        if rows * columns > limit {
            return Matrix::Sparse(Sparse::new(entries));
        }
        let mut cells = vec![EMPTY; rows * columns];
        for &(row, column, policy) in entries {
            cells[row as usize * columns + column as usize] = policy;
        }
        Matrix::Dense { columns: columns as u32, cells }
    }

    /// Puts another policy, which is not [`EMPTY`], in a cell.
    pub(super) fn set(&mut self, row: u32, column: u32, policy: u32) {
        match self {
            Matrix::Dense { columns, cells } => {
                cells[row as usize * *columns as usize + column as usize] = policy;
            }
            Matrix::Sparse(sparse) => sparse.set((row, column, policy)),
        }
    }

    /// The policy of a pair.
    #[inline]
    pub(super) fn find(&self, row: u32, column: u32) -> u32 {
        match self {
            Matrix::Dense { columns, cells } => cells[row as usize * *columns as usize + column as usize],
            Matrix::Sparse(sparse) => sparse.find(row, column),
        }
    }
}

/// Open addressing with linear probing, at most half full; a free slot holds the policy [`EMPTY`].
/// The hash needs no secret: its keys are classes of the configuration, never bytes from the wire.
#[derive(Clone)]
pub(super) struct Sparse {
    shift: u32,
    slots: Vec<Entry>,
    /// How many are not free.
    taken: usize,
}

impl Sparse {
    fn new(entries: &[Entry]) -> Sparse {
        let size = (2 * entries.len()).next_power_of_two().max(2);
        let mut sparse =
            Sparse { shift: 64 - size.trailing_zeros(), slots: vec![(0, 0, EMPTY); size], taken: 0 };
        for entry in entries.iter().filter(|entry| entry.2 != EMPTY) {
            sparse.set(*entry);
        }
        sparse
    }

    fn set(&mut self, entry: Entry) {
        let slot = self.slot(entry.0, entry.1);
        if self.slots[slot].2 == EMPTY {
            if 2 * (self.taken + 1) > self.slots.len() {
                let mut entries: Vec<Entry> =
                    self.slots.iter().copied().filter(|slot| slot.2 != EMPTY).collect();
                entries.push(entry);
                *self = Sparse::new(&entries);
                return;
            }
            self.taken += 1;
        }
        self.slots[slot] = entry;
    }

    #[inline]
    fn find(&self, row: u32, column: u32) -> u32 {
        self.slots[self.slot(row, column)].2
    }

    /// The slot of the pair, or the free one where it would go.
    #[inline]
    fn slot(&self, row: u32, column: u32) -> usize {
        let key = u64::from(row) << 32 | u64::from(column);
        // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, section 6.4).
        let mut slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        loop {
            let (r, c, policy) = self.slots[slot];
            if policy == EMPTY || (r, c) == (row, column) {
                return slot;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_and_sparse_answer_alike_also_for_empty_cells() {
        let (rows, columns) = (37, 53);
        let entries: Vec<Entry> =
            (0..rows * columns).filter(|i| i % 3 == 0).map(|i| (i / columns, i % columns, i + 1)).collect();
        let dense = Matrix::with_dense_limit(rows as usize, columns as usize, &entries, DENSE_CELLS);
        let sparse = Matrix::with_dense_limit(rows as usize, columns as usize, &entries, 10);
        assert!(matches!(dense, Matrix::Dense { .. }) && matches!(sparse, Matrix::Sparse(_)));
        for i in 0..rows * columns {
            let expected = if i % 3 == 0 { i + 1 } else { EMPTY };
            assert_eq!(dense.find(i / columns, i % columns), expected);
            assert_eq!(sparse.find(i / columns, i % columns), expected);
        }
    }

    #[test]
    fn cells_that_are_set_later_are_found_like_the_others_however_many_they_are() {
        for limit in [0, DENSE_CELLS] {
            let mut matrix = Matrix::with_dense_limit(50, 40, &[(0, 0, 7), (49, 39, 8)], limit);
            let is_set = |cell: u32| cell.is_multiple_of(3);
            for cell in (0..2000).filter(|cell| is_set(*cell)) {
                matrix.set(cell / 40, cell % 40, 10_000 + cell);
            }
            for cell in 0..2000 {
                let expected = match cell {
                    _ if is_set(cell) => 10_000 + cell,
                    1999 => 8,
                    _ => EMPTY,
                };
                assert_eq!(matrix.find(cell / 40, cell % 40), expected, "{cell} of limit {limit}");
            }
        }
    }

    #[test]
    fn a_sparse_matrix_without_entries_is_empty_everywhere() {
        let matrix = Matrix::with_dense_limit(9, 9, &[], 0);
        assert_eq!(matrix.find(8, 8), EMPTY);
        assert_eq!(matrix.find(0, 0), EMPTY);
    }
}
