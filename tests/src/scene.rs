//! A gateway between zones, and what a scenario does with it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bulkhead::lab::{Host, Lab, Neighbours, Zone};
use serde_json::Value;

use crate::config::{Config, SENTINEL};
use crate::craft;
use crate::frames::{Family, Packet, Path, flags, segment};
use crate::gateway::{self, Failed, Gateway, Mounts, Ran};
use crate::peer::Peer;
use crate::{PATIENCE, is_skipped};

/// Groups of reasons in which the kernels' own chatter on a link (listener reports and the like) may count.
const NOISY_GROUPS: [&str; 2] = ["sanity", "malformed"];

/// How much of the ledger can hold when the scenario ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// All of it: steering, sockets and workers agree to the packet.
    Whole,
    /// The workers' part. A port that was opened anew counts from zero again.
    Workers,
    /// Nothing: the gateway does not run.
    Nothing,
}

/// Zones, peers in them, and the gateway. Checks the ledger when dropped.
pub struct Scene {
    gateway: Option<Gateway>,
    /// How much of the ledger is checked at the end.
    pub check: Check,
    /// The namespaces.
    pub lab: Lab,
    zones: Vec<Zone>,
    peers: Vec<Peer>,
    directory: PathBuf,
    sentinels: AtomicU32,
}

/// The usual zone of this name and number, with permanent neighbours.
pub fn zone(name: &str, number: u8) -> Zone {
    let zone = Zone::new(name, &format!("10.{number}.0.0/24"), &format!("fd00:{number}::/64"));
    Zone { neighbours: Neighbours::Static, ..zone }
}

/// The zones that most scenarios take place in.
pub fn office_and_servers() -> Vec<Zone> {
    vec![zone("office", 1), zone("servers", 2)]
}

impl Scene {
    /// A running gateway between office and servers; `None`, and a line that says so, where that cannot be had.
    pub fn start(config: &Config) -> Option<Scene> {
        let mut scene = Scene::build(office_and_servers())?;
        scene.run(config);
        Some(scene)
    }

    /// As [`Scene::start`], with another program in the gateway's place.
    ///
    /// # Panics
    /// Panics when it does not come up.
    pub fn start_program(program: &str, config: &Config) -> Option<Scene> {
        let mut scene = Scene::build(office_and_servers())?;
        scene.run_program(program, config);
        Some(scene)
    }

    /// Runs another program in the gateway's place.
    ///
    /// # Panics
    /// Panics when it does not come up.
    pub fn run_program(&mut self, program: &str, config: &Config) {
        self.write(config);
        let started =
            Gateway::start_program(program, &self.lab.gateway, Mounts::Private, &self.config(), &[]);
        self.gateway = Some(started.unwrap_or_else(|failed| panic!("{}: {}", failed.status, failed.output)));
    }

