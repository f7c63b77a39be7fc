//! Destination port → cell: sorted port boundaries, built by painting the spans of rules best first.

use super::lists::{Interner, Item, copied};
use super::rules::{Action, Decision};
use crate::headers::protocol;
use crate::verdict::RuleId;

/// The deciding action and rule in one number, ordered so that the smaller one wins: deny before reject before
/// allow before nothing (2 bits), then the lower rule id (30 bits). What starts with the bits of nothing but is not
/// [`Cell::NONE`] numbers a list of clauses, of which the circumstances choose one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Cell(u32);

/// Rule ids, and numbers of lists of clauses, fit the 30 bits that a [`Cell`] has for them.
pub(super) const RULE_BITS: u32 = 30;

/// The number of a list of clauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClausesId(pub u32);

impl Cell {
    /// No rule matches.
    pub(super) const NONE: Cell = Cell(u32::MAX);

    /// Rules that pass stand among themselves, see [`Manner`](super::clauses::Manner), in the place of those that deny.
    pub(super) fn new(action: Action, rule: u32) -> Cell {
        debug_assert!(rule < 1 << RULE_BITS);
        let rank = match action {
            Action::Deny | Action::Pass => 0,
            Action::Reject => 1,
            Action::Allow => 2,
        };
        Cell(rank << RULE_BITS | rule)
    }

    /// One of the clauses of this list decides.
    pub(super) fn clauses(list: ClausesId) -> Cell {
        debug_assert!(list.0 < (1 << RULE_BITS) - 1);
        Cell(3 << RULE_BITS | list.0)
    }

    /// With its rule's number in another rule set, found by that in this one. [`u32::MAX`] makes it [`Cell::NONE`], and so
    /// does a number that is not there, which only what [`recompile`](super::recompile) left behind can have.
    pub(super) fn renumbered(self, numbers: &[u32]) -> Cell {
        const RULE: u32 = (1 << RULE_BITS) - 1;
        match self.plain() {
            Some((_, rule)) => Cell(self.0 & !RULE | numbers.get(rule as usize).unwrap_or(&u32::MAX)),
            None => self,
        }
    }

    /// Action and rule, unless nothing or a list of clauses decides.
    pub(super) fn plain(self) -> Option<(Action, u32)> {
        let action = match self.0 >> RULE_BITS {
            0 => Action::Deny,
            1 => Action::Reject,
            2 => Action::Allow,
            _ => return None,
        };
        Some((action, self.0 & ((1 << RULE_BITS) - 1)))
    }

    /// What it decides about a packet of this protocol; or the clauses that do.
    #[inline]
    pub(super) fn decision(self, protocol: u8) -> Result<Decision, ClausesId> {
        match self.plain() {
            Some((action, rule)) => Ok(Decision::by(RuleId(rule), action)),
            None if self == Cell::NONE => Ok(Decision::unmatched(protocol)),
            None => Err(ClausesId(self.0 & ((1 << RULE_BITS) - 1))),
        }
    }
}

/// The ports `low` to `high`, both included, and what a rule says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub low: u16,
    pub high: u16,
    pub cell: Cell,
}

impl Span {
    /// What it says of all ports.
    fn with_pieces<T>(&self, pieces: impl FnOnce(&[Piece]) -> T) -> T {
        let all = [(0, Cell::NONE), (self.low, self.cell), (self.high.wrapping_add(1), Cell::NONE)];
        let first = usize::from(self.low == 0);
        let end = if self.high == u16::MAX { 2 } else { 3 };
        pieces(&all[first..end])
    }
}

/// From this port on, up to the next piece, the cell decides.
pub(super) type Piece = (u16, Cell);

impl Item for Piece {
    fn bits(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.1.0)
    }
}

/// Nothing is said of any port.
pub(super) const SILENT: [Piece; 1] = [(0, Cell::NONE)];

/// Up to this many spans or lists are laid over each other one after the other, each over the result of those before
/// it; beyond, sorting all of them first is quicker.
const FEW: usize = 8;

