//! How a connection stands by the session of its originator.

use crate::connection::Stamp;
use crate::identity::{Bearer, Slots};
use crate::topology::Mac;
use crate::verdict::{Direction, Now, Reason};

/// How a connection stands by its originator's session.
pub(super) enum Standing {
    /// As when it was judged.
    Good,
    /// The session has changed.
    Changed,
    /// Its time is over.
    Over,
}

#[inline(always)]
pub(super) fn standing(sessions: &Slots, stamp: &Stamp, now: Now) -> Standing {
    if stamp.bearer == Bearer::NONE {
        return Standing::Good;
    }
    if !sessions.is_current(stamp.bearer) {
        return Standing::Changed;
    }
    if has_time(stamp, tick(now)) { Standing::Good } else { Standing::Over }
}

/// Whether, of a connection that passes by a session, this is good, and the packet from the device whose session it is, or
/// to it, if that is the MAC address to which it goes. In few steps: it is asked for nearly every packet.
#[inline(always)]
pub(super) fn obeys(
    sessions: &Slots,
    direction: Direction,
    stamp: &Stamp,
    frame: &[u8],
    to: Mac,
    tick: Tick,
) -> bool {
    has_time(stamp, tick) && sessions.obeys(stamp.bearer, direction, frame, to)
}

#[inline(always)]
fn has_time(stamp: &Stamp, Tick(tick): Tick) -> bool {
    stamp.valid_until.wrapping_sub(tick).cast_signed() > 0
}

/// Refuses a packet that another device sends in the place of the one whose session let the connection through. It cuts
/// nothing, or whoever can send it could cut what is not theirs.
pub(super) fn check_sender(
    sessions: &Slots,
    direction: Direction,
    stamp: &Stamp,
    mac: Option<Mac>,
) -> Result<(), Reason> {
    let is_of_originator = stamp.bearer != Bearer::NONE && direction == Direction::Original;
    if mac.is_none_or(|mac| !is_of_originator || sessions.is_from(stamp.bearer, mac)) {
        Ok(())
    } else {
        Err(Reason::AddressTaken)
    }
}

/// Refuses a packet for the originator that would go to another device than the one whose session let the connection through,
/// because that has its address now.
pub(super) fn check_receiver(
    sessions: &Slots,
    direction: Direction,
    stamp: &Stamp,
    to: Mac,
) -> Result<(), Reason> {
    let is_for_originator = stamp.bearer != Bearer::NONE && direction == Direction::Reply;
    if !is_for_originator || sessions.is_from(stamp.bearer, to) { Ok(()) } else { Err(Reason::AddressTaken) }
}

/// Deadlines count 16 ms, so that 32 bits last for two years.
const TICK_MS: u64 = 16;
/// No deadline is further away than a year; then the connection is judged again and has another.
const FURTHEST_TICKS: u64 = 365 * 86_400_000 / TICK_MS;

/// The present, as deadlines count it.
#[derive(Clone, Copy)]
pub(super) struct Tick(u32);

#[inline(always)]
pub(super) fn tick(now: Now) -> Tick {
    Tick((now.millis() / TICK_MS) as u32)
}

/// The last whole tick before the answer may be another one.
pub(super) fn deadline(until: Now, now: Now) -> u32 {
    let furthest = now.millis() / TICK_MS + FURTHEST_TICKS;
    match (until, (until.millis() / TICK_MS).min(furthest) as u32) {
        (Now(u64::MAX), _) => 0,
        // 0 is no end.
        (_, 0) => u32::MAX,
        (_, tick) => tick,
    }
}
