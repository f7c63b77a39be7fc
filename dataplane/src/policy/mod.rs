//! Policy: resolved rules, the compiled tables, and the slow obvious evaluator that proves them right.

pub mod rules;

pub use rules::{Action, Decision, Query, Rule, RuleSet, Segment, Service};
