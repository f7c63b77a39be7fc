//! The same packets through an nftables gateway and through Bulkhead: where the two differ, `tests/deviations.md` says
//! why. A case shows each of its classes (`directed`), and random sequences may differ in nothing else (`random`).

mod cause;
mod classes;
mod conntrack;
mod dice;
mod directed;
mod generate;
mod ledger;
mod random;
mod story;
mod twins;
