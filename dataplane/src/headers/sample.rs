//! Valid packets for tests, built by etherparse so that not our own idea of a packet is tested against itself.

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};

use crate::wire::checksum::Sum;

/// Ethernet addresses of the sender and the gateway.
pub(crate) const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const A4: [u8; 4] = [10, 1, 0, 5];
pub(crate) const B4: [u8; 4] = [10, 2, 0, 7];
pub(crate) const A6: [u8; 16] = [0xfd, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
pub(crate) const B6: [u8; 16] = [0xfd, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
/// Offsets of untagged frames.
pub(crate) const IP: usize = 14;
pub(crate) const L4: usize = 34;
pub(crate) const L4_V6: usize = 54;

macro_rules! finish {
    ($builder:expr, $payload:expr) => {{
        let builder = $builder;
        let mut frame = Vec::with_capacity(builder.size($payload.len()));
        builder.write(&mut frame, $payload).unwrap();
        frame
    }};
}

/// An IP family to build for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Runs the expression with an Ethernet and IP builder of the family.
macro_rules! with_ip {
    ($family:expr, |$ip:ident| $body:expr) => {
        match $family {
            Family::V4 => {
                let $ip = PacketBuilder::ethernet2(SENDER, GATEWAY).ipv4(A4, B4, 64);
                $body
            }
            Family::V6 => {
                let $ip = PacketBuilder::ethernet2(SENDER, GATEWAY).ipv6(A6, B6, 64);
                $body
            }
        }
    };
}

pub(crate) fn syn(family: Family) -> Vec<u8> {
    use etherparse::TcpOptionElement::{MaximumSegmentSize, Noop, WindowScale};
    let options = [MaximumSegmentSize(1460), Noop, WindowScale(7)];
    with_ip!(family, |ip| finish!(ip.tcp(40000, 443, 1000, 64240).syn().options(&options).unwrap(), b""))
}

pub(crate) fn segment(family: Family, payload: &[u8]) -> Vec<u8> {
    use etherparse::TcpOptionElement::{Noop, Timestamp};
    let options = [Noop, Noop, Timestamp(1, 2)];
    with_ip!(family, |ip| finish!(
        ip.tcp(40000, 443, 1001, 500).ack(2001).psh().options(&options).unwrap(),
        payload
    ))
}

pub(crate) fn udp(family: Family, payload: &[u8]) -> Vec<u8> {
    with_ip!(family, |ip| finish!(ip.udp(5353, 53), payload))
}

pub(crate) fn echo_request(family: Family) -> Vec<u8> {
    match family {
        Family::V4 => with_ip!(Family::V4, |ip| finish!(ip.icmpv4_echo_request(77, 1), b"ping")),
        Family::V6 => with_ip!(Family::V6, |ip| finish!(ip.icmpv6_echo_request(77, 1), b"ping")),
    }
}

pub(crate) fn echo_reply(family: Family) -> Vec<u8> {
    match family {
        Family::V4 => with_ip!(Family::V4, |ip| finish!(ip.icmpv4_echo_reply(77, 1), b"pong")),
        Family::V6 => with_ip!(Family::V6, |ip| finish!(ip.icmpv6_echo_reply(77, 1), b"pong")),
    }
}

/// "Too big" of the family, quoting the given IP packet.
pub(crate) fn too_big(family: Family, mtu: u16, quoted: &[u8]) -> Vec<u8> {
    let header = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
    match family {
        Family::V4 => {
            with_ip!(Family::V4, |ip| finish!(ip.icmpv4(Icmpv4Type::DestinationUnreachable(header)), quoted))
        }
        Family::V6 => with_ip!(Family::V6, |ip| finish!(
            ip.icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() }),
            quoted
        )),
    }
}

/// "Port unreachable" of the family, quoting the given IP packet.
pub(crate) fn unreachable(family: Family, quoted: &[u8]) -> Vec<u8> {
    match family {
        Family::V4 => {
            let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
            with_ip!(Family::V4, |ip| finish!(ip.icmpv4(kind), quoted))
        }
        Family::V6 => {
            let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            with_ip!(Family::V6, |ip| finish!(ip.icmpv6(kind), quoted))
        }
    }
}

