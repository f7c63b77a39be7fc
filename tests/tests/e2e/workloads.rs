//! Machines of which the policy itself says who they are.

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Family, Path};
use bulkhead_tests::gateway::Ran;
use bulkhead_tests::scene::{Scene, text};
use serde_json::Value;

fn path(scene: &Scene, n: u16) -> Path {
    Path { source: scene.peer("office").nth(Family::V4, n), ..scene.path("office", "servers", Family::V4) }
}

/// Who has this tag reaches the servers, and whoever is enrolled another port.
fn rules() -> String {
    allow("backup", "office", "servers", "udp/873")
        + "require = { devices = { tags = [\"backup\"] } }\n"
        + &allow("enrolled", "office", "servers", "udp/874")
        + "require = { devices = { enrolled = true } }\n"
}

fn workload(name: &str, address: &str, more: &str) -> String {
    format!("[[workload]]\nname = \"{name}\"\naddresses = [\"{address}\"]\n{more}\n")
}

fn sessions(scene: &Scene) -> Vec<Value> {
    scene.json(&["session", "list"])["sessions"].as_array().unwrap().clone()
}

fn refused(ran: Ran, why: &str) {
    assert!(ran.code == 1 && ran.stderr.contains(why), "{why}: {ran:?}");
}

#[test]
fn a_workload_is_known_from_the_first_packet_of_its_policy_to_the_last_one() {
    let Some(mut scene) = Scene::build(bulkhead_tests::scene::office_and_servers()) else { return };
    let address = scene.peer("office").nth(Family::V4, 1).to_string();
    let tagged = rules() + &workload("backup-1", &address, "tags = [\"backup\"]");
    scene.run(&Config::new(tagged.clone()));
    let own = path(&scene, 1);
    scene.crosses("office", "servers", &own.udp(4000, 873, b"from the first packet on"));
    scene.stays_out("office", "servers", &own.udp(4000, 874, b"not enrolled"));
    scene.stays_out("office", "servers", &path(&scene, 2).udp(4000, 873, b"somebody else"));
    let before = sessions(&scene);
    assert_eq!(
        (text(&before[0], "proof"), text(&before[0]["device"], "name")),
        ("static".to_owned(), "backup-1".to_owned())
    );
    let again = ["session", "add", "--address", &address, "--user", "alice"];
    refused(scene.cli(&again), "the policy itself says who is there");
    // The same policy again, or another one that says the same of it: the very same session.
    scene.reload(&Config::new(tagged.clone() + &allow("more", "office", "servers", "udp/53")));
    assert_eq!(text(&sessions(&scene)[0], "id"), text(&before[0], "id"));
    scene.crosses("office", "servers", &own.udp(4000, 873, b"goes on"));
    // Another one, in which it is something else: live connections obey at once.
    scene.reload(&Config::new(rules() + &workload("backup-1", &address, "enrolled = true")));
    scene.stays_out("office", "servers", &own.udp(4000, 873, b"no longer"));
    scene.crosses("office", "servers", &own.udp(4001, 874, b"but enrolled"));
    assert_ne!(text(&sessions(&scene)[0], "id"), text(&before[0], "id"));
    scene.reload(&Config::new(rules()));
    assert_eq!(sessions(&scene), [] as [Value; 0]);
    scene.stays_out("office", "servers", &own.udp(4001, 874, b"nobody"));
    // Somebody who has signed in gives way to what the policy says.
    assert_eq!(scene.cli(&again).code, 0);
    scene.reload(&Config::new(tagged));
    let now = sessions(&scene);
    assert_eq!((now.len(), text(&now[0], "proof")), (1, "static".to_owned()));
    scene.crosses("office", "servers", &own.udp(4002, 873, b"x"));
    assert_eq!(scene.cli(&["audit", "verify"]).code, 0);
}

#[test]
fn a_workload_is_locked_out_like_anybody_over_reloads_and_restarts_and_is_back_when_that_is_over() {
    let Some(mut scene) = Scene::build(bulkhead_tests::scene::office_and_servers()) else { return };
    let address = scene.peer("office").nth(Family::V4, 1).to_string();
    let config = Config::new(rules() + &workload("backup-1", &address, "tags = [\"backup\"]"));
    scene.run(&config);
    let own = path(&scene, 1);
    scene.crosses("office", "servers", &own.udp(4000, 873, b"x"));
    let told = scene.cli(&["lock", "--device", "backup-1"]);
    assert!(told.code == 0 && told.stdout.contains("1 session(s) ended"), "{told:?}");
    scene.stays_out("office", "servers", &own.udp(4000, 873, b"x"));
    scene.reload(&Config::new(config.rules.clone() + &allow("more", "office", "servers", "udp/53")));
    scene.stays_out("office", "servers", &own.udp(4001, 873, b"x"));
    scene.take_gateway().kill_9();
    scene.run(&config);
    scene.stays_out("office", "servers", &own.udp(4002, 873, b"x"));
    assert_eq!(scene.cli(&["unlock", "--device", "backup-1"]).code, 0);
    scene.crosses("office", "servers", &own.udp(4003, 873, b"x"));
}

#[test]
fn a_workload_that_is_nowhere_or_twice_is_refused_with_its_place() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    let address = scene.peer("office").nth(Family::V4, 1).to_string();
    let twice = workload("a", &address, "") + &workload("b", &address, "");
    for (wrong, why) in [
        (workload("a", "203.0.113.9", ""), "203.0.113.9 belongs to no segment"),
        (workload("a", "10.1.0", ""), "is not an IP address"),
        (twice, "is a workload already"),
        (workload("a", &address, "mac = \"01:00:00:00:00:07\""), "mac"),
        ("[[workload]]\nname = \"a\"\n".to_owned(), "this workload has no `addresses`"),
    ] {
        let new = scene.candidate("new.toml", &Config::new(rules() + &wrong));
        let ran = scene.cli(&["reload", &new]);
        assert!(
            ran.code == 1 && ran.stderr.contains(why) && ran.stderr.contains("new.toml:"),
            "{why}: {ran:?}"
        );
    }
    assert_eq!(scene.status()["generation"], 1);
}
