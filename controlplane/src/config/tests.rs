//! Bad files and exactly what is said of them.

mod language;
mod trust;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::diagnostics::Diagnostics;
use super::values;
use crate::model;

/// A configuration in which nothing is wrong; cases append to it or replace a part of it.
const GOOD: &str = r#"version = 1
[ports.lan]
interface = "eth1"
[ports.wan]
interface = "eth2"
[segments.web]
port = "lan"
networks = ["10.1.0.0/24"]
[segments.db]
port = "wan"
networks = ["10.2.0.0/24"]
[services.https]
ports = ["tcp/443"]
[[rule]]
name = "web-to-db"
from = "web"
to = "db"
services = ["https"]
"#;

/// Every error on one line: `line:column message | label | hint | related line:column label`.
fn lines(errors: &Diagnostics) -> Vec<String> {
    errors
        .list()
        .iter()
        .map(|error| {
            let place = |at| {
                let (_, line, column) = errors.sources().position(at);
                format!("{line}:{column}")
            };
            let mut line = error.at.map_or_else(|| "-".to_owned(), place);
            line += &format!(" {}", error.message);
            if !error.label.is_empty() {
                line += &format!(" | {}", error.label);
            }
            if let Some(hint) = &error.hint {
                line += &format!(" | {hint}");
            }
            if let Some((at, label)) = &error.related {
                line += &format!(" | {} {label}", place(*at));
            }
            line
        })
        .collect()
}

/// Asserts that the text has these errors and no others.
fn says(text: &str, expected: &[&str]) {
    let errors = model::parse("t.toml", text).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
    assert_eq!(lines(&errors), expected, "{text}");
}

/// Asserts what is said of the good configuration with `from` replaced by `to`.
fn edit(from: &str, to: &str, expected: &[&str]) {
    assert!(GOOD.contains(from), "{from}");
    says(&GOOD.replacen(from, to, 1), expected);
}

/// Asserts what is said of the good configuration with text appended.
fn append(text: &str, expected: &[&str]) {
    says(&format!("{GOOD}{text}"), expected);
}

const LATER: &str = "it is refused rather than ignored, because what looks restricted must be; take it out";

#[test]
fn the_good_configuration_is_good() {
    model::parse("t.toml", GOOD).unwrap();
}

#[test]
fn an_error_is_rendered_with_file_line_column_source_and_hint() {
    let errors = model::parse("gate.toml", &GOOD.replace("from = \"web\"", "from = \"wbe\"")).unwrap_err();
    let expected = "\
error: unknown segment `wbe`
  --> gate.toml:16:8
   |
16 | from = \"wbe\"
   |        ^^^^^
   |
   = help: did you mean `web`?

1 error";
    assert_eq!(errors.to_string(), expected);
    let json = serde_json::json!([{
        "file": "gate.toml", "line": 16, "column": 8,
        "message": "unknown segment `wbe`", "hint": "did you mean `web`?",
    }]);
    assert_eq!(errors.to_json(), json);
}

#[test]
fn unknown_keys_are_errors_with_the_nearest_key() {
    append("owners = \"x\"\n", &["19:1 unknown key `owners` in a rule | did you mean `owner`?"]);
    edit(
        "interface = \"eth1\"",
        "interface = \"eth1\"\ncolour = 1",
        &["4:1 unknown key `colour` in a port | known here: interface, local"],
    );
    append(
        "[gateway.timeouts]\nudp_replyed = \"3m\"\n",
        &["20:1 unknown key `udp_replyed` in [gateway.timeouts] | did you mean `udp_replied`?"],
    );
}

