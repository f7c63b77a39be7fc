//! nmap, with its options to evade firewalls: the ports that it finds open are those that the policy opens.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::Scene;

use crate::{lacks, printed};

/// Ports on which the server listens, all of them; the policy decides which can be reached.
const PORTS: [u16; 12] = [21, 22, 23, 25, 52, 53, 54, 79, 80, 81, 110, 443];
/// Ports that the policy opens.
const OPEN: [u16; 3] = [22, 53, 80];

/// Servers on all ports, and a policy that opens a few.
fn scene() -> Option<(Scene, Vec<TcpListener>, Vec<UdpSocket>)> {
    let scene = Scene::start(&Config::new(allow("few", "office", "servers", "tcp/22 tcp/53 tcp/80 udp/53")))?;
    let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        for port in PORTS {
            let address = SocketAddr::new(scene.host_address("servers", family), port);
            let namespace = &scene.host("servers").namespace;
            listeners.push(namespace.run(|| TcpListener::bind(address)).expect("it listens"));
            sockets.push(namespace.run(|| UdpSocket::bind(address)).expect("it listens"));
        }
    }
    Some((scene, listeners, sockets))
}

/// What nmap says about the ports: of each state that it names, the ports.
fn scan(scene: &Scene, family: Family, options: &[&str]) -> Vec<(String, u16)> {
    let target = scene.host_address("servers", family).to_string();
    let ports = format!("-p{}", PORTS.map(|port| port.to_string()).join(","));
    let mut args = vec!["-n", "-Pn", "-T4", "--max-retries=3", "--max-rtt-timeout=150ms", "-vv", "-oG", "-"];
    if family == Family::V6 {
        args.push("-6");
    }
    args.extend([ports.as_str()].iter().chain(options));
    args.push(&target);
    let text = printed(scene.host("office"), "nmap", &args);
    let listed = text.lines().find_map(|line| line.split_once("Ports: ")).unwrap_or_default().1;
    let listed = listed.split('\t').next().unwrap_or_default();
    let port = |entry: &str| {
        let mut fields = entry.trim().split('/');
        let port = fields.next()?.parse().ok()?;
        Some((fields.next()?.to_owned(), port))
    };
    listed.split(',').filter_map(port).collect()
}

fn in_state(found: &[(String, u16)], state: &str) -> BTreeSet<u16> {
    found.iter().filter(|(of, _)| of == state).map(|(_, port)| *port).collect()
}

/// Scans that connect, or would: exactly the open ports answer.
#[test]
fn nmap_finds_the_ports_that_the_policy_opens_with_every_option_to_evade() {
    if lacks("nmap") {
        return;
    }
    let Some((scene, _listeners, _sockets)) = scene() else { return };
    let both: [&[&str]; 6] = [
        &["-sT"],
        &["-sS"],
        &["-sS", "--source-port", "53"],
        &["-sS", "--source-port", "80", "--data-length", "32"],
        &["-sS", "--scanflags", "SYNPSHURG"],
        &["-sS", "--ttl", "7", "--randomize-hosts"],
    ];
    // nmap fragments and takes decoys for IPv4 only.
    let v4: [&[&str]; 5] = [
        &["-sS", "-f"],
        &["-sS", "-ff"],
        &["-sS", "--mtu", "24", "--data-length", "40"],
        &["-sS", "-D", "10.1.0.77,10.1.0.78,ME"],
        &["-sS", "-f", "--source-port", "53", "-D", "10.1.0.77,ME"],
    ];
    let open = BTreeSet::from(OPEN);
    for (family, options) in Family::BOTH
        .into_iter()
        .flat_map(|family| both.map(|options| (family, options)))
        .chain(v4.map(|options| (Family::V4, options)))
    {
        let found = scan(&scene, family, options);
        assert_eq!(in_state(&found, "open"), open, "{family:?} {options:?}: {found:?}");
        // A closed port would be one whose reset came through.
        assert_eq!(in_state(&found, "closed"), BTreeSet::new(), "{family:?} {options:?}");
    }
}

/// Scans that no connection begins with: nothing answers, so nothing is told apart.
#[test]
fn nmap_learns_nothing_from_packets_that_open_no_connection() {
    if lacks("nmap") {
        return;
    }
    let Some((scene, _listeners, _sockets)) = scene() else { return };
    for family in Family::BOTH {
        for options in [
            ["-sF"].as_slice(),
            &["-sN"],
            &["-sX"],
            &["-sM"],
            &["-sA"],
            &["-sW"],
            &["-sS", "--badsum"],
            &["-sS", "--scanflags", "SYNFIN"],
            &["-sS", "--scanflags", "SYNRST"],
        ] {
            let found = scan(&scene, family, options);
            for told in ["open", "closed", "unfiltered"] {
                assert_eq!(in_state(&found, told), BTreeSet::new(), "{family:?} {options:?}: {found:?}");
            }
        }
    }
}
