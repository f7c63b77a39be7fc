//! What Linux's connection tracking does with a TCP segment, and why: as far as Linux 6.18 shows it from outside, with
//! `nf_conntrack_tcp_loose` 0. A difference has a class only if this foretells what nftables does; then its cause is known
//! for sure, and not only what the packet looks like.

use bulkhead_tests::dialogue::Segment;
use etherparse::{TcpHeader, TcpOptionElement};

use crate::story::length;

/// An acknowledgement may always be so old.
const AGE: u32 = 66_000;

/// Numbers half the circle apart come each before the other here.
fn is_before(number: u32, other: u32) -> bool {
    (number.wrapping_sub(other) as i32) < 0
}

/// Where it takes a connection to be. It names the ends by who began, and believes the third step only of that one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It is there for this segment's sake.
    #[default]
    New,
    SynSent,
    /// Both have sent a SYN.
    CrossedSyns,
    SynReceived,
    Established,
    /// One FIN.
    FinWait,
    /// One FIN, and an ACK of whomever.
    CloseWait,
    /// Two FINs, or one twice.
    LastAck,
    TimeWait,
    Close,
}

impl State {
    /// Whether there was a FIN or a reset.
    pub fn is_closing(self) -> bool {
        use State::*;
        matches!(self, FinWait | CloseWait | LastAck | TimeWait | Close)
    }
}

/// What a segment is to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    None,
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

/// Why it lets a segment pass, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It fits, and is learnt from.
    Taken,
    /// It may tell of a connection that is not known here, and passes unlooked at.
    Aside,
    /// It begins beyond the window by no more than a window; passes, and yet its end counts as sent.
    Over,
    /// It is older than a window, or acknowledges what is; passes, and nothing is learnt.
    Old,
    /// Flags that it has on no list.
    Flags,
    /// There is no connection, and it opens none.
    Unknown,
    /// No such segment in this state.
    State,
    /// A reset before what the other has acknowledged.
    OldReset,
    /// Beyond the window.
    Beyond,
    /// Acknowledges what was not sent.
    Unsent,
}

impl Fate {
    /// Whether it goes on.
    pub fn passes(self) -> bool {
        matches!(self, Fate::Taken | Fate::Aside | Fate::Over | Fate::Old)
    }
}

/// What it holds about one end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// One past the last number that it is taken to have sent.
    pub end: u32,
    /// One past the last that it may send.
    pub limit: u32,
    /// The largest window that it has told; 0 for an end that has sent nothing.
    pub window: u32,
    /// The highest acknowledgement.
    pub ack: Option<u32>,
    /// By how much its windows are shifted.
    pub shift: u8,
    scales: bool,
    /// Whether its FIN was the first.
    closes: bool,
}

impl Known {
    fn options(&mut self, header: &TcpHeader) {
        if header.options.is_empty() {
            return;
        }
        let shift = shift(header);
        *self =
            Known { shift: shift.unwrap_or(0), scales: shift.is_some(), ack: None, closes: false, ..*self };
    }
}

fn shift(header: &TcpHeader) -> Option<u8> {
    header.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::WindowScale(shift)) => Some(shift.min(14)),
        _ => None,
    })
}

/// The last segment that changed the state or was let pass unlooked at.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    kind: Kind,
    from: usize,
    end: u32,
    /// What it acknowledged, if it was an ACK in place of a SYN-ACK.
    ack: u32,
    window: u32,
    shift: Option<u8>,
    /// It was a SYN after the second FIN: the next ACK answers that, and not the FIN.
    is_challenged: bool,
}

/// A connection that it follows. The ends are by zone.
#[derive(Clone, Debug, Default)]
struct Followed {
    originator: usize,
    state: State,
    ends: [Known; 2],
    last: Last,
    is_answered: bool,
    is_assured: bool,
    is_simultaneous: bool,
    /// It has just begun anew.
    is_anew: bool,
}

/// What a segment did to the connection as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// No more than a segment does.
    #[default]
    Goes,
    /// It is new.
    Opened,
    /// All that was known of it is forgotten, for a SYN that passed aside was answered.
    StartedOver,
    /// It is followed no longer.
    Ended,
}

/// What it knows of one pair of ports.
#[derive(Clone, Debug, Default)]
pub struct Conntrack {
    followed: Option<Followed>,
    /// What the last segment did.
    pub turn: Turn,
}

