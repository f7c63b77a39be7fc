//! What holds for any bytes that come on a connection to the portal, in whatever pieces.
//!
//! They are read by hyper, and asked whether they may be read at all by the portal (`portal::http`): what is refused there,
//! what ends a connection, and how much of it is taken. Both together are held against a slow reading by the letter of RFC 9112
//! and RFC 9110. The first three bytes say how long the pieces are.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::portal::http::{Heard, Response, converse, hear};
use crate::portal::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};
use crate::portal::route::{Route, host, is_same_site};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that are sent.
const SENT_BYTES_MAX: usize = 256 * 1024;
/// What is in memory of what was sent and is not asked for yet: the heads of requests, and what came with them.
const AHEAD_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX + BODY_BYTES_MAX;

/// Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    let Some((sizes, rest)) = bytes.split_first_chunk::<3>() else { return };
    let sent = stretched(rest);
    let whole = conversation(&sent, &[0]);
    let slow = slow(&sent);
    what_is_heard_is_what_was_said(&whole, &slow);
    answers_are_to_what_was_heard(&whole, &slow);
    no_more_is_taken_than_is_asked_for(&whole, &slow);
    let sizes = sizes.map(usize::from);
    the_pieces_change_nothing(&whole, &conversation(&sent, &sizes), &slow);
    if sent.len() < 512 {
        the_pieces_change_nothing(&whole, &conversation(&sent, &[1]), &slow);
    }
}

/// What is sent: 0xff repeats the octet before it so often, times 256, and 0xfe the line before it; after 0xff and 0, it is one.
fn stretched(bytes: &[u8]) -> Vec<u8> {
    let mut sent: Vec<u8> = Vec::new();
    let mut rest = bytes.iter().copied();
    while let Some(octet) = rest.next() {
        let again = match octet {
            0xfe | 0xff => usize::from(rest.next().unwrap_or(0)),
            _ => 0,
        };
        match (octet, again) {
            (0xff, 0) => sent.push(0xff),
            (0xff, _) => sent.extend(vec![sent.last().copied().unwrap_or(b'a'); again * 256]),
            (0xfe, _) => {
                let before = &sent[..sent.len().saturating_sub(1)];
                let begin = before.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
                sent.extend(sent[begin..].repeat(again));
            }
            _ => sent.push(octet),
        }
        sent.truncate(SENT_BYTES_MAX);
    }
    sent
}

