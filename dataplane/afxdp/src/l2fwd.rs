//! The bare forwarder: whatever comes in by one socket goes out by the other, uncopied. It decides nothing, so it is the
//! yardstick for anything that does.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::socket::Socket;
use crate::sys;
use crate::umem::Frame;

/// Packets handled together.
const BURST: usize = 64;
/// How long an idle forwarder without busy polling sleeps before it looks at `stop` again.
const IDLE_MS: i32 = 100;

/// How to forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Run the drivers' NAPI from here when idle, instead of sleeping in poll(2).
    pub busy_poll: bool,
    /// New destination addresses of what leaves by the first and by the second socket.
    pub rewrite_destination: Option<[[u8; 6]; 2]>,
}

/// What one direction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets received.
    pub received: u64,
    /// Packets the kernel took for sending.
    pub forwarded: u64,
    /// Packets dropped because the other socket's TX ring was full.
    pub dropped: u64,
}

/// Forwards between two sockets of one memory until `stop`: the counts of first to second and of second to first.
///
/// Before it returns it tries to send what is queued; what a device does not take within about a second is not counted
/// as forwarded. Errs when a device vanishes.
pub fn run<'u>(
    first: &mut Socket<'u>,
    second: &mut Socket<'u>,
    options: Options,
    stop: &AtomicBool,
) -> Result<[Counts; 2], Error> {
    let mut counts = [Counts::default(); 2];
    let mut burst = Vec::with_capacity(BURST);
    let [to_first, to_second] = match options.rewrite_destination {
        Some([first, second]) => [Some(first), Some(second)],
        None => [None, None],
    };
    while !stop.load(Ordering::Relaxed) {
        let mut moved = forward(first, second, to_second, &mut burst, &mut counts[0])?;
        moved += forward(second, first, to_first, &mut burst, &mut counts[1])?;
        if moved > 0 {
            continue;
        }
        if options.busy_poll {
            first.kick_rx()?;
            second.kick_rx()?;
        } else {
            sleep(first, second)?;
        }
    }
    for (socket, count) in [second, first].into_iter().zip(&mut counts) {
        for _ in 0..1000 {
            socket.flush()?;
            if socket.pending() == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        count.forwarded -= u64::from(socket.pending());
    }
    Ok(counts)
}

/// One burst in one direction; how many packets came.
fn forward<'u>(
    from: &mut Socket<'u>,
    to: &mut Socket<'u>,
    destination: Option<[u8; 6]>,
    burst: &mut Vec<Frame<'u>>,
    counts: &mut Counts,
) -> Result<usize, Error> {
    let received = from.receive(burst, BURST);
    counts.received += received as u64;
    for mut frame in burst.drain(..) {
        if let Some(address) = destination
            && let Some(place) = frame.first_chunk_mut::<6>()
        {
            *place = address;
        }
        match to.send(frame) {
            Ok(()) => counts.forwarded += 1,
            Err(_) => counts.dropped += 1,
        }
    }
    // Also without new packets: a tail the device refused earlier goes out as soon as it can.
    to.flush()?;
    Ok(received)
}

/// Sleeps until a packet comes, or briefly where packets wait to be sent.
fn sleep<'u>(first: &mut Socket<'u>, second: &mut Socket<'u>) -> Result<(), Error> {
    let pending = first.pending() + second.pending() > 0;
    let timeout_ms = if pending { 1 } else { IDLE_MS };
    let ready = sys::poll([first.as_fd(), second.as_fd()], libc::POLLIN, timeout_ms);
    let events = ready.map_err(|errno| Error::new("wait for packets", errno))?;
    // A vanished device does not make poll return, not even with POLLERR (`xsk_poll` only looks at the rings): ask.
    // Beside traffic, sending to it tells.
    if events == [0; 2] {
        first.check()?;
        second.check()?;
    }
    Ok(())
}