#[test]
fn the_quarantine_has_no_place_of_its_own_and_there_is_one() {
    let good = "[segments.q]\nquarantine = true\ndescription = \"x\"\n[[rule]]\nname = \"q\"\nfrom = \"q\"\nto = \"db\"\nservices = \"tcp/1\"\n";
    let model = crate::model::parse("t.toml", &format!("{GOOD}{good}")).unwrap();
    assert!(model.quarantine().is_some_and(|id| model.segment_name(id) == Some("q")));
    let other = crate::model::parse(
        "t.toml",
        &format!("{GOOD}[segments.q]\nquarantine = false\nport = \"lan\"\nnetworks = \"10.77.0.0/16\"\n"),
    );
    assert_eq!(other.unwrap().quarantine(), None);
    for (text, why) in [
        ("[segments.q]\nquarantine = true\nport = \"lan\"\n", "has no port or networks of its own"),
        (
            "[segments.q]\nquarantine = true\nnetworks = \"10.77.0.0/16\"\n",
            "has no port or networks of its own",
        ),
        ("[segments.q]\nquarantine = \"yes\"\nport = \"lan\"\nnetworks = \"10.77.0.0/16\"\n", "quarantine"),
        (
            "[segments.q]\nquarantine = true\n[segments.r]\nquarantine = true\n",
            "two segments are the quarantine",
        ),
    ] {
        let errors = crate::model::parse("t.toml", &format!("{GOOD}{text}")).unwrap_err().to_string();
        assert!(errors.contains(why), "{text}: {errors}");
    }
}

#[test]
fn keys_of_later_versions_are_refused_not_ignored() {
    for key in ["groups = [\"a\"]", "log = true", "rate = 5"] {
        let name = key.split(' ').next().unwrap();
        append(
            &format!("{key}\n"),
            &[&format!("19:1 `{name}` is not supported by this version yet | {LATER}")],
        );
    }
    edit(
        "port = \"lan\"",
        "port = \"lan\"\nvlans = [10]",
        &[&format!("8:1 `vlans` is not supported by this version yet | {LATER}")],
    );
    append(
        "[devices.x]\nmax_age = \"1m\"\n",
        &[&format!("19:2 `devices` is not supported by this version yet | {LATER}")],
    );
    append(
        "[gateway]\nmode = \"bridged\"\n",
        &["20:8 `mode = \"bridged\"` is not supported by this version yet | use \"routed\""],
    );
}

#[test]
fn versions_are_checked() {
    edit("version = 1\n", "", &["1:1 `version` is missing | begin the file with `version = 1`"]);
    edit(
        "version = 1",
        "version = 2",
        &["1:11 version 2 is not known | this version of Bulkhead reads `version = 1`"],
    );
}

#[test]
fn names_that_dangle_or_repeat_are_errors() {
    edit("port = \"lan\"", "port = \"lam\"", &["7:8 unknown port `lam` | did you mean `lan`?"]);
    edit(
        "to = \"db\"",
        "to = [\"db\", \"archive\"]",
        &["17:13 unknown segment `archive` | no [segments.NAME] of this name is in the configuration"],
    );
    edit(
        "services = [\"https\"]",
        "services = [\"http\"]",
        &["18:13 unknown service `http` | did you mean `https`?"],
    );
    append(
        "[[rule]]\nname = \"web-to-db\"\nfrom = \"db\"\nto = \"web\"\nservices = \"any\"\n",
        &["20:8 two rules are named `web-to-db` | 15:8 the first one"],
    );
    edit(
        "interface = \"eth2\"",
        "interface = \"eth1\"",
        &["5:13 interface `eth1` is used twice | 3:13 the first port with it"],
    );
    edit(
        "\"web-to-db\"",
        "\"web to db\"",
        &[
            "15:8 `web to db` is not a usable name | use letters, digits, `.`, `_` and `-`, at most 64, a letter or digit \
         first: `web-to-db`",
        ],
    );
    append(
        "[segments.any]\nport = \"lan\"\nnetworks = [\"10.9.0.0/24\"]\n",
        &["19:11 `any` cannot be a name | in rules, \"any\" means every one there is"],
    );
}

#[test]
fn missing_keys_and_empty_lists_are_errors() {
    edit("from = \"web\"\n", "", &["14:1 this rule has no `from`"]);
    edit(
        "networks = [\"10.1.0.0/24\"]",
        "networks = []",
        &["8:12 this list is empty | name at least one, or leave the key out"],
    );
    edit(
        "networks = [\"10.1.0.0/24\"]\n",
        "",
        &[
            "6:11 segment `web` has no `networks` | say which addresses speak there: `networks = [\"10.1.0.0/24\"]`",
        ],
    );
    edit(
        "interface = \"eth1\"\n",
        "",
        &["2:8 port `lan` has no `interface` | for example `interface = \"eth1\"`"],
    );
    edit(
        "ports = [\"tcp/443\"]\n",
        "",
        &["12:11 service `https` has neither `ports` nor `services` | for example `ports = [\"tcp/443\"]`"],
    );
}

