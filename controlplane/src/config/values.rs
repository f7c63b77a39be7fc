//! The small languages inside strings: durations, networks, services, names. Each parser returns what is wrong
//! and, where there is one, the hint that repairs it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::Service;
use bulkhead_dataplane::policy::conditions::Posture;
use bulkhead_dataplane::topology::Mac;
use ipnet::IpNet;
use jiff::Timestamp;

use super::diagnostics::{nearest, quoted};

/// Longest name, characters: it must fit a column of a table.
pub const NAME_CHARS: usize = 64;
/// Longest duration accepted: ten years. Longer ones are slips, and later arithmetic need not think of them.
const DURATION_LIMIT: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What is wrong with a string, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What helps.
    pub hint: Option<String>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { message, hint } = self;
        f.write_str(message)?;
        hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

fn wrong<T>(message: String, hint: &str) -> Result<T, Wrong> {
    Err(Wrong { message, hint: Some(hint.to_owned()) })
}

/// A duration such as `30s`, `2h4m` or `250ms`: whole numbers with units d, h, m, s, ms, each at most once, the
/// larger first.
pub fn duration(text: &str) -> Result<Duration, Wrong> {
    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    const HINT: &str =
        "write whole numbers with d, h, m, s or ms, the larger first: \"30s\", \"2h4m\", \"250ms\"";
    let bad = || wrong(format!("{} is not a duration", quoted(text)), HINT);
    let mut rest = text;
    let mut millis = 0u64;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Ok(number) = rest[..digits].parse::<u64>() else { return bad() };
        let letters = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let unit = &rest[digits..digits + letters];
        let Some(index) = UNITS.iter().position(|(name, _)| *name == unit) else { return bad() };
        if index < next_unit {
            return bad();
        }
        next_unit = index + 1;
        millis = millis.saturating_add(number.saturating_mul(UNITS[index].1));
        rest = &rest[digits + letters..];
    }
    match Duration::from_millis(millis) {
        Duration::ZERO if text.is_empty() => bad(),
        Duration::ZERO => wrong(format!("{} is no time at all", quoted(text)), "a duration must be positive"),
        d if d > DURATION_LIMIT => wrong(format!("{} is more than ten years", quoted(text)), HINT),
        d => Ok(d),
    }
}

/// A duration of whole seconds.
pub fn seconds(text: &str) -> Result<u32, Wrong> {
    let duration = duration(text)?;
    // Ten years are less than 2^32 seconds.
    match u32::try_from(duration.as_secs()) {
        Ok(seconds) if duration.subsec_millis() == 0 => Ok(seconds),
        _ => {
            let hint = "for example \"30s\", \"15m\" or \"8h\"";
            wrong(format!("{} is no whole number of seconds", quoted(text)), hint)
        }
    }
}

/// A moment: a date and a time with their offset from UTC.
pub fn moment(text: &str) -> Result<Timestamp, Wrong> {
    let hint =
        "a date and a time with its offset from UTC: 2027-01-31T08:00:00Z or 2027-01-31T08:00:00+01:00";
    text.parse().or_else(|_| wrong(format!("{} is not one moment", quoted(text)), hint))
}

/// A kind of second factor: there is one that is asked for.
pub fn second_factor(text: &str) -> Result<(), Wrong> {
    const KIND: &str = "phishing-resistant";
    if text == KIND {
        return Ok(());
    }
    let hint = nearest(text, [KIND]);
    let hint = hint.unwrap_or_else(|| {
        format!("use \"{KIND}\"; how old it may be is said by `mfa_max_age`, and how old it is by `mfa_age`")
    });
    wrong(format!("{} is no kind of second factor", quoted(text)), &hint)
}

/// How a device stands to a posture.
pub fn posture_state(text: &str) -> Result<Posture, Wrong> {
    match text {
        "met" => Ok(Posture::Met),
        "failed" => Ok(Posture::Failed),
        "unknown" => Ok(Posture::Unknown),
        other => {
            let hint = nearest(other, ["met", "failed", "unknown"]);
            let hint = hint.unwrap_or_else(|| "use \"met\", \"failed\" or \"unknown\"".to_owned());
            wrong(format!("{} is no state of a posture", quoted(other)), &hint)
        }
    }
}

/// The word for how a device stands to a posture.
pub fn posture_state_name(state: Posture) -> &'static str {
    match state {
        Posture::Met => "met",
        Posture::Failed => "failed",
        Posture::Unknown => "unknown",
    }
}

