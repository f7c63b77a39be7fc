mod language;

use std::path::Path;

use bulkhead_dataplane::connection::Table;
use bulkhead_dataplane::policy::Query;

use super::*;

/// Every file in configs/.
fn shipped() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_shipped_configuration_loads_and_passes_its_tests() {
    let files = shipped();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let model = load(&file).unwrap_or_else(|e| panic!("{e}"));
        assert!(!model.tests.is_empty(), "{} has no tests", file.display());
        let policy = model.compile().unwrap();
        for result in model.run_tests(&policy) {
            assert_eq!(result.failure, None, "{}: {}", file.display(), result.test.name);
        }
    }
}

const TEXT: &str = r#"version = 1
[gateway]
local = ["icmp/echo-request"]
[ports.in]
interface = "eth1"
local = ["tcp/22", "tcp/8000-8001"]
[ports.out]
interface = "eth2"
[segments.outer]
ports = ["out", "in"]
networks = ["10.0.0.0/8"]
[segments.first]
port = "in"
networks = ["10.0.0.0/24", "10.0.1.0/24"]
[segments.six]
port = "in"
networks = ["fd00::/64"]
[services.all]
services = ["one", "two"]
[services.one]
ports = ["tcp/1", "udp/1"]
[services.two]
ports = ["tcp/2"]
[[rule]]
name = "b"
from = "any"
to = ["first", "outer"]
services = ["all", "tcp/1"]
[[rule]]
name = "a"
from = ["outer", "first"]
to = "outer"
services = "any"
action = "reject"
owner = "someone"
[[test]]
name = "t"
from = "outer"
to = "first"
port = "tcp/2"
expect = "allow"
"#;

fn model(text: &str) -> Model {
    parse("t.toml", text).unwrap_or_else(|e| panic!("{e}"))
}

/// The failures of a text's tests.
fn failures(text: &str) -> Vec<Option<String>> {
    let model = model(text);
    model.run_tests(&model.compile().unwrap()).into_iter().map(|r| r.failure).collect()
}

#[test]
fn names_become_numbers_in_the_order_of_names() {
    let model = model(TEXT);
    let names: Vec<_> = (0..3).map(|n| model.segment_name(SegmentId(n)).unwrap()).collect();
    assert_eq!(names, ["first", "outer", "six"]);
    assert_eq!(model.rule_name(RuleId(0)), Some("a"));
    assert_eq!(model.rule_id("b"), Some(RuleId(1)));
    assert_eq!(
        (model.rule_id("c"), model.rule_name(RuleId(2)), model.rule_name(RuleId::NONE)),
        (None, None, None)
    );
    assert_eq!((model.port_name(PortId(0)), model.port_name(PortId(2))), (Some("in"), None));
    assert_eq!(model.rule_place(RuleId(1)).unwrap(), "t.toml:25:8");
}

#[test]
fn services_and_any_are_expanded_sorted_and_deduplicated() {
    use bulkhead_dataplane::policy::{Action, Rule, Service};
    let model = model(TEXT);
    let expected = Rule {
        from: vec![SegmentId(0), SegmentId(1), SegmentId(2)],
        to: vec![SegmentId(0), SegmentId(1)],
        services: vec![Service::Tcp(1, 1), Service::Tcp(2, 2), Service::Udp(1, 1)],
        action: Action::Allow,
        ..Rule::default()
    };
    assert_eq!(model.rules.rules[1], expected);
    assert_eq!(model.rules.rules[0].action, Action::Reject);
    assert_eq!(model.rules.segments[1].ports, [PortId(0), PortId(1)]);
}

#[test]
fn a_port_answers_its_own_services_and_the_gateways() {
    let model = model(TEXT);
    let own =
        [LocalService::Tcp(22), LocalService::Tcp(8000), LocalService::Tcp(8001), LocalService::IcmpEcho];
    assert_eq!(model.ports[0].local, own);
    assert_eq!(model.ports[1].local, [LocalService::IcmpEcho]);
}