/// What became of a connection.
#[derive(Default)]
struct Conversation {
    heard: Vec<Request>,
    /// What was answered before the client said that it says no more.
    answered: Vec<u8>,
    /// How many bytes of the client's were taken by then.
    taken: usize,
    /// Whether the portal ended it before the client did.
    ended: bool,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    query: Option<String>,
    /// Names in lower case with their values, by name, and those of one name as they came.
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// The client's end.
#[derive(Default)]
struct Client {
    pieces: Vec<Vec<u8>>,
    taken: usize,
    /// A piece comes when the reader has gone away once to wait for it.
    is_late: bool,
    is_over: bool,
    answered: Vec<u8>,
}

struct Stream(Rc<RefCell<Client>>);

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut client = self.0.borrow_mut();
        client.is_late = !client.is_late;
        if client.is_late && !client.pieces.is_empty() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let is_over = client.is_over;
        let Some(piece) = client.pieces.last_mut() else {
            return if is_over { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let count = piece.len().min(into.remaining());
        into.put_slice(&piece[..count]);
        piece.drain(..count);
        if piece.is_empty() {
            client.pieces.pop();
        }
        client.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.borrow_mut().answered.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether somebody wants to go on.
struct Awake(AtomicBool);

impl Wake for Awake {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends this in pieces of these sizes, where 0 is all that is left.
fn conversation(sent: &[u8], sizes: &[usize]) -> Conversation {
    let (mut pieces, mut rest) = (Vec::new(), sent);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        // A quarter of a million bytes one by one would take too long.
        let size = if sent.len() > 8192 { size * 256 } else { *size };
        let (piece, more) = rest.split_at(if size == 0 { rest.len() } else { size.min(rest.len()) });
        pieces.push(piece.to_vec());
        rest = more;
    }
    pieces.reverse();
    let client = Rc::new(RefCell::new(Client { pieces, ..Client::default() }));
    let heard = Rc::new(RefCell::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _inside = runtime.enter();
    let answer = |request| {
        let heard = heard.clone();
        async move {
            let request = match hear(request).await {
                Ok(request) => request,
                Err(refused) => return refused,
            };
            let mut heard = heard.borrow_mut();
            heard.push(of(&request));
            Response::new(format!("answer {}", heard.len()).into())
        }
    };
    let mut served = pin!(converse(Stream(client.clone()), true, answer));
    let awake = Arc::new(Awake(AtomicBool::new(true)));
    let waker = Waker::from(awake.clone());
    let mut goes_on = || {
        while awake.0.swap(false, Ordering::Relaxed) {
            if served.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return false;
            }
        }
        true
    };
    let ended = !goes_on();
    let (answered, taken) = (client.borrow().answered.clone(), client.borrow().taken);
    let heard_then = heard.borrow().clone();
    if !ended {
        client.borrow_mut().is_over = true;
        awake.0.store(true, Ordering::Relaxed);
        assert!(!goes_on(), "it does not end when the client has ended");
        assert_eq!(*heard.borrow(), heard_then, "a request that did not come was heard");
    }
    Conversation { heard: heard_then, answered, taken, ended }
}

fn of(heard: &Heard) -> Request {
    let Heard { head, body } = heard;
    let mut headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers,
        body: body.to_vec(),
    }
}

fn what_is_heard_is_what_was_said(found: &Conversation, slow: &[Said]) {
    for (index, request) in found.heard.iter().enumerate() {
        let said = slow.get(index).expect("nobody has said that");
        assert_eq!(*request, said.request);
        assert!(said.may_be_heard(), "{request:?}");
        assert!(
            said.head_bytes <= HEAD_BYTES_MAX && request.headers.len() <= HEADERS_MAX,
            "{}",
            said.head_bytes
        );
        assert!(request.body.len() <= BODY_BYTES_MAX);
    }
    // Only what may not be heard, or is not plain, is not heard.
    if let Some(next) = slow.get(found.heard.len()) {
        assert!(!next.is_plain || !next.may_be_heard(), "{:?} was not heard", next.request);
        assert!(found.ended, "it goes on behind what was refused");
    }
}

/// The answers in order: status, and what stands in them.
fn answers(bytes: &[u8], heard: &[Request]) -> Vec<(u16, Vec<u8>)> {
    let (mut all, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(rest[..end].to_ascii_lowercase()).expect("ASCII");
        rest = &rest[end..];
        let status = head.strip_prefix("http/1.1 ").or_else(|| head.strip_prefix("http/1.0 "));
        let status: u16 = status.and_then(|rest| rest[..3].parse().ok()).expect("a status");
        if status == 100 {
            continue;
        }
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        let is_head = heard.get(all.len()).is_some_and(|request| request.method == "HEAD");
        let (body, more) = rest.split_at(if is_head { 0 } else { length.min(rest.len()) });
        rest = more;
        all.push((status, body.to_vec()));
    }
    all
}

fn answers_are_to_what_was_heard(found: &Conversation, slow: &[Said]) {
    // A refusal of HEAD has no content either, whatever its length says; nothing comes behind it.
    let mut answers = answers(&found.answered, &found.heard);
    let refusals = answers.split_off(found.heard.len().min(answers.len()));
    assert_eq!(answers.len(), found.heard.len());
    for (index, ((status, body), request)) in answers.iter().zip(&found.heard).enumerate() {
        let expected = format!("answer {}", index + 1);
        let expected = if request.method == "HEAD" { "" } else { &expected };
        assert_eq!((*status, body.as_slice()), (200, expected.as_bytes()));
    }
    match refusals.as_slice() {
        [] => {}
        [(status, _)] => assert!((400..500).contains(status) && found.ended, "{status}"),
        more => panic!("{} refusals", more.len()),
    }
    if slow.last().is_some_and(|said| said.is_last) && slow.len() == found.heard.len() {
        assert!(found.ended && refusals.is_empty(), "the client wanted it to end");
    }
}

fn no_more_is_taken_than_is_asked_for(found: &Conversation, slow: &[Said]) {
    let asked = found.heard.len().checked_sub(1).map_or(0, |last| slow[last].end);
    assert!(found.taken <= asked + AHEAD_BYTES_MAX, "{} of {asked}", found.taken);
}

fn the_pieces_change_nothing(whole: &Conversation, pieces: &Conversation, slow: &[Said]) {
    let plain = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        let lines = text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: "));
        let text: String = lines.collect();
        // What is no request, hyper refuses in a word or without, as it comes.
        let refusal = text.rfind("HTTP/1.").map(|last| text.split_at(last));
        match refusal.map(|(before, last)| (before, last.split("\r\n").collect::<Vec<_>>())) {
            Some((before, lines))
                if lines[0].as_bytes()[8..].starts_with(b" 4")
                    && lines[1..]
                        .iter()
                        .all(|line| ["connection: close", "content-length: 0", ""].contains(line)) =>
            {
                before.to_owned()
            }
            _ => text,
        }
    };
    assert_eq!(whole.heard, pieces.heard);
    assert_eq!(plain(&whole.answered), plain(&pieces.answered));
    // That something is no request, hyper may see only when it is whole.
    let is_request = slow.len() > whole.heard.len() || slow.last().is_some_and(|said| said.is_last);
    assert!(whole.ended == pieces.ended || !is_request);
}

/// A request as RFC 9112 has it.
struct Said {
    request: Request,
    target: Vec<u8>,
    is_http_1_0: bool,
    head_bytes: usize,
    /// How many bytes there are up to its end.
    end: usize,
    /// Nobody can read it in another way, or refuse it for how it is written.
    is_plain: bool,
    /// Nothing is to be read after it.
    is_last: bool,
}

/// The requests that stand in this one after the other, up to the first that is not whole or has to be refused.
fn slow(sent: &[u8]) -> Vec<Said> {
    let (mut all, mut at): (Vec<Said>, usize) = (Vec::new(), 0);
    while let Some(said) = Said::read(sent, at) {
        at = said.end;
        let is_last = said.is_last;
        all.push(said);
        if is_last {
            break;
        }
    }
    all
}

const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|octet| TOKEN.contains(octet))
}

