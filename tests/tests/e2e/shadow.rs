//! A policy beside the running one, on live traffic: it is counted and told, and changes nothing.

use bulkhead_tests::config::{Config, allow, deny};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::{Scene, number, text};
use bulkhead_tests::wait_until;
use serde_json::Value;

fn running() -> Config {
    Config::new(allow("web", "office", "servers", "tcp/443") + &allow("dns", "office", "servers", "udp/53"))
}

fn shadow(scene: &Scene) -> Value {
    let said = scene.cli(&["shadow", "-o", "json"]);
    assert!(said.code == 0 || said.code == 2, "{said:?}");
    let shadow: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(said.code == 2, number(&shadow, "changed") > 0);
    shadow
}

fn row<'v>(shadow: &'v Value, change: &str, rule: &str) -> &'v Value {
    let rows = shadow["rows"].as_array().unwrap();
    let is = |row: &&Value| {
        row["change"] == change && (row["running"]["rule"] == rule || row["shadow"]["rule"] == rule)
    };
    rows.iter().find(is).unwrap_or_else(|| panic!("{change} {rule}: {shadow:#}"))
}

#[test]
fn a_shadow_that_denies_or_allows_everything_changes_nothing_and_tells_what_it_would() {
    let Some(scene) = Scene::start(&running()) else { return };
    let mut tcp = scene.open_tcp("office", "servers", Family::V4, (4000, 443));
    let closed = scene.candidate("closed.toml", &Config::new(deny("nothing", "any", "any", "any")));
    let said = scene.cli(&["shadow", &closed]);
    assert!(said.code == 0 && said.stdout.contains("1 of 1 connection(s)"), "{said:?}");
    let mine = |ports| scene.path("office", "servers", Family::V4).udp(ports, 53, b"x");
    scene.crosses("office", "servers", &mine(4001));
    scene.stays_out("office", "servers", &scene.path("office", "servers", Family::V4).udp(4002, 54, b"x"));
    tcp.talks();
    wait_until("samples are there", || {
        !row(&shadow(&scene), "allow_to_refuse", "dns")["samples"].as_array().unwrap().is_empty()
    });
    let told = shadow(&scene);
    // The one that was there before it, once, however much it says.
    let web = row(&told, "allow_to_refuse", "web");
    assert_eq!((number(web, "count"), text(&web["shadow"], "reason").as_str()), (1, "rule_denied"));
    assert!(
        text(web, "from") == "office" && web["samples"][0].as_str().unwrap().contains(":4000"),
        "{web:#}"
    );
    assert_eq!(number(row(&told, "other_reason", "nothing"), "count"), 1);
    let events = scene.cli(&["events"]).stdout;
    let would = events.lines().filter(|line| line.contains("\"kind\":\"shadow\"")).count();
    assert!(would >= 3, "{events}");

    let open = scene.candidate("open.toml", &Config::new(allow("everything", "any", "any", "any")));
    assert_eq!(scene.cli(&["shadow", &open]).code, 0);
    let refused = scene.path("office", "servers", Family::V4).udp(4003, 54, b"x");
    scene.stays_out("office", "servers", &refused);
    tcp.talks();
    let told = shadow(&scene);
    assert_eq!(number(row(&told, "refuse_to_allow", "everything"), "count"), 1);
    assert!(number(row(&told, "other_rule", "web"), "count") == 1);
}

#[test]
fn a_shadow_outlives_a_reload_is_compared_anew_and_ends_when_it_is_stopped() {
    let Some(scene) = Scene::start(&running()) else { return };
    let same = scene.candidate("same.toml", &running());
    assert_eq!(scene.cli(&["shadow", &same]).code, 0);
    let udp = |port| scene.path("office", "servers", Family::V4).udp(port, 53, b"x");
    scene.crosses("office", "servers", &udp(4000));
    let told = shadow(&scene);
    assert!(number(&told, "changed") == 0 && number(&told, "asked") >= 1, "{told:#}");
    let said = scene.cli(&["shadow"]);
    assert!(said.code == 0 && said.stdout.contains("nothing would change in"), "{said:?}");
    // Without DNS in force, the shadow would let it through.
    scene.reload(&Config::new(allow("web", "office", "servers", "tcp/443")));
    scene.stays_out("office", "servers", &udp(4001));
    let told = shadow(&scene);
    assert_eq!((number(&told, "generation"), number(row(&told, "refuse_to_allow", "dns"), "count")), (2, 1));
    let stopped = scene.json(&["shadow", "--stop"]);
    assert_eq!(number(&stopped, "changed"), number(&told, "changed"));
    assert_eq!(scene.cli(&["shadow"]).stdout.trim(), "no shadow runs");
    assert!(scene.json(&["shadow", "--stop"]).is_null());
}

#[test]
fn a_shadow_that_is_wrong_or_fails_its_tests_does_not_start() {
    let Some(scene) = Scene::start(&running()) else { return };
    let failing = scene.text(&running())
        + "\n[[test]]\nname = \"never\"\nfrom = \"office\"\nto = \"servers\"\nport = \"udp/53\"\nexpect = \"deny\"\n";
    let path = scene.candidate("failing.toml", &running());
    std::fs::write(&path, failing).unwrap();
    assert_eq!(scene.cli(&["shadow", &path]).code, 3);
    std::fs::write(&path, "version = ").unwrap();
    let said = scene.cli(&["shadow", &path]);
    assert!(said.code == 1 && said.stderr.contains("failing.toml:1"), "{said:?}");
    assert_eq!(scene.cli(&["shadow"]).stdout.trim(), "no shadow runs");
}
