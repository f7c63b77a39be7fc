//! Who is behind which address: slots that the control plane writes while the packet path reads.
//!
//! A policy has a table of slots. The control plane puts into a slot all that is known of whoever is behind one address,
//! for now and for later: a list of stages, each good until a moment, after the last of which the session has ended. So
//! what depends on time (how long ago the second factor was shown, how old the report of a device is, the session's end)
//! needs nobody's help to bite: also when the control plane is gone, identities expire in time.
//!
//! **What a packet pays.** A connection that was judged by an identity remembers a [`Bearer`]: the slot, its version and
//! the stage; and until when that stage lasts. Its packets load the slot's version and compare; connections that no
//! identity was asked for carry [`Bearer::NONE`] and pay one compare of a word that they have loaded anyway. What has
//! changed is judged again: a login, a heartbeat or a revocation concerns the connections of that address and no other.
//!
//! **What a change costs, and when it holds.** One thread at a time writes. It replaces what the slot holds and then
//! raises the version. A worker that judges at that moment takes what the slot holds together with the version it was
//! made with, so it stamps a connection either with the new one, or with one that the next packet finds outdated. Once
//! every worker has begun another burst ([`Engine::settle`](crate::engine::Engine::settle)), no packet is judged by
//! the old one.
//!
//! **Without a session is not less than with one.** What nobody known may do, somebody known may do as well
//! (`policy/conditions.rs`), so a connection that was let through with nobody behind it need not be judged again when
//! somebody signs in.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::policy::conditions::{Identity, Who};
use crate::sync::{Acquire, AtomicU32, AtomicU64, Relaxed, Release, Shared};
use crate::topology::Mac;
use crate::verdict::{Direction, Now};

/// The most sessions that a table can be made for.
pub const MAX_SESSIONS: usize = 1 << 23;
/// The most stages of one session; behind the last one it has ended.
pub const MAX_STAGES: usize = 256;
/// How far from where its hash points an address may lie: eight cache lines of places.
const PROBES: usize = 64;
/// There is a MAC address in the word, in the upper six bytes.
const HAS_MAC: u64 = 1;

/// What is known of somebody up to a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// From then on it no longer holds.
    pub until: Now,
    /// This is known, in the numbers of the policy to which the slots belong.
    pub identity: Identity,
}

/// Who is behind an address, now and later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// The address.
    pub address: IpAddr,
    /// The MAC address from which its packets come, where the address is on the link of a port; `None` behind routers.
    pub mac: Option<Mac>,
    /// By `until`, ascending; at most [`MAX_STAGES`] count. Behind the last one, or with none, the session has ended.
    pub stages: Vec<Stage>,
}

/// There is no room for another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySessions;

impl fmt::Display for TooManySessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no room for another session")
    }
}

impl std::error::Error for TooManySessions {}

/// By which session a connection was judged: `slot | stage << 24 | version << 32`. Versions begin at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bearer(pub(crate) u64);

impl Bearer {
    /// By none: no identity was asked for, or none was known.
    pub const NONE: Bearer = Bearer(0);

    fn new(slot: usize, stage: usize, version: u32) -> Bearer {
        debug_assert!(slot < 1 << 24 && stage < MAX_STAGES && version != 0);
        Bearer(slot as u64 | (stage as u64) << 24 | u64::from(version) << 32)
    }

    /// The slot and whose turn in it, whatever stage: the same for all that one session has decided, until something is
    /// written to its slot. 0 of none.
    pub fn turn(self) -> u64 {
        self.0 & !0xff00_0000
    }

    fn slot(self) -> usize {
        self.0 as usize & 0x00ff_ffff
    }

    fn version(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// An answer, by whose session it was given, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged<T> {
    /// The answer.
    pub answer: T,
    /// By whose session.
    pub bearer: Bearer,
    /// From then on it may be another one; the end of time where it depends on no session.
    pub until: Now,
}

impl<T> Judged<T> {
    /// An answer for which no session was asked.
    pub fn by_nobody(answer: T) -> Judged<T> {
        Judged { answer, bearer: Bearer::NONE, until: Now(u64::MAX) }
    }
}

/// What every packet of a session's connections looks at, and nothing else: 16 bytes, so that four lie in a cache line.
#[derive(Default)]
struct Slot {
    /// That of the occupant; 0 where there never was one.
    version: AtomicU32,
    /// The MAC address and [`HAS_MAC`]; 0 for any.
    mac: AtomicU64,
}

struct Versioned {
    version: u32,
    occupant: Occupant,
}

/// Where an address is looked for: `slot | tag << 32`, of which the tag is another part of the address's hash and never 0;
/// 0 where there never was anybody. A place keeps its slot.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u64);

impl Place {
    const EMPTY: Place = Place(0);

    fn new(slot: usize, tag: u32) -> Place {
        Place(slot as u64 | u64::from(tag) << 32)
    }