/// The MAC address of one device, such as `02:00:00:00:00:07`.
pub fn mac(text: &str) -> Result<Mac, Wrong> {
    const HINT: &str = "write six pairs of hexadecimal digits: \"02:00:00:00:00:07\"";
    let mut mac = Mac::default();
    let mut pairs = text.split(':');
    for byte in &mut mac {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(value) => *byte = value,
            None => return wrong(format!("{} is not a MAC address", quoted(text)), HINT),
        }
    }
    if pairs.next().is_some() {
        return wrong(format!("{} is not a MAC address", quoted(text)), HINT);
    }
    // The lowest bit of the first byte makes it a group's (IEEE 802).
    if mac[0] & 1 == 1 || mac == Mac::default() {
        return wrong(format!("{} is the MAC address of no device", quoted(text)), HINT);
    }
    Ok(mac)
}

/// A MAC address as it is written.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The state of a session: what is said of it is that it has ended.
pub fn session(text: &str) -> Result<(), Wrong> {
    if text == "expired" {
        return Ok(());
    }
    let hint = "use \"expired\"; whoever names a user has a valid session otherwise";
    wrong(format!("{} is no state of a session", quoted(text)), hint)
}

/// A network such as `10.1.0.0/24` or `fd00:1::/64`; an address alone means that one host.
pub fn network(text: &str) -> Result<IpNet, Wrong> {
    const HINT: &str = "write an address and a prefix length: \"10.1.0.0/24\" or \"fd00:1::/64\"";
    let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(address)) => IpNet::from(address),
        _ => return wrong(format!("{} is not a network", quoted(text)), HINT),
    };
    if net.trunc() != net {
        let hint = format!("did you mean the network `{}`, or the host `{}`?", net.trunc(), net.addr());
        return wrong(format!("{} has bits set beyond its prefix length", quoted(text)), &hint);
    }
    Ok(net)
}

/// Names of protocols that a rule opens as a whole.
const PROTOCOLS: [(&str, u8); 6] = [
    ("6in4", protocol::IPV6),
    ("ah", protocol::AH),
    ("esp", protocol::ESP),
    ("gre", protocol::GRE),
    ("ipip", protocol::IPIP),
    ("sctp", protocol::SCTP),
];

/// Whether the text is meant as a service of its own rather than as a name of one.
pub fn is_service_literal(text: &str) -> bool {
    text == "any" || text.contains('/') || PROTOCOLS.iter().any(|(name, _)| *name == text)
}

/// A service such as `tcp/443`, `tcp/8000-8099`, `udp/53`, `icmp/echo-request`, `icmpv6/echo-request` or `any`; or a
/// protocol as a whole: `gre`, `esp`, `ah`, `ipip`, `6in4`, `sctp`, `proto/99`.
pub fn service(text: &str) -> Result<Service, Wrong> {
    const HINT: &str = "write \"tcp/443\", \"tcp/8000-8099\", \"udp/53\", \"icmp/echo-request\", \"icmpv6/echo-request\", \"any\", or a protocol as a whole: \"gre\", \"esp\", \"ah\", \"ipip\", \"6in4\", \"sctp\", \"proto/99\"";
    if text == "any" {
        return Ok(Service::Any);
    }
    if let Some((_, number)) = PROTOCOLS.iter().find(|(name, _)| *name == text) {
        return Ok(Service::Protocol(*number));
    }
    let Some((protocol, rest)) = text.split_once('/') else {
        return wrong(format!("{} is not a service", quoted(text)), HINT);
    };
    match (protocol, rest) {
        ("tcp", ports) => port_range(text, ports).map(|(low, high)| Service::Tcp(low, high)),
        ("udp", ports) => port_range(text, ports).map(|(low, high)| Service::Udp(low, high)),
        ("icmp", "echo-request") => Ok(Service::IcmpEcho),
        ("icmpv6", "echo-request") => Ok(Service::Icmpv6Echo),
        ("proto", number) => protocol_number(text, number),
        ("icmp" | "icmpv6", kind) => wrong(
            format!("{} is not an ICMP request that crosses the gateway", quoted(kind)),
            "only `echo-request` can be allowed; errors that belong to a connection follow it by themselves",
        ),
        _ if protocol.parse::<u16>().is_ok() => {
            let hint = format!("the protocol comes first: \"{rest}/{protocol}\"");
            wrong(format!("{} is not a service", quoted(text)), if rest.len() < 8 { &hint } else { HINT })
        }
        _ => wrong(format!("{} is not a protocol that the gateway forwards", quoted(protocol)), HINT),
    }
}