#[test]
fn the_order_and_comments_of_a_file_change_neither_rules_nor_digest_and_a_port_does() {
    let original = model(TEXT);
    let (head, rules) = TEXT.split_once("[[rule]]").unwrap();
    let parts: Vec<&str> = rules.split("[[rule]]").collect();
    let (second, tests) = parts[1].split_once("[[test]]").unwrap();
    let shuffled = format!(
        "{head}# a remark\n[[test]]{tests}[[rule]]{second}[[rule]]{}",
        parts[0].replace("\"first\", \"outer\"", "\"outer\", \"first\"")
    );
    let shuffled = model(&shuffled);
    assert_eq!(original.rules, shuffled.rules);
    assert_eq!(original.digest, shuffled.digest);
    assert_ne!(original.digest, model(&TEXT.replace("tcp/2\"]", "tcp/3\"]")).digest);
    assert_ne!(original.digest, model(&TEXT.replace("eth2", "eth3")).digest);
}

#[test]
fn a_segment_is_asked_for_by_an_address_of_its_own_not_of_a_smaller_network_inside() {
    let model = model(TEXT);
    let probe = Probe::parse("tcp/2").unwrap();
    let ends = (model.endpoint("outer").unwrap(), model.endpoint("10.0.0.9").unwrap());
    let queries = model.questions(ends.0, ends.1, probe).unwrap();
    assert_eq!(queries.len(), 1);
    assert_eq!(queries[0].source.to_string(), "10.0.2.0");
    assert_eq!(queries[0].ingress, PortId(0));
}

#[test]
fn a_test_fails_with_what_was_expected_and_what_came() {
    assert_eq!(failures(TEXT), [None]);
    let with = |expect: &str| failures(&TEXT.replace("expect = \"allow\"", expect)).remove(0);
    let got = "got allow by rule `b`: 10.0.2.0 → 10.0.0.1 tcp/2";
    assert_eq!(with("expect = \"deny\"").unwrap(), format!("expected deny, {got}"));
    assert_eq!(
        with("expect = { verdict = \"deny\", reason = \"no_rule\" }").unwrap(),
        format!("expected deny (no_rule), {got}")
    );
    assert_eq!(
        with("expect = { verdict = \"allow\", rule = \"a\" }").unwrap(),
        format!("expected allow by rule `a`, {got}")
    );
    assert_eq!(with("expect = { verdict = \"allow\", rule = \"b\" }"), None);
    let other_family = failures(&TEXT.replace("to = \"first\"\nport", "to = \"six\"\nport")).remove(0);
    assert!(other_family.unwrap().contains("no address family"));
}

#[test]
fn lists_that_grow_without_bound_when_written_out_are_refused() {
    let mut text = String::from("version = 1\n[ports.p]\ninterface = \"eth1\"\n");
    for n in 0..100 {
        text += &format!("[segments.s{n}]\nport = \"p\"\nnetworks = [\"10.0.{n}.0/24\"]\n");
    }
    for n in 0..20 {
        text += &format!("[[rule]]\nname = \"r{n}\"\nfrom = \"any\"\nto = \"any\"\nservices = \"any\"\n");
    }
    let within = |limit| {
        let (config, report) = config::read_text("t.toml", &text);
        resolve::resolve_within(limit, config.unwrap(), report)
    };
    assert_eq!(within(20 * 201).unwrap().rules.rules.len(), 20);
    let errors = within(20 * 201 - 1).unwrap_err();
    assert_eq!(errors.list().len(), 1, "{errors}");
    assert!(errors.to_string().contains("the limit of 4019 entries is passed here"), "{errors}");
}

#[test]
fn settings_given_replace_defaults_and_every_time_out_has_its_place() {
    assert_eq!(model(TEXT).gateway, Gateway::default());
    let mut text =
        TEXT.replacen("[gateway]", "[gateway]\nworkers = 3\nbusy_poll = false\nconnections = 4096", 1);
    text += "[gateway.timeouts]\n";
    for (n, name) in config::schema::TIMEOUTS.iter().enumerate() {
        text += &format!("{name} = \"{}s\"\n", n + 1);
    }
    let gateway = model(&text).gateway;
    let t = gateway.timeouts;
    let all = [
        t.tcp_handshake_ms,
        t.tcp_established_ms,
        t.tcp_closing_ms,
        t.tcp_time_wait_ms,
        t.tcp_closed_ms,
        t.udp_unreplied_ms,
        t.udp_replied_ms,
        t.icmp_ms,
    ];
    assert_eq!(all, [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000]);
    let table = gateway.table_config();
    assert_eq!((table.workers, table.connections_v4, table.connections_v6), (3, 4096, 131_072));
    assert!(!gateway.busy_poll);
}

