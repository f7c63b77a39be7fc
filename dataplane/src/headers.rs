//! One forward pass over a frame: bytes → [`Headers`], or the [`Reason`] why it is malformed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::topology::Mac;

mod checksum;
mod extension;
mod fragment;
mod ip;
mod option;
mod permits;
mod plain;
mod quote;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
mod transport;

pub use checksum::verify_transport_checksum;
pub use fragment::{Fragment, fragment, reassembled};
pub use ip::parse;
pub use permits::Permits;
pub use plain::{AnyPlain, Plain, plain};
pub use quote::parse_quote;

/// IP protocol numbers that the gateway understands (IANA).
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// IPv6 in IP (RFC 4213).
    pub const IPV6: u8 = 41;
    /// Generic routing encapsulation (RFC 2784).
    pub const GRE: u8 = 47;
    /// Encapsulating security payload (RFC 4303).
    pub const ESP: u8 = 50;
    /// Authentication header (RFC 4302).
    pub const AH: u8 = 51;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;

    /// Whether a rule may open the protocol by its number alone, without a look at what it carries: every protocol but
    /// the four above, IGMP (which stays on its link), the IPv6 extension headers (what a rule could mean lies behind
    /// them) and 255 (reserved).
    pub const fn is_opaque(number: u8) -> bool {
        !matches!(number, TCP | UDP | ICMP | ICMPV6 | 2 | 0 | 43 | 44 | 59 | 60 | 135 | 139 | 140 | 255)
    }
}

/// An address of either family; what the per-family code is generic over.
pub trait Address:
    Copy + Eq + std::hash::Hash + std::fmt::Debug + Into<IpAddr> + Send + Sync + 'static
{
    /// Whether the family is IPv4; else it is IPv6.
    const IS_V4: bool;
    /// The address as a number, in host order (IPv4 in the low 32 bits).
    fn bits(self) -> u128;
}

impl Address for Ipv4Addr {
    const IS_V4: bool = true;

    #[inline]
    fn bits(self) -> u128 {
        u128::from(self.to_bits())
    }
}

impl Address for Ipv6Addr {
    const IS_V4: bool = false;

    #[inline]
    fn bits(self) -> u128 {
        self.to_bits()
    }
}

/// What names a connection in one direction. For ICMP echo the requester's port is the identifier, the
/// other the number after it: so neither direction is a request's of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl<A: Copy> Tuple<A> {
    /// The same connection seen from the other end.
    pub fn reverse(&self) -> Tuple<A> {
        Tuple {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}

/// Source and destination address of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4: source, destination.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6: source, destination.
    V6(Ipv6Addr, Ipv6Addr),
}

impl Addresses {
    /// The source address.
    pub fn source(&self) -> IpAddr {
        match *self {
            Addresses::V4(source, _) => source.into(),
            Addresses::V6(source, _) => source.into(),
        }
    }

    /// The destination address.
    pub fn destination(&self) -> IpAddr {
        match *self {
            Addresses::V4(_, destination) => destination.into(),
            Addresses::V6(_, destination) => destination.into(),
        }
    }
}

/// TCP flag bits (RFC 9293, section 3.1), as they stand in byte 13 of the header.
pub mod tcp_flags {
    /// No more data from sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
}

/// What the connection tracker needs of a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSegment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number (meaningful with ACK).
    pub acknowledgement: u32,
    /// The unscaled window field.
    pub window: u16,
    /// Flag bits, see [`tcp_flags`]; the ECN bits are left out, for they never change a verdict.
    pub flags: u8,
    /// Window scale option of a SYN, 0 to 14 (larger values are read as 14, RFC 7323); `None` without the option.
    pub window_scale: Option<u8>,
    /// Payload bytes.
    pub payload: u16,
}

/// The transport part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp(TcpSegment),
    /// A UDP datagram.
    Udp,
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An ICMP or ICMPv6 echo reply.
    EchoReply,
    /// An ICMP or ICMPv6 error that quotes a packet: see [`parse_quote`].
    IcmpError,
    /// A protocol of which nothing but its number is known: tunnels, IPsec, SCTP. See [`protocol::is_opaque`].
    Opaque,
}

/// All that the pipeline knows of a packet after one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Source and destination address.
    pub addresses: Addresses,
    /// Source port, or what stands for it in an echo, see [`Tuple`]; else 0.
    pub source_port: u16,
    /// Destination port, likewise; else 0.
    pub destination_port: u16,
    /// The transport protocol number, after any extension headers.
    pub protocol: u8,
    /// ICMP type, else 0.
    pub icmp_type: u8,
    /// ICMP code, else 0.
    pub icmp_code: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The MAC address that sent the frame; `None` of a datagram that came in pieces.
    pub sender: Option<Mac>,
    /// VLAN identifier of the one 802.1Q tag, or 0.
    pub vlan: u16,
    /// Offset of the IP header in the frame, bytes.
    pub network: u16,
    /// Offset of the transport header in the frame, bytes.
    pub transport_offset: u16,
    /// Offset of the end of the IP packet in the frame, bytes; what follows is link-layer padding.
    pub end: u16,
    /// IPv4 without the don't-fragment flag; always false for IPv6.
    pub may_fragment: bool,
    /// What it has that both segments must permit; empty for nearly every packet.
    pub needs: Permits,
    /// The transport part.
    pub transport: Transport,
}

impl Headers {
    /// Bytes of the IP packet, from its header to its end.
    pub fn ip_len(&self) -> usize {
        usize::from(self.end - self.network)
    }
}

/// The packet quoted in an ICMP error: the connection's tuple in the direction the quoted packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Source and destination of the quoted packet.
    pub addresses: Addresses,
    /// Quoted source port, or what stands for it in an echo, see [`Tuple`]; else 0.
    pub source_port: u16,
    /// Quoted destination port, likewise; else 0.
    pub destination_port: u16,
    /// Quoted transport protocol.
    pub protocol: u8,
    /// Quoted TCP sequence number (RFC 5927), for TCP only.
    pub tcp_sequence: Option<u32>,
    /// The MTU stated by "fragmentation needed" or "packet too big", bytes, as it stands there: values under 576 (IPv4)
    /// or 1,280 (IPv6) are attacks on path MTU discovery, also the 0 of routers older than RFC 1191.
    pub mtu: Option<u32>,
    /// What tells the quoted packet from others of its connection: the first eight bytes of its transport header.
    pub start: u64,
    /// The same: the quoted IPv4 header's identification; 0 for IPv6.
    pub identification: u16,
}
