use std::time::{Duration, Instant};

use bulkhead_dataplane::topology::{Route, RouteKind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::*;
use crate::lab::{self, Lab, Namespace, RawPort, RouteTarget, VethOptions, Zone};

const PATIENCE: Duration = Duration::from_secs(10);

fn skipped() -> bool {
    if !lab::available() {
        eprintln!("SKIPPED: needs root");
    }
    !lab::available()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Two zones and the watcher of their gateway.
fn watched() -> (Lab, Watcher) {
    let lab = Lab::new(&[
        Zone::new("clients", "10.1.0.0/24", "fd00:1::/64"),
        Zone::new("servers", "10.2.0.0/24", "fd00:2::/64"),
    ])
    .unwrap();
    let watcher = lab.gateway.run(|| Watcher::new(&lab.ports())).unwrap();
    (lab, watcher)
}

/// Updates, as the control plane would when the descriptor is readable, until the condition holds.
fn wait_until(watcher: &mut Watcher, what: &str, holds: impl Fn(&Watcher) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(watcher) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{what}: {:#?}", watcher.spec());
        let timeout = PollTimeout::try_from(left).unwrap();
        poll(&mut [PollFd::new(watcher.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
        let before = (watcher.spec.clone(), watcher.ports());
        let changed = watcher.update().unwrap();
        assert_eq!(
            changed,
            before != (watcher.spec.clone(), watcher.ports()),
            "update tells of every change"
        );
    }
}

fn kind(watcher: &Watcher, prefix: &str) -> Option<RouteKind> {
    let prefix = net(prefix);
    watcher.spec.routes.iter().find(|route| route.prefix == prefix).map(|route| route.kind)
}

fn mac_of(watcher: &Watcher, port: PortId, address: IpAddr) -> Option<Mac> {
    let mut neighbours = watcher.spec.neighbours.iter();
    neighbours.find(|entry| entry.port == port && entry.address == address).map(|entry| entry.mac)
}

#[test]
fn ports_addresses_and_connected_routes_are_there_at_the_start() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    for (index, host) in lab.hosts().iter().enumerate() {
        let port = PortId(index as u8);
        let state = &watcher.spec.ports[index];
        assert_eq!((state.mac, state.mtu, state.up), (host.gateway_mac, 1500, true));
        for address in [IpAddr::from(host.gateway_v4), IpAddr::from(host.gateway_v6)] {
            assert!(state.addresses.iter().any(|own| own.addr() == address && own.prefix_len() < 128));
            assert!(watcher.spec.own_addresses.contains(&address));
            assert!(!watcher.spec.neighbours.iter().any(|entry| entry.address == address));
        }
        let link = lab.gateway.link(&host.zone).unwrap();
        assert_eq!(watcher.ifindex(port), Some(link.index));
    }
    assert!(watcher.spec.own_addresses.contains(&ip("127.0.0.1")));
    assert_eq!(kind(&watcher, "10.1.0.0/24"), Some(RouteKind::Via(PortId(0), None)));
    assert_eq!(kind(&watcher, "fd00:2::/64"), Some(RouteKind::Via(PortId(1), None)));
    assert_eq!(kind(&watcher, "fe80::/64"), Some(RouteKind::Refused));
    assert_eq!(watcher.undecodable(), 0);
    // What the laboratory did may still be waiting, but says nothing new.
    while poll(&mut [PollFd::new(watcher.as_fd(), PollFlags::POLLIN)], 300u16).unwrap() > 0 {
        watcher.update().unwrap();
    }
    assert!(!watcher.update().unwrap());
    assert_eq!((watcher.ifindex(PortId(2)), watcher.lost()), (None, 0));
}

#[test]
fn addresses_and_mtu_follow_the_kernel() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    for address in [net("192.0.2.1/25"), net("2001:db8::1/48")] {
        let on_port = |watcher: &Watcher| watcher.spec.ports[0].addresses.contains(&address);
        let prefix = address.trunc().to_string();
        lab.gateway.add_address("clients", address).unwrap();
        wait_until(&mut watcher, "added", |watcher| on_port(watcher) && kind(watcher, &prefix).is_some());
        assert!(watcher.spec.own_addresses.contains(&address.addr()));
        lab.gateway.delete_address("clients", address).unwrap();
        wait_until(&mut watcher, "removed", |watcher| !on_port(watcher) && kind(watcher, &prefix).is_none());
        assert!(!watcher.spec.own_addresses.contains(&address.addr()));
    }
    // An address on an interface that is no port is the gateway's all the same.
    lab.gateway.add_address("lo", net("198.51.100.1/32")).unwrap();
    wait_until(&mut watcher, "own", |watcher| watcher.spec.own_addresses.contains(&ip("198.51.100.1")));
    lab.gateway.set_mtu("servers", 1400).unwrap();
    wait_until(&mut watcher, "mtu", |watcher| watcher.spec.ports[1].mtu == 1400);
    lab.gateway.set_mac("servers", [2, 7, 7, 7, 7, 7]).unwrap();
    wait_until(&mut watcher, "mac", |watcher| watcher.spec.ports[1].mac == [2, 7, 7, 7, 7, 7]);
}

#[test]
fn of_several_routes_to_one_prefix_the_best_metric_wins_in_either_family() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    for (prefix, near, far) in
        [("203.0.113.0/24", "10.1.0.2", "10.2.0.2"), ("2001:db8:5::/48", "fd00:1::2", "fd00:2::2")]
    {
        let (near, far) = (ip(near), ip(far));
        let is = |port: u8, gateway: IpAddr| Some(RouteKind::Via(PortId(port), Some(gateway)));
        lab.gateway.add_route(net(prefix), RouteTarget::Gateway(far), 200).unwrap();
        wait_until(&mut watcher, "first", |watcher| kind(watcher, prefix) == is(1, far));
        lab.gateway.add_route(net(prefix), RouteTarget::Gateway(near), 100).unwrap();
        wait_until(&mut watcher, "better", |watcher| kind(watcher, prefix) == is(0, near));
        lab.gateway.add_route(net(prefix), RouteTarget::Blackhole, 50).unwrap();
        wait_until(&mut watcher, "refused", |watcher| kind(watcher, prefix) == Some(RouteKind::Refused));
        lab.gateway.delete_route(net(prefix), RouteTarget::Blackhole, 50).unwrap();
        lab.gateway.delete_route(net(prefix), RouteTarget::Gateway(near), 100).unwrap();
        wait_until(&mut watcher, "fallback", |watcher| kind(watcher, prefix) == is(1, far));
        lab.gateway.delete_route(net(prefix), RouteTarget::Gateway(far), 200).unwrap();
        wait_until(&mut watcher, "none", |watcher| kind(watcher, prefix).is_none());
    }
}

#[test]
fn a_multipath_route_takes_its_first_way_and_the_second_when_the_firsts_port_is_down() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let hops4 = [(ip("10.1.0.2"), "clients"), (ip("10.2.0.2"), "servers")];
    let hops6 = [(ip("fd00:1::2"), "clients"), (ip("fd00:2::2"), "servers")];
    let prefixes = [("203.0.113.0/24", hops4), ("2001:db8:5::/48", hops6)];
    for (prefix, hops) in &prefixes {
        lab.gateway.add_route(net(prefix), RouteTarget::Multipath(hops), 10).unwrap();
        let first = Some(RouteKind::Via(PortId(0), Some(hops[0].0)));
        wait_until(&mut watcher, "first", |watcher| kind(watcher, prefix) == first);
    }
    lab.host("clients").namespace.set_up("eth0", false).unwrap();
    for (prefix, hops) in &prefixes {
        let second = Some(RouteKind::Via(PortId(1), Some(hops[1].0)));
        wait_until(&mut watcher, "second", |watcher| kind(watcher, prefix) == second);
    }
}

#[test]
fn a_route_out_of_an_interface_that_is_no_port_is_refused() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    Namespace::veth((&lab.gateway, "other"), (&lab.gateway, "end"), &VethOptions::default()).unwrap();
    lab.gateway.add_route(net("203.0.113.0/24"), RouteTarget::Link("other"), 0).unwrap();
    wait_until(&mut watcher, "refused", |watcher| {
        kind(watcher, "203.0.113.0/24") == Some(RouteKind::Refused)
    });
    lab.gateway.add_route(net("198.51.100.0/24"), RouteTarget::Unreachable, 0).unwrap();
    wait_until(&mut watcher, "refused", |watcher| {
        kind(watcher, "198.51.100.0/24") == Some(RouteKind::Refused)
    });
}

