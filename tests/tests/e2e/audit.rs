//! What is in audit is told and counted and enforces nothing; what is observed becomes rules.

use bulkhead_tests::config::{Config, allow, deny};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::{Scene, number, text};
use bulkhead_tests::wait_until;
use serde_json::Value;

fn in_audit(rule: String) -> String {
    rule.trim_end().to_owned() + "\nmode = \"audit\"\n"
}

#[test]
fn what_audit_would_decide_otherwise_is_told_and_counted_across_reloads_and_enforces_nothing() {
    let rules = allow("dns", "office", "servers", "udp/53")
        + &in_audit(deny("no-dns", "office", "servers", "udp/53"))
        + &in_audit(allow("ntp", "office", "servers", "udp/123"));
    let Some(scene) = Scene::start(&Config::new(rules.clone())) else { return };
    let udp = |source, port| scene.path("office", "servers", Family::V4).udp(source, port, b"x");
    scene.crosses("office", "servers", &udp(4000, 53));
    scene.stays_out("office", "servers", &udp(4000, 123));
    scene.stays_out("office", "servers", &udp(4000, 99));
    let report = || scene.json(&["audit", "report"]);
    let row = |report: &Value, port: u64| {
        let rows = report["rows"].as_array().unwrap();
        rows.iter().find(|row| number(row, "port") == port).cloned()
    };
    wait_until("both are told", || row(&report(), 53).is_some() && row(&report(), 123).is_some());
    let told = report();
    let dns = row(&told, 53).unwrap();
    assert_eq!((text(&dns, "would").as_str(), text(&dns, "reason").as_str()), ("deny", "rule_denied"));
    assert_eq!((text(&dns, "rule").as_str(), text(&dns, "running").as_str()), ("no-dns", "dns"));
    assert_eq!(text(&row(&told, 123).unwrap(), "would"), "allow");
    assert!(row(&told, 99).is_none() && number(&told, "unknown") == 0, "{told:#}");
    let events = scene.cli(&["events"]).stdout;
    let audit =
        events.lines().find(|line| line.contains("\"kind\":\"audit\"") && line.contains(":53,")).unwrap();
    let audit: Value = serde_json::from_str(audit).unwrap();
    assert_eq!(
        (text(&audit, "rule"), text(&audit["would"], "rule")),
        ("dns".to_owned(), "no-dns".to_owned())
    );
    scene.reload(&Config::new(rules));
    scene.crosses("office", "servers", &udp(4001, 53));
    wait_until("it goes on", || row(&report(), 53).is_some_and(|row| number(&row, "count") >= 2));
    let pasted = scene.cli(&["audit", "report", "-o", "toml"]).stdout;
    assert!(
        pasted.contains("udp/53 from office to servers would be refused: rule_denied by no-dns"),
        "{pasted}"
    );
    scene.reload(&Config::new(allow("dns", "office", "servers", "udp/53")));
    assert_eq!(report()["in_audit"], false);
}

#[test]
fn what_a_broad_rule_lets_through_is_proposed_as_narrow_ones_that_can_be_put_in_force() {
    let Some(scene) = Scene::start(&Config::new(allow("broad", "any", "any", "any"))) else { return };
    let mut tcp = scene.open_tcp("office", "servers", Family::V4, (4000, 443));
    tcp.talks();
    scene.crosses("servers", "office", &scene.path("servers", "office", Family::V4).udp(4000, 53, b"x"));
    let learn = |more: &[&str]| scene.cli(&[&["learn"], more].concat());
    wait_until("both are observed", || {
        let out = learn(&[]).stdout;
        out.contains("services = [\"tcp/443\"]") && out.contains("services = [\"udp/53\"]")
    });
    let proposed = learn(&[]).stdout;
    assert!(
        proposed.contains("office-to-servers-tcp-443") && proposed.contains("servers-to-office-udp-53"),
        "{proposed}"
    );
    let json: Value = serde_json::from_str(&learn(&["-o", "json"]).stdout).unwrap();
    let rule =
        json["rules"].as_array().unwrap().iter().find(|r| r["services"][0] == "tcp/443").unwrap().clone();
    assert_eq!(number(&rule, "connections"), 1);
    assert!(number(&rule, "bytes") > 100, "{rule:#}");
    scene.reload(&Config::new(proposed));
    tcp.talks();
    scene.stays_out("office", "servers", &scene.path("office", "servers", Family::V4).udp(4009, 54, b"x"));
    // Now a narrow rule allows it.
    scene.crosses("servers", "office", &scene.path("servers", "office", Family::V4).udp(4001, 53, b"x"));
    wait_until("it is allowed narrowly", || learn(&[]).stdout.contains("allowed by narrow rules already"));
}
