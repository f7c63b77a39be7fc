//! The kernel's ports, addresses, routes and neighbours, read over netlink and kept current, as the plain tables of
//! [`bulkhead_dataplane::topology`].
//!
//! Notifications only say which kind of object changed; that kind is then read anew, once for all that was waiting.
//! So a lost, reordered or unknown notification can cost a read, never a wrong table: loss (ENOBUFS) is answered by
//! reading everything.
//!
//! What the kernel does without notifying is covered by what it does notify: it drops routes silently when a link
//! goes down or an address is removed, therefore a changed link leads to reading everything and a changed address to
//! reading the routes. A changed neighbour costs a read of the neighbours only, whatever the number of routes.
//!
//! The size of the tables is bounded by the kernel's own limits (`net.ipv4.neigh.default.gc_thresh3`,
//! `net.ipv6.neigh.default.gc_thresh3`, 1024 entries unless raised) and by who may add routes.

mod asking;
mod read;
mod resolver;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use bulkhead_dataplane::topology::{Mac, Neighbour, PortState, TopologySpec};
use bulkhead_dataplane::verdict::PortId;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use nix::libc;

use crate::netlink::{self, Link, Netlink, Notifications};
pub use asking::Asking;
pub use resolver::{Asked, Resolver};

/// Everything that a [`TopologySpec`] is made from.
const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// Datagrams taken from the notification socket before the tables are read, so that a storm cannot keep
/// [`Watcher::update`] from returning; what is left keeps the descriptor readable.
const DATAGRAMS_PER_UPDATE: usize = 4096;

/// The kinds of objects to be read anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dirty {
    links: bool,
    addresses: bool,
    routes: bool,
    neighbours: bool,
}

impl Dirty {
    const ALL: Dirty = Dirty { links: true, addresses: true, routes: true, neighbours: true };
}

/// A neighbour as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    neighbour: Neighbour,
    /// It has not been confirmed for a while, and nothing is being done about it.
    stale: bool,
}

/// The topology of one network namespace, as seen from the ports of the gateway.
pub struct Watcher {
    names: Vec<String>,
    netlink: Netlink,
    notifications: Notifications,
    resolver: Resolver,
    links: Vec<Link>,
    /// Addresses of the namespace with their prefix lengths, by interface index, in the kernel's order: primary first.
    addresses: Vec<(u32, IpNet)>,
    entries: Vec<Entry>,
    dirty: Dirty,
    /// A change that was read but not yet reported, because a later read failed.
    changed: bool,
    spec: TopologySpec,
    lost: u64,
}

