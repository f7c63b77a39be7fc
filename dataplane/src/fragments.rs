//! Datagrams in pieces: they wait until they are whole, are judged as a whole, and then leave as they came.
//!
//! | file | what |
//! |---|---|
//! | `store` | one worker's fragments: where each belongs, what overlaps, who gives way when there is no room |
//! | `arena` | the memory of the frames |
//! | `list` | the orders in which datagrams give way |
//! | `share` | what the workers have in common: the secret, and the way from one to another |
//!
//! **Who.** A datagram belongs to one worker, chosen by a keyed hash of what names it: port of entry, addresses,
//! identification and, in IPv4, protocol. Whoever receives a fragment of another worker's datagram hands a copy over
//! through a bounded queue. So one thread sees all pieces of a datagram, in the order in which each queue received
//! them, and there is no lock that could stop anybody. What would go to a worker that is dead, or does not keep up, is
//! dropped.
//!
//! **What.** A fragment is copied into memory that was set aside at the start, and its frame is free again: fragments
//! that wait never keep packet memory from the ports. When the pieces are complete, their contents are joined in a
//! buffer, which is parsed and judged by the very code that judges a packet; nothing is concluded from a part. Then
//! the fragments leave unchanged but for TTL and Ethernet addresses, in the order received.
//!
//! **What not.** Pieces that overlap or disagree condemn their datagram, and all that still comes of it until the
//! time-out (RFC 5722, here for IPv4 too). An exact copy of a piece is dropped, also for a second after its datagram
//! was forwarded; other pieces with that identification then begin a new datagram.
//!
//! **Limits.** Memory is fixed. Whoever needs room takes it from the datagram that began to wait first: of the same
//! source if that holds an eighth of the memory, else of the same port if that holds half of it, else of all. So a
//! flood of half datagrams from one source leaves seven eighths to others, a flood by one port half of the memory to
//! the other ports, and under any flood a datagram whose pieces arrive together is long whole when its turn comes.

mod arena;
mod list;
mod share;
mod store;
#[cfg(test)]
mod tests;

pub use arena::Stored;
pub use share::{HandedOver, Share};
pub use store::{Assembled, Fragments, Inserted, JOINED, PIECES_MAX, Release};