/// One of each kind of packet that parses.
pub(crate) fn every_kind() -> Vec<Vec<u8>> {
    let mut all = vec![with_ipv4_options(&syn(Family::V4), &[1, 1, 1, 0])];
    all.push(with_extensions(&syn(Family::V6), &[(0, &[5, 2, 0, 0, 1, 0]), (60, &[1, 4, 0, 0, 0, 0])]));
    all.push(tagged(&syn(Family::V4), 10));
    for family in [Family::V4, Family::V6] {
        let quoted = udp(family, b"question");
        all.extend([
            syn(family),
            segment(family, b"data"),
            udp(family, b"question"),
            echo_request(family),
            echo_reply(family),
            too_big(family, 1400, &quoted[IP..]),
            unreachable(family, &syn(family)[IP..]),
        ]);
    }
    all
}

/// The IPv4 frame with these option bytes (a multiple of four) and lengths and checksum to match.
pub(crate) fn with_ipv4_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut out = frame.to_vec();
    out.splice(L4..L4, options.iter().copied());
    out[IP] = 0x45 + (options.len() / 4) as u8;
    let total = (out.len() - IP) as u16;
    out[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
    fix_ipv4(&mut out);
    out
}

/// Packets that parse but cross only where a rule names their protocol or segments permit what they have, and errors
/// that quote such packets.
pub(crate) fn rare_kinds() -> Vec<Vec<u8>> {
    let routing = |kind: u8| [&[kind, 1, 0, 0, 0, 0][..], &B6].concat();
    let gre = [
        changed(&udp(Family::V4, b"question"), |f| f[IP + 9] = 47),
        changed(&udp(Family::V6, b"question"), |f| f[IP + 6] = 47),
    ];
    let routed = with_extensions(&udp(Family::V6, b"x"), &[(43, &routing(4)), (60, &[0xc9, 4, 1, 2, 3, 4])]);
    let recorded =
        with_ipv4_options(&udp(Family::V4, b"x"), &[7, 7, 4, 0, 0, 0, 0, 68, 8, 5, 0, 0, 0, 0, 0, 0]);
    vec![
        with_ipv4_options(&syn(Family::V4), &[148, 4, 0, 0, 222, 4, 0, 0]),
        with_extensions(&syn(Family::V6), &[(0, &[5, 2, 0, 0, 1, 0]), (43, &routing(2))]),
        with_extensions(&syn(Family::V6), &[(60, &[1, 4, 0, 0, 0, 0]), (43, &routing(3))]),
        unreachable(Family::V4, &recorded[IP..]),
        unreachable(Family::V6, &routed[IP..]),
        too_big(Family::V4, 1400, &gre[0][IP..]),
        too_big(Family::V6, 1400, &gre[1][IP..]),
        recorded,
        routed,
    ]
    .into_iter()
    .chain(gre)
    .collect()
}

/// The IPv6 frame with extension headers put in: (number, content behind the two first bytes).
pub(crate) fn with_extensions(frame: &[u8], extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = frame[..L4_V6].to_vec();
    let mut next_at = IP + 6;
    let upper = out[next_at];
    for (number, content) in extensions {
        assert_eq!((content.len() + 2) % 8, 0);
        out[next_at] = *number;
        next_at = out.len();
        out.extend([upper, ((content.len() + 2) / 8 - 1) as u8]);
        out.extend(*content);
    }
    out.extend(&frame[L4_V6..]);
    let payload = (out.len() - L4_V6) as u16;
    out[IP + 4..IP + 6].copy_from_slice(&payload.to_be_bytes());
    out
}

/// The frame with a customer tag.
pub(crate) fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let mut out = frame.to_vec();
    let [high, low] = vlan.to_be_bytes();
    out.splice(12..12, [0x81, 0x00, high, low]);
    out
}

/// Sets the IPv4 header checksum right again.
pub(crate) fn fix_ipv4(frame: &mut [u8]) {
    let header_bytes = usize::from(frame[IP] & 0x0f) * 4;
    frame[IP + 10..IP + 12].fill(0);
    let sum = Sum::new().bytes(&frame[IP..IP + header_bytes]).checksum();
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
}

/// The frame changed by `change`, with a right IPv4 header checksum.
pub(crate) fn changed(frame: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = frame.to_vec();
    change(&mut out);
    if out[12..14] == [8, 0] {
        fix_ipv4(&mut out);
    }
    out
}
