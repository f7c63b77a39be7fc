//! Rules → what they say by themselves, and blocks of them → what they say together, as disjoint pieces of ports.

use super::ports::{Cell, Painter, Piece, SILENT, Span};
use super::rules::{Action, Rule, Service};
use crate::headers::protocol;

/// What a block or several say together: pieces of TCP and UDP ports and of the numbers of opaque protocols, and the
/// cells of both kinds of echo.
#[derive(Clone, Copy)]
pub(super) struct Painted<'p> {
    pub tcp: &'p [Piece],
    pub udp: &'p [Piece],
    pub opaque: &'p [Piece],
    pub icmp: Cell,
    pub icmpv6: Cell,
}

impl Painted<'_> {
    /// Nothing at all.
    const SILENT: Painted<'static> =
        Painted { tcp: &SILENT, udp: &SILENT, opaque: &SILENT, icmp: Cell::NONE, icmpv6: Cell::NONE };
}

/// What each block says: all in one list, so that two cache misses find it.
pub(super) struct PaintedBlocks {
    pieces: Vec<Piece>,
    blocks: Vec<PaintedBlock>,
}

/// Where its pieces end, those of TCP first and those of opaque protocols last.
struct PaintedBlock {
    ends: [u32; 3],
    icmp: Cell,
    icmpv6: Cell,
}

impl PaintedBlocks {
    pub(super) fn with_capacity(blocks: usize) -> PaintedBlocks {
        PaintedBlocks { pieces: Vec::with_capacity(8 * blocks), blocks: Vec::with_capacity(blocks) }
    }

    pub(super) fn push(&mut self, block: &Painted<'_>) {
        let mut add = |pieces| {
            self.pieces.extend_from_slice(pieces);
            self.pieces.len() as u32
        };
        let ends = [add(block.tcp), add(block.udp), add(block.opaque)];
        self.blocks.push(PaintedBlock { ends, icmp: block.icmp, icmpv6: block.icmpv6 });
    }

    pub(super) fn block(&self, block: u32) -> Painted<'_> {
        let start = block.checked_sub(1).map_or(0, |before| self.blocks[before as usize].ends[2] as usize);
        let PaintedBlock { ends, icmp, icmpv6 } = &self.blocks[block as usize];
        let ends = ends.map(|end| end as usize);
        Painted {
            tcp: &self.pieces[start..ends[0]],
            udp: &self.pieces[ends[0]..ends[1]],
            opaque: &self.pieces[ends[1]..ends[2]],
            icmp: *icmp,
            icmpv6: *icmpv6,
        }
    }

    /// By block, how many pieces merging it takes: those where a rule matches, and as many boundaries.
    pub(super) fn costs(&self) -> Vec<u32> {
        let ruled = |pieces: &[Piece]| pieces.iter().filter(|(_, cell)| *cell != Cell::NONE).count();
        let cost = |block| {
            let Painted { tcp, udp, opaque, .. } = self.block(block);
            [tcp, udp, opaque].map(|pieces| (pieces.len() + ruled(pieces)) as u32).iter().sum()
        };
        (0..self.blocks.len() as u32).map(cost).collect()
    }
}

/// Paints what rules or blocks say over each other, where the best cell over a port decides. Keeps its buffers between
/// calls.
#[derive(Default)]
pub(super) struct Merge {
    spans: Spans,
    tcp: Painter,
    udp: Painter,
    opaque: Painter,
}

impl Merge {
    pub(super) fn resolve_rules<'r>(&mut self, rules: impl Iterator<Item = (u32, &'r Rule)>) -> Painted<'_> {
        self.spans.clear();
        rules.for_each(|(id, rule)| self.spans.add_rule(id, rule));
        Painted {
            tcp: self.tcp.resolve(&mut self.spans.tcp),
            udp: self.udp.resolve(&mut self.spans.udp),
            opaque: self.opaque.resolve(&mut self.spans.opaque),
            icmp: self.spans.icmp,
            icmpv6: self.spans.icmpv6,
        }
    }

    pub(super) fn resolve<'p>(&'p mut self, blocks: &[u32], painted: &'p PaintedBlocks) -> Painted<'p> {
        // Looked up once, for most cells are under a few.
        let mut few = [Painted::SILENT; 4];
        match few.get_mut(..blocks.len()) {
            Some(few) => {
                few.iter_mut().zip(blocks).for_each(|(few, block)| *few = painted.block(*block));
                self.merge(few.iter().copied())
            }
            None => self.merge(blocks.iter().map(|block| painted.block(*block))),
        }
    }

    fn merge<'p>(&'p mut self, blocks: impl Iterator<Item = Painted<'p>> + Clone) -> Painted<'p> {
        let (icmp, icmpv6) = blocks.clone().fold((Cell::NONE, Cell::NONE), |(icmp, icmpv6), block| {
            (icmp.min(block.icmp), icmpv6.min(block.icmpv6))
        });
        Painted {
            tcp: self.tcp.merge(blocks.clone().map(|block| block.tcp)),
            udp: self.udp.merge(blocks.clone().map(|block| block.udp)),
            opaque: self.opaque.merge(blocks.map(|block| block.opaque)),
            icmp,
            icmpv6,
        }
    }
}

/// What several rules say, not yet painted.
struct Spans {
    tcp: Vec<Span>,
    udp: Vec<Span>,
    opaque: Vec<Span>,
    icmp: Cell,
    icmpv6: Cell,
}

impl Default for Spans {
    fn default() -> Self {
        let (tcp, udp, opaque) = Default::default();
        Spans { tcp, udp, opaque, icmp: Cell::NONE, icmpv6: Cell::NONE }
    }
}

impl Spans {
    fn clear(&mut self) {
        self.tcp.clear();
        self.udp.clear();
        self.opaque.clear();
        self.icmp = Cell::NONE;
        self.icmpv6 = Cell::NONE;
    }

    fn add_rule(&mut self, id: u32, rule: &Rule) {
        let cell = Cell::new(rule.action, id);
        for service in &rule.services {
            match *service {
                Service::Any => {
                    self.tcp.push(Span { low: 0, high: u16::MAX, cell });
                    self.udp.push(Span { low: 0, high: u16::MAX, cell });
                    self.icmp = self.icmp.min(cell);
                    self.icmpv6 = self.icmpv6.min(cell);
                    if rule.action != Action::Allow {
                        self.opaque.push(Span { low: 0, high: u16::MAX, cell });
                    }
                }
                Service::Tcp(low, high) => self.tcp.push(Span { low, high, cell }),
                Service::Udp(low, high) => self.udp.push(Span { low, high, cell }),
                Service::IcmpEcho => self.icmp = self.icmp.min(cell),
                Service::Icmpv6Echo => self.icmpv6 = self.icmpv6.min(cell),
                // The others have their own places.
                Service::Protocol(number) if protocol::is_opaque(number) => {
                    self.opaque.push(Span { low: number.into(), high: number.into(), cell });
                }
                Service::Protocol(_) => {}
            }
        }
    }
}
