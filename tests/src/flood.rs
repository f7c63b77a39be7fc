//! Floods from forged sources, and what honest clients notice of them: figures for the requirements D2, D7 and D9.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead::lab::{Neighbours, RawPort, Zone};

use crate::config::{Config, allow};
use crate::frames::{Family, Path, flags, fragment_v4, fragment_v6, segment};
use crate::scene::{Check, Scene, number, office_and_servers};

/// Connections of either family that are established before the flood.
const ESTABLISHED: usize = 20;
/// New honest connections are tried this far apart.
const HONEST_PAUSE: Duration = Duration::from_millis(20);
/// How long an honest client waits: the kernel sends its SYN again after one second and after three.
const CLIENT_PATIENCE: Duration = Duration::from_secs(4);
/// Frames made before the flood, each of another source and port: more than may be half open.
const FRAMES: u32 = 40_000;
/// The longest wait for what a flood has left to be gone.
const AFTERMATH: Duration = Duration::from_secs(150);

/// Of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYNs.
    Syn,
    /// SYNs into a segment with SYN cookies.
    SynProtected,
    /// Datagrams without a reply.
    Udp,
    /// Echo requests without a reply.
    Icmp,
    /// First halves of datagrams.
    Fragments,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Syn, Kind::SynProtected, Kind::Udp, Kind::Icmp, Kind::Fragments];
}

/// A flood to be made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of what.
    pub kind: Kind,
    /// For how long.
    pub duration: Duration,
    /// Frames per second; `None` for as many as can be sent.
    pub rate: Option<u32>,
    /// Connections of either family that fit the table; a quarter may be half open.
    pub connections: u32,
    /// `[gateway.timeouts]`, as TOML.
    pub timeouts: &'static str,
}

/// Half and nearly all of the measured times are below these.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

/// What came of a flood.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was done.
    pub plan: Plan,
    /// Frames sent.
    pub sent: u64,
    /// Of these, those that a worker took; the rest was lost before, in full rings.
    pub taken: u64,
    /// Connections established before, and those of them that do not answer any more.
    pub established: (usize, usize),
    /// New connections tried by honest clients during the flood, and those of them that failed.
    pub honest: (u64, u64),
    /// Connections before, at most during, and the most that may be.
    pub table: (u64, u64, u64),
    /// Round trips on established connections before, during and after.
    pub latency: [Latency; 3],
    /// After which time round trips took as long as before, and after which the table was as empty as before.
    pub recovered: (Duration, Duration),
    /// Resident memory of the gateway before and after, KiB.
    pub memory_kib: (u64, u64),
}

impl Report {
    /// Whether the flood did no harm that lasted: nothing established was lost, of new honest connections at most one
    /// in a thousand, and the table kept to its size.
    pub fn is_harmless(&self) -> bool {
        self.established.1 == 0 && self.honest.1 * 1000 <= self.honest.0 && self.table.1 <= self.table.2
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.plan.duration.as_secs_f64();
        let micros =
            |latency: &Latency| format!("{}/{} us", latency.p50.as_micros(), latency.p99.as_micros());
        let [before, during, after] = &self.latency;
        let (tried, failed) = self.honest;
        write!(
            f,
            "{:12} {:>8.0}/s sent, {:>8.0}/s taken | established {} of {} lost | honest new {:.2} % of {tried} | \
             table {} -> {} (limit {}) | p50/p99 {} -> {} -> {} | latency back after {:.1} s, table after {:.1} s | \
             memory {} -> {} KiB",
            format!("{:?}", self.plan.kind),
            self.sent as f64 / seconds,
            self.taken as f64 / seconds,
            self.established.1,
            self.established.0,
            100.0 * (tried - failed) as f64 / (tried as f64).max(1.0),
            self.table.0,
            self.table.1,
            self.table.2,
            micros(before),
            micros(during),
            micros(after),
            self.recovered.0.as_secs_f64(),
            self.recovered.1.as_secs_f64(),
            self.memory_kib.0,
            self.memory_kib.1,
        )
    }
}

