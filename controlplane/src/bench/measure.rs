//! One measurement of one forwarder.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use afxdp::source::Source;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::forwarder::{Kind, Running};
use super::site::{CONNECTIONS, FIRST_PORT, HOST, Site, frame};
use super::{Options, cpu};
use crate::lab::RawPort;

/// Packets of the first, short run of the source, which tells how many a second it sends.
const TRIAL_PACKETS: u32 = 300_000;
/// What the kernel needs to start a source is not measured, nor is the filling of rings.
const WARM_UP: Duration = Duration::from_millis(150);
/// How often the end of a measurement is looked for.
const TICK: Duration = Duration::from_millis(2);
/// How long packets may take to arrive after the last was sent.
const DRAIN: Duration = Duration::from_secs(3);
/// The longest single run of the source, packets: half a minute at the least rate seen.
const MOST_PACKETS: f64 = 20e6;

/// What one measurement gave.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Packets that arrived at the sink while it was measured.
    pub packets: u64,
    /// How long that was.
    pub time: Duration,
    /// CPU time of both CPUs in that time.
    pub cpu: Duration,
    /// Packets the source sent a second.
    pub offered_per_second: f64,
    /// All that arrived at the sink or the source while the forwarder ran, the opening of connections included.
    pub arrived: u64,
    /// What the forwarder says it forwarded, where it says so.
    pub claimed: Option<u64>,
}

impl Sample {
    /// Throughput.
    pub fn packets_per_second(&self) -> f64 {
        self.packets as f64 / self.time.as_secs_f64()
    }

    /// CPU time of both CPUs per forwarded packet, nanoseconds, the source's share included.
    pub fn cpu_ns_per_packet(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.packets as f64
    }

    /// What is wrong between the forwarder's count and what arrived.
    pub(super) fn difference(&self) -> Option<String> {
        let claimed = self.claimed.filter(|&claimed| claimed != self.arrived)?;
        Some(format!("says it forwarded {claimed} packets, and {} arrived", self.arrived))
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "packets": self.packets,
            "seconds": self.time.as_secs_f64(),
            "packets_per_second": self.packets_per_second(),
            "offered_per_second": self.offered_per_second,
            "cpu_ns_per_packet": self.cpu_ns_per_packet(),
            "arrived_in_all": self.arrived,
            "forwarded_in_all": self.claimed,
        })
    }
}

/// Starts the forwarder, opens the connections, sends, measures, stops the forwarder.
pub fn measure(site: &Site, kind: Kind, options: &Options) -> Result<Sample> {
    let before = site.arrived()?;
    let running = Running::start(site, kind, options).with_context(|| format!("starting {}", kind.name()))?;
    let traffic = establish(site)
        .and_then(|()| running.check_connections())
        .and_then(|()| load(site, options))
        .and_then(|load| settle(site).map(|arrived| (load, arrived)));
    // Stopped also when the traffic failed, so that the next forwarder finds the site as it was.
    let claimed = running.stop(site, kind);
    let (load, after) = traffic.with_context(|| format!("measuring {}", kind.name()))?;
    if load.packets == 0 {
        let (offered, time) = (load.offered_per_second, load.time);
        bail!("{} forwarded none of {offered:.0} packets a second within {time:?}", kind.name());
    }
    let arrived = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    Ok(Sample {
        packets: load.packets,
        time: load.time,
        cpu: load.cpu,
        offered_per_second: load.offered_per_second,
        arrived,
        claimed: claimed.with_context(|| format!("stopping {}", kind.name()))?,
    })
}

/// One packet there and one back on every connection.
fn establish(site: &Site) -> Result<()> {
    let before = site.arrived()?;
    for (end, reply, index) in [(&site.source, false, 0), (&site.sink, true, 1)] {
        let port = RawPort::open(end, HOST)?;
        for number in 0..CONNECTIONS {
            port.send(&frame(FIRST_PORT + number, reply))?;
            // Slower than any forwarder: a lost packet is a connection missing.
            if number % 50 == 49 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let deadline = Instant::now() + DRAIN;
        while site.arrived()?[index] - before[index] < u64::from(CONNECTIONS) {
            if Instant::now() > deadline {
                let arrived = site.arrived()?[index] - before[index];
                bail!("of {CONNECTIONS} packets to open connections {arrived} arrived (replies: {reply})");
            }
            std::thread::sleep(TICK);
        }
    }
    Ok(())
}

struct Load {
    packets: u64,
    time: Duration,
    cpu: Duration,
    offered_per_second: f64,
}

/// Sends as fast as can be, and measures in the middle of it.
fn load(site: &Site, options: &Options) -> Result<Load> {
    let (started, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let offered = Mutex::new(Ok(0.0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let rate = send(site, options, &started);
            *offered.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = rate;
            done.store(true, Ordering::Release);
            started.store(true, Ordering::Release);
        });
        while !started.load(Ordering::Acquire) {
            std::thread::sleep(TICK);
        }
        std::thread::sleep(WARM_UP);
        let (begun, [first, _], busy) = (Instant::now(), site.arrived()?, cpu::busy(&options.cpus)?);
        while begun.elapsed() < options.duration && !done.load(Ordering::Acquire) {
            std::thread::sleep(TICK);
        }
        let (time, [last, _], busy_then) = (begun.elapsed(), site.arrived()?, cpu::busy(&options.cpus)?);
        while !done.load(Ordering::Acquire) {
            std::thread::sleep(TICK);
        }
        let offered_per_second =
            std::mem::replace(&mut *offered.lock().unwrap_or_else(|p| p.into_inner()), Ok(0.0))?;
        Ok(Load { packets: last - first, time, cpu: busy_then - busy, offered_per_second })
    })
}

/// A short trial, then one run that lasts as long as the measurement and a little longer. Packets a second of the latter.
fn send(site: &Site, options: &Options, started: &AtomicBool) -> Result<f64> {
    site.source.run(|| {
        cpu::pin(options.cpus[0]);
        let source = Source::new(HOST, &frame(FIRST_PORT, false), FIRST_PORT, CONNECTIONS)?;
        let trial = source.send(TRIAL_PACKETS)?;
        let rate = f64::from(TRIAL_PACKETS) / trial.as_secs_f64();
        let wanted = rate * 1.2 * (options.duration + 2 * WARM_UP).as_secs_f64();
        let packets = wanted.clamp(f64::from(TRIAL_PACKETS), MOST_PACKETS) as u32;
        started.store(true, Ordering::Release);
        Ok(f64::from(packets) / source.send(packets)?.as_secs_f64())
    })
}

/// Waits until nothing arrives any more; what has arrived.
fn settle(site: &Site) -> Result<[u64; 2]> {
    let deadline = Instant::now() + DRAIN;
    let mut last = site.arrived()?;
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = site.arrived()?;
        if now == last {
            return Ok(now);
        }
        if Instant::now() > deadline {
            bail!("packets still arrive {DRAIN:?} after the last was sent");
        }
        last = now;
    }
}