fn protocol_number(whole: &str, number: &str) -> Result<Service, Wrong> {
    const HINT: &str = "IP protocol numbers go from 1 to 254: \"proto/99\"";
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let name = match number.parse::<u8>() {
        Ok(number) if is_number && protocol::is_opaque(number) => return Ok(Service::Protocol(number)),
        Ok(protocol::TCP) => "tcp/443",
        Ok(protocol::UDP) => "udp/53",
        Ok(protocol::ICMP) => "icmp/echo-request",
        Ok(protocol::ICMPV6) => "icmpv6/echo-request",
        Ok(1..=254) if is_number => {
            return wrong(
                format!("{} never crosses the gateway", quoted(whole)),
                "IGMP stays on its link, and behind an IPv6 extension header lies what a rule can name",
            );
        }
        _ => return wrong(format!("{} is not a protocol", quoted(whole)), HINT),
    };
    wrong(format!("{} has services of its own", quoted(whole)), &format!("write for example \"{name}\""))
}

fn port_range(whole: &str, ports: &str) -> Result<(u16, u16), Wrong> {
    const HINT: &str = "ports go from 1 to 65535: \"tcp/443\" or \"tcp/8000-8099\"";
    let number = |text: &str| match text.parse::<u16>() {
        // `parse` would take "+80".
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => wrong(format!("{} is not a port", quoted(text)), HINT),
    };
    match ports.split_once('-') {
        None => number(ports).map(|port| (port, port)),
        Some((low, high)) => {
            let (low, high) = (number(low)?, number(high)?);
            if low > high {
                let swapped = format!("did you mean `{high}-{low}`?");
                return wrong(format!("the range in {} runs backwards", quoted(whole)), &swapped);
            }
            Ok((low, high))
        }
    }
}

/// The canonical text of a service; [`service`] reads it back.
pub fn service_text(service: Service) -> String {
    let range = |protocol: &str, low: u16, high: u16| {
        if low == high { format!("{protocol}/{low}") } else { format!("{protocol}/{low}-{high}") }
    };
    match service {
        Service::Any => "any".to_owned(),
        Service::Tcp(low, high) => range("tcp", low, high),
        Service::Udp(low, high) => range("udp", low, high),
        Service::IcmpEcho => "icmp/echo-request".to_owned(),
        Service::Icmpv6Echo => "icmpv6/echo-request".to_owned(),
        Service::Protocol(number) => protocol_text(number),
    }
}

/// The canonical text of a protocol as a whole.
pub fn protocol_text(number: u8) -> String {
    let name = PROTOCOLS.iter().find(|(_, known)| *known == number).map(|(name, _)| (*name).to_owned());
    name.unwrap_or_else(|| format!("proto/{number}"))
}

/// Whether the text may name a port, segment, service or rule: names stand in logs, metrics and command lines.
pub fn name(text: &str) -> Result<(), Wrong> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text == "any" {
        return wrong("`any` cannot be a name".to_owned(), "in rules, \"any\" means every one there is");
    }
    if text.chars().all(legal)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= NAME_CHARS
    {
        return Ok(());
    }
    let repaired: String = text.chars().map(|c| if legal(c) { c } else { '-' }).take(NAME_CHARS).collect();
    let repaired = repaired.trim_matches(['-', '.', '_']);
    let rule =
        format!("use letters, digits, `.`, `_` and `-`, at most {NAME_CHARS}, a letter or digit first");
    let hint = if repaired.is_empty() { rule } else { format!("{rule}: `{repaired}`") };
    wrong(format!("{} is not a usable name", quoted(text)), &hint)
}

/// Longest name of a user, a group or a tag, characters.
const IDENTITY_CHARS: usize = 256;

/// Whether the text may be a user, a group or a tag of devices (`what`): whatever an identity provider calls them
/// ("alice@example.org", "/Admins/Data base"), but nothing that looks like something else on a terminal.
pub fn identity(text: &str, what: &str) -> Result<(), Wrong> {
    if text == "any" {
        let hint = "every authenticated user is `users = \"any\"`; leave out what does not matter";
        return wrong(format!("`any` cannot name a {what}"), hint);
    }
    let plain = !text.is_empty() && text.trim() == text && !text.contains(char::is_control);
    if plain && text.chars().count() <= IDENTITY_CHARS {
        return Ok(());
    }
    let hint = format!("write it without spaces around it, in 1 to {IDENTITY_CHARS} characters");
    wrong(format!("{} cannot name a {what}", quoted(text)), &hint)
}

/// Whether the text can be the name of a network interface (Linux: `dev_valid_name`, IFNAMSIZ 16 with the NUL).
pub fn interface(text: &str) -> Result<(), Wrong> {
    let legal = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if (1..16).contains(&text.len()) && text != "." && text != ".." && text.chars().all(legal) {
        return Ok(());
    }
    wrong(
        format!("{} cannot be the name of a network interface", quoted(text)),
        "Linux names have 1 to 15 bytes, without spaces, `/` and `:`; see `ip link`",
    )
}
