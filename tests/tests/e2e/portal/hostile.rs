//! What comes over the network to harm the portal: slow, huge, many, ambiguous.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bulkhead::lab::Zone;
use bulkhead_tests::config::Config;
use bulkhead_tests::frames::Family;
use bulkhead_tests::https::{self, Client, ask, dial, dial_from, get};
use bulkhead_tests::scene::{Scene, zone};
use bulkhead_tests::wait_until;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};

use super::{config, listens, place};

/// A page must be there so soon, whatever others do.
const SOON: Duration = Duration::from_secs(5);
/// Addresses of the office's host.
const ADDRESSES: usize = 48;

/// A gateway with a portal, whose office has many addresses of one host.
fn scene() -> Option<Scene> {
    scene_with(&config())
}

fn scene_with(config: &Config) -> Option<Scene> {
    let office = Zone { addresses: ADDRESSES, ..zone("office", 1) };
    let mut scene = Scene::build(vec![office, zone("servers", 2)])?;
    scene.run(config);
    listens(&scene);
    Some(scene)
}

fn address(scene: &Scene, number: usize) -> IpAddr {
    scene.host("office").v4[number].into()
}

/// A page from one of the office's addresses, in time.
fn is_served(scene: &Scene, number: usize) {
    let begun = Instant::now();
    let stream = dial_from(scene.host("office"), address(scene, number), place(scene, Family::V4))
        .expect("it connects");
    let mut client = Client::over(stream, &[&TLS13], &[b"http/1.1"]).expect("it speaks TLS");
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", https::NAME);
    client.send(request.as_bytes()).expect("it listens");
    let answer = client.answer().expect("it answers");
    assert_eq!(answer.status, 200);
    let took = begun.elapsed();
    assert!(took < SOON, "{took:?}");
}

fn room_for_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(16_384), hard).unwrap();
}

/// Whether the other end has closed.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let result = (&*stream).read(&mut [0; 64]);
    stream.set_nonblocking(false).unwrap();
    match result {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn c7_who_holds_many_connections_loses_their_own_and_is_still_served() {
    let Some(scene) = scene() else { return };
    room_for_descriptors();
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    // Slowloris: connections that begin and do not go on, some with half a handshake.
    let slow: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = dial_from(office, address(&scene, 1), portal).expect("it connects");
            if number % 2 == 0 {
                // It may be closed by now: that is what this is about.
                let _ = stream.write_all(&[0x16, 3, 1, 2]);
            }
            stream
        })
        .collect();
    is_served(&scene, 0);
    is_served(&scene, 1);
    let open = slow.iter().filter(|stream| !is_closed(stream)).count();
    assert!(open <= 32, "{open} are held");
    // And those that are held are not held for ever.
    let deadline = Instant::now() + Duration::from_secs(15);
    while slow.iter().any(|stream| !is_closed(stream)) {
        assert!(Instant::now() < deadline, "a slow connection is still open");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn c7_at_the_limit_of_all_connections_a_new_address_is_served() {
    let Some(scene) = scene() else { return };
    room_for_descriptors();
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    // More than all, by addresses that hold as many as one may.
    let held: Vec<TcpStream> = (2..ADDRESSES)
        .flat_map(|number| (0..30).map(move |_| number))
        .map(|number| dial_from(office, address(&scene, number), portal).expect("it connects"))
        .collect();
    assert!(held.len() > 1300);
    (0..5).for_each(|_| is_served(&scene, 0));
    is_served(&scene, 1);
}

#[test]
fn c7_a_hundred_thousand_connections_disturb_nobody_and_leave_nothing() {
    const CONNECTIONS: usize = 100_000;
    let Some(scene) = scene() else { return };
    room_for_descriptors();
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        let (scene, stop) = (&scene, &stop);
        let flood = scope.spawn(move || {
            let mut made = 0;
            office.namespace.run(|| {
                while made < CONNECTIONS && !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let source = address(scene, 2 + made % (ADDRESSES - 2));
                    let socket = nix_dial(source, portal);
                    made += usize::from(socket.is_ok());
                }
            });
            made
        });
        let begun = Instant::now();
        let mut pages = 0;
        while !flood.is_finished() {
            is_served(scene, pages % 2);
            pages += 1;
            std::thread::sleep(Duration::from_millis(150));
            if begun.elapsed() > Duration::from_secs(60) {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        assert!(pages >= 5, "{pages} pages in {:?}", begun.elapsed());
        flood.join().unwrap()
    });
    assert_eq!(made, CONNECTIONS);
    is_served(&scene, 0);
    let pid = bulkhead_tests::scene::number(&super::status(&scene), "pid");
    bulkhead_tests::wait_until("its descriptors are free again", || {
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() < 20
    });
}

