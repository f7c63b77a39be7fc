use super::text::{Colours, tell};
use super::*;
use crate::model;

const TEXT: &str = r#"version = 1
[gateway]
workers = 1
[ports.a]
interface = "eth1"
[ports.b]
interface = "eth2"
local = ["tcp/22"]
[segments.office]
port = "a"
networks = ["10.1.0.0/24", "fd00:1::/64"]
[segments.db]
port = "b"
networks = ["10.2.0.0/24", "fd00:2::/64"]
[segments.lab]
port = "b"
networks = ["10.3.0.0/24"]
[[rule]]
name = "sql"
from = "office"
to = "db"
services = ["tcp/5432", "icmp/echo-request"]
[[rule]]
name = "web"
from = "any"
to = "lab"
services = ["tcp/80", "tcp/443"]
"#;

fn plan(edits: &[(&str, &str)]) -> Plan {
    let mut text = TEXT.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let (old, new) = (model::parse("old", TEXT).unwrap(), model::parse("new", &text).unwrap());
    Plan::between(&old, &new).unwrap()
}

fn end(name: &str) -> EndName {
    EndName { old: Some(name.to_owned()), new: Some(name.to_owned()) }
}

#[test]
fn the_order_of_rules_and_how_they_are_written_is_no_difference() {
    let plan = plan(&[("services = [\"tcp/80\", \"tcp/443\"]", "services = [\"tcp/443\", \"tcp/80\"]")]);
    assert!(!plan.is_different() && plan.rules == Names::default(), "{plan:#?}");
    assert_eq!(tell(&plan, Colours(false)), "no difference: old and new do the same");
}

#[test]
fn a_rule_split_in_two_or_renamed_is_no_difference_but_is_named() {
    let split = "name = \"sql2\"\nfrom = \"office\"\nto = \"db\"\nservices = \"icmp/echo-request\"\n[[rule]]\nname = \"s\"";
    let plan = plan(&[(", \"icmp/echo-request\"", ""), ("name = \"sql\"", split)]);
    assert!(!plan.is_different(), "{plan:#?}");
    assert_eq!((plan.rules.added, plan.rules.removed), (vec!["s".into(), "sql2".into()], vec!["sql".into()]));
}

#[test]
fn a_renamed_segment_is_no_difference_and_a_moved_network_is_told_address_by_address() {
    let renamed = plan(&[("segments.lab", "segments.test"), ("to = \"lab\"", "to = \"test\"")]);
    assert!(!renamed.is_different(), "{renamed:#?}");
    assert_eq!(renamed.renamed, ["lab → test"]);
    let moved =
        plan(&[("\"10.2.0.0/24\", ", ""), ("[\"10.3.0.0/24\"]", "[\"10.3.0.0/24\", \"10.2.0.0/24\"]")]);
    let name = EndName { old: Some("db".into()), new: Some("lab".into()) };
    let to_it: Vec<_> = moved.access.iter().filter(|access| access.to == [name.clone()]).collect();
    let of = |change| to_it.iter().find(|access| access.change == change).unwrap();
    assert_eq!(of(Change::Lost).services, ["tcp/5432", "icmp/echo-request"]);
    assert_eq!(of(Change::Gained).services, ["tcp/80", "tcp/443"]);
    let told = tell(&moved, Colours(false));
    assert!(told.contains("- lost: office → (db → lab): tcp/5432, icmp/echo-request"), "{told}");
}

#[test]
fn what_is_gained_and_lost_has_a_packet_that_shows_it() {
    let plan = plan(&[
        ("\"tcp/5432\"", "\"tcp/5430-5440\""),
        ("services = [\"tcp/80\", \"tcp/443\"]", "services = [\"tcp/80\"]"),
    ]);
    let [gained, lost] = plan.access.as_slice() else { panic!("{plan:#?}") };
    assert_eq!((gained.change, lost.change), (Change::Gained, Change::Lost));
    assert_eq!((&gained.from[..], &gained.to[..]), (&[end("office")][..], &[end("db")][..]));
    assert_eq!(gained.services, ["tcp/5430-5431", "tcp/5433-5440"]);
    let witness = gained.witness.as_ref().unwrap();
    assert_eq!((witness.source.as_str(), witness.port_in.as_str()), ("10.1.0.1", "a"));
    assert_eq!((witness.destination.as_str(), witness.service.as_str()), ("10.2.0.1", "tcp/5430"));
    assert_eq!(
        (witness.before.verdict.as_str(), witness.before.reason.as_deref()),
        ("deny", Some("no_rule"))
    );
    assert_eq!((witness.after.verdict.as_str(), witness.after.rule.as_deref()), ("allow", Some("sql")));
    assert_eq!(lost.from, [end("db"), end("lab"), end("office")]);
    assert_eq!(
        (&lost.before, &lost.after),
        (&vec!["allowed by `web`".to_owned()], &vec!["no rule".to_owned()])
    );
    assert_eq!(plan.rules.changed, ["sql", "web"]);
}