/// Turns overlapping spans into disjoint pieces. Keeps its buffers between calls.
#[derive(Default)]
pub(super) struct Painter {
    starts: Vec<u16>,
    cells: Vec<Cell>,
    next: Vec<u32>,
    pieces: Vec<Piece>,
    /// What `pieces` were before the last list was laid over them.
    below: Vec<Piece>,
    spans: Vec<Span>,
}

impl Painter {
    /// The pieces of all ports under these spans, ascending, the first at port 0, neighbours different.
    /// Takes O(n log n) for n spans, however they overlap: every piece is painted once, by the best span over it.
    pub(super) fn resolve(&mut self, spans: &mut [Span]) -> &[Piece] {
        if spans.len() <= FEW {
            self.pieces.clear();
            let Some((first, others)) = spans.split_first() else {
                self.pieces.extend(SILENT);
                return &self.pieces;
            };
            first.with_pieces(|pieces| self.pieces.extend_from_slice(pieces));
            others.iter().for_each(|span| span.with_pieces(|pieces| self.lay(pieces)));
            return &self.pieces;
        }
        spans.sort_unstable_by_key(|span| span.cell);
        self.starts.clear();
        self.starts.push(0);
        for span in spans.iter() {
            self.starts.push(span.low);
            self.starts.extend(span.high.checked_add(1));
        }
        self.starts.sort_unstable();
        self.starts.dedup();
        let count = self.starts.len();
        self.cells.clear();
        self.cells.resize(count, Cell::NONE);
        // next[i]: a piece at or after i that may still be unpainted; i itself while it is.
        self.next.clear();
        self.next.extend(0..=count as u32);
        for span in spans.iter() {
            let end = span.high.checked_add(1).map_or(count, |end| self.index(end));
            let mut piece = self.unpainted(self.index(span.low));
            while piece < end {
                self.cells[piece] = span.cell;
                self.next[piece] = piece as u32 + 1;
                piece = self.unpainted(piece);
            }
        }
        self.pieces.clear();
        for (start, cell) in self.starts.iter().zip(&self.cells) {
            if self.pieces.last().is_none_or(|(_, last)| last != cell) {
                self.pieces.push((*start, *cell));
            }
        }
        &self.pieces
    }

    /// What several lists of such pieces say together. Takes O(n log n) for n pieces in all, and O(n) for a few lists.
    pub(super) fn merge<'p>(&'p mut self, lists: impl Iterator<Item = &'p [Piece]> + Clone) -> &'p [Piece] {
        let mut speaking = lists.filter(|list| **list != SILENT);
        let all = speaking.clone();
        let Some(first) = speaking.next() else { return &SILENT };
        let Some(second) = speaking.next() else { return first };
        if speaking.clone().nth(FEW - 2).is_some() {
            let mut spans = std::mem::take(&mut self.spans);
            spans.clear();
            all.for_each(|pieces| spans.extend(self::spans(pieces)));
            self.resolve(&mut spans);
            self.spans = spans;
            return &self.pieces;
        }
        self.pieces.clear();
        overlay(first, second, &mut self.pieces);
        speaking.for_each(|list| self.lay(list));
        &self.pieces
    }

    /// Lays a list over the pieces: over each port the better cell stays.
    fn lay(&mut self, list: &[Piece]) {
        std::mem::swap(&mut self.pieces, &mut self.below);
        self.pieces.clear();
        overlay(&self.below, list, &mut self.pieces);
    }

    fn index(&self, start: u16) -> usize {
        self.starts.partition_point(|s| *s < start)
    }

    /// The first unpainted piece at or after this one, halving the path for those who come later.
    fn unpainted(&mut self, mut piece: usize) -> usize {
        while self.next[piece] as usize != piece {
            let after = self.next[piece] as usize;
            self.next[piece] = self.next[after];
            piece = after;
        }
        piece
    }
}

/// The spans of pieces that say something.
fn spans(pieces: &[Piece]) -> impl Iterator<Item = Span> {
    let ends = pieces.iter().skip(1).map(|(next, _)| next - 1).chain([u16::MAX]);
    let spans = pieces.iter().zip(ends).map(|((low, cell), high)| Span { low: *low, high, cell: *cell });
    spans.filter(|span| span.cell != Cell::NONE)
}

