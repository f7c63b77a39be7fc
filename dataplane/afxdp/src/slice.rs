//! How long the kernel's scheduler lets a thread run before others have their turn.

use std::io;
use std::time::Duration;

/// Has the calling thread, and those that it starts, run for so long at once (Linux 6.12; 0.1 to 100 ms), or as long as
/// the kernel thinks fit with [`Duration::ZERO`]. It gets no more of the processor than before; but who needs it for a
/// short time only, and says so, has it sooner when all are busy (EEVDF: the earlier deadline goes first). Older kernels
/// do as if nothing was said, and so does this for threads that have a real-time policy. Refused, all stays as it is.
pub fn prefer_time_slice(length: Duration) {
    let Ok(attributes) = attributes() else { return };
    if attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return;
    }
    let sched_runtime = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    let attributes = libc::sched_attr { sched_runtime, ..attributes };
    // SAFETY: the kernel reads the structure, as many bytes as its `size` says, which are all of it.
    unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}

/// Those of the calling thread.
fn attributes() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes, which the structure has.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if done == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_the_slice_that_it_asks_for_and_leaves_it_to_those_that_it_starts() {
        let runtime = || attributes().unwrap().sched_runtime;
        let ours = runtime();
        if ours == 0 {
            eprintln!("SKIP: this kernel has no slices of one's own (Linux 6.12)");
            return;
        }
        std::thread::spawn(move || {
            prefer_time_slice(Duration::from_micros(300));
            assert_eq!(runtime(), 300_000);
            std::thread::spawn(move || {
                assert_eq!(runtime(), 300_000);
                prefer_time_slice(Duration::ZERO);
                assert_eq!(runtime(), ours);
            })
            .join()
            .unwrap();
            assert_eq!(runtime(), 300_000);
        })
        .join()
        .unwrap();
        assert_eq!(runtime(), ours);
    }
}
