//! The packets that nearly all traffic consists of, read at a fraction of the cost of [`parse`](super::parse).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ip::address6;
use super::{TcpSegment, Tuple, protocol, tcp_flags};
use crate::wire::checksum::Sum;
use crate::wire::{be16, be32, chunk, ethernet, ipv4, ipv6, tcp, udp};

/// All that the pipeline needs to know of a plain packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<A> {
    /// What names its connection.
    pub tuple: Tuple<A>,
    /// The TCP header; of no meaning for UDP.
    pub segment: TcpSegment,
    /// Bytes of the IP packet, from its header to its end.
    pub ip_len: u16,
    /// TTL or hop limit, at least 2.
    pub hop_limit: u8,
}

/// A plain packet, by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyPlain {
    /// IPv4.
    V4(Plain<Ipv4Addr>),
    /// IPv6.
    V6(Plain<Ipv6Addr>),
}

const IP: usize = ethernet::HEADER_BYTES;

/// Reads a plain packet: without tag, IP options, extension headers or fragmentation; UDP, or TCP that carries only data
/// or an acknowledgement, with no option or the time stamps as every system lays them out (RFC 7323, appendix A).
///
/// `None` for all else, also for what [`parse`](super::parse) refuses: of a frame that is plain it says the same.
#[inline(always)]
pub fn plain(frame: &[u8]) -> Option<AnyPlain> {
    let link = chunk::<IP>(frame, 0)?;
    let source = &link[6..12];
    if source[0] & 1 != 0 || source == [0; 6] || frame.len() > usize::from(u16::MAX) {
        return None;
    }
    match be16(link, 12) {
        ethernet::IPV4 => plain_v4(frame).map(AnyPlain::V4),
        ethernet::IPV6 => plain_v6(frame).map(AnyPlain::V6),
        _ => None,
    }
}

#[inline(always)]
fn plain_v4(frame: &[u8]) -> Option<Plain<Ipv4Addr>> {
    let header = chunk::<{ ipv4::HEADER_BYTES }>(frame, IP)?;
    let ip_len = be16(header, 2);
    // Version 4, a header of five words, and of the fragmentation word only "don't fragment".
    let is_plain = header[0] == 0x45 && be16(header, 6) & !ipv4::DONT_FRAGMENT == 0;
    if !is_plain || header[ipv4::TTL] < 2 || !Sum::new().bytes(header).is_valid() {
        return None;
    }
    let upper = frame.get(IP + ipv4::HEADER_BYTES..IP + usize::from(ip_len))?;
    let upper = transport(upper, header[9], false)?;
    Some(Plain {
        tuple: Tuple {
            source: Ipv4Addr::from_bits(be32(header, 12)),
            destination: Ipv4Addr::from_bits(be32(header, 16)),
            source_port: upper.source_port,
            destination_port: upper.destination_port,
            protocol: header[9],
        },
        segment: upper.segment,
        ip_len,
        hop_limit: header[ipv4::TTL],
    })
}

#[inline(always)]
fn plain_v6(frame: &[u8]) -> Option<Plain<Ipv6Addr>> {
    let header = chunk::<{ ipv6::HEADER_BYTES }>(frame, IP)?;
    let ip_len = ipv6::HEADER_BYTES + usize::from(be16(header, 4));
    if header[0] >> 4 != 6 || header[ipv6::HOP_LIMIT] < 2 {
        return None;
    }
    let upper = frame.get(IP + ipv6::HEADER_BYTES..IP + ip_len)?;
    let upper = transport(upper, header[6], true)?;
    Some(Plain {
        tuple: Tuple {
            source: address6(header, 8),
            destination: address6(header, 24),
            source_port: upper.source_port,
            destination_port: upper.destination_port,
            protocol: header[6],
        },
        segment: upper.segment,
        // Not longer than the frame.
        ip_len: ip_len as u16,
        hop_limit: header[ipv6::HOP_LIMIT],
    })
}

struct Upper {
    source_port: u16,
    destination_port: u16,
    segment: TcpSegment,
}