    /// Zones without a running gateway; `None` as in [`Scene::start`].
    pub fn build(zones: Vec<Zone>) -> Option<Scene> {
        if is_skipped() {
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("bulkhead-e2e-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for the scenario");
        let lab = Lab::new(&zones).expect("a laboratory");
        let peers = zones.iter().map(|zone| Peer::new(&lab, zone)).collect();
        let sentinels = AtomicU32::new(0);
        Some(Scene { gateway: None, check: Check::Whole, lab, zones, peers, directory, sentinels })
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("bulkhead.toml")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// A file beside it.
    ///
    /// # Panics
    /// Panics when it cannot be written.
    pub fn candidate(&self, name: &str, config: &Config) -> String {
        let path = self.directory.join(name);
        fs::write(&path, self.text(config)).expect("a candidate is written");
        path.display().to_string()
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Writes the configuration file.
    pub fn write(&self, config: &Config) {
        self.write_text(&self.text(config));
    }

    /// What [`Scene::write`] writes.
    pub fn text(&self, config: &Config) -> String {
        config.text(&self.control(), &self.zones)
    }

    /// Writes the configuration file as it is given.
    pub fn write_text(&self, text: &str) {
        fs::write(self.config(), text).expect("the configuration is written");
    }

    /// Writes the configuration and runs the gateway.
    ///
    /// # Panics
    /// Panics when it does not come up.
    pub fn run(&mut self, config: &Config) {
        self.write(config);
        self.try_run(&[]).unwrap_or_else(|failed| panic!("{}: {}", failed.status, failed.output));
    }

    /// Runs the gateway with the configuration file as it is. Returns how long it took to be ready.
    ///
    /// # Errors
    /// How it ended instead.
    pub fn try_run(&mut self, more: &[&str]) -> Result<Duration, Failed> {
        let begun = Instant::now();
        self.gateway = Some(Gateway::start(&self.lab.gateway, Mounts::Private, &self.config(), more)?);
        Ok(begun.elapsed())
    }

    /// As [`Scene::try_run`], in these mounts.
    ///
    /// # Panics
    /// Panics when it does not come up.
    pub fn run_in(&mut self, mounts: Mounts) -> Duration {
        let begun = Instant::now();
        let started = Gateway::start(&self.lab.gateway, mounts, &self.config(), &[]);
        self.gateway = Some(started.unwrap_or_else(|failed| panic!("{}: {}", failed.status, failed.output)));
        begun.elapsed()
    }

    /// The gateway's process.
    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("the gateway runs")
    }

    /// The gateway's process, for its end.
    pub fn take_gateway(&mut self) -> Gateway {
        self.gateway.take().expect("the gateway runs")
    }

    /// The raw machine in a zone.
    pub fn peer(&self, zone: &str) -> &Peer {
        let index = self.zones.iter().position(|z| z.name == zone).expect("a zone of this name");
        &self.peers[index]
    }

    /// Makes the peer in a zone anew, after its interface was.
    pub fn reopen_peer(&mut self, zone: &str) {
        let index = self.zones.iter().position(|z| z.name == zone).expect("a zone of this name");
        self.peers[index] = Peer::new(&self.lab, &self.zones[index]);
    }

    /// The host in a zone, for ordinary sockets.
    pub fn host(&self, zone: &str) -> &Host {
        self.lab.host(zone)
    }

    /// The host's address in a zone.
    pub fn host_address(&self, zone: &str, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.host(zone).v4[0].into(),
            Family::V6 => self.host(zone).v6[0].into(),
        }
    }

    /// From one peer to another, both by their first address.
    pub fn path(&self, from: &str, to: &str, family: Family) -> Path {
        let (from, to) = (self.peer(from), self.peer(to));
        Path {
            from: from.mac,
            to: from.gateway_mac,
            source: from.address(family),
            destination: to.address(family),
            ttl: 64,
        }
    }

    /// Runs a verb of the command line against this gateway.
    pub fn cli_with(&self, args: &[&str], input: &str) -> Ran {
        let control = self.control();
        let control = control.to_str().expect("a path in UTF-8");
        gateway::run_with(&[args, &["--control", control]].concat(), input)
    }

    /// Runs a verb of the command line against the gateway.
    pub fn cli(&self, args: &[&str]) -> Ran {
        let control = self.control();
        gateway::run(&[args, &["--control", control.to_str().expect("a path of text")]].concat())
    }

    /// The JSON that a verb prints.
    ///
    /// # Panics
    /// Panics when it fails.
    pub fn json(&self, args: &[&str]) -> Value {
        let ran = self.cli(&[args, &["-o", "json"]].concat());
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error} in {}", ran.stdout))
    }

    /// `status -o json`.
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// Writes a configuration and puts it in force. Returns its generation.
    ///
    /// # Panics
    /// Panics when it is refused.
    pub fn reload(&self, config: &Config) -> u64 {
        self.write(config);
        number(&self.json(&["reload"]), "generation")
    }

