//! Rulesets of nftables: what `nft list ruleset` prints, and what people write.

mod matches;
mod parse;
mod rules;
mod statements;
mod syntax;
mod translate;
mod values;

pub use translate::read;
