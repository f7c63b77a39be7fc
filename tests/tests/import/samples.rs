//! The rulesets, and how they are imported.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead::import::{Imported, Language, Options, import};
use bulkhead::model::{self, Model};
use bulkhead_dataplane::policy::Service;

/// The port that all packets come from; no sample's rules name it.
pub const SOURCE_PORT: u16 = 47_111;

/// A ruleset of nftables.
pub struct Sample {
    /// File in `nft/`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Three interfaces; the world is behind the last.
    pub zones: [&'static str; 3],
    /// Whether a policy can say exactly the same.
    pub is_exact: bool,
}

macro_rules! sample {
    ($name:literal, $zones:expr, $is_exact:expr) => {
        Sample {
            name: $name,
            text: include_str!(concat!("nft/", $name, ".nft")),
            zones: $zones,
            is_exact: $is_exact,
        }
    };
}

/// All of them.
pub const NFT: [Sample; 9] = [
    sample!("home-router", ["lan", "guest", "wan"], true),
    sample!("dmz", ["lan", "dmz", "wan"], true),
    sample!("office-vlans", ["vlan10", "vlan20", "uplink"], true),
    sample!("server-farm", ["front", "back", "world"], true),
    sample!("blocklist", ["lan", "dmz", "wan"], true),
    sample!("dual-tables", ["lan", "srv", "wan"], true),
    sample!("campus", ["east", "west", "north"], true),
    sample!("unsure", ["lan", "srv", "wan"], false),
    sample!("nested", ["lan", "srv", "wan"], true),
];

/// The networks behind the zones, by their places, and behind an interface that is no zone here.
pub fn options(zones: &[&str]) -> Options {
    let networks = ["10.0.1.0/24 fd00:1::/64", "10.0.2.0/24 fd00:2::/64", "0.0.0.0/0 ::/0", "10.0.4.0/24"];
    let names = zones.iter().copied().chain(zones.contains(&"vlan10").then_some("vlan30"));
    let parsed = |list: &str| list.split(' ').map(|network| network.parse().unwrap()).collect();
    Options { interfaces: names.zip(networks).map(|(name, list)| (name.to_owned(), parsed(list))).collect() }
}

/// Imports, and loads what was made.
pub fn imported(language: Language, name: &str, text: &str, options: &Options) -> (Imported, Model) {
    let imported = import(language, name, text, options).unwrap_or_else(|errors| panic!("{name}: {errors}"));
    let model = model::parse(name, &imported.toml).unwrap_or_else(|errors| panic!("{name}: {errors}"));
    (imported, model)
}

/// Whether first packets that are forwarded are judged otherwise by the policy.
pub fn differs(imported: &Imported) -> bool {
    // These are about something else: translation, the gateway's own services, later packets, rates, other rules.
    const ELSEWHERE: [&str; 6] = [
        "translates",
        "`local`",
        "own services",
        "let replies back",
        "limits of states",
        "loaded into this anchor",
    ];
    let is_here = |message: &str| !ELSEWHERE.iter().any(|words| message.contains(words));
    imported.findings.iter().any(|finding| finding.effect.is_difference() && is_here(&finding.message))
}

/// Addresses at the edges of all segments, and some more.
pub fn addresses(model: &Model) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut around = |bits: u128, is_v4: bool| {
        for neighbour in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
            found.push(match is_v4 {
                true => Ipv4Addr::from_bits(neighbour as u32).into(),
                false => Ipv6Addr::from_bits(neighbour).into(),
            });
        }
    };
    for network in model.rules.segments.iter().flat_map(|segment| &segment.networks) {
        for edge in [network.network(), network.broadcast()] {
            match edge {
                IpAddr::V4(v4) => around(v4.to_bits().into(), true),
                IpAddr::V6(v6) => around(v6.to_bits(), false),
            }
        }
    }
    let mut add = |text: &str| found.push(text.parse().unwrap());
    for number in 1..=3 {
        for host in 77..80 {
            add(&format!("10.0.{number}.{host}"));
            add(&format!("fd00:{number}::{host:x}"));
        }
    }
    ["198.51.100.7", "203.0.113.9", "203.0.113.200", "2001:db8::9"].into_iter().for_each(add);
    found.sort_unstable();
    found.dedup();
    found
}

/// Ports at the edges of what the policy and the ruleset name.
pub fn ports(model: &Model, text: &str) -> Vec<u16> {
    let mut edges: Vec<u32> = vec![1, 65_535];
    for service in model.rules.rules.iter().flat_map(|rule| &rule.services) {
        if let Service::Tcp(low, high) | Service::Udp(low, high) = service {
            edges.extend([u32::from(*low), u32::from(*high)]);
        }
    }
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u32>().ok());
    edges.extend(numbers.filter(|number| *number > 6));
    let mut ports: Vec<u32> =
        edges.iter().flat_map(|edge| [edge.saturating_sub(1), *edge, edge + 1]).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.retain(|port| (1..65_536).contains(port) && *port != u32::from(SOURCE_PORT));
    ports.into_iter().map(|port| port as u16).collect()
}
