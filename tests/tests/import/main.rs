//! Imported rulesets do what they did where they come from: packet by packet what nftables does with the ruleset itself
//! (`nft`), and question by question what a plain evaluator of pf does (`pf`).

mod nft;
mod pf;
mod samples;