#[inline(always)]
fn transport(segment: &[u8], protocol: u8, over_ipv6: bool) -> Option<Upper> {
    let (source_port, destination_port, segment) = match protocol {
        protocol::TCP => {
            let header = chunk::<{ tcp::HEADER_BYTES }>(segment, 0)?;
            let header_bytes = usize::from(header[12] >> 4) * 4;
            let payload = segment.len().checked_sub(header_bytes)?;
            let flags = header[13] & 0x3f;
            let only_data = flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST | tcp_flags::ACK);
            if only_data != tcp_flags::ACK || !are_options_plain(segment, header_bytes) {
                return None;
            }
            let tcp = TcpSegment {
                sequence: be32(header, 4),
                acknowledgement: be32(header, 8),
                window: be16(header, 14),
                flags,
                window_scale: None,
                // Shorter than the frame.
                payload: payload as u16,
            };
            (be16(header, 0), be16(header, 2), tcp)
        }
        protocol::UDP => {
            let header = chunk::<{ udp::HEADER_BYTES }>(segment, 0)?;
            let length = usize::from(be16(header, 4));
            let lacks_checksum = over_ipv6 && be16(header, udp::CHECKSUM) == 0;
            if length < udp::HEADER_BYTES || length > segment.len() || lacks_checksum {
                return None;
            }
            (be16(header, 0), be16(header, 2), TcpSegment::default())
        }
        _ => return None,
    };
    (source_port != 0 && destination_port != 0).then_some(Upper { source_port, destination_port, segment })
}

/// No option, or exactly: no-operation, no-operation, time stamps.
#[inline(always)]
fn are_options_plain(segment: &[u8], header_bytes: usize) -> bool {
    const TIME_STAMPS: [u8; 4] = [1, 1, 8, 10];
    match header_bytes - tcp::HEADER_BYTES.min(header_bytes) {
        0 => header_bytes == tcp::HEADER_BYTES,
        12 => chunk::<4>(segment, tcp::HEADER_BYTES).is_some_and(|options| *options == TIME_STAMPS),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::sample::{self, Family};
    use crate::headers::{Addresses, Transport, parse};

    /// What both say of one frame.
    fn agrees<A: Copy + PartialEq + std::fmt::Debug>(
        frame: &[u8],
        plain: Plain<A>,
        addresses: impl Fn(A, A) -> Addresses,
    ) {
        let headers = parse(frame).expect("what is plain is well formed");
        let Tuple { source, destination, source_port, destination_port, protocol } = plain.tuple;
        assert_eq!(headers.addresses, addresses(source, destination));
        assert_eq!(
            (headers.source_port, headers.destination_port, headers.protocol),
            (source_port, destination_port, protocol)
        );
        assert_eq!((headers.ip_len(), headers.hop_limit), (usize::from(plain.ip_len), plain.hop_limit));
        assert_eq!((usize::from(headers.network), headers.vlan), (IP, 0));
        match headers.transport {
            Transport::Tcp(segment) => assert_eq!(segment, plain.segment),
            transport => assert_eq!((transport, plain.segment), (Transport::Udp, TcpSegment::default())),
        }
    }

    fn check(frame: &[u8]) -> bool {
        match plain(frame) {
            Some(AnyPlain::V4(plain)) => agrees(frame, plain, Addresses::V4),
            Some(AnyPlain::V6(plain)) => agrees(frame, plain, Addresses::V6),
            None => return false,
        }
        true
    }

    #[test]
    fn data_and_datagrams_are_plain_and_handshakes_are_not() {
        for family in [Family::V4, Family::V6] {
            assert!(!check(&sample::syn(family)));
            assert!(check(&sample::udp(family, b"x")));
            assert!(check(&sample::segment(family, b"x")));
        }
    }

    proptest! {
        /// One byte of any well-formed frame changed, or its end cut off.
        #[test]
        fn what_is_plain_is_what_parse_says(which in 0usize.., at in 0usize.., byte in 0u8.., cut in 0usize..200) {
            let frames = sample::every_kind();
            let mut frame = frames[which % frames.len()].clone();
            let at = at % frame.len();
            frame[at] = byte;
            check(&frame);
            frame.truncate(frame.len().saturating_sub(cut % 64));
            check(&frame);
        }
    }
}
