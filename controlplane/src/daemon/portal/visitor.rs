//! Who is at the other end of a connection that the portal has passed on.
//!
//! The portal counts as taken over, and this is all that it could lie with: a descriptor. So it must be an established
//! TCP connection that was accepted at one of the portal's own sockets, and its peer must be somebody else.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use bulkhead_dataplane::topology::TopologySpec;
use nix::sys::socket::{getsockopt, sockopt::BindToDevice};
use rustix::io::Errno;
use rustix::net::{SocketType, getpeername, getsockname, ipproto, sockopt};

use super::listen::Place;

/// What a descriptor is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Not {
    /// It was a connection, and its peer has left.
    Here,
    /// Nothing that an honest portal passes on, for this reason.
    Honest(&'static str),
}

/// Whether an address is one of the gateway's own.
pub fn is_own(topology: &TopologySpec, address: IpAddr) -> bool {
    topology.own_addresses.contains(&address)
        || topology.ports.iter().flat_map(|port| &port.addresses).any(|net| net.addr() == address)
}

/// The peer of a connection to one of these places; `own` are the gateway's own addresses.
///
/// # Errors
///
/// It is none.
pub fn peer(
    connection: impl AsFd,
    places: &BTreeSet<Place>,
    own: impl Fn(IpAddr) -> bool,
) -> Result<SocketAddr, Not> {
    let connection = connection.as_fd();
    let lie = |why: &'static str| Err(Not::Honest(why));
    if sockopt::socket_type(connection) != Ok(SocketType::STREAM)
        || sockopt::socket_protocol(connection) != Ok(Some(ipproto::TCP))
    {
        return lie("a descriptor that is no TCP connection");
    }
    if sockopt::socket_acceptconn(connection) != Ok(false) {
        return lie("a listening socket");
    }
    let peer: SocketAddr = match getpeername(connection) {
        Ok(peer) => match peer.and_then(|peer| peer.try_into().ok()) {
            Some(peer) => peer,
            None => return lie("a connection of another family"),
        },
        Err(Errno::NOTCONN) => return Err(Not::Here),
        Err(_) => return lie("a descriptor without a peer"),
    };
    let local: Option<SocketAddr> = getsockname(connection).ok().and_then(|local| local.try_into().ok());
    let interface = getsockopt(&connection, BindToDevice).unwrap_or_default();
    let interface = interface.to_string_lossy().trim_end_matches('\0').to_owned();
    let is_ours =
        |place: &&Place| place.secure && Some(place.address) == local && place.interface.1 == interface;
    if !places.iter().any(|place| is_ours(&place)) {
        return lie("a connection that was not accepted at the portal's own sockets");
    }
    let address = peer.ip().to_canonical();
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() || own(address) {
        return lie("a connection of the gateway with itself");
    }
    Ok(SocketAddr::new(address, peer.port()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn place(address: SocketAddr) -> BTreeSet<Place> {
        BTreeSet::from([Place { address, secure: true, interface: (1, String::new()) }])
    }

    #[test]
    fn what_is_no_connection_at_the_portals_sockets_is_a_lie() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = place(listener.local_addr().unwrap());
        let why =
            |connection: &dyn AsFd, places: &BTreeSet<Place>| match peer(connection.as_fd(), places, |_| {
                false
            }) {
                Err(Not::Honest(why)) => why,
                other => panic!("{other:?}"),
            };
        assert_eq!(why(&UnixStream::pair().unwrap().0, &here), "a descriptor that is no TCP connection");
        assert_eq!(
            why(&UdpSocket::bind("127.0.0.1:0").unwrap(), &here),
            "a descriptor that is no TCP connection"
        );
        assert_eq!(
            why(&std::fs::File::open("/dev/null").unwrap(), &here),
            "a descriptor that is no TCP connection"
        );
        assert_eq!(why(&listener, &here), "a listening socket");
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let elsewhere = place("127.0.0.1:1".parse().unwrap());
        let not_accepted = "a connection that was not accepted at the portal's own sockets";
        assert_eq!(why(&accepted, &elsewhere), not_accepted);
        assert_eq!(why(&client, &here), not_accepted, "the other end of it");
        assert_eq!(why(&accepted, &here), "a connection of the gateway with itself");
        let unsecured = here.iter().map(|place| Place { secure: false, ..place.clone() }).collect();
        assert_eq!(why(&accepted, &unsecured), not_accepted);
    }

    #[test]
    fn a_socket_without_a_connection_has_nobody_at_its_other_end() {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP));
        let result = peer(socket.unwrap(), &BTreeSet::new(), |_| false);
        assert_eq!(result, Err(Not::Here));
    }
}
