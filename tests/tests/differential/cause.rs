//! How conntrack came to know other numbers than both gateways have let through, so that it errs later.

use bulkhead_tests::dialogue::Segment;

use crate::conntrack::{Conntrack, Fate, Known, Turn};
use crate::story::Story;

/// What made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A SYN's window counts to it only with the third step.
    SynWindow,
    /// It believed the numbers of a segment that both gateways have dropped.
    Dropped,
    /// It learnt nothing from a segment older than a window, or from one that acknowledges what is.
    Old,
    /// A reset that changed nothing counts as sent.
    Reset,
    /// A SYN with a number not later than the first's took its place.
    SmallerSyn,
    /// A SYN over the open connection, and then the connection's own SYN-ACK once more, have begun a new one.
    HandshakeAgain,
    /// The same, but the SYN-ACK had a later number of the connection.
    OldSynAck,
    /// A SYN has ended what is being closed, for it holds that closed.
    ClosingSyn,
    /// It has ignored a SYN over a connection that was reset, for it has ignored the reset.
    NewSyn,
    /// It looked at nothing of the segment.
    Aside,
    /// Something else.
    Other,
}

/// The causes that still hold. By zone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Causes {
    /// Why it takes an end to have sent more, or less, than it has.
    pub end: [Option<Cause>; 2],
    /// Why it lets an end send more, or less, than it may.
    pub limit: [Option<Cause>; 2],
    /// Why it follows no connection.
    pub gone: Option<Cause>,
}

impl Causes {
    /// After a segment of which both gateways did the same.
    pub fn update(
        &mut self,
        conntrack: &Conntrack,
        fate: Fate,
        story: &Story,
        from: usize,
        segment: &Segment,
    ) {
        let cause = self.cause(conntrack.turn, fate, story, from, segment);
        let Some(known) = conntrack.ends() else {
            self.gone = self.gone.or(Some(cause));
            return;
        };
        self.gone = None;
        let differs = |cause_before: &mut Option<Cause>, differs: bool| {
            *cause_before = differs.then(|| cause_before.unwrap_or(cause));
        };
        for (end, known) in known.into_iter().enumerate() {
            let (sent, grants) = (story.ends[end], story.ends[1 - end]);
            let Known { end: last, limit, window, .. } = known;
            let is_known = window != 0;
            differs(&mut self.end[end], sent.initial.is_some() != is_known || is_known && last != sent.end);
            let is_granted = is_known && sent.initial.is_some() && grants.initial.is_some();
            differs(&mut self.limit[end], is_granted && limit != grants.limit);
        }
    }

    fn cause(&self, turn: Turn, fate: Fate, story: &Story, from: usize, segment: &Segment) -> Cause {
        let header = &segment.header;
        match (turn, fate) {
            (Turn::StartedOver, _) if story.ends[from].initial == Some(header.sequence_number) => {
                Cause::HandshakeAgain
            }
            (Turn::StartedOver, _) => Cause::OldSynAck,
            (Turn::Ended, _) if header.syn => Cause::ClosingSyn,
            (Turn::Ended, _) => Cause::Reset,
            (Turn::Opened, _) if story.ends[1 - from].initial.is_some() => Cause::ClosingSyn,
            (_, Fate::Over) if header.rst => Cause::Reset,
            (_, Fate::Over) => self.limit[from].unwrap_or(Cause::Other),
            (_, Fate::Old) => self.end[from].or(self.end[1 - from]).unwrap_or(Cause::Old),
            (_, Fate::Aside) if header.syn && story.ends[1 - from].initial.is_none() => Cause::NewSyn,
            (_, Fate::Aside) => self.end[from].unwrap_or(Cause::Aside),
            (_, Fate::Taken) if header.syn && header.ack => Cause::SynWindow,
            (_, Fate::Taken) if header.syn && story.ends[1 - from].initial.is_none() => Cause::SmallerSyn,
            (_, Fate::Taken) => Cause::Other,
            _ => Cause::Dropped,
        }
    }
}