#[test]
fn a_port_that_loses_carrier_is_down_and_up_again_with_it() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let host = &lab.host("servers").namespace;
    host.set_up("eth0", false).unwrap();
    wait_until(&mut watcher, "no carrier", |watcher| !watcher.spec.ports[1].up);
    assert!(watcher.spec.ports[0].up);
    host.set_up("eth0", true).unwrap();
    wait_until(&mut watcher, "carrier", |watcher| watcher.spec.ports[1].up);
    lab.gateway.set_up("servers", false).unwrap();
    wait_until(&mut watcher, "admin down", |watcher| {
        !watcher.spec.ports[1].up && kind(watcher, "10.2.0.0/24").is_none()
    });
    lab.gateway.set_up("servers", true).unwrap();
    wait_until(&mut watcher, "admin up", |watcher| {
        watcher.spec.ports[1].up && kind(watcher, "10.2.0.0/24").is_some()
    });
}

#[test]
fn a_renamed_or_deleted_interface_is_a_port_that_is_down_until_its_name_is_back() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let port = PortId(1);
    let first = watcher.ifindex(port);
    let gone = |watcher: &Watcher| {
        watcher.ifindex(port).is_none() && !watcher.spec.ports[1].up && {
            watcher.spec.ports[1].addresses.is_empty()
        }
    };
    lab.gateway.rename("servers", "elsewhere").unwrap();
    wait_until(&mut watcher, "renamed", gone);
    assert_eq!(kind(&watcher, "10.2.0.0/24"), Some(RouteKind::Refused), "no port leads there");
    assert!(watcher.spec.own_addresses.contains(&ip("10.2.0.1")), "it is still ours");
    lab.gateway.rename("elsewhere", "servers").unwrap();
    wait_until(&mut watcher, "back", |watcher| watcher.ifindex(port) == first && watcher.spec.ports[1].up);
    lab.gateway.delete_link("servers").unwrap();
    wait_until(&mut watcher, "deleted", gone);
    assert!(!watcher.spec.own_addresses.contains(&ip("10.2.0.1")));
    let other = Namespace::new("other").unwrap();
    Namespace::veth((&lab.gateway, "servers"), (&other, "eth0"), &VethOptions::default()).unwrap();
    wait_until(&mut watcher, "made anew", |watcher| {
        watcher.spec.ports[1].up && watcher.ifindex(port).is_some()
    });
    assert_ne!(watcher.ifindex(port), first);
    assert_eq!(watcher.spec.ports[1].mac, lab.gateway.link("servers").unwrap().mac);
}

