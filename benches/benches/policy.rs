//! The compiled policy: what an answer costs, what the source check of every packet costs, and what compiling
//! costs, at 10 to 100,000 rules. The first two must not depend on the number of rules but for cache misses.

use std::hint::black_box;

use bulkhead_benches::{queries, rule_set};
use bulkhead_dataplane::policy::{Action, Rule, RuleSet, Service, compile};
use bulkhead_dataplane::verdict::SegmentId;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

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
    let allow = |from, to, services| Rule { from, to, services, action: Action::Allow };
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

criterion_group!(policy, answers, compiling);
criterion_main!(policy);
