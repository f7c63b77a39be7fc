//! Packets as the properties write them down, and the frames that they are.

use std::fmt;

use etherparse::{TcpHeader, TcpOptionElement};

use crate::gateway::{CLIENT, CLIENTS, Family, SERVER, SERVERS, Station, ip, unreachable_of};

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

impl End {
    pub const BOTH: [End; 2] = [End::Client, End::Server];

    pub fn other(self) -> End {
        if self == End::Client { End::Server } else { End::Client }
    }

    /// The host.
    pub fn station(self) -> Station {
        if self == End::Client { CLIENT } else { SERVER }
    }

    /// The gateway's port on its side.
    pub fn port(self) -> Station {
        if self == End::Client { CLIENTS } else { SERVERS }
    }
}

/// A TCP segment without its ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
    pub seq: u32,
    /// The acknowledgement number, if `ack`.
    pub acknowledges: u32,
    pub window: u16,
    /// The window scale option, on a SYN.
    pub scale: Option<u8>,
    pub payload: u16,
}

/// What a packet is. Fragments will be one more kind: a piece of another packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Tcp(Segment),
    /// With so many bytes.
    Udp(u16),
    EchoRequest,
    EchoReply,
    /// "Port unreachable", about that packet.
    Error(Box<Packet>),
}

/// As tcpdump would show it.
impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [(self.syn, "SYN "), (self.fin, "FIN "), (self.rst, "RST ")];
        flags.iter().filter(|(is_set, _)| *is_set).try_for_each(|(_, name)| f.write_str(name))?;
        write!(f, "seq {}", self.seq)?;
        if self.payload > 0 {
            write!(f, " +{}", self.payload)?;
        }
        if self.ack {
            write!(f, " ack {}", self.acknowledges)?;
        }
        write!(f, " win {}", self.window)?;
        self.scale.map_or(Ok(()), |shift| write!(f, " wscale {shift}"))
    }
}

/// A packet from one host to the other.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    pub from: End,
    /// The client's port of TCP and UDP, the identifier of an echo.
    pub number: u16,
    pub content: Content,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {:?}", self.from, self.number, self.content)
    }
}

/// The servers' port.
pub const SERVICE: u16 = 80;

impl Packet {
    /// The frame that the host sends.
    pub fn frame(&self, family: Family) -> Vec<u8> {
        let bytes = if let Content::Tcp(segment) = &self.content { segment.payload } else { 0 };
        self.frame_with(family, &vec![0; usize::from(bytes)], &[])
    }

    /// As [`Packet::frame`]; a segment has this payload and these selective acknowledgements.
    pub fn frame_with(&self, family: Family, payload: &[u8], blocks: &[(u32, u32)]) -> Vec<u8> {
        let (builder, mut frame) = (ip(self.from.station(), family), Vec::new());
        let ports = match self.from {
            End::Client => (self.number, SERVICE),
            End::Server => (SERVICE, self.number),
        };
        match &self.content {
            Content::Tcp(segment) => {
                let mut header = TcpHeader::new(ports.0, ports.1, segment.seq, segment.window);
                (header.syn, header.ack) = (segment.syn, segment.ack);
                (header.fin, header.rst) = (segment.fin, segment.rst);
                header.acknowledgment_number = segment.acknowledges;
                let mut options = Vec::from_iter(segment.scale.map(TcpOptionElement::WindowScale));
                if let Some((first, rest)) = blocks.split_first() {
                    let more = std::array::from_fn(|n| rest.get(n).copied());
                    options.push(TcpOptionElement::SelectiveAcknowledgement(*first, more));
                }
                header.set_options(&options).unwrap();
                builder.tcp_header(header).write(&mut frame, payload)
            }
            Content::Udp(bytes) => {
                builder.udp(ports.0, ports.1).write(&mut frame, &vec![0; usize::from(*bytes)])
            }
            Content::EchoRequest if family == Family::V4 => {
                builder.icmpv4_echo_request(self.number, 1).write(&mut frame, b"ping")
            }
            Content::EchoRequest => builder.icmpv6_echo_request(self.number, 1).write(&mut frame, b"ping"),
            Content::EchoReply if family == Family::V4 => {
                builder.icmpv4_echo_reply(self.number, 1).write(&mut frame, b"ping")
            }
            Content::EchoReply => builder.icmpv6_echo_reply(self.number, 1).write(&mut frame, b"ping"),
            Content::Error(about) => {
                return unreachable_of(self.from.station(), family, &about.frame(family));
            }
        }
        .unwrap();
        frame
    }
}
