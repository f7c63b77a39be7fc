//! One publication for all who wait for one.
//!
//! Whoever has written something and wants every worker to judge by it takes a turn, and then the lock. Whoever has the lock
//! reads the latest turn *before* it publishes, and notes it afterwards: the publication is for all turns up to that one,
//! whose owners had written what they wanted before. By cases, of an owner who gets the lock: his turn is noted, so a whole
//! publication has begun after he took it, and he need not wait for another; or it is not, and he publishes himself. So ten
//! thousand changes a second from many threads cost the workers no more than they can acknowledge anyway.

use super::lock;
use crate::sync::{AcqRel, Acquire, AtomicU64, Mutex, MutexGuard, Relaxed};

/// Turns taken, and turns published.
#[derive(Default)]
pub(super) struct Together {
    taken: AtomicU64,
    /// Changes under the lock only.
    published: AtomicU64,
}

impl Together {
    /// Returns when a publication that has begun after the call is over. What it returns with an error is not shared: each
    /// who waits tries for himself.
    pub(super) fn publish<T, E>(
        &self,
        current: &Mutex<T>,
        publish: impl FnOnce(&mut MutexGuard<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        // Release: what was written before is seen by whoever reads this turn.
        let turn = self.taken.fetch_add(1, AcqRel) + 1;
        let mut current = lock(current);
        if self.published.load(Relaxed) >= turn {
            return Ok(());
        }
        let up_to = self.taken.load(Acquire);
        publish(&mut current)?;
        self.published.store(up_to, Relaxed);
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    const THREADS: usize = 8;
    const ROUNDS: u64 = 200;

    #[test]
    fn what_was_written_before_is_published_when_it_returns() {
        let written: [AtomicU64; THREADS] = Default::default();
        let published: [AtomicU64; THREADS] = Default::default();
        let (together, current) = (Together::default(), Mutex::new(()));
        let publish = |_: &mut MutexGuard<'_, ()>| -> Result<(), ()> {
            for (from, to) in written.iter().zip(&published) {
                to.store(from.load(Relaxed), Relaxed);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            for me in 0..THREADS {
                let (written, published, together, current, publish) =
                    (&written, &published, &together, &current, &publish);
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        written[me].store(round, Relaxed);
                        together.publish(current, publish).unwrap();
                        assert!(published[me].load(Relaxed) >= round);
                    }
                });
            }
        });
    }

    #[test]
    fn all_who_come_during_a_publication_share_the_next_one() {
        let (together, count) = (Together::default(), Mutex::new(0));
        let publish = |count: &mut MutexGuard<'_, u64>| -> Result<(), ()> {
            **count += 1;
            // The first one lasts until everybody has come.
            while together.taken.load(Relaxed) < THREADS as u64 {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| together.publish(&count, publish).unwrap());
            }
        });
        // The first one was for whoever had come before it began.
        assert!((1..=2).contains(&*lock(&count)), "{count:?}");
    }

    #[test]
    fn a_publication_that_fails_is_nobody_elses() {
        let (together, current) = (Together::default(), Mutex::new(()));
        assert_eq!(together.publish(&current, |_| Err("stuck")), Err("stuck"));
        let mut tried = false;
        let again = together.publish(&current, |_| -> Result<(), &str> {
            tried = true;
            Ok(())
        });
        assert!(again.is_ok() && tried);
    }
}

/// See `connection/loom.rs` for how to run it.
#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use ::loom::model::Builder;
    use ::loom::thread;

    use super::*;

    const THREADS: usize = 3;

    /// What each has written, and what of it was published when somebody looked last.
    #[derive(Default)]
    struct State {
        written: [AtomicU64; THREADS],
        published: [AtomicU64; THREADS],
        publications: AtomicU64,
        together: Together,
    }

    fn write_and_publish(state: &State, current: &Mutex<()>, me: usize) {
        state.written[me].store(1, Relaxed);
        let publish = |_: &mut MutexGuard<'_, ()>| -> Result<(), ()> {
            for (from, to) in state.written.iter().zip(&state.published) {
                to.store(from.load(Relaxed), Relaxed);
            }
            state.publications.store(state.publications.load(Relaxed) + 1, Relaxed);
            Ok(())
        };
        state.together.publish(current, publish).unwrap();
        assert_eq!(state.published[me].load(Relaxed), 1, "it returned before what was written is published");
    }

    #[test]
    fn loom_what_was_written_before_is_published_whoever_does_it() {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let (state, current) = (Arc::new(State::default()), Arc::new(Mutex::new(())));
            let others: Vec<_> = (1..THREADS)
                .map(|me| {
                    let (state, current) = (state.clone(), current.clone());
                    thread::spawn(move || write_and_publish(&state, &current, me))
                })
                .collect();
            write_and_publish(&state, &current, 0);
            others.into_iter().for_each(|other| other.join().unwrap());
            assert!((1..=THREADS as u64).contains(&state.publications.load(Relaxed)));
        });
    }
}