impl Conntrack {
    /// Decides about a segment; `may_originate` says whether a rule lets its sender open connections.
    pub fn judge(&mut self, from: usize, segment: &Segment, may_originate: bool) -> Fate {
        let header = &segment.header;
        self.turn = Turn::Goes;
        let Some(kind) = kind(header) else { return Fate::Flags };
        if let Some(followed) = &mut self.followed {
            match followed.judge(from, kind, segment) {
                Verdict::Fate(fate) => {
                    if std::mem::take(&mut followed.is_anew) {
                        self.turn = Turn::StartedOver;
                    }
                    followed.is_answered |= fate.passes() && from != followed.originator;
                    return fate;
                }
                Verdict::Ends(fate) => {
                    (self.followed, self.turn) = (None, Turn::Ended);
                    return fate;
                }
                Verdict::Reopens => (self.followed, self.turn) = (None, Turn::Ended),
            }
        }
        if kind != Kind::Syn || !may_originate {
            return Fate::Unknown;
        }
        let mut followed = Followed { originator: from, ..Followed::default() };
        let end = header.sequence_number.wrapping_add(length(segment));
        let window = u32::from(header.window_size).max(1);
        followed.ends[from] = Known { end, limit: end, window, ..Known::default() };
        followed.ends[from].options(header);
        followed.judge(from, kind, segment);
        (self.followed, self.turn) = (Some(followed), Turn::Opened);
        Fate::Taken
    }

    /// What it holds about both ends, if it follows a connection.
    pub fn ends(&self) -> Option<[Known; 2]> {
        self.followed.as_ref().map(|followed| followed.ends)
    }

    /// Whom it takes for the end that began.
    pub fn originator(&self) -> Option<usize> {
        self.followed.as_ref().map(|followed| followed.originator)
    }

    /// Where it takes the connection to be.
    pub fn state(&self) -> State {
        self.followed.as_ref().map_or(State::New, |followed| followed.state)
    }
}

/// `None` for flags that are on no list; PSH and ECN never matter.
fn kind(header: &TcpHeader) -> Option<Kind> {
    match (header.syn, header.fin, header.rst, header.ack, header.urg) {
        (true, false, false, false, _) => Some(Kind::Syn),
        (true, false, false, true, false) => Some(Kind::SynAck),
        (false, true, false, true, _) => Some(Kind::Fin),
        (false, false, true, _, false) => Some(Kind::Rst),
        (false, false, false, true, _) => Some(Kind::Ack),
        _ => None,
    }
}

/// Where a segment leads.
enum Next {
    To(State),
    Aside,
    Never,
}

fn next(state: State, is_original: bool, kind: Kind) -> Next {
    use Next::{Aside, Never, To};
    use State::*;
    match (kind, is_original, state) {
        (Kind::None, ..) => Never,
        (Kind::Rst, ..) => To(Close),
        (Kind::Syn, true, New | SynSent | TimeWait | Close) => To(SynSent),
        (Kind::Syn, true, CrossedSyns) => To(CrossedSyns),
        (Kind::Syn, true, _) => Aside,
        (Kind::Syn, false, SynSent | CrossedSyns) => To(CrossedSyns),
        (Kind::Syn, false, TimeWait) => To(SynSent),
        (Kind::Syn, false, _) => Never,
        (Kind::SynAck, true, SynReceived | CrossedSyns) => To(SynReceived),
        (Kind::SynAck, true, _) => Never,
        (Kind::SynAck, false, SynSent | CrossedSyns) => To(SynReceived),
        (Kind::SynAck, false, _) => Aside,
        (Kind::Ack, false, SynSent | CrossedSyns) => Aside,
        (Kind::Ack | Kind::Fin, _, New | SynSent | CrossedSyns) => Never,
        (Kind::Ack | Kind::Fin, _, TimeWait | Close) => To(state),
        (Kind::Fin, _, SynReceived | Established) => To(FinWait),
        (Kind::Fin, ..) => To(LastAck),
        (Kind::Ack, false, SynReceived) => To(SynReceived),
        (Kind::Ack, _, SynReceived | Established) => To(Established),
        (Kind::Ack, _, LastAck) => To(TimeWait),
        (Kind::Ack, ..) => To(CloseWait),
    }
}

enum Verdict {
    Fate(Fate),
    /// The connection is forgotten.
    Ends(Fate),
    /// So it is, and the segment is one without a connection.
    Reopens,
}