/// A connection from this address, closed by a reset at once.
fn nix_dial(source: IpAddr, to: SocketAddr) -> std::io::Result<()> {
    let stream = https::dial_here(source, to)?;
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(())
}

/// All that is answered to these bytes.
fn said(scene: &Scene, request: &[u8]) -> String {
    let mut client = Client::connect(scene.host("office"), place(scene, Family::V4)).expect("it speaks TLS");
    // It may answer and close before it has all.
    let _ = client.send(request);
    String::from_utf8_lossy(&client.rest()).into_owned()
}

#[test]
fn c7_a_huge_body_is_refused_unread() {
    let Some(scene) = scene() else { return };
    for length in ["1073741824", "65537", "99999999999999999999999"] {
        let head = format!(
            "POST /sign-in HTTP/1.1\r\nHost: p\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n"
        );
        let answer = said(&scene, head.as_bytes());
        let expected = if length.len() > 20 { "HTTP/1.1 400 " } else { "HTTP/1.1 413 " };
        assert!(answer.starts_with(expected), "{length}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    }
    is_served(&scene, 0);
}

#[test]
fn c7_a_body_that_does_not_come_is_waited_for_a_while() {
    let Some(scene) = scene() else { return };
    let begun = Instant::now();
    let head = "POST /sign-in HTTP/1.1\r\nHost: p\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nuser=";
    let answer = said(&scene, head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!((9..20).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[test]
fn c7_a_head_that_is_huge_or_has_too_many_lines_or_does_not_end_is_refused() {
    let Some(scene) = scene() else { return };
    let huge = format!("GET / HTTP/1.1\r\nHost: p\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let answer = said(&scene, huge.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = format!("GET / HTTP/1.1\r\nHost: p\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert!(said(&scene, many.as_bytes()).starts_with("HTTP/1.1 431 "));
    let begun = Instant::now();
    let answer = said(&scene, b"GET / HTTP/1.1\r\nHost: p\r\nX: ");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!((9..20).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[test]
fn c7_no_request_is_smuggled_behind_another() {
    let Some(scene) = scene() else { return };
    let inner = "GET /style.css HTTP/1.1\r\nHost: p\r\n\r\n";
    let form = "Content-Type: application/x-www-form-urlencoded";
    let length = inner.len();
    let ambiguous = [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n{inner}"),
        format!("Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n{inner}"),
        format!("Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n\r\n{inner}"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}"),
        format!("Content-Length: 0, {length}\r\n\r\n{inner}"),
        format!("Content-Length: +0\r\n\r\n{inner}"),
        format!("Content-Length: -1\r\n\r\n{inner}"),
        format!("Content-Length: 0x0\r\n\r\n{inner}"),
        format!("Content-Length : 0\r\n\r\n{inner}"),
    ];
    for lines in ambiguous {
        let answer =
            said(&scene, format!("POST /sign-in HTTP/1.1\r\nHost: p\r\n{form}\r\n{lines}").as_bytes());
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 1 && !answer.contains("text/css"), "{lines}\n{answer}");
        let refused = ["HTTP/1.1 400 ", "HTTP/1.1 411 ", "HTTP/1.1 413 "];
        assert!(
            answer.is_empty() || refused.iter().any(|status| answer.starts_with(status)),
            "{lines}\n{answer}"
        );
    }
    // One request behind another, as they should be, are two.
    let both = format!("{inner}GET /icon.svg HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n");
    assert_eq!(said(&scene, both.as_bytes()).matches("HTTP/1.1 200 ").count(), 2);
}

#[test]
fn c7_no_other_protocol_is_spoken_inside() {
    let Some(scene) = scene() else { return };
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    assert!(Client::connect_with(office, portal, &[&TLS13], &[b"h2"]).is_err());
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let answer = said(&scene, preface);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    for bytes in
        [&b"GET / HTTP/9.9\r\n\r\n"[..], b"\0\0\0\0", b"GET\r\n\r\n", &[0xff; 2000], b"\x16\x03\x01\x02\0"]
    {
        let answer = said(&scene, bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    is_served(&scene, 0);
}

#[test]
fn c7_an_address_that_asks_without_end_is_told_to_wait_and_others_are_not() {
    let Some(scene) = scene() else { return };
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let stream = dial_from(office, address(&scene, 3), portal).unwrap();
    let mut client = Client::over(stream, &[&TLS13], &[b"http/1.1"]).unwrap();
    let _ = client.send("GET /icon.svg HTTP/1.1\r\nHost: p\r\n\r\n".repeat(100).as_bytes());
    let answer = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(answer.contains("HTTP/1.1 429 ") && answer.contains("retry-after: 1"), "{answer}");
    assert!((55..=75).contains(&answer.matches("HTTP/1.1 200 ").count()));
    is_served(&scene, 0);
}

#[test]
fn c7_an_identity_provider_that_does_not_answer_keeps_nobody_from_the_page() {
    let provider = "[identity.providers.corp]\nissuer = \"https://127.0.0.1:9443\"\nclient_id = \"b\"\n";
    let base = config();
    let Some(scene) = scene_with(&Config { rules: base.rules.clone() + provider, ..base }) else { return };
    // It takes connections, and says nothing.
    let silent = scene.lab.gateway.run(|| TcpListener::bind("127.0.0.1:9443")).expect("it listens");
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let request =
        format!("GET /sign-in/with/corp HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", https::NAME);
    let waiting: Vec<Client> = (2..22)
        .map(|number| {
            let stream = dial_from(office, address(&scene, number), portal).expect("it connects");
            let mut client = Client::over(stream, &[&TLS13], &[b"http/1.1"]).expect("it speaks TLS");
            client.send(request.as_bytes()).expect("it listens");
            client
        })
        .collect();
    wait_until("the gateway waits for the provider", || {
        silent.set_nonblocking(true).unwrap();
        silent.accept().is_ok()
    });
    (0..5).for_each(|number| is_served(&scene, number % 2));
    drop(waiting);
}

/// A ClientHello that offers this version and no later one, with the suites that came with it.
fn hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = vec![version[0], version[1]];
    body.extend([7; 32]);
    body.push(0);
    let suites = [0x00, 0x2f, 0xc0, 0x13, 0xc0, 0x09, 0x00, 0x0a, 0x00, 0x05];
    body.extend([0, suites.len() as u8]);
    body.extend(suites);
    body.extend([1, 0]);
    let mut record = vec![0x16, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    record.extend(body);
    record
}

#[test]
fn c8_tls_is_1_2_or_1_3_and_nothing_older() {
    let Some(scene) = scene() else { return };
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    for (offered, version) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let client = Client::connect_with(office, portal, &[offered], &[b"http/1.1"]).expect("it speaks it");
        assert_eq!(client.version(), Some(version));
    }
    for version in [[3, 0], [3, 1], [3, 2], [2, 0]] {
        let mut stream = dial(office, portal).unwrap();
        stream.write_all(&hello(version)).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        // A fatal alert (RFC 8446, section 6), and no ServerHello.
        assert!(answer.len() == 7 && answer[0] == 0x15 && answer[5] == 2, "{version:?}: {answer:?}");
    }
    // In the clear nothing is served where TLS is spoken.
    let mut stream = dial(office, portal).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: p\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn c9_without_a_session_every_path_is_refused_or_shows_nothing_of_anybody() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    // Somebody is signed in at this address, and this client is not they: it has no cookie.
    let source = scene.host_address("office", Family::V4).to_string();
    scene.json(&["session", "add", "--address", &source, "--user", "alice", "--group", "dba"]);
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let walk: [(&str, &str, &[u16]); 21] = [
        ("GET /", "", &[200]),
        ("GET /step-up", "", &[303]),
        ("GET /captive", "", &[200]),
        ("GET /nothing", "", &[404]),
        ("GET /sign-in/with/nobody", "", &[404]),
        ("GET /step-up/with/nobody", "", &[401, 404]),
        ("GET /oidc/callback?state=x&code=y", "", &[403, 404]),
        ("GET /oidc/callback", "", &[400]),
        ("POST /sign-in", "user=alice&password=x", &[403, 404]),
        ("POST /factor", "attempt=x&code=123456", &[403, 404]),
        ("POST /step-up", "code=123456", &[401, 404]),
        ("POST /sign-out", "", &[303, 404]),
        ("POST /api/v1/standing", "", &[200]),
        ("POST /api/v1/sign_out", "", &[200, 404]),
        ("POST /api/v1/passkey_register_begin", "", &[401, 404]),
        ("POST /api/v1/nothing", "", &[404]),
        ("POST /api/v1/totp", "", &[400]),
        ("POST /events/nobody", "x", &[400]),
        ("DELETE /", "", &[405]),
        ("PUT /sign-in", "", &[405]),
        ("OPTIONS *", "", &[404]),
    ];
    for (first, body, expected) in walk {
        let form = ["Content-Type: application/x-www-form-urlencoded"];
        let answer = ask(office, portal, first, if body.is_empty() { &[] } else { &form }, body.as_bytes());
        assert!(expected.contains(&answer.status), "{first}: {answer:?}");
        assert!(!answer.body.contains("alice") && !answer.body.contains("dba"), "{first}: {answer:?}");
        assert_eq!(answer.cookie(), None, "{first}");
        for (header, value) in [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")] {
            assert_eq!(answer.header(header), Some(value), "{first}");
        }
        assert!(
            answer
                .header("content-security-policy")
                .is_some_and(|policy| policy.contains("default-src 'none'"))
        );
    }
    let sessions = scene.json(&["session", "list"]);
    assert!(sessions.to_string().contains("alice"), "nobody has ended it: {sessions}");
}

#[test]
fn c9_what_another_sites_page_sends_changes_nothing() {
    let Some(scene) = Scene::start(&config()) else { return };
    listens(&scene);
    let (office, portal) = (scene.host("office"), place(&scene, Family::V4));
    let form = "Content-Type: application/x-www-form-urlencoded";
    for foreign in [
        "Origin: https://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        for path in ["/sign-in", "/factor", "/step-up", "/sign-out", "/api/v1/sign_out"] {
            let answer = ask(office, portal, &format!("POST {path}"), &[form, foreign], b"user=a&password=b");
            assert_eq!(answer.status, 403, "{path} {foreign}: {answer:?}");
            assert!(answer.body.contains("another site"), "{answer:?}");
        }
    }
    let answer = ask(office, portal, "GET /sign-in/with/idp", &["Sec-Fetch-Site: cross-site"], b"");
    assert_eq!(answer.status, 403);
    // A form that another site's page can send is none of the interface for programs.
    let answer = ask(office, portal, "POST /api/v1/standing", &["Content-Type: text/plain"], b"{}");
    assert_eq!(answer.status, 415);
    assert_eq!(get(office, portal, "/", None).status, 200);
}
