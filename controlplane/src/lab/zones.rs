//! A gateway between zones, each zone one host namespace behind one port of the gateway.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use afxdp::device::Offloads;
use bulkhead_dataplane::topology::Mac;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Namespace, RouteTarget, VethOptions};

/// The interface of every host.
const HOST_INTERFACE: &str = "eth0";

/// How gateway and host learn each other's Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbours {
    /// By ARP and neighbour discovery.
    Dynamic,
    /// Permanent entries on both sides.
    Static,
}

/// What a zone looks like.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name, also that of the gateway's port: at most 15 bytes.
    pub name: String,
    /// Its IPv4 network: the gateway has the first address, the host those after it.
    pub v4: Ipv4Net,
    /// Its IPv6 network: the gateway has `::1`, the host `::2` and on.
    pub v6: Ipv6Net,
    /// Addresses of each family that the host has.
    pub addresses: usize,
    /// How Ethernet addresses are learnt.
    pub neighbours: Neighbours,
    /// Queues of either end of the veth pair.
    pub queues: u32,
    /// Largest IP packet of either end, bytes.
    pub mtu: u32,
}

impl Zone {
    /// A zone of one host with one address of each family, learnt by ARP and neighbour discovery, over one queue.
    ///
    /// # Panics
    /// Panics at what is not a network.
    pub fn new(name: &str, v4: &str, v6: &str) -> Zone {
        Zone {
            name: name.to_owned(),
            v4: v4.parse().unwrap_or_else(|_| panic!("{v4} is not an IPv4 network")),
            v6: v6.parse().unwrap_or_else(|_| panic!("{v6} is not an IPv6 network")),
            addresses: 1,
            neighbours: Neighbours::Dynamic,
            queues: 1,
            mtu: 1500,
        }
    }
}

/// The host of a zone and its link to the gateway.
pub struct Host {
    /// The zone's name, which is also the name of the gateway's port.
    pub zone: String,
    /// The host's namespace.
    pub namespace: Namespace,
    /// The host's interface.
    pub interface: &'static str,
    /// The host's Ethernet address.
    pub mac: Mac,
    /// The Ethernet address of the gateway's port.
    pub gateway_mac: Mac,
    /// The host's IPv4 addresses.
    pub v4: Vec<Ipv4Addr>,
    /// The host's IPv6 addresses.
    pub v6: Vec<Ipv6Addr>,
    /// The gateway's IPv4 address in this zone.
    pub gateway_v4: Ipv4Addr,
    /// The gateway's IPv6 address in this zone.
    pub gateway_v6: Ipv6Addr,
}

/// A gateway namespace and one host namespace for each zone. The gateway's kernel does not forward.
pub struct Lab {
    /// The gateway; its interfaces are named after the zones.
    pub gateway: Namespace,
    hosts: Vec<Host>,
}

impl Lab {
    /// Builds it, ready for use: addresses, default routes, links up, and offloads off that AF_XDP does not go with.
    pub fn new(zones: &[Zone]) -> io::Result<Lab> {
        let gateway = Namespace::new("gateway")?;
        let mut hosts = Vec::new();
        for (index, zone) in zones.iter().enumerate() {
            hosts.push(host(&gateway, index, zone)?);
        }
        Ok(Lab { gateway, hosts })
    }

    /// The host of a zone.
    ///
    /// # Panics
    /// Panics when there is no such zone.
    pub fn host(&self, zone: &str) -> &Host {
        self.hosts.iter().find(|host| host.zone == zone).unwrap_or_else(|| panic!("there is no zone {zone}"))
    }

    /// All hosts, in the order of their zones.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The names of the gateway's ports, in the order of the zones.
    pub fn ports(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.zone.clone()).collect()
    }

    /// Switches the forwarding of the gateway's kernel, for baselines and for tests that nothing crosses anyway.
    pub fn set_kernel_forwarding(&self, on: bool) -> io::Result<()> {
        let value = if on { "1" } else { "0" };
        self.gateway.set_sysctl("net.ipv4.ip_forward", value)?;
        self.gateway.set_sysctl("net.ipv6.conf.all.forwarding", value)
    }
}

fn host(gateway: &Namespace, index: usize, zone: &Zone) -> io::Result<Host> {
    let namespace = Namespace::new(&zone.name)?;
    // Locally administered addresses (the second bit), readable in a capture: port, then end.
    let octet = u8::try_from(index).map_err(|_| io::Error::other("more than 256 zones"))?;
    let mac = [2, 0, 0, 0, octet, 2];
    let gateway_mac = [2, 0, 0, 0, octet, 1];
    let options = VethOptions {
        queues: zone.queues,
        mtu: zone.mtu,
        mac_a: Some(gateway_mac),
        mac_b: Some(mac),
        up: true,
    };
    Namespace::veth((gateway, &zone.name), (&namespace, HOST_INTERFACE), &options)?;
    gateway.disable_offloads(&zone.name, Offloads::sending())?;
    // GRO too: it would show the host merged packets where the gateway sent single ones.
    namespace.disable_offloads(HOST_INTERFACE, Offloads { gro: true, ..Offloads::sending() })?;
    let v4: Vec<Ipv4Addr> = zone.v4.hosts().take(zone.addresses + 1).collect();
    // `hosts` begins with the network's own address for IPv6, which is the routers' anycast address (RFC 4291, 2.6.1).
    let v6: Vec<Ipv6Addr> = zone.v6.hosts().skip(1).take(zone.addresses + 1).collect();
    let (Some((&gateway_v4, v4)), Some((&gateway_v6, v6))) = (v4.split_first(), v6.split_first()) else {
        return Err(io::Error::other(format!("the networks of zone {} have no room for a host", zone.name)));
    };
    let net = |address: IpAddr| {
        let length = if address.is_ipv4() { zone.v4.prefix_len() } else { zone.v6.prefix_len() };
        IpNet::new(address, length).expect("the length comes from a network of the same family")
    };
    for router in [IpAddr::from(gateway_v4), IpAddr::from(gateway_v6)] {
        gateway.add_address(&zone.name, net(router))?;
    }
    let own = v4.iter().copied().map(IpAddr::from).chain(v6.iter().copied().map(IpAddr::from));
    for address in own {
        namespace.add_address(HOST_INTERFACE, net(address))?;
        if zone.neighbours == Neighbours::Static {
            gateway.add_neighbour(&zone.name, address, mac)?;
        }
    }
    for (router, everywhere) in [
        (IpAddr::from(gateway_v4), IpNet::from(Ipv4Net::default())),
        (IpAddr::from(gateway_v6), IpNet::from(Ipv6Net::default())),
    ] {
        if zone.neighbours == Neighbours::Static {
            namespace.add_neighbour(HOST_INTERFACE, router, gateway_mac)?;
        }
        namespace.add_route(everywhere, RouteTarget::Gateway(router), 0)?;
    }
    Ok(Host {
        zone: zone.name.clone(),
        namespace,
        interface: HOST_INTERFACE,
        mac,
        gateway_mac,
        v4: v4.to_vec(),
        v6: v6.to_vec(),
        gateway_v4,
        gateway_v6,
    })
}
