//! Three namespaces in a row: source, gateway, sink; IPv4 only, so that the kernels say nothing by themselves and every
//! packet counted is the bench's.

use std::net::Ipv4Addr;

use afxdp::device::{Offloads, enable_gro};
use anyhow::{Context, Result, anyhow};
use bulkhead_dataplane::topology::Mac;
use ipnet::{IpNet, Ipv4Net};

use crate::lab::{Namespace, VethOptions};

/// The source's network.
pub const SOURCE_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 1, 0, 0), 24);
/// The sink's network.
pub const SINK_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 2, 0, 0), 24);
/// Source and destination of the traffic. The gateway has the first address of either network.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// See [`SOURCE`].
pub const SINK: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// The traffic's destination port.
pub const DESTINATION_PORT: u16 = 9000;
/// The traffic's first source port: one connection for each.
pub const FIRST_PORT: u16 = 10_000;
/// How many connections there are.
pub const CONNECTIONS: u16 = 1000;

/// The gateway's port towards the source.
pub const IN: &str = "in";
/// The gateway's port towards the sink.
pub const OUT: &str = "out";
/// The interface of source and sink.
pub const HOST: &str = "eth0";

/// The Ethernet address of the gateway's port.
pub const IN_MAC: Mac = [2, 0, 0, 0, 1, 1];
/// The Ethernet address of the gateway's port.
pub const OUT_MAC: Mac = [2, 0, 0, 0, 2, 1];
/// Where frames for the source go. Not its interface's address, so that its kernel drops them as somebody else's.
pub const SOURCE_MAC: Mac = [2, 0, 0, 0, 1, 9];
/// Where frames for the sink go; see [`SOURCE_MAC`].
pub const SINK_MAC: Mac = [2, 0, 0, 0, 2, 9];

/// The namespaces.
pub struct Site {
    /// Where packets come from.
    pub source: Namespace,
    /// Between the two.
    pub gateway: Namespace,
    /// Where packets go.
    pub sink: Namespace,
}

impl Site {
    /// Builds it.
    pub fn new() -> Result<Site> {
        let site = Site {
            source: namespace("bench source")?,
            gateway: namespace("bench gateway")?,
            sink: namespace("bench sink")?,
        };
        let networks =
            [(IN, SOURCE_NETWORK, SOURCE, SOURCE_MAC, IN_MAC), (OUT, SINK_NETWORK, SINK, SINK_MAC, OUT_MAC)];
        for (end, (port, network, host, host_mac, port_mac)) in
            [&site.source, &site.sink].into_iter().zip(networks)
        {
            let options = VethOptions { mac_a: Some(port_mac), ..VethOptions::default() };
            Namespace::veth((&site.gateway, port), (end, HOST), &options)?;
            site.gateway.disable_offloads(port, Offloads::sending())?;
            end.disable_offloads(HOST, Offloads { gro: true, ..Offloads::sending() })?;
            let own = network.hosts().next().context("a /24 has hosts")?;
            site.gateway.add_address(port, net(own, network))?;
            site.gateway.add_neighbour(port, host.into(), host_mac)?;
        }
        // For the kernel's forwarding: NAPI on the port, without which it takes no redirected frames.
        site.gateway.run(|| enable_gro(IN))?;
        Ok(site)
    }

    /// Packets that have arrived at the sink, and at the source.
    pub fn arrived(&self) -> Result<[u64; 2]> {
        Ok([received(&self.sink, HOST)?, received(&self.source, HOST)?])
    }
}

fn net(address: Ipv4Addr, network: Ipv4Net) -> IpNet {
    Ipv4Net::new_assert(address, network.prefix_len()).into()
}

fn namespace(label: &str) -> Result<Namespace> {
    let namespace = Namespace::new(label)?;
    for which in ["all", "default"] {
        // A kernel without IPv6 has nothing to be quietened.
        let _ = namespace.set_sysctl(&format!("net.ipv6.conf.{which}.disable_ipv6"), "1");
    }
    Ok(namespace)
}

/// Packets received by an interface, from /proc/net/dev (the second number after the name).
fn received(namespace: &Namespace, interface: &str) -> Result<u64> {
    let text = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == interface)
        .and_then(|(_, counters)| counters.split_whitespace().nth(1)?.parse().ok())
        .ok_or_else(|| anyhow!("/proc/net/dev says nothing of {interface}"))
}

/// An Ethernet frame of 60 bytes (64 on a wire), from the source to the sink (the number is the source port) or back.
pub fn frame(port: u16, reply: bool) -> Vec<u8> {
    let (destination_mac, source, destination, ports) = match reply {
        false => (IN_MAC, SOURCE, SINK, (port, DESTINATION_PORT)),
        true => (OUT_MAC, SINK, SOURCE, (DESTINATION_PORT, port)),
    };
    let mut frame = Vec::with_capacity(60);
    frame.extend(destination_mac);
    frame.extend(if reply { SINK_MAC } else { SOURCE_MAC });
    frame.extend([8, 0]);
    let mut ip = vec![0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(source.octets());
    ip.extend(destination.octets());
    let sum: u32 = ip.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame.extend(ip);
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    // Length, and no checksum: RFC 768 lets IPv4 leave it out.
    frame.extend([0, 26, 0, 0]);
    frame.resize(60, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_dataplane::headers::{Addresses, parse};

    #[test]
    fn the_frames_are_sound_in_both_directions() {
        let there = parse(&frame(10_001, false)).unwrap();
        assert_eq!(there.addresses, Addresses::V4(SOURCE, SINK));
        assert_eq!((there.source_port, there.destination_port), (10_001, DESTINATION_PORT));
        let back = parse(&frame(10_001, true)).unwrap();
        assert_eq!(back.addresses, Addresses::V4(SINK, SOURCE));
        assert_eq!((back.source_port, back.destination_port), (DESTINATION_PORT, 10_001));
    }
}