#[test]
fn networks_are_checked() {
    edit(
        "10.1.0.0/24",
        "10.1.0.1/24",
        &[
            "8:13 `10.1.0.1/24` has bits set beyond its prefix length | did you mean the network `10.1.0.0/24`, or the \
         host `10.1.0.1`?",
        ],
    );
    edit(
        "10.1.0.0/24",
        "10.1.0.0/33",
        &["8:13 `10.1.0.0/33` is not a network | write an address and a prefix length: \"10.1.0.0/24\" or \
         \"fd00:1::/64\""],
    );
    edit(
        "10.1.0.0/24",
        "10.2.0.0/24",
        &[
            "8:13 `10.2.0.0/24` already belongs to segment `db` | a network belongs to one segment; a smaller one inside \
         it may belong to another | 11:13 there",
        ],
    );
}

#[test]
fn services_are_checked() {
    edit("tcp/443", "tcp/90-80", &["13:10 the range in `tcp/90-80` runs backwards | did you mean `80-90`?"]);
    const PORTS: &str = "ports go from 1 to 65535: \"tcp/443\" or \"tcp/8000-8099\"";
    for (bad, part) in
        [("tcp/65536", "65536"), ("tcp/0", "0"), ("udp/+53", "+53"), ("tcp/", ""), ("tcp/1-", "")]
    {
        edit("tcp/443", bad, &[&format!("13:10 `{part}` is not a port | {PORTS}")]);
    }
    edit(
        "tcp/443",
        "icmp/redirect",
        &[
            "13:10 `redirect` is not an ICMP request that crosses the gateway | only `echo-request` can be allowed; errors \
         that belong to a connection follow it by themselves",
        ],
    );
    edit(
        "ports = [\"tcp/443\"]",
        "services = [\"other\"]\n[services.other]\nservices = [\"https\"]",
        &["15:13 service `https` contains itself | https → other → https"],
    );
    edit(
        "interface = \"eth1\"",
        "interface = \"eth1\"\nlocal = [\"any\"]",
        &[
            "4:10 `any` opens too much of the gateway itself | name the services one by one; a range may have 64 ports",
        ],
    );
    edit(
        "[\"https\"]",
        "[\"icmpv6/echo-request\"]",
        &[
            "15:8 rule `web-to-db` can never match | `from`, `to` and `services` have no address family (IPv4, IPv6) in \
         common",
        ],
    );
}

#[test]
fn durations_and_numbers_are_checked() {
    const UNITS: &str =
        "write whole numbers with d, h, m, s or ms, the larger first: \"30s\", \"2h4m\", \"250ms\"";
    for bad in ["3 minutes", "", "5", "1s1h", "-1s", "1.5h", "s"] {
        append(
            &format!("[gateway.timeouts]\nicmp = \"{bad}\"\n"),
            &[&format!("20:8 `{bad}` is not a duration | {UNITS}")],
        );
    }
    append(
        "[gateway.timeouts]\nicmp = \"0s\"\n",
        &["20:8 `0s` is no time at all | a duration must be positive"],
    );
    append(
        "[gateway.timeouts]\nicmp = \"13d\"\n",
        &["20:8 `13d` is too long for a time-out | 12 days are the limit"],
    );
    append(
        "[gateway]\nworkers = 0\nconnections = \"many\"\n",
        &["20:11 `0` is out of range | from 1 to 64", "21:15 expected an integer, found a string"],
    );
}

