//! What rules ask for besides addresses, and when they hold: from the file to the verdict.

use bulkhead_dataplane::policy::conditions::{Bits, UserId};
use bulkhead_dataplane::policy::{Decision, Policy, Query, Service};
use jiff::Timestamp;

use super::*;

/// What follows it may be rules, groups and tests.
const BASE: &str = r#"version = 1
[ports.lan]
interface = "eth1"
[ports.servers]
interface = "eth2"
[segments.web]
port = "lan"
networks = ["10.10.0.0/24", "fd00:10::/64"]
[segments.db]
port = "servers"
networks = ["10.20.0.0/24"]
"#;

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The failures of a text's tests, as of the end of 2026.
fn tried(text: &str) -> Vec<Option<String>> {
    let model = model(text);
    let results = model.run_tests_at(&model.compile().unwrap(), moment("2026-12-31T12:00:00Z"));
    results.into_iter().map(|result| result.failure).collect()
}

/// Asserts that every `[[test]]` of the text passes, and how many there are.
fn passes(text: &str, count: usize) {
    assert_eq!(tried(text), vec![None; count], "{text}");
}

/// A `[[test]]` from web to db by TCP port 5432.
fn asked(who: &str, expect: &str) -> String {
    format!(
        "[[test]]\nname = \"t\"\nfrom = \"web\"\nto = \"db\"\nport = \"tcp/5432\"\n{who}\nexpect = {expect}\n"
    )
}

/// The design's example as it stands there, but for VLANs.
const DESIGN: &str = r#"version = 1

[gateway]
mode = "routed"                      # or "bridged": a bump in the wire, same policy
control = "/run/bulkhead/control.sock"

[ports.lan]
interface = "eth1"
[ports.servers]
interface = "eth2"

[segments.web]                       # port and VLANs say where it is, networks who may speak there
port = "lan"
networks = ["10.10.0.0/24", "fd00:10::/64"]

[segments.db]
port = "servers"
networks = ["10.20.0.0/24"]
require = { mfa_max_age = "8h", posture = "compliant" }   # floor: every rule into db inherits it

[services.postgres]
ports = ["tcp/5432"]

[postures.compliant]
disk_encrypted = true
os_patch_max_age = "30d"
max_age = "15m"                      # an older report counts as unknown, and unknown denies

[[rule]]
name = "dba-to-db"
from = "web"
to = "db"
services = ["postgres"]
users = { groups = ["dba"] }
require = { mfa_max_age = "1h", risk_below = 50 }
mode = "audit"                       # then "enforce"
expires = 2027-01-31T00:00:00Z
owner = "team-data"

[[test]]
name = "stale MFA is refused"
from = "web"
to = "db"
port = "tcp/5432"
user = "alice"
groups = ["dba"]
posture = "compliant"
mfa_age = "2h"
expect = { verdict = "deny", reason = "mfa_too_old" }
"#;

#[test]
fn the_design_s_example_loads_and_its_test_passes() {
    passes(DESIGN, 1);
    let model = model(DESIGN);
    let rule = &model.rule_infos[0];
    assert_eq!((rule.audit, rule.expires), (true, Some(moment("2027-01-31T00:00:00Z"))));
    assert_eq!(model.tiers[usize::from(rule.tier)], "app");
    // In audit it enforces nothing.
    assert!(model.rules.rules[0].from.is_empty());
    assert_eq!(model.audited().unwrap().rules[0].services, [Service::Tcp(5432, 5432)]);
    let vlans = DESIGN.replace("port = \"lan\"", "port = \"lan\"\nvlans = [10]");
    assert!(parse("t.toml", &vlans).unwrap_err().to_string().contains("`vlans` is not supported"));
}