/// Adds to `out` the better cell of each port.
fn overlay(mut a: &[Piece], mut b: &[Piece], out: &mut Vec<Piece>) {
    let (mut in_a, mut in_b, mut last) = (Cell::NONE, Cell::NONE, None);
    let mut port = 0;
    loop {
        // A list is cut off behind the piece that the port is in.
        if let [(start, cell), rest @ ..] = a
            && *start == port
        {
            (in_a, a) = (*cell, rest);
        }
        if let [(start, cell), rest @ ..] = b
            && *start == port
        {
            (in_b, b) = (*cell, rest);
        }
        let cell = in_a.min(in_b);
        if last != Some(cell) {
            out.push((port, cell));
            last = Some(cell);
        }
        port = match (a.first(), b.first()) {
            (None, None) => return,
            (Some((next, _)), None) | (None, Some((next, _))) => *next,
            (Some((a, _)), Some((b, _))) => *a.min(b),
        };
    }
}

/// Where a table lies in [`PortTables`].
#[derive(Clone, Copy)]
struct Table {
    offset: u32,
    len: u32,
}

/// The number of a table in [`PortTables`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableId(u32);

/// A table of at most this many pieces is padded to it and searched by comparing all of it at once, which costs
/// two 128-bit compares and no branch.
const LANES: usize = 16;

/// All tables of a policy, back to back.
#[derive(Clone, Default)]
pub(super) struct PortTables {
    tables: Vec<Table>,
    starts: Vec<u16>,
    cells: Vec<Cell>,
}

impl PortTables {
    /// The cell of a port.
    #[inline]
    pub(super) fn find(&self, table: TableId, port: u16) -> Cell {
        let table = self.tables[table.0 as usize];
        let offset = table.offset as usize;
        // The first boundary is port 0, so at least one is at or below the port.
        let at_or_below = if table.len as usize <= LANES {
            let lanes = &self.starts[offset..offset + LANES];
            usize::from(lanes.iter().map(|start| u16::from(*start <= port)).sum::<u16>())
        } else {
            self.starts[offset..offset + table.len as usize].partition_point(|start| *start <= port)
        };
        self.cells[offset + at_or_below - 1]
    }

    /// A copy with room for those of so many policies more; with other numbers of rules, if there are some, see
    /// [`Cell::renumbered`].
    pub(super) fn copied(&self, policies: usize, numbers: Option<&[u32]>) -> PortTables {
        // UDP and opaque protocols; TCP rarely needs one.
        let more = 2 * policies;
        PortTables {
            tables: copied(&self.tables, more, None, |table, _| *table),
            starts: copied(&self.starts, more * LANES, None, |start, _| *start),
            cells: copied(&self.cells, more * LANES, numbers, |cell, numbers| cell.renumbered(numbers)),
        }
    }

    /// Pieces stored, padding included.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    fn push(&mut self, pieces: &[Piece]) {
        let table = Table { offset: self.starts.len() as u32, len: pieces.len() as u32 };
        self.starts.extend(pieces.iter().map(|(start, _)| *start));
        self.cells.extend(pieces.iter().map(|(_, cell)| *cell));
        // Padding starts at the last port and repeats the last cell, so that counting it changes no answer.
        let last = pieces[pieces.len() - 1].1;
        let padded = table.offset as usize + pieces.len().max(LANES);
        self.starts.resize(padded, u16::MAX);
        self.cells.resize(padded, last);
        self.tables.push(table);
    }
}

/// Builds [`PortTables`], keeping equal tables once.
#[derive(Default)]
pub(super) struct TableInterner {
    pub tables: PortTables,
    /// How many tables there were before, of which it knows nothing.
    first: u32,
    known: Interner<Piece>,
    /// The table that most ask for.
    silent: Option<TableId>,
}

impl TableInterner {
    /// Adds to tables that there are. Equal ones among these are not found.
    pub(super) fn after(tables: PortTables) -> TableInterner {
        TableInterner { first: tables.tables.len() as u32, tables, ..TableInterner::default() }
    }