    /// `drops -o json`: every reason with its count, group and explanation.
    pub fn drop_rows(&self) -> Vec<Value> {
        self.json(&["drops"])["drops"].as_array().expect("a list of reasons").clone()
    }

    /// Dropped packets by reason, without those that are zero.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let rows = self.drop_rows();
        rows.iter().map(|row| (text(row, "reason"), number(row, "packets"))).filter(|row| row.1 > 0).collect()
    }

    /// How many more packets were dropped for each reason, once these were; reasons in which the kernels' chatter
    /// counts are left out unless expected.
    ///
    /// # Panics
    /// Panics when anything else was dropped, or less.
    pub fn expect_drops(&self, before: &BTreeMap<String, u64>, expected: &[(&str, u64)]) {
        self.wait_for_drops(before, expected, |dropped, expected| dropped == expected);
    }

    /// As [`Scene::expect_drops`] for reasons that the kernels' chatter counts under as well (listener reports are
    /// `icmp_type_denied`): of these there may be more.
    ///
    /// # Panics
    /// Panics when anything else was dropped, or less.
    pub fn expect_at_least(&self, before: &BTreeMap<String, u64>, expected: &[(&str, u64)]) {
        self.wait_for_drops(before, expected, |dropped, expected| dropped >= expected);
    }

    fn wait_for_drops(
        &self,
        before: &BTreeMap<String, u64>,
        expected: &[(&str, u64)],
        enough: impl Fn(u64, u64) -> bool,
    ) {
        let groups: BTreeMap<String, String> =
            self.drop_rows().iter().map(|row| (text(row, "reason"), text(row, "group"))).collect();
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut moved = self.drops();
            moved.retain(|reason, count| {
                *count -= before.get(reason).copied().unwrap_or(0);
                let noise = NOISY_GROUPS.contains(&groups[reason].as_str());
                *count > 0 && (!noise || expected.contains_key(reason))
            });
            let matches = |(reason, count): (&String, &u64)| {
                moved.get(reason).is_some_and(|dropped| enough(*dropped, *count))
            };
            if expected.len() == moved.len() && expected.iter().all(matches) {
                return;
            }
            assert!(Instant::now() < deadline, "dropped {moved:?} instead of {expected:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What arrived at a peer until now: sends a sentinel after everything that another peer has sent, on the same
    /// way, and returns what came before it. So that something does not arrive needs no waiting.
    ///
    /// # Panics
    /// Panics when the sentinel does not cross.
    pub fn arrived(&self, from: &str, to: &str) -> Vec<Packet> {
        let frames = self.arrived_frames(from, to);
        frames.iter().filter_map(|frame| Packet::parse(frame)).filter(|packet| !packet.is_noise()).collect()
    }

    /// As [`Scene::arrived`], in frames of whatever kind, without earlier sentinels.
    pub fn arrived_frames(&self, from: &str, to: &str) -> Vec<Vec<u8>> {
        let payload = format!("sentinel {}", self.sentinels.fetch_add(1, Ordering::Relaxed)).into_bytes();
        self.peer(from).send(&self.path(from, to, Family::V4).udp(SENTINEL, SENTINEL, &payload));
        let deadline = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        while let Some(frame) = self.peer(to).frame(deadline.saturating_duration_since(Instant::now())) {
            match Packet::parse(&frame) {
                Some(packet) if packet.is_udp_to(SENTINEL) && packet.payload() == payload => return before,
                Some(packet) if packet.is_udp_to(SENTINEL) => {}
                _ => before.push(frame),
            }
        }
        panic!("the sentinel from {from} did not arrive in {to}, but {before:02x?}");
    }

    /// Checks that nothing arrived at a peer until now, see [`Scene::arrived`].
    ///
    /// # Panics
    /// Panics when something did.
    pub fn nothing_arrived(&self, from: &str, to: &str) {
        let arrived = self.arrived(from, to);
        assert!(arrived.is_empty(), "arrived in {to}: {arrived:#?}");
    }

    /// Sends a frame from one peer and waits for it at another; it must come out with the hop count one lower and
    /// otherwise the same.
    pub fn crosses(&self, from: &str, to: &str, frame: &[u8]) -> Packet {
        let sent = Packet::parse(frame).expect("an IP packet");
        self.peer(from).send(frame);
        let arrived = self.peer(to).expect(&format!("{sent:?}"), |packet| {
            (packet.source, packet.destination, &packet.content)
                == (sent.source, sent.destination, &sent.content)
        });
        assert_eq!(arrived.ttl, sent.ttl - 1);
        assert_eq!(arrived.from, self.peer(to).gateway_mac);
        arrived
    }

    /// As [`Scene::crosses`], byte by byte (but for the hop count and what depends on it) and also for frames that
    /// [`Packet`] knows nothing of. Returns the frame that came out.
    ///
    /// # Panics
    /// Panics when it does not come out, or not as it went in.
    pub fn crosses_unchanged(&self, from: &str, to: &str, frame: &[u8]) -> Vec<u8> {
        self.peer(from).send(frame);
        let wanted = craft::essence(frame);
        let came = self.arrived_frames(from, to);
        let is_it = |other: &&Vec<u8>| other.len() >= 34 && craft::essence(other).starts_with(&wanted);
        let found = came.iter().find(is_it);
        found.unwrap_or_else(|| panic!("{frame:02x?} did not cross, but {came:02x?}")).clone()
    }

    /// As [`Scene::crosses_unchanged`], for frames in which checksums are wrong on purpose: so the frames that arrive are
    /// not parsed until the sentinel is among them.
    ///
    /// # Panics
    /// Panics when it does not come out, or not as it went in.
    pub fn crosses_frame(&self, from: &str, to: &str, frame: &[u8]) {
        self.peer(from).send(frame);
        let wanted = craft::essence(frame);
        let deadline = Instant::now() + PATIENCE;
        while let Some(other) = self.peer(to).frame(deadline.saturating_duration_since(Instant::now())) {
            if other.len() >= 34 && craft::essence(&other).starts_with(&wanted) {
                return;
            }
        }
        panic!("{frame:02x?} did not cross");
    }

    /// Sends a frame from one peer and checks that it does not come out at another.
    pub fn stays_out(&self, from: &str, to: &str, frame: &[u8]) {
        self.peer(from).send(frame);
        self.nothing_arrived(from, to);
    }

    /// Opens a TCP connection between two peers, segment by segment.
    pub fn open_tcp(&self, from: &str, to: &str, family: Family, ports: (u16, u16)) -> Tcp<'_> {
        let there = Side { zone: from.to_owned(), path: self.path(from, to, family), ports, next: 1000 };
        let back = Side {
            zone: to.to_owned(),
            path: self.path(to, from, family),
            ports: (ports.1, ports.0),
            next: 5000,
        };
        let mut tcp = Tcp { scene: self, sides: [there, back] };
        tcp.crosses(0, flags::SYN, b"");
        tcp.crosses(1, flags::SYN | flags::ACK, b"");
        tcp.crosses(0, flags::ACK, b"");
        tcp
    }

    /// Checks the ledger (promise P4) once everything on the way has been counted.
    ///
    /// # Panics
    /// Panics when it does not balance to the packet.
    pub fn check_ledger(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            match ledger_fault(&status, self.check) {
                None => return,
                // Between two readings packets go on, and the sockets are asked for their losses every 100 ms.
                Some(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Some(fault) => panic!("the ledger: {fault}\n{status:#}"),
            }
        }
    }
}

