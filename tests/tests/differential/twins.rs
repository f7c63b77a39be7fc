//! Two gateways that are sent the same frames, and what comes out of either.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Instant;

use bulkhead_tests::PATIENCE;
use bulkhead_tests::config::{Config, SENTINEL, allow};
use bulkhead_tests::frames::{ETHERNET_BYTES, Family, Path};
use bulkhead_tests::nft::{self, Kernel};
use bulkhead_tests::peer::Peer;
use bulkhead_tests::scene::{Scene, office_and_servers};
use bulkhead_tests::workers::pin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The zones' names: where connections are originated, and where they go.
pub const ZONES: [&str; 2] = ["office", "servers"];
/// Ports of the office that the servers may open connections to.
pub const BACK: std::ops::Range<u16> = 4000..9000;

/// Who did what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The kernel with nftables.
    Nftables = 0,
    /// We.
    Bulkhead = 1,
}

/// Both gateways, with the same policy.
pub struct Twins {
    scene: Scene,
    kernel: Kernel,
    sentinels: Cell<u32>,
    /// The Ethernet and IP addresses of the gateways themselves, which are the same.
    own: Vec<IpAddr>,
}

impl Twins {
    /// `None`, and a line that says so, where they cannot be had.
    pub fn start() -> Option<Twins> {
        if nft::is_missing() {
            return None;
        }
        let there = "udp/53 tcp/80 icmp/echo-request icmpv6/echo-request";
        let back = format!("tcp/{}-{}", BACK.start, BACK.end - 1);
        let rules = allow("there", ZONES[0], ZONES[1], there) + &allow("back", ZONES[1], ZONES[0], &back);
        // None may be pushed out or run into a limit: every sequence leaves some behind.
        let scene = Scene::start(&Config { connections: 1 << 16, ..Config::new(rules) })?;
        let by_port = "iifname office oifname servers";
        let kernel = Kernel::start(
            office_and_servers(),
            &[
                &format!("{by_port} udp dport 53"),
                &format!("{by_port} tcp dport 80"),
                &format!("{by_port} icmp type echo-request"),
                &format!("{by_port} icmpv6 type echo-request"),
                &format!("iifname servers oifname office tcp dport {}-{}", BACK.start, BACK.end - 1),
                &format!("udp dport {SENTINEL}"),
            ],
        );
        // From one CPU the kernel forwards in the order of sending. After starting, for children inherit it.
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        pin((0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).expect("there is a CPU"));
        let hosts = ZONES.map(|zone| scene.host(zone));
        let own = hosts.iter().flat_map(|host| [host.gateway_v4.into(), host.gateway_v6.into()]).collect();
        Some(Twins { kernel, sentinels: Cell::new(0), own, scene })
    }

    /// Whether the kernel lets connections begin in their middle.
    pub fn set_loose(&self, loose: bool) {
        self.kernel.set_loose(loose);
    }

    /// From a zone (by its place in [`ZONES`]) to the other.
    pub fn path(&self, from: usize, family: Family) -> Path {
        self.scene.path(ZONES[from], ZONES[1 - from], family)
    }

    /// Address number `n` of a zone's peer.
    pub fn address(&self, zone: usize, family: Family, n: u16) -> IpAddr {
        self.scene.peer(ZONES[zone]).nth(family, n)
    }

    /// The gateway's own address in a zone.
    pub fn own_address(&self, zone: usize, family: Family) -> IpAddr {
        let is_of = |address: &&IpAddr| address.is_ipv4() == (family == Family::V4);
        *self.own.iter().filter(is_of).nth(zone).expect("it has one of either family in each zone")
    }

    fn peers(&self, zone: usize) -> [&Peer; 2] {
        [self.kernel.peer(ZONES[zone]), self.scene.peer(ZONES[zone])]
    }

    /// Sends a frame from a zone through both. What each let out on the other side because of it, by [`Twin`]: whole
    /// datagrams, fragments joined. Nothing is waited for: a sentinel goes behind the frame, on the same way.
    pub fn send(&self, from: usize, frame: &[u8]) -> [Vec<Datagram>; 2] {
        let number = self.sentinels.replace(self.sentinels.get() + 1);
        let payload = format!("sentinel {number}").into_bytes();
        let sentinel = self.path(from, Family::V4).udp(SENTINEL, SENTINEL, &payload);
        for peer in self.peers(from) {
            peer.send(frame);
            peer.send(&sentinel);
        }
        self.peers(1 - from).map(|peer| self.arrived(peer, &sentinel))
    }

