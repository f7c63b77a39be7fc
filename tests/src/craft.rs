//! Frames made wrong, or rare, on purpose: a good frame in, one with this or that changed out, and all checksums
//! that the change is not about right again. Frames have no VLAN tag unless it is put in here, last.

use std::net::IpAddr;

use crate::frames::{ETHERNET_BYTES, Family, Path, pseudo_header, sum};

/// Where the transport header is in a frame without options or extension headers.
pub fn transport(family: Family) -> usize {
    ETHERNET_BYTES + family.header_bytes()
}

/// The family of a frame.
pub fn family(frame: &[u8]) -> Family {
    if frame[12..14] == [0x86, 0xdd] { Family::V6 } else { Family::V4 }
}

/// The frame with these bytes from this offset on, and nothing set right.
pub fn damaged(frame: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// As [`damaged`], with the IPv4 header's and the transport's checksums set right.
pub fn changed(frame: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    sealed(damaged(frame, offset, bytes))
}

/// The frame with every checksum right that can be: the IPv4 header's, and that of TCP, UDP, ICMP or ICMPv6.
pub fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    if family(&frame) == Family::V4 {
        seal_ipv4(&mut frame);
    }
    seal_transport(&mut frame);
    frame
}

/// Sets the IPv4 header checksum right.
pub fn seal_ipv4(frame: &mut [u8]) {
    let bytes = usize::from(frame[ETHERNET_BYTES] & 0xf) * 4;
    let end = ETHERNET_BYTES + bytes.max(20);
    let Some(header) = frame.get_mut(ETHERNET_BYTES..end) else { return };
    header[10..12].fill(0);
    let checksum = !sum(0, header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Sets the transport checksum right; leaves alone what is cut short or of another protocol, and a UDP checksum of 0.
fn seal_transport(frame: &mut [u8]) {
    if frame.len() < transport(family(frame)) {
        return;
    }
    let Some((protocol, start, end)) = transport_of(frame) else { return };
    let (source, destination) = addresses(frame);
    let at = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return,
    };
    let Some(segment) = frame.get_mut(start..end).filter(|segment| segment.len() >= at + 2) else { return };
    if protocol == 17 && segment[6..8] == [0, 0] {
        return;
    }
    segment[at..at + 2].fill(0);
    let checksum = match !sum(pseudo_header(source, destination, protocol, segment.len()), segment) {
        0 if protocol == 17 => 0xffff,
        checksum => checksum,
    };
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn addresses(frame: &[u8]) -> (IpAddr, IpAddr) {
    let four = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes").into();
    let sixteen = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).expect("sixteen bytes").into();
    match family(frame) {
        Family::V4 => (four(26), four(30)),
        Family::V6 => (sixteen(22), sixteen(38)),
    }
}

/// Protocol, start and end of the transport segment, behind options and extension headers.
fn transport_of(frame: &[u8]) -> Option<(u8, usize, usize)> {
    let be16 = |at: usize| Some(usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])));
    match family(frame) {
        Family::V4 => {
            let bytes = usize::from(frame[ETHERNET_BYTES] & 0xf) * 4;
            Some((frame[23], ETHERNET_BYTES + bytes, (ETHERNET_BYTES + be16(16)?).min(frame.len())))
        }
        Family::V6 => {
            let end = (transport(Family::V6) + be16(18)?).min(frame.len());
            let (mut next, mut at) = (frame[20], transport(Family::V6));
            while matches!(next, 0 | 43 | 60) {
                next = *frame.get(at)?;
                at += (usize::from(*frame.get(at + 1)?) + 1) * 8;
            }
            Some((next, at, end))
        }
    }
}

/// The IPv4 frame with these options, filled up with "end of options" to four bytes.
pub fn with_ipv4_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().div_ceil(4) * 4, 0);
    let mut frame = frame.to_vec();
    let at = transport(Family::V4);
    frame.splice(at..at, options.iter().copied());
    frame[ETHERNET_BYTES] += (options.len() / 4) as u8;
    let total = (frame.len() - ETHERNET_BYTES) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    sealed(frame)
}

/// An extension header: its number, and its content behind next header and length (six bytes, or 14, or 22 …).
pub type Extension<'a> = (u8, &'a [u8]);

/// Six bytes of options that say nothing (PadN).
pub const PADDING: &[u8] = &[1, 4, 0, 0, 0, 0];