    fn slot(self) -> usize {
        self.0 as u32 as usize
    }

    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What only the writer needs.
#[derive(Default)]
struct Writer {
    /// Slots whose occupant has a stage.
    live: usize,
    /// Slots that have, or have had, an occupant: those of the lowest numbers.
    used: usize,
}

/// The sessions that a policy can ask for.
pub struct Slots {
    /// By a part of an address's hash, see [`Place`].
    places: Box<[AtomicU64]>,
    /// In the order in which they were first needed: what packets look at lies as close together as it can, and how much of
    /// the processor's cache it takes depends on how many sessions there are, not on how many there can be.
    slots: Box<[Slot]>,
    /// By slot, who is there: for whoever judges or writes.
    occupants: Box<[Shared<Versioned>]>,
    sessions: usize,
    hasher: RandomState,
    writer: Mutex<Writer>,
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Default for Slots {
    /// Without room: nobody is known.
    fn default() -> Slots {
        Slots::new(0)
    }
}

impl Slots {
    /// Room for so many sessions, at most [`MAX_SESSIONS`].
    pub fn new(sessions: usize) -> Slots {
        let sessions = sessions.min(MAX_SESSIONS);
        // Half of them stay empty, or ended, so that few are far from where their hash points.
        let count = if sessions == 0 { 0 } else { (2 * sessions).next_power_of_two() };
        Slots {
            places: afxdp::large_table(count, || AtomicU64::new(Place::EMPTY.0)),
            slots: afxdp::large_table(count, Slot::default),
            occupants: (0..count).map(|_| Shared::default()).collect(),
            sessions,
            hasher: RandomState::new(),
            writer: Mutex::new(Writer::default()),
        }
    }

    /// How many sessions fit.
    pub fn capacity(&self) -> usize {
        self.sessions
    }

