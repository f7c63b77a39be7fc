//! How times are taken and told.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time on the CPU of this thread.
pub fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}

/// What work returns, and the time that it took on the CPU of this thread.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = cpu();
    let result = work();
    (result, cpu() - start)
}

/// The value below which this share of them lies; 0.5 for the median.
///
/// # Panics
/// Panics when there is none.
pub fn at(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}
