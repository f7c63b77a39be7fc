//! The one place where the packet path gets its atomics, so that loom sees all of them.
//!
//! Normally these are the standard library's; under `--cfg loom` they are loom's, whose model checker runs every
//! interleaving and every value that a relaxed load may return. What loom does not see here: reference counts
//! (`std::sync::Arc`), and the insides of [`Queue`], which is crossbeam's, and of [`Shared`], which is arc-swap's; in a
//! model these are a list and a value behind loom's mutex.

#[cfg(loom)]
pub(crate) use loom::hint::spin_loop;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::hint::spin_loop;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

pub(crate) use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// A bounded queue for several producers and consumers that neither locks nor allocates after its creation.
#[cfg(not(loom))]
pub(crate) struct Queue<T>(crossbeam::queue::ArrayQueue<T>);

#[cfg(not(loom))]
impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Queue<T> {
        Queue(crossbeam::queue::ArrayQueue::new(capacity))
    }

    /// Gives the value back when the queue is full.
    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        self.0.push(value)
    }

    /// Gives the oldest value back when the queue is full, and puts this one in all the same.
    pub(crate) fn force_push(&self, value: T) -> Option<T> {
        self.0.force_push(value)
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.pop()
    }
}

/// The queue as loom sees it: only its effect, not its inside.
#[cfg(loom)]
pub(crate) struct Queue<T>(loom::sync::Mutex<std::collections::VecDeque<T>>, usize);

#[cfg(loom)]
impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Queue<T> {
        Queue(loom::sync::Mutex::new(std::collections::VecDeque::new()), capacity)
    }

    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        let mut list = self.0.lock().unwrap();
        if list.len() == self.1 {
            return Err(value);
        }
        list.push_back(value);
        Ok(())
    }

    pub(crate) fn force_push(&self, value: T) -> Option<T> {
        let mut list = self.0.lock().unwrap();
        let oldest = if list.len() == self.1 { list.pop_front() } else { None };
        list.push_back(value);
        oldest
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.lock().unwrap().pop_front()
    }
}

/// A value that readers look at without waiting while a writer replaces it.
#[cfg(not(loom))]
pub(crate) struct Shared<T>(arc_swap::ArcSwapOption<T>);

#[cfg(not(loom))]
impl<T> Shared<T> {
    pub(crate) fn store(&self, value: T) {
        self.0.store(Some(std::sync::Arc::new(value)));
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(Option<&T>) -> R) -> R {
        f(self.0.load().as_deref())
    }
}

#[cfg(not(loom))]
impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared(arc_swap::ArcSwapOption::empty())
    }
}

/// The value as loom sees it: only its effect, not its inside.
#[cfg(loom)]
pub(crate) struct Shared<T>(loom::sync::Mutex<Option<T>>);

#[cfg(loom)]
impl<T> Shared<T> {
    pub(crate) fn store(&self, value: T) {
        *self.0.lock().unwrap() = Some(value);
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(Option<&T>) -> R) -> R {
        f(self.0.lock().unwrap().as_ref())
    }
}

#[cfg(loom)]
impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared(loom::sync::Mutex::new(None))
    }
}