#[test]
fn every_demand_is_read_and_has_its_reason() {
    let rule = r#"[postures.healthy]
disk_encrypted = true
processes = ["falcond"]
channel = "stable"
[[rule]]
name = "r"
from = "web"
to = "db"
services = "tcp/5432"
users = ["alice", "bob"]
require = { mfa_max_age = "1h", mfa = "phishing-resistant", posture = "healthy", risk_below = 50, devices = { tags = ["laptop", "kiosk"], enrolled = true } }
"#;
    let all = "user = \"bob\"\ndevice = { tags = [\"kiosk\", \"blue\"], enrolled = true }\nmfa = \"phishing-resistant\"\nmfa_age = \"1h\"\nposture = \"healthy\"\nrisk = 49";
    let mut text = format!("{BASE}{rule}{}", asked(all, "{ verdict = \"allow\", rule = \"r\" }"));
    for (from, to, reason) in [
        ("user = \"bob\"", "user = \"eve\"", "not_in_group"),
        ("user = \"bob\"\n", "", "not_authenticated"),
        ("\"kiosk\", ", "", "device_mismatch"),
        ("enrolled = true", "enrolled = false", "device_mismatch"),
        ("mfa = \"phishing-resistant\"\nmfa_age = \"1h\"\n", "", "mfa_missing"),
        ("mfa = \"phishing-resistant\"\n", "", "mfa_too_weak"),
        ("\"1h\"", "\"61m\"", "mfa_too_old"),
        ("posture = \"healthy\"\n", "", "posture_unknown"),
        ("\"healthy\"", "{ healthy = \"unknown\" }", "posture_unknown"),
        ("\"healthy\"", "{ healthy = \"failed\" }", "posture_failed"),
        ("\nrisk = 49", "", "risk_unknown"),
        ("49", "50", "risk_too_high"),
        ("user = \"bob\"", "session = \"expired\"\nuser = \"bob\"", "session_expired"),
    ] {
        let changed = all.replacen(from, to, 1);
        assert_ne!(changed, all, "{from}");
        text += &asked(&changed, &format!("{{ verdict = \"deny\", reason = \"{reason}\", rule = \"r\" }}"));
    }
    text += &asked("", "{ verdict = \"deny\", reason = \"not_authenticated\" }");
    // A factor without an age was shown just now; any is as good as none where no time is said.
    text += &asked(&all.replace("mfa_age = \"1h\"\n", ""), "\"allow\"");
    passes(&text, 16);
}

#[test]
fn any_user_is_somebody_who_has_shown_who_they_are() {
    let rule = "[[rule]]\nname = \"r\"\nfrom = \"web\"\nto = \"db\"\nservices = \"any\"\nusers = \"any\"\n";
    let refused = "{ verdict = \"deny\", reason = \"not_authenticated\" }";
    let tests = [
        asked("user = \"whoever\"", "\"allow\""),
        asked("", refused),
        asked("device = { enrolled = true }", refused),
    ];
    passes(&format!("{BASE}{rule}{}", tests.concat()), 3);
}

#[test]
fn groups_hold_their_members_and_the_members_of_their_groups() {
    let text = r#"
[groups.admins]
groups = ["dba", "network"]
[groups.dba]
members = ["alice"]
[groups.network]
description = "as the identity provider says"
[[rule]]
name = "r"
from = "web"
to = "db"
services = "tcp/5432"
users = { users = ["carol"], groups = ["admins"] }
"#;
    let refused = "{ verdict = \"deny\", reason = \"not_in_group\" }";
    let tests = [
        asked("user = \"alice\"", "\"allow\""),
        asked("user = \"bob\"", refused),
        asked("user = \"bob\"\ngroups = [\"network\"]", "\"allow\""),
        asked("user = \"bob\"\ngroups = [\"admins\", \"dba\"]", "\"allow\""),
        asked("user = \"carol\"", "\"allow\""),
    ];
    let text = format!("{BASE}{text}{}", tests.concat());
    passes(&text, 5);
    let model = model(&text);
    let names = &model.identities;
    let of = |user: &str, told: &[&str]| names.groups_of(user, told.iter().copied());
    // admins, dba, network.
    assert_eq!(of("alice", &[]), Bits::from_iter([0, 1]));
    assert_eq!(of("bob", &["network", "unheard-of"]), Bits::from_iter([0, 2]));
    assert_eq!(of("bob", &[]), Bits::default());
    assert_eq!((names.user("carol").0, names.user("alice")), (0, UserId::OTHER));
}

