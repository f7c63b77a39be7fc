//! Packets built by hand, and what becomes of them. A client of somebody else's making speaks in `tests/tests/e2e/radius.rs`.

use std::net::IpAddr;
use std::path::PathBuf;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use proptest::prelude::*;

use super::*;
use crate::portal::wire::Secret;

const NOW: i64 = 1_800_000_000;

fn secret() -> Secret {
    Secret::new("s3cret".to_owned())
}

/// A packet of these attributes, signed rightly; the code of the message comes last.
fn signed(attributes: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut packet = vec![4, 7, 0, 0];
    packet.extend([0; 16]);
    for (kind, value) in attributes {
        packet.extend([*kind, value.len() as u8 + 2]);
        packet.extend(value);
    }
    packet.extend([80, 18]);
    packet.extend([0; 16]);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    resign(&mut packet);
    packet
}

/// Both codes anew, that of the message at the end.
fn resign(packet: &mut [u8]) {
    let end = packet.len();
    packet[4..20].fill(0);
    packet[end - 16..].fill(0);
    let mut mac = Hmac::<Md5>::new_from_slice(b"s3cret").unwrap();
    mac.update(packet);
    let code = mac.finalize().into_bytes();
    packet[end - 16..].copy_from_slice(&code);
    let hash = Md5::new().chain_update(&*packet).chain_update(b"s3cret").finalize();
    packet[4..20].copy_from_slice(&hash);
}

fn start() -> Vec<(u8, Vec<u8>)> {
    vec![
        (40, 1_u32.to_be_bytes().to_vec()),
        (44, b"s1".to_vec()),
        (1, b"alice".to_vec()),
        (8, vec![10, 1, 0, 9]),
        (31, b"02-00-5E-AB-00-07".to_vec()),
        (55, (NOW as u32).to_be_bytes().to_vec()),
    ]
}

fn with(kind: u8, value: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut attributes = start();
    attributes.retain(|(known, _)| *known != kind);
    attributes.push((kind, value.to_vec()));
    attributes
}

fn read(attributes: &[(u8, Vec<u8>)]) -> Result<Request, Refused> {
    Request::read(&signed(attributes), &secret())
}

fn client() -> Client {
    Client {
        name: "switch".to_owned(),
        address: "10.2.0.5".parse().unwrap(),
        secret_file: PathBuf::from("/x"),
        groups: Vec::new(),
        lasts_s: 60,
    }
}

#[test]
fn a_request_tells_who_has_which_address_on_which_device() {
    let request = read(&start()).unwrap();
    assert_eq!((request.status, request.session.as_str(), request.at), (Status::Start, "s1", NOW));
    assert_eq!(request.user.as_deref(), Some("alice"));
    assert_eq!(request.addresses, ["10.1.0.9".parse::<IpAddr>().unwrap()]);
    assert_eq!(request.mac, Some([2, 0, 0x5e, 0xab, 0, 7]));
    let mut attributes = start();
    let v6: std::net::Ipv6Addr = "fd00:1::9".parse().unwrap();
    attributes.push((168, v6.octets().to_vec()));
    assert_eq!(read(&attributes).unwrap().addresses.len(), 2);
    for text in ["0200.5eab.0007", "02005eab0007", "02:00:5e:ab:00:07"] {
        assert_eq!(read(&with(31, text.as_bytes())).unwrap().mac, Some([2, 0, 0x5e, 0xab, 0, 7]), "{text}");
    }
    for text in ["+41791234567", "02-00-5E-AB-00", "02-00-5E-AB-00-0G", ""] {
        assert_eq!(read(&with(31, text.as_bytes())).unwrap().mac, None, "{text}");
    }
    for unknown in [[255; 4], [255, 255, 255, 254]] {
        assert!(read(&with(8, &unknown)).unwrap().addresses.is_empty());
    }
}

#[test]
fn nothing_is_believed_that_was_not_made_with_the_secret() {
    let good = signed(&start());
    let other = Secret::new("other".to_owned());
    assert_eq!(Request::read(&good, &other), Err(Refused::Authenticator));
    for place in 0..good.len() {
        let mut changed = good.clone();
        changed[place] ^= 1;
        assert!(Request::read(&changed, &secret()).is_err(), "byte {place}");
    }
    // With a right Request Authenticator and no code of the message, as RFC 2866 alone would have it.
    let mut bare = good[..good.len() - 18].to_vec();
    let length = (bare.len() as u16).to_be_bytes();
    bare[2..4].copy_from_slice(&length);
    bare[4..20].fill(0);
    let hash = Md5::new().chain_update(&bare).chain_update(b"s3cret").finalize();
    bare[4..20].copy_from_slice(&hash);
    assert_eq!(Request::read(&bare, &secret()), Err(Refused::Missing("Message-Authenticator")));
    // With a right code of the message and a wrong Request Authenticator.
    let mut wrong = good.clone();
    wrong[4] ^= 0x80;
    assert_eq!(Request::read(&wrong, &secret()), Err(Refused::Authenticator));
}

