//! Promise P1: nothing crosses unless a running gateway's policy says so; and what belongs to the kernel reaches it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulkhead_dataplane::steering::{self, PortSteering};
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Content, Family, Packet, Path, flags, segment};
use bulkhead_tests::gateway::{Mounts, run};
use bulkhead_tests::scene::{Check, Scene, number, office_and_servers};
use bulkhead_tests::traffic::Traffic;
use bulkhead_tests::wait_until;
use nix::sys::signal::Signal;

/// Lets name service from the office to the servers pass.
fn names() -> Config {
    Config::new(allow("names", "office", "servers", "udp/53"))
}

/// Sends what [`names`] allows, over both families.
fn send_names(scene: &Scene) {
    for family in Family::BOTH {
        let frame = scene.path("office", "servers", family).udp(4000, 53, b"name");
        scene.peer("office").send(&frame);
    }
}

fn ifindex(scene: &Scene, port: &str) -> u32 {
    scene.lab.gateway.link(port).unwrap().index
}

#[test]
fn a_steering_program_without_a_gateway_lets_nothing_cross_a_kernel_that_forwards() {
    let Some(scene) = Scene::build(office_and_servers()) else { return };
    let ports = ["office", "servers"].map(|port| ifindex(&scene, port));
    scene.lab.gateway.run(|| {
        for port in ports {
            PortSteering::load(port, 1).unwrap().attach().unwrap();
        }
    });
    scene.lab.set_kernel_forwarding(true).unwrap();
    send_names(&scene);
    // The sentinel crosses through the kernel, which shows that the rest could have.
    scene.lab.gateway.run(|| ports.map(|port| assert!(steering::detach(port).unwrap())));
    scene.nothing_arrived("office", "servers");
}

