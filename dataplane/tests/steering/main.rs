//! The steering program on a real interface: what the kernel gets, what it does not, and how the program stays.
//! Needs root; says so visibly where it skips.

mod frames;
mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use afxdp::{Socket, SocketConfig, Umem, UmemConfig};
use aya::programs::XdpMode;
use bulkhead_dataplane::steering::{
    AttachMode, Error, LocalService, PortSteering, SteeringCounters, attached_program, detach,
};

use frames::*;
use lab::{ENDS, Lab, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, in_namespace, somebody_elses};

const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Declared and undeclared UDP ports in these tests.
const DECLARED: u16 = 53;
const UNDECLARED: u16 = 54;

fn load(lab: &Lab) -> PortSteering {
    let mut steering = PortSteering::load(lab.ifindex, 1).unwrap();
    steering.set_own_addresses(&[ENDS.v4.into(), ENDS.v6.into()]).unwrap();
    let sources = ["10.1.0.0/24", "fd00:1::/64"].map(|network| (network.parse().unwrap(), true));
    steering.set_sources(&sources).unwrap();
    steering.set_local(&[LocalService::Udp(DECLARED)]).unwrap();
    steering
}

fn attached(lab: &Lab) -> PortSteering {
    let mut steering = load(lab);
    assert_eq!(steering.attach().unwrap(), AttachMode::Driver);
    steering
}

fn arp_reply(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6]
        && frame[NETWORK + 7] == 2
        && frame[NETWORK + 14..NETWORK + 18] == ENDS.v4.octets()
}

fn neighbour_advertisement(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd] && frame[NETWORK + 6] == 58 && frame[NETWORK + 40] == 136
}

fn echo_reply(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[NETWORK + 9] == 1 && frame[NETWORK + 20] == 0
}

/// Frames that reach a UDP socket of the gateway at the port if no steering stops them.
fn tempting(port: u16) -> Vec<Vec<u8>> {
    let multicast = Ends { v4: Ipv4Addr::new(224, 0, 0, 1), mac: [1, 0, 0x5e, 0, 0, 1], ..ENDS };
    let broadcast = Ends { v4: Ipv4Addr::new(10, 1, 0, 255), mac: [0xff; 6], ..ENDS };
    let [first, last] = fragments(&udp4(&ENDS, port));
    vec![with_options(udp4(&ENDS, port)), udp4(&multicast, port), udp4(&broadcast, port), first, last]
}

#[test]
fn the_kernel_gets_declared_services_and_nothing_else() {
    in_namespace(|lab| {
        let declared = lab.listen(ANY_V4, DECLARED);
        let undeclared = lab.listen(ANY_V4, UNDECLARED);
        // Without steering all of it arrives: four datagrams, one of them in two fragments. So the test can fail.
        tempting(DECLARED).iter().for_each(|frame| lab.send(frame));
        (0..4).for_each(|_| declared.expect());
        lab.send(&udp4(&ENDS, UNDECLARED));
        undeclared.expect();

        let steering = attached(&lab);
        let mut refused = tempting(DECLARED);
        refused.extend(tempting(UNDECLARED));
        refused.extend([udp4(&ENDS, UNDECLARED), tagged(udp4(&ENDS, DECLARED), 10), echo4(&ENDS)]);
        refused.iter().for_each(|frame| lab.send(frame));
        lab.send(&udp4(&ENDS, DECLARED));
        declared.expect();
        assert_eq!((declared.datagrams(), undeclared.datagrams()), (0, 0));
        assert!(!lab.came(echo_reply));
        let expected = SteeringCounters { to_host: 1, redirected: 0, no_worker: refused.len() as u64 };
        assert_eq!(steering.counters().unwrap(), expected);
        assert_eq!(expected.received(), refused.len() as u64 + 1);
    });
}

#[test]
fn the_kernel_answers_arp_discovery_and_a_declared_ping() {
    in_namespace(|lab| {
        let mut steering = attached(&lab);
        lab.send(&arp_request(&ENDS));
        lab.expect("ARP reply", arp_reply);
        lab.send(&neighbour_solicitation(&ENDS));
        lab.expect("neighbour advertisement", neighbour_advertisement);
        lab.send(&echo4(&ENDS));
        assert_eq!(
            steering.counters().unwrap(),
            SteeringCounters { to_host: 2, redirected: 0, no_worker: 1 }
        );
        steering.set_local(&[LocalService::IcmpEcho]).unwrap();
        lab.send(&echo4(&ENDS));
        lab.expect("echo reply", echo_reply);
        assert_eq!(
            steering.counters().unwrap(),
            SteeringCounters { to_host: 3, redirected: 0, no_worker: 1 }
        );
    });
}

