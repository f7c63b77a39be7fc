//! The life of a policy: apply, confirm, roll back, remember. Nobody is locked out, whatever dies in between.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{Content, Family, flags};
use bulkhead_tests::gateway::{Ran, program};
use bulkhead_tests::scene::{Check, Scene, number, text};
use bulkhead_tests::wait_until;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The port of the operator's own connection.
const SSH: u16 = 22;

/// The operator reaches the servers, and names are asked for.
fn open() -> Config {
    Config::new(
        allow("operator", "office", "servers", "tcp/22") + &allow("names", "office", "servers", "udp/53"),
    )
}

/// The same without the operator.
fn cutting() -> Config {
    Config::new(allow("names", "office", "servers", "udp/53") + &allow("more", "office", "servers", "udp/54"))
}

/// Whether a new connection of the operator's gets through.
fn is_reachable(scene: &Scene, from: u16) -> bool {
    let path = scene.path("office", "servers", Family::V4);
    let syn = path.tcp((from, SSH), bulkhead_tests::frames::segment(flags::SYN, 1, 0), b"");
    // What it sends comes back to its own socket, and would fill it.
    scene.peer("office").drain();
    scene.peer("office").send(&syn);
    scene
        .arrived("office", "servers")
        .iter()
        .any(|packet| matches!(packet.content, Content::Tcp(source, SSH, ..) if source == from))
}

fn history(scene: &Scene) -> Vec<Value> {
    scene.json(&["history"])["revisions"].as_array().unwrap().clone()
}

/// Number and state of every revision.
fn states(scene: &Scene) -> Vec<(u64, String)> {
    history(scene).iter().map(|row| (number(row, "revision"), text(row, "state"))).collect()
}

fn expect_states(scene: &Scene, expected: &[(u64, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(revision, state)| (*revision, (*state).to_owned())).collect();
    assert_eq!(states(scene), expected);
}

fn revision(scene: &Scene) -> u64 {
    number(&scene.status(), "revision")
}

fn alarms(scene: &Scene) -> String {
    scene.status()["alarms"].to_string()
}

fn ok(ran: Ran) -> Ran {
    assert_eq!(ran.code, 0, "{ran:?}");
    ran
}

fn refused(ran: Ran, why: &str) {
    assert!(ran.code == 1 && ran.stderr.contains(why), "{why}: {ran:?}");
}

#[test]
fn a_policy_that_cuts_the_operator_is_rolled_back_in_time_without_anybody_doing_anything() {
    let Some(scene) = Scene::start(&open()) else { return };
    let new = scene.candidate("new.toml", &cutting());
    let mut own = scene.open_tcp("office", "servers", Family::V4, (4000, SSH));
    own.talks();
    let begun = Instant::now();
    let said = ok(scene.cli(&["apply", &new, "--confirm", "2s", "--message", "careful"]));
    let applied = Instant::now();
    assert!(
        said.stdout.contains("revision 2, generation 2") && said.stdout.contains("bulkhead confirm"),
        "{said:?}"
    );
    let next = own.segment(0, flags::ACK | flags::PSH, b"still there?");
    own.stays_out(0, &next);
    assert!(!is_reachable(&scene, 4001));
    expect_states(&scene, &[(1, "confirmed"), (2, "pending")]);
    assert!(scene.cli(&["status"]).stdout.contains("ROLLED BACK AT"));
    let mut port = 4002;
    while !is_reachable(&scene, port) {
        port += 1;
        std::thread::sleep(Duration::from_millis(2));
        assert!(applied.elapsed() < Duration::from_secs(10), "the operator is locked out");
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "after {:?}", begun.elapsed());
    // 50 ms of the main loop's sleep, and what a busy machine takes to get a packet across.
    assert!(applied.elapsed() < Duration::from_millis(2500), "after {:?}", applied.elapsed());
    wait_until("history tells", || states(&scene)[1].1 == "rolled_back");
    expect_states(&scene, &[(1, "in_force"), (2, "rolled_back")]);
    assert_eq!(revision(&scene), 1);
    assert!(
        alarms(&scene)
            .contains("revision 2 is rolled back, because it was not confirmed in time: revision 1")
    );
    refused(scene.cli(&["confirm"]), "nothing waits for its confirmation; revision 2 was rolled back at");
    let mut own = scene.open_tcp("office", "servers", Family::V4, (3999, SSH));
    own.talks();
}

#[test]
fn an_operator_who_is_cut_off_from_the_gateway_itself_reaches_it_again() {
    let Some(scene) = Scene::start(&Config { local: vec!["tcp/22"], ..open() }) else { return };
    let new = scene.candidate("new.toml", &open());
    let _listener = scene.lab.gateway.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, SSH)).unwrap());
    let host = scene.host("office");
    let address = (host.gateway_v4, SSH).into();
    let is_answered = || {
        let patience = Duration::from_millis(400);
        host.namespace.run(|| TcpStream::connect_timeout(&address, patience)).is_ok()
    };
    assert!(is_answered());
    ok(scene.cli(&["apply", &new, "--confirm", "2s"]));
    assert!(!is_answered());
    wait_until("the operator is let in again", is_answered);
    expect_states(&scene, &[(1, "in_force"), (2, "rolled_back")]);
}

