//! CPU time, from /proc/stat: whole CPUs, so that softirqs on behalf of nobody are counted too. On a machine that does
//! something else at the same time, so is that.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// How long these CPUs have been busy since the start of the machine, each CPU once.
pub fn busy(cpus: &[usize]) -> Result<Duration> {
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as u64;
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    let ticks: u64 = cpus.iter().filter_map(|cpu| ticks_of(&stat, *cpu)).sum();
    Ok(Duration::from_millis(ticks * 1000 / ticks_per_second))
}

/// user + nice + system + irq + softirq (proc(5)); not idle, not waiting, not stolen by the host.
fn ticks_of(stat: &str, cpu: usize) -> Option<u64> {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(name.as_str()))?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    Some([0, 1, 2, 5, 6].iter().filter_map(|&index| fields.get(index)).sum())
}

/// Keeps the calling thread on a CPU. One that does not exist leaves the choice to the scheduler.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    let _ = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_not_busy_and_cpu_1_is_not_cpu_10() {
        let stat = "cpu  9 9 9 9 9 9 9 9\ncpu10 7 7 7 7 7 7 7 7\ncpu1 1 2 4 1000 1000 8 16 1000 0 0\n";
        assert_eq!(ticks_of(stat, 1), Some(1 + 2 + 4 + 8 + 16));
        assert_eq!(ticks_of(stat, 2), None);
    }
}
