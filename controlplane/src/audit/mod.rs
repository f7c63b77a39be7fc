//! The audit log: who did what to whom may reach what, in records of which each names the one before it.
//!
//! It has nothing to do with rules in audit (`mode = "audit"`): that is about what a policy would do, this about what people
//! and the gateway have done.
//!
//! **A record** is one line of JSON in `audit.log` in the state directory: a sequence number, when, what kind of act, by whom,
//! what exactly, the SHA-256 of the record before it, and its own ([`line`]). So whoever changes, removes, inserts or
//! reorders records has to write all later ones anew; and whoever noted the last one's digest, the *head*, elsewhere sees
//! that this was done ([`verify`]). The running gateway keeps its head in memory and tells it in `status`; the file
//! `audit.head` beside the log is for those who have shortened the log only.
//!
//! **How long it lasts.** [`Journal::record`] returns when the record is on the disk (written and synced). What the gateway
//! notices by itself (an alarm, a session that ends by the clock) is written within moments by a thread of its own, for the
//! main loop waits for no disk: a power failure loses the last of those, a `kill -9` too if the disk is slow. Power lost in
//! the middle of a record leaves a torn last line: the next start cuts it off, says so in an alarm, and in a record with its
//! length and digest.
//!
//! **When it cannot be written** (the disk is full, the directory is gone), what *grants* something is refused: a sign-in, a
//! session, an unlocking, another policy. What *takes away* is done all the same: a revocation, a lock, a quarantine, a cut
//! connection; an alarm tells it, and the record waits in memory (at most [`PENDING`] of them; those lost are counted in a
//! record) until the disk takes it. A gateway that cannot be audited can so be closed, but not opened further.
//!
//! **How much there is.** A file of more than [`SEGMENT_BYTES`] gets the name `audit-N.log`, after the number of its first
//! record, and the chain goes on in a new one. The last [`SEGMENTS`] are kept; that older ones are removed is a record too, so
//! that nobody else can remove them unnoticed.
//!
//! No record holds a secret: values are built of names, addresses and times, and [`Secret`](crate::portal::wire::Secret)
//! turns into none.

mod entry;
mod journal;
mod line;
mod verify;

pub use entry::{By, Entry, Kind};
pub use journal::{Journal, PENDING, SEGMENT_BYTES, SEGMENTS};
pub use line::{Head, Record};
pub use verify::{Break, Tampering, Verified, records, verify};

/// The file that grows.
const ACTIVE: &str = "audit.log";
/// Beside it, what its last record was.
const HEAD: &str = "audit.head";

/// The name of a file that is full, by the number of its first record.
fn segment_name(first: u64) -> String {
    format!("audit-{first:016}.log")
}

/// The number of the first record of a full file.
fn segment_first(name: &str) -> Option<u64> {
    name.strip_prefix("audit-")?.strip_suffix(".log")?.parse().ok()
}

#[cfg(test)]
mod tests;
