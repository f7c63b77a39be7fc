//! One attempt by an ordinary socket: a TCP connection, a UDP datagram or a ping, with a text that must come back.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bulkhead_dataplane::headers::protocol;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockname,
    getsockopt, recv, send, setsockopt, socket, sockopt,
};

/// What is asked for at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// An ICMP echo.
    Ping,
}

impl Service {
    /// The IP protocol number towards this address.
    fn protocol(self, to: IpAddr) -> u8 {
        match self {
            Service::Tcp(_) => protocol::TCP,
            Service::Udp(_) => protocol::UDP,
            Service::Ping if to.is_ipv4() => protocol::ICMP,
            Service::Ping => protocol::ICMPV6,
        }
    }

    /// In the words of the configuration.
    pub fn in_configuration(self, to: IpAddr) -> String {
        match self {
            Service::Ping if to.is_ipv4() => "icmp/echo-request".to_owned(),
            Service::Ping => "icmpv6/echo-request".to_owned(),
            other => other.to_string(),
        }
    }

    fn port(self) -> u16 {
        match self {
            Service::Tcp(port) | Service::Udp(port) => port,
            Service::Ping => 0,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Tcp(port) => write!(f, "tcp/{port}"),
            Service::Udp(port) => write!(f, "udp/{port}"),
            Service::Ping => f.write_str("ping"),
        }
    }
}

/// What came back so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// The very text that was sent.
    Answered,
    /// The kernel reports a refusal: a reset, or an ICMP error.
    Refused,
}

/// What tells the packets of one attempt from all others, in frames and in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// The one who tries.
    pub source: IpAddr,
    /// Its port or echo identifier.
    pub source_port: u16,
    /// The other end.
    pub destination: IpAddr,
}

impl Tuple {
    /// What comes back from the other end's port.
    pub fn reversed(self, port: u16) -> Tuple {
        Tuple { source: self.destination, source_port: port, destination: self.source, ..self }
    }
}

/// A text that the other end sends back, and that nobody else would. As long as what `ping` sends: about a shorter packet
/// the gateway would not tell its sender at once, for an error is never longer than what it is about.
const TEXT: &[u8; 56] = b"bulkhead demo ok, said in as many bytes as one ping has.";
/// Length of an ICMP echo header.
const ECHO: usize = 8;

/// A running attempt.
pub struct Probe {
    socket: OwnedFd,
    service: Service,
    /// What its packets look like.
    pub tuple: Tuple,
    refused: bool,
    begun: Instant,
}

impl Probe {
    /// Sends the first packet from this address. To be called inside the namespace.
    pub fn send(source: IpAddr, destination: IpAddr, service: Service) -> io::Result<Probe> {
        let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let (kind, number) = match service {
            Service::Tcp(_) => (SockType::Stream, None),
            Service::Udp(_) => (SockType::Datagram, None),
            Service::Ping if source.is_ipv4() => (SockType::Datagram, Some(SockProtocol::Icmp)),
            Service::Ping => (SockType::Datagram, Some(SockProtocol::IcmpV6)),
        };
        let socket = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, number)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
        let local = port_of(&getsockname::<SockaddrStorage>(socket.as_raw_fd())?);
        let tuple =
            Tuple { protocol: service.protocol(destination), source, source_port: local, destination };
        let mut probe = Probe { socket, service, tuple, refused: false, begun: Instant::now() };
        let to = SockaddrStorage::from(SocketAddr::new(destination, service.port()));
        match connect(probe.socket.as_raw_fd(), &to) {
            Ok(()) | Err(nix::Error::EINPROGRESS) => {}
            Err(error) => probe.refused = is_refusal(error)?,
        }
        if !matches!(service, Service::Tcp(_)) {
            probe.send_text()?;
        }
        Ok(probe)
    }

    fn send_text(&self) -> io::Result<()> {
        let mut message = [0; ECHO + TEXT.len()];
        // Type 8 or 128, echo request (RFC 792, RFC 4443); the kernel fills in checksum and identifier.
        message[0] = if self.tuple.source.is_ipv4() { 8 } else { 128 };
        message[ECHO..].copy_from_slice(TEXT);
        let start = if self.service == Service::Ping { 0 } else { ECHO };
        send(self.socket.as_raw_fd(), &message[start..], MsgFlags::empty())?;
        Ok(())
    }

    /// Waits up to this long for something to come back.
    pub fn look(&mut self, patience: Duration) -> io::Result<Seen> {
        if self.refused {
            return Ok(Seen::Refused);
        }
        let tcp = matches!(self.service, Service::Tcp(_));
        let what = if tcp { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.socket.as_fd(), what)];
        if poll(&mut fds, patience)? == 0 {
            return Ok(Seen::Nothing);
        }
        if tcp {
            return self.finish_tcp();
        }
        let mut buffer = [0; 2048];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) if buffer[..length].ends_with(TEXT) => Ok(Seen::Answered),
            Ok(_) => Err(io::Error::other("something else came back than was sent")),
            Err(error) => is_refusal(error).map(|_| Seen::Refused),
        }
    }

    fn finish_tcp(&self) -> io::Result<Seen> {
        match getsockopt(&self.socket, sockopt::SocketError)? {
            0 => {}
            error => return is_refusal(nix::Error::from_raw(error)).map(|_| Seen::Refused),
        }
        let mut stream = TcpStream::from(self.socket.try_clone()?);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        stream.write_all(b"say ")?;
        stream.write_all(TEXT)?;
        stream.write_all(b"\n")?;
        let mut answer = [0; TEXT.len() + 1];
        match stream.read_exact(&mut answer) {
            Ok(()) if answer.starts_with(TEXT) => Ok(Seen::Answered),
            Ok(()) => Err(io::Error::other("something else came back than was sent")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Seen::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Whether a TCP connection stands or was refused, without a word exchanged.
    pub fn tcp_state(&self) -> io::Result<Seen> {
        if self.refused {
            return Ok(Seen::Refused);
        }
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut fds, PollTimeout::ZERO)? == 0 {
            return Ok(Seen::Nothing);
        }
        match getsockopt(&self.socket, sockopt::SocketError)? {
            0 => Ok(Seen::Answered),
            error => is_refusal(nix::Error::from_raw(error)).map(|_| Seen::Refused),
        }
    }

    /// The connection, once it stands, as an ordinary blocking stream.
    pub fn into_stream(self) -> io::Result<TcpStream> {
        let stream = TcpStream::from(self.socket);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(None)?;
        Ok(stream)
    }

    /// Since the first packet.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Closes the connection by a reset, so that nothing of it is on the way later.
    pub fn abort(self) -> io::Result<()> {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        Ok(setsockopt(&self.socket, sockopt::Linger, &linger)?)
    }
}

/// True for the errors by which the kernel reports a reset or an ICMP error; others are errors of the attempt itself.
fn is_refusal(error: nix::Error) -> io::Result<bool> {
    use nix::Error;
    match error {
        // EACCES is ICMPv6's, EHOSTUNREACH ICMP's word for "administratively prohibited".
        Error::ECONNREFUSED | Error::EHOSTUNREACH | Error::EACCES | Error::ENETUNREACH => Ok(true),
        error => Err(error.into()),
    }
}

fn port_of(address: &SockaddrStorage) -> u16 {
    let v4 = address.as_sockaddr_in().map(|a| a.port());
    v4.or_else(|| address.as_sockaddr_in6().map(|a| a.port())).unwrap_or(0)
}