impl Watcher {
    /// Watches the calling thread's namespace. The interface at index *n* is the port *n*; one that does not exist
    /// yet is a port that is down until it does. May be used from any thread afterwards.
    pub fn new(ports: &[String]) -> io::Result<Watcher> {
        if ports.len() > usize::from(u8::MAX) + 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 256 ports"));
        }
        let mut watcher = Watcher {
            names: ports.to_vec(),
            // Before the first read, so that no change falls between the two.
            notifications: Notifications::subscribe(&GROUPS)?,
            netlink: Netlink::open()?,
            resolver: Resolver::open()?,
            links: Vec::new(),
            addresses: Vec::new(),
            entries: Vec::new(),
            dirty: Dirty::ALL,
            changed: false,
            spec: TopologySpec::default(),
            lost: 0,
        };
        watcher.read()?;
        Ok(watcher)
    }

    /// The topology as of the last [`Watcher::update`].
    pub fn spec(&self) -> &TopologySpec {
        &self.spec
    }

    /// The interface index of a port; `None` while there is no interface of its name. It changes when the interface
    /// is removed and made again.
    pub fn ifindex(&self, port: PortId) -> Option<u32> {
        let name = self.names.get(usize::from(port.0))?;
        self.links.iter().find(|link| link.name == *name).map(|link| link.index)
    }

    /// The bridge, bond or the like that takes what the kernel receives on a port; `None` when the port stands alone,
    /// as it must: what steering gives to the kernel, a bridge would hand on to its other ports.
    pub fn master(&self, port: PortId) -> Option<String> {
        let index = self.ifindex(port)?;
        let master = self.links.iter().find(|link| link.index == index)?.master?;
        let name = self.links.iter().find(|link| link.index == master).map(|link| link.name.clone());
        Some(name.unwrap_or_else(|| format!("interface {master}")))
    }

    /// How often the kernel lost notifications, each time answered by reading everything.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Objects the kernel sent that could not be decoded and are missing from the tables.
    pub fn undecodable(&self) -> u64 {
        self.netlink.undecodable()
    }

    /// Takes in what the kernel has notified. True if the topology, or the interface index of a port, has changed.
    /// Does not block. After an error the topology is the last good one and the next call tries again.
    pub fn update(&mut self) -> io::Result<bool> {
        let ports = self.ports();
        let mut dirty = self.dirty;
        for _ in 0..DATAGRAMS_PER_UPDATE {
            match self.notifications.next(|object| note(&mut dirty, object.as_ref(), &ports)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.lost += 1;
                    dirty = Dirty::ALL;
                }
                Err(error) => return Err(error),
            }
        }
        self.dirty = dirty;
        self.read()
    }

    /// Reads the kinds that are dirty, in the order of their dependence. A kind is clean once it was read, so that a
    /// failure leaves it to be read again.
    fn read(&mut self) -> io::Result<bool> {
        if self.dirty.links {
            let links = netlink::links(&mut self.netlink)?;
            if links != self.links {
                let before = self.ports();
                self.links = links;
                self.changed |= before != self.ports();
                self.dirty = Dirty::ALL;
            }
            self.dirty.links = false;
        }
        if self.dirty.addresses {
            self.addresses = read::addresses(&mut self.netlink)?;
            let mut own: Vec<IpAddr> = self.addresses.iter().map(|(_, net)| net.addr()).collect();
            own.sort_unstable();
            own.dedup();
            self.changed |= replace(&mut self.spec.own_addresses, own);
            let states = self.names.iter().map(|name| self.port_state(name)).collect();
            self.changed |= replace(&mut self.spec.ports, states);
            self.dirty.addresses = false;
        }
        if self.dirty.routes {
            let ports = self.ports();
            let routes = read::routes(&mut self.netlink, &ports, &self.spec.ports)?;
            self.changed |= replace(&mut self.spec.routes, routes);
            self.dirty.routes = false;
        }
        if self.dirty.neighbours {
            let ports = self.ports();
            self.entries = read::neighbours(&mut self.netlink, &ports)?;
            let neighbours = self.entries.iter().map(|entry| entry.neighbour).collect();
            self.changed |= replace(&mut self.spec.neighbours, neighbours);
            self.dirty.neighbours = false;
        }
        Ok(std::mem::take(&mut self.changed))
    }

    /// The ports by interface index. One interface is one port: of a name given twice the first counts.
    fn ports(&self) -> HashMap<u32, PortId> {
        let mut ports = HashMap::new();
        for (port, name) in (0..=u8::MAX).map(PortId).zip(&self.names) {
            if let Some(link) = self.links.iter().find(|link| link.name == *name) {
                ports.entry(link.index).or_insert(port);
            }
        }
        ports
    }

    fn port_state(&self, name: &str) -> PortState {
        let Some(link) = self.links.iter().find(|link| link.name == name) else {
            return PortState { mac: Mac::default(), mtu: 0, up: false, addresses: Vec::new() };
        };
        PortState {
            mac: link.mac,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            up: link.up && link.carrier,
            addresses: self
                .addresses
                .iter()
                .filter(|(index, _)| *index == link.index)
                .map(|(_, net)| *net)
                .collect(),
        }
    }

    /// Has the kernel find the Ethernet address of a neighbour, by ARP or neighbour discovery; the answer comes as a
    /// change of the topology, or never. False when the port has no interface. See [`Resolver::resolve`].
    pub fn resolve(&mut self, port: PortId, address: IpAddr) -> io::Result<bool> {
        let Some(index) = self.ifindex(port) else { return Ok(false) };
        self.resolver.resolve(index, address).map(|_| true)
    }

    /// Has the kernel probe neighbours that it has not confirmed for a while and for which `used` holds, at most
    /// `limit` of them. Returns how many.
    ///
    /// The kernel does not see what the dataplane sends. By itself it would leave an entry stale for ever, and the
    /// gateway would go on sending to a host that has gone or has changed its network card, or it would forget an
    /// entry in use. Called every few seconds, this does what the kernel does for its own traffic: probe, and confirm
    /// the entry or let it fail, in which case it leaves the topology and can be resolved anew.
    pub fn confirm(
        &mut self,
        limit: usize,
        mut used: impl FnMut(PortId, IpAddr) -> bool,
    ) -> io::Result<usize> {
        let stale: Vec<Neighbour> = self
            .entries
            .iter()
            .filter(|entry| entry.stale && used(entry.neighbour.port, entry.neighbour.address))
            .take(limit)
            .map(|entry| entry.neighbour)
            .collect();
        let mut probed = 0;
        for neighbour in stale {
            let Some(index) = self.ifindex(neighbour.port) else { continue };
            probed += usize::from(self.resolver.confirm(index, neighbour.address)? == Asked::Probing);
        }
        Ok(probed)
    }
}

impl AsFd for Watcher {
    /// Readable when [`Watcher::update`] has something to take in.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifications.as_fd()
    }
}

/// Marks what a notification makes dirty; `None` is one that could not be decoded.
fn note(dirty: &mut Dirty, object: Option<&RouteNetlinkMessage>, ports: &HashMap<u32, PortId>) {
    match object {
        Some(RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_)) => dirty.links = true,
        Some(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_)) => {
            dirty.addresses = true;
            dirty.routes = true;
        }
        Some(RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) => {
            dirty.routes |= read::is_wanted(route);
        }
        Some(RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry)) => {
            dirty.neighbours |= ports.contains_key(&entry.header.ifindex);
        }
        _ => *dirty = Dirty::ALL,
    }
}

/// Whether the new value differs from the old one, whose place it takes.
fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let differs = *old != new;
    *old = new;
    differs
}