#[test]
fn refusing_aloud_or_silently_is_a_difference_of_its_own() {
    let rule = "[[rule]]\nname = \"no\"\nfrom = \"lab\"\nto = \"db\"\nservices = \"tcp/22\"\naction = \"reject\"\n[[rule]]\nname = \"web\"";
    let rejected = plan(&[("[[rule]]\nname = \"web\"", rule)]);
    let [access] = rejected.access.as_slice() else { panic!("{rejected:#?}") };
    assert_eq!((access.change, &access.services[..]), (Change::Rejected, &["tcp/22".to_owned()][..]));
    let denied = plan(&[("[[rule]]\nname = \"web\"", &rule.replace("reject", "deny"))]);
    assert!(!denied.is_different(), "denying what nothing allows changes nothing: {denied:#?}");
}

#[test]
fn limits_and_time_outs_are_differences_of_the_connections_they_are_for() {
    let limited = plan(&[(
        "name = \"sql\"",
        "name = \"sql\"\nlimits = { connections = 7 }\ntimeouts = { tcp_established = \"1h\" }",
    )]);
    let [access] = limited.access.as_slice() else { panic!("{limited:#?}") };
    assert_eq!(
        (access.change, &access.services[..]),
        (Change::Effect, &["tcp/5432".to_owned(), "icmp/echo-request".to_owned()][..])
    );
    assert_eq!(access.after, ["allowed by `sql` with tcp_established 1h, connections 7"]);
    assert_eq!(access.before, ["allowed by `sql` without limits and time-outs of its own"]);
}

#[test]
fn settings_differ_by_name_and_say_whether_they_need_a_restart() {
    let plan = plan(&[
        ("workers = 1", "workers = 2\n[gateway.timeouts]\nicmp = \"30s\""),
        ("local = [\"tcp/22\"]", "local = [\"tcp/22\", \"icmp/echo-request\"]"),
        ("[segments.db]", "[segments.db]\nprotect = \"syn-cookies\"\npermit = [\"ipv4-router-alert\"]"),
    ]);
    assert!(plan.access.is_empty() && plan.needs_restart() && plan.is_different());
    let told = tell(&plan, Colours(false));
    for line in [
        "  ~ gateway: workers 1 → 2 (only a restart changes this)",
        "  ~ gateway: timeouts.icmp 1m → 30s",
        "  ~ port b: local tcp/22 → tcp/22, icmp/echo-request",
        "  + segment db: protect syn-cookies",
        "  + segment db: permit ipv4-router-alert",
        "plan: 0 gained, 0 lost, 0 otherwise changed, 5 settings; needs a restart",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} is missing in\n{told}");
    }
}

#[test]
fn ports_are_compared_by_name_whatever_their_numbers() {
    let plan = plan(&[("[ports.a]", "[ports.0]\ninterface = \"eth0\"\n[ports.a]")]);
    assert!(plan.access.is_empty(), "{plan:#?}");
    assert_eq!((plan.settings.len(), plan.settings[0].of.as_str()), (1, "port 0"));
    assert!(plan.needs_restart());
}

#[test]
fn every_list_of_services_is_told_in_words_that_a_file_can_hold() {
    let told = |spans: &[(u32, u32)]| words::services(spans).join(" ");
    assert_eq!(told(&[(80, 80), (443, 444)]), "tcp/80 tcp/443-444");
    assert_eq!(told(&[(0, 65535)]), "tcp/1-65535");
    assert_eq!(told(&[(65530, 65536 + 53)]), "tcp/65530-65535 udp/1-53");
    assert_eq!(told(&[(0, (2 << 16) + 1)]), "any");
    assert_eq!(told(&[(0, 2 << 16)]), "any", "where there is IPv4 only");
    assert_eq!(
        told(&[(2 << 16, 2 << 16), ((2 << 16) + 2 + 47, (2 << 16) + 2 + 47)]),
        "icmp/echo-request gre"
    );
    assert_eq!(told(&[((2 << 16) + 2, (2 << 16) + 2 + 255)]), "every other protocol");
    assert_eq!(
        told(&[((2 << 16) + 2, (2 << 16) + 2 + 46), ((2 << 16) + 2 + 48, (2 << 16) + 2 + 255)]),
        "every other protocol but gre"
    );
}

/// A policy whose only rule is for some.
fn for_some(users: &str) -> String {
    let rule = "[[rule]]\nname = \"sql\"\nfrom = \"office\"\nto = \"db\"\nservices = \"tcp/5432\"";
    let head = &TEXT[..TEXT.find("[[rule]]").unwrap()];
    format!("{head}{rule}\n{users}\n")
}

fn between(old: &str, new: &str) -> Plan {
    let (old, new) = (model::parse("old", old).unwrap(), model::parse("new", new).unwrap());
    Plan::between(&old, &new).unwrap()
}

