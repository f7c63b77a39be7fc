//! What a reload costs, stage by stage: a file of 10,000 or 100,000 rules is read, parsed with the place of every
//! value, resolved, compiled, and judged by its own tests. Publishing the result is one pointer.
//!
//! Times are CPU time of the thread, the least of several runs, so that a busy machine does not blur them.

mod generated;

use std::path::Path;
use std::time::Duration;

use bulkhead::config::{self, Loaded};
use bulkhead::model::{self, Model};
use bulkhead_benches::clock::timed;
use bulkhead_benches::rule_set;
use bulkhead_dataplane::policy::conditions::Bits;
use generated::toml;

fn main() {
    let directory = std::env::temp_dir();
    println!(
        "{:>8} {:>8}  {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "rules", "KiB", "parse", "resolve", "compile", "tests", "drop", "reload", "gates"
    );
    for (rules, runs) in [(1_000, 20), (10_000, 20), (100_000, 5)] {
        let path = directory.join(format!("bulkhead-reload-{}-{rules}.toml", std::process::id()));
        let text = toml(&rule_set(rules));
        std::fs::write(&path, &text).expect("the directory for temporary files can be written");
        let stages = (0..runs).map(|_| reload(&path)).reduce(|a, b| std::array::from_fn(|i| a[i].min(b[i])));
        std::fs::remove_file(&path).expect("it was written above");
        let [parse, resolve, compile, tests, drop, gates] =
            stages.expect("at least one run").map(|d| d.as_secs_f64() * 1e3);
        let sum = parse + resolve + compile + tests + drop;
        println!(
            "{rules:>8} {:>8}  {parse:>6.2} ms {resolve:>6.2} ms {compile:>6.2} ms {tests:>6.2} ms {drop:>6.2} ms {sum:>6.2} ms {gates:>6.2} ms",
            text.len() / 1024
        );
    }
}

/// Parse, resolve, compile, tests, and giving all of it up again, as the policy that it replaces is. At last what it takes
/// to publish the same policy with other gates, which is no part of a reload.
fn reload(path: &Path) -> [Duration; 6] {
    let (loaded, parse) = timed(|| config::load(path).expect("the generated file is right"));
    let (model, resolve) = timed(|| resolve(loaded));
    let (policy, compile) = timed(|| model.compile().expect("it compiles"));
    let (_, tests) = timed(|| {
        let results = model.run_tests(&policy);
        let failed = results.iter().find_map(|result| result.failure.as_deref());
        assert_eq!(failed, None);
    });
    let (other, gates) = timed(|| {
        let mut other = policy.clone();
        other.set_gates(Bits::from_iter([0]));
        other
    });
    drop(other);
    let (_, dropped) = timed(|| drop((model, policy)));
    [parse, resolve, compile, tests, dropped, gates]
}

fn resolve(loaded: Loaded) -> Model {
    model::resolve(loaded).expect("every name is known")
}