#[test]
fn a_packet_is_as_long_as_it_says_and_has_everything_once() {
    let good = signed(&start());
    for length in 0..good.len() {
        assert_eq!(Request::read(&good[..length], &secret()), Err(Refused::Malformed), "{length}");
    }
    let padded = [&good[..], &[0; 9]].concat();
    assert!(Request::read(&padded, &secret()).is_ok(), "RFC 2865, section 3");
    for (place, byte) in [(0, 1), (0, 5), (2, 0xff), (3, 3), (21, 0), (21, 1), (21, 200)] {
        let mut changed = good.clone();
        changed[place] = byte;
        resign(&mut changed);
        assert_eq!(Request::read(&changed, &secret()), Err(Refused::Malformed), "{place}: {byte}");
    }
    for kind in [1, 31, 40, 44, 55] {
        let mut twice = start();
        twice.push(twice.iter().find(|(known, _)| *known == kind).unwrap().clone());
        assert!(matches!(read(&twice), Err(Refused::Wrong(_))), "{kind}");
    }
    for (kind, value, name) in [
        (40, &[1][..], "Acct-Status-Type"),
        (55, &[0; 5], "Event-Timestamp"),
        (8, &[1, 2, 3], "Framed-IP-Address"),
        (168, &[0; 15], "Framed-IPv6-Address"),
        (1, &[0xff], "User-Name"),
    ] {
        assert_eq!(read(&with(kind, value)), Err(Refused::Wrong(name)));
    }
    let mut without = start();
    without.retain(|(kind, _)| *kind != 55);
    assert_eq!(read(&without), Err(Refused::Missing("Event-Timestamp")));
    let mut many = start();
    many.extend((0..9).map(|n| (168, [[0xfd; 15].as_slice(), &[n]].concat())));
    assert_eq!(read(&many), Err(Refused::Wrong("Framed-IPv6-Address")), "bounded");
}

#[test]
fn an_answer_is_the_clients_to_check() {
    let mut attributes = start();
    attributes.push((33, b"one".to_vec()));
    attributes.push((33, b"two".to_vec()));
    let request = signed(&attributes);
    let mut answer = Request::read(&request, &secret()).unwrap().response(&secret());
    assert_eq!((answer[0], answer[1], usize::from(answer[3])), (5, 7, answer.len()));
    assert!(answer.ends_with(b"\x21\x05one\x21\x05two"), "RFC 2865, section 5.33");
    let authenticator = answer[4..20].to_vec();
    answer[4..20].copy_from_slice(&request[4..20]);
    let hash = Md5::new().chain_update(&answer).chain_update(b"s3cret").finalize();
    assert_eq!(authenticator, hash.as_slice(), "RFC 2866, section 4.2");
}

/// What follows of attributes at a time.
fn decide(accounts: &mut Accounts, attributes: &[(u8, Vec<u8>)], now: i64) -> Result<Vec<Act>, &'static str> {
    let request = read(attributes).unwrap();
    let acts = accounts.decide(&client(), &request, now)?;
    for act in &acts {
        if let Act::Begin { address, .. } = act {
            accounts.begun(&client(), &request, *address, format!("of {address}"));
        }
    }
    Ok(acts)
}

fn status(status: u32, at: i64) -> Vec<(u8, Vec<u8>)> {
    let mut attributes = with(40, &status.to_be_bytes());
    attributes.retain(|(kind, _)| *kind != 55);
    attributes.push((55, (at as u32).to_be_bytes().to_vec()));
    attributes
}

fn begins() -> Vec<Act> {
    let address = "10.1.0.9".parse().unwrap();
    vec![Act::Begin { address, mac: Some([2, 0, 0x5e, 0xab, 0, 7]), user: "alice".to_owned() }]
}

fn ends() -> Vec<Act> {
    vec![Act::End { address: "10.1.0.9".parse().unwrap(), id: "of 10.1.0.9".to_owned() }]
}

#[test]
fn a_session_begins_once_and_a_stop_is_its_end_in_whatever_order_things_come() {
    let mut accounts = Accounts::default();
    assert_eq!(decide(&mut accounts, &status(1, NOW), NOW), Ok(begins()));
    assert_eq!(decide(&mut accounts, &status(1, NOW), NOW + 1), Ok(vec![]), "a repetition");
    assert_eq!(decide(&mut accounts, &status(3, NOW + 2), NOW + 2), Ok(vec![]), "it goes on");
    assert_eq!(decide(&mut accounts, &status(2, NOW + 9), NOW + 9), Ok(ends()));
    assert_eq!(decide(&mut accounts, &status(1, NOW), NOW + 10), Ok(vec![]), "replayed");
    assert_eq!(decide(&mut accounts, &status(3, NOW + 5), NOW + 10), Ok(vec![]), "one that was late");
    assert_eq!(decide(&mut accounts, &status(1, NOW + 11), NOW + 11), Ok(vec![]), "over is over");
    // A stop that overtakes the start.
    let mut accounts = Accounts::default();
    assert_eq!(decide(&mut accounts, &status(2, NOW + 1), NOW + 1), Ok(vec![]));
    assert_eq!(decide(&mut accounts, &status(1, NOW), NOW + 1), Ok(vec![]));
}