#[test]
fn what_was_not_confirmed_does_not_outlive_kill_9_although_the_file_says_so() {
    let Some(mut scene) = Scene::start(&open()) else { return };
    // As an operator does it: edits the file, and applies it.
    scene.write(&cutting());
    let file = scene.config().display().to_string();
    ok(scene.cli(&["apply", &file, "--confirm", "2s"]));
    assert!(!is_reachable(&scene, 4000));
    scene.take_gateway().kill_9();
    for start in 0..3 {
        scene.try_run(&[]).unwrap();
        assert!(is_reachable(&scene, 4001), "start {start}");
        assert_eq!(revision(&scene), 1);
        let said = alarms(&scene);
        assert!(said.contains("revision 1 runs instead of") && said.contains(&file), "{said}");
        assert_eq!(said.contains("revision 2 was not confirmed"), start == 0, "{said}");
        expect_states(&scene, &[(1, "in_force"), (2, "rolled_back")]);
        scene.take_gateway().kill_9();
    }
    // A new intention.
    scene.write(&Config::new(allow("operator", "office", "servers", "tcp/22 tcp/23")));
    scene.try_run(&[]).unwrap();
    assert_eq!((revision(&scene), number(&scene.status(), "alarms_total")), (3, 0));
    expect_states(&scene, &[(1, "superseded"), (2, "rolled_back"), (3, "in_force")]);
}

#[test]
fn confirmed_in_time_a_policy_stays_also_over_a_restart_with_the_older_file() {
    let Some(mut scene) = Scene::start(&open()) else { return };
    let new = scene.candidate("new.toml", &cutting());
    ok(scene.cli(&["apply", &new, "--confirm", "2s"]));
    refused(scene.cli(&["confirm", "1"]), "revision 2 waits for that, not 1");
    assert_eq!(ok(scene.cli(&["confirm"])).stdout, "revision 2 is confirmed\n");
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!is_reachable(&scene, 4000));
    expect_states(&scene, &[(1, "superseded"), (2, "in_force")]);
    assert_eq!(text(&history(&scene)[1]["confirmed_by"], "user"), "root");
    scene.take_gateway().signal(Signal::SIGTERM);
    fs::remove_file(new).unwrap();
    scene.try_run(&[]).unwrap();
    assert!(!is_reachable(&scene, 4000));
    assert_eq!(revision(&scene), 2);
    assert!(alarms(&scene).contains("which was not changed since that was put in force"));
    // The file puts itself in force when somebody says so.
    ok(scene.cli(&["reload", scene.config().to_str().unwrap()]));
    assert!(is_reachable(&scene, 4001));
    expect_states(&scene, &[(1, "superseded"), (2, "superseded"), (3, "in_force")]);
    scene.take_gateway().kill_9();
    scene.try_run(&[]).unwrap();
    assert_eq!((revision(&scene), number(&scene.status(), "alarms_total")), (3, 0));
}

