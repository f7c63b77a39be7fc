//! The portal in a real browser: headless Chromium, driven by `tests/browser/portal.mjs`.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_tests::authenticator::Authenticator;
use bulkhead_tests::https;
use bulkhead_tests::scene::Scene;
use serde_json::{Value, json};

use super::sign_in;

const ALICE: &str = "Signed in as alice";

/// Where `.ci/run` puts playwright-core and axe-core.
fn modules() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    cache.or_else(home).unwrap_or_default().join("bulkhead")
}

/// What is missing for it, if something is.
fn missing() -> Option<String> {
    let chromium = ["/usr/bin/chromium"].into_iter().find(|path| Path::new(path).exists());
    let has_node = Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success());
    let lacks = |package: &str| !modules().join("node_modules").join(package).exists();
    match (chromium, has_node) {
        (None, _) => Some("chromium".to_owned()),
        (_, false) => Some("node".to_owned()),
        _ => ["playwright-core", "axe-core"]
            .into_iter()
            .find(|package| lacks(package))
            .map(|package| format!("{package} (npm install --prefix {} {package})", modules().display())),
    }
}

/// Whether the test cannot run here, which is said then.
pub fn is_skipped(test: &str) -> bool {
    let missing = missing();
    if let Some(missing) = &missing {
        let _ = writeln!(std::io::stderr(), "SKIP {test}: there is no {missing}");
    }
    missing.is_some()
}

/// The script's path and what it is told: where the portal is, and more.
pub fn arguments(script: &str, scene: &Scene, more: Value) -> [OsString; 2] {
    let shots = std::env::var_os("BULKHEAD_SHOTS")
        .map_or_else(|| scene.state().with_file_name("shots"), PathBuf::from);
    fs::create_dir_all(&shots).expect("a directory for pictures");
    let mut told = json!({
        "modules": modules(), "chromium": "/usr/bin/chromium", "name": https::NAME,
        "address": scene.host("office").gateway_v4, "shots": shots,
    });
    told.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser").join(script);
    [script.into(), told.to_string().into()]
}

/// What a script has told in its last line.
pub fn report(last: &str, complained: &[u8]) -> Value {
    let complained = String::from_utf8_lossy(complained);
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}{complained}"))
}

/// What the browser saw as alice, to whom the app shows a code when it is to be typed.
pub fn drive(script: &str, scene: &Scene, app: &mut Authenticator) -> Value {
    let alice = json!({ "user": "alice", "password": sign_in::PASSWORD });
    let mut command = Command::new("node");
    command.args(arguments(script, scene, alice));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = scene.host("office").namespace.run(|| command.spawn()).expect("node starts");
    let mut typed = child.stdin.take().expect("it is piped");
    let mut said = String::new();
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
        said = line.expect("it is text");
        if said == "code" {
            writeln!(typed, "{}", app.code()).expect("it waits for it");
        }
    }
    let output = child.wait_with_output().expect("it ends");
    report(&said, &output.stderr)
}

#[test]
fn people_sign_in_without_javascript_by_keyboard_and_on_a_phone() {
    if is_skipped("people_sign_in_without_javascript") {
        return;
    }
    let Some((scene, mut app)) = sign_in::scene() else { return };
    let report = drive("portal.mjs", &scene, &mut app);
    assert_eq!(report["problems"], json!([]), "{report:#}");
    let seen = &report["seen"];
    assert_eq!(seen["wrong"]["title"], "Problem: Sign in · Network access");
    assert!(seen["wrong"]["alert"].as_str().is_some_and(|alert| alert.contains("That was not right")));
    let titles = ["second", "status", "stepUp", "signedOut", "byKeyboard", "phone-light", "phone-dark"];
    let titles = titles.map(|title| seen[title].as_str().unwrap_or_default());
    let expected = ["Second step", ALICE, "Verify it is you", "Sign in", ALICE, ALICE, ALICE];
    assert_eq!(titles, expected);
    // Skip link, brand, name, password, button: the order in which they are read.
    assert_eq!(seen["focus"], json!(["skip", "brand", "user", "password", "button wide"]), "{seen:#}");
    assert_eq!((&seen["focusOfCode"], &seen["outline"]), (&json!("code"), &json!("solid")));
    let reach = seen["reach"].to_string();
    for row in
        ["Open", "udp/53", "tcp/5432", "Needs a recent report of this device's health", "cannot be phished"]
    {
        assert!(reach.contains(row), "{row}: {reach}");
    }
    let cookies = seen["cookies"].as_array().expect("cookies");
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    let is = |key: &str| cookies[0][key].clone();
    assert_eq!(is("name"), "__Host-bulkhead");
    assert_eq!(
        (is("httpOnly"), is("secure"), is("sameSite"), is("path")),
        (true.into(), true.into(), "Lax".into(), "/".into())
    );
}