    /// How many there are, those included that end by themselves and have not been told to.
    pub fn len(&self) -> usize {
        self.writer().live
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an address may lie, and its tag, which is never 0.
    fn places(&self, address: IpAddr) -> (impl Iterator<Item = usize> + use<>, u32) {
        let hash = self.hasher.hash_one(address);
        let (begin, mask) = (hash as usize, self.places.len().wrapping_sub(1));
        let probes = PROBES.min(self.places.len());
        ((0..probes).map(move |step| begin.wrapping_add(step) & mask), (hash >> 32) as u32 | 1)
    }

    /// Sets who is behind an address, in place of whoever was. The connections of the address are judged again at their
    /// next packet.
    ///
    /// # Errors
    ///
    /// There is no room for another address; nothing has changed.
    pub fn set(&self, occupant: Occupant) -> Result<(), TooManySessions> {
        let mut writer = self.writer();
        let (places, tag) = self.places(occupant.address);
        let mut free = None;
        let mut found = None;
        for at in places {
            let place = Place(self.places[at].load(Relaxed));
            if place == Place::EMPTY {
                free = free.or(Some((at, place)));
                break;
            }
            let (is_here, is_over) = self.occupants[place.slot()].with(|held| {
                let held = held.map(|held| &held.occupant);
                let is_here = place.tag() == tag && held.is_some_and(|held| held.address == occupant.address);
                (is_here, held.is_none_or(|held| held.stages.is_empty()))
            });
            if is_here {
                found = Some((at, place, is_over));
                break;
            }
            free = free.or(is_over.then_some((at, place)));
        }
        let is_live = !occupant.stages.is_empty();
        let (at, place, was_live) = match (found, free) {
            (Some((at, place, was_over)), _) => (at, place, !was_over),
            // What is over takes no room from those that are not.
            (None, Some((at, place))) if writer.live < self.sessions || !is_live => (at, place, false),
            (None, _) => return Err(TooManySessions),
        };
        writer.live = writer.live + usize::from(is_live) - usize::from(was_live);
        let slot = if place == Place::EMPTY { writer.used } else { place.slot() };
        writer.used = writer.used.max(slot + 1);
        self.write(at, Place::new(slot, tag), occupant);
        Ok(())
    }

    /// Ends the session of an address: whoever is there is known to have been somebody. False when there was none.
    pub fn end(&self, address: IpAddr) -> bool {
        let mut writer = self.writer();
        let Some((at, place, mac)) = self.find(address, |at, place, held| {
            (!held.occupant.stages.is_empty()).then_some((at, place, held.occupant.mac))
        }) else {
            return false;
        };
        writer.live -= 1;
        self.write(at, place, Occupant { address, mac, stages: Vec::new() });
        true
    }

    /// Makes the place of a session that has ended by the clock free for another one. Nothing changes for its connections:
    /// what was good until its end is not good since, and has not been revoked. False when the address has no such session.
    pub fn forget(&self, address: IpAddr, now: Now) -> bool {
        let mut writer = self.writer();
        let Some((slot, version, mac)) = self.find(address, |_, place, held| {
            let is_over = held.occupant.stages.last().is_some_and(|last| last.until <= now);
            is_over.then_some((place.slot(), held.version, held.occupant.mac))
        }) else {
            return false;
        };
        writer.live -= 1;
        let occupant = Occupant { address, mac, stages: Vec::new() };
        self.occupants[slot].store(Versioned { version, occupant });
        true
    }

    fn write(&self, at: usize, place: Place, occupant: Occupant) {
        let slot = place.slot();
        let Slot { version, mac } = &self.slots[slot];
        // 0 is nobody's, also when the numbers have come round.
        let next = version.load(Relaxed).wrapping_add(1).max(1);
        let mac_word = occupant.mac.map_or(0, word);
        self.occupants[slot].store(Versioned { version: next, occupant });
        self.places[at].store(place.0, Release);
        mac.store(mac_word, Relaxed);
        // Whoever sees it sees the new occupant.
        version.store(next, Release);
    }

    /// What `f` makes of the occupant of an address.
    fn find<T>(&self, address: IpAddr, f: impl Fn(usize, Place, &Versioned) -> Option<T>) -> Option<T> {
        let (places, tag) = self.places(address);
        for at in places {
            let place = Place(self.places[at].load(Acquire));
            if place == Place::EMPTY {
                return None;
            }
            if place.tag() != tag {
                continue;
            }
            let found = self.occupants[place.slot()].with(|held| {
                let held = held.filter(|held| held.occupant.address == address)?;
                Some(f(at, place, held))
            });
            if let Some(found) = found {
                return found;
            }
        }
        None
    }

    /// What connections carry from now on that are judged by the session of this address, but for the stage.
    pub fn bearer(&self, address: IpAddr) -> Option<Bearer> {
        self.find(address, |_, place, held| Some(Bearer::new(place.slot(), 0, held.version)))
    }

    /// Has a question answered for whoever is behind an address. Packets from another MAC address than the session's come
    /// from somebody else, of whom nothing is known; `None` stands for the right one.
    pub fn judge<T>(
        &self,
        address: IpAddr,
        mac: Option<Mac>,
        now: Now,
        ask: impl Fn(Who<'_>) -> T,
    ) -> Judged<T> {
        let judged = self.find(address, |_, place, held| {
            let Versioned { version, occupant } = held;
            if occupant.mac.zip(mac).is_some_and(|(own, seen)| own != seen) {
                return None;
            }
            let stages = occupant.stages.iter().take(MAX_STAGES);
            Some(match stages.enumerate().find(|(_, stage)| now < stage.until) {
                None => Judged::by_nobody(ask(Who::Expired)),
                Some((number, stage)) => Judged {
                    answer: ask(Who::Known(&stage.identity)),
                    bearer: Bearer::new(place.slot(), number, *version),
                    until: stage.until,
                },
            })
        });
        judged.unwrap_or_else(|| Judged::by_nobody(ask(Who::Nobody)))
    }

    /// Whether nothing has changed in the session by which a connection was judged.
    #[inline]
    pub fn is_current(&self, bearer: Bearer) -> bool {
        bearer != Bearer::NONE
            && self
                .slots
                .get(bearer.slot())
                .is_some_and(|slot| slot.version.load(Acquire) == bearer.version())
    }

    /// Whether this is the MAC address of the device whose session it is.
    #[inline]
    pub fn is_from(&self, bearer: Bearer, mac: Mac) -> bool {
        let own = self.slots.get(bearer.slot()).map_or(0, |slot| slot.mac.load(Relaxed));
        own == 0 || own == word(mac)
    }

    /// [`Slots::is_current`] and, of the MAC address from which the originator's packet comes or to which one for it goes,
    /// [`Slots::is_from`] in one look, for a bearer of somebody.
    #[inline(always)]
    pub(crate) fn obeys(&self, bearer: Bearer, direction: Direction, frame: &[u8], to: Mac) -> bool {
        let Some(slot) = self.slots.get(bearer.slot()) else { return false };
        if slot.version.load(Acquire) != bearer.version() {
            return false;
        }
        let own = slot.mac.load(Relaxed);
        let seen = || match direction {
            Direction::Original => source_word(frame),
            Direction::Reply => Some(word(to)),
        };
        own == 0 || seen() == Some(own)
    }

    /// Whether a packet from this MAC address is of another device than that of the address's session.
    pub fn is_taken(&self, address: IpAddr, mac: Mac) -> bool {
        let of_another = |held: &Versioned| held.occupant.mac.is_some_and(|own| own != mac);
        self.find(address, |_, _, held| of_another(held).then_some(())).is_some()
    }

    /// Asks for the line that [`Slots::is_current`] looks at.
    #[inline]
    pub fn prefetch(&self, bearer: Bearer) {
        if let Some(slot) = self.slots.get(bearer.slot()) {
            afxdp::prefetch(slot);
        }
    }
}

fn word(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac;
    HAS_MAC | u64::from_le_bytes([0, 0, a, b, c, d, e, f])
}

/// [`word`] of the MAC address from which a frame comes, which two bytes of the other address precede.
#[inline(always)]
fn source_word(frame: &[u8]) -> Option<u64> {
    let [_, _, _, _, word @ ..] = frame.first_chunk::<12>()?;
    Some(HAS_MAC | u64::from_le_bytes(*word) & !0xffff)
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom;
