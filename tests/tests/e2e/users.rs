//! The gateway's own users: added, changed and shown by the command line, and kept on disk.

use std::os::unix::fs::PermissionsExt;

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::{Scene, number, text};
use serde_json::Value;

const PASSWORD: &str = "correct horse battery";

fn rules() -> String {
    allow("dba", "office", "servers", "udp/1433") + "users = { groups = [\"dba\"] }\n[groups.dba]\n"
}

fn users(scene: &Scene) -> Vec<Value> {
    scene.json(&["user", "list"])["users"].as_array().expect("a list").clone()
}

#[test]
fn users_are_added_from_standard_input_and_survive_a_restart() {
    let config = Config::new(rules());
    let Some(mut scene) = Scene::start(&config) else { return };
    let add = ["user", "add", "alice", "--group", "dba", "--password-stdin"];
    let added = scene.cli_with(&add, &format!("{PASSWORD}\n"));
    assert_eq!((added.code, added.stdout.as_str()), (0, "alice is added\n"), "{added:?}");
    assert_eq!(scene.cli(&["user", "add", "bob", "--no-password"]).code, 0);
    let totp = scene.json(&["user", "totp", "alice"]);
    let (key, uri) = (text(&totp["authenticator"], "key"), text(&totp["authenticator"], "uri"));
    assert!(uri.starts_with("otpauth://totp/Bulkhead:alice?secret=") && uri.contains(&key), "{uri}");
    let shown = scene.cli(&["user", "totp", "bob"]).stdout;
    assert!(
        shown.contains("bob has a new authenticator; 0 session(s) ended") && shown.contains('█'),
        "{shown}"
    );
    // Nothing of them is in a log.
    let store = scene.state().join("identity.redb");
    assert_eq!(std::fs::metadata(&store).expect("there is a store").permissions().mode() & 0o777, 0o600);
    for secret in [PASSWORD, key.as_str()] {
        assert!(!scene.gateway().output().contains(secret), "{}", scene.gateway().output());
    }
    scene.take_gateway().kill_9();
    scene.run(&config);
    let kept = users(&scene);
    let row = |user: &Value| {
        (text(user, "name"), user["password"].clone(), user["totp"].clone(), user["groups"].clone())
    };
    let expected = [("alice", true, vec!["dba"]), ("bob", false, vec![])];
    let expected =
        expected.map(|(name, has, groups)| (name.to_owned(), has.into(), true.into(), groups.into()));
    assert_eq!(kept.iter().map(row).collect::<Vec<_>>(), expected);
}

#[test]
fn what_changes_a_user_changes_the_users_sessions_at_once() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    assert_eq!(scene.cli_with(&["user", "add", "alice", "--password-stdin"], PASSWORD).code, 0);
    let path = scene.path("office", "servers", Family::V4);
    let source = path.source.to_string();
    let begin = || scene.json(&["session", "add", "--address", &source, "--user", "alice"]);
    begin();
    scene.stays_out("office", "servers", &path.udp(4000, 1433, b"no group"));
    assert_eq!(number(&scene.json(&["user", "groups", "alice", "dba"]), "sessions"), 1);
    scene.crosses("office", "servers", &path.udp(4000, 1433, b"in the group"));
    assert_eq!(number(&scene.json(&["user", "groups", "alice"]), "sessions"), 1);
    scene.stays_out("office", "servers", &path.udp(4000, 1433, b"a live connection, and no group any more"));
    for change in
        [&["user", "disable", "alice"][..], &["user", "totp", "alice"], &["user", "remove", "alice"]]
    {
        begin();
        assert_eq!(number(&scene.json(change), "sessions"), 1, "{change:?}");
        assert!(
            scene.json(&["session", "list"])["sessions"].as_array().is_some_and(Vec::is_empty),
            "{change:?}"
        );
    }
    assert!(users(&scene).is_empty());
}

#[test]
fn what_is_wrong_with_a_user_is_told_and_changes_nothing() {
    let Some(scene) = Scene::start(&Config::new(rules())) else { return };
    assert_eq!(scene.cli_with(&["user", "add", "alice", "--password-stdin"], PASSWORD).code, 0);
    let long = "x".repeat(2000);
    for (args, input, why) in [
        (&["user", "add", "alice", "--no-password"][..], "", "there is a user `alice` already"),
        (&["user", "add", "bob", "--password-stdin"], "short", "a password has at least 8 characters"),
        (&["user", "add", "bob", "--password-stdin"], &long, "a password has at most 1024 bytes"),
        (&["user", "add", "bob-smith", "--password-stdin"], "Bob-Smith\n", "guessed at once"),
        (
            &["user", "add", "bob"],
            "",
            "there is no terminal to ask for the password; give it with --password-stdin",
        ),
        (
            &["user", "add", "bob", "--no-password", "--group", "dbb"],
            "",
            "unknown group `dbb`; did you mean `dba`?",
        ),
        (
            &["user", "passwd", "carol", "--password-stdin"],
            PASSWORD,
            "there is no user `carol`; `bulkhead user list`",
        ),
        (&["user", "disable", "carol"], "", "there is no user `carol`"),
    ] {
        let ran = scene.cli_with(args, input);
        assert!(ran.code == 1 && ran.stdout.is_empty() && ran.stderr.contains(why), "{args:?}: {ran:?}");
    }
    let names: Vec<String> = users(&scene).iter().map(|user| text(user, "name")).collect();
    assert_eq!(names, ["alice"]);
}
