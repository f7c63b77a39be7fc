//! The same packets through an nftables gateway and through Bulkhead: where the two differ, `tests/deviations.md` says
//! why, and a case shows each of its classes.

mod directed;
mod ledger;
mod twins;