#[test]
fn beside_what_waits_for_its_confirmation_only_a_replacement_is_put_in_force() {
    let Some(scene) = Scene::start(&open()) else { return };
    let new = scene.candidate("new.toml", &cutting());
    let newer = scene.candidate("newer.toml", &Config::new(allow("a", "office", "servers", "udp/55")));
    ok(scene.cli(&["apply", &new, "--confirm", "1h"]));
    for refusal in [&["apply", &newer][..], &["apply", &newer, "--confirm", "5s"], &["reload"]] {
        refused(scene.cli(refusal), "revision 2 waits for its confirmation");
    }
    let before = number(&scene.status(), "alarms_total");
    scene.gateway().signal(Signal::SIGHUP);
    wait_until("an alarm tells it", || number(&scene.status(), "alarms_total") == before + 1);
    assert_eq!(revision(&scene), 2);
    ok(scene.cli(&["apply", &newer, "--confirm", "1s", "--replace"]));
    expect_states(&scene, &[(1, "confirmed"), (2, "rolled_back"), (3, "pending")]);
    wait_until("the time is over", || revision(&scene) == 1);
    assert!(is_reachable(&scene, 4000));
    // By hand it goes at once, and so it does for good.
    ok(scene.cli(&["apply", &new, "--confirm", "1h"]));
    assert!(!is_reachable(&scene, 4001));
    assert!(ok(scene.cli(&["rollback"])).stdout.contains("revision 1"));
    assert!(is_reachable(&scene, 4002));
    ok(scene.cli(&["apply", &new, "--confirm", "1h"]));
    ok(scene.cli(&["apply", &newer, "--replace"]));
    expect_states(
        &scene,
        &[
            (1, "superseded"),
            (2, "rolled_back"),
            (3, "rolled_back"),
            (4, "rolled_back"),
            (5, "rolled_back"),
            (6, "in_force"),
        ],
    );
}

#[test]
fn what_is_wrong_is_not_applied_and_leaves_no_trace() {
    let Some(scene) = Scene::start(&open()) else { return };
    let path = |name: &str| scene.config().with_file_name(name);
    let write = |name: &str, text: &str| {
        fs::write(path(name), text).unwrap();
        path(name).display().to_string()
    };
    let good = scene.text(&cutting());
    let test = "\n[[test]]\nname = \"t\"\nfrom = \"office\"\nto = \"servers\"\nport = \"udp/53\"\nexpect = \"deny\"\n";
    let failing = write("failing.toml", &(good.clone() + test));
    let broken = write("broken.toml", &good.replacen("from = \"office\"", "from = \"ofice\"", 1));
    let moved = write("moved.toml", &good.replacen("workers = 1", "workers = 2", 1));
    let fine = write("fine.toml", &good);
    let ran = scene.cli(&["apply", &failing, "--confirm", "5s"]);
    assert!(ran.code == 3 && ran.stderr.contains("test \"t\" failed"), "{ran:?}");
    refused(scene.cli(&["apply", &broken]), "did you mean `office`?");
    refused(scene.cli(&["apply", &moved, "--confirm", "5s"]), "workers: 1 → 2");
    refused(scene.cli(&["apply", "/nowhere.toml"]), "/nowhere.toml");
    refused(scene.cli(&["apply", &fine, "--confirm", "100ms"]), "from one second to seven days");
    refused(scene.cli(&["apply", &fine, "--confirm", "soon"]), "`soon` is not a duration");
    refused(scene.cli(&["apply", &fine, "--message", "a\nb"]), "control characters");
    refused(scene.cli(&["apply", &fine, "--ticket", &"x".repeat(101)]), "100 characters");
    refused(scene.cli(&["rollback"]), "no other policy was confirmed before");
    refused(scene.cli(&["rollback", "1"]), "revision 1 is in force");
    refused(scene.cli(&["rollback", "9"]), "there is no revision 9, only 1");
    refused(scene.cli(&["show", "2"]), "there is no revision 2");
    refused(scene.cli(&["confirm"]), "nothing waits for its confirmation");
    expect_states(&scene, &[(1, "in_force")]);
    assert_eq!(number(&scene.status(), "generation"), 1);
    assert!(is_reachable(&scene, 4000));
}