#[test]
fn the_time_outs_of_a_rule_are_checked() {
    append(
        "timeouts = { tcp_established = \"30m\", tcp_closing = \"5\" }\n",
        &[
            "19:53 `5` is not a duration | write whole numbers with d, h, m, s or ms, the larger first: \"30s\", \"2h4m\", \"250ms\"",
        ],
    );
    append(
        "timeouts = { tcp_etablished = \"30m\" }\n",
        &["19:14 unknown key `tcp_etablished` in `timeouts` | did you mean `tcp_established`?"],
    );
    append("timeouts = \"30m\"\n", &["19:12 expected a table, found a string"]);
    append(
        "timeouts = { udp_replied = \"10s\", tcp_closed = \"13d\" }\n",
        &[
            "19:14 `udp_replied` concerns none of this rule's services | \
             take it out, or add the service that it is for",
            "19:48 `13d` is too long for a time-out | 12 days are the limit",
        ],
    );
    append(
        "action = \"deny\"\ntimeouts = { tcp_closed = \"1s\" }\n",
        &["20:14 `tcp_closed` of a rule that lets nothing through | only rules that allow have connections"],
    );
    let rules: String = (0..33)
        .map(|n| {
            format!(
                "[[rule]]\nname = \"r{n:02}\"\nfrom = \"web\"\nto = \"db\"\nservices = \"udp/53\"\n\
                 timeouts = {{ udp_replied = \"{}s\" }}\n",
                n.max(1)
            )
        })
        .collect();
    append(
        &rules,
        &[
            "216:14 more than 31 different sets of `timeouts` | rules with the same time-outs count as one set",
        ],
    );
}

#[test]
fn the_half_open_limit_of_a_source_is_a_number() {
    for (value, expected) in [
        ("-1", "20:24 `-1` is out of range | from 0 to 134217728"),
        ("\"many\"", "20:24 expected an integer, found a string"),
    ] {
        append(&format!("[gateway]\nhalf_open_per_source = {value}\n"), &[expected]);
    }
    let model = model::parse("t.toml", &format!("{GOOD}[gateway]\nhalf_open_per_source = 7\n")).unwrap();
    assert_eq!(model.gateway.table_config().half_open_per_source, 7);
    assert_eq!(model::parse("t.toml", GOOD).unwrap().gateway.table_config().half_open_per_source, 0);
}

#[test]
fn what_segments_permit_has_names_and_both_ends_must_permit_it() {
    use bulkhead_dataplane::headers::Permits;
    let permit =
        |value: &str| GOOD.replace("[services.https]", &format!("permit = {value}\n[services.https]"));
    let known = Permits::ALL.map(|(_, name)| name);
    says(
        &permit("[\"ipv6-shr\", \"ipv4-source-route\", \"everything\"]"),
        &[
            "12:11 `ipv6-shr` is nothing that can be permitted | did you mean `ipv6-srh`?",
            &format!(
                "12:23 `ipv4-source-route` is nothing that can be permitted | known are {}",
                known.join(", ")
            ),
            &format!("12:44 `everything` is nothing that can be permitted | known are {}", known.join(", ")),
        ],
    );
    says(&permit("true"), &["12:10 expected a string or a list of strings, found a boolean"]);
    let one = model::parse("t.toml", &permit("[\"ipv6-srh\", \"bad-checksum\"]")).unwrap();
    assert_ne!(one.digest, model::parse("t.toml", GOOD).unwrap().digest);
    let both =
        permit("[\"ipv6-srh\"]").replace("port = \"lan\"", &format!("port = \"lan\"\npermit = {known:?}"));
    let both = model::parse("t.toml", &both).unwrap().compile().unwrap();
    let (web, db) = ("10.1.0.7".parse().unwrap(), "10.2.0.7".parse().unwrap());
    assert_eq!(one.compile().unwrap().permits(web, db), Permits::NONE);
    assert_eq!(both.permits(web, db), Permits::IPV6_SRH);
    assert_eq!(both.permits(db, web), Permits::IPV6_SRH);
    assert_eq!(both.permits(web, "10.9.0.7".parse().unwrap()), Permits::NONE);
}