#[test]
fn an_earlier_tier_decides_and_passing_leaves_it_to_the_next() {
    let text = r#"tiers = ["base", "late"]
[[rule]]
name = "no-db"
tier = "base"
from = "any"
to = "db"
services = "any"
action = "deny"
[[rule]]
name = "but-postgres"
tier = "base"
from = "web"
to = "db"
services = "tcp/5432"
action = "pass"
[[rule]]
name = "postgres"
from = "any"
to = "db"
services = ["tcp/5432", "tcp/22"]
"#;
    let tests = asked("", "{ verdict = \"allow\", rule = \"postgres\" }")
        + &asked("", "{ verdict = \"deny\", rule = \"no-db\" }").replace("tcp/5432", "tcp/22");
    let text = BASE.replacen("[ports", &format!("{text}[ports"), 1) + &tests;
    passes(&text, 2);
    let model = model(&text);
    assert_eq!(model.rules.rules.iter().map(|rule| rule.tier).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(model.rule_infos[2].tier, 1);
    // Tiers without rules are left out, so that a policy of one tier costs what it did.
    assert_eq!(super::model(TEXT).rules.rules[0].tier, 0);
}

#[test]
fn a_floor_binds_both_ways_and_says_who() {
    let text = BASE
        .replace("port = \"servers\"", "port = \"servers\"\nrequire = { users = { groups = [\"dba\"] } }")
        .replace("port = \"lan\"", "port = \"lan\"\nrequire_from = { devices = { enrolled = true } }")
        + "[[rule]]\nname = \"r\"\nfrom = \"any\"\nto = \"any\"\nservices = \"any\"\n";
    let tests = [
        asked("user = \"alice\"\ngroups = [\"dba\"]\ndevice = { enrolled = true }", "\"allow\""),
        asked(
            "user = \"alice\"\ngroups = [\"dba\"]",
            "{ verdict = \"deny\", reason = \"device_mismatch\", rule = \"r\" }",
        ),
        asked("user = \"alice\"", "{ verdict = \"deny\", reason = \"not_in_group\" }"),
        // Out of db nothing is asked.
        asked("", "\"allow\"").replace("from = \"web\"\nto = \"db\"", "from = \"db\"\nto = \"10.10.0.1\""),
    ];
    passes(&(text + &tests.concat()), 4);
}

const TIMED: &str = r#"
[schedules.office]
days = "mon-fri"
hours = ["08:00-12:00", "13:00-18:00"]
timezone = "Europe/Zurich"
[[rule]]
name = "r"
from = "web"
to = "db"
services = "tcp/5432"
starts = 2026-06-01T00:00:00+02:00
expires = 2027-01-31T00:00:00Z
schedule = "office"
"#;

#[test]
fn a_rule_holds_within_its_schedule_after_its_start_and_before_its_end() {
    let refused = "{ verdict = \"deny\", reason = \"outside_schedule\", rule = \"r\" }";
    let at = |at: &str, expect: &str| asked(&format!("at = {at}"), expect);
    let tests = [
        // Winter: one hour before UTC. Summer: two.
        at("2026-12-01T07:00:00Z", "\"allow\""),
        at("2026-12-01T06:59:59.999Z", refused),
        at("2026-07-01T06:00:00Z", "\"allow\""),
        at("2026-12-01T11:00:00Z", refused),
        at("2026-12-01T16:59:59Z", "\"allow\""),
        at("2026-12-01T17:00:00Z", refused),
        at("2026-12-05T10:00:00Z", refused),
        at("2027-01-29T16:59:00Z", "\"allow\""),
        at("2027-02-01T10:00:00Z", refused),
        at("2026-05-29T10:00:00Z", refused),
    ];
    passes(&format!("{BASE}{TIMED}{}", tests.concat()), 10);
}

#[test]
fn a_failed_test_says_why_it_is_not_the_time_and_when_it_was_tried() {
    let test = |at: &str| tried(&format!("{BASE}{TIMED}{}", asked(at, "\"allow\""))).remove(0).unwrap();
    let got = "expected allow, got deny (outside_schedule) by rule `r`: 10.10.0.1 → 10.20.0.1 tcp/5432";
    assert_eq!(test("at = 2027-06-01T10:00:00Z"), format!("{got}; it expired at 2027-01-31T00:00:00Z"));
    assert_eq!(test("at = 2026-05-01T10:00:00Z"), format!("{got}; it starts at 2026-05-31T22:00:00Z"));
    assert_eq!(test("at = 2026-12-05T10:00:00Z"), format!("{got}; its schedule `office` is shut"));
    let now = format!(
        "{BASE}{TIMED}{}",
        asked("", "\"deny\"").replace("tcp/5432\"\n", "tcp/5432\"\nuser = \"a\"\n")
    );
    let failure = tried(&now).remove(0).unwrap();
    let tried_now = "; tried as of now, 2026-12-31T12:00:00Z, because the test names no moment (`at`)";
    assert!(failure.starts_with("expected deny, got allow") && failure.ends_with(tried_now), "{failure}");
}

#[test]
fn the_next_change_of_the_gates_is_the_nearest_edge() {
    let model = model(&format!("{BASE}{TIMED}"));
    let gates = |at: &str| {
        let (open, next) = model.gates_at(moment(at));
        let open: Vec<u32> = (0..3).filter(|gate| open.contains(*gate)).collect();
        (open, next.map(|next| next.to_string()))
    };
    // The start, the end and the schedule, in this order.
    let at = |text: &str| Some(text.to_owned());
    assert_eq!(gates("2026-05-30T12:00:00Z"), (vec![1], at("2026-05-31T22:00:00Z")));
    assert_eq!(gates("2026-05-31T22:00:00Z"), (vec![0, 1], at("2026-06-01T06:00:00Z")));
    assert_eq!(gates("2026-06-01T06:00:00Z"), (vec![0, 1, 2], at("2026-06-01T10:00:00Z")));
    // Over a weekend, and over the end of the rule.
    assert_eq!(gates("2027-01-29T17:00:00Z"), (vec![0, 1], at("2027-01-31T00:00:00Z")));
    assert_eq!(gates("2027-01-31T00:00:00Z"), (vec![0], at("2027-02-01T07:00:00Z")));
    assert_eq!(super::model(TEXT).gates_at(moment("2027-01-31T00:00:00Z")), (Bits::default(), None));
}

#[test]
fn a_schedule_over_midnight_belongs_to_the_day_on_which_it_begins() {
    let text =
        TIMED.replace("mon-fri", "fri").replace("[\"08:00-12:00\", \"13:00-18:00\"]", "\"22:00-06:00\"");
    let model = model(&format!("{BASE}{text}"));
    let schedule = model.identities.schedule("office").unwrap();
    let open = |at: &str| schedule.is_open(moment(at));
    assert!(!open("2026-12-04T20:59:59Z") && open("2026-12-04T21:00:00Z"));
    assert!(open("2026-12-05T04:59:59Z") && !open("2026-12-05T05:00:00Z"));
    assert!(!open("2026-12-04T02:00:00Z"), "the night before belongs to Thursday");
    let next = |at: &str| schedule.next_change(moment(at)).unwrap().to_string();
    assert_eq!(next("2026-12-04T23:00:00Z"), "2026-12-05T05:00:00Z");
    assert_eq!(next("2026-12-05T05:00:00Z"), "2026-12-11T21:00:00Z");
}

#[test]
fn a_schedule_follows_the_clock_when_it_is_put_forward_and_back() {
    let text =
        TIMED.replace("mon-fri", "sun").replace("[\"08:00-12:00\", \"13:00-18:00\"]", "\"02:15-02:45\"");
    let model = model(&format!("{BASE}{text}"));
    let schedule = model.identities.schedule("office").unwrap();
    let mut at = moment("2026-03-22T12:00:00Z");
    let mut changes = Vec::new();
    while at < moment("2026-04-05T12:00:00Z") {
        at = schedule.next_change(at).unwrap();
        changes.push(at.to_string());
    }
    // On 29 March the half hour does not exist.
    assert_eq!(changes[..2], ["2026-04-05T00:15:00Z", "2026-04-05T00:45:00Z"]);
    let mut at = moment("2026-10-24T12:00:00Z");
    let mut changes = Vec::new();
    for _ in 0..4 {
        at = schedule.next_change(at).unwrap();
        changes.push(at.to_string());
    }
    // On 25 October it comes twice.
    let twice =
        ["2026-10-25T00:15:00Z", "2026-10-25T00:45:00Z", "2026-10-25T01:15:00Z", "2026-10-25T01:45:00Z"];
    assert_eq!(changes, twice);
}

#[test]
fn a_test_asks_every_combination_of_what_it_names() {
    let text = r#"[[rule]]
name = "r"
from = "any"
to = "any"
services = ["tcp/1-2", "udp/1"]
[[test]]
name = "t"
from = ["web", "10.20.0.9"]
to = ["10.20.0.3", "10.10.0.9"]
port = ["tcp/1", "tcp/2", "udp/1"]
expect = "allow"
"#;
    passes(&format!("{BASE}{text}"), 1);
    let failure =
        tried(&format!("{BASE}{}", text.replace("\"udp/1\"]\nexpect", "\"udp/2\"]\nexpect"))).remove(0);
    assert!(failure.unwrap().ends_with("10.10.0.1 → 10.20.0.3 udp/2"));
}

#[test]
fn what_changes_the_behaviour_changes_the_digest() {
    let text = format!(
        "{BASE}[groups.dba]\nmembers = [\"a\"]\ngroups = [\"x\"]\n[groups.x]\n[postures.p]\nok = true\n{TIMED}\
         users = {{ groups = [\"dba\"] }}\nrequire = {{ mfa_max_age = \"1h\", posture = \"p\", risk_below = 50, devices = {{ tags = [\"t\"] }} }}\n\
         [[rule]]\nname = \"s\"\nfrom = \"any\"\nto = \"db\"\nservices = \"any\"\naction = \"deny\"\n"
    );
    let digest = |text: &str| model(text).digest;
    let before = digest(&text);
    for (from, to) in [
        ("members = [\"a\"]", "members = [\"a\", \"b\"]"),
        ("groups = [\"x\"]\n", ""),
        ("ok = true", "ok = false"),
        ("ok = true", "ok = true\nmax_age = \"1m\""),
        ("mon-fri", "mon-sat"),
        ("08:00", "08:01"),
        ("Europe/Zurich", "Europe/London"),
        ("2026-06-01", "2026-06-02"),
        ("2027-01-31", "2027-02-01"),
        ("schedule = \"office\"\n", ""),
        ("{ groups = [\"dba\"] }", "\"any\""),
        ("{ groups = [\"dba\"] }", "\"dba\""),
        ("\"1h\"", "\"2h\""),
        ("posture = \"p\", ", ""),
        ("50", "51"),
        ("[\"t\"]", "[\"u\"]"),
        ("tags = [\"t\"]", "tags = [\"t\"], enrolled = true"),
        ("risk_below = 50", "risk_below = 50, mfa = \"phishing-resistant\""),
        ("name = \"s\"", "name = \"s\"\ntier = \"platform\""),
        ("name = \"s\"", "name = \"s\"\nmode = \"audit\""),
        ("port = \"lan\"", "port = \"lan\"\nrequire = { risk_below = 9 }"),
        ("port = \"lan\"", "port = \"lan\"\nrequire_from = { risk_below = 9 }"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        assert_ne!(digest(&changed), before, "{from} → {to}");
    }
    for (from, to) in [
        ("members = [\"a\"]", "members = [\"a\"]\ndescription = \"who\""),
        ("2027-01-31T00:00:00Z", "2027-01-31T01:00:00+01:00"),
        ("\"1h\"", "\"60m\""),
        ("name = \"s\"", "name = \"s\"\ntier = \"app\"\nmode = \"enforce\""),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        assert_eq!(digest(&changed), before, "{from} → {to}");
    }
}

const AUDITED: &str = r#"
[[rule]]
name = "sql"
from = "web"
to = "db"
services = "tcp/5432"
users = "any"
[[rule]]
name = "no-telnet"
from = "any"
to = "any"
services = "tcp/23"
action = "deny"
tier = "platform"
"#;

/// What a policy answers to a packet from web to db by this protocol and port, when nobody is known.
fn judged(policy: &Policy, protocol: u8, port: u16) -> Decision {
    policy.judge(&Query {
        ingress: PortId(0),
        source: "10.10.0.7".parse().unwrap(),
        destination: "10.20.0.7".parse().unwrap(),
        protocol,
        destination_port: port,
    })
}

#[test]
fn between_segments_in_audit_everything_passes_and_what_would_happen_is_known() {
    let floor = BASE.replace("port = \"servers\"", "port = \"servers\"\nrequire = { posture = \"p\" }");
    let text = format!("{floor}[postures.p]\nok = true\n{AUDITED}");
    let plain = model(&text);
    assert!(plain.audited().is_none() && plain.compile_audited().is_none());
    let refused = |policy: &Policy, protocol, port| judged(policy, protocol, port).refusal.map(|r| r.name());
    let policy = plain.compile().unwrap();
    assert_eq!(refused(&policy, 6, 5432), Some("not_authenticated"));
    for audit in
        ["[[audit]]\nfrom = \"web\"\nto = \"db\"\n", "[[audit]]\nfrom = \"any\"\nto = [\"db\", \"web\"]\n"]
    {
        let model = model(&format!("{text}{audit}"));
        assert_ne!(model.digest, plain.digest);
        let (enforced, beside) = (model.compile().unwrap(), model.compile_audited().unwrap().unwrap());
        let name = if audit.contains("any") { "audit:any:db+web" } else { "audit:web:db" };
        let rule = model.rule_id(name).unwrap();
        assert!(model.rule_infos[rule.0 as usize].is_synthetic);
        for (protocol, port, would) in [
            (6, 5432, Some("not_authenticated")),
            (6, 23, Some("rule_denied")),
            (17, 53, Some("no_rule")),
            (1, 0, Some("no_rule")),
            (47, 0, Some("protocol_unsupported")),
            (99, 0, Some("protocol_unsupported")),
        ] {
            let decision = judged(&enforced, protocol, port);
            assert_eq!((decision.refusal, decision.rule), (None, rule), "{protocol}/{port}");
            assert_eq!(refused(&beside, protocol, port), would, "{protocol}/{port}");
            // The numbers of the rules are the same, and the other rules' too.
            assert_eq!(
                judged(&beside, protocol, port).rule == model.rule_id("no-telnet").unwrap(),
                port == 23
            );
        }
        // What is spoofed stays out, and so does what is for nobody.
        let query = |source: &str, destination: &str| Query {
            ingress: PortId(0),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: 6,
            destination_port: 80,
        };
        let reason = |query: Query| enforced.judge(&query).refusal.unwrap().name();
        assert_eq!(reason(query("10.20.0.9", "10.20.0.7")), "spoofed_source");
        assert_eq!(reason(query("10.10.0.7", "192.0.2.1")), "no_destination_segment");
    }
    let other = model(&format!("{text}[[audit]]\nfrom = \"db\"\nto = \"web\"\n"));
    assert_eq!(refused(&other.compile().unwrap(), 6, 5432), Some("not_authenticated"));
}

#[test]
fn a_gateway_in_audit_refuses_nothing_that_rules_could_allow() {
    let text = format!("{BASE}{AUDITED}").replacen("[ports", "[gateway]\naudit = true\n[ports", 1);
    let model = model(&text);
    let policy = model.compile().unwrap();
    let decision = judged(&policy, 6, 23);
    assert_eq!((decision.refusal, model.rule_name(decision.rule)), (None, Some("audit:any:any")));
    let without = super::model(&text.replace("audit = true", "audit = false"));
    assert!(without.audited().is_none());
    assert_ne!(without.digest, model.digest);
}

#[test]
fn a_rule_in_audit_changes_no_verdict_whatever_its_action() {
    for (action, would) in [("allow", None), ("deny", Some("rule_denied")), ("reject", Some("rule_rejected"))]
    {
        let rule = format!(
            "[[rule]]\nname = \"tried\"\nmode = \"audit\"\ntier = \"platform\"\nfrom = \"web\"\nto = \"db\"\nservices = [\"tcp/80\", \"tcp/5432\"]\naction = \"{action}\"\n"
        );
        let open = AUDITED.replace("users = \"any\"\n", "");
        let model = model(&format!("{BASE}{open}{rule}"));
        let without = super::model(&format!("{BASE}{open}"));
        let (enforced, before) = (model.compile().unwrap(), without.compile().unwrap());
        for port in [23, 80, 5432] {
            assert_eq!(
                judged(&enforced, 6, port).refusal,
                judged(&before, 6, port).refusal,
                "{action} {port}"
            );
        }
        let beside = model.compile_audited().unwrap().unwrap();
        for port in [80, 5432] {
            assert_eq!(judged(&beside, 6, port).refusal.map(|r| r.name()), would, "{action} {port}");
        }
    }
}

#[test]
fn audit_takes_a_tier_of_its_own() {
    let names: Vec<String> = (0..16).map(|n| format!("\"t{n}\"")).collect();
    let rules = (0..16).map(|n| {
        format!("[[rule]]\nname = \"r{n}\"\ntier = \"t{n}\"\nfrom = \"any\"\nto = \"any\"\nservices = \"tcp/{}\"\n", n + 1)
    });
    let text = BASE.replacen("[ports", &format!("tiers = [{}]\n[ports", names.join(", ")), 1);
    let all: String = rules.clone().collect();
    assert!(model(&format!("{text}{all}")).compile().is_ok());
    let audit = "[[audit]]\nfrom = \"web\"\nto = \"db\"\n";
    let errors = parse("t.toml", &format!("{text}{all}{audit}")).unwrap_err().to_string();
    assert!(errors.contains("with rules in 16 tiers no pair can be in audit"), "{errors}");
    let fewer: String = rules.skip(1).collect();
    assert!(model(&format!("{text}{fewer}{audit}")).compile().is_ok());
}
