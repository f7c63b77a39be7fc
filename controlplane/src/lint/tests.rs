use super::*;
use crate::model;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

const HEAD: &str = r#"version = 1
[ports.a]
interface = "eth1"
[ports.b]
interface = "eth2"
[segments.office]
port = "a"
networks = ["10.1.0.0/24"]
[segments.db]
port = "b"
networks = ["10.2.0.0/24"]
[segments.lab]
port = "b"
networks = ["10.3.0.0/24"]
"#;

/// A rule with these services.
fn rule(name: &str, from: &str, to: &str, services: &str, more: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nfrom = {from}\nto = {to}\nservices = {services}\n{more}\n")
}

/// Names every segment, so that only the other rules matter.
fn rule_named() -> String {
    rule("zz-named", "\"any\"", "\"any\"", "\"tcp/9\"", "action = \"reject\"")
}

/// What is warned of: kinds with the rules.
fn kinds(rules: &[String]) -> Vec<(&'static str, Vec<String>)> {
    let named = rule_named();
    let text = format!("{HEAD}{}{named}", rules.concat());
    let model = model::parse("t.toml", &text).unwrap();
    lint(&model, NOW)
        .into_iter()
        .map(|lint| (lint.kind, lint.rules.into_iter().map(|(name, _)| name).collect()))
        .collect()
}

fn warned(kind: &'static str, rules: &[&str]) -> Vec<(&'static str, Vec<String>)> {
    vec![(kind, rules.iter().map(|&rule| rule.to_owned()).collect())]
}

const OFFICE: &str = "\"office\"";
const DB: &str = "\"db\"";
const DENY: &str = "action = \"deny\"";

#[test]
fn a_rule_that_a_deny_covers_is_shadowed_and_one_that_it_covers_in_part_is_not() {
    let deny = rule("no", "\"any\"", DB, "\"tcp/1-100\"", DENY);
    let found = kinds(&[deny.clone(), rule("web", OFFICE, DB, "\"tcp/80\"", "")]);
    assert!(found.contains(&warned("shadowed", &["web", "no"])[0]), "{found:?}");
    assert_eq!(kinds(&[deny, rule("web", OFFICE, DB, "\"tcp/80-101\"", "")]), []);
}

#[test]
fn a_rule_is_redundant_when_others_together_say_the_same_and_not_when_a_port_is_missing() {
    let parts = |high| {
        [
            rule("low", OFFICE, DB, "\"tcp/1-50\"", ""),
            rule("high", "[\"office\", \"lab\"]", DB, &format!("\"tcp/51-{high}\""), ""),
            rule("narrow", OFFICE, DB, "\"tcp/40-60\"", ""),
        ]
    };
    let [(kind, rules)] = &kinds(&parts(60))[..] else { panic!("{:?}", kinds(&parts(60))) };
    assert_eq!((*kind, rules[0].as_str(), rules.len()), ("redundant", "narrow", 3));
    assert_eq!(kinds(&parts(59)), []);
}

#[test]
fn of_two_equal_rules_one_is_called_redundant() {
    let twins = [rule("a", OFFICE, DB, "\"tcp/80\"", ""), rule("b", OFFICE, DB, "\"tcp/80\"", "")];
    assert_eq!(kinds(&twins), warned("redundant", &["b", "a"]));
    // Its connections are kept for another time, or counted apart.
    for more in ["timeouts = { tcp_established = \"1h\" }", "limits = { connections = 5 }"] {
        let other = [rule("a", OFFICE, DB, "\"tcp/80\"", more), rule("b", OFFICE, DB, "\"tcp/80\"", "")];
        assert_eq!(kinds(&other), warned("shadowed", &["b", "a"]), "the first by name decides");
    }
}