#[test]
fn resolving_makes_the_kernel_ask_and_the_answer_appears_in_either_family() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let port = PortId(1);
    let host = lab.host("servers");
    for address in [IpAddr::from(host.v4[0]), IpAddr::from(host.v6[0])] {
        assert_eq!(mac_of(&watcher, port, address), None);
        assert!(watcher.resolve(port, address).unwrap());
        wait_until(&mut watcher, "resolved", |watcher| mac_of(watcher, port, address) == Some(host.mac));
        lab.gateway.delete_neighbour("servers", address).unwrap();
        wait_until(&mut watcher, "deleted", |watcher| mac_of(watcher, port, address).is_none());
    }
    assert!(!watcher.resolve(PortId(9), host.v4[0].into()).unwrap(), "no such port");
}

#[test]
fn an_arp_request_for_an_absent_host_is_seen_on_the_wire_and_the_entry_stays_away() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let mut wire = RawPort::open(&lab.host("clients").namespace, "eth0").unwrap();
    let absent = ip("10.1.0.77");
    // Twice: the second call finds the entry incomplete and leaves it so.
    assert!(watcher.resolve(PortId(0), absent).unwrap());
    assert!(watcher.resolve(PortId(0), absent).unwrap());
    let request = |frame: &[u8]| {
        // EtherType ARP, operation request, target protocol address (RFC 826).
        frame[12..14] == [8, 6] && frame[20..22] == [0, 1] && frame[38..42] == [10, 1, 0, 77]
    };
    assert!(wire.receive_where(PATIENCE, request).unwrap().is_some(), "no ARP request");
    watcher.update().unwrap();
    assert_eq!(mac_of(&watcher, PortId(0), absent), None);
}

