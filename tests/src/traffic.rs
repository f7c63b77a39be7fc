//! Frames sent in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bulkhead::lab::{Host, RawPort};

/// A thread that sends frames until it is stopped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Sends what `make` gives for 0, 1, 2, …, with this pause after each.
    pub fn start(host: &Host, pause: Duration, make: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Traffic {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let port = RawPort::open(&host.namespace, host.interface).expect("a raw port opens");
        let (stopped, count) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                port.send(&make(count.load(Ordering::Relaxed))).expect("a frame is sent");
                count.fetch_add(1, Ordering::Release);
                std::thread::sleep(pause);
            }
        });
        Traffic { stop, sent, thread: Some(thread) }
    }

    /// How many frames have been sent, that is the number of the one that is sent next or just now.
    pub fn sent(&self) -> u32 {
        self.sent.load(Ordering::Acquire)
    }

    /// Waits until so many more have been sent.
    pub fn wait_for_more(&self, frames: u32) {
        let goal = self.sent() + frames;
        crate::wait_until("more traffic is sent", || self.sent() >= goal);
    }

    /// Stops; returns how many frames were sent.
    pub fn stop(mut self) -> u32 {
        self.join();
        self.sent()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A failure inside was told on standard error, and the scenario then lacks packets.
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.join();
    }
}
