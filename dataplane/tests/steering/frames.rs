//! Frames for the tests of the steering, made by etherparse and then bent. Shared by the unit tests and by the tests
//! in namespaces.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};

pub type Mac = [u8; 6];

/// Offset of the IP or ARP header in a frame without VLAN tag.
pub const NETWORK: usize = 14;

/// Both ends of a frame.
#[derive(Clone, Copy)]
pub struct Ends {
    pub source_mac: Mac,
    pub mac: Mac,
    pub source_v4: Ipv4Addr,
    pub v4: Ipv4Addr,
    pub source_v6: Ipv6Addr,
    pub v6: Ipv6Addr,
}

pub fn udp4(ends: &Ends, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.source_mac, ends.mac)
        .ipv4(ends.source_v4.octets(), ends.v4.octets(), 64)
        .udp(40_000, port)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

pub fn udp6(ends: &Ends, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.source_mac, ends.mac)
        .ipv6(ends.source_v6.octets(), ends.v6.octets(), 64)
        .udp(40_000, port)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

#[allow(dead_code)] // Only the unit tests use it.
pub fn tcp4(ends: &Ends, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.source_mac, ends.mac)
        .ipv4(ends.source_v4.octets(), ends.v4.octets(), 64)
        .tcp(40_000, port, 1, 1024)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

pub fn echo4(ends: &Ends) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.source_mac, ends.mac)
        .ipv4(ends.source_v4.octets(), ends.v4.octets(), 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

/// ICMPv6 of any kind, with a hop limit; `body` follows the first 8 bytes.
pub fn icmpv6(ends: &Ends, hop_limit: u8, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.source_mac, ends.mac)
        .ipv6(ends.source_v6.octets(), ends.v6.octets(), hop_limit)
        .icmpv6_raw(kind, code, [0; 4])
        .write(&mut frame, body)
        .unwrap();
    frame
}

/// A neighbour solicitation for `ends.v6`, to its solicited-node multicast address (RFC 4861, sections 4.3 and 7.2.2).
pub fn neighbour_solicitation(ends: &Ends) -> Vec<u8> {
    let target = ends.v6.octets();
    let group =
        Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, target[13], target[14], target[15]]);
    let mac = [0x33, 0x33, 0xff, target[13], target[14], target[15]];
    let mut body = target.to_vec();
    body.extend([1, 1]); // source link-layer address, 8 bytes
    body.extend(ends.source_mac);
    icmpv6(&Ends { mac, v6: group, ..*ends }, 255, 135, 0, &body)
}

pub fn arp_request(ends: &Ends) -> Vec<u8> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &ends.source_mac,
        &ends.source_v4.octets(),
        &[0; 6],
        &ends.v4.octets(),
    );
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ends.source_mac, [0xff; 6]).arp(arp.unwrap()).write(&mut frame).unwrap();
    frame
}

/// The frame with one byte changed.
pub fn bent(mut frame: Vec<u8>, offset: usize, byte: u8) -> Vec<u8> {
    frame[offset] = byte;
    frame
}

/// An IPv4 frame with its header checksum made right again.
pub fn rechecked(mut frame: Vec<u8>) -> Vec<u8> {
    let end = NETWORK + usize::from(frame[NETWORK] & 0x0f) * 4;
    frame[NETWORK + 10..NETWORK + 12].fill(0);
    let sum: u32 =
        frame[NETWORK..end].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[NETWORK + 10..NETWORK + 12].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// An IPv4 frame with four bytes of options (no-operation, RFC 791 section 3.1).
pub fn with_options(mut frame: Vec<u8>) -> Vec<u8> {
    frame[NETWORK] = 0x46;
    let bytes = u16::from_be_bytes([frame[NETWORK + 2], frame[NETWORK + 3]]) + 4;
    frame[NETWORK + 2..NETWORK + 4].copy_from_slice(&bytes.to_be_bytes());
    frame.splice(NETWORK + 20..NETWORK + 20, [1, 1, 1, 1]);
    rechecked(frame)
}

/// An IPv6 frame with an extension header of 8 bytes before its transport header; all its bytes but the first, the
/// next header, are zero.
pub fn with_extension(mut frame: Vec<u8>, kind: u8) -> Vec<u8> {
    let next = std::mem::replace(&mut frame[NETWORK + 6], kind);
    let bytes = u16::from_be_bytes([frame[NETWORK + 4], frame[NETWORK + 5]]) + 8;
    frame[NETWORK + 4..NETWORK + 6].copy_from_slice(&bytes.to_be_bytes());
    frame.splice(NETWORK + 40..NETWORK + 40, [next, 0, 0, 0, 0, 0, 0, 0]);
    frame
}

/// The frame with an 802.1Q tag.
pub fn tagged(mut frame: Vec<u8>, vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
    frame
}

/// The two fragments of an IPv4 UDP frame: its UDP header, and the rest.
#[allow(dead_code)] // Only the tests in namespaces use it.
pub fn fragments(frame: &[u8]) -> [Vec<u8>; 2] {
    let split = NETWORK + 20 + 8;
    let part = |payload: &[u8], flags: u8, offset: u8| {
        let mut part = frame[..NETWORK + 20].to_vec();
        part.extend(payload);
        let bytes = (part.len() - NETWORK) as u16;
        part[NETWORK + 2..NETWORK + 4].copy_from_slice(&bytes.to_be_bytes());
        rechecked(bent(bent(part, NETWORK + 6, flags), NETWORK + 7, offset))
    };
    [part(&frame[NETWORK + 20..split], 0x20, 0), part(&frame[split..], 0, 1)]
}
