//! The goals of the policy compiler, and beside them `nft -f` of the same policy, in turn with it: 10,000 rules compiled in
//! 20 ms, 100,000 in 200 ms and a million in 3 s, by one core; a change of one rule of 100,000 live within 10 ms; a plan of
//! two policies of 10,000 rules within a second.
//!
//! Times are CPU time (of nft: of the process, the kernel's work for it included), medians and in brackets the least, so
//! that a busy machine blurs them little. A change is live when every worker judges by it, which is time on the wall.

mod generated;
mod peer;

use std::time::{Duration, Instant};

use ::toml::de::DeTable;
use bulkhead::lab::{self, Namespace, VethOptions};
use bulkhead::model::{self, Model};
use bulkhead::plan::Plan;
use bulkhead::topology::Watcher;
use bulkhead_benches::clock::timed;
use bulkhead_benches::rule_set;
use bulkhead_dataplane::connection::TableConfig;
use bulkhead_dataplane::engine::{Engine, EngineConfig, PortConfig};
use bulkhead_dataplane::policy::{Rule, RuleSet, Service, compile, recompile};
use bulkhead_dataplane::topology::Topology;
use generated::toml;
use peer::Script;

fn main() {
    let without = peer::unavailable();
    if let Some(why) = without {
        println!("nft -f is not measured: {why}");
    }
    println!("{:<38} {:>9} {:>20} {:>20} {:>8}", "", "goal", "Bulkhead", "nft -f", "×");
    let peer = without.is_none();
    // How often, and how often nft: of a million rules, which takes it minutes, not at all.
    compiling(10_000, 20, 9, if peer { 3 } else { 0 });
    let loaded = compiling(100_000, 200, 5, if peer { 2 } else { 0 });
    compiling(1_000_000, 3000, 3, 0);
    change(loaded);
    plan();
}

fn namespace() -> Namespace {
    Namespace::new("goals").expect("root can make namespaces")
}

/// One line of the table. Times in milliseconds.
fn row(what: &str, goal: Option<u64>, times: &mut [Duration], nft: &mut [Duration]) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let median = |times: &mut [Duration]| {
        times.sort_unstable();
        Some((ms(*times.get(times.len() / 2)?), ms(times[0])))
    };
    let text = |times: Option<(f64, f64)>| {
        times.map_or_else(|| "-".to_owned(), |(median, least)| format!("{median:.1} ({least:.1}) ms"))
    };
    let (ours, theirs) = (median(times), median(nft));
    let ratio =
        ours.zip(theirs).map_or_else(|| "-".to_owned(), |(ours, theirs)| format!("{:.1}", theirs.0 / ours.0));
    let goal = goal.map_or_else(String::new, |goal| format!("{goal} ms"));
    println!("{what:<38} {goal:>9} {:>20} {:>20} {ratio:>8}", text(ours), text(theirs));
}

/// A rule set compiled, and as a configuration: read, resolved and compiled. The namespace has it in nftables.
fn compiling(count: usize, goal: u64, runs: usize, nft_runs: usize) -> Option<Namespace> {
    let rules = rule_set(count);
    let script = (nft_runs > 0).then(|| Script::new(&count.to_string(), &peer::ruleset(&rules)));
    let (mut compiled, mut nft, mut loaded) = (Vec::new(), Vec::new(), None);
    for run in 0..runs {
        compiled.push(timed(|| compile(&rules).expect("it compiles")).1);
        if let Some(script) = script.as_ref().filter(|_| run < nft_runs) {
            let namespace = namespace();
            nft.push(script.load(&namespace));
            loaded = Some(namespace);
        }
    }
    row(&format!("compile {count} rules"), Some(goal), &mut compiled, &mut nft);
    if count > 100_000 {
        // Configurations are at most 64 MiB.
        return loaded;
    }
    let text = toml(&rules);
    // Tests are no part of what is compiled.
    let text = text.split("\n[[test]]").next().unwrap_or_default();
    let [mut parsed, mut whole] = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        parsed.push(timed(|| DeTable::parse(text).expect("it is TOML")).1);
        let read = || model::parse("generated", text).expect("it is right").compile().expect("it compiles");
        whole.push(timed(read).1);
    }
    row(&format!("the same from {} MiB of TOML", text.len() >> 20), None, &mut whole, &mut nft);
    row("  of which the toml crate takes", None, &mut parsed, &mut []);
    loaded
}

