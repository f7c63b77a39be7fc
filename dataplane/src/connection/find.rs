//! Finding connections: where they probably lie, asked for early; and a connection with its entry at hand.

use super::entry::{Entry, Head, millis};
use super::index::{Position, Word};
use super::map::Map;
use super::tcp;
use super::{Family, Hash, Hit, Stamp, State};
use crate::headers::{Plain, TcpSegment, Tuple, protocol, tcp_flags};
use crate::identity::Bearer;
use crate::verdict::{Direction, Now, PortId, RuleId};

/// Where a connection probably lies, see [`Map::guess`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Guess {
    position: Position,
    entry: u32,
}

/// A connection that was found, with its entry at hand for what every packet needs. Good as long as a [`Hit`].
pub struct Found<'m, A: Family> {
    /// What the methods of [`Map`] take.
    pub hit: Hit,
    head: Head,
    entry: &'m Entry<A::Key>,
    map: &'m Map<A>,
}

impl<A: Family> Found<'_, A> {
    /// By which judgement the connection passes.
    #[inline(always)]
    pub fn stamp(&self) -> Stamp {
        self.entry.stamp()
    }

    /// The port by which its originator's packets come.
    #[inline(always)]
    pub fn ingress(&self) -> PortId {
        self.head.ingress()
    }

    /// Tracks and counts a plain packet (`bytes` long from its IP header on) of a connection in which nothing special is
    /// going on: established TCP, or UDP with replies. False, and nothing has changed: it takes [`Map::track_tcp`] or
    /// [`Map::track_other`], and [`Map::account`], which do the same and the rest.
    #[inline(always)]
    #[must_use]
    pub fn pass(&self, plain: &Plain<A>, now: Now) -> bool {
        let (entry, direction) = (self.entry, self.hit.direction);
        if plain.tuple.protocol == protocol::TCP {
            if !self.head.is(State::Established) {
                return false;
            }
            let (sender, receiver) = (entry.side(direction), entry.side(direction.reverse()));
            // No flag of a plain segment matters; saying so leaves nothing of them to be looked at.
            let segment = TcpSegment { flags: tcp_flags::ACK, ..plain.segment };
            let Ok(after) = tcp::judge_plain(&sender, &receiver, &segment) else { return false };
            entry.advance(direction, &sender, &after);
        } else if !self.head.is(State::UdpReplied) {
            return false;
        }
        if entry.count(direction, u32::from(plain.ip_len)) {
            self.map.carry(self.hit);
        }
        entry.refresh(direction, now);
        true
    }
}

#[inline(always)]
fn hit(position: Position, word: Word, direction: Direction) -> Hit {
    Hit { entry: word.entry(), position, word: word.0, direction }
}

impl<A: Family> Map<A> {
    /// The same for both directions.
    #[inline]
    pub fn hash(&self, tuple: &Tuple<A>) -> Hash {
        self.key.hash(tuple)
    }

    /// Asks for the line of the hash's bucket.
    #[inline]
    pub fn prefetch(&self, hash: Hash) {
        self.index.prefetch(hash);
    }

    /// Where the hash's connection probably lies, if there is one, by its bucket alone; asks for the entry's lines.
    #[inline(always)]
    pub fn guess(&self, hash: Hash) -> Guess {
        let (position, entry) = self.index.guess(hash);
        self.entries[entry as usize].prefetch();
        Guess { position, entry }
    }

    /// The rule that the guessed connection passes by: good for a hint only.
    #[inline(always)]
    pub fn guessed_rule(&self, guess: Guess) -> RuleId {
        self.entries[guess.entry as usize].rule()
    }

    /// By whose session it passes, [`Bearer::NONE`] if by none: good for a hint only.
    #[inline(always)]
    pub fn guessed_bearer(&self, guess: Guess) -> Bearer {
        self.entries[guess.entry as usize].bearer()
    }

    /// The connection of a packet; none when its idle time has run out. Never writes.
    pub fn find(&self, hash: Hash, tuple: &Tuple<A>, now: Now) -> Option<Hit> {
        self.find_near(self.guess(hash), hash, tuple, now).map(|found| found.hit)
    }

    /// As [`Map::find`], looking first where the connection probably lies, and with the entry at hand.
    #[inline(always)]
    pub fn find_near(&self, guess: Guess, hash: Hash, tuple: &Tuple<A>, now: Now) -> Option<Found<'_, A>> {
        let matching = |entry| self.matching(entry, tuple);
        let (position, word, (entry, head, direction)) =
            match self.index.find_at(guess.position, hash, matching) {
                Some(found) => found,
                None => self.index.find(hash, matching)?,
            };
        let found = Found { hit: hit(position, word, direction), head, entry, map: self };
        (!entry.expired_as(head, millis(now), &self.limits)).then_some(found)
    }

    #[inline(always)]
    fn matching(&self, entry: u32, tuple: &Tuple<A>) -> Option<(&Entry<A::Key>, Head, Direction)> {
        let entry = &self.entries[entry as usize];
        let (head, direction) = entry.matches(tuple)?;
        Some((entry, head, direction))
    }

    pub(super) fn look_up(&self, hash: Hash, tuple: &Tuple<A>) -> Option<Hit> {
        let (position, word, (_, _, direction)) =
            self.index.find(hash, |entry| self.matching(entry, tuple))?;
        Some(hit(position, word, direction))
    }

    /// The connection to which a packet quoted in an ICMP error belongs; the direction is the quoted packet's. The
    /// caller still has to see that the error goes to the quoted packet's sender, and to
    /// [`Map::check_quote_sequence`]. Nothing about an error changes the connection (RFC 5508, REQ-4 and REQ-5).
    pub fn find_quote(&self, tuple: &Tuple<A>, now: Now) -> Option<Hit> {
        self.find(self.hash(tuple), tuple, now)
    }
}
