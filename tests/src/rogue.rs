//! A portal that was taken over: the gateway starts it as its own, and it does what clients tell it to. It is worse off
//! than a real one could be, for it runs as root and unconfined: what it cannot do to the gateway, nobody there can.
//!
//! A client connects at the portal's address and says, in one line, a misdeed; the rogue does it and sends back, in one
//! line, what came of it.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bulkhead::portal::doorman as door;
use bulkhead::portal::orders::{Order, Word};
use bulkhead::portal::wire::{self, Answer, Asked, Question, Secret};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Questions of a flood.
const FLOOD: u64 = 5_000;
/// From here on their numbers.
const FLOOD_IDS: u64 = 1 << 40;

struct Rogue {
    pair: OwnedFd,
    answers: Mutex<Vec<(u64, Answer)>>,
    heard: AtomicU64,
    next: AtomicU64,
}

/// Runs in place of a doorman: the client says what it does with its connection.
///
/// # Panics
/// Panics when the gateway does not speak to it as to a doorman.
pub fn door() {
    let pair = std::io::stdin().as_fd().try_clone_to_owned().expect("the pair");
    let Ok(Some((door::Order::Begin(_), Some(connection)))) = wire::receive::<door::Order>(&pair) else {
        panic!("no setup and no connection")
    };
    let mut stream = TcpStream::from(connection);
    let mut line = String::new();
    BufReader::new(stream.try_clone().expect("another handle")).read_line(&mut line).expect("a line");
    let (misdeed, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let word = |text: &str| serde_json::from_str::<door::Word>(text).expect("a word");
    match misdeed {
        "say" => wire::send(&pair, &word(rest), None),
        "twice" => wire::send(&pair, &word(rest), None).and_then(|()| wire::send(&pair, &word(rest), None)),
        "with-connection" => wire::send(&pair, &word(rest), Some(stream.as_fd())),
        "garbage" => wire::send(&pair, &Some("drop everything"), None),
        other => panic!("{other}: no such misdeed"),
    }
    .expect("the gateway listens");
    while let Ok(Some((order, _))) = wire::receive::<door::Order>(&pair) {
        writeln!(stream, "{}", serde_json::to_string(&order).expect("an order is JSON")).expect("it is told");
    }
}

/// Runs in place of the portal.
///
/// # Panics
/// Panics when the gateway does not speak to it as to the portal.
pub fn run() {
    let pair = std::io::stdin().as_fd().try_clone_to_owned().expect("the pair");
    let begin = wire::receive::<Order>(&pair).expect("a first message");
    assert!(matches!(begin, Some((Order::Begin(_), None))));
    wire::send(&pair, &Word::Ready, None).expect("the gateway listens");
    let rogue = Arc::new(Rogue {
        pair,
        answers: Mutex::default(),
        heard: AtomicU64::new(0),
        next: AtomicU64::new(1),
    });
    loop {
        match wire::receive::<Order>(&rogue.pair) {
            Ok(Some((Order::Listen { secure: true }, Some(socket)))) => {
                let (rogue, listener) = (rogue.clone(), TcpListener::from(socket));
                listener.set_nonblocking(false).expect("it waits");
                std::thread::spawn(move || {
                    for stream in listener.incoming().map_while(Result::ok) {
                        let rogue = rogue.clone();
                        std::thread::spawn(move || rogue.obey(stream));
                    }
                });
            }
            Ok(Some((Order::Answer(answered), None))) => {
                rogue.heard.fetch_add(u64::from(answered.id >= FLOOD_IDS), Ordering::Relaxed);
                rogue.answers.lock().unwrap().push((answered.id, answered.answer));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

impl Rogue {
    fn obey(&self, mut stream: TcpStream) {
        let mut line = String::new();
        let mut lines = BufReader::new(stream.try_clone().expect("another handle"));
        if lines.read_line(&mut line).is_err() {
            return;
        }
        let (misdeed, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let came_of_it = match misdeed {
            "ask" => self.ask(rest, Some(stream.as_fd())),
            "without-connection" => self.ask(rest, None),
            "socketpair" => self.ask(rest, Some(UnixStream::pair().expect("a pair").0.as_fd())),
            "file" => self.ask(rest, Some(std::fs::File::open("/dev/null").expect("a file").as_fd())),
            "listener" => self.ask(rest, Some(own_listener().as_fd())),
            "loopback" => self.ask(rest, Some(own_connection().as_fd())),
            "garbage" => self.say(b"{\"asked\":{\"id\":1,\"drop\":\"everything\"}}", Some(stream.as_fd())),
            "deaf" => self.deaf(stream.as_fd()),
            "flood" => self.flood(stream.as_fd()),
            other => format!("{other}: no such misdeed"),
        };
        let _ = writeln!(stream, "{came_of_it}");
    }

    /// Asks a question as it is given; the answer as JSON.
    fn ask(&self, question: &str, with: Option<BorrowedFd<'_>>) -> String {
        let (cookie, question) = question.split_once(' ').unwrap_or(("-", question));
        let question: Question = match serde_json::from_str(question) {
            Ok(question) => question,
            Err(error) => return format!("no question: {error}"),
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let cookie = (cookie != "-").then(|| Secret::new(cookie.to_owned()));
        let word = Word::Asked(Asked { id, cookie, question });
        if let Err(error) = wire::send(&self.pair, &word, with) {
            return format!("not sent: {error}");
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let mut answers = self.answers.lock().unwrap();
            if let Some(index) = answers.iter().position(|(answered, _)| *answered == id) {
                let (_, answer) = answers.swap_remove(index);
                return serde_json::to_string(&answer).expect("an answer is JSON");
            }
            drop(answers);
            std::thread::sleep(Duration::from_millis(2));
        }
        "no answer".to_owned()
    }

    /// Sends bytes that are no message.
    fn say(&self, bytes: &[u8], with: Option<BorrowedFd<'_>>) -> String {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = with.map(|descriptor| [descriptor]);
        if let Some(descriptors) = &descriptors {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let sent =
            rustix::net::sendmsg(&self.pair, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
        format!("{sent:?}")
    }

    /// Asks without end in the name of one client.
    fn flood(&self, with: BorrowedFd<'_>) -> String {
        let before = self.heard.load(Ordering::Relaxed);
        let begun = Instant::now();
        for number in 0..FLOOD {
            let word =
                Word::Asked(Asked { id: FLOOD_IDS + number, cookie: None, question: Question::Standing });
            if let Err(error) = wire::send(&self.pair, &word, Some(with)) {
                return format!("not sent: {error}");
            }
        }
        while self.heard.load(Ordering::Relaxed) - before < FLOOD && begun.elapsed() < Duration::from_secs(50)
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.answers.lock().unwrap().retain(|(id, _)| *id < FLOOD_IDS);
        format!("{} answers", self.heard.load(Ordering::Relaxed) - before)
    }
}

impl Rogue {
    /// Asks without end, and listens to nothing: no thread takes an answer any more.
    fn deaf(&self, with: BorrowedFd<'_>) -> String {
        let _nobody_hears = self.answers.lock().unwrap();
        loop {
            let word = Word::Asked(Asked { id: 1, cookie: None, question: Question::Standing });
            if let Err(error) = wire::send(&self.pair, &word, Some(with)) {
                return format!("not sent: {error}");
            }
        }
    }
}

fn own_listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("it listens")
}

/// A connection with itself.
fn own_connection() -> TcpStream {
    let listener = own_listener();
    let client = TcpStream::connect(listener.local_addr().expect("it listens")).expect("it connects");
    let (accepted, _) = listener.accept().expect("it accepts");
    // It must stay open while it is looked at.
    std::mem::forget(client);
    accepted
}
