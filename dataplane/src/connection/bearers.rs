//! By whose sessions connections pass.

use std::sync::OnceLock;

use crate::identity::Bearer;
use crate::sync::{AtomicU64, Relaxed};

/// By entry, and apart from the entries, so that connections for which no session was asked pay nothing; not there at
/// all before a policy has sessions.
#[derive(Default)]
pub(super) struct Bearers(OnceLock<Box<[AtomicU64]>>);

impl Bearers {
    /// Room for the bearers of so many entries.
    pub(super) fn keep(&self, entries: usize) {
        self.0.get_or_init(|| (0..entries).map(|_| AtomicU64::new(Bearer::NONE.0)).collect());
    }

    /// The entry's.
    #[inline(always)]
    pub(super) fn get(&self, entry: u32) -> Option<&AtomicU64> {
        self.0.get().map(|all| &all[entry as usize])
    }

    /// Sets that of an entry which no worker can reach.
    pub(super) fn set(&self, entry: u32, bearer: Bearer) {
        if let Some(word) = self.get(entry) {
            word.store(bearer.0, Relaxed);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.0.get().map_or(0, |all| size_of_val(&**all))
    }
}
