//! A device's certificate in a real browser: headless Chromium, driven by `tests/browser/certificates.mjs`. Chromium itself
//! shows the certificate, from the NSS database into which it was imported.

use std::io::Write;
use std::path::Path as File;
use std::process::{Command, Stdio};

use bulkhead_tests::gateway;
use serde_json::{Value, json};

use super::{config, enroll, home, listens, path};
use crate::portal::browser::{arguments, is_skipped, report};
use bulkhead_tests::https;
use bulkhead_tests::scene::{Scene, text};

const PASSWORD: &str = "correct horse";
/// Nobody is there to choose a certificate, so a policy does; in mounts of its own, for Chromium reads it in /etc only.
const WITH_POLICY: &str = "mount -t tmpfs policy /etc/chromium && mkdir -p /etc/chromium/policies/managed \
    && printf '%s' \"$1\" > /etc/chromium/policies/managed/certificates.json && shift && exec node \"$@\"";

/// A tool of NSS, on a database without a password.
fn nss(tool: &str, at: &File, args: &[&str]) {
    let database = format!("sql:{}", at.join(".pki/nssdb").display());
    let output = Command::new(tool).args(["-d", &database]).args(args).output().expect("it is installed");
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a browser of this HOME saw.
fn browse(scene: &Scene, at: &File, shot: &str) -> Value {
    let choose = json!({ "pattern": format!("https://{}:8443", https::NAME), "filter": {} });
    let policy = json!({ "AutoSelectCertificateForUrls": [choose.to_string()] });
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", WITH_POLICY, "sh", &policy.to_string()]);
    command.args(arguments("certificates.mjs", scene, json!({ "shot": shot })));
    command.env("HOME", at).stdin(Stdio::null());
    let output = scene.host("office").namespace.run(|| command.output()).expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    report(said.lines().last().unwrap_or_default(), &output.stderr)
}

#[test]
fn a_browser_with_the_devices_certificate_is_known_and_one_without_is_told_what_to_do() {
    let name = "a_browser_with_the_devices_certificate";
    if is_skipped(name) {
        return;
    }
    if Command::new("pk12util").output().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIP {name}: pk12util (libnss3-tools) is not installed");
        return;
    }
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    enroll(&scene);
    let [with, without] = ["with", "without"].map(|name| home(&scene).join(name));
    for at in [&with, &without] {
        std::fs::create_dir_all(at.join(".pki/nssdb")).expect("a directory");
        nss("certutil", at, &["-N", "--empty-password"]);
    }
    let report = browse(&scene, &without, "without");
    assert_eq!(report["problems"], json!([]), "{report:#}");
    let seen = &report["seen"];
    assert_eq!((&seen["before"], &seen["after"]), (&json!("Sign in"), &json!("No certificate was shown")));
    let told = text(seen, "main");
    assert!(told.contains("bulkhead agent certificate --p12") && told.contains("Import"), "{told}");
    scene.stays_out("office", "servers", &path(&scene).udp(4000, 5432, b"nobody is known"));

    let (file, state) = (with.join("laptop.p12").display().to_string(), home(&scene).display().to_string());
    let args = ["agent", "certificate", "--p12", &file, "--password-stdin", "--state", &state];
    let ran = scene.host("office").namespace.run(|| gateway::run_with(&args, &format!("{PASSWORD}\n")));
    assert_eq!(ran.code, 0, "{ran:?}");
    nss("pk12util", &with, &["-i", &file, "-W", PASSWORD]);
    let report = browse(&scene, &with, "with");
    assert_eq!(report["problems"], json!([]), "{report:#}");
    let seen = &report["seen"];
    assert_eq!(seen["after"], "Signed in as laptop-7", "{seen:#}");
    assert_eq!(seen["at"], format!("https://{}/", https::NAME), "it was led back to the portal");
    let session = &scene.json(&["session", "list"])["sessions"][0];
    assert_eq!(text(&session["device"], "name"), "laptop-7", "{session:#}");
    assert!(text(&session["device"], "credential").starts_with("certificate "), "{session:#}");
    scene.crosses("office", "servers", &path(&scene).udp(4001, 5432, b"known by the browser"));
}
