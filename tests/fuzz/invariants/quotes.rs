//! What holds for any bytes quoted in a well-formed ICMP error: of the parser, and of a gateway with two connections of
//! each family.

use bulkhead_dataplane::headers::{Addresses, Quote, Transport, parse, parse_quote, protocol, tcp_flags};
use bulkhead_dataplane::verdict::Reason;
use etherparse::{LaxNetSlice, LaxSlicedPacket, PacketBuilder};

use crate::gateway::{CLIENT, CLIENTS, Gateway, SERVER, SERVERS, allow, udp, udp6};
use bulkhead_dataplane::policy::Service;

const CLIENT6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const SERVER6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const CLIENT4: [u8; 4] = [10, 1, 0, 9];
const SERVER4: [u8; 4] = [10, 2, 0, 9];
/// Ports of the one TCP and the one UDP connection, and the client's next sequence number.
const TCP: (u16, u16) = (2000, 443);
const UDP: (u16, u16) = (1000, 53);
const NEXT: u32 = 101;

/// The bytes: what kind of error, its code, its bytes 5 to 8, and what it quotes. Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    let Some((&[kind, code, a, b, c, d], quoted)) = bytes.split_first_chunk() else { return };
    let quoted = &quoted[..quoted.len().min(1200)];
    let frame = error(kind, code, [a, b, c, d], quoted);
    let quote = match parse(&frame) {
        Ok(headers) => {
            assert_eq!(headers.transport, Transport::IcmpError);
            parse_quote(&frame, &headers)
        }
        Err(reason) => {
            assert_eq!(reason, Reason::IcmpTypeDenied, "nothing else is wrong with it");
            Err(reason)
        }
    };
    if let Ok(quote) = quote {
        etherparse_agrees(quoted, &quote);
        more_bytes_change_nothing(kind, code, [a, b, c, d], quoted, &quote);
    }
    a_gateway_passes_it_once_and_to_whom_it_concerns(&frame, quote.ok());
}

/// An ICMP error from the server to the client.
fn error(kind: u8, code: u8, word: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(SERVER.mac, SERVERS.mac);
    let mut frame = Vec::new();
    if kind & 1 == 0 {
        let kind = [3, 11, 12, 4][usize::from(kind >> 1) % 4];
        let icmp = ethernet.ipv4(SERVER4, CLIENT4, 64).icmpv4_raw(kind, code, word);
        icmp.write(&mut frame, quoted).expect("it fits");
    } else {
        let kind = 1 + (kind >> 1) % 4;
        let icmp = ethernet.ipv6(SERVER6, CLIENT6, 64).icmpv6_raw(kind, code, word);
        icmp.write(&mut frame, quoted).expect("it fits");
    }
    frame
}

/// Both read the same addresses and the same protocol.
fn etherparse_agrees(quoted: &[u8], quote: &Quote) {
    let Ok(lax) = LaxSlicedPacket::from_ip(quoted) else {
        panic!("what we take, etherparse takes: {quote:?}");
    };
    match (lax.net, quote.addresses) {
        (Some(LaxNetSlice::Ipv4(ip)), Addresses::V4(source, destination)) => {
            let header = ip.header();
            assert_eq!((header.source_addr(), header.destination_addr()), (source, destination));
            assert_eq!(header.identification(), quote.identification);
        }
        (Some(LaxNetSlice::Ipv6(ip)), Addresses::V6(source, destination)) => {
            let header = ip.header();
            assert_eq!((header.source_addr(), header.destination_addr()), (source, destination));
        }
        (net, addresses) => panic!("{net:?} is not {addresses:?}"),
    }
}

/// A quote is read from the first eight bytes of the quoted transport header on at most.
fn more_bytes_change_nothing(kind: u8, code: u8, word: [u8; 4], quoted: &[u8], quote: &Quote) {
    let longer = [quoted, &[0x5a; 24]].concat();
    let frame = error(kind, code, word, &longer);
    let headers = parse(&frame).expect("it parsed when shorter");
    assert_eq!(parse_quote(&frame, &headers).as_ref(), Ok(quote));
}

/// Whether the quoted packet is one that the client has sent and the server may not have had: by the quote's own words.
fn concerns_a_connection(quote: &Quote) -> bool {
    let is_of_ends = match quote.addresses {
        Addresses::V4(source, destination) => (source.octets(), destination.octets()) == (CLIENT4, SERVER4),
        Addresses::V6(source, destination) => (source.octets(), destination.octets()) == (CLIENT6, SERVER6),
    };
    let ports = (quote.source_port, quote.destination_port);
    let is_of_connection = match (quote.protocol, quote.addresses) {
        (protocol::UDP, _) => ports == UDP,
        // The one TCP connection is of IPv4; of its numbers only the next one is in flight.
        (protocol::TCP, Addresses::V4(..)) => ports == TCP && quote.tcp_sequence == Some(NEXT),
        _ => false,
    };
    let least = if matches!(quote.addresses, Addresses::V4(..)) { 576 } else { 1280 };
    is_of_ends && is_of_connection && quote.mtu.is_none_or(|mtu| mtu >= least)
}

fn a_gateway_passes_it_once_and_to_whom_it_concerns(frame: &[u8], quote: Option<Quote>) {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    gateway.handshake(TCP.0, TCP.1);
    gateway.send(CLIENTS, &udp(CLIENT, SERVER, UDP.0, UDP.1)).expect("it opens");
    gateway.send(CLIENTS, &udp6("fd00:1::9", "fd00:2::9", UDP.0, UDP.1)).expect("it opens");
    let passes = quote.is_some_and(|quote| concerns_a_connection(&quote));
    let first = gateway.send(SERVERS, frame);
    assert_eq!(first.is_ok(), passes, "{first:?}: {quote:?}");
    if first.is_ok() {
        assert_eq!(gateway.send(SERVERS, frame), Err(Reason::IcmpRepeated));
    }
    // Neither has changed a connection: the client goes on.
    let (from, to) = (CLIENT, SERVER);
    let data = crate::gateway::tcp(from, to, TCP.0, TCP.1, tcp_flags::ACK, NEXT, 501);
    gateway.send(CLIENTS, &data).expect("the connection lives");
}
