//! nftables as the peer of the policy compiler: the same policy as a ruleset, loaded by `nft -f` in a namespace of its own.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead::lab::{self, Namespace};
use bulkhead_dataplane::policy::{Action, Rule, RuleSet, Service, reference};
use bulkhead_dataplane::verdict::SegmentId;
use ipnet::IpNet;
use nix::sys::resource::{UsageWho, getrusage};

/// A script for nft in a file.
pub struct Script(PathBuf);

impl Script {
    pub fn new(name: &str, text: &str) -> Script {
        let path = std::env::temp_dir().join(format!("bulkhead-goals-{}-{name}.nft", std::process::id()));
        std::fs::write(&path, text).expect("the directory for temporary files can be written");
        Script(path)
    }

    /// The CPU time that `nft -f` takes in this namespace, the kernel's on its behalf included.
    pub fn load(&self, namespace: &Namespace) -> Duration {
        let cpu = || {
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it exists since Linux 2.6");
            [usage.user_time(), usage.system_time()]
                .map(|time| Duration::new(time.tv_sec() as u64, 1000 * time.tv_usec() as u32))
                .iter()
                .sum::<Duration>()
        };
        let before = cpu();
        let output =
            namespace.run(|| Command::new("nft").arg("-f").arg(&self.0).output()).expect("it ran before");
        assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        cpu() - before
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Left over in the directory for temporary files it does no harm.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Why there is no peer here.
pub fn unavailable() -> Option<&'static str> {
    let version = Command::new("nft").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match version {
        _ if !lab::available() => Some("only root can make namespaces"),
        Ok(status) if status.success() => None,
        _ => Some("nft is not installed"),
    }
}

/// The rule set as a ruleset that decides alike, in the form that costs nftables least: both segments of a packet are
/// looked up once, in maps of disjoint ranges, and no rule names an address. Denies come first, then rejects.
pub fn ruleset(rules: &RuleSet) -> String {
    let mut text = String::from("table inet peer {\n");
    for (family, v4) in [("ipv4_addr", true), ("ipv6_addr", false)] {
        let elements = segments_of_ranges(rules, v4).join(", ");
        let _ = writeln!(
            text,
            " map {family}s {{ type {family} : mark; flags interval; elements = {{ {elements} }} }}"
        );
    }
    text.push_str(
        " chain forward {\n  type filter hook forward priority filter; policy drop;\n  \
         ct state established,related accept\n",
    );
    for (family, map) in [("ip", "ipv4_addrs"), ("ip6", "ipv6_addrs")] {
        let _ = writeln!(text, "  meta mark set {family} saddr map @{map}");
        let _ = writeln!(text, "  ct mark set {family} daddr map @{map}");
    }
    for action in [Action::Deny, Action::Reject, Action::Allow] {
        for rule in rules.rules.iter().filter(|rule| rule.action == action) {
            lines(rule).iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    }
    text + " }\n}\n"
}

/// A script that adds the rule in front of all others.
pub fn addition(rule: &Rule) -> String {
    lines(rule).iter().map(|line| format!("insert rule inet peer forward {line}\n")).collect()
}

/// A rule as nftables has it: one for each pair of segments and each range of ports. Lists in braces would be fewer rules,
/// but each is a set without a name, and finding one for it takes the kernel time that grows with their number: `nft -f` of
/// 10,000 rules takes most of a minute then.
fn lines(rule: &Rule) -> Vec<String> {
    let verdict = match rule.action {
        Action::Allow => "accept",
        Action::Reject => "reject",
        Action::Deny | Action::Pass => "drop",
    };
    let tcp = ports(rule, |service| match service {
        Service::Tcp(low, high) => Some((low, high)),
        _ => None,
    });
    let udp = ports(rule, |service| match service {
        Service::Udp(low, high) => Some((low, high)),
        _ => None,
    });
    let echo = |service, family| {
        let asks = rule.services.contains(&service);
        asks.then(|| format!("{family} type echo-request"))
    };
    let tcp = tcp.into_iter().map(|range| format!("tcp dport {range}"));
    let udp = udp.into_iter().map(|range| format!("udp dport {range}"));
    let echoes = [echo(Service::IcmpEcho, "icmp"), echo(Service::Icmpv6Echo, "icmpv6")];
    let matches: Vec<String> = tcp.chain(udp).chain(echoes.into_iter().flatten()).collect();
    let mut lines = Vec::new();
    for (from, to) in
        segments(&rule.from).iter().flat_map(|from| segments(&rule.to).into_iter().map(move |to| (*from, to)))
    {
        let line = |matches| format!("meta mark {} ct mark {} {matches} {verdict}", 1 + from, 1 + to);
        lines.extend(matches.iter().map(line));
    }
    lines
}

/// The numbers of segments, each once.
fn segments(list: &[SegmentId]) -> Vec<u32> {
    let mut segments: Vec<u32> = list.iter().map(|segment| segment.0).collect();
    segments.sort_unstable();
    segments.dedup();
    segments
}

/// The rule's ports of one protocol, each range once.
fn ports(rule: &Rule, range: impl Fn(Service) -> Option<(u16, u16)>) -> Vec<String> {
    let mut ranges: Vec<(u16, u16)> = rule.services.iter().filter_map(|service| range(*service)).collect();
    ranges.sort_unstable();
    ranges.dedup();
    let text = |(low, high): &(u16, u16)| if low == high { low.to_string() } else { format!("{low}-{high}") };
    ranges.iter().map(text).collect()
}

/// Disjoint ranges of addresses and the mark of the segment of each, by the longest match.
fn segments_of_ranges(rules: &RuleSet, v4: bool) -> Vec<String> {
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let address = |bits: u128| match v4 {
        true => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        false => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    };
    let networks = rules.segments.iter().flat_map(|segment| &segment.networks);
    let networks = networks.filter(|network| network.addr().is_ipv4() == v4);
    let ends = |network: &IpNet| [bits(network.network()), bits(network.broadcast()) + 1];
    let mut starts: Vec<u128> = networks.flat_map(ends).collect();
    starts.sort_unstable();
    starts.dedup();
    let ranges = starts.iter().zip(starts.iter().skip(1));
    let element = |(start, next): (&u128, &u128)| {
        let segment = reference::segment_of(rules, address(*start))?;
        Some(format!("{}-{} : {}", address(*start), address(next - 1), 1 + segment.0))
    };
    ranges.filter_map(element).collect()
}
