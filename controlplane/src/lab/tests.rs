use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

/// Says so and returns true where laboratories cannot be built.
fn skipped() -> bool {
    if !available() {
        eprintln!("SKIPPED: needs root");
    }
    !available()
}

fn two_zones() -> [Zone; 2] {
    [Zone::new("clients", "10.1.0.0/24", "fd00:1::/64"), Zone::new("servers", "10.2.0.0/24", "fd00:2::/64")]
}

/// A TCP connection from one zone to the other and a line through it.
fn tcp_crosses(lab: &Lab, target: IpAddr) -> bool {
    let listener = lab.host("servers").namespace.run(|| TcpListener::bind((target, 0))).unwrap();
    let to = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut line = [0; 5];
        listener.set_nonblocking(false).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut line).unwrap();
        line
    });
    let connected =
        lab.host("clients").namespace.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    let Ok(mut stream) = connected else {
        // Ends the server's wait.
        lab.host("servers").namespace.run(|| TcpStream::connect(to).unwrap().write_all(b"local").unwrap());
        return server.join().unwrap() != *b"local";
    };
    stream.write_all(b"hello").unwrap();
    server.join().unwrap() == *b"hello"
}

#[test]
fn zones_reach_each_other_only_while_the_gateways_kernel_forwards() {
    if skipped() {
        return;
    }
    let mut zones = two_zones();
    zones[1].neighbours = Neighbours::Static;
    let lab = Lab::new(&zones).unwrap();
    let servers = lab.host("servers");
    let targets: [IpAddr; 2] = [servers.v4[0].into(), servers.v6[0].into()];
    for target in targets {
        assert!(!tcp_crosses(&lab, target), "{target} without forwarding");
    }
    lab.set_kernel_forwarding(true).unwrap();
    for target in targets {
        assert!(tcp_crosses(&lab, target), "{target} with forwarding");
    }
}

#[test]
fn a_raw_frame_reaches_the_other_end_and_is_not_heard_by_its_sender() {
    if skipped() {
        return;
    }
    let (left, right) = (Namespace::new("left").unwrap(), Namespace::new("right").unwrap());
    Namespace::veth((&left, "a"), (&right, "b"), &VethOptions::default()).unwrap();
    let (mut a, mut b) = (RawPort::open(&left, "a").unwrap(), RawPort::open(&right, "b").unwrap());
    // To an address that is nobody's, with an EtherType for experiments (IEEE 802, 0x88b5).
    let frame = [&[2, 9, 9, 9, 9, 9, 2, 8, 8, 8, 8, 8, 0x88, 0xb5][..], &[7; 50]].concat();
    let experimental = |frame: &[u8]| frame[12..14] == [0x88, 0xb5];
    a.send(&frame).unwrap();
    assert_eq!(b.receive_where(Duration::from_secs(2), experimental).unwrap(), Some(frame));
    assert_eq!(a.receive_where(Duration::from_millis(50), experimental).unwrap(), None);
    assert_eq!(b.receive_where(Duration::ZERO, experimental).unwrap(), None);
}

#[test]
fn a_veth_has_the_queues_mtu_and_addresses_asked_for_and_can_be_changed_and_deleted() {
    if skipped() {
        return;
    }
    let space = Namespace::new("one").unwrap();
    let (mac_a, mac_b) = ([2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]);
    let options = VethOptions { queues: 3, mtu: 1400, mac_a: Some(mac_a), mac_b: Some(mac_b), up: false };
    Namespace::veth((&space, "a"), (&space, "b"), &options).unwrap();
    let a = space.link("a").unwrap();
    assert_eq!((a.mac, a.mtu, a.up, a.carrier), (mac_a, 1400, false, false));
    assert_eq!(space.link("b").unwrap().mac, mac_b);
    let queues =
        space.run_with_sysfs(|| std::fs::read_dir("/sys/class/net/a/queues").map(|queues| queues.count()));
    assert_eq!(queues.unwrap(), 6);
    space.set_up("a", true).unwrap();
    space.set_up("b", true).unwrap();
    space.set_mtu("a", 1300).unwrap();
    space.set_mac("a", mac_b).unwrap();
    space.attach_pfifo("a", 500).unwrap();
    space.set_up("a", false).unwrap();
    space.rename("a", "c").unwrap();
    space.set_up("c", true).unwrap();
    let c = space.link("c").unwrap();
    assert_eq!((c.index, c.mac, c.mtu, c.up, c.carrier), (a.index, mac_b, 1300, true, true));
    space.delete_link("c").unwrap();
    assert_eq!(space.link("b").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    let error = space.set_up("b", true).unwrap_err().to_string();
    assert!(error.contains('b') && error.contains("one"), "{error}");
}

#[test]
fn a_child_process_sees_its_namespace_in_sysfs_and_dies_with_its_guard() {
    if skipped() {
        return;
    }
    let space = Namespace::new("process").unwrap();
    Namespace::veth((&space, "here"), (&space, "there"), &VethOptions::default()).unwrap();
    let mut list = space.spawn(Command::new("ls").arg("/sys/class/net").stdout(Stdio::piped())).unwrap();
    let mut names = String::new();
    list.stdout.take().unwrap().read_to_string(&mut names).unwrap();
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["here", "lo", "there"]);
    let sleeper = space.spawn(Command::new("sleep").arg("600")).unwrap();
    let pid = nix::unistd::Pid::from_raw(sleeper.id() as i32);
    drop(sleeper);
    assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::Error::ESRCH));
}