#[test]
fn a_segment_is_protected_by_syn_cookies_or_not_at_all() {
    let protect =
        |value: &str| GOOD.replace("[services.https]", &format!("protect = {value}\n[services.https]"));
    says(
        &protect("\"syn-cookie\""),
        &["12:11 `syn-cookie` is no way to protect a segment | use \"syn-cookies\", or leave it out"],
    );
    says(&protect("true"), &["12:11 expected a string, found a boolean"]);
    let model = model::parse("t.toml", &protect("\"syn-cookies\"")).unwrap();
    assert_ne!(model.digest, model::parse("t.toml", GOOD).unwrap().digest);
    let policy = model.compile().unwrap();
    assert!(policy.is_protected("10.2.0.7".parse().unwrap()));
    assert!(!policy.is_protected("10.1.0.7".parse().unwrap()));
    assert!(!policy.is_protected("10.9.0.7".parse().unwrap()));
}

#[test]
fn limits_are_checked() {
    const RANGE: &str = "from 1 to 4294967294";
    for (limits, expected) in [
        (
            "{}",
            vec![
                "19:10 `limits` limits nothing | for example `limits = { connections_per_source = 20 }`, or leave it out",
            ],
        ),
        ("7", vec!["19:10 expected a table, found an integer"]),
        ("{ connections = 0 }", vec![&*format!("19:26 `0` is out of range | {RANGE}")]),
        ("{ connections_per_source = \"few\" }", vec!["19:37 expected an integer, found a string"]),
        (
            "{ new_per_second = 1000001, new_per_second_per_source = 0 }",
            vec![
                "19:29 `1000001` is out of range | from 1 to 1000000",
                "19:66 `0` is out of range | from 1 to 1000000",
            ],
        ),
        (
            "{ conections = 5 }",
            vec!["19:12 unknown key `conections` in `limits` | did you mean `connections`?"],
        ),
    ] {
        append(&format!("limits = {limits}\n"), &expected);
    }
    append(
        "action = \"deny\"\nlimits = { connections = 5 }\n",
        &["20:10 `limits` of a rule that lets nothing through | they belong to rules that allow"],
    );
    let model = model::parse(
        "t.toml",
        &format!("{GOOD}limits = {{ connections = 5, new_per_second_per_source = 7 }}\n"),
    )
    .unwrap();
    let limits = model.rule_infos[0].limits.unwrap();
    assert_eq!((limits.connections, limits.new_per_second_per_source), (Some(5), Some(7)));
    assert_eq!((limits.connections_per_source, limits.new_per_second), (None, None));
    // They belong to what the configuration means, and without any nothing of it has changed.
    assert_ne!(model.digest, model::parse("t.toml", GOOD).unwrap().digest);
    // The same rule among others, under another number, is the same account.
    let more = GOOD.replace("name = \"web-to-db\"", "name = \"a\"") + &GOOD[GOOD.find("[[rule]]").unwrap()..];
    let more = model::parse("t.toml", &format!("{more}limits = {{ connections = 5 }}\n")).unwrap();
    assert_eq!(more.limits()[0].0.0, 1);
    assert_eq!(more.limits()[0].1.identity, limits.identity);
}

#[test]
fn sessions_have_a_limit_of_the_gateway() {
    let text = |value: &str| format!("[gateway]\nsessions = {value}\n");
    append(&text("1048577"), &["20:12 `1048577` is out of range | from 0 to 1048576"]);
    let sessions = |text: &str| model::parse("t.toml", &format!("{GOOD}{text}")).unwrap().gateway.sessions;
    assert_eq!((sessions(""), sessions(&text("0")), sessions(&text("1048576"))), (16_384, 0, 1 << 20));
}

#[test]
fn a_sign_in_lasts_as_long_as_the_policy_says() {
    append(
        "[identity]\nsession = \"2y\"\n",
        &[
            "20:11 `2y` is not a duration | write whole numbers with d, h, m, s or ms, the larger first: \"30s\", \"2h4m\", \
           \"250ms\"",
        ],
    );
    append(
        "[identity]\nsession = \"366d\"\n",
        &["20:11 `366d` is no length of a session | from `1s` to `365d`"],
    );
    append(
        "[identity]\npassword = true\n",
        &["20:1 unknown key `password` in [identity] | did you mean `passwords`?"],
    );
    let sign_in = |text: &str| model::parse("t.toml", &format!("{GOOD}{text}")).unwrap().sign_in;
    let written = sign_in("[identity]\nsession = \"90m\"\nheartbeat = \"30s\"\npasswords = false\n");
    assert_eq!((written.session_s, written.heartbeat_s, written.passwords), (5400, 30, false));
    let default = sign_in("");
    assert_eq!((default.session_s, default.passwords), (8 * 3600, true));
}

