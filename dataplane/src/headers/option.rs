//! Options of IPv4 and TCP: type, length, value, one after the other.

use super::Permits;
use crate::verdict::Reason;

/// End of the option list, in IPv4 and TCP alike.
const END: u8 = 0;
/// No operation: one byte of padding, in IPv4 and TCP alike.
const NOP: u8 = 1;

/// IPv4 option types: record route, timestamp, loose and strict source route (RFC 791), router alert (RFC 2113).
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const ROUTER_ALERT: u8 = 148;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// TCP option kind: window scale (RFC 7323), always three bytes long.
const WINDOW_SCALE: u8 = 3;
/// Larger shifts are read as this one (RFC 7323, section 2.3).
const WINDOW_SCALE_MAX: u8 = 14;

/// One option taken off the front: its type and its value, or `None` where its length is impossible.
fn split(options: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, length], _) = options.split_first_chunk::<2>()?;
    let value = options.get(2..usize::from(length))?;
    Some((kind, value, &options[usize::from(length)..]))
}

/// Reads IPv4 options. Padding asks for nothing, source routes never cross, and of the others both segments must permit
/// each (RFC 7126).
pub(super) fn ipv4(mut options: &[u8]) -> Result<Permits, Reason> {
    let mut needs = Permits::NONE;
    let mut is_source_route = false;
    // The whole list is walked before judging, so that a malformed list is always called malformed.
    while let Some(&kind) = options.first() {
        match kind {
            END => break,
            NOP => options = &options[1..],
            _ => {
                let (kind, _, rest) = split(options).ok_or(Reason::Ipv4BadOption)?;
                match kind {
                    LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => is_source_route = true,
                    RECORD_ROUTE => needs |= Permits::IPV4_RECORD_ROUTE,
                    TIMESTAMP => needs |= Permits::IPV4_TIMESTAMP,
                    ROUTER_ALERT => needs |= Permits::IPV4_ROUTER_ALERT,
                    _ => needs |= Permits::IPV4_UNKNOWN_OPTION,
                }
                options = rest;
            }
        }
    }
    if is_source_route { Err(Reason::Ipv4SourceRoute) } else { Ok(needs) }
}

/// Checks the lengths of TCP options and finds the window scale. Unknown options are fine.
#[inline]
pub(super) fn tcp(mut options: &[u8]) -> Result<Option<u8>, Reason> {
    // Nearly every segment of an established connection: NOP, NOP, timestamps (RFC 7323, appendix A).
    if let [NOP, NOP, 8, 10, rest @ ..] = options
        && rest.len() == 8
    {
        return Ok(None);
    }
    let mut window_scale = None;
    while let Some(&kind) = options.first() {
        match kind {
            END => break,
            NOP => options = &options[1..],
            _ => {
                let (kind, value, rest) = split(options).ok_or(Reason::TcpBadOption)?;
                if kind == WINDOW_SCALE {
                    let &[shift] = value else { return Err(Reason::TcpBadOption) };
                    window_scale = Some(shift.min(WINDOW_SCALE_MAX));
                }
                options = rest;
            }
        }
    }
    Ok(window_scale)
}
