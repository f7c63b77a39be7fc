//! What can happen to a packet, and why: identifiers, [`Verdict`] and the table of [`Reason`]s.
//!
//! Every drop carries exactly one reason. A reason has a stable name (logs, counters, JSON), a group and a help
//! text that tells an operator what it means and what to do; all three stand in one table, below.

use std::fmt;

/// A port: a network interface that the gateway owns, numbered from 0 in the order of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u8);

/// The largest number of ports: a port's number must fit the connection entry and the verdict.
pub const MAX_PORTS: usize = 64;

/// A segment, numbered from 0 in the order of the compiled rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

/// A rule of one compiled policy. The number means nothing in another generation; the rule's name does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule: nothing matched, so the default deny decided.
    pub const NONE: RuleId = RuleId(u32::MAX);

    /// The rule's index in the rule set, or `None` for [`RuleId::NONE`].
    pub fn index(self) -> Option<usize> {
        (self != RuleId::NONE).then_some(self.0 as usize)
    }
}

/// The number of a published policy; it grows by one with every publication and starts at 1.
///
/// 32 bits, so that a connection entry can hold it; at one publication per millisecond it lasts 49 days. It wraps to
/// 1, because 0 in an entry means that somebody is changing its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u32);

impl Generation {
    /// The number of the next policy.
    pub fn next(self) -> Generation {
        Generation(self.0.wrapping_add(1).max(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reading of the monotonic clock, in nanoseconds since an arbitrary start. The only time the packet path knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now(pub u64);

impl Now {
    /// Whole milliseconds since the clock's start.
    pub fn millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the connection's originator.
    Original = 0,
    /// Back to the originator.
    Reply = 1,
}

impl Direction {
    /// The other direction.
    pub fn reverse(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// What becomes of one packet. The pipeline starts every packet as a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the rewritten frame out of this port.
    Forward(PortId),
    /// Dropped: counted once under this reason, no egress.
    Drop(Reason),
    /// Dropped for this reason, and the frame now holds our own answer (RST or ICMP), to be sent out of this port.
    Answer(PortId, Reason),
    /// The next hop's link-layer address is not known yet: the unchanged frame waits, and is judged again when the
    /// topology changes.
    Hold,
    /// A fragment: the store has a copy of it, and the frame's buffer is free. So many packets, at the front of the
    /// pipeline's queue of releases, are to be sent now: this one's datagram, if it was completed by it.
    Stored(u16),
    /// A fragment of a datagram that this other worker puts together.
    HandOver(u16),
}

macro_rules! reasons {
    ($($(#[$meta:meta])* $variant:ident $name:literal $group:literal $help:literal;)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $help] $variant,)* }

        impl Reason {
            /// Every reason, in the order of the way of a packet.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];
            /// How many reasons there are: the length of a counter array indexed by reason.
            pub const COUNT: usize = Reason::ALL.len();

            /// The stable name used in logs, counters and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// The stage that drops for this reason.
            pub const fn group(self) -> &'static str {
                match self { $(Reason::$variant => $group,)* }
            }

            /// What it means and what to do about it, in one or two sentences.
            pub const fn help(self) -> &'static str {
                match self { $(Reason::$variant => $help,)* }
            }
        }
    };
}

reasons! {
    // Steering and I/O.
    NoWorker "no_worker" "steering" "No worker's socket was there to take the packet: the gateway was starting, stopping or dead. Nothing crosses then, by design.";
    RxRingFull "rx_ring_full" "io" "The worker did not empty its receive ring in time. Add workers, or look for what keeps the CPU busy.";
    TxRingFull "tx_ring_full" "io" "The egress port's transmit ring stayed full. The link behind it is slower than what is sent to it.";
    PortDown "port_down" "io" "The egress port has no link or has vanished. Check the cable, or `ip link`.";
    HeldTooLong "held_too_long" "io" "The packet waited for its next hop's link-layer address longer than the limit. Check that the next hop answers ARP or neighbour discovery.";
    HoldQueueFull "hold_queue_full" "io" "Too many packets wait for unresolved next hops: this one's, or in all, and then the source with the most waiting loses its oldest. Usually a scan of unused addresses.";
    ShutDown "shut_down" "io" "The gateway stopped while the packet waited.";

    // Ethernet.
    EthernetTruncated "ethernet_truncated" "malformed" "Shorter than an Ethernet header.";
    EthernetNotForUs "ethernet_not_for_us" "sanity" "A unicast IP packet in a frame whose destination MAC address is not this port's, or is multicast or broadcast.";
    EthernetBadSource "ethernet_bad_source" "sanity" "The source MAC address is a multicast address or all zeros.";
    EthertypeUnsupported "ethertype_unsupported" "sanity" "Neither IPv4 nor IPv6. Bulkhead forwards only these; ARP is answered by the kernel and never forwarded.";
    VlanNested "vlan_nested" "sanity" "More than one VLAN tag.";
    VlanUnexpected "vlan_unexpected" "sanity" "A VLAN tag on a port that carries no tagged segments.";

    // IPv4.
    Ipv4Truncated "ipv4_truncated" "malformed" "The frame ends before the IPv4 header or the length it states.";
    Ipv4BadVersion "ipv4_bad_version" "malformed" "The version field is not 4.";
    Ipv4BadHeaderLength "ipv4_bad_header_length" "malformed" "The header length is under 20 bytes or beyond the packet.";
    Ipv4BadTotalLength "ipv4_bad_total_length" "malformed" "The total length is shorter than the header.";
    Ipv4BadChecksum "ipv4_bad_checksum" "malformed" "The header checksum is wrong: damage on the way, or an evasion attempt.";
    Ipv4BadOption "ipv4_bad_option" "malformed" "An option's length is impossible.";
    Ipv4ReservedFlag "ipv4_reserved_flag" "malformed" "The reserved flag beside don't-fragment is set, which RFC 791 says must be zero. Nothing honest sets it (RFC 3514 is a joke), and receivers differ in what they make of it.";
    Ipv4SourceRoute "ipv4_source_route" "sanity" "A source route option (LSRR, SSRR). Never allowed (RFC 7126).";
    Ipv4OptionDenied "ipv4_option_denied" "sanity" "An IPv4 option (record route, timestamp, router alert or unknown). Dropped by default (RFC 7126); `permit` in the segments at both ends lets it cross, but in no fragment.";

    // IPv6.
    Ipv6Truncated "ipv6_truncated" "malformed" "The frame ends before the IPv6 header or the length it states.";
    Ipv6BadVersion "ipv6_bad_version" "malformed" "The version field is not 6.";
    Ipv6BadExtension "ipv6_bad_extension" "malformed" "An extension header is cut short, repeated or out of order (RFC 8200).";
    Ipv6TooManyExtensions "ipv6_too_many_extensions" "sanity" "More extension headers, or more bytes of them, than the limit.";
    Ipv6RoutingHeader "ipv6_routing_header" "sanity" "A routing header. Type 0 and unknown types never cross (RFC 5095); `permit` in the segments at both ends lets types 2, 3 and 4 cross, but in no fragment.";
    Ipv6OptionDenied "ipv6_option_denied" "sanity" "A hop-by-hop or destination option other than padding. Dropped by default (RFC 9288); `permit` in the segments at both ends lets it cross, but in no fragment.";
    Ipv6Jumbogram "ipv6_jumbogram" "sanity" "A jumbo payload option or a zero payload length (RFC 2675).";
    Ipv6NoNextHeader "ipv6_no_next_header" "sanity" "Next header 59: nothing that a rule could match.";

    // Fragments and transport.
    Fragment "fragment" "sanity" "An IP fragment, and fragments are switched off (`fragments = 0` in [gateway]).";
    FragmentMalformed "fragment_malformed" "malformed" "A fragment that can be no piece of a datagram: empty, not a multiple of eight bytes though more follows, or beyond the largest packet.";
    FragmentNested "fragment_nested" "malformed" "Two IPv6 fragment headers in one packet.";
    FragmentNoHeader "fragment_no_header" "malformed" "The first fragment of an IPv6 datagram does not hold all of its headers (RFC 7112).";
    FragmentOverlap "fragment_overlap" "fragments" "Fragments of one datagram overlap or disagree about its end: an evasion attempt. All of it is dropped, also what still comes (RFC 5722).";
    FragmentDuplicate "fragment_duplicate" "fragments" "A fragment that was already there. The first one counts.";
    FragmentTimeout "fragment_timeout" "fragments" "The rest of the datagram did not come in time. See `fragment` in [gateway.timeouts].";
    FragmentLimit "fragment_limit" "fragments" "No room: too many fragments wait, of one source, of one port or of all, and the oldest gave way; or a datagram in more than 64 pieces. Usually a flood; else raise `fragments` in [gateway].";
    ProtocolUnsupported "protocol_unsupported" "sanity" "Not TCP, UDP, ICMP or ICMPv6: a tunnel, IPsec, SCTP, or an extension header that never crosses. A rule opens such a protocol only by naming it (`gre`, `esp`, `proto/99`); `any` does not mean it.";
    TransportTruncated "transport_truncated" "malformed" "The packet ends before its TCP, UDP or ICMP header.";
    TcpBadOffset "tcp_bad_offset" "malformed" "The data offset is under 20 bytes or beyond the segment.";
    TcpBadOption "tcp_bad_option" "malformed" "A TCP option's length is impossible.";
    TcpBadFlags "tcp_bad_flags" "sanity" "A combination of flags that no TCP sends: none, SYN with FIN or RST, FIN without ACK.";
    TcpBadChecksum "tcp_bad_checksum" "malformed" "The TCP checksum is wrong in a packet that would open a connection (on veth, have the sender compute it: `ethtool -K NAME tx off`).";
    UdpBadLength "udp_bad_length" "malformed" "The UDP length is under 8 or beyond the packet.";
    UdpBadChecksum "udp_bad_checksum" "malformed" "The UDP checksum is wrong, or zero over IPv6 (RFC 8200).";
    PortZero "port_zero" "sanity" "A source or destination port of 0 (RFC 6335: reserved).";
    IcmpBadChecksum "icmp_bad_checksum" "malformed" "The ICMP checksum is wrong.";
    IcmpTypeDenied "icmp_type_denied" "sanity" "An ICMP type that must not be forwarded: redirect, source quench, neighbour discovery, obsolete or unknown types (RFC 4890).";

    // Addresses.
    SourceInvalid "source_invalid" "sanity" "The source address can never be a source: multicast, broadcast, loopback, unspecified, link-local or reserved (RFC 6890).";
    DestinationInvalid "destination_invalid" "sanity" "The destination address is not forwarded: multicast, broadcast, loopback, unspecified, link-local or reserved.";
    SourceIsGateway "source_is_gateway" "sanity" "The source address is one of the gateway's own: spoofed.";
    Land "land" "sanity" "Source and destination address are the same.";
    SpoofedSource "spoofed_source" "sanity" "The source address does not belong to a segment of the port it came in by. If it should, add its network to that segment.";
    LocalServiceUndeclared "local_service_undeclared" "sanity" "Sent to the gateway itself, to a service not declared in `local`, or from a source that does not belong to a segment of the port it came in by.";

    // Connections.
    NoConnection "no_connection" "connection" "Neither a known connection's packet nor one that may open a connection.";
    TcpInvalid "tcp_invalid" "connection" "A TCP packet that the connection's state does not allow.";
    TcpOutOfWindow "tcp_out_of_window" "connection" "A sequence or acknowledgement number outside the connection's window: late, forged or injected.";
    IcmpUnrelated "icmp_unrelated" "connection" "An ICMP error that quotes no known connection, does not go to the quoted sender, or does not come from where the quoted packet went.";
    IcmpBadQuote "icmp_bad_quote" "connection" "An ICMP error whose quoted packet is cut short, malformed or outside the connection's window (RFC 5927), or that states an MTU below what every link carries.";
    IcmpRepeated "icmp_repeated" "connection" "An ICMP error about a packet of which another error has been let through already, moments before.";
    TableFull "table_full" "connection" "The connection table is full of live connections. Raise `connections` in [gateway], or find who opens so many.";
    HalfOpenLimit "half_open_limit" "connection" "Too many connections wait for their handshake or first reply, and none was found at once that could make room. Rare: at the limit the oldest of them makes room, which `status` counts as evicted. Usually a SYN flood.";
    HalfOpenSourceLimit "half_open_source_limit" "connection" "The source has `half_open_per_source` connections waiting for their handshake or first reply. A scan, a flood, or a limit too small for what the source does.";
    SynChallenged "syn_challenged" "connection" "A SYN into a segment with `protect = \"syn-cookies\"` from a client that has not shown yet that it is there: it was asked to, and its next SYN passes. Many without `challenge_answered` are a SYN flood from forged sources.";
    ChallengeAnswered "challenge_answered" "connection" "The reset by which a client showed that it is there. It was meant for the gateway; nothing is wrong.";
    SourceConnectionLimit "source_connection_limit" "connection" "The source has as many connections under the rule as its `connections_per_source` allows.";
    RuleConnectionLimit "rule_connection_limit" "connection" "The rule has as many connections as its `connections` allows.";
    SourceRateLimit "source_rate_limit" "connection" "The source opens connections faster than the rule's `new_per_second_per_source` allows.";
    RuleRateLimit "rule_rate_limit" "connection" "Connections are opened faster than the rule's `new_per_second` allows.";

    // Policy.
    NoDestinationSegment "no_destination_segment" "policy" "The destination address belongs to no segment.";
    NoRule "no_rule" "policy" "No rule allows it. Denied by default.";
    OutsideSchedule "outside_schedule" "policy" "The rule that would allow it is not in force now: outside its schedule, or expired.";
    NotAuthenticated "not_authenticated" "policy" "The rule that would allow it asks who is there, and nobody has signed in at the source address.";
    SessionExpired "session_expired" "policy" "The session at the source address has ended. Sign in again.";
    NotInGroup "not_in_group" "policy" "The user is neither named by the rule that would allow it nor in a group that it names.";
    DeviceMismatch "device_mismatch" "policy" "The rule or floor asks for another device: an enrolled one, or one with a certain tag.";
    MfaMissing "mfa_missing" "policy" "The rule or floor asks for a second factor, and none was shown.";
    MfaTooWeak "mfa_too_weak" "policy" "The rule or floor asks for a second factor that cannot be phished, such as a passkey.";
    MfaTooOld "mfa_too_old" "policy" "The second factor was shown longer ago than the rule or floor allows. Show it again.";
    PostureUnknown "posture_unknown" "policy" "Nothing is known of the device's posture, or only what is too old. Unknown denies.";
    PostureFailed "posture_failed" "policy" "The device fails a check of the posture that the rule or floor asks for.";
    RiskUnknown "risk_unknown" "policy" "The rule or floor asks for a low risk, and nothing is known of it. Unknown denies.";
    RiskTooHigh "risk_too_high" "policy" "The risk of the user or device is not below what the rule or floor allows.";
    RuleDenied "rule_denied" "policy" "A deny rule matched.";
    RuleRejected "rule_rejected" "policy" "A reject rule matched; the sender was told.";
    Locked "locked" "policy" "An operator has locked out the source or the destination address. `bulkhead locks` says why and until when.";
    Quarantined "quarantined" "policy" "The source or the destination is in quarantine, and no rule from or to the quarantine segment allows it. `bulkhead quarantine list` says why and until when.";
    PolicyRevoked "policy_revoked" "policy" "The connection was allowed once, and the running policy no longer allows it: it was cut.";
    AddressTaken "address_taken" "policy" "The packet comes from, or would go to, another MAC address than the device whose session let the connection through: somebody has taken its address.";
    IdentityRevoked "identity_revoked" "policy" "The identity behind the connection changed or was revoked: it was cut.";
    Expired "expired" "policy" "The connection's permission ran out: it was cut.";
    Killed "killed" "policy" "An operator cut the connection.";

    // Routing.
    HopLimitExceeded "hop_limit_exceeded" "routing" "The TTL or hop limit ran out here; the sender was told, within the rate limit.";
    NoRoute "no_route" "routing" "The kernel's routing table has no route to the destination.";
    RouteRefused "route_refused" "routing" "The route is a blackhole, unreachable or prohibit route, or leads to a port that is not the gateway's.";
    PacketTooBig "packet_too_big" "routing" "Larger than the egress MTU. The sender was told where it forbade fragmenting (IPv4 with DF, IPv6); other IPv4 packets are not fragmented here.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Reason {
    /// The reason with this stable name.
    pub fn from_name(name: &str) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|r| r.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_generation_is_0_also_after_the_last_one() {
        assert_eq!(Generation(1).next(), Generation(2));
        assert_eq!(Generation(u32::MAX).next(), Generation(1));
    }

    #[test]
    fn every_reason_has_its_own_name_and_finds_itself() {
        for (index, &reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
            assert!(reason.help().ends_with('.') && !reason.group().is_empty());
        }
    }
}
