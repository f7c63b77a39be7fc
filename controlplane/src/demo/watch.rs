//! Proof that something did not arrive: a sentinel behind it has, and it has not.

use std::io;
use std::time::Duration;

use bulkhead_dataplane::headers;

use super::probe::Tuple;
use crate::lab::{Host, Namespace, RawPort};

/// How long a sentinel may take; it crosses one veth pair, but the machine may have other things to do.
const PATIENCE: Duration = Duration::from_secs(15);
/// Local experimental Ethertype (IEEE 802): no host answers it, no gateway forwards it.
const SENTINEL: [u8; 2] = [0x88, 0xb5];
const ARP: [u8; 2] = [0x08, 0x06];

/// Sees every frame that reaches the host of a zone.
pub struct Watch {
    host: RawPort,
    gateway: RawPort,
    sentinel: Vec<u8>,
}

impl Watch {
    /// Begins to watch.
    pub fn open(gateway: &Namespace, host: &Host) -> io::Result<Watch> {
        let mut sentinel = vec![0; 60];
        sentinel[..6].copy_from_slice(&host.mac);
        sentinel[6..12].copy_from_slice(&host.gateway_mac);
        sentinel[12..14].copy_from_slice(&SENTINEL);
        Ok(Watch {
            host: RawPort::open(&host.namespace, host.interface)?,
            gateway: RawPort::open(gateway, &host.zone)?,
            sentinel,
        })
    }

    /// Whether a packet of one of these attempts has reached the host. A sentinel is sent behind whatever the gateway
    /// has sent there; all that arrives before it is looked at.
    pub fn has_arrived(&mut self, attempts: &[Tuple]) -> io::Result<bool> {
        self.gateway.send(&self.sentinel)?;
        let mut arrived = false;
        let sentinel = self.host.receive_where(PATIENCE, |frame| {
            arrived |= attempts.iter().any(|attempt| is_of(frame, attempt));
            frame.get(12..14) == Some(&SENTINEL)
        })?;
        match sentinel {
            Some(_) => Ok(arrived),
            None => Err(io::Error::other("the sentinel did not arrive: the wire itself is broken")),
        }
    }
}

fn is_of(frame: &[u8], attempt: &Tuple) -> bool {
    headers::parse(frame).is_ok_and(|headers| {
        headers.protocol == attempt.protocol
            && headers.source_port == attempt.source_port
            && headers.addresses.source() == attempt.source
            && headers.addresses.destination() == attempt.destination
    })
}

/// Waits until the gateway's port has dealt with all that this host has sent: the kernel answers an ARP request that
/// went the same way, behind it. Works without a gateway too.
pub fn flush(host: &Host) -> io::Result<()> {
    let mut request = vec![0; 60];
    request[..6].copy_from_slice(&host.gateway_mac);
    request[6..12].copy_from_slice(&host.mac);
    request[12..14].copy_from_slice(&ARP);
    // Ethernet, IPv4, their lengths, request (RFC 826).
    request[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    request[22..28].copy_from_slice(&host.mac);
    request[28..32].copy_from_slice(&host.v4[0].octets());
    request[38..42].copy_from_slice(&host.gateway_v4.octets());
    let mut port = RawPort::open(&host.namespace, host.interface)?;
    port.send(&request)?;
    let is_reply = |frame: &[u8]| frame.get(12..14) == Some(&ARP) && frame.get(20..22) == Some(&[0, 2]);
    match port.receive_where(PATIENCE, is_reply)? {
        Some(_) => Ok(()),
        None => Err(io::Error::other("the gateway's kernel does not answer ARP")),
    }
}