/// Makes a flood and measures; `None` where there are no namespaces.
///
/// # Panics
/// Panics when the gateway does not come up, or something that has nothing to do with the flood fails.
pub fn run(plan: &Plan) -> Option<Report> {
    let mut zones = office_and_servers();
    zones.push(Zone {
        neighbours: Neighbours::Static,
        ..Zone::new("attackers", "10.4.0.0/16", "fd00:4::/64")
    });
    let mut scene = Scene::build(zones)?;
    scene.run(&config(plan));
    // Sockets lose frames in a flood, and are asked for how many with a delay; what workers took must balance.
    scene.check = Check::Workers;
    let stop = Arc::new(AtomicBool::new(false));
    let servers = Family::BOTH.map(|family| serve(&scene, family, &stop));
    let mut known = Known::establish(&scene);
    let idle = scene.status();
    let memory = resident_kib(&idle);
    let before = known.measure(Duration::from_secs(1).min(plan.duration));

    let frames = frames(&scene, plan.kind);
    let attacker = scene.host("attackers");
    let port = RawPort::open(&attacker.namespace, attacker.interface).expect("a raw port opens");
    let (ended, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let deadline = Instant::now() + plan.duration;
    let (during, honest, most) = std::thread::scope(|scope| {
        scope.spawn(|| send(&port, &frames, plan.rate, deadline, &sent));
        let honest = scope.spawn(|| try_new_connections(&scene, deadline));
        let most = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(Ordering::Acquire) {
                most = most.max(number(&scene.status()["connections"], "open"));
                std::thread::sleep(Duration::from_millis(200));
            }
            most
        });
        let during = known.measure(plan.duration);
        ended.store(true, Ordering::Release);
        (during, honest.join().expect("honest clients"), most.join().expect("status"))
    });
    let stopped = Instant::now();
    let latency_back = known.recovered(&before, stopped);
    let after = known.measure(Duration::from_secs(1).min(plan.duration));
    let lost = known.lost();
    let open = number(&idle["connections"], "open");
    let table_back = emptied(&scene, open + honest.0, stopped);
    let end = scene.status();
    stop.store(true, Ordering::Release);
    for (address, server) in servers {
        // It waits for a connection, and looks at the flag after one.
        let _ = scene.host("office").namespace.run(|| TcpStream::connect_timeout(&address, CLIENT_PATIENCE));
        server.join().expect("a server");
    }
    Some(Report {
        plan: *plan,
        sent: sent.load(Ordering::Relaxed),
        taken: taken(&end) - taken(&idle),
        established: (2 * ESTABLISHED, lost),
        honest,
        table: (open, most, 2 * u64::from(plan.connections)),
        latency: [before, during, after],
        recovered: (latency_back, table_back),
        memory_kib: (memory, resident_kib(&end)),
    })
}

fn config(plan: &Plan) -> Config {
    let segment = |name: &str, networks: &str, more: &str| {
        format!("[segments.{name}]\nport = \"{name}\"\nnetworks = [{networks}]\n{more}\n")
    };
    let protect = if plan.kind == Kind::SynProtected { "protect = \"syn-cookies\"" } else { "" };
    let segments = segment("office", "\"10.1.0.0/24\", \"fd00:1::/64\"", "")
        + &segment("servers", "\"10.2.0.0/24\", \"fd00:2::/64\"", protect)
        + &segment("attackers", "\"10.4.0.0/16\", \"fd00:4::/64\"", "");
    let services = "tcp/80 udp/53 icmp/echo-request icmpv6/echo-request";
    let rules =
        allow("office", "office", "servers", services) + &allow("flood", "attackers", "servers", services);
    Config {
        segments: Some(segments),
        connections: plan.connections,
        half_open_percent: 25,
        timeouts: plan.timeouts,
        ..Config::new(rules)
    }
}

/// The flood's frames: both families in turn, each of another forged source and port, to a server that stays silent.
fn frames(scene: &Scene, kind: Kind) -> Vec<Vec<u8>> {
    let paths = Family::BOTH.map(|family| scene.path("attackers", "servers", family));
    let make = |number: u32| {
        let path = paths[number as usize % 2];
        let host = number / 2;
        let source = match path.source {
            IpAddr::V4(_) => IpAddr::from((0x0a04_0100 + host % 0xf000).to_be_bytes()),
            IpAddr::V6(_) => {
                IpAddr::from((0xfd00_0004_u128 << 96 | 0x1_0000 | u128::from(host)).to_be_bytes())
            }
        };
        let path = Path { source, ..path };
        let port = 1024 + (number % 60_000) as u16;
        match kind {
            Kind::Syn | Kind::SynProtected => path.tcp((port, 80), segment(flags::SYN, number, 0), b""),
            Kind::Udp => path.udp(port, 53, b"flood"),
            Kind::Icmp => path.echo_request(port, 1),
            Kind::Fragments => {
                let whole = path.udp(port, 53, &[0; 64]);
                if number.is_multiple_of(2) { fragment_v4(whole, 0x2000) } else { fragment_v6(&whole, 1) }
            }
        }
    };
    (0..FRAMES).map(make).collect()
}