    pub(super) fn intern(&mut self, pieces: &[Piece]) -> TableId {
        if pieces == SILENT {
            return *self.silent.get_or_insert_with(|| {
                self.tables.push(pieces);
                TableId(self.first + self.known.add(pieces))
            });
        }
        let number = self.first + self.known.intern(pieces);
        if number as usize == self.tables.tables.len() {
            self.tables.push(pieces);
        }
        TableId(number)
    }
}

/// Pieces of TCP ports that a [`PairPolicy`] holds itself: four separate ranges.
const INLINE: usize = 8;

/// What one class of sources may ask of one class of destinations. One cache line, so that TCP, and echo requests,
/// take one miss in the largest policy; only UDP and the TCP of pairs with many ranges go on to a table.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct PairPolicy {
    starts: [u16; INLINE],
    cells: [Cell; INLINE],
    /// Set when there are more than [`INLINE`] pieces; numbers of tables do not reach [`PairPolicy::NO_TABLE`].
    tcp: TableId,
    udp: TableId,
    icmp: Cell,
    icmpv6: Cell,
}

impl PairPolicy {
    const NO_TABLE: TableId = TableId(u32::MAX);

    pub(super) fn new(
        tcp: &[Piece],
        udp: &[Piece],
        icmp: Cell,
        icmpv6: Cell,
        interner: &mut TableInterner,
    ) -> PairPolicy {
        // Padding as in a table.
        let mut starts = [u16::MAX; INLINE];
        let mut cells = [tcp[tcp.len() - 1].1; INLINE];
        for (index, (start, cell)) in tcp.iter().take(INLINE).enumerate() {
            starts[index] = *start;
            cells[index] = *cell;
        }
        let fits = tcp.len() <= INLINE;
        let tcp = if fits { PairPolicy::NO_TABLE } else { interner.intern(tcp) };
        PairPolicy { starts, cells, tcp, udp: interner.intern(udp), icmp, icmpv6 }
    }

    /// With other numbers of its rules, see [`Cell::renumbered`].
    pub(super) fn renumbered(&self, numbers: &[u32]) -> PairPolicy {
        PairPolicy {
            cells: self.cells.map(|cell| cell.renumbered(numbers)),
            icmp: self.icmp.renumbered(numbers),
            icmpv6: self.icmpv6.renumbered(numbers),
            ..*self
        }
    }

