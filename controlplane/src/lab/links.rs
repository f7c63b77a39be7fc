//! Interfaces, addresses, routes and neighbours of a [`Namespace`].

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use afxdp::device::{Offloads, disable_offloads};
use bulkhead_dataplane::topology::Mac;
use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Namespace;
use crate::netlink::Link;

/// `TCA_OPTIONS` (linux/rtnetlink.h). For pfifo it carries `struct tc_fifo_qopt`, one u32, and no attributes.
const TCA_OPTIONS: u16 = 2;

/// How a veth pair is made.
#[derive(Clone, Debug)]
pub struct VethOptions {
    /// Receive and transmit queues of either end.
    pub queues: u32,
    /// Largest IP packet of either end, bytes.
    pub mtu: u32,
    /// Ethernet address of the first end; the kernel's random choice without.
    pub mac_a: Option<Mac>,
    /// Ethernet address of the second end; the kernel's random choice without.
    pub mac_b: Option<Mac>,
    /// Whether both ends are set up at once.
    pub up: bool,
}

impl Default for VethOptions {
    /// One queue, 1500 bytes, up.
    fn default() -> Self {
        VethOptions { queues: 1, mtu: 1500, mac_a: None, mac_b: None, up: true }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget<'a> {
    /// Through a gateway, out of the interface from which that is reached.
    Gateway(IpAddr),
    /// Straight out of the named interface.
    Link(&'a str),
    /// Several gateways, each with its interface.
    Multipath(&'a [(IpAddr, &'a str)]),
    /// Silently nowhere.
    Blackhole,
    /// Nowhere, with an ICMP error.
    Unreachable,
}

