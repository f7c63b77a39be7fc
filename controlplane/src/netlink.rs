//! Route netlink, synchronous: one socket, requests with their acknowledgement, dumps, and multicast notifications.
//!
//! A netlink socket stays in the network namespace in which it was opened, whichever thread uses it afterwards.
//! Errors keep the kernel's errno ([`io::Error::raw_os_error`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use bulkhead_dataplane::topology::Mac;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

/// The kernel builds dumps in pieces of at most 32 KiB when the reader's buffer allows it
/// (net/netlink/af_netlink.c, `netlink_dump`); a single message, a link with many virtual functions, may be longer.
const BUFFER_BYTES: usize = 256 * 1024;

/// A dump during which the tables changed is repeated this often and then taken as it is: under constant routing
/// updates it would never end, and whoever must stay current listens to the notifications, which come for the very
/// change that interrupted the dump.
const DUMP_ATTEMPTS: usize = 4;

/// Notifications waiting for a busy reader, bytes, before the kernel reports their loss with ENOBUFS.
const NOTIFICATION_BYTES: usize = 4 * 1024 * 1024;

/// A socket for requests.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    undecodable: u64,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Lets the kernel filter dumps, e.g. by routing table. Older kernels ignore the filter, so readers check too.
        let _ = socket.set_netlink_get_strict_chk(true);
        // Errors need not carry the request back.
        socket.set_cap_ack(true)?;
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES], undecodable: 0 })
    }

    /// Sends one request and waits for the kernel's acknowledgement. `flags` beside REQUEST and ACK, such as
    /// `NLM_F_CREATE`.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, flags | NLM_F_REQUEST | NLM_F_ACK, |_| ()).map(drop)
    }

    /// Sends one request and hands every object of the answer to `each`.
    pub fn query(
        &mut self,
        message: RouteNetlinkMessage,
        each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK, each).map(drop)
    }

    /// Asks for all objects of a kind and keeps what `select` makes of them.
    pub fn dump<T>(
        &mut self,
        message: RouteNetlinkMessage,
        mut select: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            let consistent = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, |object| {
                found.extend(select(object));
            })?;
            if consistent {
                break;
            }
        }
        Ok(found)
    }

    /// Objects the kernel sent that could not be decoded and were left out.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Returns whether the answer is one consistent state of the kernel's tables.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut consistent = true;
        loop {
            let length = receive(&self.socket, &mut self.buffer, 0)?;
            for answer in messages(&self.buffer[..length]) {
                let Some(answer) = answer else {
                    self.undecodable += 1;
                    continue;
                };
                // An answer to a request that was given up earlier.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(object) => each(object),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) => return Ok(consistent),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(consistent),
                    _ => {}
                }
            }
        }
    }
}

/// One interface, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; zeros for loopback and for what is not Ethernet.
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Connected: for a veth, its other end is up too.
    pub carrier: bool,
    /// The index of the bridge, bond or the like that takes what the kernel receives here.
    pub master: Option<u32>,
}

/// All interfaces of the socket's namespace, loopback included.
pub fn links(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |object| {
        let RouteNetlinkMessage::NewLink(message) = object else { return None };
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            mac: Mac::default(),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: false,
            master: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = (index != 0).then_some(index),
                LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
                _ => {}
            }
        }
        Some(link)
    })
}

/// A socket that hears what changes.
pub struct Notifications {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Notifications {
    /// Joins the multicast groups (`RTNLGRP_*`) in the calling thread's network namespace.
    pub fn subscribe(groups: &[u32]) -> io::Result<Notifications> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Needs CAP_NET_ADMIN in the first user namespace. Without it the default serves: loss is reported.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &NOTIFICATION_BYTES);
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Notifications { socket, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Hands the objects of one datagram to `each`, `None` for one that could not be decoded. False when nothing waits.
    /// ENOBUFS means that notifications were lost.
    pub fn next(&mut self, mut each: impl FnMut(Option<RouteNetlinkMessage>)) -> io::Result<bool> {
        let length = match receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        for message in messages(&self.buffer[..length]) {
            match message.map(|message| message.payload) {
                Some(NetlinkPayload::InnerMessage(object)) => each(Some(object)),
                Some(_) => {}
                None => each(None),
            }
        }
        Ok(true)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive(socket: &Socket, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    loop {
        let mut free = &mut *buffer;
        match socket.recv(&mut free, flags | libc::MSG_TRUNC) {
            Ok(length) if length > BUFFER_BYTES => {
                let message = format!("a netlink message of {length} bytes exceeds {BUFFER_BYTES}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The messages of a datagram; `None` for one that cannot be decoded. Stops at a header whose length cannot be true.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Option<NetlinkMessage<RouteNetlinkMessage>>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        // 16 bytes of header (struct nlmsghdr); NLMSG_ALIGNTO is 4.
        if length < 16 || length > bytes.len() {
            return None;
        }
        let message = NetlinkMessage::deserialize(&bytes[..length]).ok();
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link_request() -> Vec<u8> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_datagram_is_split_into_its_messages_and_a_lying_length_ends_it() {
        let one = link_request();
        let mut three = [one.clone(), one.clone(), one.clone()].concat();
        assert_eq!(messages(&three).flatten().count(), 3);
        let second = one.len();
        three[second..second + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(messages(&three).count(), 1);
        three[second..second + 4].copy_from_slice(&0u32.to_ne_bytes());
        assert_eq!(messages(&three).count(), 1);
        assert_eq!(messages(&one[..7]).count(), 0);
    }

    #[test]
    fn the_loopback_interface_is_found_by_dump_and_a_refusal_keeps_its_errno() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |object| match object {
                RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
                _ => None,
            })
            .unwrap();
        assert!(links.contains(&1));
        let mut absent = LinkMessage::default();
        absent.header.index = 0x7fff_fff0;
        let error = netlink.query(RouteNetlinkMessage::GetLink(absent), |_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
