//! Values that both languages write alike: addresses, ports and protocols, by number or name.

use std::net::IpAddr;

use bulkhead_dataplane::headers::protocol;
use ipnet::IpNet;

/// Service names that people write in rulesets, from IANA's registry.
const PORTS: [(&str, u16); 46] = [
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("tftp", 69),
    ("http", 80),
    ("www", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("sunrpc", 111),
    ("auth", 113),
    ("ident", 113),
    ("ntp", 123),
    ("netbios-ns", 137),
    ("netbios-dgm", 138),
    ("netbios-ssn", 139),
    ("imap2", 143),
    ("imap", 143),
    ("snmp", 161),
    ("snmp-trap", 162),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("submissions", 465),
    ("isakmp", 500),
    ("syslog", 514),
    ("submission", 587),
    ("dhcpv6-client", 546),
    ("dhcpv6-server", 547),
    ("ldaps", 636),
    ("domain-s", 853),
    ("rsync", 873),
    ("imaps", 993),
    ("pop3s", 995),
    ("openvpn", 1194),
    ("ms-sql-s", 1433),
    ("mysql", 3306),
    ("ms-wbt-server", 3389),
    ("ipsec-nat-t", 4500),
    ("postgresql", 5432),
    ("mdns", 5353),
];

/// Names of IP protocols, from `/etc/protocols`.
const PROTOCOLS: [(&str, u8); 17] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipencap", 4),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("icmp6", 58),
    ("ospf", 89),
    ("sctp", 132),
    ("udplite", 136),
];

/// The port of this number or name.
pub fn port(text: &str) -> Option<u16> {
    let known = PORTS.iter().find(|(name, _)| *name == text).map(|(_, port)| *port);
    known.or_else(|| number(text).and_then(|number| u16::try_from(number).ok()))
}

/// The names of ports.
pub fn port_names() -> impl Iterator<Item = &'static str> {
    PORTS.iter().map(|(name, _)| *name)
}

/// The protocol of this number or name.
pub fn ip_protocol(text: &str) -> Option<u8> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    known.or_else(|| number(text).and_then(|number| u8::try_from(number).ok()))
}

/// The names of protocols.
pub fn protocol_names() -> impl Iterator<Item = &'static str> {
    PROTOCOLS.iter().map(|(name, _)| *name)
}

/// Digits only: `parse` would take "+80".
pub fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// An address, a network (bits beyond its length do not matter) or `a-b`, as first and last address.
pub fn addresses(text: &str) -> Option<(IpAddr, IpAddr)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, address));
    }
    if let Ok(network) = text.parse::<IpNet>() {
        return Some((network.network(), network.broadcast()));
    }
    let (low, high) = text.split_once('-')?;
    let (low, high) = (low.trim().parse::<IpAddr>().ok()?, high.trim().parse::<IpAddr>().ok()?);
    (low.is_ipv4() == high.is_ipv4() && low <= high).then_some((low, high))
}

/// The types of ICMP and ICMPv6 by what they mean here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Opens a connection.
    EchoRequest,
    /// Belongs to a connection: replies and errors.
    OfConnection,
    /// Is about a link and is not forwarded: neighbour discovery, multicast groups.
    OfLink,
    /// Requests that never cross.
    Other,
}

/// What a type of this protocol is.
pub fn icmp(number: u8, text: &str) -> Option<Icmp> {
    let is_v4 = number == protocol::ICMP;
    Some(match text {
        "echo-request" | "echoreq" => Icmp::EchoRequest,
        "8" if is_v4 => Icmp::EchoRequest,
        "128" if !is_v4 => Icmp::EchoRequest,
        "echo-reply"
        | "echorep"
        | "destination-unreachable"
        | "unreach"
        | "time-exceeded"
        | "timex"
        | "parameter-problem"
        | "paramprob"
        | "packet-too-big"
        | "toobig" => Icmp::OfConnection,
        "0" | "3" | "11" | "12" if is_v4 => Icmp::OfConnection,
        "1" | "2" | "3" | "4" | "129" if !is_v4 => Icmp::OfConnection,
        "nd-router-solicit"
        | "nd-router-advert"
        | "nd-neighbor-solicit"
        | "nd-neighbor-advert"
        | "nd-redirect"
        | "router-solicitation"
        | "router-advertisement"
        | "router-renumbering"
        | "mld-listener-query"
        | "mld-listener-report"
        | "mld-listener-done"
        | "mld-listener-reduction"
        | "mld2-listener-report"
        | "ind-neighbor-solicit"
        | "ind-neighbor-advert"
        | "neighbrsol"
        | "neighbradv"
        | "routersol"
        | "routeradv" => Icmp::OfLink,
        "source-quench"
        | "redirect"
        | "timestamp-request"
        | "timestamp-reply"
        | "info-request"
        | "info-reply"
        | "address-mask-request"
        | "address-mask-reply"
        | "squench"
        | "redir"
        | "timereq"
        | "timerep"
        | "maskreq"
        | "maskrep"
        | "inforeq"
        | "inforep"
        | "trace" => Icmp::Other,
        other => {
            number_of_type(other)?;
            Icmp::Other
        }
    })
}

fn number_of_type(text: &str) -> Option<u8> {
    number(text).and_then(|number| u8::try_from(number).ok())
}