#[test]
fn a_declared_service_is_reached_over_ipv6_unless_an_extension_header_comes_first() {
    in_namespace(|lab| {
        let socket = lab.listen(ANY_V6, DECLARED);
        let optioned = with_extension(udp6(&ENDS, DECLARED), 60);
        // An all-zero destination options header pads with Pad1 options: valid, so the kernel takes it if it may.
        lab.send(&optioned);
        socket.expect();
        let steering = attached(&lab);
        lab.send(&optioned);
        lab.send(&udp6(&ENDS, DECLARED));
        socket.expect();
        assert_eq!(socket.datagrams(), 0);
        assert_eq!(
            steering.counters().unwrap(),
            SteeringCounters { to_host: 1, redirected: 0, no_worker: 1 }
        );
    });
}

#[test]
fn a_worker_gets_what_the_kernel_does_not_until_its_socket_closes() {
    in_namespace(|lab| {
        let mut steering = attached(&lab);
        let umem =
            Umem::new(&UmemConfig { frames: 256, huge_pages: false, ..UmemConfig::default() }).unwrap();
        let small = SocketConfig { rx_entries: 64, tx_entries: 64, ..SocketConfig::new(lab.ifindex, 0) };
        let mut worker = Socket::open(&umem, &small).unwrap();
        steering.register(0, worker.as_fd()).unwrap();
        let transit = Ends { v4: Ipv4Addr::new(10, 2, 0, 7), ..ENDS };
        let sent = [udp4(&transit, DECLARED), tagged(arp_request(&ENDS), 10), udp4(&ENDS, UNDECLARED)];
        sent.iter().for_each(|frame| lab.send(frame));
        lab.send(&arp_request(&ENDS));
        lab.expect("ARP reply", arp_reply);

        let mut got = Vec::new();
        worker.receive(&mut got, 64);
        let got: Vec<Vec<u8>> = got.iter().map(|frame| frame.to_vec()).collect();
        assert_eq!(got, sent);
        let counted = SteeringCounters { to_host: 1, redirected: 3, no_worker: 0 };
        assert_eq!(steering.counters().unwrap(), counted);

        // As when the worker's process dies. The kernel takes a closed socket out of the map.
        drop(worker);
        sent.iter().for_each(|frame| lab.send(frame));
        assert_eq!(steering.counters().unwrap(), SteeringCounters { no_worker: 3, ..counted });
    });
}

#[test]
fn the_program_outlives_its_owner_and_only_detach_removes_it() {
    in_namespace(|lab| {
        let undeclared = lab.listen(ANY_V4, UNDECLARED);
        let declared = lab.listen(ANY_V4, DECLARED);
        let steering = attached(&lab);
        let id = steering.program_id();
        drop(steering);
        let there = attached_program(lab.ifindex).unwrap().unwrap();
        assert_eq!((there.id, there.ours, there.mode), (id, true, AttachMode::Driver));
        assert_eq!(there.name.as_deref(), Some("bulkhead_steer"));
        lab.send(&udp4(&ENDS, UNDECLARED));
        lab.send(&udp4(&ENDS, DECLARED));
        declared.expect();
        assert_eq!(undeclared.datagrams(), 0);

        assert!(detach(lab.ifindex).unwrap());
        assert_eq!(attached_program(lab.ifindex).unwrap(), None);
        assert!(!detach(lab.ifindex).unwrap());
        lab.send(&udp4(&ENDS, UNDECLARED));
        undeclared.expect();
    });
}

#[test]
fn a_restart_replaces_the_program_without_a_gap() {
    in_namespace(|lab| {
        let undeclared = lab.listen(ANY_V4, UNDECLARED);
        let mut programs = [attached(&lab), load(&lab)];
        let done = AtomicBool::new(false);
        let frame = udp4(&ENDS, UNDECLARED);
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0;
                while !done.load(Ordering::Relaxed) {
                    // Far fewer at a time than the 256 entries of a veth ring, so that none is lost there.
                    (0..32).for_each(|_| lab.send(&frame));
                    sent += 32;
                    thread::sleep(Duration::from_micros(200));
                }
                sent
            });
            for round in 1..=300 {
                let next = &mut programs[round % 2];
                assert_eq!(next.attach().unwrap(), AttachMode::Driver);
                assert!(next.is_attached().unwrap());
                assert!(!programs[(round + 1) % 2].is_attached().unwrap());
            }
            done.store(true, Ordering::Relaxed);
            sender.join().unwrap()
        });
        let received: u64 = programs.iter().map(|program| program.counters().unwrap().received()).sum();
        assert_eq!(received, sent, "every frame met one of the two programs");
        assert_eq!(undeclared.datagrams(), 0);
        assert!(programs.iter().all(|program| program.counters().unwrap().no_worker > 0));
    });
}