    fn arrived(&self, peer: &Peer, sentinel: &[u8]) -> Vec<Datagram> {
        let deadline = Instant::now() + PATIENCE;
        let sentinel = Datagram::of(sentinel).expect("it is an IP packet");
        let mut fragments = Vec::new();
        let mut whole = Vec::new();
        while let Some(frame) = peer.frame(deadline.saturating_duration_since(Instant::now())) {
            let Some(datagram) = Datagram::of(&frame) else { continue };
            if datagram == sentinel {
                whole.extend(join(fragments));
                whole.sort();
                return whole;
            }
            if self.is_noise(&datagram) {
                continue;
            }
            match datagram.piece {
                None => whole.push(datagram),
                Some(_) => fragments.push(datagram),
            }
        }
        panic!("the sentinel did not arrive, but {whole:02x?} and {fragments:02x?}");
    }

    /// What the kernels say on every link, earlier sentinels, and what the gateways themselves tell a sender.
    fn is_noise(&self, datagram: &Datagram) -> bool {
        let [source, destination] = [datagram.source, datagram.destination];
        let is_local = |address: IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let is_sentinel =
            datagram.protocol == 17 && datagram.content.get(2..4) == Some(&SENTINEL.to_be_bytes());
        let is_icmp = matches!(datagram.protocol, 1 | 58);
        destination.is_multicast()
            || is_local(source)
            || is_local(destination)
            || is_sentinel
            || is_icmp && self.own.contains(&source)
    }
}

/// An IP packet without what forwarding may change, that is, how often and in which pieces it travels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datagram {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// IPv4 options, or IPv6 extension headers in front of a fragment header.
    options: Vec<u8>,
    /// What follows the headers.
    content: Vec<u8>,
    /// Identification, offset in bytes, whether more follows.
    piece: Option<(u32, usize, bool)>,
}

impl Datagram {
    /// `None` for what is not IP, or cut short. What follows the packet in its frame is left out.
    pub fn of(frame: &[u8]) -> Option<Datagram> {
        let ip = frame.get(ETHERNET_BYTES..)?;
        let be16 = |at: usize| Some(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?]));
        match frame[12..14] {
            [8, 0] => {
                let header = usize::from(ip.first()? & 0xf) * 4;
                let place = be16(6)?;
                let address = |at: usize| Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into());
                Some(Datagram {
                    source: address(12)?,
                    destination: address(16)?,
                    protocol: *ip.get(9)?,
                    options: ip.get(20..header)?.to_vec(),
                    content: ip.get(header..usize::from(be16(2)?))?.to_vec(),
                    piece: (place & 0x3fff != 0).then_some((
                        be16(4)?.into(),
                        usize::from(place & 0x1fff) * 8,
                        place & 0x2000 != 0,
                    )),
                })
            }
            [0x86, 0xdd] => {
                let address = |at: usize| Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into());
                let mut whole = Datagram {
                    source: address(8)?,
                    destination: address(24)?,
                    protocol: *ip.get(6)?,
                    options: Vec::new(),
                    content: ip.get(40..40 + usize::from(be16(4)?))?.to_vec(),
                    piece: None,
                };
                whole.split_fragment_header();
                Some(whole)
            }
            _ => None,
        }
    }

    /// Takes an IPv6 fragment header that comes first out of the content. An atomic one tells of no pieces (RFC 6946).
    fn split_fragment_header(&mut self) {
        if self.protocol != 44 || self.content.len() < 8 {
            return;
        }
        let place = u16::from_be_bytes([self.content[2], self.content[3]]);
        let id = u32::from_be_bytes(self.content[4..8].try_into().expect("four bytes"));
        self.protocol = self.content[0];
        self.content.drain(..8);
        self.piece = (place & !6 != 0).then_some((id, usize::from(place & !7), place & 1 != 0));
    }
}

/// The datagrams of which all pieces are there; pieces of others stay what they are.
fn join(mut pieces: Vec<Datagram>) -> Vec<Datagram> {
    let key = |piece: &Datagram| (piece.source, piece.destination, piece.protocol, piece.piece.map(|p| p.0));
    pieces.sort_by_key(|piece| (key(piece), piece.piece.map(|p| p.1)));
    let mut all: Vec<Datagram> = Vec::new();
    for piece in pieces {
        let (_, offset, more) = piece.piece.expect("only pieces are joined");
        match all.last_mut().filter(|last| key(last) == key(&piece)) {
            Some(last) if last.content.len() == offset => {
                last.content.extend(&piece.content);
                last.piece = last.piece.map(|(id, start, _)| (id, start, more));
            }
            _ => all.push(piece),
        }
    }
    for datagram in &mut all {
        datagram.piece = datagram.piece.filter(|(_, start, more)| *start > 0 || *more);
    }
    all
}
