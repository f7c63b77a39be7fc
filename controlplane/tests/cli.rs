//! The offline verbs as a user meets them: output, errors and exit codes.

use std::path::{Path, PathBuf};
use std::process::Command;

struct Ended {
    code: i32,
    out: String,
    err: String,
}

fn bulkhead(args: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(args).output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn minimal() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/minimal.toml").display().to_string()
}

/// A file that goes with the test.
struct File(PathBuf);

impl File {
    fn edited(name: &str, from: &str, to: &str) -> File {
        let text = std::fs::read_to_string(minimal()).unwrap();
        assert!(text.contains(from));
        let path = std::env::temp_dir().join(format!("bulkhead-cli-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_right_configuration_ends_with_0_and_a_summary() {
    let ended = bulkhead(&["check", &minimal()]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(ended.out.ends_with(": ok: 2 ports, 2 segments, 1 rule, 4 tests passed\n"), "{}", ended.out);
    let json: serde_json::Value =
        serde_json::from_str(&bulkhead(&["check", "-o", "json", &minimal()]).out).unwrap();
    assert_eq!((&json["ok"], &json["rules"], &json["tests_failed"]), (&true.into(), &1.into(), &0.into()));
}

#[test]
fn errors_end_with_1_and_stand_on_standard_error() {
    let file = File::edited(
        "dangling",
        "from = \"office\"\nto = \"servers\"\nservices",
        "from = \"ofice\"\nto = \"servers\"\nservices",
    );
    let ended = bulkhead(&["check", file.path()]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert!(ended.err.contains("unknown segment `ofice`") && ended.err.contains("did you mean `office`?"));
    assert!(ended.err.contains(&format!("{}:31:8", file.path())), "{}", ended.err);
    let ended = bulkhead(&["check", "--output", "json", file.path()]);
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, &json["errors"][0]["line"]), (1, &31.into()));
    assert_eq!(bulkhead(&["check", "/nonexistent/bulkhead.toml"]).code, 1);
}

#[test]
fn failing_tests_end_with_3_and_are_named() {
    let file = File::edited("failing", "expect = \"deny\"", "expect = \"allow\"");
    let ended = bulkhead(&["check", file.path()]);
    assert_eq!(ended.code, 3);
    assert!(ended.out.contains("TESTS FAILED") && ended.out.contains("1 of 4 tests failed"), "{}", ended.out);
    assert!(
        ended.err.contains("test \"a server never opens a connection to the office\" failed"),
        "{}",
        ended.err
    );
}

#[test]
fn a_plan_ends_with_2_when_there_is_a_difference_and_with_0_when_there_is_none() {
    let file = File::edited(
        "plan",
        "name = \"office-to-web\"",
        "limits = { connections = 9 }\nname = \"office-to-web\"",
    );
    let plan = |new: &str, more: &[&str]| bulkhead(&[&["plan", new, "--against", &minimal()], more].concat());
    let same = plan(&minimal(), &[]);
    assert_eq!((same.code, same.err.as_str()), (0, ""));
    assert!(same.out.starts_with("no difference: "), "{}", same.out);
    let other = plan(file.path(), &[]);
    assert_eq!((other.code, other.err.as_str()), (2, ""));
    for part in
        ["~ allowed, limits or time-outs differ: office → servers: ", "connections 9", "rules: 1 changed"]
    {
        assert!(other.out.contains(part), "{part} is missing in {}", other.out);
    }
    let json: serde_json::Value = serde_json::from_str(&plan(file.path(), &["-o", "json"]).out).unwrap();
    assert_eq!((&json["different"], &json["restart"]), (&true.into(), &false.into()));
    assert_eq!(json["access"][0]["witness"]["after"]["rule"], "office-to-web");
    let missing = plan("/nonexistent/bulkhead.toml", &[]);
    assert_eq!((missing.code, missing.out.as_str()), (1, ""));
}

#[test]
fn check_writes_its_tests_as_junit_xml_also_when_the_configuration_is_broken() {
    let report = std::env::temp_dir().join(format!("bulkhead-cli-{}-junit.xml", std::process::id()));
    let report = File(report);
    let run = |file: &File| {
        let ended = bulkhead(&["check", "--junit", report.path(), file.path()]);
        (ended.code, std::fs::read_to_string(report.path()).unwrap())
    };
    let failing = File::edited("junit", "expect = \"deny\"", "expect = \"allow\"");
    let (code, xml) = run(&failing);
    assert_eq!(code, 3);
    assert!(xml.starts_with(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"4\" failures=\"1\" errors=\"0\""
    ));
    assert_eq!((xml.matches("<testcase ").count(), xml.matches("<failure ").count()), (4, 1), "{xml}");
    let text = std::fs::read_to_string(failing.path()).unwrap();
    let line = 1 + text.lines().position(|line| line.contains("a server never opens")).unwrap();
    let place = format!("file=\"{}\" line=\"{line}\"", failing.path());
    assert!(xml.contains(&place) && xml.contains("expected allow, got deny (no_rule)"), "{xml}");
    let (code, xml) =
        run(&File::edited("junit-broken", "to = \"servers\"\nservices", "to = \"server\"\nservices"));
    assert_eq!((code, xml.matches("<error ").count()), (1, 1), "{xml}");
    assert!(xml.contains("errors=\"1\"") && xml.contains("unknown segment `server`"), "{xml}");
    let nowhere = bulkhead(&["check", "--junit", "/nonexistent/report.xml", &minimal()]);
    assert!(
        nowhere.code == 1 && nowhere.err.contains("cannot write /nonexistent/report.xml"),
        "{}",
        nowhere.err
    );
}

#[test]
fn usage_errors_end_with_1_because_2_means_differences() {
    assert_eq!(bulkhead(&["check"]).code, 1);
    assert_eq!(bulkhead(&["frobnicate"]).code, 1);
    assert_eq!(bulkhead(&["--help"]).code, 0);
    assert_eq!(bulkhead(&["--version"]).code, 0);
}

#[test]
fn explain_names_the_deciding_rule_or_the_nearest_one() {
    let file = minimal();
    let ask = |from, to, port| {
        bulkhead(&["explain", "--config", &file, "--from", from, "--to", to, "--port", port])
    };
    let allowed = ask("10.1.0.5", "servers", "tcp/443");
    assert_eq!(allowed.code, 0);
    assert!(allowed.out.contains("ALLOW by rule `office-to-web` ("), "{}", allowed.out);
    let denied = ask("office", "10.2.0.1", "tcp/22");
    assert_eq!(denied.code, 0);
    for part in ["DENY", "no_rule: ", "`office-to-web` (", "tcp/22 is not among its services (web, ping)"] {
        assert!(denied.out.contains(part), "{part} is missing in {}", denied.out);
    }
    let nonsense = ask("ofice", "servers", "tcp/22");
    assert_eq!(nonsense.code, 1);
    assert!(nonsense.err.contains("did you mean `office`?"), "{}", nonsense.err);
}

#[test]
fn fmt_says_what_would_change_and_changes_layout_only() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let configs = std::fs::read_dir(configs).unwrap().map(|entry| entry.unwrap().path());
    let configs: Vec<_> = configs.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    for path in &configs {
        let ended = bulkhead(&["fmt", "--check", path.to_str().unwrap()]);
        assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, "", ""), "{}", path.display());
    }
    assert!(!configs.is_empty());
    let file = File::edited("fmt", "version = 1\n", "version=1\n\n\n\n");
    let before = std::fs::read_to_string(file.path()).unwrap();
    let ended = bulkhead(&["fmt", "--check", file.path()]);
    assert_eq!((ended.code, ended.out), (2, format!("{}: would change\n", file.path())));
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), before);
    let ended = bulkhead(&["fmt", file.path()]);
    assert_eq!((ended.code, ended.out), (0, format!("{}: laid out\n", file.path())));
    let minimal = std::fs::read_to_string(minimal()).unwrap();
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), minimal);
    std::fs::write(file.path(), "version = = 1").unwrap();
    let ended = bulkhead(&["fmt", file.path()]);
    assert!(ended.code == 1 && ended.err.contains(":1:11"), "{}", ended.err);
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "version = = 1");
}