#[test]
fn a_foreign_program_is_noticed_replaced_and_never_detached() {
    in_namespace(|lab| {
        let mut theirs = somebody_elses();
        let theirs = lab::somebody_elses_program(&mut theirs);
        let mut steering = attached(&lab);
        lab.set_program(Some(theirs.fd().unwrap()), XDP_FLAGS_DRV_MODE);
        assert!(!steering.is_attached().unwrap());
        let there = attached_program(lab.ifindex).unwrap().unwrap();
        assert_eq!((there.ours, there.name.as_deref()), (false, Some("somebody_elses")));
        let refusal = detach(lab.ifindex).unwrap_err();
        assert!(matches!(refusal, Error::Foreign { .. }), "{refusal}");
        assert_eq!(attached_program(lab.ifindex).unwrap().unwrap().id, there.id);

        assert_eq!(steering.attach().unwrap(), AttachMode::Driver);
        assert!(steering.is_attached().unwrap());
        lab.set_program(None, XDP_FLAGS_DRV_MODE);
        assert!(!steering.is_attached().unwrap());
        steering.attach().unwrap();
        assert!(steering.is_attached().unwrap());
    });
}

#[test]
fn a_program_in_generic_mode_is_replaced_in_generic_mode() {
    in_namespace(|lab| {
        let undeclared = lab.listen(ANY_V4, UNDECLARED);
        let declared = lab.listen(ANY_V4, DECLARED);
        let mut theirs = somebody_elses();
        let theirs = lab::somebody_elses_program(&mut theirs);
        lab.set_program(Some(theirs.fd().unwrap()), XDP_FLAGS_SKB_MODE);
        let mut steering = load(&lab);
        assert_eq!(steering.attach().unwrap(), AttachMode::Generic);
        assert!(steering.is_attached().unwrap());
        assert_eq!(steering.driver_refusal(), None);
        lab.send(&udp4(&ENDS, UNDECLARED));
        lab.send(&tagged(udp4(&ENDS, DECLARED), 10));
        lab.send(&udp4(&ENDS, DECLARED));
        declared.expect();
        assert_eq!((declared.datagrams(), undeclared.datagrams()), (0, 0));
        assert_eq!(
            steering.counters().unwrap(),
            SteeringCounters { to_host: 1, redirected: 0, no_worker: 2 }
        );
        assert!(detach(lab.ifindex).unwrap());
        assert_eq!(steering.attach().unwrap(), AttachMode::Driver);
    });
}

#[test]
fn an_mtu_too_large_for_driver_mode_means_generic_mode_and_is_told() {
    in_namespace(|lab| {
        lab.set_mtu(9000);
        let mut steering = load(&lab);
        assert_eq!(steering.attach().unwrap(), AttachMode::Generic);
        let told = steering.driver_refusal().unwrap();
        assert!(told.contains("MTU is too large"), "{told}");
        assert!(steering.is_attached().unwrap());
    });
}

#[test]
fn an_interface_held_by_a_bpf_link_is_an_error_that_says_so() {
    in_namespace(|lab| {
        let mut theirs = somebody_elses();
        lab::somebody_elses_program(&mut theirs).attach_to_if_index(lab.ifindex, XdpMode::Driver).unwrap();
        let error = load(&lab).attach().unwrap_err();
        assert!(matches!(error, Error::HeldByLink { .. }), "{error}");
        drop(theirs);
        assert_eq!(load(&lab).attach().unwrap(), AttachMode::Driver);
    });
}

#[test]
fn a_vanished_interface_is_an_error_that_says_so() {
    in_namespace(|lab| {
        let mut steering = attached(&lab);
        lab.delete();
        let gone = |error| matches!(error, Error::InterfaceGone { .. });
        assert!(gone(steering.is_attached().unwrap_err()));
        assert!(gone(steering.attach().unwrap_err()));
        assert!(gone(attached_program(lab.ifindex).unwrap_err()));
        assert!(gone(detach(lab.ifindex).unwrap_err()));
        assert_eq!(steering.counters().unwrap(), SteeringCounters::default());
    });
}