/// Sends the frames in turn until the deadline, at most so many a second.
fn send(port: &RawPort, frames: &[Vec<u8>], rate: Option<u32>, deadline: Instant, sent: &AtomicU64) {
    let begun = Instant::now();
    for frame in frames.iter().cycle() {
        let count = sent.fetch_add(1, Ordering::Relaxed);
        if count.is_multiple_of(32) {
            if Instant::now() >= deadline {
                break;
            }
            if let Some(rate) = rate {
                let due = begun + Duration::from_secs_f64(count as f64 / f64::from(rate));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        port.send(frame).expect("a frame is sent");
    }
}

/// A server in the servers' zone that sends back what it gets, and its thread.
fn serve(scene: &Scene, family: Family, stop: &Arc<AtomicBool>) -> (SocketAddr, JoinHandle<()>) {
    let address = SocketAddr::new(scene.host_address("servers", family), 80);
    let listener = scene.host("servers").namespace.run(|| TcpListener::bind(address)).expect("it listens");
    let stop = stop.clone();
    let echo = |mut stream: TcpStream| {
        let mut bytes = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
    };
    let accept = move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if stop.load(Ordering::Acquire) {
                break;
            }
            std::thread::spawn(move || echo(stream));
        }
    };
    (address, std::thread::spawn(accept))
}

fn connect(scene: &Scene, family: Family) -> io::Result<TcpStream> {
    let address = SocketAddr::new(scene.host_address("servers", family), 80);
    let stream =
        scene.host("office").namespace.run(|| TcpStream::connect_timeout(&address, CLIENT_PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    Ok(stream)
}

/// A byte there and back.
fn ping(stream: &mut TcpStream) -> io::Result<Duration> {
    let begun = Instant::now();
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(begun.elapsed())
}

/// Connects anew until the deadline; how often it was tried, and how often it failed.
fn try_new_connections(scene: &Scene, deadline: Instant) -> (u64, u64) {
    let (mut tried, mut failed) = (0, 0);
    for family in Family::BOTH.into_iter().cycle() {
        if Instant::now() >= deadline {
            break;
        }
        tried += 1;
        failed += u64::from(connect(scene, family).and_then(|mut stream| ping(&mut stream)).is_err());
        std::thread::sleep(HONEST_PAUSE);
    }
    (tried, failed)
}

/// Connections that are established before the flood.
struct Known(Vec<Option<TcpStream>>);

impl Known {
    fn establish(scene: &Scene) -> Known {
        let families = Family::BOTH.into_iter().cycle().take(2 * ESTABLISHED);
        Known(families.map(|family| Some(connect(scene, family).expect("it connects"))).collect())
    }

    /// Round trips for so long, on all of them in turn. One that does not answer is lost.
    fn measure(&mut self, duration: Duration) -> Latency {
        let deadline = Instant::now() + duration;
        let mut times = Vec::new();
        for index in (0..self.0.len()).cycle() {
            if Instant::now() >= deadline {
                break;
            }
            let Some(stream) = &mut self.0[index] else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            match ping(stream) {
                Ok(time) => times.push(time),
                Err(_) => self.0[index] = None,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Latency { p50: at(50), p99: at(99) }
    }

    /// When a median of round trips was no longer than half as much again as before.
    fn recovered(&mut self, before: &Latency, stopped: Instant) -> Duration {
        let limit = before.p50 * 3 / 2 + Duration::from_micros(50);
        while self.measure(Duration::from_millis(100)).p50 > limit && stopped.elapsed() < AFTERMATH {}
        stopped.elapsed()
    }

    fn lost(&mut self) -> usize {
        let is_lost =
            |stream: &mut Option<TcpStream>| stream.as_mut().is_none_or(|stream| ping(stream).is_err());
        self.0.iter_mut().map(is_lost).filter(|lost| *lost).count()
    }
}

/// When no more than so many connections were left, and none of them half open but the harness's own.
fn emptied(scene: &Scene, limit: u64, stopped: Instant) -> Duration {
    while number(&scene.status()["connections"], "open") > limit && stopped.elapsed() < AFTERMATH {
        std::thread::sleep(Duration::from_millis(100));
    }
    stopped.elapsed()
}

/// Frames from the attackers that workers have taken.
fn taken(status: &serde_json::Value) -> u64 {
    let ports = status["ports"].as_array().expect("a list of ports");
    let port = ports.iter().find(|port| port["name"] == "attackers").expect("their port");
    number(port, "to_worker") - number(port, "rx_ring_full") - number(port, "rx_dropped")
}

/// Resident memory of the gateway's process, KiB (proc_pid_status(5)).
fn resident_kib(status: &serde_json::Value) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", number(status, "pid"))).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