impl Said {
    fn read(sent: &[u8], begin: usize) -> Option<Said> {
        let mut reader = Lines { sent, at: begin, is_plain: true };
        let mut first = reader.line()?;
        // Section 2.2: empty lines before a request may be passed over.
        while first.is_empty() {
            reader.is_plain = false;
            first = reader.line()?;
        }
        let words: Vec<&[u8]> = first.split(|octet| *octet == b' ').collect();
        let [method, target, version] = words.as_slice() else { return None };
        let is_http_1_0 = match *version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return None,
        };
        if !is_token(method)
            || target.is_empty()
            || target.iter().any(|octet| *octet <= b' ' || *octet == 0x7f)
        {
            return None;
        }
        let mut headers = Vec::new();
        loop {
            let line = reader.line()?;
            if line.is_empty() {
                break;
            }
            headers.push(header(line)?);
        }
        let head_bytes = reader.at - begin;
        let length = body_bytes(&headers)?;
        let body = sent.get(reader.at..reader.at.checked_add(length)?)?;
        let (path, query, is_plain_target) = resource(target)?;
        let tokens = |name: &str| -> Vec<String> {
            // With an octet that no token has it is no list (RFC 9110, section 5.6.1), and asks for nothing.
            let lines = headers.iter().filter(|(found, value)| found == name && value.is_ascii());
            let all = lines.flat_map(|(_, value)| value.split(|octet| *octet == b','));
            all.map(|token| String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase()).collect()
        };
        let connection = tokens("connection");
        let has = |option: &str| connection.iter().any(|found| found == option);
        let is_last = has("close") || is_http_1_0 && !has("keep-alive");
        let lengths = headers.iter().filter(|(name, _)| name == "content-length").count();
        let is_ascii = headers.iter().all(|(_, value)| value.is_ascii());
        let is_small = head_bytes <= HEAD_BYTES_MAX && headers.len() <= HEADERS_MAX;
        let is_plain = reader.is_plain && is_plain_target && is_small && lengths < 2 && is_ascii;
        // One of HTTP/1.0 that goes on, and one that asks for another protocol, are not what every server takes.
        let is_plain = is_plain && !is_http_1_0 && tokens("upgrade").is_empty() && method.len() < 16;
        headers.sort_by(|(one, _), (other, _)| one.cmp(other));
        // A second length is the first again.
        headers.dedup_by(|(one, _), (other, _)| one == other && one == "content-length");
        let method = String::from_utf8(method.to_vec()).ok()?;
        let request = Request { method, path, query, headers, body: body.to_vec() };
        Some(Said {
            request,
            target: target.to_vec(),
            is_http_1_0,
            head_bytes,
            end: reader.at + length,
            is_plain,
            is_last,
        })
    }

    /// Whether the portal has something to do with it.
    fn may_be_heard(&self) -> bool {
        let Request { method, path, headers, body, .. } = &self.request;
        let of = |name: &str| headers.iter().filter(|(found, _)| found == name).count();
        let is_for_one = of("host") == 1 || self.is_http_1_0 && of("host") == 0;
        let (Ok(method), Ok(target)) = (Method::from_bytes(method.as_bytes()), Uri::try_from(&*self.target))
        else {
            return false;
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) else {
                return false;
            };
            map.append(name, value);
        }
        let host = host(&target, &map);
        let is_named = host.is_some() || of("host") == 0;
        let is_allowed = method != Method::POST || is_same_site(&map, host.as_deref()).is_ok();
        let is_there = Route::of(&method, path).is_ok();
        is_for_one
            && is_named
            && is_there
            && is_allowed
            && of("transfer-encoding") == 0
            && body.len() <= BODY_BYTES_MAX
    }
}

