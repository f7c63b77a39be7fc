//! What `plan` costs: two configurations of 10,000 or 100,000 rules compared, alike, with one rule in a hundred changed,
//! and with nothing in common but the segments.
//!
//! Times are CPU time of the thread, the least of several runs, so that a busy machine does not blur them.

mod generated;

use std::time::Duration;

use bulkhead::model::{self, Model};
use bulkhead::plan::Plan;
use bulkhead_benches::clock::timed;
use bulkhead_benches::rule_set;
use bulkhead_dataplane::policy::{RuleSet, Service};
use generated::toml;

fn main() {
    println!("{:>8}  {:<10} {:>11}  {:>12} {:>8}", "rules", "changed", "plan", "differences", "lost");
    for (rules, runs) in [(1_000, 10), (10_000, 5), (100_000, 2)] {
        let old = rule_set(rules);
        for (name, new) in [("nothing", old.clone()), ("1 %", edited(&old)), ("everything", other(&old))] {
            let (old, new) = (model(&old), model(&new));
            let timed = (0..runs).map(|_| plan(&old, &new)).min_by_key(|(_, time)| *time);
            let (plan, time) = timed.expect("at least one run");
            let lost = plan.access.iter().filter(|a| a.change == bulkhead::plan::Change::Lost).count();
            let ms = time.as_secs_f64() * 1e3;
            println!("{rules:>8}  {name:<10} {ms:>8.1} ms  {:>12} {lost:>8}", plan.access.len());
        }
    }
}

fn plan(old: &Model, new: &Model) -> (Plan, Duration) {
    timed(|| Plan::between(old, new).expect("within the limits"))
}

fn model(rules: &RuleSet) -> Model {
    // Tests of the file have no part in a plan.
    let text = toml(rules);
    let rules_only = text.find("\n[[test]]").map_or(text.as_str(), |at| &text[..at]);
    model::parse("generated", rules_only).expect("the generated file is right")
}

/// One rule in a hundred asks for another port.
fn edited(old: &RuleSet) -> RuleSet {
    let mut new = old.clone();
    for (number, rule) in new.rules.iter_mut().enumerate().step_by(100) {
        let port = 20_000 + number as u16 % 10_000;
        rule.services = vec![Service::Tcp(port, port)];
    }
    new
}

/// The same rules between other segments.
fn other(old: &RuleSet) -> RuleSet {
    let mut new = old.clone();
    for rule in &mut new.rules {
        std::mem::swap(&mut rule.from, &mut rule.to);
    }
    new
}