#[test]
fn a_deny_denies_nothing_where_nothing_is_allowed_and_a_reject_still_tells_the_sender() {
    let deny = rule("no", OFFICE, DB, "\"tcp/22\"", DENY);
    assert_eq!(kinds(std::slice::from_ref(&deny)), warned("denies-nothing", &["no"]));
    assert_eq!(kinds(&[rule("no", OFFICE, DB, "\"tcp/22\"", "action = \"reject\"")]), []);
    assert_eq!(kinds(&[deny, rule("ssh", "[\"office\", \"lab\"]", DB, "\"tcp/20-30\"", "")]), []);
}

#[test]
fn a_segment_whose_addresses_all_belong_to_smaller_ones_never_matches() {
    let text = |lab: &str| {
        let split = format!("[segments.small]\nport = \"b\"\nnetworks = [\"10.3.0.0/25\", {lab}]\n");
        let all = rule("named", "\"any\"", "\"any\"", "\"tcp/9\"", "action = \"reject\"");
        format!("{HEAD}{split}{}{all}", rule("x", OFFICE, "\"lab\"", "\"tcp/80\"", ""))
    };
    let lints = |lab| {
        let model = model::parse("t.toml", &text(lab)).unwrap();
        lint(&model, NOW).into_iter().map(|lint| lint.kind).collect::<Vec<_>>()
    };
    assert_eq!(lints("\"10.3.0.128/25\""), ["never-matches"]);
    assert_eq!(lints("\"10.3.0.128/26\""), [] as [&str; 0]);
}

#[test]
fn broad_is_every_service_or_everywhere_and_not_one_service_from_everywhere() {
    assert_eq!(kinds(&[rule("all", OFFICE, DB, "\"any\"", "")]), warned("broad", &["all"]));
    assert_eq!(kinds(&[rule("all", "\"any\"", "\"any\"", "\"tcp/80\"", "")]), warned("broad", &["all"]));
    assert_eq!(kinds(&[rule("some", "\"any\"", DB, "\"tcp/80\"", "")]), []);
    assert_eq!(kinds(&[rule("no", OFFICE, DB, "\"any\"", "action = \"reject\"")]), []);
}

#[test]
fn segments_that_no_rule_names_are_told_with_their_places() {
    let told = |to: &str| {
        let model =
            model::parse("t.toml", &format!("{HEAD}{}", rule("r", OFFICE, to, "\"tcp/80\"", ""))).unwrap();
        lint(&model, NOW).iter().map(|lint| lint.render(&model.sources)).collect::<Vec<_>>()
    };
    let expected =
        "t.toml:12:11: warning: no rule names segment `lab`: nothing crosses to or from it [unused-segment]";
    assert_eq!(told(DB), [expected]);
    assert_eq!(told("[\"db\", \"lab\"]"), [] as [&str; 0]);
}

#[test]
fn a_warning_shows_a_packet_and_the_other_rule() {
    let rules = [rule("no", "\"any\"", DB, "\"tcp/1-100\"", DENY), rule("web", OFFICE, DB, "\"tcp/80\"", "")];
    let named = rule("zz-named", "\"any\"", "\"any\"", "\"tcp/9\"", "action = \"reject\"");
    let model = model::parse("t.toml", &format!("{HEAD}{}{named}", rules.concat())).unwrap();
    let lints = lint(&model, NOW);
    let shadowed = lints.iter().find(|lint| lint.kind == "shadowed").unwrap();
    assert_eq!(shadowed.packet.as_deref(), Some("10.1.0.1 → 10.2.0.1 tcp/80"));
    let told = shadowed.render(&model.sources);
    assert!(told.starts_with("t.toml:22:8: warning: rule `web` never decides: `no` decides first"), "{told}");
    assert!(told.contains("`no`: t.toml:16:8") && told.contains("for example 10.1.0.1"), "{told}");
    assert_eq!(shadowed.to_json(&model.sources)["line"], 22);
}