/// A pcap of one SYN from the office to port 22 of a server.
fn syn_to_22() -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 1, 0, 5], [10, 2, 0, 5], 64)
        .tcp(40_000, 22, 1, 1000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    let mut file = Vec::new();
    for word in
        [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1, 1_700_000_000, 0, frame.len() as u32, frame.len() as u32]
    {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(frame);
    file
}

#[test]
fn a_replay_lists_verdicts_and_ends_with_2_where_two_policies_differ() {
    let other = File::edited("replay", "tcp/443\"]", "tcp/22\"]");
    let capture = File(std::env::temp_dir().join(format!("bulkhead-cli-{}.pcap", std::process::id())));
    std::fs::write(&capture.0, syn_to_22()).unwrap();
    let ended = bulkhead(&["replay", capture.path(), "--policy", &minimal()]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(ended.out.contains("1 packet(s): 0 forwarded, 1 refused"), "{}", ended.out);
    assert!(ended.out.contains("drop (no_rule)") && ended.out.contains("assumed:"), "{}", ended.out);
    let compare = ["replay", capture.path(), "--policy", other.path(), "--against", &minimal(), "-o", "json"];
    let ended = bulkhead(&compare);
    let line: serde_json::Value = serde_json::from_str(ended.out.lines().next().unwrap()).unwrap();
    assert_eq!(
        (ended.code, &line["new"]["verdict"], &line["old"]["reason"]),
        (2, &"forward".into(), &"no_rule".into())
    );
    let same = bulkhead(&["replay", capture.path(), "--policy", &minimal(), "--against", &minimal()]);
    assert_eq!(same.code, 0, "{}", same.out);
}

#[test]
fn a_broken_capture_ends_with_1_and_tells_where_and_what_was_read_before() {
    let capture = File(std::env::temp_dir().join(format!("bulkhead-cli-{}-cut.pcap", std::process::id())));
    let mut file = syn_to_22();
    let packet = file[24..].to_vec();
    file.extend(&packet[..packet.len() - 9]);
    std::fs::write(&capture.0, file).unwrap();
    let ended = bulkhead(&["replay", capture.path(), "--policy", &minimal()]);
    assert_eq!(ended.code, 1);
    assert!(
        ended.err.contains("at byte 94: the file ends in the middle of a block; 1 packet(s)"),
        "{}",
        ended.err
    );
    assert!(ended.out.contains("1 refused"), "{}", ended.out);
    let ended = bulkhead(&["replay", &minimal(), "--policy", &minimal()]);
    assert!(ended.code == 1 && ended.err.contains("neither pcap nor pcapng"), "{}", ended.err);
}

#[test]
fn verbs_of_the_life_of_a_policy_need_a_gateway_and_tell_what_is_wrong_before_they_ask_it() {
    let nowhere = ["--control", "/nonexistent/control.sock"];
    let file = minimal();
    for verb in [
        &["apply", &file, "--confirm", "5m"][..],
        &["confirm"],
        &["rollback"],
        &["history"],
        &["show", "1"],
        &["diff", "1", "2"],
    ] {
        let ended = bulkhead(&[verb, &nowhere].concat());
        assert!(ended.code == 1 && ended.err.contains("no gateway is running"), "{verb:?}: {}", ended.err);
        let help = bulkhead(&[verb[0], "--help"]);
        assert!(help.code == 0 && help.out.contains("Examples:"), "{verb:?}: {}", help.out);
    }
    for (arguments, why) in [
        (&["apply", &file, "--confirm", "5"][..], "`5` is not a duration"),
        (&["apply", &file, "--confirm", "0s"], "is no time at all"),
        (&["apply"], "<NEW>"),
        (&["show", "last"], "invalid digit"),
        (&["diff", "1"], "<B>"),
    ] {
        let ended = bulkhead(arguments);
        assert!(ended.code == 1 && ended.err.contains(why), "{arguments:?}: {}", ended.err);
    }
}

#[test]
fn deny_warnings_overlooked_a_service_that_no_rule_uses() {
    let file = File::edited("unused", "[[rule]]", "[services.unused]\nports = [\"tcp/9\"]\n\n[[rule]]");
    let warned = bulkhead(&["check", file.path()]);
    assert_eq!(warned.code, 0, "{}", warned.err);
    assert!(warned.err.contains("unused"), "{}", warned.err);
    let denied = bulkhead(&["check", "--deny-warnings", file.path()]);
    assert_eq!((denied.code, denied.err), (1, warned.err));
}

#[test]
fn the_example_configurations_give_no_warnings() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            // What has an end is to show that: it ends one day.
            let allowed = ["--allow", "expired", "--allow", "expires-soon"];
            let args = [&["check", "--deny-warnings"], &allowed[..], &[path.to_str().unwrap()]].concat();
            let ended = bulkhead(&args);
            assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} configurations");
}
