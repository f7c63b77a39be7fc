//! What forwarding changes in a frame: both Ethernet addresses and the hop count, and nothing else (G13).

use crate::headers::{Addresses, Headers};
use crate::topology::Hop;
use crate::wire::{checksum, ipv4, ipv6};

/// Rewrites a frame for its next hop: Ethernet addresses, and TTL (with the header checksum, RFC 1624) or hop limit
/// less one. `headers` must be those of `frame`.
///
/// Returns false and leaves the frame as it is where the hop limit is used up (0 or 1) or the headers are not this
/// frame's: such a frame must not be sent.
#[must_use]
pub fn forward(frame: &mut [u8], headers: &Headers, hop: &Hop) -> bool {
    let is_v4 = matches!(headers.addresses, Addresses::V4(..));
    forward_at(frame, usize::from(headers.network), is_v4, headers.hop_limit, hop)
}

/// As [`forward`], for a frame whose IP header is at this offset and has this TTL or hop limit.
#[inline(always)]
#[must_use]
pub fn forward_at(frame: &mut [u8], network: usize, is_v4: bool, hop_limit: u8, hop: &Hop) -> bool {
    if hop_limit <= 1 {
        return false;
    }
    if is_v4 {
        let Some(ip) = frame.get_mut(network..).and_then(<[u8]>::first_chunk_mut::<{ ipv4::HEADER_BYTES }>)
        else {
            return false;
        };
        // The checksum is over words: TTL is the high byte of one, the protocol its low byte.
        let word = |ip: &[u8; ipv4::HEADER_BYTES], at| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let old = word(ip, ipv4::TTL);
        ip[ipv4::TTL] = hop_limit - 1;
        let updated = checksum::update(word(ip, ipv4::CHECKSUM), old, word(ip, ipv4::TTL));
        ip[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&updated.to_be_bytes());
    } else {
        let Some(byte) = frame.get_mut(network + ipv6::HOP_LIMIT) else { return false };
        *byte = hop_limit - 1;
    }
    // The network header lies behind the addresses, so they are there.
    frame[0..6].copy_from_slice(&hop.destination);
    frame[6..12].copy_from_slice(&hop.source);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::sample::{self, Family, IP};
    use crate::headers::{parse, verify_transport_checksum};
    use crate::verdict::PortId;

    const HOP: Hop =
        Hop { port: PortId(1), destination: [2, 9, 9, 9, 9, 9], source: [2, 8, 8, 8, 8, 8], mtu: 1500 };

    #[test]
    fn g12_g13_only_ethernet_addresses_and_the_hop_count_change() {
        for frame in sample::every_kind() {
            let headers = parse(&frame).unwrap();
            let mut out = frame.clone();
            assert!(forward(&mut out, &headers, &HOP));
            let after = parse(&out).expect("the header checksum is still right");
            let sender = Some(HOP.source);
            assert_eq!(after, Headers { hop_limit: headers.hop_limit - 1, sender, ..headers });
            assert_eq!((&out[0..6], &out[6..12]), (&HOP.destination[..], &HOP.source[..]));
            let ip = usize::from(headers.network);
            let may_change: &[usize] = if frame[ip] >> 4 == 4 { &[8, 10, 11] } else { &[7] };
            for at in 12..frame.len() {
                assert!(out[at] == frame[at] || at >= ip && may_change.contains(&(at - ip)), "byte {at}");
            }
            assert_eq!(verify_transport_checksum(&out, &after), Ok(()));
        }
    }

    #[test]
    fn g12_a_used_up_hop_limit_is_never_forwarded() {
        for (family, at) in [(Family::V4, IP + 8), (Family::V6, IP + 7)] {
            for hops in [0, 1] {
                let frame = sample::changed(&sample::syn(family), |f| f[at] = hops);
                let mut out = frame.clone();
                assert!(!forward(&mut out, &parse(&frame).unwrap(), &HOP));
                assert_eq!(out, frame);
            }
        }
    }

    #[test]
    fn the_checksum_stays_right_for_every_ttl_and_any_header() {
        for id in (0..=u16::MAX).step_by(257) {
            let frame = sample::changed(&sample::syn(Family::V4), |f| {
                f[IP + 4..IP + 6].copy_from_slice(&id.to_be_bytes());
                f[IP + 8] = 2 + (id % 254) as u8;
            });
            let mut out = frame.clone();
            assert!(forward(&mut out, &parse(&frame).unwrap(), &HOP));
            assert!(parse(&out).is_ok(), "identification {id}");
        }
    }
}