impl Followed {
    fn judge(&mut self, from: usize, kind: Kind, segment: &Segment) -> Verdict {
        let header = &segment.header;
        let mut state = match next(self.state, from == self.originator, kind) {
            Next::Never => return Verdict::Fate(Fate::State),
            Next::To(State::SynSent) if matches!(self.state, State::TimeWait | State::Close) => {
                let was_closed = self.ends.iter().any(|end| end.closes);
                if was_closed || self.last.from == from && self.last.kind == Kind::Rst {
                    return Verdict::Reopens;
                }
                return Verdict::Fate(self.pass_aside(from, kind, segment));
            }
            Next::Aside if self.answers_what_passed_aside(from, kind, header) => {
                self.start_over(from);
                State::SynReceived
            }
            Next::Aside => return Verdict::Fate(self.pass_aside(from, kind, segment)),
            Next::To(state) => state,
        };
        let is_challenge = self.state == State::LastAck && kind == Kind::Ack && self.last.is_challenged;
        if state == State::TimeWait && is_challenge && self.last.from != from && self.last.kind == Kind::Syn {
            self.last.is_challenged = false;
            return Verdict::Fate(Fate::Aside);
        }
        self.is_simultaneous |= state == State::CrossedSyns;
        if state == State::SynReceived && kind == Kind::Ack && from != self.originator && self.is_simultaneous
        {
            state = State::Established;
        }
        let believes = match kind {
            Kind::Rst => match self.reset(from, header, &mut state) {
                Err(fate) => return Verdict::Fate(fate),
                Ok(believes) => believes,
            },
            _ => false,
        };
        if !believes {
            match self.follow(from, kind, segment) {
                Fate::Taken => {}
                fate => {
                    if !fate.passes() {
                        self.note_refused(from, kind);
                    }
                    return Verdict::Fate(fate);
                }
            }
        }
        (self.last.kind, self.last.from) = (kind, from);
        let before = std::mem::replace(&mut self.state, state);
        self.ends[from].closes |= before != state && state == State::FinWait;
        if !self.is_answered && kind == Kind::Rst {
            return Verdict::Ends(Fate::Taken);
        }
        let is_settled = matches!(before, State::SynReceived | State::Established);
        self.is_assured |= self.is_answered && is_settled && state == State::Established;
        Verdict::Fate(Fate::Taken)
    }

    /// A FIN or reset that fits nowhere makes it forget the SYN that passed aside before.
    fn note_refused(&mut self, from: usize, kind: Kind) {
        let ends = |kind| matches!(kind, Kind::Fin | Kind::Rst);
        let is_second = self.last.from != from && ends(self.last.kind);
        if self.is_assured && ends(kind) && !is_second {
            (self.last.kind, self.last.from) = (kind, from);
        }
    }

    fn answers_what_passed_aside(&self, from: usize, kind: Kind, header: &TcpHeader) -> bool {
        kind == Kind::SynAck
            && self.last.kind == Kind::Syn
            && self.last.from != from
            && header.acknowledgment_number == self.last.end
    }

    /// A SYN that passed aside was answered: all that was known is forgotten.
    fn start_over(&mut self, from: usize) {
        let Last { end, window, shift, .. } = self.last;
        (self.last.is_challenged, self.is_anew) = (false, true);
        self.ends[1 - from] = Known {
            end,
            limit: end,
            window: window.max(1),
            shift: shift.unwrap_or(0),
            scales: shift.is_some(),
            ..Known::default()
        };
        self.ends[from] = Known::default();
    }

    fn pass_aside(&mut self, from: usize, kind: Kind, segment: &Segment) -> Fate {
        let header = &segment.header;
        let last = &mut self.last;
        (last.kind, last.from) = (kind, from);
        last.end = header.sequence_number.wrapping_add(length(segment));
        last.window = header.window_size.into();
        if kind == Kind::Syn && from == self.originator {
            last.shift = shift(header);
            last.is_challenged = self.state == State::LastAck;
            self.is_simultaneous = false;
        }
        if self.state == State::SynSent && kind == Kind::Ack {
            last.ack = header.acknowledgment_number;
        }
        Fate::Aside
    }

    /// Whether a reset is believed whatever its numbers; an inexact one leaves the state as it is.
    fn reset(&self, from: usize, header: &TcpHeader, state: &mut State) -> Result<bool, Fate> {
        use State::{Established, SynSent};
        if self.state.is_closing() {
            return Ok(true);
        }
        let (last, seq) = (&self.last, header.sequence_number);
        let is_open = self.state == Established && self.is_assured;
        if let Some(expected) = self.ends[1 - from].ack.filter(|_| last.kind != Kind::Syn) {
            if seq == 0 && !is_open {
                return Ok(false);
            }
            if is_before(seq, expected) {
                return Err(Fate::OldReset);
            }
            let follows = last.kind == Kind::Ack && last.from == from && seq == last.end;
            if !is_open || seq == expected || follows {
                return Ok(false);
            }
            *state = self.state;
        }
        let asked = self.is_answered && last.kind == Kind::Syn && last.from != from
            || !self.is_assured && last.kind == Kind::Ack;
        let refuses = asked && header.acknowledgment_number == last.end;
        let challenge = last.kind == Kind::Ack && last.from != self.originator;
        Ok(refuses || self.state == SynSent && challenge && seq == last.ack)
    }