    /// The cell of a protocol and port.
    #[inline]
    pub(super) fn find(&self, tables: &PortTables, protocol: u8, port: u16) -> Cell {
        match protocol {
            protocol::TCP if self.tcp == PairPolicy::NO_TABLE => {
                let at_or_below = self.starts.iter().map(|start| u16::from(*start <= port)).sum::<u16>();
                // The first boundary is port 0, so at least one is at or below the port.
                self.cells[usize::from(at_or_below) - 1]
            }
            protocol::TCP => tables.find(self.tcp, port),
            protocol::UDP => tables.find(self.udp, port),
            protocol::ICMP => self.icmp,
            protocol::ICMPV6 => self.icmpv6,
            _ => Cell::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Reason;

    fn cell(rule: u32) -> Cell {
        Cell::new(Action::Allow, rule)
    }

    fn check(spans: &[Span]) {
        let mut painter = Painter::default();
        let mut interner = TableInterner::default();
        // Something before it, so that offsets matter.
        interner.intern(&[(0, cell(999)), (7, Cell::NONE)]);
        let pieces = painter.resolve(&mut spans.to_vec()).to_vec();
        // Painted in parts that are merged then, they say the same.
        for part in [1, 2, 7, 1000] {
            let parts: Vec<Vec<Piece>> =
                spans.chunks(part).map(|part| painter.resolve(&mut part.to_vec()).to_vec()).collect();
            assert_eq!(painter.merge(parts.iter().map(Vec::as_slice)), pieces, "of {part} under {spans:?}");
        }
        let table = interner.intern(&pieces);
        let policy = PairPolicy::new(&pieces, &pieces, cell(7), cell(8), &mut interner);
        // Around every boundary, and some between.
        let edges = spans.iter().flat_map(|span| {
            [span.low, span.high].map(|edge| [edge.saturating_sub(1), edge, edge.saturating_add(1)])
        });
        let between = (0..=u16::MAX).step_by(251).chain([u16::MAX]);
        for port in edges.flatten().chain(between) {
            let expected = spans
                .iter()
                .filter(|span| (span.low..=span.high).contains(&port))
                .map(|span| span.cell)
                .min()
                .unwrap_or(Cell::NONE);
            assert_eq!(interner.tables.find(table, port), expected, "port {port} under {spans:?}");
            for protocol in [protocol::TCP, protocol::UDP] {
                let cell = policy.find(&interner.tables, protocol, port);
                assert_eq!(cell, expected, "protocol {protocol} port {port} under {spans:?}");
            }
        }
        assert_eq!(policy.find(&interner.tables, protocol::ICMP, 0), cell(7));
        assert_eq!(policy.find(&interner.tables, protocol::ICMPV6, 0), cell(8));
        assert_eq!(policy.find(&interner.tables, 47, 0), Cell::NONE);
    }

    fn span(low: u16, high: u16, rule: u32) -> Span {
        Span { low, high, cell: cell(rule) }
    }

    #[test]
    fn deny_comes_before_reject_before_allow_before_nothing_and_low_ids_before_high() {
        let order = [
            Cell::new(Action::Deny, 0),
            Cell::new(Action::Deny, 5),
            Cell::new(Action::Reject, 1),
            Cell::new(Action::Allow, 0),
            Cell::new(Action::Allow, (1 << RULE_BITS) - 1),
            Cell::NONE,
        ];
        assert!(order.is_sorted());
        assert_eq!(Cell::NONE.decision(protocol::TCP), Ok(Decision::refused(Reason::NoRule)));
        assert_eq!(Cell::NONE.decision(protocol::GRE), Ok(Decision::refused(Reason::ProtocolUnsupported)));
        assert_eq!(
            order[2].decision(protocol::UDP),
            Ok(Decision { refusal: Some(Reason::RuleRejected), rule: RuleId(1) })
        );
        assert!(order[4].decision(protocol::TCP).unwrap().allows());
        let last = ClausesId((1 << RULE_BITS) - 2);
        assert_eq!(Cell::clauses(last).decision(protocol::TCP), Err(last));
    }

    #[test]
    fn every_port_finds_the_best_span_over_it() {
        check(&[]);
        check(&[span(0, u16::MAX, 3)]);
        check(&[span(0, 0, 1), span(u16::MAX, u16::MAX, 2)]);
        check(&[span(80, 80, 2), span(443, 443, 1), span(80, 443, 3)]);
        check(&[span(10, 20, 1), span(15, 30, 0), span(21, 21, 2), span(0, 65534, 9)]);
    }

    #[test]
    fn tables_at_and_around_the_vector_width_agree_with_a_scan() {
        for spans in [2, 3, 4, 5, 6, 7, 8, 9, 300] {
            let spans: Vec<Span> = (0..spans).map(|i| span(100 * i as u16, 100 * i as u16 + 50, i)).collect();
            check(&spans);
            // The last boundary at the last port, where padding also starts.
            let mut edge = spans.clone();
            edge.push(span(u16::MAX, u16::MAX, 4000));
            check(&edge);
        }
    }

    #[test]
    fn the_policy_of_a_pair_is_one_cache_line() {
        assert_eq!((size_of::<PairPolicy>(), align_of::<PairPolicy>()), (64, 64));
    }

    #[test]
    fn equal_tables_are_kept_once_and_equal_neighbours_are_one_piece() {
        let mut painter = Painter::default();
        let mut interner = TableInterner::default();
        let pieces = painter.resolve(&mut [span(1, 5, 0), span(6, 9, 0)]).to_vec();
        assert_eq!(pieces, [(0, Cell::NONE), (1, cell(0)), (10, Cell::NONE)]);
        assert_eq!(interner.intern(&pieces), interner.intern(&pieces));
        assert_eq!(interner.tables.len(), LANES);
    }
}