#[test]
fn a_permanent_neighbour_appears_survives_being_resolved_and_changes_its_mac() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let (port, address) = (PortId(0), ip("10.1.0.50"));
    lab.gateway.add_neighbour("clients", address, [2, 1, 1, 1, 1, 1]).unwrap();
    let has = |mac: Mac| move |watcher: &Watcher| mac_of(watcher, port, address) == Some(mac);
    wait_until(&mut watcher, "added", has([2, 1, 1, 1, 1, 1]));
    assert!(watcher.resolve(port, address).unwrap());
    let index = watcher.ifindex(port).unwrap();
    assert_eq!(watcher.resolver.confirm(index, address).unwrap(), Asked::Unneeded);
    watcher.dirty = Dirty::ALL;
    watcher.update().unwrap();
    assert!(has([2, 1, 1, 1, 1, 1])(&watcher), "NTF_USE would have made it an unresolved one");
    lab.gateway.add_neighbour("clients", address, [2, 2, 2, 2, 2, 2]).unwrap();
    wait_until(&mut watcher, "changed", has([2, 2, 2, 2, 2, 2]));
    // An address no host can have is not believed.
    lab.gateway.add_neighbour("clients", ip("10.1.0.51"), [1, 0, 0x5e, 0, 0, 1]).unwrap();
    watcher.dirty = Dirty::ALL;
    watcher.update().unwrap();
    assert_eq!(mac_of(&watcher, port, ip("10.1.0.51")), None);
}

#[test]
fn a_stale_neighbour_in_use_is_probed_and_leaves_when_it_does_not_answer() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let host = lab.host("clients");
    let (port, address) = (PortId(0), IpAddr::from(host.v4[0]));
    for (knob, value) in
        [("base_reachable_time_ms", "200"), ("delay_first_probe_time", "0"), ("retrans_time_ms", "100")]
    {
        lab.gateway.set_sysctl(&format!("net.ipv4.neigh.clients.{knob}"), value).unwrap();
    }
    assert!(watcher.resolve(port, address).unwrap());
    let is_stale = |watcher: &Watcher| {
        watcher.entries.iter().any(|entry| entry.stale && entry.neighbour.address == address)
    };
    wait_until(&mut watcher, "stale", is_stale);
    assert_eq!(mac_of(&watcher, port, address), Some(host.mac), "a stale entry is still good");
    assert_eq!(watcher.confirm(10, |_, _| false).unwrap(), 0, "not in use");
    assert_eq!(watcher.confirm(0, |_, _| true).unwrap(), 0, "limit");
    let mut wire = RawPort::open(&host.namespace, "eth0").unwrap();
    assert_eq!(watcher.confirm(10, |at, who| (at, who) == (port, address)).unwrap(), 1);
    let probe = |frame: &[u8]| frame[..6] == host.mac && frame[12..14] == [8, 6];
    assert!(wire.receive_where(PATIENCE, probe).unwrap().is_some(), "no unicast ARP probe");
    // The host changes its card. Traffic would go to the old one for ever; a probe finds out.
    host.namespace.set_mac("eth0", [2, 5, 5, 5, 5, 5]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while mac_of(&watcher, port, address).is_some() {
        assert!(Instant::now() < deadline, "it did not fail");
        watcher.confirm(10, |_, _| true).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        watcher.update().unwrap();
    }
    assert!(watcher.resolve(port, address).unwrap(), "also from the failed state");
    wait_until(&mut watcher, "new card", |watcher| {
        mac_of(watcher, port, address) == Some([2, 5, 5, 5, 5, 5])
    });
}