    /// The windows.
    fn follow(&mut self, from: usize, kind: Kind, segment: &Segment) -> Fate {
        let header = &segment.header;
        let mut seq = header.sequence_number;
        let mut end = seq.wrapping_add(length(segment));
        let is_opening = matches!(self.state, State::SynSent | State::SynReceived);
        let is_known = self.ends[from].window != 0;
        let is_newer = header.syn && is_opening && is_before(self.ends[from].end, end);
        if is_known && is_newer || !is_known && header.syn {
            self.begin(from, header, end);
            if !header.ack && (!is_known || from != self.originator) {
                return Fate::Taken;
            }
        } else if !is_known {
            self.begin_in_the_middle(from, header, end);
        }
        let [sender, receiver] = [self.ends[from], self.ends[1 - from]];
        let is_told = header.ack && !(header.rst && header.acknowledgment_number == 0);
        let ack = if is_told { header.acknowledgment_number } else { receiver.end };
        if header.rst && seq == 0 && self.state == State::SynSent {
            (seq, end) = (sender.end, sender.end);
        }
        let fits =
            receiver.window == 0 || is_before(sender.end.wrapping_sub(receiver.window).wrapping_sub(1), end);
        let oldest = receiver.end.wrapping_sub(sender.window.max(AGE));
        let is_recent = is_before(oldest.wrapping_sub(1), ack);
        let is_sent = is_before(ack, receiver.end.wrapping_add(1));
        if !is_before(seq, sender.limit.wrapping_add(1)) {
            let beyond = end.wrapping_sub(sender.limit).wrapping_add(1);
            if receiver.window == 0 || !fits || !is_recent || !is_sent || beyond > receiver.window {
                return Fate::Beyond;
            }
            self.ends[from].end = end;
            return Fate::Over;
        }
        match (is_sent, fits && is_recent) {
            (false, _) => Fate::Unsent,
            (true, false) => Fate::Old,
            (true, true) => {
                self.learn(from, header, end, ack);
                if kind == Kind::Ack {
                    (self.last.end, self.last.from) = (end, from);
                    self.last.ack = ack;
                    self.last.window = header.window_size.into();
                }
                Fate::Taken
            }
        }
    }

    fn begin(&mut self, from: usize, header: &TcpHeader, end: u32) {
        let sender = &mut self.ends[from];
        (sender.end, sender.limit) = (end, end);
        sender.window = u32::from(header.window_size).max(1);
        sender.options(header);
        if from != self.originator && !self.ends.iter().all(|end| end.scales) {
            self.ends.iter_mut().for_each(|end| end.shift = 0);
        }
    }

    /// The first that it looks at of an end, and no SYN.
    fn begin_in_the_middle(&mut self, from: usize, header: &TcpHeader, end: u32) {
        let ack = header.acknowledgment_number;
        let sender = &mut self.ends[from];
        sender.end = end;
        sender.window = (u32::from(header.window_size) << sender.shift).max(1);
        sender.limit = end.wrapping_add(sender.window);
        let receiver = &mut self.ends[1 - from];
        if receiver.window == 0 {
            (receiver.end, receiver.limit) = (ack, ack);
        } else if ack == receiver.end.wrapping_add(1) {
            receiver.end = ack;
        }
    }

    fn learn(&mut self, from: usize, header: &TcpHeader, end: u32, ack: u32) {
        let sender = &mut self.ends[from];
        let window = u32::from(header.window_size) << if header.syn { 0 } else { sender.shift };
        sender.window = sender.window.max(window);
        if is_before(sender.end, end) {
            sender.end = end;
        }
        if header.ack && sender.ack.is_none_or(|known| is_before(known, ack)) {
            sender.ack = Some(ack);
        }
        let limit = sender.limit;
        let receiver = &mut self.ends[1 - from];
        if receiver.window != 0 && is_before(limit, end) {
            receiver.window = receiver.window.wrapping_add(end.wrapping_sub(limit));
        }
        let granted = ack.wrapping_add(window);
        if is_before(receiver.limit.wrapping_sub(1), granted) {
            receiver.limit = granted.wrapping_add(u32::from(window == 0));
        }
    }
}