/// The IPv6 frame with extension headers before what it carries.
pub fn with_extensions(frame: &[u8], extensions: &[Extension<'_>]) -> Vec<u8> {
    let (headers, content) = frame.split_at(transport(Family::V6));
    let mut out = headers.to_vec();
    let upper = out[20];
    let mut next_at = 20;
    for (number, content) in extensions {
        assert_eq!((content.len() + 2) % 8, 0, "extension headers are of whole eight bytes");
        out[next_at] = *number;
        next_at = out.len();
        out.extend([upper, ((content.len() + 2) / 8 - 1) as u8]);
        out.extend(*content);
    }
    out.extend(content);
    let payload = (out.len() - transport(Family::V6)) as u16;
    out[18..20].copy_from_slice(&payload.to_be_bytes());
    sealed(out)
}

/// A TCP segment's options replaced by these (a multiple of four bytes).
pub fn with_tcp_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0, "TCP options are of whole four bytes");
    let at = transport(family(frame));
    let header = usize::from(frame[at + 12] >> 4) * 4;
    let mut out = [&frame[..at + 20], options, &frame[at + header..]].concat();
    out[at + 12] = ((20 + options.len()) as u8 / 4) << 4 | out[at + 12] & 0xf;
    set_length(&mut out);
    sealed(out)
}

/// Sets the IP header's length to what is there.
pub fn set_length(frame: &mut [u8]) {
    let bytes = frame.len() - ETHERNET_BYTES;
    match family(frame) {
        Family::V4 => frame[16..18].copy_from_slice(&(bytes as u16).to_be_bytes()),
        Family::V6 => frame[18..20].copy_from_slice(&(bytes.saturating_sub(40) as u16).to_be_bytes()),
    }
}

/// An IP packet of any protocol (next header) with this content.
pub fn raw(path: &Path, protocol: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = path.udp(1, 1, b"");
    let family = family(&frame);
    frame.truncate(transport(family));
    frame.extend(content);
    frame[if family == Family::V4 { 23 } else { 20 }] = protocol;
    set_length(&mut frame);
    sealed(frame)
}

/// The frame with a tag of this type and identifier before all it has.
pub fn tagged(frame: &[u8], ethertype: u16, vlan: u16) -> Vec<u8> {
    [&frame[..12], &ethertype.to_be_bytes(), &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// A frame of any EtherType (or length) with a payload of zeros.
pub fn of_ethertype(path: &Path, ethertype: u16) -> Vec<u8> {
    [&path.to[..], &path.from, &ethertype.to_be_bytes(), &[0; 46]].concat()
}

/// What forwarding may change taken out: Ethernet addresses, hop count, IPv4 header checksum; and the padding that the
/// link may add. What is left of two frames is equal if one is the other, forwarded.
pub fn essence(frame: &[u8]) -> Vec<u8> {
    let mut rest = frame[12..].to_vec();
    match family(frame) {
        Family::V4 => {
            rest[10] = 0;
            rest[12..14].fill(0);
        }
        Family::V6 => rest[9] = 0,
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Packet, flags, segment};

    fn path(family: Family) -> Path {
        let (source, destination) = match family {
            Family::V4 => ("10.0.0.1", "10.0.0.2"),
            Family::V6 => ("fd00::1", "fd00::2"),
        };
        let [source, destination] = [source, destination].map(|address| address.parse().unwrap());
        Path { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2], source, destination, ttl: 64 }
    }

    #[test]
    fn what_is_changed_has_right_checksums_again() {
        for family in Family::BOTH {
            let path = path(family);
            let tcp = path.tcp((1, 2), segment(flags::SYN, 7, 0), b"data");
            for frame in [path.udp(1, 2, b"odd"), tcp.clone(), path.echo_request(1, 2)] {
                assert_eq!(sealed(frame.clone()), frame);
                // Parsing checks the checksums.
                assert!(Packet::parse(&changed(&frame, frame.len() - 1, b"?")).is_some());
            }
            let with_options = with_tcp_options(&tcp, &[1, 1, 1, 0]);
            assert_eq!(with_options.len(), tcp.len() + 4);
            assert_eq!(Packet::parse(&with_options).unwrap().payload(), b"data");
            assert_eq!(essence(&tcp), essence(&path.ttl(9).tcp((1, 2), segment(flags::SYN, 7, 0), b"data")));
            assert!(Packet::parse(&raw(&path, 47, b"whatever")).is_some());
        }
        let routed = with_ipv4_options(&path(Family::V4).udp(1, 2, b"x"), &[7, 3, 4]);
        assert_eq!((routed[14], routed.len()), (0x46, 14 + 24 + 8 + 1));
        assert!(Packet::parse(&routed).is_some());
        let extended = with_extensions(&path(Family::V6).udp(1, 2, b"x"), &[(0, PADDING), (60, PADDING)]);
        assert!(Packet::parse(&extended).unwrap().is_udp_to(2));
    }
}