impl Namespace {
    /// Makes a veth pair with one end in each of two namespaces (which may be the same).
    pub fn veth(a: (&Namespace, &str), b: (&Namespace, &str), options: &VethOptions) -> io::Result<()> {
        let end = |name: &str, mac: Option<Mac>| {
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Mtu(options.mtu),
                LinkAttribute::NumTxQueues(options.queues),
                LinkAttribute::NumRxQueues(options.queues),
            ];
            message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
            message
        };
        let mut peer = end(b.1, options.mac_b);
        peer.attributes.push(LinkAttribute::NetNsFd(b.0.as_fd().as_raw_fd()));
        let mut message = end(a.1, options.mac_a);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        a.0.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            format!("making the veth pair {} – {}", a.1, b.1),
        )?;
        if options.up {
            a.0.set_up(a.1, true)?;
            b.0.set_up(b.1, true)?;
        }
        Ok(())
    }

    fn change(&self, message: RouteNetlinkMessage, flags: u16, what: String) -> io::Result<()> {
        self.netlink(|netlink| netlink.request(message, flags)).map_err(|error| self.context(error, what))
    }

    /// The interface of this name; an error of kind `NotFound` where there is none.
    pub fn link(&self, name: &str) -> io::Result<Link> {
        let links = self.links()?;
        links.into_iter().find(|link| link.name == name).ok_or_else(|| {
            self.context(io::Error::from(io::ErrorKind::NotFound), format!("finding the interface {name}"))
        })
    }

    fn set_link(&self, name: &str, set: impl FnOnce(&mut LinkMessage), what: String) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.link(name)?.index;
        set(&mut message);
        self.change(RouteNetlinkMessage::SetLink(message), 0, what)
    }

    /// Sets an interface up or down.
    pub fn set_up(&self, name: &str, up: bool) -> io::Result<()> {
        self.set_flag(name, LinkFlags::Up, up)
    }

    /// Lets an interface take frames for every Ethernet address, or only for its own.
    pub fn set_promiscuous(&self, name: &str, on: bool) -> io::Result<()> {
        self.set_flag(name, LinkFlags::Promisc, on)
    }

    fn set_flag(&self, name: &str, flag: LinkFlags, on: bool) -> io::Result<()> {
        let set = |message: &mut LinkMessage| {
            message.header.change_mask = flag;
            message.header.flags = if on { flag } else { LinkFlags::empty() };
        };
        self.set_link(name, set, format!("setting {flag:?} of {name} to {on}"))
    }

    /// Sets the largest IP packet of an interface, bytes.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        let set = |message: &mut LinkMessage| message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link(name, set, format!("setting the MTU of {name} to {mtu}"))
    }

    /// Sets the Ethernet address of an interface.
    pub fn set_mac(&self, name: &str, mac: Mac) -> io::Result<()> {
        let set = |message: &mut LinkMessage| message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        self.set_link(name, set, format!("setting the Ethernet address of {name}"))
    }

    /// Renames an interface.
    pub fn rename(&self, name: &str, new: &str) -> io::Result<()> {
        let set = |message: &mut LinkMessage| message.attributes.push(LinkAttribute::IfName(new.to_owned()));
        self.set_link(name, set, format!("renaming {name} to {new}"))
    }

    /// Deletes an interface; a veth's other end goes with it.
    pub fn delete_link(&self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.link(name)?.index;
        self.change(RouteNetlinkMessage::DelLink(message), 0, format!("deleting {name}"))
    }

    /// Gives an interface an address, usable at once (no duplicate address detection).
    pub fn add_address(&self, name: &str, address: IpNet) -> io::Result<()> {
        let message = self.address_message(name, address)?;
        let what = format!("adding {address} to {name}");
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, what)
    }

    /// Takes an address away.
    pub fn delete_address(&self, name: &str, address: IpNet) -> io::Result<()> {
        let message = self.address_message(name, address)?;
        self.change(RouteNetlinkMessage::DelAddress(message), 0, format!("removing {address} from {name}"))
    }

    fn address_message(&self, name: &str, address: IpNet) -> io::Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = self.link(name)?.index;
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes = vec![
            AddressAttribute::Local(address.addr()),
            AddressAttribute::Address(address.addr()),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        Ok(message)
    }

    /// Adds a route to the main table. Of several to one prefix the lower `metric` wins.
    pub fn add_route(&self, prefix: IpNet, target: RouteTarget<'_>, metric: u32) -> io::Result<()> {
        let message = self.route_message(prefix, &target, metric)?;
        let what = format!("adding the route {prefix} {target:?} metric {metric}");
        self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL, what)
    }

    /// Deletes a route added with the same arguments.
    pub fn delete_route(&self, prefix: IpNet, target: RouteTarget<'_>, metric: u32) -> io::Result<()> {
        let message = self.route_message(prefix, &target, metric)?;
        let what = format!("deleting the route {prefix} {target:?} metric {metric}");
        self.change(RouteNetlinkMessage::DelRoute(message), 0, what)
    }

    fn route_message(
        &self,
        prefix: IpNet,
        target: &RouteTarget<'_>,
        metric: u32,
    ) -> io::Result<RouteMessage> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(prefix.addr()),
            destination_prefix_length: prefix.prefix_len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes =
            vec![RouteAttribute::Destination(prefix.network().into()), RouteAttribute::Priority(metric)];
        match target {
            RouteTarget::Gateway(gateway) => {
                message.attributes.push(RouteAttribute::Gateway((*gateway).into()));
            }
            RouteTarget::Link(name) => {
                message.header.scope = RouteScope::Link;
                message.attributes.push(RouteAttribute::Oif(self.link(name)?.index));
            }
            RouteTarget::Multipath(hops) => {
                let mut next = Vec::new();
                for (gateway, name) in *hops {
                    let mut hop = RouteNextHop::default();
                    hop.interface_index = self.link(name)?.index;
                    hop.attributes = vec![RouteAttribute::Gateway((*gateway).into())];
                    next.push(hop);
                }
                message.attributes.push(RouteAttribute::MultiPath(next));
            }
            RouteTarget::Blackhole => message.header.kind = RouteType::BlackHole,
            RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        }
        Ok(message)
    }

    /// Adds or replaces a permanent neighbour entry.
    pub fn add_neighbour(&self, name: &str, address: IpAddr, mac: Mac) -> io::Result<()> {
        let mut message = self.neighbour_message(name, address)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let what = format!("adding the neighbour {address} to {name}");
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, what)
    }

    /// Deletes a neighbour entry.
    pub fn delete_neighbour(&self, name: &str, address: IpAddr) -> io::Result<()> {
        let message = self.neighbour_message(name, address)?;
        let what = format!("deleting the neighbour {address} of {name}");
        self.change(RouteNetlinkMessage::DelNeighbour(message), 0, what)
    }

    fn neighbour_message(&self, name: &str, address: IpAddr) -> io::Result<NeighbourMessage> {
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader {
            family: family(address),
            ifindex: self.link(name)?.index,
            ..NeighbourHeader::default()
        };
        message.attributes = vec![NeighbourAttribute::Destination(address.into())];
        Ok(message)
    }

    /// Turns offloads of an interface off. A veth end that sends towards AF_XDP needs [`Offloads::sending`] off, or
    /// local packets arrive with unfinished checksums and as frames of up to 64 KiB.
    pub fn disable_offloads(&self, name: &str, which: Offloads) -> io::Result<()> {
        self.run(|| disable_offloads(name, which))
            .map_err(|error| self.context(io::Error::other(error), format!("offloads of {name}")))
    }

    /// Puts a `pfifo` of this many packets in front of an interface. With a queueing discipline a veth whose peer
    /// is full pushes back instead of dropping silently.
    pub fn attach_pfifo(&self, name: &str, packets: u32) -> io::Result<()> {
        let index = self.link(name)?.index as i32;
        let header = TcHeader { index, parent: TcHandle::ROOT, ..TcHeader::default() };
        let options = DefaultNla::new(TCA_OPTIONS, packets.to_ne_bytes().to_vec());
        let message = TcMessage::from_parts(
            header,
            vec![TcAttribute::Kind("pfifo".to_owned()), TcAttribute::Other(options)],
        );
        let what = format!("attaching a pfifo of {packets} packets to {name}");
        self.change(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE, what)
    }
}

/// The netlink family of an address.
fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