#[test]
fn an_interim_begins_what_was_missed_and_moves_an_address() {
    let mut accounts = Accounts::default();
    assert_eq!(decide(&mut accounts, &status(3, NOW), NOW), Ok(begins()));
    let mut moved = status(3, NOW + 1);
    moved.retain(|(kind, _)| *kind != 8);
    assert_eq!(decide(&mut accounts, &moved, NOW + 1), Ok(vec![]), "it does not say where");
    moved.push((8, vec![10, 1, 0, 10]));
    let acts = decide(&mut accounts, &moved, NOW + 1).unwrap();
    assert_eq!(acts[0], ends()[0]);
    assert!(matches!(&acts[1], Act::Begin { address, .. } if address.to_string() == "10.1.0.10"));
}

#[test]
fn a_client_that_begins_anew_has_nobody() {
    let mut accounts = Accounts::default();
    assert_eq!(decide(&mut accounts, &status(1, NOW), NOW), Ok(begins()));
    assert_eq!(decide(&mut accounts, &status(7, NOW + 1), NOW + 1), Ok(ends()));
    assert_eq!(accounts.end_all("switch", NOW + 1), []);
}

#[test]
fn a_client_that_had_restarted_could_not_begin_sessions_under_numbers_that_it_had_used() {
    let mut accounts = Accounts::default();
    assert_eq!(decide(&mut accounts, &status(1, NOW), NOW), Ok(begins()));
    assert_eq!(decide(&mut accounts, &status(7, NOW + 10), NOW + 10), Ok(ends()));
    // Late ones of before, this session's and another's, also of the same second.
    for at in [NOW + 5, NOW + 10] {
        let mut other = status(3, at);
        other.iter_mut().filter(|(kind, _)| *kind == 44).for_each(|(_, id)| *id = b"other".to_vec());
        assert_eq!(decide(&mut accounts, &status(3, at), NOW + 11), Ok(vec![]));
        assert_eq!(decide(&mut accounts, &other, NOW + 11), Ok(vec![]));
        assert_eq!(decide(&mut accounts, &status(2, at), NOW + 11), Ok(vec![]));
    }
    assert_eq!(decide(&mut accounts, &status(1, NOW + 11), NOW + 11), Ok(begins()));
    // An older restart, heard of later, ends all the same, and takes nothing back.
    assert_eq!(decide(&mut accounts, &status(7, NOW + 9), NOW + 12), Ok(ends()));
    assert_eq!(decide(&mut accounts, &status(3, NOW + 10), NOW + 12), Ok(vec![]));
    assert_eq!(decide(&mut accounts, &status(3, NOW + 12), NOW + 12), Ok(begins()));
}

#[test]
fn what_is_of_another_time_or_of_nobody_is_not_heard() {
    let mut accounts = Accounts::default();
    for at in [NOW - WINDOW_S - 1, NOW + WINDOW_S + 1] {
        assert!(decide(&mut accounts, &status(1, at), NOW).unwrap_err().contains("clock"));
    }
    for at in [NOW - WINDOW_S, NOW + WINDOW_S] {
        assert!(decide(&mut accounts, &status(1, at), NOW).is_ok());
    }
    let mut nameless = start();
    nameless.retain(|(kind, _)| *kind != 44);
    assert!(decide(&mut accounts, &nameless, NOW).unwrap_err().contains("Acct-Session-Id"));
    let mut accounts = Accounts::default();
    assert!(decide(&mut accounts, &with(1, b"any"), NOW).unwrap_err().contains("User-Name"));
    let mut nobody = start();
    nobody.retain(|(kind, _)| *kind != 1);
    assert_eq!(decide(&mut accounts, &nobody, NOW), Ok(vec![]), "a device that nobody has signed in at");
}

proptest! {
    #[test]
    fn no_bytes_are_believed_and_none_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Request::read(&bytes, &secret()).is_err());
        let mut packet = bytes;
        packet.resize(packet.len().max(40), 0);
        packet[0] = 4;
        let length = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&length);
        let end = packet.len();
        packet[end - 18..end - 16].copy_from_slice(&[80, 18]);
        resign(&mut packet);
        let _ = Request::read(&packet, &secret());
    }

    #[test]
    fn whatever_comes_in_whatever_order_a_stopped_session_is_over(
        order in prop::collection::vec((prop::sample::select(vec![1_u32, 3]), 0_i64..200), 0..20),
        stop in 0_usize..20,
    ) {
        let mut accounts = Accounts::default();
        let mut is_stopped = false;
        for (index, (kind, at)) in order.iter().enumerate() {
            if index == stop {
                decide(&mut accounts, &status(2, NOW), NOW).unwrap();
                is_stopped = true;
            }
            let acts = decide(&mut accounts, &status(*kind, NOW + at), NOW).unwrap();
            prop_assert!(!is_stopped || acts.is_empty());
        }
    }
}