#[test]
fn a_rules_time_outs_replace_the_gateways_and_belong_to_the_meaning() {
    use bulkhead_dataplane::connection::{Table, TableConfig};
    let plain = model(&TEXT.replacen("[\"all\", \"tcp/1\"]", "\"any\"", 1));
    let given = |name: &str, n: usize| format!("{name} = \"{}s\"", n + 1);
    let all: Vec<_> = config::schema::TIMEOUTS.iter().zip(0..).map(|(name, n)| given(name, n)).collect();
    let named = format!("name = \"b\"\ntimeouts = {{ {} }}", all.join(", "));
    let text = TEXT.replacen("name = \"b\"", &named, 1).replacen("[\"all\", \"tcp/1\"]", "\"any\"", 1);
    assert_ne!(text, TEXT);
    let changed = model(&text);
    assert_ne!(changed.digest, plain.digest);
    assert_eq!(changed.rule_infos[0].timeouts, Default::default());
    let gateways = Gateway::default().timeouts;
    let t = changed.rule_infos[1].timeouts.over(&gateways);
    let of_rule = [
        t.tcp_handshake_ms,
        t.tcp_established_ms,
        t.tcp_closing_ms,
        t.tcp_time_wait_ms,
        t.tcp_closed_ms,
        t.udp_unreplied_ms,
        t.udp_replied_ms,
        t.icmp_ms,
    ];
    assert_eq!(of_rule, [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000]);
    let mut policy = changed.compile().unwrap();
    let table = Table::new(&TableConfig { connections_v4: 1024, connections_v6: 1024, ..Default::default() });
    policy.bind(&table);
    assert_ne!(policy.timeout_class(RuleId(1)), policy.timeout_class(RuleId(0)));
    assert_eq!(policy.timeout_class(RuleId(0)), policy.timeout_class(RuleId::NONE));
}

#[test]
fn a_policy_made_from_the_one_before_has_its_own_rule_numbers_limits_and_timeouts() {
    let mut text = String::from("version = 1\n[ports.p]\ninterface = \"eth1\"\n");
    for segment in ["a", "b"] {
        let number = segment.as_bytes()[0];
        text += &format!("[segments.{segment}]\nport = \"p\"\nnetworks = [\"10.{number}.0.0/16\"]\n");
    }
    let rule = |name: &str, port: u16, more: &str| {
        format!("[[rule]]\nname = \"{name}\"\nfrom = \"a\"\nto = \"b\"\nservices = \"tcp/{port}\"\n{more}\n")
    };
    text += &rule("k-web", 80, "");
    text += &rule("m-mail", 25, "timeouts = { tcp_established = \"1h\" }\nlimits = { connections = 7 }");
    let old = parse("old", &text).unwrap();
    // It comes first by its name, so the others get other numbers; and the limits move to another rule.
    let text =
        text.replace("limits = { connections = 7 }", "") + &rule("b-dns", 53, "limits = { connections = 8 }");
    let new = parse("new", &text).unwrap();
    let policy = new.recompile(&old, &old.compile().unwrap()).unwrap();
    let query = |port| Query {
        ingress: PortId(0),
        source: "10.97.0.1".parse().unwrap(),
        destination: "10.98.0.1".parse().unwrap(),
        protocol: 6,
        destination_port: port,
    };
    for (port, name) in [(53, Some("b-dns")), (80, Some("k-web")), (25, Some("m-mail")), (22, None)] {
        assert_eq!(new.rule_name(policy.judge(&query(port)).rule), name);
    }
    let mut policy = policy;
    let table = Table::new(&TableConfig { connections_v4: 1024, connections_v6: 1024, ..Default::default() });
    policy.bind(&table);
    let id = |name| new.rule_id(name).unwrap();
    assert_ne!(policy.timeout_class(id("m-mail")), policy.timeout_class(RuleId::NONE));
    assert_eq!(policy.timeout_class(id("k-web")), policy.timeout_class(RuleId::NONE));
    assert_eq!(new.limits().iter().map(|(rule, _)| *rule).collect::<Vec<_>>(), [id("b-dns")]);
}

#[test]
fn the_documented_configuration_is_whole_and_states_the_defaults() {
    let readme = include_str!("../../../configs/README.md");
    let example = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let example = example.replace("include = [\"policy.d/*.toml\"]", "");
    let model = parse("README.md", &example).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(model.gateway, Gateway::default());
    let policy = model.compile().unwrap();
    assert!(model.run_tests(&policy).iter().all(|result| result.failure.is_none()));
    for name in config::schema::TIMEOUTS {
        assert!(example.contains(&format!("\n{name} = ")), "{name} is not documented");
    }
}
