//! The words shared with the program: the values of `bpf/steering.h` and the names in `bpf/steering.c`. The tests
//! below read the header.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::headers::protocol;
use crate::policy::compile::MAX_NETWORKS;

/// The program's name in the kernel (at most 15 bytes): how `detach` recognises it, also that of an earlier version.
pub(super) const PROGRAM: &str = "bulkhead_steer";

/// Map names.
pub(super) const OWN_V4: &str = "own_v4";
pub(super) const OWN_V6: &str = "own_v6";
pub(super) const SOURCES_V4: &str = "sources_v4";
pub(super) const SOURCES_V6: &str = "sources_v6";
pub(super) const LOCAL_SERVICES: &str = "local_services";
pub(super) const SOCKETS: &str = "sockets";
pub(super) const COUNTERS: &str = "counters";

/// Indexes of the counters map.
pub(super) const TO_HOST: u32 = 0;
pub(super) const REDIRECTED: u32 = 1;
pub(super) const NO_WORKER: u32 = 2;

/// The most own addresses of one family that a port's program can hold.
pub const OWN_ADDRESSES_MAX: usize = 4096;
/// The most local services that a port's program can hold.
pub const LOCAL_SERVICES_MAX: usize = 4096;
/// The most networks of one family among a port's sources: as many as a policy may have.
pub const SOURCES_MAX: usize = MAX_NETWORKS;

/// Types of echo requests, RFC 792 and RFC 4443.
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// Keys, all in network byte order. The value of every entry is 1; among the sources, 0 is elsewhere.
pub(super) type V4Key = [u8; 4];
pub(super) type V6Key = [u8; 16];
pub(super) type ServiceKey = [u8; 4];

pub(super) fn v4_key(address: Ipv4Addr) -> V4Key {
    address.octets()
}

pub(super) fn v6_key(address: Ipv6Addr) -> V6Key {
    address.octets()
}

/// Something that the gateway's own kernel answers on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LocalService {
    /// A TCP destination port.
    Tcp(u16),
    /// A UDP destination port.
    Udp(u16),
    /// ICMP echo requests, to an IPv4 address.
    IcmpEcho,
    /// ICMPv6 echo requests, to an IPv6 address.
    Icmpv6Echo,
}

impl LocalService {
    /// Protocol, 0, port or ICMP type.
    pub(super) fn key(self) -> ServiceKey {
        let (protocol, port) = match self {
            LocalService::Tcp(port) => (protocol::TCP, port),
            LocalService::Udp(port) => (protocol::UDP, port),
            LocalService::IcmpEcho => (protocol::ICMP, u16::from(ICMP_ECHO_REQUEST)),
            LocalService::Icmpv6Echo => (protocol::ICMPV6, u16::from(ICMPV6_ECHO_REQUEST)),
        };
        let [high, low] = port.to_be_bytes();
        [protocol, 0, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of `#define NAME value` in the C header.
    fn defined(name: &str) -> u64 {
        include_str!("../../bpf/steering.h")
            .lines()
            .filter_map(|line| line.strip_prefix("#define "))
            .filter_map(|line| line.split_once(' '))
            .find(|(defined, _)| *defined == name)
            .unwrap_or_else(|| panic!("steering.h does not define {name}"))
            .1
            .parse()
            .unwrap()
    }

    #[test]
    fn the_program_and_its_loader_agree_on_every_constant() {
        let ours = [
            ("OUTCOME_TO_HOST", u64::from(TO_HOST)),
            ("OUTCOME_REDIRECTED", u64::from(REDIRECTED)),
            ("OUTCOME_NO_WORKER", u64::from(NO_WORKER)),
            ("OUTCOMES", 3),
            ("OWN_ADDRESSES_MAX", OWN_ADDRESSES_MAX as u64),
            ("LOCAL_SERVICES_MAX", LOCAL_SERVICES_MAX as u64),
            ("SOURCES_MAX", SOURCES_MAX as u64),
            ("LOCAL_SERVICE_KEY_BYTES", size_of::<ServiceKey>() as u64),
            ("PROTOCOL_ICMP", u64::from(protocol::ICMP)),
            ("PROTOCOL_TCP", u64::from(protocol::TCP)),
            ("PROTOCOL_UDP", u64::from(protocol::UDP)),
            ("PROTOCOL_ICMPV6", u64::from(protocol::ICMPV6)),
            ("ICMP_ECHO_REQUEST", u64::from(ICMP_ECHO_REQUEST)),
            ("ICMPV6_ECHO_REQUEST", u64::from(ICMPV6_ECHO_REQUEST)),
        ];
        for (name, value) in ours {
            assert_eq!(defined(name), value, "{name}");
        }
    }

    #[test]
    fn the_program_and_its_loader_agree_on_every_name() {
        let source = include_str!("../../bpf/steering.c");
        for map in [OWN_V4, OWN_V6, SOURCES_V4, SOURCES_V6, LOCAL_SERVICES, SOCKETS, COUNTERS] {
            assert!(source.contains(&format!("struct map SECTION(\"maps\") {map} =")), "{map}");
        }
        assert!(source.contains(&format!("SECTION(\"xdp\") int {PROGRAM}(")));
        assert!(PROGRAM.len() <= 15, "the kernel would cut the name short");
    }
}