#[test]
fn expired_and_soon_expiring_rules_are_told_and_others_are_not() {
    let until = |text: &str| kinds(&[rule("r", OFFICE, DB, "\"tcp/80\"", &format!("expires = {text}"))]);
    // The moment of these tests is 1970-01-01.
    assert_eq!(until("1970-01-01T00:00:00Z"), warned("expired", &["r"]));
    assert_eq!(until("1970-01-31T00:00:00Z"), warned("expires-soon", &["r"]));
    assert_eq!(until("1970-01-31T00:00:01Z"), []);
}

#[test]
fn a_requirement_is_pointless_where_a_floor_asks_for_as_much_and_not_where_it_asks_for_less() {
    let with = |floor: &str, users: &str| {
        let head = HEAD
            .replace("[segments.db]", &format!("[segments.db]\nrequire = {{ mfa_max_age = \"{floor}\" }}"));
        let rule =
            rule("r", OFFICE, DB, "\"tcp/80\"", &format!("require = {{ mfa_max_age = \"1h\" }}\n{users}"));
        let named = rule_named();
        let model = model::parse("t.toml", &format!("{head}{rule}{named}")).unwrap();
        lint(&model, NOW).into_iter().map(|lint| lint.kind).collect::<Vec<_>>()
    };
    assert_eq!(with("30m", ""), ["pointless-requirement"]);
    assert_eq!(with("2h", ""), [] as [&str; 0]);
}

#[test]
fn a_rule_for_others_than_its_floor_is_unreachable_and_one_for_some_of_them_is_not() {
    let with = |users: &str| {
        let head = HEAD.replace("[segments.db]", "[segments.db]\nrequire = { users = [\"alice\", \"bob\"] }");
        let rule = rule("r", OFFICE, DB, "\"tcp/80\"", &format!("users = {users}"));
        let model = model::parse("t.toml", &format!("{head}{rule}{}", rule_named())).unwrap();
        lint(&model, NOW).into_iter().map(|lint| lint.kind).collect::<Vec<_>>()
    };
    assert_eq!(with("[\"carol\"]"), ["unreachable-by-floor"]);
    assert_eq!(with("[\"bob\", \"carol\"]"), [] as [&str; 0]);
}

#[test]
fn a_rule_whose_demands_another_does_not_make_is_redundant() {
    let strict = |services: &str| {
        [
            rule("anybody", OFFICE, DB, services, ""),
            rule("strict", OFFICE, DB, "\"tcp/80\"", "require = { mfa_max_age = \"1h\" }"),
        ]
    };
    assert_eq!(kinds(&strict("\"tcp/1-100\"")), warned("redundant", &["strict", "anybody"]));
    assert_eq!(kinds(&strict("\"tcp/81-100\"")), []);
}

#[test]
fn a_quarantine_that_reaches_more_than_what_mends_it_is_told() {
    let quarantine = |to: &str, services: &str, more: &str| {
        let segments = "[segments.jail]\nquarantine = true\n[segments.internet]\nport = \"a\"\nnetworks = [\"0.0.0.0/0\"]\n";
        let found = kinds(&[segments.to_owned(), rule("out", "\"jail\"", to, services, more)]);
        found.into_iter().filter(|(kind, _)| *kind != "redundant").collect::<Vec<_>>()
    };
    let told = warned("wide-quarantine", &["out"]);
    for (to, services) in [
        (DB, "\"any\""),
        (DB, "\"tcp/1-65535\""),
        ("[\"db\", \"lab\", \"office\", \"internet\"]", "\"tcp/80\""),
        ("\"internet\"", "\"tcp/443\""),
    ] {
        assert_eq!(quarantine(to, services, ""), told, "{to} {services}");
    }
    for (to, services, more) in [
        (DB, "\"tcp/8080\"", ""),
        ("[\"db\", \"lab\"]", "\"udp/53\"", ""),
        ("\"internet\"", "\"tcp/443\"", DENY),
    ] {
        assert!(!quarantine(to, services, more).contains(&told[0]), "{to} {services} {more}");
    }
}
