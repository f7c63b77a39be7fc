//! A machine made of raw frames at a zone's end of the link.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bulkhead::lab::{Lab, RawPort, Zone};
use bulkhead_dataplane::topology::Mac;

use crate::PATIENCE;
use crate::frames::{Family, Packet};

/// The last part of a peer's first address. The host's own kernel has others, so it never answers for a peer.
const FIRST: u16 = 77;
/// The addresses that a peer has in either family.
pub const ADDRESSES: u16 = 3;

/// Sends and receives frames in a zone, beside its host's kernel: at the same Ethernet address, with IP addresses of
/// its own, which the gateway's kernel has as permanent neighbours.
pub struct Peer {
    zone: Zone,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The Ethernet address of the gateway's port.
    pub gateway_mac: Mac,
    /// Where it sends. Receiving has a socket of its own so that it holds up no sender.
    out: RawPort,
    arriving: Mutex<RawPort>,
}

impl Peer {
    pub(crate) fn new(lab: &Lab, zone: &Zone) -> Peer {
        let host = lab.host(&zone.name);
        let open = || RawPort::open(&host.namespace, host.interface).expect("a raw port opens");
        let peer = Peer {
            zone: zone.clone(),
            mac: host.mac,
            gateway_mac: host.gateway_mac,
            out: open(),
            arriving: Mutex::new(open()),
        };
        peer.introduce(lab, peer.mac);
        peer
    }

    /// Tells the gateway's kernel that the peer's addresses are at this Ethernet address.
    pub fn introduce(&self, lab: &Lab, mac: Mac) {
        for family in Family::BOTH {
            self.introduce_family(lab, family, mac);
        }
    }

    /// As [`Peer::introduce`], for one family and at the peer's own Ethernet address.
    pub fn introduce_again(&self, lab: &Lab, family: Family) {
        self.introduce_family(lab, family, self.mac);
    }

    fn introduce_family(&self, lab: &Lab, family: Family, mac: Mac) {
        for number in 0..ADDRESSES {
            let address = self.nth(family, number);
            lab.gateway.add_neighbour(&self.zone.name, address, mac).expect("a neighbour is added");
        }
    }

    /// Its first address.
    pub fn address(&self, family: Family) -> IpAddr {
        self.nth(family, 0)
    }

    /// Its address number `n`, from 0; those from [`ADDRESSES`] on are in its zone's networks, but nobody's neighbour.
    pub fn nth(&self, family: Family, n: u16) -> IpAddr {
        match family {
            Family::V4 => (u32::from(self.zone.v4.network()) + u32::from(FIRST + n)).to_be_bytes().into(),
            Family::V6 => (u128::from(self.zone.v6.network()) + u128::from(FIRST + n)).to_be_bytes().into(),
        }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        self.out.send(frame).expect("a frame is sent");
    }

    /// The next frame that arrives within this time.
    pub fn frame(&self, timeout: Duration) -> Option<Vec<u8>> {
        self.arriving.lock().unwrap().receive(timeout).expect("the raw port works")
    }

    /// The next IP packet of any interest that arrives within this time.
    pub fn next(&self, timeout: Duration) -> Option<Packet> {
        let deadline = Instant::now() + timeout;
        loop {
            let frame = self.frame(deadline.saturating_duration_since(Instant::now()))?;
            if let Some(packet) = Packet::parse(&frame).filter(|packet| !packet.is_noise()) {
                return Some(packet);
            }
        }
    }

    /// The first packet for which `wanted` holds.
    ///
    /// # Panics
    /// Panics when it does not come, with what came instead.
    pub fn expect(&self, what: &str, mut wanted: impl FnMut(&Packet) -> bool) -> Packet {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        while let Some(packet) = self.next(deadline.saturating_duration_since(Instant::now())) {
            if wanted(&packet) {
                return packet;
            }
            others.push(packet);
        }
        panic!("{what} did not arrive in {}, but {others:#?}", self.zone.name);
    }

    /// Forgets what has arrived so far.
    pub fn drain(&self) {
        while self.frame(Duration::ZERO).is_some() {}
    }
}
