//! The rules' counters on disk: read at the start, written once a minute and when the gateway stops.
//!
//! A thread of its own writes them, for a disk may be slow. In the first minute of a run it writes more often, so that a
//! gateway that dies soon after every start loses little: at most half of what it counted in this run, and never more
//! than a minute of it.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bulkhead_dataplane::snapshot::ActivePolicy;

use super::gateway::{Gateway, lock};
use super::generations::Names;
use super::totals::Totals;
use crate::store::CounterFile;

/// How often they are written.
const INTERVAL: Duration = Duration::from_secs(60);
/// How soon after the start for the first time.
const FIRST: Duration = Duration::from_secs(1);
/// Of very many rules they are written so much less often that this is not exceeded, bytes a second.
const PACE: u64 = 250_000;

/// What the gateway needs for it.
#[derive(Default)]
pub struct Counting {
    file: Mutex<Option<CounterFile>>,
}

/// How long to wait after so many bytes were written, this long after the start.
fn pause(uptime: Duration, bytes: u64) -> Duration {
    uptime.clamp(FIRST, INTERVAL).max(Duration::from_secs(bytes / PACE))
}

impl Gateway {
    /// Adds what earlier runs counted, as soon as the state directory can be used, and begins to write there.
    pub fn recall_counters(&self) {
        let Some(file) = self.lifecycle.counters() else { return };
        match file.read() {
            Ok(Some(earlier)) => self.totals().recall(earlier),
            Ok(None) => {}
            Err(why) => self.alarm(format!(
                "{} is damaged: {why}; the counters of rules begin anew, and what was used before is not known",
                file.path().display()
            )),
        }
        *lock(&self.counting.file) = Some(file);
        // At once: should the gateway be killed, the next one sees that it did not stop in order. What fails is tried again
        // in a second, and told then.
        let _ = self.save_counters();
    }

    /// Writes the counters. Returns how many bytes that took.
    ///
    /// # Errors
    ///
    /// They may not last, in words.
    fn save_counters(&self) -> Result<u64, String> {
        let mut slot = lock(&self.counting.file);
        let Some(file) = slot.as_mut() else { return Ok(0) };
        let all = {
            // Nothing is published while they are held, so the names fit the counters.
            let mut totals = self.totals();
            let policy = self.engine.snapshot().policy.clone();
            let Some(names) = self.names(policy.generation) else { return Ok(0) };
            totals.all(&names, &policy.counters)
        };
        file.write(&all).map_err(|error| not_written(file, &error))
    }
}

fn not_written(file: &CounterFile, error: &io::Error) -> String {
    let path = file.path().display();
    format!("{path} cannot be written, so a restart forgets what rules have counted since: {error}")
}

/// The thread that writes.
pub struct Saver {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Saver {
    /// Starts it.
    pub fn start(gateway: &Arc<Gateway>) -> io::Result<Saver> {
        let (stop, stopping) = mpsc::channel();
        let gateway = gateway.clone();
        let thread = std::thread::Builder::new().name("counters".to_owned()).spawn(move || {
            let begun = Instant::now();
            let (mut bytes, mut told) = (0, None);
            while let Err(RecvTimeoutError::Timeout) = stopping.recv_timeout(pause(begun.elapsed(), bytes)) {
                if lock(&gateway.counting.file).is_none() {
                    gateway.recall_counters();
                    continue;
                }
                let saved = gateway.save_counters();
                bytes = *saved.as_ref().unwrap_or(&0);
                // A lasting trouble is told once.
                let trouble = saved.err();
                if let Some(why) = trouble.as_ref().filter(|_| trouble != told) {
                    gateway.alarm(why.clone());
                }
                told = trouble;
            }
        })?;
        Ok(Saver { stop, thread })
    }

    /// Ends it; when this returns, nothing more is written.
    pub fn stop(self) {
        drop(self.stop);
        // A panic in it was told on standard error.
        let _ = self.thread.join();
    }
}

/// What is left to be written once the workers have stopped and count no more.
pub struct Last {
    file: Option<CounterFile>,
    totals: Totals,
    names: Arc<Names>,
    policy: Arc<ActivePolicy>,
}

impl Last {
    /// Of a gateway that is about to stop its workers.
    pub fn of(gateway: &mut Gateway) -> Option<Last> {
        let policy = gateway.engine.snapshot().policy.clone();
        let names = gateway.names(policy.generation)?;
        let file = lock(&gateway.counting.file).take();
        let empty = Totals::new(&names, gateway.engine.now(), SystemTime::now());
        let totals = std::mem::replace(&mut *gateway.totals(), empty);
        Some(Last { file, totals, names, policy })
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// It may not last, in words.
    pub fn save(self) -> Result<(), String> {
        let Last { file, mut totals, names, policy } = self;
        let Some(mut file) = file else { return Ok(()) };
        let mut all = totals.all(&names, &policy.counters);
        all.ended = true;
        file.write(&all).map(drop).map_err(|error| not_written(&file, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_loses_at_most_half_of_what_it_counted_and_never_more_than_a_minute() {
        let at = |uptime_s, bytes| pause(Duration::from_secs(uptime_s), bytes).as_secs();
        let paces: Vec<u64> = [0, 1, 2, 4, 30, 60, 3600].into_iter().map(|uptime| at(uptime, 0)).collect();
        assert_eq!(paces, [1, 1, 2, 4, 30, 60, 60]);
        // 10,000 rules of 150 bytes; a million.
        assert_eq!((at(3600, 1_500_000), at(3600, 150_000_000)), (60, 600));
    }
}