#[test]
fn who_gains_is_told_by_name_whatever_the_numbers_are() {
    let old = for_some("users = { groups = [\"dba\"] }");
    let new = for_some("users = { groups = [\"admins\", \"dba\"] }\nrequire = { mfa_max_age = \"1h\" }");
    let plan = between(&old, &new);
    let [gained, lost] = plan.access.as_slice() else { panic!("{plan:#?}") };
    assert_eq!((gained.change, lost.change), (Change::Gained, Change::Lost));
    let gains = &gained.witness.as_ref().unwrap().who;
    assert!(
        gains.contains(&"in group admins".to_owned())
            && gains.contains(&"second factor shown 1h ago".to_owned()),
        "{gains:?}"
    );
    assert!(!gains.contains(&"in group dba".to_owned()), "{gains:?}");
    let loses = &lost.witness.as_ref().unwrap();
    assert!(loses.who.contains(&"in group dba".to_owned()), "{loses:?}");
    assert_eq!(loses.after.reason.as_deref(), Some("mfa_missing"));
    let same = between(&old, &for_some("users = { groups = [\"dba\"] }\nowner = \"me\""));
    assert!(!same.is_different(), "{same:#?}");
}

#[test]
fn a_new_member_of_a_declared_group_gains_what_the_group_may() {
    let with = |members: &str| {
        for_some(&format!("users = {{ groups = [\"dba\"] }}\n[groups.dba]\nmembers = [{members}]"))
    };
    let plan = between(&with("\"alice\""), &with("\"alice\", \"bob\""));
    let [gained] = plan.access.as_slice() else { panic!("{plan:#?}") };
    assert_eq!(
        (gained.change, &gained.witness.as_ref().unwrap().who[..]),
        (Change::Gained, &["user bob".to_owned()][..])
    );
}

#[test]
fn a_rule_that_expires_earlier_loses_a_time_that_comes() {
    let until = |year: u32| for_some(&format!("expires = {year}-01-01T00:00:00Z"));
    let plan = between(&until(2090), &until(2080));
    let [lost] = plan.access.as_slice() else { panic!("{plan:#?}") };
    assert_eq!(
        (lost.change, &lost.witness.as_ref().unwrap().who[..]),
        (Change::Lost, &["before 2090-01-01T00:00:00Z".to_owned()][..])
    );
}

#[test]
fn rules_that_expire_are_listed_the_first_first_and_are_no_difference() {
    let rule = |name: &str, expires: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nfrom = \"office\"\nto = \"db\"\nservices = \"tcp/9\"\nexpires = {expires}\n"
        )
    };
    let text = |rules: &[(&str, &str)]| {
        TEXT.to_owned() + &rules.iter().map(|(name, expires)| rule(name, expires)).collect::<String>()
    };
    let day = |day: u32| format!("2090-03-{day:02}T00:00:00Z");
    let (past, soon, edge, later) = (day(1), day(20), day(31), "2090-03-31T00:00:01Z");
    let old = [("both", &*soon), ("past", &past), ("moved", &past), ("gone", &soon)];
    let new = [("both", &*soon), ("past", &past), ("moved", &edge), ("late", later), ("come", &day(2))];
    let [old, new] =
        [("old", text(&old)), ("new", text(&new))].map(|(name, text)| model::parse(name, &text).unwrap());
    let found = expiring(&old, &new, day(1).parse().unwrap());
    let rows: Vec<_> = found
        .iter()
        .map(|row| (row.rule.as_str(), row.kind.as_str(), row.left_s.map(|s| s / 86_400), row.old, row.new))
        .collect();
    let expected = [
        ("moved", "expired", None, true, false),
        ("past", "expired", None, true, true),
        ("come", "expires-soon", Some(1), false, true),
        ("both", "expires-soon", Some(19), true, true),
        ("gone", "expires-soon", Some(19), true, false),
        ("moved", "expires-soon", Some(30), false, true),
    ];
    assert_eq!(rows, expected);
    assert!(found[0].at.starts_with("old:") && found[1].at.starts_with("new:"), "{found:?}");
    // `check` warns of the same.
    let warned = crate::lint::lint(&new, day(1).parse().unwrap());
    let warned: Vec<_> = warned.iter().filter(|lint| lint.kind.starts_with("expire")).collect();
    assert_eq!(warned.len(), found.iter().filter(|row| row.new).count());
    let mut plan = Plan::between(&old, &old).unwrap();
    plan.expiring = found;
    let told = tell(&plan, Colours(false));
    for line in [
        "rules that have expired or expire soon:",
        "  `moved` expired at 2090-03-01T00:00:00Z, and not so in the new policy (old:",
        "  `both` expires at 2090-03-20T00:00:00Z, in 19d 0h (new:",
        "  `come` expires at 2090-03-02T00:00:00Z, in 1d 0h, and not so in the old one (new:",
        "no difference",
    ] {
        assert!(told.lines().any(|told| told.starts_with(line)), "{line}\n{told}");
    }
    assert!(!plan.is_different());
}