#[test]
fn a_mac_address_is_one_devices() {
    assert_eq!(values::mac("02:00:5e:aB:00:07").map(values::mac_text).as_deref(), Ok("02:00:5e:ab:00:07"));
    for wrong in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:07:08",
        "2:0:0:0:0:7",
        "02-00-00-00-00-07",
        "+2:00:00:00:00:07",
    ] {
        assert!(values::mac(wrong).unwrap_err().message.ends_with("is not a MAC address"), "{wrong}");
    }
    for group in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
        assert!(values::mac(group).unwrap_err().message.ends_with("of no device"), "{group}");
    }
}

#[test]
fn fragments_have_a_limit_and_a_time_out_of_the_gateway_alone() {
    for (value, expected) in [
        ("262145", "20:13 `262145` is out of range | from 0 to 262144"),
        ("true", "20:13 expected an integer, found a boolean"),
    ] {
        append(&format!("[gateway]\nfragments = {value}\n"), &[expected]);
    }
    append(
        "[gateway.timeouts]\nfragments = \"3s\"\n",
        &["20:1 unknown key `fragments` in [gateway.timeouts] | did you mean `fragment`?"],
    );
    // Until a datagram is whole, it has no rule.
    append(
        "timeouts = { fragment = \"3s\" }\n",
        &[
            "19:14 unknown key `fragment` in `timeouts` | known here: tcp_handshake, tcp_established, tcp_closing, \
           tcp_time_wait, tcp_closed, udp_unreplied, udp_replied, icmp",
        ],
    );
    let text = format!("{GOOD}[gateway]\nfragments = 2000\n[gateway.timeouts]\nfragment = \"5s\"\n");
    let gateway = model::parse("t.toml", &text).unwrap().gateway;
    assert_eq!((gateway.fragments, gateway.timeouts.fragment_ms), (2000, 5000));
    let default = model::parse("t.toml", GOOD).unwrap().gateway;
    assert_eq!((default.fragments, default.timeouts.fragment_ms), (8192, 30_000));
}

#[test]
fn tests_are_checked() {
    let test = |rest: &str| format!("[[test]]\nname = \"t\"\nfrom = \"web\"\nto = \"10.2.0.7\"\n{rest}\n");
    append(
        &test("port = \"tcp/1-2\"\nexpect = \"allow\""),
        &["23:8 `tcp/1-2` is not one port | a question is about one connection: \"tcp/443\""],
    );
    append(
        &test("port = \"tcp/1\"\nexpect = \"alow\""),
        &["24:10 `alow` is not a verdict | did you mean `allow`?"],
    );
    append(
        &test(
            "port = \"tcp/1\"\nexpect = { verdict = \"deny\", reason = \"no_rules\", rule = \"web-to-bd\" }",
        ),
        &[
            "24:39 `no_rules` is not a reason | did you mean `no_rule`?",
            "24:58 unknown rule `web-to-bd` | did you mean `web-to-db`?",
        ],
    );
}

#[test]
fn independent_errors_are_told_at_once_in_the_order_of_their_places() {
    let text = GOOD
        .replace("port = \"wan\"", "port = \"wam\"")
        .replace("version = 1", "version = 1\ncolour = 1")
        .replace("tcp/443", "tcp/x");
    says(
        &text,
        &[
            "2:1 unknown key `colour` in the file | known here: version, include, gateway, tiers, portal, identity, ports, segments, \
         services, groups, postures, schedules, rule, audit, workload, test",
            "11:8 unknown port `wam` | did you mean `wan`?",
            "14:10 `x` is not a port | ports go from 1 to 65535: \"tcp/443\" or \"tcp/8000-8099\"",
        ],
    );
}

