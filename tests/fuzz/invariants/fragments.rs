//! What holds for any sequence of fragments, time jumps and whole packets: the gateway does with every piece what an
//! obvious, slow model of reassembly says, and a datagram in pieces gets the verdict that another gateway gives the same
//! datagram in one packet. The bytes are a little program; see [`check`].

use std::collections::BTreeMap;
use std::ops::Range;

use bulkhead_dataplane::policy::Service;
use bulkhead_dataplane::verdict::Reason;

use crate::gateway::{CLIENT, CLIENTS, Family, Gateway, SERVER, SERVERS, allow, echo, ip, tcp, udp_of};

/// The most steps of one program.
const STEPS: usize = 96;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;
/// The default of `fragment` in [gateway.timeouts].
const TIMEOUT: u64 = 30 * SECOND;
/// For how long copies are told from new datagrams.
const REMEMBERED: u64 = SECOND;
const ETHERNET: usize = 14;

/// How often what is interesting happened, so that a test can see that it does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    pub forwarded: u32,
    pub refused: u32,
    pub overlaps: u32,
    pub copies: u32,
    pub timeouts: u32,
}

/// The program, read front to back; it ends with its bytes.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }
}

/// A datagram as one packet, and where it is cut.
struct Datagram {
    family: Family,
    whole: Vec<u8>,
    id: u32,
    cuts: Vec<usize>,
}

impl Datagram {
    fn read(program: &mut Program<'_>) -> Option<Datagram> {
        let (kind, size) = (program.byte()?, program.byte()?);
        let family = if kind & 1 == 0 { Family::V4 } else { Family::V6 };
        let payload: Vec<u8> = (0..usize::from(size) * 5).map(|at| (at / 3) as u8 ^ kind).collect();
        let port = if kind & 2 == 0 { 53 } else { 54 };
        let mut whole = match (family, kind >> 2 & 3) {
            (Family::V6, _) => {
                let mut frame = Vec::new();
                ip(CLIENT, family).udp(1000, port).write(&mut frame, &payload).ok()?;
                frame
            }
            (Family::V4, 0) => echo(CLIENT, SERVER, kind & 2 == 0, 7),
            (Family::V4, 1) => tcp(CLIENT, SERVER, 1000, port, kind >> 4, 1, 1),
            (Family::V4, _) => udp_of(CLIENT, SERVER, 1000, port, &payload),
        };
        if kind & 0x80 != 0 {
            // Damage that only the checksum over all of it shows.
            *whole.last_mut()? ^= 1;
        }
        let content = whole.len() - ETHERNET - header_bytes(family);
        let mut cuts: Vec<usize> = (0..program.byte()? % 6)
            .map(|_| Some(usize::from(program.byte()?) % content.div_ceil(8) * 8))
            .collect::<Option<_>>()?;
        cuts.extend([0, content]);
        cuts.sort_unstable();
        cuts.dedup();
        Some(Datagram { family, whole, id: u32::from(kind >> 6 & 1), cuts })
    }

    fn content(&self) -> &[u8] {
        &self.whole[ETHERNET + header_bytes(self.family)..]
    }
}

fn header_bytes(family: Family) -> usize {
    if family == Family::V4 { 20 } else { 40 }
}

/// One fragment on its way.
#[derive(Clone)]
struct Piece {
    offset: usize,
    content: Vec<u8>,
    more: bool,
    frame: Vec<u8>,
}

impl Piece {
    fn of(datagram: &Datagram, from: usize, to: usize, more: bool) -> Piece {
        let content = datagram.content()[from..to].to_vec();
        Piece { offset: from, content, more, frame: fragment(&datagram.whole, datagram.id, from..to, more) }
    }

    fn end(&self) -> usize {
        self.offset + self.content.len()
    }

    fn is_copy_of(&self, other: &Piece) -> bool {
        (self.offset, &self.content, self.more) == (other.offset, &other.content, other.more)
    }
}

