//! The command line beside a running gateway.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use bulkhead_dataplane::verdict::Reason;
use bulkhead_tests::PATIENCE;
use bulkhead_tests::config::{Config, allow, deny};
use bulkhead_tests::frames::{Family, flags};
use bulkhead_tests::gateway::{program, run};
use bulkhead_tests::scene::{Scene, number, text};
use serde_json::Value;

fn services() -> Config {
    Config::new(
        allow("web", "office", "servers", "tcp/80")
            + &allow("names", "office", "servers", "udp/53")
            + &deny("telnet", "office", "servers", "tcp/23"),
    )
}

#[test]
fn status_tells_how_the_gateway_is_and_only_root_may_ask() {
    let Some(scene) = Scene::start(&services()) else { return };
    let mode = std::fs::metadata(scene.control()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    scene.crosses("office", "servers", &scene.path("office", "servers", Family::V4).udp(4000, 53, b"x"));
    scene.check_ledger();
    let status = scene.status();
    for (key, expected) in
        [("generation", 1), ("rules", 4), ("workers", 1), ("workers_alive", 1), ("events_lost", 0)]
    {
        assert_eq!(number(&status, key), expected, "{key}");
    }
    assert_eq!(status["connections"]["open"], 1);
    let names: Vec<_> = status["ports"].as_array().unwrap().iter().map(|port| text(port, "name")).collect();
    assert_eq!(names, ["office", "servers"]);
    let shown = scene.cli(&["status"]);
    assert_eq!(shown.code, 0);
    for part in ["generation 1", "balanced", "office", "servers", "driver"] {
        assert!(shown.stdout.contains(part), "{part} in {}", shown.stdout);
    }
}

#[test]
fn connections_are_listed_filtered_counted_and_killed() {
    let Some(scene) = Scene::start(&services()) else { return };
    let mut web: Vec<_> =
        Family::BOTH.iter().map(|family| scene.open_tcp("office", "servers", *family, (4000, 80))).collect();
    for family in Family::BOTH {
        scene.crosses("office", "servers", &scene.path("office", "servers", family).udp(4000, 53, b"x"));
    }
    let list = |filter: &[&str]| scene.json(&[&["connections", "list"], filter].concat());
    let matched = |filter: &[&str]| number(&list(filter), "matched");
    assert_eq!(matched(&["--from", "office", "--to", "servers"]), 4);
    assert_eq!(matched(&["--port", "tcp/80"]), 2);
    assert_eq!(matched(&["--rule", "names"]), 2);
    assert_eq!(matched(&["--state", "established"]), 2);
    assert_eq!(matched(&["--source", "10.1.0.0/24"]), 2);
    assert_eq!(matched(&["--destination", "fd00:2::/64", "--port", "udp/53"]), 1);
    assert_eq!(matched(&["--from", "servers"]), 0);
    let row = &list(&["--port", "tcp/80", "--source", "10.1.0.0/24"])["connections"][0];
    for (key, expected) in [("protocol", "tcp"), ("from", "office"), ("to", "servers"), ("rule", "web")] {
        assert_eq!(text(row, key), expected);
    }
    assert_eq!(row["packets"].to_string(), "[2,1]");
    let shown = scene.cli(&["connections", "list", "--limit", "1"]);
    assert!(shown.stdout.contains("4 connection(s), 3 of them not shown"), "{}", shown.stdout);

    // A dry run counts and cuts nothing; nothing said cuts nothing either.
    let killed = scene.json(&["connections", "kill", "--rule", "web", "--dry-run"]);
    assert_eq!((number(&killed, "matched"), number(&killed, "killed")), (2, 0));
    assert_eq!(scene.cli(&["connections", "kill"]).code, 1);
    assert_eq!(scene.cli(&["connections", "kill", "--from", "ofice"]).code, 1);
    web.iter_mut().for_each(|tcp| tcp.talks());
    let killed = scene.json(&["connections", "kill", "--rule", "web"]);
    assert_eq!(number(&killed, "killed"), 2);
    let before = scene.drops();
    for tcp in &mut web {
        for side in [0, 1] {
            let next = tcp.segment(side, flags::ACK | flags::PSH, b"more");
            tcp.stays_out(side, &next);
        }
    }
    scene.expect_drops(&before, &[("no_connection", 4)]);
    assert_eq!(matched(&["--rule", "web"]), 0);
    assert_eq!(matched(&["--rule", "names"]), 2);
    assert!(number(&scene.json(&["connections", "kill", "--all"]), "killed") >= 2);
    assert_eq!(matched(&[]), 0);
}

#[test]
fn explain_shows_the_connections_that_live_of_what_it_was_asked() {
    let Some(scene) = Scene::start(&services()) else { return };
    let mut web: Vec<_> =
        Family::BOTH.iter().map(|family| scene.open_tcp("office", "servers", *family, (4000, 80))).collect();
    web[0].talks();
    scene.crosses("office", "servers", &scene.path("office", "servers", Family::V4).udp(4000, 53, b"x"));
    let explain = |from: &str, port: &str, more: &[&str]| {
        scene.json(&[&["explain", "--from", from, "--to", "servers", "--port", port], more].concat())
    };
    let told = explain("office", "tcp/80", &[]);
    assert_eq!(told["answers"].as_array().unwrap().len(), 2, "one for each family");
    assert_eq!(number(&told["live"], "matched"), 2);
    let address = scene.path("office", "servers", Family::V4).source.to_string();
    let live = explain(&address, "tcp/80", &[])["live"].take();
    let row = &live["connections"][0];
    assert_eq!((number(&live, "matched"), text(row, "source")), (1, address));
    assert_eq!((text(row, "rule"), text(row, "state")), ("web".to_owned(), "established".to_owned()));
    // The handshake, and data in both directions.
    assert_eq!(row["packets"], serde_json::json!([3, 2]));
    assert!(number(row, "age_s") < 60 && number(row, "idle_s") < 60);
    let limited = explain("office", "tcp/80", &["--limit", "1"]);
    assert_eq!(limited["live"]["connections"].as_array().unwrap().len(), 1);
    assert_eq!(number(&limited["live"], "matched"), 2);
    assert_eq!(number(&explain("office", "tcp/23", &[])["live"], "matched"), 0);
    let asked = ["explain", "--from", "office", "--to", "servers", "--port", "tcp/80"];
    let shown = scene.cli(&[&asked[..], &["--user", "alice", "--mfa-age", "2h"]].concat()).stdout;
    for part in ["user alice, second factor shown 2h ago", "ALLOW by rule `web`", "live now:", "established"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    scene.json(&["connections", "kill", "--all"]);
    assert!(scene.cli(&asked).stdout.contains("no such connection lives now"));
    let wrong = scene.cli(&[&asked[..], &["--posture", "compliant"]].concat());
    assert!(wrong.code == 1 && wrong.stderr.contains("unknown posture `compliant`"), "{wrong:?}");
}

#[test]
fn every_rule_counts_its_packets_and_bytes_over_reloads() {
    let Some(scene) = Scene::start(&services()) else { return };
    let rows = || scene.json(&["rules"])["rules"].as_array().unwrap().clone();
    let row = |name: &str| rows().into_iter().find(|row| row["rule"] == name).unwrap();
    let path = scene.path("office", "servers", Family::V4);
    let frame = path.udp(4000, 53, &[1; 100]);
    for _ in 0..5 {
        scene.crosses("office", "servers", &frame);
    }
    let check = |packets: u64, connections: u64| {
        let names = row("names");
        let counted = ["packets", "bytes", "connections"].map(|key| number(&names, key));
        // 20 bytes of IPv4 and 8 of UDP.
        assert_eq!(counted, [packets, packets * 128, connections]);
        assert!(text(&names, "last_hit").ends_with('Z'));
    };
    check(5, 1);
    assert_eq!(row("web")["last_hit"], Value::Null);
    let mut syn = scene.path("office", "servers", Family::V4).tcp(
        (4000, 23),
        bulkhead_tests::frames::segment(flags::SYN, 1, 0),
        b"",
    );
    scene.stays_out("office", "servers", &syn);
    syn[14 + 20 + 3] = 24;
    assert_eq!(number(&row("telnet"), "packets"), 1);
    scene.stays_out("office", "servers", &path.udp(4000, 99, b"x"));
    let default = rows().pop().unwrap();
    assert_eq!((&default["rule"], number(&default, "packets")), (&Value::Null, 1));
    scene.reload(&services());
    scene.crosses("office", "servers", &frame);
    check(6, 1);
    assert!(scene.cli(&["rules"]).stdout.contains("names"));
}

#[test]
fn drops_explain_every_reason_and_name_the_sources() {
    let Some(scene) = Scene::start(&services()) else { return };
    let rows = scene.drop_rows();
    assert_eq!(rows.len(), Reason::COUNT);
    for (row, reason) in rows.iter().zip(Reason::ALL) {
        assert_eq!(text(row, "reason"), reason.name());
        assert_eq!(text(row, "help"), reason.help());
        assert_eq!(text(row, "group"), reason.group());
    }
    let path = scene.path("office", "servers", Family::V4);
    for port in 100..110 {
        scene.stays_out("office", "servers", &path.udp(4000, port, b"x"));
    }
    let shown = scene.cli(&["drops"]).stdout;
    assert!(shown.contains("no_rule") && shown.contains(Reason::NoRule.help()), "{shown}");
    assert!(!shown.contains("table_full"), "{shown}");
    let all = scene.cli(&["drops", "--all"]).stdout;
    assert!(Reason::ALL.iter().all(|reason| all.contains(reason.name()) && all.contains(reason.help())));
    let sources = scene.json(&["drops", "--sources"]);
    assert_eq!(text(&sources["top"][0], "source"), path.source.to_string());
    assert_eq!(number(&sources["top"][0], "denied"), 10);
    assert_eq!(text(&sources["top"][0], "last_reason"), "no_rule");
}

#[test]
fn events_are_followed_as_json_lines_from_opened_to_closed() {
    let timeouts = "tcp_closed = \"1s\"";
    let Some(scene) = Scene::start(&Config { timeouts, ..services() }) else { return };
    let control = scene.control();
    let mut command = Command::new(program());
    command.args(["events", "--follow", "--control"]).arg(control);
    let mut follower = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let (say, said) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ =
                say.send(serde_json::from_str::<Value>(&line).unwrap_or_else(|_| panic!("no JSON: {line}")));
        }
    });
    // Until it listens, what happens is not told to it.
    scene.nothing_arrived("office", "servers");
    let heard = |kind: &str, wanted: &dyn Fn(&Value) -> bool| loop {
        let event = said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no event {kind}"));
        if event["kind"] == kind && wanted(&event) {
            return event;
        }
    };
    let sign_of_life = std::time::Instant::now() + PATIENCE;
    let mut port = 6000;
    while said.try_recv().is_err() {
        assert!(std::time::Instant::now() < sign_of_life, "no events");
        scene.stays_out(
            "office",
            "servers",
            &scene.path("office", "servers", Family::V4).udp(port, 99, b"x"),
        );
        port += 1;
    }
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        scene.stays_out("office", "servers", &path.udp(4000, 99, b"x"));
        let denied = heard("denied", &|event| event["source_port"] == 4000);
        assert_eq!((text(&denied, "reason"), &denied["rule"]), ("no_rule".to_owned(), &Value::Null));
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        let opened = heard("opened", &|event| event["protocol"] == "tcp");
        let [rule, from, to, source] = ["rule", "from", "to", "source"].map(|key| text(&opened, key));
        assert_eq!([&rule, &from, &to], ["web", "office", "servers"]);
        assert_eq!((source, number(&opened, "generation")), (path.source.to_string(), 1));
        tcp.crosses(1, flags::RST | flags::ACK, b"");
        let closed = heard("closed", &|event| event["protocol"] == "tcp");
        assert_eq!(number(&closed, "packets"), 4);
        scene.crosses("office", "servers", &path.udp(4000, 53, b"x"));
        heard("opened", &|event| event["destination_port"] == 53);
        scene.json(&["connections", "kill", "--rule", "names"]);
        assert_eq!(text(&heard("cut", &|_| true), "reason"), "killed");
    }
    assert_eq!(number(&scene.status(), "events_lost"), 0);
    follower.kill().unwrap();
    follower.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn explain_says_what_the_gateway_then_does() {
    let Some(scene) = Scene::start(&services()) else { return };
    let explain = |port: &str| {
        let answers = scene.json(&["explain", "--from", "office", "--to", "servers", "--port", port]);
        answers["answers"][0].to_string()
    };
    assert!(explain("tcp/80").contains("web"));
    assert!(explain("tcp/23").contains("telnet") && explain("tcp/23").contains("rule_denied"));
    assert!(explain("tcp/24").contains("no_rule"));
    scene.reload(&Config::new(allow("other", "office", "servers", "tcp/24")));
    assert!(explain("tcp/24").contains("other"));
    assert!(explain("tcp/80").contains("no_rule"));
    let wrong = scene.cli(&["explain", "--from", "ofice", "--to", "servers", "--port", "tcp/80"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("office"), "{wrong:?}");
}

#[test]
fn exit_codes_tell_success_error_and_failed_tests() {
    let Some(mut scene) = Scene::start(&services()) else { return };
    let config = scene.config();
    let file = config.to_str().unwrap();
    assert_eq!(run(&["check", file]).code, 0);
    assert_eq!(run(&["check", "/nowhere.toml"]).code, 1);
    assert_eq!(run(&["no-such-verb"]).code, 1);
    assert_eq!(run(&["--help"]).code, 0);
    let good = scene.text(&services());
    let test = "\n[[test]]\nname = \"t\"\nfrom = \"office\"\nto = \"servers\"\nport = \"tcp/80\"\nexpect = \"deny\"\n";
    scene.write_text(&(good.clone() + test));
    assert_eq!(run(&["check", file]).code, 3);
    assert_eq!(scene.cli(&["reload"]).code, 3);
    // A second gateway on the same place is refused, and the first does not notice.
    scene.write_text(&good);
    let second = bulkhead_tests::gateway::Gateway::start(
        &scene.lab.gateway,
        bulkhead_tests::gateway::Mounts::Private,
        &config,
        &[],
    );
    let refused = second.err().expect("it is refused");
    assert!(refused.status.code() == Some(1) && refused.output.contains("already running"), "{refused:?}");
    scene.nothing_arrived("office", "servers");
    scene.check_ledger();
    assert_eq!(scene.cli(&["stop"]).code, 0);
    assert!(scene.take_gateway().ended().success());
    let nobody = scene.cli(&["status"]);
    assert!(nobody.code == 1 && nobody.stderr.contains("no gateway is running"), "{nobody:?}");
    scene.write_text(&(good + test));
    let failed = scene.try_run(&["--no-fallback"]).expect_err("its tests fail");
    assert_eq!(failed.status.code(), Some(3));
}

#[test]
fn c13_a_gateway_that_died_left_its_secrets_in_a_core_dump() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    use nix::sys::signal::{Signal, kill};
    use std::os::unix::process::ExitStatusExt;
    setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).expect("the limit is ours to raise");
    let Some(mut scene) = Scene::start(&Config::new(String::new())) else { return };
    let directory = scene.config().parent().expect("it is in one").to_owned();
    let mut sleeper = std::process::Command::new("sleep").arg("60").current_dir(directory).spawn().unwrap();
    kill(nix::unistd::Pid::from_raw(sleeper.id() as i32), Signal::SIGABRT).unwrap();
    if !sleeper.wait().unwrap().core_dumped() {
        eprintln!("SKIP: the kernel dumps no core here");
        return;
    }
    let gateway = scene.take_gateway();
    gateway.signal(Signal::SIGABRT);
    let status = gateway.ended();
    assert_eq!((status.signal(), status.core_dumped()), (Some(Signal::SIGABRT as i32), false));
}
