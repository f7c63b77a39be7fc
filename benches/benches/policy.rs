//! The compiled policy: what an answer costs, what the source check of every packet costs, and what compiling
//! costs, at 10 to 100,000 rules. The first two must not depend on the number of rules but for cache misses.

use std::collections::HashSet;
use std::hint::black_box;

use bulkhead_benches::{queries, rule_set};
use bulkhead_dataplane::policy::{Action, Rule, RuleSet, Service, compile};
use bulkhead_dataplane::verdict::SegmentId;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::IpNet;

const RULES: [usize; 4] = [10, 1_000, 10_000, 100_000];

/// Asked in turn: enough that neither branch prediction nor the first cache knows them all by heart.
const QUERIES: usize = 4096;

fn answers(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy");
    group.throughput(Throughput::Elements(QUERIES as u64));
    for count in RULES {
        let rules = rule_set(count);
        let policy = compile(&rules).expect("the generated rule set compiles");
        let queries = queries(&rules, QUERIES);
        group.bench_function(BenchmarkId::new("judge", count), |b| {
            b.iter(|| queries.iter().filter(|query| policy.judge(black_box(query)).allows()).count());
        });
        for (family, v4) in [("source_v4", true), ("source_v6", false)] {
            let sources: Vec<_> = queries
                .iter()
                .cycle()
                .filter(|query| query.source.is_ipv4() == v4)
                .take(QUERIES)
                .map(|query| (query.ingress, query.source))
                .collect();
            group.bench_function(BenchmarkId::new(family, count), |b| {
                b.iter(|| {
                    let known = |source: &&(_, _)| {
                        let (ingress, address) = black_box(**source);
                        policy.source_segment(ingress, address).is_some()
                    };
                    sources.iter().filter(known).count()
                });
            });
        }
    }
    group.finish();
}

/// The same number of networks and rules, once as they come and once made to cost as much as can be: every address at the
/// end of a chain of nested networks of all byte lengths, every question at a port between two boundaries of
/// thousands. D5: the second must answer at least half as many questions a second as the first.
fn masks(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/masks");
    group.throughput(Throughput::Elements(QUERIES as u64));
    let random = rule_set(10_000);
    for (name, rules) in [("random", &random), ("adversarial", &nested(&random))] {
        let policy = compile(rules).expect("it compiles");
        let queries = queries(rules, QUERIES);
        group.bench_function(name, |b| {
            b.iter(|| queries.iter().filter(|query| policy.judge(black_box(query)).allows()).count());
        });
    }
    group.finish();
}

/// The rule set with every network in a chain of longer and longer ones, down to single hosts, and ranges of ports that
/// cut each other into as many pieces as there are rules.
fn nested(rules: &RuleSet) -> RuleSet {
    let mut nested = rules.clone();
    let mut taken: HashSet<IpNet> = nested.segments.iter().flat_map(|s| s.networks.clone()).collect();
    for segment in &mut nested.segments {
        let deeper = |network: &IpNet| {
            let (first, length) = (network.network(), network.prefix_len());
            let most = network.max_prefix_len();
            let host = |length| IpNet::new(first, length).expect("a length of the family").trunc();
            (length / 8 * 8 + 8..=most).step_by(8).map(host).collect::<Vec<_>>()
        };
        let more: Vec<_> =
            segment.networks.iter().flat_map(deeper).filter(|net| taken.insert(*net)).collect();
        segment.networks.extend(more);
    }
    for (number, rule) in (0..).zip(&mut nested.rules) {
        let low = (number % 30_000) as u16;
        rule.services = vec![Service::Tcp(low, u16::MAX - low), Service::Udp(low, u16::MAX - low)];
    }
    nested
}

fn compiling(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/compile");
    group.sample_size(10);
    for count in RULES {
        let rules = rule_set(count);
        group.bench_function(BenchmarkId::from_parameter(count), |b| b.iter(|| compile(black_box(&rules))));
    }
    for (name, rules) in [("all_to_all_1000_segments", all_to_all()), ("one_pair_100000", one_pair())] {
        group.bench_function(name, |b| b.iter(|| compile(black_box(&rules)).expect("within the limits")));
    }
    group.finish();
}

/// A thousand segments that are all different, and a hundred rules from all of them to all of them.
fn all_to_all() -> RuleSet {
    let mut rules = rule_set(1_000_000 - 1);
    rules.rules.clear();
    let all: Vec<SegmentId> = (0..rules.segments.len() as u32).map(SegmentId).collect();
    let allow = |from, to, services| Rule { from, to, services, action: Action::Allow, ..Rule::default() };
    for segment in &all {
        rules.rules.push(allow(vec![*segment], vec![*segment], vec![Service::Any]));
    }
    for port in 0..100 {
        rules.rules.push(allow(all.clone(), all.clone(), vec![Service::Tcp(port * 100, port * 100 + 150)]));
    }
    rules
}

/// A hundred thousand overlapping ranges between one pair of segments.
fn one_pair() -> RuleSet {
    let mut rules = rule_set(100_000);
    for rule in &mut rules.rules {
        rule.from = vec![SegmentId(0)];
        rule.to = vec![SegmentId(1)];
    }
    rules
}

criterion_group!(policy, answers, masks, compiling);
criterion_main!(policy);