#[test]
fn a_stopped_gateway_stays_closed_until_its_program_is_unloaded() {
    let Some(mut scene) = Scene::start(&names()) else { return };
    scene.crosses("office", "servers", &scene.path("office", "servers", Family::V4).udp(4000, 53, b"name"));
    scene.check_ledger();
    scene.gateway().signal(Signal::SIGTERM);
    let ended = scene.take_gateway().ended();
    assert!(ended.success(), "{ended}");
    scene.lab.set_kernel_forwarding(true).unwrap();
    send_names(&scene);
    let config = scene.config();
    let unload = ["stop", "--unload", "--config", config.to_str().unwrap()];
    let unloaded = scene.lab.gateway.run(|| run(&unload));
    assert_eq!(unloaded.code, 0, "{unloaded:?}");
    scene.nothing_arrived("office", "servers");

    // A running gateway unloads as well when it stops.
    scene.lab.set_kernel_forwarding(false).unwrap();
    scene.run(&names());
    scene.check_ledger();
    let stopped = scene.cli(&["stop", "--unload"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(scene.take_gateway().ended().success());
    let port = ifindex(&scene, "office");
    assert_eq!(scene.lab.gateway.run(|| steering::attached_program(port)).unwrap(), None);
    scene.lab.set_kernel_forwarding(true).unwrap();
    scene.nothing_arrived("office", "servers");
}

#[test]
fn with_an_empty_policy_nothing_crosses_in_either_direction() {
    let mut empty = Config::new("");
    empty.sentinels = false;
    let Some(scene) = Scene::start(&empty) else { return };
    let before = scene.drops();
    for (from, to) in [("office", "servers"), ("servers", "office")] {
        for family in Family::BOTH {
            let path = scene.path(from, to, family);
            scene.peer(from).send(&path.udp(4000, 53, b"name"));
            scene.peer(from).send(&path.tcp((4000, 80), segment(flags::SYN, 1, 0), b""));
            scene.peer(from).send(&path.echo_request(7, 1));
            // To everybody on the link, and with a VLAN tag.
            let mut broadcast = path.udp(4000, 53, b"name");
            broadcast[..6].fill(0xff);
            scene.peer(from).send(&broadcast);
            let plain = path.udp(4000, 53, b"name");
            scene.peer(from).send(&[&plain[..12], &[0x81, 0, 0, 10], &plain[12..]].concat());
        }
        // LLDP, and an EtherType for experiments.
        for ethertype in [[0x88, 0xcc], [0x88, 0xb5]] {
            let path = scene.path(from, to, Family::V4);
            scene.peer(from).send(&[&path.to[..], &path.from, &ethertype, &[0; 46]].concat());
        }
    }
    let expected = [("no_rule", 12), ("ethernet_not_for_us", 4), ("vlan_unexpected", 4)];
    let noise: Vec<_> =
        expected.iter().map(|(reason, _)| before.get(*reason).copied().unwrap_or(0)).collect();
    wait_until("all of it is dropped", || {
        let drops = scene.drops();
        // Listener reports of the kernels may count as well, but not for want of a rule.
        assert!(drops.get("no_rule").copied().unwrap_or(0) <= 12, "{drops:?}");
        expected.iter().zip(&noise).all(|((reason, count), noise)| {
            drops.get(*reason).is_some_and(|dropped| *dropped >= count + noise)
        })
    });
    assert_eq!(number(&scene.status()["ledger"], "forwarded"), 0);
    scene.reload(&Config::new(""));
    for (from, to) in [("office", "servers"), ("servers", "office")] {
        scene.nothing_arrived(from, to);
        let frames = scene.arrived_frames(from, to);
        assert!(
            frames
                .iter()
                .all(|frame| ![[0x88, 0xcc], [0x88, 0xb5], [0x81, 0]].contains(&[frame[12], frame[13]]))
        );
    }
}

/// An ARP request (RFC 826) for `target`.
fn arp_request(from: [u8; 6], source: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let header = [0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &from, &[8, 6], &header, &from, &source, &[0; 6], &target, &[0; 18]].concat()
}

#[test]
fn arp_and_neighbour_discovery_are_answered_by_the_kernel_and_never_forwarded() {
    let Some(scene) = Scene::start(&names()) else { return };
    let office = scene.peer("office");
    let (IpAddr::V4(own), IpAddr::V6(own6)) = (office.address(Family::V4), office.address(Family::V6)) else {
        unreachable!("a peer has both")
    };
    let other_zone = scene.host("servers").v4[0];
    office.send(&arp_request(office.mac, own.octets(), other_zone.octets()));
    office.send(&arp_request(office.mac, own.octets(), scene.host("office").gateway_v4.octets()));
    let answer = loop {
        let frame = office.frame(bulkhead_tests::PATIENCE).expect("an ARP reply");
        if frame[12..14] == [8, 6] && frame[20..22] == [0, 2] {
            break frame;
        }
    };
    // The first answer is the one for the gateway's own address: nobody answers for the other zone.
    assert_eq!(answer[22..28], office.gateway_mac);
    assert_eq!(answer[28..32], scene.host("office").gateway_v4.octets());

    // A solicitation (RFC 4861, section 4.3) to the solicited-node address of the gateway, with our link address.
    let gateway = scene.host("office").gateway_v6;
    let mut path = scene.path("office", "servers", Family::V6).ttl(255);
    let solicited: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
    (path.to, path.destination) = ([0x33, 0x33, 0xff, 0, 0, 1], solicited.into());
    let payload = [&gateway.octets()[..], &[1, 1], &office.mac].concat();
    office.send(&path.icmp(135, 0, [0; 4], &payload));
    let advertised = loop {
        let frame = office.frame(bulkhead_tests::PATIENCE).expect("a neighbour advertisement");
        if frame[12..14] == [0x86, 0xdd] && frame[54] == 136 && frame[38..54] == own6.octets() {
            break frame;
        }
    };
    assert_eq!(advertised[6..12], office.gateway_mac);
    let crossed = scene.arrived_frames("office", "servers");
    let heard = |frame: &&Vec<u8>| {
        frame[6..12] == office.mac || frame[12..14] == [8, 6] && frame[22..28] == office.mac
    };
    assert_eq!(crossed.iter().find(heard), None);
}

/// The gateway's kernel answers where the source lives: contents and all, the answer would be in another segment.
#[test]
fn a_ping_to_the_gateway_in_the_name_of_another_zone_s_host_is_not_answered_to_that_host() {
    let config = Config { local: vec!["icmp/echo-request", "icmpv6/echo-request"], ..names() };
    let Some(scene) = Scene::start(&config) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let office = scene.host("office");
        let (gateway, reply) = match family {
            Family::V4 => (office.gateway_v4.into(), 0),
            Family::V6 => (office.gateway_v6.into(), 129),
        };
        let honest = Path { destination: gateway, ..scene.path("office", "servers", family) };
        let forged = Path { source: scene.host_address("servers", family), ..honest };
        scene.peer("office").send(&forged.echo_request(9, 1));
        // The honest answer comes after the forged one would have.
        scene.peer("office").send(&honest.echo_request(9, 2));
        scene.peer("office").expect("the answer to an honest ping", |packet| {
            packet.icmp() == Some((reply, 0)) && packet.source == gateway
        });
        let mut arrived = scene.arrived("office", "servers").into_iter();
        assert_eq!(arrived.find(|packet| packet.icmp().is_some()), None);
    }
    scene.expect_drops(&before, &[("local_service_undeclared", 2)]);
}

#[test]
fn a_reload_that_moves_a_source_behind_another_port_ends_the_gateway_s_answers_to_it() {
    let config = Config { local: vec!["icmp/echo-request", "icmpv6/echo-request"], ..names() };
    let Some(scene) = Scene::start(&config) else { return };
    let office = scene.peer("office");
    let mut moved = String::new();
    for zone in office_and_servers() {
        let (name, v4, v6) = (&zone.name, zone.v4, zone.v6);
        moved += &format!("[segments.{name}]\nport = \"{name}\"\nnetworks = [\"{v4}\", \"{v6}\"]\n");
    }
    let networks = Family::BOTH.map(|family| office.address(family).to_string());
    moved += &format!("[segments.moved]\nport = \"servers\"\nnetworks = {networks:?}\n");
    let moved = Config { segments: Some(moved), ..config.clone() };
    let ping = |family, sequence| {
        let host = scene.host("office");
        let gateway =
            if family == Family::V4 { host.gateway_v4.into() } else { IpAddr::from(host.gateway_v6) };
        let path = Path { destination: gateway, ..scene.path("office", "servers", family) };
        office.send(&path.echo_request(9, sequence));
        gateway
    };
    let answered = |family, sequence: u16| {
        let gateway = ping(family, sequence);
        office.expect("the answer to a ping", |packet| {
            let [high, low] = sequence.to_be_bytes();
            packet.source == gateway
                && matches!(packet.content, Content::Icmp(0 | 129, 0, rest, _) if rest == [0, 9, high, low])
        });
    };
    Family::BOTH.into_iter().for_each(|family| answered(family, 1));
    let before = scene.drops();
    scene.reload(&moved);
    Family::BOTH.into_iter().for_each(|family| _ = ping(family, 2));
    scene.expect_drops(&before, &[("local_service_undeclared", 2)]);
    scene.reload(&config);
    Family::BOTH.into_iter().for_each(|family| answered(family, 3));
    scene.expect_drops(&before, &[("local_service_undeclared", 2)]);
}

#[test]
fn a_declared_local_service_is_reachable_and_an_undeclared_one_is_not() {
    let config = Config { local: vec!["tcp/7000", "icmp/echo-request", "icmpv6/echo-request"], ..names() };
    let Some(scene) = Scene::start(&config) else { return };
    let listen =
        |port: u16| scene.lab.gateway.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    let (declared, _undeclared) = (listen(7000), listen(7001));
    let server = std::thread::spawn(move || {
        for stream in declared.incoming().take(2) {
            stream.unwrap().write_all(b"hello").unwrap();
        }
    });
    let before = scene.drops();
    for family in Family::BOTH {
        let office = scene.host("office");
        let gateway = if family == Family::V4 { office.gateway_v4.into() } else { office.gateway_v6.into() };
        let to = SocketAddr::new(gateway, 7000);
        let mut text = String::new();
        let mut stream = office.namespace.run(|| TcpStream::connect(to)).unwrap();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        let mut path = scene.path("office", "servers", family);
        path.destination = gateway;
        scene.peer("office").send(&path.tcp((4000, 7001), segment(flags::SYN, 1, 0), b""));
        scene.peer("office").send(&path.udp(4000, 53, b"name"));
        scene.peer("office").send(&path.echo_request(9, 1));
        let answer = scene.peer("office").expect("an answer of the gateway", |packet| {
            packet.source == gateway && packet.destination == path.source
        });
        assert!(matches!(answer.content, Content::Icmp(0 | 129, 0, [0, 9, 0, 1], _)), "{answer:?}");
    }
    server.join().unwrap();
    let office = scene.peer("office");
    let more = scene.arrived("servers", "office");
    let to_peer =
        |packet: &&Packet| Family::BOTH.iter().any(|family| packet.destination == office.address(*family));
    assert_eq!(more.iter().find(to_peer), None, "the undeclared were answered");
    scene.expect_drops(&before, &[("local_service_undeclared", 4)]);

    // A reload closes them as well.
    scene.reload(&names());
    for family in Family::BOTH {
        let gateway = &scene.host("office");
        let destination =
            if family == Family::V4 { gateway.gateway_v4.into() } else { gateway.gateway_v6.into() };
        let path = Path { destination, ..scene.path("office", "servers", family) };
        scene.peer("office").send(&path.echo_request(9, 2));
        scene.peer("office").send(&path.tcp((4000, 7000), segment(flags::SYN, 1, 0), b""));
    }
    scene.expect_drops(&before, &[("local_service_undeclared", 8)]);
}

#[test]
fn run_refuses_while_the_kernel_forwards_and_turns_it_off_where_asked() {
    let Some(mut scene) = Scene::build(office_and_servers()) else { return };
    scene.write(&names());
    for (setting, named) in [("net.ipv4.ip_forward", "ip_forward"), ("net.ipv6.conf.all.forwarding", "ipv6")]
    {
        scene.lab.gateway.set_sysctl(setting, "1").unwrap();
        let failed = scene.try_run(&[]).expect_err("it refuses");
        assert_eq!(failed.status.code(), Some(1));
        assert!(
            failed.output.contains(named) && failed.output.contains("--manage-forwarding"),
            "{}",
            failed.output
        );
        scene.lab.gateway.set_sysctl(setting, "0").unwrap();
    }
    scene.lab.set_kernel_forwarding(true).unwrap();
    scene.try_run(&["--manage-forwarding"]).unwrap();
    let settings = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    let off = |scene: &Scene| settings.iter().all(|s| scene.lab.gateway.sysctl(s).unwrap() == "0");
    assert!(off(&scene));
    scene.nothing_arrived("office", "servers");
    scene.lab.set_kernel_forwarding(true).unwrap();
    wait_until("it is off again", || off(&scene));
    wait_until("there is an alarm", || number(&scene.status(), "alarms_total") > 0);
}

#[test]
fn forwarding_that_is_switched_on_while_running_is_told_and_lets_nothing_around_the_gateway() {
    let Some(scene) = Scene::start(&names()) else { return };
    scene.lab.set_kernel_forwarding(true).unwrap();
    wait_until("status tells", || {
        let status = scene.status();
        !status["kernel_forwarding"].as_array().unwrap().is_empty() && number(&status, "alarms_total") > 0
    });
    let path = scene.path("office", "servers", Family::V4);
    scene.stays_out("office", "servers", &path.udp(4000, 54, b"no"));
    scene.crosses("office", "servers", &path.udp(4000, 53, b"name"));
}

#[test]
fn nothing_crosses_at_or_after_kill_9_under_traffic_twenty_times_in_a_row() {
    const ALLOWED: u16 = 53;
    const FORBIDDEN: u16 = 54;
    let Some(mut scene) = Scene::build(office_and_servers()) else { return };
    scene.write(&names());
    let paths = Family::BOTH.map(|family| scene.path("office", "servers", family));
    let traffic = Traffic::start(scene.host("office"), Duration::from_micros(300), move |number| {
        let port = if number & 1 == 0 { ALLOWED } else { FORBIDDEN };
        paths[number as usize >> 1 & 1].udp(4000, port, &number.to_be_bytes())
    });
    let numbered = |packet: &Packet| {
        assert!(packet.is_udp_to(ALLOWED), "crossed: {packet:?}");
        u32::from_be_bytes(packet.payload().try_into().unwrap())
    };
    let mut starts = Vec::new();
    let mut opened = 0;
    for round in 0..20 {
        let mounts = if round % 2 == 0 { Mounts::Private } else { Mounts::Shared };
        let before_start = traffic.sent();
        starts.push(scene.run_in(mounts));
        let first = scene.peer("servers").next(bulkhead_tests::PATIENCE).expect("traffic crosses again");
        assert!(numbered(&first) >= before_start, "crossed before the start: {first:?}");
        opened += 1;
        if round == 19 {
            break;
        }
        scene.take_gateway().kill_9();
        let dead = traffic.sent();
        scene.lab.set_kernel_forwarding(true).unwrap();
        traffic.wait_for_more(100);
        scene.lab.set_kernel_forwarding(false).unwrap();
        while let Some(packet) = scene.peer("servers").next(Duration::ZERO) {
            assert!(numbered(&packet) <= dead, "crossed after the death: {packet:?}");
        }
    }
    traffic.stop();
    for packet in scene.arrived("office", "servers") {
        numbered(&packet);
    }
    assert_eq!(opened, 20);
    starts.sort();
    println!("running again after {:?} in the median, {:?} at worst", starts[10], starts[19]);
    // A fraction of a second on a quiet machine, also without optimisation; here others run beside.
    assert!(starts[10] < Duration::from_secs(5), "{starts:?}");
}

#[test]
fn a_restart_replaces_the_steering_program_without_a_gap() {
    let Some(mut scene) = Scene::start(&names()) else { return };
    let ports = ["office", "servers"].map(|port| ifindex(&scene, port));
    let stop = AtomicBool::new(false);
    let watch = |namespace: &bulkhead::lab::Namespace| {
        let mut ids = BTreeSet::new();
        namespace.run(|| {
            while !stop.load(Ordering::Acquire) {
                for port in ports {
                    // A program that is replaced between the two questions behind this cannot be told about.
                    if let Ok(program) = steering::attached_program(port) {
                        let program = program.expect("a program is attached");
                        assert!(program.ours);
                        ids.insert(program.id);
                    }
                }
            }
        });
        ids
    };
    let config = scene.config();
    let start = |namespace| {
        bulkhead_tests::gateway::Gateway::start(namespace, Mounts::Private, &config, &[]).expect("it starts")
    };
    let first = scene.take_gateway();
    let lab = &scene.lab;
    let (last, ids) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&lab.gateway));
        first.signal(Signal::SIGTERM);
        assert!(first.ended().success());
        start(&lab.gateway).kill_9();
        let last = start(&lab.gateway);
        stop.store(true, Ordering::Release);
        (last, watcher.join().unwrap())
    });
    // Three starts, two ports each.
    assert_eq!(ids.len(), 6, "{ids:?}");
    scene.check = Check::Nothing;
    scene.nothing_arrived("office", "servers");
    drop(last);
}

#[test]
fn a_foreign_detach_or_replacement_of_the_program_is_told_and_undone() {
    let Some(scene) = Scene::start(&names()) else { return };
    let port = ifindex(&scene, "office");
    let attached = |scene: &Scene| scene.lab.gateway.run(|| steering::attached_program(port)).unwrap();
    let own = attached(&scene).expect("it is attached").id;
    let is_back = |scene: &Scene| attached(scene).is_some_and(|program| program.id == own);
    scene.lab.gateway.run(|| assert!(steering::detach(port).unwrap()));
    wait_until("it is attached again", || is_back(&scene));
    wait_until("the detach is told", || number(&scene.status(), "alarms_total") == 1);
    scene.nothing_arrived("office", "servers");
    scene.lab.gateway.run(|| PortSteering::load(port, 1).unwrap().attach().unwrap());
    wait_until("it is attached again", || is_back(&scene));
    wait_until("the replacement is told", || number(&scene.status(), "alarms_total") == 2);
    scene.nothing_arrived("office", "servers");
    let alarms = scene.status()["alarms"].to_string();
    assert!(alarms.contains("office") && alarms.contains("steering program"), "{alarms}");
}