#[test]
fn a_namespace_is_gone_when_its_last_descriptor_is() {
    if skipped() {
        return;
    }
    let (kept, lost) = (Namespace::new("kept").unwrap(), Namespace::new("lost").unwrap());
    Namespace::veth((&kept, "a"), (&lost, "b"), &VethOptions::default()).unwrap();
    let socket = lost.run(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    drop(lost);
    // A socket keeps it alive; then the kernel takes it down in the background, and the veth pair with it.
    assert!(kept.link("a").is_ok());
    drop(socket);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while kept.link("a").is_ok() {
        assert!(std::time::Instant::now() < deadline, "the namespace outlived its descriptors");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn routes_of_every_kind_are_added_and_deleted() {
    if skipped() {
        return;
    }
    let space = Namespace::new("routes").unwrap();
    Namespace::veth((&space, "a"), (&space, "b"), &VethOptions::default()).unwrap();
    space.add_address("a", "10.0.0.1/24".parse().unwrap()).unwrap();
    space.add_address("a", "fd00::1/64".parse().unwrap()).unwrap();
    let hops4: [(IpAddr, &str); 2] = [("10.0.0.2".parse().unwrap(), "a"), ("10.0.0.3".parse().unwrap(), "a")];
    let targets4 = [
        RouteTarget::Gateway(hops4[0].0),
        RouteTarget::Link("a"),
        RouteTarget::Multipath(&hops4),
        RouteTarget::Blackhole,
        RouteTarget::Unreachable,
    ];
    let hops6: [(IpAddr, &str); 2] = [("fd00::2".parse().unwrap(), "a"), ("fd00::3".parse().unwrap(), "a")];
    let targets6 = [
        RouteTarget::Gateway(hops6[0].0),
        RouteTarget::Link("a"),
        RouteTarget::Multipath(&hops6),
        RouteTarget::Blackhole,
        RouteTarget::Unreachable,
    ];
    for (prefix, targets) in [("192.0.2.0/24", targets4), ("2001:db8::/32", targets6)] {
        let prefix = prefix.parse().unwrap();
        for (target, metric) in targets.into_iter().zip(10..) {
            space.add_route(prefix, target.clone(), metric).unwrap();
            space.delete_route(prefix, target.clone(), metric).unwrap();
            space.delete_route(prefix, target, metric).expect_err("it is gone");
        }
    }
    space.delete_address("a", "fd00::1/64".parse().unwrap()).unwrap();
    space.add_neighbour("a", hops4[0].0, [2, 1, 1, 1, 1, 1]).unwrap();
    space.delete_neighbour("a", hops4[0].0).unwrap();
}

#[test]
fn a_zones_veth_finishes_its_checksums_and_segments_before_it_sends() {
    if skipped() {
        return;
    }
    let lab = Lab::new(&two_zones()).unwrap();
    for host in lab.hosts() {
        let ends = [(&lab.gateway, host.zone.as_str()), (&host.namespace, host.interface)];
        for (namespace, name) in ends {
            let on = namespace.run(|| afxdp::device::offloads(name)).unwrap();
            assert!(!on.tx_checksum && !on.tso && !on.gso, "{name}: {on:?}");
        }
    }
}