#[test]
fn broken_syntax_is_reported_alone() {
    let errors = model::parse("t.toml", "version = 1\nports = [\n").unwrap_err();
    assert!(lines(&errors)[0].starts_with("2:10 not valid TOML: unclosed array"), "{errors}");
    let errors = model::parse("t.toml", &format!("version = 1\nx = {}1", "[".repeat(10_000))).unwrap_err();
    assert!(lines(&errors)[0].contains("cannot recurse further"), "{errors}");
    assert_eq!(errors.list().len(), 2, "{errors}");
    let errors = model::parse("t.toml", "version = 1\nversion = 1\n").unwrap_err();
    assert_eq!(lines(&errors), ["2:1 not valid TOML: duplicate key"]);
}

/// A directory of its own that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("bulkhead-config-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("policy.d")).unwrap();
        Directory(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.0.join(name), bytes).unwrap();
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const RULE: &str = "[[rule]]\nname = \"more\"\nfrom = \"db\"\nto = \"web\"\nservices = \"any\"\n";

#[test]
fn an_included_file_whose_name_is_not_utf_8_is_not_left_out() {
    use std::os::unix::ffi::OsStringExt;
    let directory = Directory::new("include-latin-1");
    let main = directory
        .write("main.toml", GOOD.replace("version = 1", "version = 1\ninclude = [\"policy.d/*.toml\"]"));
    let name = std::ffi::OsString::from_vec(b"policy.d/caf\xe9.toml".to_vec());
    fs::write(directory.0.join(name), RULE).unwrap();
    assert_eq!(model::load(&main).unwrap().rules.rules.len(), 2);
}

