//! Hops, sizes, routes, neighbours and interfaces, also when they change while the gateway runs.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use afxdp::device::Offloads;
use bulkhead::lab::{Namespace, Neighbours, RouteTarget, VethOptions, Zone};
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Content, Family, Packet, Path, may_fragment};
use bulkhead_tests::scene::{Check, Scene, number, office_and_servers, zone};
use bulkhead_tests::wait_until;

/// A payload long enough for an ICMP error about it, which is never longer than what it is about.
const LONG: [u8; 60] = [7; 60];

fn names() -> Config {
    Config::new(allow("names", "office", "servers", "udp/53"))
}

fn own_address(scene: &Scene, family: Family) -> IpAddr {
    let office = scene.host("office");
    if family == Family::V4 { office.gateway_v4.into() } else { office.gateway_v6.into() }
}

/// Sends a frame from the office again and again, until what comes back to it from the gateway is as wanted.
fn until_answered(scene: &Scene, frame: &[u8], wanted: impl Fn(&Packet) -> bool) -> Packet {
    let mut answer = None;
    wait_until("the gateway answers", || {
        scene.peer("office").send(frame);
        answer = scene.peer("office").next(Duration::from_millis(200)).filter(&wanted);
        answer.is_some()
    });
    answer.unwrap()
}

/// Sends a frame from the office again and again, until it comes out at the servers as wanted.
fn until_arrived(scene: &Scene, frame: &[u8], wanted: impl Fn(&Packet) -> bool) -> Packet {
    let sent = Packet::parse(frame).unwrap();
    let mut arrived = None;
    wait_until("the frame crosses", || {
        scene.peer("office").send(frame);
        arrived = scene
            .peer("servers")
            .next(Duration::from_millis(200))
            .filter(|packet| packet.content == sent.content && wanted(packet));
        arrived.is_some()
    });
    arrived.unwrap()
}

#[test]
fn the_hop_count_goes_down_by_one_and_its_end_is_told() {
    let Some(scene) = Scene::start(&names()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for ttl in [255, 64, 2] {
            scene.crosses("office", "servers", &path.ttl(ttl).udp(4000, 53, b"name"));
        }
        let last = path.ttl(1).udp(4000, 53, &LONG);
        scene.stays_out("office", "servers", &last);
        let answer = scene.peer("office").expect("time exceeded", |packet| packet.icmp().is_some());
        assert_eq!(answer.icmp(), Some(if family == Family::V4 { (11, 0) } else { (3, 0) }));
        assert_eq!((answer.source, answer.destination), (own_address(&scene, family), path.source));
        assert!(Packet::parse(&last).unwrap().ip.starts_with(answer.quote()));
        scene.stays_out("office", "servers", &path.ttl(0).udp(4000, 53, b"name"));
        scene.nothing_arrived("servers", "office");
    }
    scene.expect_drops(&before, &[("hop_limit_exceeded", 4)]);
}

#[test]
fn a_smaller_mtu_while_running_is_followed_and_told_to_the_sender() {
    let Some(scene) = Scene::start(&names()) else { return };
    let big = |family| scene.path("office", "servers", family).udp(4000, 53, &[7; 1400]);
    for family in Family::BOTH {
        scene.crosses("office", "servers", &big(family));
    }
    scene.lab.gateway.set_mtu("servers", 1300).unwrap();
    for family in Family::BOTH {
        let answer = until_answered(&scene, &big(family), |packet| packet.icmp().is_some());
        // Fragmentation needed (RFC 1191), packet too big (RFC 4443, section 3.2).
        let (kind, mtu) = if family == Family::V4 { ((3, 4), 1300) } else { ((2, 0), 1300) };
        assert_eq!(answer.icmp(), Some(kind));
        let Content::Icmp(_, _, word, _) = answer.content else { unreachable!("it is ICMP") };
        assert_eq!(u32::from_be_bytes(word), mtu);
        assert_eq!(answer.source, own_address(&scene, family));
        assert!(answer.ip.len() <= if family == Family::V4 { 576 } else { 1280 });
    }
    scene.arrived("office", "servers");
    let before = scene.drops();
    scene.stays_out("office", "servers", &may_fragment(big(Family::V4)));
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("packet_too_big", 1)]);
    let fits = scene.path("office", "servers", Family::V4).udp(4000, 53, &[7; 1300 - 28]);
    scene.crosses("office", "servers", &fits);
    scene.lab.gateway.set_mtu("servers", 1500).unwrap();
    for family in Family::BOTH {
        until_arrived(&scene, &big(family), |_| true);
    }
}

