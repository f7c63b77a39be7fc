//! A gateway with two workers, and what comes to which of them.

use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Barrier};

use bulkhead::lab::{Host, RawPort};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::config::{Config, allow};
use crate::frames::{Family, Path};
use crate::scene::{Scene, office_and_servers};

/// Two CPUs that we may run on. `None`, and a line that says so, on a machine without.
pub fn two_cpus() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap());
    let cpus = cpus.next().zip(cpus.next()).map(|(first, second)| [first, second]);
    if cpus.is_none() {
        let _ = writeln!(std::io::stderr(), "SKIP two workers: needs two CPUs");
    }
    cpus
}

/// Has a host send by one queue from these CPUs and by the other from those (transmit packet steering,
/// Documentation/networking/scaling.rst); by itself a veth would choose the same queue for both directions of a
/// connection. The gateway's end receives by the queue of the same number.
pub fn steer(host: &Host, by_queue: [&[usize]; 2]) {
    host.namespace.run_with_sysfs(|| {
        for (queue, cpus) in by_queue.into_iter().enumerate() {
            let file = format!("/sys/class/net/{}/queues/tx-{queue}/xps_cpus", host.interface);
            std::fs::write(file, mask(cpus)).unwrap();
        }
    });
}

/// A set of CPUs as the kernel reads it: hexadecimal words of 32 bits, the highest first.
fn mask(cpus: &[usize]) -> String {
    let mut words = vec![0u32; cpus.iter().max().map_or(0, |cpu| cpu / 32) + 1];
    cpus.iter().for_each(|cpu| words[cpu / 32] |= 1 << (cpu % 32));
    let words: Vec<_> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
    words.join(",")
}

pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// Two workers, and a rule that opens these services both ways.
pub fn two_workers(services: &str) -> Option<(Scene, [usize; 2])> {
    let cpus = two_cpus()?;
    let mut zones = office_and_servers();
    zones.iter_mut().for_each(|zone| zone.queues = 2);
    let mut scene = Scene::build(zones)?;
    for zone in ["office", "servers"] {
        steer(scene.host(zone), [&cpus[..1], &cpus[1..]]);
    }
    let rules = allow("there", "office", "servers", services) + &allow("back", "servers", "office", services);
    scene.run(&Config { workers: 2, sentinels: false, ..Config::new(rules) });
    Some((scene, cpus))
}

/// For each of these ports, both peers send the frame that `make` gives for their way and the port at the same moment,
/// each to a worker of its own.
///
/// # Panics
/// Panics when a frame cannot be sent.
pub fn both_at_once(
    scene: &Scene,
    cpus: [usize; 2],
    family: Family,
    ports: Range<u16>,
    make: impl Fn(&Path, u16) -> Vec<u8> + Sync,
) {
    let barrier = Arc::new(Barrier::new(2));
    std::thread::scope(|scope| {
        for ((from, to), cpu) in [("office", "servers"), ("servers", "office")].into_iter().zip(cpus) {
            let (barrier, path, ports) = (barrier.clone(), scene.path(from, to, family), ports.clone());
            let (host, make) = (scene.host(from), &make);
            scope.spawn(move || {
                let raw = RawPort::open(&host.namespace, host.interface).unwrap();
                pin(cpu);
                for port in ports {
                    let frame = make(&path, port);
                    barrier.wait();
                    raw.send(&frame).unwrap();
                }
            });
        }
    });
}