/// A piece of a frame's IP packet, by what follows its IP header, as a fragment of the datagram with this identification.
pub fn fragment(whole: &[u8], id: u32, range: Range<usize>, more: bool) -> Vec<u8> {
    let is_v4 = whole[12..14] == [8, 0];
    let (headers, content) = whole.split_at(ETHERNET + if is_v4 { 20 } else { 40 });
    let (mut frame, content) = (headers.to_vec(), &content[range.clone()]);
    if is_v4 {
        frame[16..18].copy_from_slice(&(20 + content.len() as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        let place = (range.start / 8) as u16 | (u16::from(more) << 13);
        frame[20..22].copy_from_slice(&place.to_be_bytes());
        fix_checksum(&mut frame);
    } else {
        frame[18..20].copy_from_slice(&(8 + content.len() as u16).to_be_bytes());
        let next = std::mem::replace(&mut frame[20], 44);
        frame.extend([next, 0]);
        frame.extend((range.start as u16 | u16::from(more)).to_be_bytes());
        frame.extend(id.to_be_bytes());
    }
    frame.extend(content);
    frame
}

/// Sets the checksum of an IPv4 header right.
pub fn fix_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let mut sum: u32 = 0;
    for pair in frame[14..14 + usize::from(frame[14] & 0xf) * 4].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// What the model knows of the datagrams of one identification.
enum Entry {
    Waiting(u64, Vec<Piece>),
    Condemned(u64),
    Passed(u64, Vec<Piece>),
}

/// Family, identification, protocol (0 in IPv6).
type Key = (bool, u32, u8);

fn key(datagram: &Datagram) -> Key {
    let v4 = datagram.family == Family::V4;
    (v4, datagram.id, if v4 { datagram.whole[23] } else { 0 })
}

/// The model beside the gateway, and the gateway that gets whole packets.
struct Run {
    gateway: Gateway,
    twin: Gateway,
    now: u64,
    entries: BTreeMap<Key, Entry>,
    dropped: BTreeMap<Reason, u64>,
    seen: Seen,
}

/// Runs the program. Panics if an invariant does not hold after any step.
pub fn check(bytes: &[u8]) -> Seen {
    let rules = [allow(Service::Udp(53, 53)), allow(Service::Tcp(53, 53)), allow(Service::IcmpEcho)];
    let mut run = Run {
        gateway: Gateway::new(&rules),
        twin: Gateway::without_fragments(&rules),
        now: 0,
        entries: BTreeMap::new(),
        dropped: BTreeMap::new(),
        seen: Seen::default(),
    };
    let mut program = Program(bytes);
    let datagrams: Vec<_> = (0..3).filter_map(|_| Datagram::read(&mut program)).collect();
    if datagrams.is_empty() {
        return run.seen;
    }
    for _ in 0..STEPS {
        if run.step(&mut program, &datagrams).is_none() {
            break;
        }
        run.compare();
    }
    // Time ends every wait.
    run.advance(TIMEOUT);
    run.compare();
    assert_eq!(run.gateway.ledger().held, 0);
    run.seen
}

impl Run {
    fn step(&mut self, program: &mut Program<'_>, datagrams: &[Datagram]) -> Option<()> {
        let what = program.byte()?;
        let datagram = &datagrams[usize::from(what >> 4) % datagrams.len()];
        let content = datagram.content().len();
        match what & 15 {
            // Elsewhere than at the cuts.
            0 => {
                let from = usize::from(program.byte()?) % content.div_ceil(8) * 8;
                let to = (from + usize::from(program.byte()?) * 2).min(content);
                let piece = Piece::of(datagram, from, to, program.byte()? & 1 == 0);
                // What begins the datagram and ends it is a packet, and an atomic fragment is one too.
                match (piece.offset, piece.more) {
                    (0, false) => self.whole(&piece.frame),
                    _ => self.piece(datagram, piece),
                }
            }
            1 => self.advance(u64::from(program.byte()?) * 10 * MILLISECOND),
            2 => self.advance(u64::from(program.byte()?) * SECOND / 8),
            3 => self.whole(&datagram.whole),
            _ => {
                let piece = usize::from(program.byte()?) % (datagram.cuts.len() - 1);
                let (from, to) = (datagram.cuts[piece], datagram.cuts[piece + 1]);
                // A whole datagram in one piece is no fragment.
                if (from, to) != (0, content) {
                    self.piece(datagram, Piece::of(datagram, from, to, to < content));
                }
            }
        }
        Some(())
    }

    fn advance(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        self.gateway.advance(nanoseconds);
        self.twin.advance(nanoseconds);
        let now = self.now;
        let mut timeouts = 0;
        self.entries.retain(|_, entry| match entry {
            Entry::Waiting(since, pieces) if now - *since >= TIMEOUT => {
                timeouts += pieces.len() as u32;
                false
            }
            Entry::Condemned(since) => now - *since < TIMEOUT,
            _ => true,
        });
        self.seen.timeouts += timeouts;
        self.drop_for(Reason::FragmentTimeout, timeouts as usize);
    }

    fn drop_for(&mut self, reason: Reason, count: usize) {
        *self.dropped.entry(reason).or_default() += count as u64;
    }

    /// A packet that is no fragment: both gateways treat it alike, whatever waits.
    fn whole(&mut self, frame: &[u8]) {
        let verdict = self.twin.send(CLIENTS, frame);
        assert_eq!(self.gateway.send(CLIENTS, frame), verdict);
        if let Err(reason) = verdict {
            self.drop_for(reason, 1);
        }
    }

    fn piece(&mut self, datagram: &Datagram, piece: Piece) {
        self.gateway.put(CLIENTS, &piece.frame);
        let expected = self.model(datagram, piece);
        let sent: Vec<_> = std::iter::from_fn(|| self.gateway.sent_by(SERVERS)).collect();
        assert_eq!(sent.len(), expected.len());
        for (sent, frame) in sent.iter().zip(expected) {
            let mut expected = frame;
            expected[..12].copy_from_slice(&[SERVER.mac, SERVERS.mac].concat());
            match datagram.family {
                Family::V4 => {
                    expected[22] -= 1;
                    fix_checksum(&mut expected);
                }
                Family::V6 => expected[21] -= 1,
            }
            assert_eq!(*sent, expected, "a fragment leaves unchanged but for addresses and hop count");
        }
        assert_eq!(self.gateway.sent_by(CLIENTS), None);
        self.gateway.discard_events();
        self.twin.discard_events();
    }

    /// What the model says becomes of a piece: the frames that are to leave now.
    fn model(&mut self, datagram: &Datagram, piece: Piece) -> Vec<Vec<u8>> {
        if let Some(reason) = unfit(datagram, &piece) {
            self.drop_for(reason, 1);
            return Vec::new();
        }
        let key = key(datagram);
        let pieces = match self.entries.remove(&key) {
            None => (self.now, Vec::new()),
            Some(Entry::Condemned(since)) => {
                self.entries.insert(key, Entry::Condemned(since));
                self.drop_for(Reason::FragmentOverlap, 1);
                return Vec::new();
            }
            Some(Entry::Passed(since, pieces)) => {
                if self.now - since < REMEMBERED && pieces.iter().any(|known| piece.is_copy_of(known)) {
                    self.entries.insert(key, Entry::Passed(since, pieces));
                    self.seen.copies += 1;
                    self.drop_for(Reason::FragmentDuplicate, 1);
                    return Vec::new();
                }
                (self.now, Vec::new())
            }
            Some(Entry::Waiting(since, pieces)) => (since, pieces),
        };
        let (since, mut pieces) = pieces;
        if pieces.iter().any(|known| piece.is_copy_of(known)) {
            self.entries.insert(key, Entry::Waiting(since, pieces));
            self.seen.copies += 1;
            self.drop_for(Reason::FragmentDuplicate, 1);
            return Vec::new();
        }
        pieces.push(piece);
        if conflicts(&pieces) {
            self.seen.overlaps += 1;
            self.drop_for(Reason::FragmentOverlap, pieces.len());
            self.entries.insert(key, Entry::Condemned(self.now));
            return Vec::new();
        }
        let Some(content) = joined(&pieces) else {
            self.entries.insert(key, Entry::Waiting(since, pieces));
            return Vec::new();
        };
        match self.twin.send(CLIENTS, &packet(datagram, &content)) {
            Ok(_) => {
                self.seen.forwarded += 1;
                let frames = pieces.iter().map(|piece| piece.frame.clone()).collect();
                self.entries.insert(key, Entry::Passed(self.now, pieces));
                frames
            }
            Err(reason) => {
                self.seen.refused += 1;
                self.drop_for(reason, pieces.len());
                Vec::new()
            }
        }
    }

    /// The ledger is what the model says, to the packet.
    fn compare(&self) {
        let ledger = self.gateway.ledger();
        assert!(ledger.is_balanced(), "{ledger:?}");
        for &reason in Reason::ALL {
            let expected = self.dropped.get(&reason).copied().unwrap_or(0);
            assert_eq!(ledger.dropped[reason as usize], expected, "{reason}");
        }
        let waiting = |entry: &Entry| match entry {
            Entry::Waiting(_, pieces) => pieces.len(),
            _ => 0,
        };
        assert_eq!(ledger.held, self.entries.values().map(waiting).sum::<usize>() as u64);
    }
}

/// Why a piece can be of no datagram.
fn unfit(datagram: &Datagram, piece: &Piece) -> Option<Reason> {
    let bytes = piece.content.len();
    if bytes == 0 || (piece.more && !bytes.is_multiple_of(8)) {
        return Some(Reason::FragmentMalformed);
    }
    // All of our IPv6 datagrams are UDP.
    (datagram.family == Family::V6 && piece.offset == 0 && bytes < 8).then_some(Reason::FragmentNoHeader)
}

/// Whether the pieces cover a byte twice, or lie behind an end, or name two ends.
fn conflicts(pieces: &[Piece]) -> bool {
    let mut covered = vec![false; pieces.iter().map(Piece::end).max().unwrap_or(0)];
    let ends: Vec<_> = pieces.iter().filter(|piece| !piece.more).map(Piece::end).collect();
    pieces.iter().any(|piece| {
        let twice = covered[piece.offset..piece.end()].iter_mut().any(|byte| std::mem::replace(byte, true));
        twice || ends.iter().any(|end| piece.end() > *end)
    }) || ends.len() > 1
}

/// The datagram's content, if all of it is there.
fn joined(pieces: &[Piece]) -> Option<Vec<u8>> {
    let end = pieces.iter().find(|piece| !piece.more)?.end();
    let mut content = vec![None; end];
    for piece in pieces {
        for (at, byte) in piece.content.iter().enumerate() {
            content[piece.offset + at] = Some(*byte);
        }
    }
    content.into_iter().collect()
}

/// The packet that would carry this content in one piece.
fn packet(datagram: &Datagram, content: &[u8]) -> Vec<u8> {
    let mut frame = datagram.whole[..ETHERNET + header_bytes(datagram.family)].to_vec();
    match datagram.family {
        Family::V4 => {
            frame[16..18].copy_from_slice(&(20 + content.len() as u16).to_be_bytes());
            frame[18..22].fill(0);
            fix_checksum(&mut frame);
        }
        Family::V6 => frame[18..20].copy_from_slice(&(content.len() as u16).to_be_bytes()),
    }
    frame.extend(content);
    frame
}