#[test]
fn included_files_are_merged_and_their_errors_name_them() {
    let directory = Directory::new("include");
    let main = directory
        .write("main.toml", GOOD.replace("version = 1", "version = 1\ninclude = [\"policy.d/*.toml\"]"));
    assert_eq!(model::load(&main).unwrap().rules.rules.len(), 1);
    directory.write("policy.d/10-more.toml", RULE);
    directory.write("policy.d/ignored.txt", "not TOML at all");
    assert_eq!(model::load(&main).unwrap().rules.rules.len(), 2);
    directory
        .write("policy.d/20-bad.toml", format!("include = [\"x\"]\n{}", RULE.replace("\"web\"", "\"wbe\"")));
    let text = model::load(&main).unwrap_err().to_string();
    for part in [
        "20-bad.toml:1:11",
        "`include` does not belong in an included file",
        "20-bad.toml:3:8",
        "two rules are named `more`",
        "10-more.toml:2:8",
        "20-bad.toml:5:6",
        "did you mean `web`?",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn an_included_file_that_is_missing_is_an_error_at_the_include() {
    let directory = Directory::new("missing");
    let main =
        directory.write("main.toml", GOOD.replace("version = 1", "version = 1\ninclude = [\"no.toml\"]"));
    let errors = model::load(&main).unwrap_err();
    assert!(lines(&errors)[0].starts_with("2:12 cannot read "), "{errors}");
    assert!(model::load(&directory.0.join("nowhere.toml")).is_err());
}

#[test]
fn more_than_64_mib_are_refused_before_they_are_parsed() {
    let directory = Directory::new("large");
    let main = directory.write("main.toml", "");
    // Sparse: no disk is used. Zeros are not TOML, so that the message proves the order.
    fs::File::options().write(true).open(&main).unwrap().set_len((64 << 20) + 1).unwrap();
    let errors = model::load(&main).unwrap_err();
    assert!(
        lines(&errors)[0].ends_with("main.toml is too large: all files together may have 64 MiB"),
        "{errors}"
    );
}

#[test]
fn protocols_as_a_whole_have_names_and_numbers_but_not_those_that_have_services() {
    for good in ["gre", "esp", "ah", "ipip", "6in4", "sctp", "proto/99", "proto/254"] {
        model::parse("t.toml", &GOOD.replace("tcp/443", good)).unwrap_or_else(|e| panic!("{good}: {e}"));
    }
    let services = "has services of its own | write for example";
    for (bad, message) in [
        ("proto/6", format!("`proto/6` {services} \"tcp/443\"")),
        ("proto/58", format!("`proto/58` {services} \"icmpv6/echo-request\"")),
        ("proto/44", "`proto/44` never crosses the gateway | IGMP stays on its link, and behind an IPv6 extension header lies what a rule can name".to_owned()),
        ("proto/0", "`proto/0` is not a protocol | IP protocol numbers go from 1 to 254: \"proto/99\"".to_owned()),
        ("proto/+47", "`proto/+47` is not a protocol | IP protocol numbers go from 1 to 254: \"proto/99\"".to_owned()),
    ] {
        edit("tcp/443", bad, &[&format!("13:10 {message}")]);
    }
    append(
        "[services.gre]\nports = [\"tcp/1\"]\n[gateway]\nlocal = [\"esp\"]\n",
        &[
            "19:11 `gre` is a protocol and cannot name a service | rules may use it as it is",
            "22:10 `esp` is nothing the gateway itself answers | name TCP or UDP ports, or echo requests",
        ],
    );
}

#[test]
fn mistyped_tables_are_explained() {
    append("[rules]\n", &["19:2 unknown key `rules` in the file | did you mean `rule`?"]);
    says(
        "version = 1\n[rule]\nname = \"a\"\n",
        &["2:1 expected a list of tables (write the header in double brackets), found a table"],
    );
    edit("port = \"lan\"", "port = 5", &["7:8 expected a string, found an integer"]);
    edit(
        "port = \"lan\"",
        "port = \"lan\"\nports = [\"wan\"]",
        &["7:8 `port` and `ports` are both given | name all of them in `ports`"],
    );
}

#[test]
fn bytes_that_are_not_utf8_are_an_error_with_line_and_column() {
    let directory = Directory::new("utf8");
    let main = directory.write("main.toml", b"version = 1\n# \xff\n");
    let errors = model::load(&main).unwrap_err();
    assert_eq!(lines(&errors), ["2:3 not UTF-8 text | save the file as UTF-8; TOML knows no other encoding"]);
}

#[test]
fn control_characters_in_texts_are_refused() {
    append("owner = \"\\u001b[2J\"\n", &["19:9 control characters do not belong here"]);
    append(
        "description = \"two\\nlines\"\n[gateway]\ncontrol = \"run.sock\"\n",
        &["21:11 `run.sock` cannot be the control socket | write an absolute path of fewer than 108 bytes"],
    );
    append(
        "[gateway]\nstate = \"var\"\n",
        &["20:9 `var` cannot be the state directory | write an absolute path of fewer than 3840 bytes"],
    );
}

#[test]
fn line_ends_and_byte_order_marks_of_windows_do_not_shift_places() {
    let text = GOOD.replace("\"wan\"", "\"wam\"").replace('\n', "\r\n");
    says(&format!("\u{feff}{text}"), &["10:8 unknown port `wam` | did you mean `wan`?"]);
}

#[test]
fn control_characters_never_reach_the_terminal() {
    let errors = model::parse("t.toml", "version = 1\n\"\\u001b[2J\" = 1\n").unwrap_err();
    assert!(!errors.to_string().contains('\u{1b}'), "{errors}");
}

proptest! {
    /// Whatever is written, it is read or refused; and what is said of it can be rendered.
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        if let Err(errors) = model::parse("t.toml", &text) {
            let _ = (errors.to_string(), errors.to_json());
        }
    }

    /// The same near to valid files, where more of the reader runs.
    #[test]
    fn no_edit_of_a_valid_file_panics(at in 0..GOOD.len(), cut in 0usize..30, put in "[\\PC\\n\"\\[\\]=.]{0,8}") {
        let end = (at + cut).min(GOOD.len());
        let text = format!("{}{put}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(errors) = model::parse("t.toml", &text) {
            prop_assert!(!errors.list().is_empty());
            let _ = (errors.to_string(), errors.to_json());
        }
    }

    /// Bytes from a file: not even UTF-8.
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let directory = Directory::new("bytes");
        let main = directory.write("main.toml", &bytes);
        if let Err(errors) = model::load(&main) {
            let _ = (errors.to_string(), errors.to_json());
        }
    }
}