#[test]
fn lost_notifications_are_noticed_and_answered_by_reading_everything() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let mut last = [2, 0, 0, 0, 0, 0];
    // A notification takes at least 768 bytes, the kernel's least for a socket buffer: far more than now fits.
    setsockopt(&watcher.notifications, sockopt::RcvBuf, &4096).unwrap();
    for round in 0..500u32 {
        last[2..].copy_from_slice(&round.to_be_bytes());
        lab.gateway.add_neighbour("clients", ip("10.1.0.50"), last).unwrap();
    }
    lab.gateway.add_address("clients", net("192.0.2.1/24")).unwrap();
    assert!(watcher.update().unwrap());
    assert!(watcher.lost() > 0, "nothing was lost");
    assert_eq!(mac_of(&watcher, PortId(0), ip("10.1.0.50")), Some(last));
    assert!(watcher.spec.own_addresses.contains(&ip("192.0.2.1")));
    assert!(kind(&watcher, "192.0.2.0/24").is_some());
}

#[test]
fn an_undecodable_notification_dirties_everything_and_a_foreign_one_nothing() {
    let ports = HashMap::from([(7, PortId(0))]);
    let mut dirty = Dirty::default();
    note(&mut dirty, None, &ports);
    assert_eq!(dirty, Dirty::ALL);
    let mut entry = netlink_packet_route::neighbour::NeighbourMessage::default();
    let noted = |object: RouteNetlinkMessage| {
        let mut dirty = Dirty::default();
        note(&mut dirty, Some(&object), &ports);
        dirty
    };
    entry.header.ifindex = 8;
    assert_eq!(noted(RouteNetlinkMessage::NewNeighbour(entry.clone())), Dirty::default());
    entry.header.ifindex = 7;
    let neighbours = Dirty { neighbours: true, ..Dirty::default() };
    assert_eq!(noted(RouteNetlinkMessage::DelNeighbour(entry)), neighbours);
    let mut route = netlink_packet_route::route::RouteMessage::default();
    // The local table (RT_TABLE_LOCAL), which changes with every address.
    route.header.table = 255;
    assert_eq!(noted(RouteNetlinkMessage::NewRoute(route.clone())), Dirty::default());
    route.header.table = 254;
    assert!(noted(RouteNetlinkMessage::DelRoute(route)).routes);
}

#[test]
fn a_table_of_ten_thousand_routes_is_read_whole() {
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    let blackholes = 10_000u32;
    for number in 0..blackholes {
        let prefix = IpNet::new(IpAddr::from((100 << 24 | number).to_be_bytes()), 32).unwrap();
        lab.gateway.add_route(prefix, RouteTarget::Blackhole, 0).unwrap();
    }
    let wanted = |route: &&Route| route.prefix.prefix_len() == 32 && route.kind == RouteKind::Refused;
    let count = |watcher: &Watcher| watcher.spec.routes.iter().filter(wanted).count();
    watcher.update().unwrap();
    assert_eq!(count(&watcher), blackholes as usize);
    let sorted = watcher.spec.routes.is_sorted_by_key(|route| route.prefix);
    assert!(sorted, "equal tables must be equal lists");
}

#[test]
fn a_port_that_belongs_to_a_bridge_is_known_to() {
    use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
    if skipped() {
        return;
    }
    let (lab, mut watcher) = watched();
    assert_eq!(watcher.master(PortId(0)), None);
    let mut netlink = lab.gateway.run(Netlink::open).unwrap();
    let mut bridge = LinkMessage::default();
    bridge.attributes = vec![
        LinkAttribute::IfName("trap".to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    let flags = netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_EXCL;
    if let Err(error) = netlink.request(RouteNetlinkMessage::NewLink(bridge), flags) {
        // Some kernels are built without bridges.
        eprintln!("SKIPPED: {error}");
        return;
    }
    let mut port = LinkMessage::default();
    port.header.index = watcher.ifindex(PortId(0)).unwrap();
    port.attributes = vec![LinkAttribute::Controller(lab.gateway.link("trap").unwrap().index)];
    netlink.request(RouteNetlinkMessage::SetLink(port), 0).unwrap();
    wait_until(&mut watcher, "the bridge", |watcher| watcher.master(PortId(0)).as_deref() == Some("trap"));
    assert_eq!(watcher.master(PortId(1)), None);
}
