//! TCP segment by segment, at whatever numbers: what crosses and what is dropped, and for which reason.

use std::cell::RefCell;
use std::collections::BTreeMap;

use etherparse::{TcpHeader, TcpOptionElement};
use serde_json::Value;

use crate::config::Config;
use crate::frames::{Family, Packet, Path, flags};
use crate::scene::{Scene, text};

/// The window that a [`Segment`] advertises unless told otherwise, bytes.
pub const WINDOW: u16 = 10_000;

/// The two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In the office.
    Client,
    /// Among the servers.
    Server,
}

pub use End::{Client, Server};

impl End {
    /// Both.
    pub const BOTH: [End; 2] = [Client, Server];

    /// The other one.
    pub fn other(self) -> End {
        if self == Client { Server } else { Client }
    }

    fn zone(self) -> &'static str {
        if self == Client { "office" } else { "servers" }
    }
}

/// A segment without its ports.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Everything but ports and checksum.
    pub header: TcpHeader,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A segment with these [`flags`].
pub fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    let mut header = TcpHeader::new(0, 0, seq, WINDOW);
    header.acknowledgment_number = ack;
    let has = |flag: u8| flags & flag != 0;
    header.fin = has(flags::FIN);
    header.syn = has(flags::SYN);
    header.rst = has(flags::RST);
    header.psh = has(flags::PSH);
    header.ack = has(flags::ACK);
    Segment { header, payload: Vec::new() }
}

/// SYN.
pub fn syn(seq: u32) -> Segment {
    segment(flags::SYN, seq, 0)
}

/// SYN and ACK.
pub fn syn_ack(seq: u32, ack: u32) -> Segment {
    segment(flags::SYN | flags::ACK, seq, ack)
}

/// ACK alone.
pub fn ack(seq: u32, ack: u32) -> Segment {
    segment(flags::ACK, seq, ack)
}

/// ACK with so many bytes.
pub fn data(seq: u32, ack: u32, bytes: usize) -> Segment {
    segment(flags::ACK | flags::PSH, seq, ack).with(bytes)
}

/// FIN and ACK.
pub fn fin(seq: u32, ack: u32) -> Segment {
    segment(flags::FIN | flags::ACK, seq, ack)
}

/// RST.
pub fn rst(seq: u32) -> Segment {
    segment(flags::RST, seq, 0)
}

impl Segment {
    /// With so many bytes of payload.
    pub fn with(mut self, bytes: usize) -> Segment {
        self.payload = vec![b'x'; bytes];
        self
    }

    /// With this window field.
    pub fn window(mut self, window: u16) -> Segment {
        self.header.window_size = window;
        self
    }

    /// With these options.
    pub fn options(mut self, options: &[TcpOptionElement]) -> Segment {
        self.header.set_options(options).expect("they fit");
        self
    }

    /// With this shift of the window (RFC 7323), if any.
    pub fn scale(self, shift: Option<u8>) -> Segment {
        match shift {
            Some(shift) => self.options(&[TcpOptionElement::WindowScale(shift)]),
            None => self,
        }
    }
}

/// A gateway between office and servers that counts what a test expects to be dropped. Checked when dropped.
pub struct Stage {
    /// The gateway.
    pub scene: Scene,
    before: BTreeMap<String, u64>,
    expected: RefCell<BTreeMap<&'static str, u64>>,
}

impl Stage {
    /// `None` where there can be no gateway, see [`Scene::start`].
    pub fn start(config: &Config) -> Option<Stage> {
        let scene = Scene::start(config)?;
        Some(Stage { before: scene.drops(), scene, expected: RefCell::default() })
    }

