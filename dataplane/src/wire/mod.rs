//! Field tables of the wire formats, and the Internet checksum. No meaning here: see [`crate::headers`].
//!
//! The contract of every reader: out of range gives `None` or an empty answer, never a panic.

pub mod checksum;

/// Ethernet II and its VLAN tags (IEEE 802.3, 802.1Q).
pub mod ethernet {
    /// Destination, source, type.
    pub const HEADER_BYTES: usize = 14;
    /// One 802.1Q tag: type and tag control information.
    pub const TAG_BYTES: usize = 4;
    /// The MAC address that sent the frame.
    #[inline(always)]
    pub fn source(frame: &[u8]) -> Option<[u8; 6]> {
        frame.get(6..)?.first_chunk().copied()
    }

    /// Type: IPv4.
    pub const IPV4: u16 = 0x0800;
    /// Type: IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Type: 802.1Q customer tag.
    pub const CUSTOMER_TAG: u16 = 0x8100;
    /// Type: 802.1ad service tag.
    pub const SERVICE_TAG: u16 = 0x88a8;
    /// Type: the pre-standard nested tag that some switches still send.
    pub const OLD_NESTED_TAG: u16 = 0x9100;
}

/// IPv4 (RFC 791): offsets in the header.
pub mod ipv4 {
    /// Header without options.
    pub const HEADER_BYTES: usize = 20;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Don't fragment, in the flags and fragment offset word.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// The reserved flag, which must be zero.
    pub const RESERVED: u16 = 0x8000;
    /// More fragments or a fragment offset: any of these bits makes the packet a fragment.
    pub const FRAGMENT: u16 = 0x3fff;
    /// The fragment offset alone.
    pub const FRAGMENT_OFFSET: u16 = 0x1fff;
}

/// IPv6 (RFC 8200): offsets in the header, and extension header numbers.
pub mod ipv6 {
    /// The fixed header.
    pub const HEADER_BYTES: usize = 40;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing header.
    pub const ROUTING: u8 = 43;
    /// Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// No next header.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// Destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// TCP (RFC 9293).
pub mod tcp {
    /// Header without options.
    pub const HEADER_BYTES: usize = 20;
    /// Checksum.
    pub const CHECKSUM: usize = 16;
}

/// UDP (RFC 768).
pub mod udp {
    /// The header.
    pub const HEADER_BYTES: usize = 8;
    /// Checksum.
    pub const CHECKSUM: usize = 6;
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443).
pub mod icmp {
    /// Type, code, checksum and four bytes that depend on the type.
    pub const HEADER_BYTES: usize = 8;
    /// Checksum.
    pub const CHECKSUM: usize = 2;

    /// ICMPv4: echo reply.
    pub const V4_ECHO_REPLY: u8 = 0;
    /// ICMPv4: destination unreachable.
    pub const V4_UNREACHABLE: u8 = 3;
    /// ICMPv4: echo request.
    pub const V4_ECHO_REQUEST: u8 = 8;
    /// ICMPv4: time exceeded.
    pub const V4_TIME_EXCEEDED: u8 = 11;
    /// ICMPv4: parameter problem.
    pub const V4_PARAMETER_PROBLEM: u8 = 12;
    /// ICMPv4 destination unreachable code: fragmentation needed and don't-fragment set.
    pub const V4_FRAGMENTATION_NEEDED: u8 = 4;

    /// ICMPv6: destination unreachable.
    pub const V6_UNREACHABLE: u8 = 1;
    /// ICMPv6: packet too big.
    pub const V6_PACKET_TOO_BIG: u8 = 2;
    /// ICMPv6: time exceeded.
    pub const V6_TIME_EXCEEDED: u8 = 3;
    /// ICMPv6: parameter problem.
    pub const V6_PARAMETER_PROBLEM: u8 = 4;
    /// ICMPv6: echo request.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// ICMPv6: echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
}

/// The first `N` bytes from `offset` on, as an array whose fields then need no further check.
#[inline(always)]
pub fn chunk<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>()
}

/// A 16-bit number in network order out of a header array.
#[inline(always)]
pub fn be16<const N: usize>(header: &[u8; N], offset: usize) -> u16 {
    u16::from_be_bytes([header[offset], header[offset + 1]])
}

/// A 32-bit number in network order out of a header array.
#[inline(always)]
pub fn be32<const N: usize>(header: &[u8; N], offset: usize) -> u32 {
    u32::from_be_bytes([header[offset], header[offset + 1], header[offset + 2], header[offset + 3]])
}
