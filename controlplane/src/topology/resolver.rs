//! Asking the kernel to find or confirm a neighbour.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use crate::netlink::Netlink;

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The kernel now solicits the neighbour.
    Probing,
    /// There was nothing to do: it is known, being resolved, or permanent.
    Unneeded,
    /// The kernel has no such entry and was not asked to make one.
    Absent,
}

/// A socket for asking, of the namespace in which it was opened.
pub struct Resolver {
    netlink: Netlink,
}

impl Resolver {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> io::Result<Resolver> {
        Netlink::open().map(|netlink| Resolver { netlink })
    }

    /// Has the kernel solicit the address on the interface as if it had a packet for it: by ARP or neighbour
    /// discovery, three times a second apart by default, then it gives up. Asking again meanwhile changes nothing.
    ///
    /// The kernel's neighbour table is the limit: when `gc_thresh3` entries are in use, new ones are refused with
    /// ENOBUFS or ENOMEM.
    pub fn resolve(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Asked> {
        match self.confirm(ifindex, address)? {
            Asked::Absent => match self.use_entry(ifindex, address, NLM_F_CREATE | NLM_F_EXCL) {
                Ok(()) => Ok(Asked::Probing),
                // Somebody else was quicker.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(Asked::Unneeded),
                Err(error) => Err(error),
            },
            other => Ok(other),
        }
    }

    /// Has the kernel probe an entry that is stale or has failed; leaves others alone.
    ///
    /// The state is read first because NTF_USE makes of a permanent entry an ordinary one that is not resolved
    /// (net/core/neighbour.c, `__neigh_update`). Only an administrator who makes an entry permanent between the two
    /// requests could still lose it.
    pub fn confirm(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Asked> {
        match self.state(ifindex, address)? {
            None => Ok(Asked::Absent),
            Some(NeighbourState::Stale | NeighbourState::Failed | NeighbourState::None) => {
                match self.use_entry(ifindex, address, 0) {
                    Ok(()) => Ok(Asked::Probing),
                    // Collected between the two requests.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Asked::Absent),
                    Err(error) => Err(error),
                }
            }
            Some(_) => Ok(Asked::Unneeded),
        }
    }

    fn state(&mut self, ifindex: u32, address: IpAddr) -> io::Result<Option<NeighbourState>> {
        let mut state = None;
        let request = RouteNetlinkMessage::GetNeighbour(message(ifindex, address));
        let answer = self.netlink.query(request, |object| {
            if let RouteNetlinkMessage::NewNeighbour(entry) = object {
                state = Some(entry.header.state);
            }
        });
        match answer {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(state),
        }
    }

    fn use_entry(&mut self, ifindex: u32, address: IpAddr, flags: u16) -> io::Result<()> {
        let mut message = message(ifindex, address);
        message.header.flags = NeighbourFlags::Use;
        self.netlink.request(RouteNetlinkMessage::NewNeighbour(message), flags)
    }
}

fn message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = ifindex;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}
