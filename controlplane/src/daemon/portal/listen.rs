//! Where the portal listens: at the gateway's own addresses on the ports that the configuration names.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use bulkhead_dataplane::topology::Topology;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::model::{Model, Portal};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// What the kernel buffers of a connection, bytes each way: more than any request or page has.
const BUFFER_BYTES: usize = 64 * 1024;
/// The most listening sockets: what one process is given.
pub const PLACES_MAX: usize = 64;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether TLS is spoken there.
    pub secure: bool,
    /// Only what comes in here; an interface that comes back is another one.
    pub interface: (u32, String),
}

/// Everywhere that it should listen now.
pub fn places(model: &Model, portal: &Portal, topology: &Topology) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for id in &portal.ports {
        let index = usize::from(id.0);
        let (Some(port), Some(state)) = (model.ports.get(index), topology.spec().ports.get(index)) else {
            continue;
        };
        let Ok(interface) = if_nametoindex(port.interface.as_str()) else { continue };
        let ports = [(Some(portal.port), true), (portal.redirect_port, false)];
        for address in state.addresses.iter().map(|net| net.addr()).filter(|address| !is_link_local(*address))
        {
            places.extend(ports.iter().filter_map(|(port_number, secure)| {
                let address = SocketAddr::new(address, (*port_number)?);
                Some(Place { address, secure: *secure, interface: (interface, port.interface.clone()) })
            }));
        }
    }
    places.into_iter().take(PLACES_MAX).collect()
}

/// Nobody has a session at such an address, for packets from it are never forwarded.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// A socket that listens there and does not block.
pub fn open(place: &Place) -> io::Result<OwnedFd> {
    let family = if place.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Connections have these of their listening socket.
    sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES)?;
    setsockopt(&socket, BindToDevice, &OsString::from(&place.interface.1))?;
    rustix::net::bind(&socket, &place.address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