#[test]
fn history_show_diff_and_rollback_know_every_policy_and_who_wanted_it() {
    let Some(scene) = Scene::start(&open()) else { return };
    let directory = scene.config().parent().unwrap().join("policy.d");
    fs::create_dir(&directory).unwrap();
    let included = directory.join("1.toml");
    let with = |rule: &str| {
        fs::write(&included, allow(rule, "servers", "office", "tcp/99")).unwrap();
        let text =
            scene.text(&cutting()).replacen("version = 1", "version = 1\ninclude = [\"policy.d/*.toml\"]", 1);
        let main = scene.config().with_file_name("main.toml");
        fs::write(&main, text).unwrap();
        main.display().to_string()
    };
    let main = with("first");
    let ran = Command::new(program())
        .args(["apply", &main, "--message", "two files", "--ticket", "NET-7", "-o", "json", "--control"])
        .arg(scene.control())
        .env("SUDO_USER", "alice\u{1b}[2J")
        .env("SSH_CONNECTION", "10.9.9.9 50000 10.1.0.254 22")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    with("second");
    scene.gateway().signal(Signal::SIGHUP);
    wait_until("SIGHUP is obeyed", || revision(&scene) == 3);
    // The same again is no news.
    assert_eq!(number(&scene.json(&["reload"]), "revision"), 3);
    let rows = history(&scene);
    let causes: Vec<_> = rows.iter().map(|row| text(&row["about"], "cause")).collect();
    assert_eq!(causes, ["start", "apply", "signal"]);
    let about = &rows[1]["about"];
    for (key, value) in [("user", "root"), ("message", "two files"), ("ticket", "NET-7")] {
        assert_eq!(text(about, key), value);
    }
    assert_eq!((number(about, "uid"), text(&about["client_said"], "sudo_user")), (0, "alice[2J".to_owned()));
    assert!(text(about, "at").ends_with('Z'));
    let shown = ok(scene.cli(&["history"])).stdout;
    for part in ["sudo by alice", "ssh from 10.9.9.9", "NET-7", "two files", "SIGHUP", "in force"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    // Whatever the files say now.
    fs::remove_dir_all(&directory).unwrap();
    let shown = ok(scene.cli(&["show", "2"])).stdout;
    assert!(
        shown.contains("# --- ") && shown.contains("\"first\"") && shown.contains("\"names\""),
        "{shown}"
    );
    let only = ok(scene.cli(&["show", "2", "--file", included.to_str().unwrap()])).stdout;
    assert_eq!(only.trim(), allow("first", "servers", "office", "tcp/99").trim());
    let diff = scene.cli(&["diff", "2", "3"]);
    assert!(diff.code == 2 && diff.stdout.contains("-name = \"first\"\n+name = \"second\""), "{diff:?}");
    assert_eq!(scene.cli(&["diff", "2", "2"]).code, 0);
    let files = scene.cli(&["diff", "1", "2", "-o", "json"]);
    let files: Value = serde_json::from_str(&files.stdout).unwrap();
    assert_eq!(files["files"].as_array().unwrap().len(), 2, "{files:#}");
    // Back and further back, and nothing of the directory that is gone is needed for it.
    let rules = || scene.json(&["rules"]).to_string();
    assert!(rules().contains("second"));
    let said = ok(scene.cli(&["rollback", "--message", "wrong"]));
    assert!(said.stdout.starts_with("revision 4, generation 5"), "{said:?}");
    assert!(rules().contains("first") && !rules().contains("second"));
    ok(scene.cli(&["rollback"]));
    assert!(rules().contains("operator"));
    refused(scene.cli(&["rollback"]), "no other policy was confirmed before");
    ok(scene.cli(&["rollback", "3", "--confirm", "1s"]));
    assert!(rules().contains("second"));
    wait_until("the time is over", || revision(&scene) == 5);
    let expected = ["superseded", "superseded", "rolled_back", "rolled_back", "in_force", "rolled_back"];
    let found: Vec<_> = states(&scene).into_iter().map(|(_, state)| state).collect();
    assert_eq!(found, expected);
    refused(scene.cli(&["rollback", "6"]), "revision 6 was never confirmed");
}

#[test]
fn the_log_tells_every_change_of_what_is_in_force() {
    let Some(scene) = Scene::start(&open()) else { return };
    let new = scene.candidate("new.toml", &cutting());
    ok(scene.cli(&["apply", &new, "--confirm", "1h"]));
    ok(scene.cli(&["confirm"]));
    ok(scene.cli(&["rollback"]));
    ok(scene.cli(&["reload", &new]));
    scene.gateway().signal(Signal::SIGHUP);
    wait_until("SIGHUP is logged", || scene.gateway().output().contains("by signal: "));
    let said = scene.gateway().output();
    let parts = [
        "revision 2, generation 2 by apply of root: ",
        " unless confirmed",
        "revision 3, generation 3 by rollback of root: ",
        "revision 4, generation 4 by reload of root: ",
    ];
    for part in parts {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn a_broken_file_at_the_start_is_told_loudly_and_what_was_confirmed_last_runs() {
    let Some(mut scene) = Scene::build(bulkhead_tests::scene::office_and_servers()) else { return };
    let good = scene.text(&open());
    let state = scene.state().display().to_string();
    let misspelt = good.replacen("from = \"office\"", "from = \"ofice\"", 1);
    // Nothing was ever confirmed.
    scene.write_text(&misspelt);
    let failed = scene.try_run(&[]).expect_err("there is nothing to start with");
    assert!(
        failed.status.code() == Some(1) && failed.output.contains("did you mean `office`?"),
        "{failed:?}"
    );
    scene.write_text(&good);
    scene.try_run(&[]).unwrap();
    scene.take_gateway().kill_9();
    let test = "\n[[test]]\nname = \"t\"\nfrom = \"office\"\nto = \"servers\"\nport = \"tcp/22\"\nexpect = \"deny\"\n";
    // A syntax error, too, leaves the key `state` to be found.
    let syntax = good.clone() + "\n[[rule\n";
    for (text, code, why) in [
        (misspelt.as_str(), 1, "did you mean `office`?"),
        (&syntax, 1, "not valid TOML"),
        (&(good.clone() + test), 3, "test \"t\" failed"),
    ] {
        scene.write_text(text);
        let failed = scene.try_run(&["--no-fallback"]).expect_err("it is broken");
        assert!(failed.status.code() == Some(code) && failed.output.contains(why), "{failed:?}");
        scene.try_run(&[]).unwrap_or_else(|failed| panic!("{}", failed.output));
        scene.gateway().expect_said(&["IS BROKEN, and revision 1", why]);
        assert!(alarms(&scene).contains("IS BROKEN"));
        assert!(scene.cli(&["status"]).stdout.contains("bulkhead.toml, as it was stored"));
        assert!(is_reachable(&scene, 4000));
        // Mended and reloaded, all is well.
        scene.write_text(&good);
        ok(scene.cli(&["reload"]));
        expect_states(&scene, &[(1, "in_force")]);
        scene.take_gateway().kill_9();
    }
    fs::remove_file(scene.config()).unwrap();
    scene.try_run(&["--state", &state]).unwrap();
    scene.gateway().expect_said(&["cannot read"]);
    assert!(is_reachable(&scene, 4000));
    scene.take_gateway().kill_9();
    // With another card in the file than in the store, the file still is what the operator wants.
    scene.write_text(&good.replacen("connections = 4096", "connections = 8192", 1));
    scene.try_run(&[]).unwrap();
    assert_eq!(
        (revision(&scene), scene.status()["connections"]["capacity"].as_u64()),
        (2, Some(8192 + 4096))
    );
    refused(scene.cli(&["rollback"]), "connections: 8192 → 4096");
}

#[test]
fn a_damaged_revision_is_told_and_the_one_before_runs() {
    let Some(mut scene) = Scene::start(&open()) else { return };
    let new = scene.candidate("new.toml", &cutting());
    ok(scene.cli(&["apply", &new]));
    scene.take_gateway().kill_9();
    let path = scene.state().join("revisions/2");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    scene.write_text("version = 1\n[");
    scene.try_run(&["--state", scene.state().to_str().unwrap()]).unwrap();
    scene
        .gateway()
        .expect_said(&["revision 2 cannot be used: revision 2 is damaged", "IS BROKEN, and revision 1"]);
    assert!(is_reachable(&scene, 4000));
    assert!(ok(scene.cli(&["history"])).stdout.contains("DAMAGED"));
    refused(scene.cli(&["show", "2"]), "revision 2 is damaged");
}

/// A file system of its own for the state directory, gone with the test.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Small {
        fs::create_dir_all(&path).unwrap();
        let flags = MsFlags::empty();
        // Every file takes whole pages, and the store of users alone some ten: whatever the gateway keeps must fit well, for
        // only what a test fills shall be full.
        mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some("size=512k,mode=700"))
            .expect("a tmpfs is mounted");
        Small(path)
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filling")).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 1024]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filling")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn on_a_full_disk_nothing_is_changed_and_all_goes_on() {
    let Some(mut scene) = Scene::build(bulkhead_tests::scene::office_and_servers()) else { return };
    let small = Small::mount(scene.state());
    scene.run(&open());
    let new = scene.candidate("new.toml", &cutting());
    small.fill();
    for apply in [&["apply", &new][..], &["apply", &new, "--confirm", "5s"], &["reload", &new], &["rollback"]]
    {
        let ran = scene.cli(apply);
        assert!(ran.code == 1 && ran.stderr.contains("nothing was changed"), "{ran:?}");
        let no_room = ran.stderr.contains("No space left on device");
        assert!(no_room || apply[0] == "rollback", "{ran:?}");
    }
    assert_eq!(number(&scene.status(), "generation"), 1);
    expect_states(&scene, &[(1, "in_force")]);
    assert!(is_reachable(&scene, 4000));
    // What is in force may be reloaded: there is nothing to write.
    ok(scene.cli(&["reload"]));
    small.free();
    // A rollback that cannot be written happens all the same.
    ok(scene.cli(&["apply", &new, "--confirm", "2s"]));
    small.fill();
    assert!(!is_reachable(&scene, 4001));
    wait_until("the time is over", || revision(&scene) == 1);
    assert!(is_reachable(&scene, 4002));
    expect_states(&scene, &[(1, "in_force"), (2, "rolled_back")]);
    // Not even then does it come back.
    scene.take_gateway().kill_9();
    scene.try_run(&[]).unwrap();
    assert!(is_reachable(&scene, 4003));
    assert_eq!(revision(&scene), 1);
    small.free();
    ok(scene.cli(&["apply", &new]));
    assert!(!is_reachable(&scene, 4004));
}

#[test]
fn on_a_full_disk_the_gateway_starts_and_says_that_it_remembers_nothing() {
    let Some(mut scene) = Scene::build(bulkhead_tests::scene::office_and_servers()) else { return };
    let small = Small::mount(scene.state());
    small.fill();
    scene.run(&open());
    assert!(is_reachable(&scene, 4000));
    assert!(scene.status()["revision"].is_null());
    assert!(scene.cli(&["status"]).stdout.contains("NOT STORED"));
    let new = scene.candidate("new.toml", &cutting());
    refused(scene.cli(&["apply", &new]), "No space left on device");
    assert!(is_reachable(&scene, 4001));
    small.free();
    ok(scene.cli(&["apply", &new, "--confirm", "1s"]));
    expect_states(&scene, &[(1, "confirmed"), (2, "pending")]);
    wait_until("the time is over", || revision(&scene) == 1);
    assert!(is_reachable(&scene, 4002));
}

#[test]
fn killed_at_any_time_the_gateway_comes_back_with_one_whole_policy() {
    let Some(mut scene) = Scene::start(&open()) else { return };
    scene.check = Check::Workers;
    let files = [scene.candidate("0.toml", &open()), scene.candidate("1.toml", &cutting())];
    let mut applied = 0;
    for round in 0..8 {
        let done = std::thread::scope(|scope| {
            let scene = &scene;
            let files = &files;
            let applying = scope.spawn(move || {
                (0..).take_while(|turn| scene.cli(&["apply", &files[turn % 2]]).code == 0).count()
            });
            std::thread::sleep(Duration::from_millis(150 + 37 * round));
            scene.gateway().signal(Signal::SIGKILL);
            applying.join().unwrap()
        });
        applied += done;
        scene.take_gateway().kill_9();
        scene.try_run(&[]).unwrap_or_else(|failed| panic!("{}", failed.output));
        let rows = history(&scene);
        assert!(rows.iter().all(|row| row["damaged"].is_null()), "{rows:#?}");
        let last = rows.last().unwrap();
        assert_eq!(
            (text(last, "state"), number(last, "revision")),
            ("in_force".to_owned(), revision(&scene))
        );
        // It is the last one that was acknowledged, or the one in the making, which nobody heard of.
        let expected = text(&last["about"], "digest");
        assert_eq!(text(&scene.status(), "digest"), expected);
        assert!(alarms(&scene) == "[]" || alarms(&scene).contains("runs instead of"), "{}", alarms(&scene));
    }
    assert!(applied > 8, "only {applied} policies were applied");
}