#[test]
fn an_ordinary_socket_believes_what_the_gateway_tells_of_the_mtu() {
    let Some(scene) = Scene::start(&names()) else { return };
    scene.lab.gateway.set_mtu("servers", 1300).unwrap();
    for family in Family::BOTH {
        let [from, to] = ["office", "servers"].map(|zone| scene.host_address(zone, family));
        let socket = scene.host("office").namespace.run(|| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.connect((to, 53)).unwrap();
            socket
        });
        wait_until("the sender knows", || {
            // Its kernel checks that the error quotes what it has sent before it tells the socket.
            let sent = socket.send(&[7; 1400]);
            std::thread::sleep(Duration::from_millis(20));
            sent.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EMSGSIZE))
        });
    }
}

#[test]
fn without_a_route_the_sender_is_told_and_routes_that_come_and_go_are_followed() {
    let far: [(&str, &str); 2] = [("203.0.113.0/24", "203.0.113.9"), ("2001:db8::/32", "2001:db8::9")];
    let segment = |name: &str, networks: &[&str]| {
        format!("[segments.{name}]\nport = \"{name}\"\nnetworks = {networks:?}\n")
    };
    let segments = segment("office", &["10.1.0.0/24", "fd00:1::/64"])
        + &segment("servers", &["10.2.0.0/24", "fd00:2::/64", far[0].0, far[1].0]);
    let Some(scene) = Scene::start(&Config { segments: Some(segments), ..names() }) else { return };
    for (family, (prefix, destination)) in Family::BOTH.into_iter().zip(far) {
        let (prefix, destination) = (prefix.parse().unwrap(), destination.parse().unwrap());
        let path = Path { destination, ..scene.path("office", "servers", family) };
        let frame = path.udp(4000, 53, &LONG);
        let unreachable =
            |packet: &Packet| packet.icmp() == Some(if family == Family::V4 { (3, 0) } else { (1, 0) });
        let before = scene.drops();
        scene.stays_out("office", "servers", &frame);
        scene.peer("office").expect("unreachable", unreachable);
        scene.expect_drops(&before, &[("no_route", 1)]);
        let router = RouteTarget::Gateway(scene.peer("servers").address(family));
        scene.lab.gateway.add_route(prefix, router.clone(), 0).unwrap();
        until_arrived(&scene, &frame, |packet| packet.to == scene.peer("servers").mac);
        scene.peer("office").drain();
        scene.lab.gateway.delete_route(prefix, router, 0).unwrap();
        until_answered(&scene, &frame, unreachable);
        scene.lab.gateway.add_route(prefix, RouteTarget::Blackhole, 0).unwrap();
        let before = scene.drops();
        wait_until("the route is refused", || {
            scene.peer("office").send(&frame);
            scene.drops().get("route_refused") > before.get("route_refused")
        });
        scene.arrived("office", "servers");
    }
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_followed() {
    let Some(scene) = Scene::start(&names()) else { return };
    let frame = scene.path("office", "servers", Family::V4).udp(4000, 53, b"name");
    scene.crosses("office", "servers", &frame);
    scene.lab.gateway.set_up("servers", false).unwrap();
    let port_down = |scene: &Scene| {
        let status = scene.status();
        let ports = status["ports"].as_array().unwrap();
        ports.iter().any(|port| port["name"] == "servers" && port["up"] == false)
    };
    wait_until("status says so", || port_down(&scene));
    // Long enough for the worker to look after its sockets, which it does ten times a second.
    let before = scene.drops();
    for _ in 0..10 {
        scene.peer("office").send(&frame);
        std::thread::sleep(Duration::from_millis(50));
    }
    // The kernel takes the routes out of an interface that is down.
    scene.expect_drops(&before, &[("no_route", 10)]);
    scene.lab.gateway.set_up("servers", true).unwrap();
    // The kernel forgot the neighbours, and the IPv6 addresses too.
    scene.peer("servers").introduce_again(&scene.lab, Family::V4);
    until_arrived(&scene, &frame, |_| true);
    assert!(!port_down(&scene));
    scene.arrived("office", "servers");
}

/// The server's zone with neighbours that must be found.
fn dynamic_servers() -> Vec<Zone> {
    let mut zones = office_and_servers();
    zones[1].neighbours = Neighbours::Dynamic;
    zones
}

#[test]
fn packets_wait_in_order_while_the_kernel_finds_their_next_hop() {
    let Some(mut scene) = Scene::build(dynamic_servers()) else { return };
    scene.run(&names());
    for family in Family::BOTH {
        let destination = scene.host_address("servers", family);
        let server = scene.host("servers").namespace.run(|| UdpSocket::bind((destination, 53))).unwrap();
        server.set_read_timeout(Some(bulkhead_tests::PATIENCE)).unwrap();
        let path = Path { destination, ..scene.path("office", "servers", family) };
        for number in 0..6 {
            scene.peer("office").send(&path.udp(4000, 53, &[number]));
        }
        for number in 0..6 {
            let mut byte = [99];
            let (_, from) = server.recv_from(&mut byte).unwrap();
            assert_eq!((byte[0], from.ip()), (number, path.source));
        }
    }
    assert_eq!(number(&scene.status()["ledger"], "held"), 0);
}

#[test]
fn packets_for_a_next_hop_that_never_answers_are_told_and_their_number_is_bounded() {
    let Some(scene) = Scene::start(&names()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let destination = scene.peer("servers").nth(family, 100);
        let path = Path { destination, ..scene.path("office", "servers", family) };
        // Eight may wait for one next hop.
        for _ in 0..10 {
            scene.peer("office").send(&path.udp(4000, 53, b"name"));
        }
    }
    scene.nothing_arrived("office", "servers");
    assert_eq!(number(&scene.status()["ledger"], "held"), 16);
    scene.check_ledger();
    for _ in 0..2 {
        scene
            .peer("office")
            .expect("host unreachable", |packet| matches!(packet.icmp(), Some((3, 1) | (1, 3))));
    }
    scene.expect_drops(&before, &[("hold_queue_full", 4), ("held_too_long", 16)]);
    scene.nothing_arrived("office", "servers");
}

#[test]
fn a_neighbour_that_changes_its_ethernet_address_is_followed() {
    let Some(scene) = Scene::start(&names()) else { return };
    for family in Family::BOTH {
        let frame = scene.path("office", "servers", family).udp(4000, 53, b"name");
        let arrived = scene.crosses("office", "servers", &frame);
        assert_eq!(arrived.to, scene.peer("servers").mac);
    }
    let other = [2, 0x77, 0, 0, 0, 7];
    scene.peer("servers").introduce(&scene.lab, other);
    for family in Family::BOTH {
        let frame = scene.path("office", "servers", family).udp(4000, 53, b"name");
        until_arrived(&scene, &frame, |packet| packet.to == other);
    }
    scene.arrived("office", "servers");
}

#[test]
fn a_host_that_gets_a_new_network_card_is_found_again_through_the_kernel() {
    let Some(mut scene) = Scene::build(dynamic_servers()) else { return };
    scene.run(&names());
    let destination = scene.host_address("servers", Family::V4);
    let path = Path { destination, ..scene.path("office", "servers", Family::V4) };
    let frame = path.udp(4000, 53, b"name");
    let host = scene.host("servers");
    until_arrived(&scene, &frame, |packet| packet.to == host.mac);
    let other = [2, 0x66, 0, 0, 0, 6];
    host.namespace.set_mac(host.interface, other).unwrap();
    // With the old address its neighbours are forgotten, so the new card asks for the gateway, which thereby learns it.
    let socket = host.namespace.run(|| UdpSocket::bind((destination, 0))).unwrap();
    socket.send_to(b"hello", (host.gateway_v4, 9)).unwrap();
    until_arrived(&scene, &frame, |packet| packet.to == other);
    scene.arrived("office", "servers");
}

#[test]
fn an_interface_that_is_deleted_and_made_again_comes_back_as_the_port() {
    let Some(mut scene) = Scene::start(&names()) else { return };
    scene.check = Check::Workers;
    let frame = scene.path("office", "servers", Family::V4).udp(4000, 53, b"name");
    scene.crosses("office", "servers", &frame);
    let (zone, host) = (zone("servers", 2), scene.host("servers"));
    scene.lab.gateway.delete_link("servers").unwrap();
    for _ in 0..50 {
        scene.peer("office").send(&frame);
    }
    wait_until("status tells", || {
        let status = scene.status();
        assert_eq!(status["workers_alive"], 1);
        status["ports"][1]["up"] == false
    });

    let gateway = &scene.lab.gateway;
    let options =
        VethOptions { mac_a: Some(host.gateway_mac), mac_b: Some(host.mac), ..VethOptions::default() };
    Namespace::veth((gateway, "servers"), (&host.namespace, host.interface), &options).unwrap();
    gateway.disable_offloads("servers", Offloads::sending()).unwrap();
    host.namespace.disable_offloads(host.interface, Offloads::sending()).unwrap();
    for (router, length) in [(IpAddr::from(host.gateway_v4), 24), (host.gateway_v6.into(), 64)] {
        gateway.add_address("servers", format!("{router}/{length}").parse().unwrap()).unwrap();
    }
    scene.reopen_peer(&zone.name);
    until_arrived(&scene, &frame, |_| true);
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        until_arrived(&scene, &path.udp(4001, 53, b"again"), |_| true);
        let back = scene.path("servers", "office", family).udp(53, 4001, b"answer");
        scene.crosses("servers", "office", &back);
    }
    scene.stays_out("office", "servers", &scene.path("office", "servers", Family::V6).udp(4000, 54, b"no"));
}