struct Side {
    zone: String,
    path: Path,
    ports: (u16, u16),
    /// The next sequence number to send.
    next: u32,
}

/// A TCP connection of raw segments: side 0 has opened it, side 1 has accepted it.
pub struct Tcp<'s> {
    scene: &'s Scene,
    sides: [Side; 2],
}

impl Tcp<'_> {
    /// The next segment of a side. Sending it is up to the caller; what counts in sequence space counts as sent.
    pub fn segment(&mut self, side: usize, flags: u8, payload: &[u8]) -> Vec<u8> {
        let ack = if flags & flags::ACK == 0 { 0 } else { self.sides[1 - side].next };
        let sender = &mut self.sides[side];
        let frame = sender.path.tcp(sender.ports, segment(flags, sender.next, ack), payload);
        sender.next += payload.len() as u32 + u32::from(flags & (flags::SYN | flags::FIN) != 0);
        frame
    }

    /// A segment that is off by this much in sequence space; it counts as never sent.
    pub fn segment_off_by(&self, side: usize, offset: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let sender = &self.sides[side];
        let seq = sender.next.wrapping_add(offset);
        sender.path.tcp(sender.ports, segment(flags, seq, self.sides[1 - side].next), payload)
    }

    /// Sends the next segment of a side; it must cross.
    pub fn crosses(&mut self, side: usize, flags: u8, payload: &[u8]) -> Packet {
        let frame = self.segment(side, flags, payload);
        self.scene.crosses(&self.sides[side].zone, &self.sides[1 - side].zone, &frame)
    }

    /// Sends a frame as a side; it must not cross.
    pub fn stays_out(&self, side: usize, frame: &[u8]) {
        self.scene.stays_out(&self.sides[side].zone, &self.sides[1 - side].zone, frame);
    }

    /// Data in either direction crosses.
    pub fn talks(&mut self) {
        for side in [0, 1] {
            self.crosses(side, flags::ACK | flags::PSH, b"some data");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.gateway.is_some() && self.check != Check::Nothing {
            self.check_ledger();
        }
        // Before the directory with its socket; the namespaces follow by themselves.
        self.gateway = None;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What is wrong with the ledger in a status.
fn ledger_fault(status: &Value, check: Check) -> Option<String> {
    let total = &status["ledger"];
    let workers = status["worker_ledgers"].as_array().expect("a ledger for each worker");
    for ledger in workers.iter().chain([total]) {
        let [received, forwarded, dropped, held] =
            ["received", "forwarded", "dropped", "held"].map(|key| number(ledger, key));
        if received != forwarded + dropped + held || ledger["balanced"] != true {
            return Some(format!("{received} ≠ {forwarded} + {dropped} + {held}"));
        }
    }
    let sum = |rows: &[Value], key: &str| rows.iter().map(|row| number(row, key)).sum::<u64>();
    for key in ["received", "forwarded", "dropped", "held", "answered"] {
        if sum(workers, key) != number(total, key) {
            return Some(format!("the workers' {key} do not add up"));
        }
    }
    let ports = status["ports"].as_array().expect("a list of ports");
    for port in ports {
        let [received, to_host, to_worker, no_worker] =
            ["received", "to_host", "to_worker", "no_worker"].map(|key| number(port, key));
        if received != to_host + to_worker + no_worker {
            return Some(format!("{} ≠ {to_host} + {to_worker} + {no_worker} at {}", received, port["name"]));
        }
    }
    let to_worker = sum(ports, "to_worker");
    let lost = sum(ports, "rx_ring_full") + sum(ports, "rx_dropped");
    let received = number(total, "received");
    (check == Check::Whole && to_worker != received + lost)
        .then(|| format!("{to_worker} went to workers, {received} were received and {lost} lost"))
}

/// A number in a JSON object.
///
/// # Panics
/// Panics when there is none.
pub fn number(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {object:#}"))
}

/// A text in a JSON object.
///
/// # Panics
/// Panics when there is none.
pub fn text(object: &Value, key: &str) -> String {
    object[key].as_str().unwrap_or_else(|| panic!("no text {key} in {object:#}")).to_owned()
}
