use std::io::{BufRead, BufReader};

use super::super::client;
use super::*;
use crate::api::types::Filter;

/// A server in a directory of its own that answers `Status` with three lines, follows for ever on `Events`, and refuses
/// the rest.
struct Fixture {
    directory: PathBuf,
    server: Option<Server>,
}

impl Fixture {
    fn new(name: &str) -> Fixture {
        let directory = std::env::temp_dir().join(format!("bulkhead-api-{name}-{}", std::process::id()));
        let place = Place::claim(&directory.join("control.sock")).unwrap();
        let server = serve(place, Arc::new(answer)).unwrap();
        Fixture { directory, server: Some(server) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Sends these bytes and returns the first line of the answer.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        // A server that has refused already may close before it has read all.
        let _ = stream.write_all(bytes);
        let mut line = String::new();
        let _ = BufReader::new(stream).read_line(&mut line);
        line
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(self.server.take().and_then(|server| server.stop(Duration::ZERO)));
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn answer(request: Request, mut client: Client) {
    let _ = match request {
        Request::Status => {
            (1..=3).try_for_each(|number| client.say(Reply::Lost(number))).and_then(|()| client.end(Ok(())))
        }
        Request::Events { .. } => {
            while !client.is_over() && client.say(Reply::Lost(1)).is_ok() {}
            Ok(())
        }
        _ => client.end(Err(Refusal { message: "no".to_owned(), exit: 3 })),
    };
}

#[test]
fn a_link_in_the_place_of_the_lock_is_refused_and_what_it_leads_to_stays_as_it_is() {
    let directory = std::env::temp_dir().join(format!("bulkhead-api-link-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let precious = directory.join("precious");
    fs::write(&precious, "kept").unwrap();
    std::os::unix::fs::symlink(&precious, directory.join("control.sock.lock")).unwrap();
    let claimed = Place::claim(&directory.join("control.sock"));
    let kept = fs::read_to_string(&precious).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    assert!(claimed.is_err());
    assert_eq!(kept, "kept");
}

#[test]
fn an_answer_is_read_to_its_end_or_to_the_refusal() {
    let fixture = Fixture::new("answer");
    let mut answer = client::ask(&fixture.socket(), &Request::Status).unwrap();
    for number in 1..=3 {
        assert_eq!(answer.read().unwrap(), Some(Reply::Lost(number)));
    }
    assert_eq!(answer.read().unwrap(), None);
    assert_eq!(answer.read().unwrap(), None);
    let kill = Request::Kill { filter: Filter::default(), all: true, dry_run: false };
    let refused = client::ask(&fixture.socket(), &kill).unwrap().read();
    assert!(matches!(refused, Err(client::Failure::Refused(Refusal { exit: 3, .. }))));
}

#[test]
fn an_answer_that_is_cut_off_is_an_error() {
    let mut fixture = Fixture::new("cut-off");
    let mut answer = client::ask(&fixture.socket(), &Request::Events { last: 0, follow: true }).unwrap();
    assert_eq!(answer.read().unwrap(), Some(Reply::Lost(1)));
    let server = fixture.server.take().unwrap();
    let stopping = std::thread::spawn(move || drop(server.stop(Duration::from_millis(50))));
    let end = loop {
        match answer.read() {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(client::Failure::Broken(_))), "{end:?}");
    stopping.join().unwrap();
}

#[test]
fn what_is_not_a_request_is_refused_with_the_reason() {
    let fixture = Fixture::new("refused");
    for (bytes, reason) in [
        (&b"\n"[..], "not JSON"),
        (b"{\"api\":1}\n", "cannot be understood"),
        (b"{\"api\":2,\"verb\":\"status\"}\n", "speaks version 1 of the control protocol, not 2"),
        (b"{\"verb\":\"status\"}\n", "no `api` version"),
        (b"{\"api\":1,\"verb\":\"dance\"}\n", "cannot be understood"),
        (b"\xff\xfe\n", "not JSON"),
    ] {
        let line = fixture.raw(bytes);
        assert!(line.contains("\"refused\"") && line.contains(reason), "{line}");
    }
    let nested = [b"[".repeat(60_000), b"\n".to_vec()].concat();
    assert!(fixture.raw(&nested).contains("not JSON"));
    let endless = vec![b' '; REQUEST_BYTES_MAX + 4096];
    assert!(fixture.raw(&endless).contains("may have 65536 bytes"));
    assert!(fixture.raw(b"{\"api\":1,\"verb\":\"status\"}\n").contains("lost"), "it goes on");
}

#[test]
fn silent_clients_and_those_that_do_not_read_are_bounded_and_harm_nobody() {
    let fixture = Fixture::new("slow");
    let mut deaf = UnixStream::connect(fixture.socket()).unwrap();
    deaf.write_all(b"{\"api\":1,\"verb\":\"events\",\"last\":0,\"follow\":true}\n").unwrap();
    let silent: Vec<_> = (2..CLIENTS_MAX).map(|_| UnixStream::connect(fixture.socket()).unwrap()).collect();
    let wanted = Instant::now();
    assert!(fixture.raw(b"{\"api\":1,\"verb\":\"status\"}\n").contains("lost"), "one place is left");
    assert!(wanted.elapsed() < Duration::from_secs(2));
    let last = UnixStream::connect(fixture.socket()).unwrap();
    // The place of the one just answered comes free in a moment, which `last` may have to wait for.
    std::thread::sleep(Duration::from_millis(100));
    let crowded = fixture.raw(b"{\"api\":1,\"verb\":\"status\"}\n");
    assert!(crowded.contains("32 clients are being answered already"), "{crowded}");
    drop(silent);
    drop(last);
    std::thread::sleep(Duration::from_millis(200));
    assert!(fixture.raw(b"{\"api\":1,\"verb\":\"status\"}\n").contains("lost"));
    // Stopping does not wait for the one that does not read.
    let begun = Instant::now();
    drop(fixture);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(deaf);
}

#[test]
fn a_silent_client_is_told_that_its_time_is_up() {
    let fixture = Fixture::new("silent");
    let begun = Instant::now();
    // One byte now and then does not prolong it.
    let stream = UnixStream::connect(fixture.socket()).unwrap();
    let mut drip = stream.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        while drip.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(line.contains("no request came within 5s"), "{line}");
    assert!((4..8).contains(&begun.elapsed().as_secs()));
    dripping.join().unwrap();
}

#[test]
fn a_dead_gateway_s_socket_is_replaced_and_a_living_one_s_is_not() {
    let directory = std::env::temp_dir().join(format!("bulkhead-api-place-{}", std::process::id()));
    let socket = directory.join("deep/control.sock");
    let place = Place::claim(&socket).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    let refused = Place::claim(&socket).err().unwrap().to_string();
    assert!(refused.contains(&format!("already running, pid {}", std::process::id())), "{refused}");
    assert!(socket.exists(), "the living one keeps its socket");
    drop(place);
    assert!(!socket.exists());
    let error = client::ask(&socket, &Request::Status).err().unwrap().to_string();
    assert!(error.contains("no gateway is running") && error.contains("deep/control.sock"), "{error}");

    // What a killed gateway leaves: the file, and nobody behind it.
    drop(UnixListener::bind(&socket).unwrap());
    let error = client::ask(&socket, &Request::Status).err().unwrap().to_string();
    assert!(error.contains("left by one that died"), "{error}");
    drop(Place::claim(&socket).unwrap());

    fs::write(&socket, "precious").unwrap();
    assert!(Place::claim(&socket).err().unwrap().to_string().contains("not a socket"));
    assert_eq!(fs::read(&socket).unwrap(), b"precious");
    fs::remove_dir_all(&directory).unwrap();
}
