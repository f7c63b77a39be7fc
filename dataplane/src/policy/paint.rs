//! Rules → what they say by themselves, and blocks of them → what they say together, as disjoint pieces of ports.

use super::lists::Lists;
use super::ports::{Cell, Painter, Piece, Span};
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

/// What each block says.
pub(super) struct PaintedBlocks {
    tcp: Lists<Piece>,
    udp: Lists<Piece>,
    opaque: Lists<Piece>,
    icmp: Vec<(Cell, Cell)>,
}

impl PaintedBlocks {
    pub(super) fn with_capacity(blocks: usize) -> PaintedBlocks {
        let (tcp, udp, opaque) = Default::default();
        PaintedBlocks { tcp, udp, opaque, icmp: Vec::with_capacity(blocks) }
    }

    pub(super) fn push(&mut self, block: &Painted<'_>) {
        self.tcp.push(block.tcp.iter().copied());
        self.udp.push(block.udp.iter().copied());
        self.opaque.push(block.opaque.iter().copied());
        self.icmp.push((block.icmp, block.icmpv6));
    }

    pub(super) fn block(&self, block: u32) -> Painted<'_> {
        let (icmp, icmpv6) = self.icmp[block as usize];
        let opaque = self.opaque.list(block);
        Painted { tcp: self.tcp.list(block), udp: self.udp.list(block), opaque, icmp, icmpv6 }
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
        self.painted()
    }

    pub(super) fn resolve(&mut self, blocks: &[u32], painted: &PaintedBlocks) -> Painted<'_> {
        self.spans.clear();
        blocks.iter().for_each(|block| self.spans.add_painted(&painted.block(*block)));
        self.painted()
    }

    fn painted(&mut self) -> Painted<'_> {
        Painted {
            tcp: self.tcp.resolve(&mut self.spans.tcp),
            udp: self.udp.resolve(&mut self.spans.udp),
            opaque: self.opaque.resolve(&mut self.spans.opaque),
            icmp: self.spans.icmp,
            icmpv6: self.spans.icmpv6,
        }
    }
}

/// What several rules or blocks say, not yet painted.
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

    fn add_painted(&mut self, painted: &Painted<'_>) {
        let to_spans = |pieces: &[Piece], spans: &mut Vec<Span>| {
            for (index, (low, cell)) in pieces.iter().enumerate() {
                let high = pieces.get(index + 1).map_or(u16::MAX, |(next, _)| next - 1);
                if *cell != Cell::NONE {
                    spans.push(Span { low: *low, high, cell: *cell });
                }
            }
        };
        to_spans(painted.tcp, &mut self.tcp);
        to_spans(painted.udp, &mut self.udp);
        to_spans(painted.opaque, &mut self.opaque);
        self.icmp = self.icmp.min(painted.icmp);
        self.icmpv6 = self.icmpv6.min(painted.icmpv6);
    }
}
