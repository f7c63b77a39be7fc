//! What the gateway does with every kind of packet and fault, black box: frames in at one port, frames out at another,
//! each with a sentinel behind it instead of a wait, and the ledger exact at the end. A test's name begins with the id
//! of its requirement.
//!
//! | group | of what | file |
//! |---|---|---|
//! | G | policy basics | `policy`; many rules: `large` |
//! | S | source and destination sanity | `sanity` |
//! | H | header sanity | `headers`; opened by permits: `permits` |
//! | F | fragments | `fragments` |
//! | W | TCP state | `tcp` |
//! | U | UDP | `udp` |
//! | I | ICMP | `icmp` |
//! | D | exhaustion | `exhaustion` |

mod exhaustion;
mod fragments;
mod headers;
mod icmp;
mod large;
mod permits;
mod policy;
mod sanity;
mod tcp;
mod udp;
