//! By whose sessions connections pass.

use std::sync::OnceLock;

use crate::identity::Bearer;
use crate::sync::AtomicU64;

/// By entry, and apart from the entries, so that connections for which no session was asked pay nothing; not there at
/// all before a policy has sessions.
#[derive(Default)]
pub(super) struct Bearers(OnceLock<Box<[AtomicU64]>>);

impl Bearers {
    /// Room for the bearers of so many entries.
    pub(super) fn keep(&self, entries: usize) -> &[AtomicU64] {
        self.0.get_or_init(|| afxdp::large_table(entries, || AtomicU64::new(Bearer::NONE.0)))
    }

    /// Those of all entries, by entry; none before a policy has sessions.
    pub(super) fn all(&self) -> &[AtomicU64] {
        self.0.get().map_or(&[], |all| all)
    }

    /// The entry's.
    pub(super) fn get(&self, entry: u32) -> Option<&AtomicU64> {
        self.all().get(entry as usize)
    }

    /// Where that of the entry, of so many, is to be written; `None` where nobody's needs no place. A session's has one
    /// whether room was made beforehand or not: a judgement that cannot say by whose session it was given is none, and
    /// would be asked for at every packet without end.
    pub(super) fn place(&self, entry: u32, entries: usize, bearer: Bearer) -> Option<&AtomicU64> {
        match bearer {
            Bearer::NONE => self.get(entry),
            _ => Some(&self.keep(entries)[entry as usize]),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self.all())
    }
}