/// Lines that end with CRLF, or with LF alone (section 2.2).
struct Lines<'s> {
    sent: &'s [u8],
    at: usize,
    /// No line has ended in another way than with CRLF.
    is_plain: bool,
}

impl<'s> Lines<'s> {
    /// The next, if it has an end.
    fn line(&mut self) -> Option<&'s [u8]> {
        let rest = &self.sent[self.at..];
        let end = rest.iter().position(|octet| *octet == b'\n')?;
        self.at += end + 1;
        match rest[..end].split_last() {
            Some((b'\r', line)) => Some(line),
            _ => {
                self.is_plain = false;
                Some(&rest[..end])
            }
        }
    }
}

/// A field line (section 5): no white space before the colon nor at the beginning of the line, no control character.
fn header(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.iter().position(|octet| *octet == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_control = |octet: &u8| *octet < b' ' && *octet != b'\t' || *octet == 0x7f;
    if !is_token(name) || value.iter().any(is_control) {
        return None;
    }
    let is_space = |octet: &&u8| [b' ', b'\t'].contains(octet);
    let before = value.iter().take_while(is_space).count();
    let value = &value[before..];
    let after = value.iter().rev().take_while(is_space).count();
    Some((String::from_utf8(name.to_ascii_lowercase()).ok()?, value[..value.len() - after].to_vec()))
}

/// How long the body is (section 6.3): what two say in different ways, nobody may believe. Whoever takes no encoding reads
/// nothing behind a head that has one.
fn body_bytes(headers: &[(String, Vec<u8>)]) -> Option<usize> {
    if headers.iter().any(|(name, _)| name == "transfer-encoding") {
        return None;
    }
    let lengths: Vec<&Vec<u8>> =
        headers.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| value).collect();
    let [first, others @ ..] = lengths.as_slice() else { return Some(0) };
    let number = |value: &[u8]| -> Option<usize> {
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        if is_number { std::str::from_utf8(value).ok()?.parse().ok() } else { None }
    };
    let length = number(first)?;
    others.iter().all(|other| number(other) == Some(length)).then_some(length)
}

/// The path and the query of a target (section 3.2), and whether it is one as browsers write it.
fn resource(target: &[u8]) -> Option<(String, Option<String>, bool)> {
    let text = String::from_utf8(target.to_vec()).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/?=&+".contains(c);
    let is_plain = text.starts_with('/') && text.chars().all(plain);
    // A fragment is no part of it.
    let text = text.split('#').next().unwrap_or_default();
    let resource = if text.starts_with('/') {
        text.to_owned()
    } else {
        let (_, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        if rest[end..].starts_with('/') { rest[end..].to_owned() } else { format!("/{}", &rest[end..]) }
    };
    let (path, query) = match resource.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (resource, None),
    };
    Some((path, query, is_plain))
}