    /// A way between two ports, over which nothing has been sent yet.
    pub fn dialogue(&self, family: Family, client_port: u16, server_port: u16) -> Dialogue<'_> {
        let path = |from: End| self.scene.path(from.zone(), from.other().zone(), family);
        Dialogue { stage: self, paths: [path(Client), path(Server)], ports: [client_port, server_port] }
    }

    /// As [`Stage::dialogue`], with a handshake from these initial sequence numbers on.
    pub fn open(&self, family: Family, client_port: u16, initial: [u32; 2]) -> Dialogue<'_> {
        let dialogue = self.dialogue(family, client_port, 80);
        dialogue.handshake(initial, [None; 2]);
        dialogue
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let expected: Vec<_> = self.expected.borrow().iter().map(|(r, n)| (*r, *n)).collect();
            self.scene.expect_drops(&self.before, &expected);
        }
    }
}

/// Two ends and a pair of ports.
pub struct Dialogue<'s> {
    stage: &'s Stage,
    paths: [Path; 2],
    ports: [u16; 2],
}

impl Dialogue<'_> {
    /// The frame of a segment.
    pub fn frame(&self, from: End, segment: &Segment) -> Vec<u8> {
        let mut header = segment.header.clone();
        header.source_port = self.ports[from as usize];
        header.destination_port = self.ports[from.other() as usize];
        self.paths[from as usize].tcp_header(header, &segment.payload)
    }

    /// Sends a segment, which must come out at the other end with its TCP header as it was.
    pub fn crosses(&self, from: End, segment: Segment) -> Packet {
        let frame = self.frame(from, &segment);
        let packet = self.stage.scene.crosses(from.zone(), from.other().zone(), &frame);
        let header = packet.family().header_bytes();
        assert_eq!(packet.ip[header..], frame[crate::frames::ETHERNET_BYTES + header..]);
        packet
    }

    /// Sends a segment, which must be dropped for this reason and change nothing about the connection's state.
    pub fn stays_out(&self, from: End, segment: Segment, reason: &'static str) {
        let (state, header) = (self.state(), segment.header.clone());
        self.drops(from, segment, reason);
        assert_eq!(self.state(), state, "after {header:?}");
    }

    /// Sends a segment, which must be dropped for this reason.
    pub fn drops(&self, from: End, segment: Segment, reason: &'static str) {
        self.stage.scene.stays_out(from.zone(), from.other().zone(), &self.frame(from, &segment));
        *self.stage.expected.borrow_mut().entry(reason).or_default() += 1;
    }

    /// SYN, SYN-ACK, ACK; with these shifts of the windows.
    pub fn handshake(&self, [client, server]: [u32; 2], [mine, its]: [Option<u8>; 2]) {
        let (client_next, server_next) = (client.wrapping_add(1), server.wrapping_add(1));
        self.crosses(Client, syn(client).scale(mine));
        self.crosses(Server, syn_ack(server, client_next).scale(its));
        self.crosses(Client, ack(client_next, server_next));
        assert_eq!(self.state().as_deref(), Some("established"));
    }

    /// The rows of `connections list` between the two ends and ports, whoever originated.
    pub fn rows(&self) -> Vec<Value> {
        let ends: Vec<_> = [Client, Server]
            .map(|end| (self.paths[end as usize].source.to_string(), self.ports[end as usize]))
            .to_vec();
        let listed = self.stage.scene.json(&["connections", "list", "--limit", "100000"]);
        let rows = listed["connections"].as_array().expect("a list of connections").clone();
        let is_ours = |row: &Value| {
            let of = |address: &str, port: &str| (text(row, address), row[port].as_u64().unwrap_or(0) as u16);
            let row = [of("source", "source_port"), of("destination", "destination_port")];
            ends.iter().all(|end| row.contains(end))
        };
        rows.into_iter().filter(is_ours).collect()
    }

    /// The connection's state, if there is one.
    pub fn state(&self) -> Option<String> {
        let rows = self.rows();
        assert!(rows.len() < 2, "{rows:#?}");
        rows.first().map(|row| text(row, "state"))
    }

    /// Checks the connection's state.
    pub fn is(&self, state: &str) {
        assert_eq!(self.state().as_deref(), Some(state));
    }
}
