//! Measures how long packets of a session go on crossing after somebody has asked to revoke it, while they are sent as fast
//! as one thread can:
//!
//! ```text
//! cargo build --release -p bulkhead-tests --bins && target/release/revoke [rounds]
//! ```
//!
//! A thousand rounds by default. Needs root, and makes all its traffic in namespaces of its own.
//!
//! A packet has arrived when the kernel at the other end says so: when this program gets to read it, thousands of others may
//! be before it in the socket, and all of it shares few CPUs with the gateway.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead::api::session::{NewSession, SessionFilter};
use bulkhead::api::types::{Asked, Said};
use bulkhead::api::{Reply, Request, client};
use bulkhead::lab::RawPort;
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Family, Packet};
use bulkhead_tests::scene::Scene;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

/// The service that only the session opens.
const PORT: u16 = 5432;
/// How long packets cross before each revocation, and how long is listened after it.
const BEFORE: Duration = Duration::from_millis(10);
const AFTER: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let rounds = match std::env::args().nth(1).map(|argument| argument.parse::<usize>()).transpose() {
        Ok(rounds) => rounds.unwrap_or(1000).clamp(1, 100_000),
        Err(_) => {
            eprintln!("usage: revoke [rounds]");
            return ExitCode::from(2);
        }
    };
    let rules = allow("alice", "office", "servers", "udp/5432") + "users = \"alice\"\n";
    let Some(scene) = Scene::start(&Config::new(rules)) else { return ExitCode::FAILURE };
    let measured = measure(&scene, rounds);
    println!(
        "{rounds} revocations, {:.0} packets a second sent, {:.0} crossed",
        measured.sent, measured.crossed
    );
    println!("               {:>9} {:>9} {:>9} {:>9}", "p50", "p99", "p99.9", "most");
    for (name, times) in [("acknowledged", &measured.acknowledged), ("last packet", &measured.last)] {
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
        println!(
            "{name:<14} {:>6.2} ms {:>6.2} ms {:>6.2} ms {:>6.2} ms",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
    ExitCode::SUCCESS
}

/// Ascending times since a revocation was asked for.
struct Measured {
    /// Until it was acknowledged.
    acknowledged: Vec<Duration>,
    /// Until the last packet arrived; nothing when none arrived after it was asked for.
    last: Vec<Duration>,
    /// Packets a second while the session lived.
    sent: f64,
    crossed: f64,
}

fn measure(scene: &Scene, rounds: usize) -> Measured {
    let path = scene.path("office", "servers", Family::V4);
    let address = path.source.to_string();
    let host = scene.host("servers");
    let arriving = RawPort::open(&host.namespace, host.interface).expect("a raw port opens");
    setsockopt(&arriving, sockopt::ReceiveTimestampns, &true).expect("Linux has it");
    let over = AtomicBool::new(false);
    // Nanoseconds of the clock on the wall.
    let last_arrival = AtomicU64::new(0);
    let (sent, arrived) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut acknowledged, mut last) = (Vec::new(), Vec::new());
    let (mut alive, mut sent_alive, mut arrived_alive) = (Duration::ZERO, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let frame = path.udp(4000, PORT, b"as fast as one thread can");
            while !over.load(Ordering::Relaxed) {
                scene.peer("office").send(&frame);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let Some((packet, at)) = receive(&arriving) else { continue };
                if packet.is_udp_to(PORT) {
                    last_arrival.store(at.as_nanos() as u64, Ordering::Relaxed);
                    arrived.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..rounds {
            begin(scene, &address);
            let (begun, was_sent, had_arrived) =
                (Instant::now(), sent.load(Ordering::Relaxed), arrived.load(Ordering::Relaxed));
            while begun.elapsed() < BEFORE || arrived.load(Ordering::Relaxed) == had_arrived {
                std::thread::sleep(Duration::from_millis(1));
            }
            alive += begun.elapsed();
            sent_alive += sent.load(Ordering::Relaxed) - was_sent;
            arrived_alive += arrived.load(Ordering::Relaxed) - had_arrived;
            let (asked, asked_at) = (Instant::now(), wall());
            revoke(scene);
            acknowledged.push(asked.elapsed());
            std::thread::sleep(AFTER);
            let arrival = Duration::from_nanos(last_arrival.load(Ordering::Relaxed));
            last.push(arrival.saturating_sub(asked_at));
        }
        over.store(true, Ordering::Relaxed);
    });
    acknowledged.sort_unstable();
    last.sort_unstable();
    let rate = |count: u64| count as f64 / alive.as_secs_f64();
    Measured { acknowledged, last, sent: rate(sent_alive), crossed: rate(arrived_alive) }
}

/// The next packet within ten milliseconds, and when the kernel took it in.
fn receive(port: &RawPort) -> Option<(Packet, Duration)> {
    let (mut frame, mut control) = ([0; 2048], nix::cmsg_space!(TimeSpec));
    let mut parts = [IoSliceMut::new(&mut frame)];
    let socket = port.as_fd().as_raw_fd();
    let message = match recvmsg::<()>(socket, &mut parts, Some(&mut control), MsgFlags::empty()) {
        Err(Errno::EAGAIN | Errno::EINTR) => {
            let waiting = &mut [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
            poll(waiting, PollTimeout::from(10_u8)).expect("it can be waited for");
            return None;
        }
        message => message.expect("the raw port works"),
    };
    let stamp = message.cmsgs().expect("there was room").find_map(|part| match part {
        ControlMessageOwned::ScmTimestampns(at) => Some(at.into()),
        _ => None,
    });
    let length = message.bytes;
    Some((Packet::parse(&frame[..length])?, stamp.expect("the socket stamps its packets")))
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later")
}

fn ask(control: PathBuf, request: &Request) -> Reply {
    let mut answer = client::ask(&control, request).expect("the gateway runs");
    answer.read().expect("it does what is asked").expect("it answers")
}

fn begin(scene: &Scene, address: &str) {
    let asked = Asked { user: Some("alice".to_owned()), ..Asked::default() };
    let new =
        NewSession { address: address.to_owned(), asked, lasts: "1h".to_owned(), ..NewSession::default() };
    ask(scene.control(), &Request::BeginSession { new, said: Said::default() });
}

fn revoke(scene: &Scene) {
    let filter = SessionFilter { user: Some("alice".to_owned()), ..SessionFilter::default() };
    let reply = ask(scene.control(), &Request::RevokeSessions { filter, all: false, said: Said::default() });
    assert_eq!(reply, Reply::Revoked(1));
}