/// One rule more of 100,000, and one less. For nft, one more of those that the namespace has.
fn change(loaded: Option<Namespace>) {
    const RUNS: usize = 10;
    let with = rule_set(100_000);
    let mut without = with.clone();
    let changed = without.rules.remove(50_000);
    let before = compile(&without).expect("it compiles");
    let script = Script::new("change", &peer::addition(&changed));
    let (mut cpu, mut nft) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        cpu.push(timed(|| recompile(&before, &without, &with).expect("it compiles")).1);
        nft.extend(loaded.as_ref().map(|namespace| script.load(namespace)));
    }
    row("one rule more of 100000, made", None, &mut cpu, &mut nft);
    if !lab::available() {
        println!("one rule more of 100000, live: not measured, for only root can make namespaces");
        return;
    }
    row("one rule more or less, live (wall)", Some(10), &mut live(&without, &with, RUNS), &mut []);
}

/// How long it takes from a rule set to a worker that judges by it, by the clock on the wall.
fn live(without: &RuleSet, with: &RuleSet, runs: usize) -> Vec<Duration> {
    let (gateway, host) = (namespace(), namespace());
    for port in ["in", "out"] {
        Namespace::veth((&gateway, port), (&host, port), &VethOptions::default()).expect("two ends");
    }
    let port = |name: &str| PortConfig { interface: name.to_owned(), local: Vec::new(), sources: Vec::new() };
    let config = EngineConfig {
        ports: vec![port("in"), port("out")],
        workers: 1,
        table: TableConfig { connections_v4: 65_536, connections_v6: 1024, ..TableConfig::default() },
        busy_poll: false,
        frames: 16_384,
        events: 4096,
        fragments: 0,
        cpus: Vec::new(),
    };
    let engine = gateway.run(|| {
        let watcher = Watcher::new(&["in".to_owned(), "out".to_owned()]).expect("the namespace has them");
        let policy = compile(without).expect("it compiles");
        Engine::start(&config, policy, Topology::new(watcher.spec().clone())).expect("the ports are its own")
    });
    let mut times = Vec::new();
    for run in 0..runs {
        let (old, new) = if run % 2 == 0 { (without, with) } else { (with, without) };
        let start = Instant::now();
        let running = engine.snapshot().policy.clone();
        let policy = recompile(&running.policy, old, new).expect("it compiles");
        engine.publish_policy(policy).expect("the worker runs");
        times.push(start.elapsed());
    }
    gateway.run(|| engine.stop(true)).expect("the engine stops");
    times
}

/// Two policies of 10,000 rules, of which one in a hundred is another.
fn plan() {
    let old = rule_set(10_000);
    let mut new = old.clone();
    let other = |(number, rule): (usize, &mut Rule)| {
        let port = 20_000 + (number % 10_000) as u16;
        rule.services = vec![Service::Tcp(port, port)];
    };
    new.rules.iter_mut().enumerate().step_by(100).for_each(other);
    let [old, new] = [&old, &new].map(|rules| {
        let text = toml(rules);
        let model: Model = model::parse("generated", text.split("\n[[test]]").next().unwrap_or_default())
            .expect("the generated file is right");
        model
    });
    let plan = || timed(|| Plan::between(&old, &new).expect("within the limits")).1;
    let mut times: Vec<Duration> = (0..5).map(|_| plan()).collect();
    row("plan of two policies of 10000 rules", Some(1000), &mut times, &mut []);
}
