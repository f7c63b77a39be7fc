//! How conntrack came to know other numbers than both gateways have let through, so that it errs later.

use bulkhead_tests::dialogue::Segment;

use crate::conntrack::{Conntrack, Fate, Known, State, Turn};
use crate::story::Story;

/// What made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A SYN's window counts to it only with the third step.
    SynWindow,
    /// It believed the numbers of a segment that both gateways have dropped.
    Dropped,
    /// It learnt nothing from a segment older than a window, from one that acknowledges what is, or from a SYN-ACK over
    /// the open connection.
    Old,
    /// A reset that changed nothing counts as sent.
    Reset,
    /// Of crossed SYNs the windows count to it only with a SYN-ACK.
    CrossedSyn,
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
    /// It has ignored a SYN-ACK that came again with more, before the third step.
    SynAckAgain,
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
    /// Why it scales an end's windows otherwise.
    pub shift: [Option<Cause>; 2],
    /// Why it waits for a SYN-ACK that has passed.
    pub waits: Option<Cause>,
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
        let cause = self.cause(conntrack, fate, story, from, segment);
        if matches!(conntrack.turn, Turn::Opened | Turn::StartedOver) || cause == Cause::NewSyn {
            // What was known before, and why, is of another connection.
            *self = Causes { gone: self.gone, ..Causes::default() };
        }
        let Some(known) = conntrack.ends() else {
            self.gone = self.gone.or(Some(cause));
            return;
        };
        self.gone = None;
        let differs = |cause_before: &mut Option<Cause>, differs: bool| {
            *cause_before = differs.then(|| cause_before.unwrap_or(cause));
        };
        let is_answered = conntrack.originator().is_some_and(|end| story.ends[1 - end].initial.is_some());
        differs(&mut self.waits, conntrack.state() == State::SynSent && is_answered);
        for (end, known) in known.into_iter().enumerate() {
            let (sent, grants) = (story.ends[end], story.ends[1 - end]);
            let Known { end: last, limit, window, shift, .. } = known;
            let is_known = window != 0;
            // The scale is in the SYN, of which it has taken nothing if it believed to know that end already.
            let scales_otherwise = is_known && story.shift(end).is_some_and(|expected| expected != shift);
            self.shift[end] =
                scales_otherwise.then(|| self.shift[end].or(self.end[end]).unwrap_or(Cause::Other));
            differs(&mut self.end[end], sent.initial.is_some() != is_known || is_known && last != sent.end);
            let is_granted = is_known && sent.initial.is_some() && grants.initial.is_some();
            differs(&mut self.limit[end], is_granted && limit != grants.limit);
        }
    }

    fn cause(
        &self,
        conntrack: &Conntrack,
        fate: Fate,
        story: &Story,
        from: usize,
        segment: &Segment,
    ) -> Cause {
        let header = &segment.header;
        match (conntrack.turn, fate) {
            (Turn::StartedOver, _) if story.ends[from].initial == Some(header.sequence_number) => {
                Cause::HandshakeAgain
            }
            (Turn::StartedOver, _) => Cause::OldSynAck,
            (Turn::Ended, _) if header.syn => Cause::ClosingSyn,
            // What it ended was no connection but that SYN.
            (Turn::Ended, _) if self.end[from] == Some(Cause::ClosingSyn) => Cause::ClosingSyn,
            (Turn::Ended, _) => Cause::Reset,
            (Turn::Opened, _) if story.ends[1 - from].initial.is_some() => Cause::ClosingSyn,
            (_, Fate::Over) if header.rst => Cause::Reset,
            (_, Fate::Over) => self.limit[from].unwrap_or(Cause::Other),
            (_, Fate::Old) => self.end[from].or(self.end[1 - from]).unwrap_or(Cause::Old),
            (_, Fate::Aside) if header.syn && story.ends[1 - from].initial.is_none() => Cause::NewSyn,
            // The answer to such a SYN, it believes.
            (_, Fate::Aside) if !header.syn && conntrack.state() == State::LastAck => Cause::ClosingSyn,
            (_, Fate::Aside) if header.ack && header.syn && conntrack.state() == State::SynReceived => {
                Cause::SynAckAgain
            }
            (_, Fate::Aside) if header.ack && header.syn => self.end[from].unwrap_or(Cause::Old),
            (_, Fate::Aside) => self.end[from].unwrap_or(Cause::Aside),
            (_, Fate::Taken) if header.syn && header.ack => Cause::SynWindow,
            (_, Fate::Taken) if header.syn && story.ends[1 - from].initial.is_none() => Cause::SmallerSyn,
            (_, Fate::Taken) if header.syn => Cause::CrossedSyn,
            (_, Fate::Taken) => self.shift[from].unwrap_or(Cause::Other),
            _ => Cause::Dropped,
        }
    }
}
