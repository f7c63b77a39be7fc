//! HTTP on one connection: bounded reading, one place where every answer gets its headers.

use std::convert::Infallible;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::limits::{
    BODY_BYTES_MAX, BODY_PATIENCE, CONNECTION_PATIENCE, HEAD_BYTES_MAX, HEAD_PATIENCE, HEADERS_MAX,
};
use super::pages;
use super::process::Shared;
use super::requests::{self, Request};
use super::route::{self, Route};

/// What is sent back.
pub type Response = hyper::Response<Full<Bytes>>;

/// Who is at the other end.
pub struct Connection {
    /// The connection itself, for the gateway to look at.
    pub handle: OwnedFd,
    /// Their address, for this process's own limits only.
    pub peer: IpAddr,
}

/// The headers that every answer has: nothing is kept, framed, guessed or loaded from elsewhere, and no page has a
/// script but the portal's own file.
const HEADERS: [(HeaderName, &str); 9] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Not `no-referrer`: forms would be sent with `Origin: null`, and could not be told from another site's.
    (header::REFERRER_POLICY, "same-origin"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
];
/// For a year (RFC 6797).
const STRICT: &str = "max-age=31536000";

/// Answers requests on a connection until one side has enough.
pub async fn serve(
    shared: &Rc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: Rc<Connection>,
) {
    let answer = |request| {
        let (shared, connection) = (shared.clone(), connection.clone());
        async move { answer(&shared, &connection, request).await }
    };
    converse(stream, shared.strict, answer).await;
}

/// Reads requests from a connection, one after the other, and writes what each is answered.
pub async fn converse<A: Future<Output = Response>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    strict: bool,
    answer: impl Fn(hyper::Request<Incoming>) -> A,
) {
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(finished(answered.await, strict)) }
    });
    let served = builder().serve_connection(TokioIo::new(stream), service);
    // Whatever went wrong on it, the client knows.
    let _ = tokio::time::timeout(CONNECTION_PATIENCE, served).await;
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX)
        // With that alone, how long a head may be depends on the pieces in which it comes, and on what came before.
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
}

/// In the clear: every browser is sent to where TLS is spoken, and nothing else is said.
pub async fn redirect(shared: &Rc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin, local: IpAddr) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let shared = shared.clone();
        async move {
            let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
            let mut response = if is_read {
                let host =
                    route::host(request.uri(), request.headers()).filter(|host| host.parse() == Ok(local));
                let host = host.map_or_else(|| shared.name.clone(), |_| bracketed(local));
                redirected(StatusCode::FOUND, &format!("{}/", super::origin(&host, shared.port)))
            } else {
                pages::trouble(StatusCode::FORBIDDEN, "Nothing is accepted here in the clear. Use https.")
            };
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            Ok::<_, Infallible>(finished(response, false))
        }
    });
    let served = builder().serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(HEAD_PATIENCE, served).await;
}

/// An address as it stands in a URL.
pub fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// A page elsewhere.
pub fn redirected(status: StatusCode, to: &str) -> Response {
    let Ok(location) = HeaderValue::try_from(to) else {
        return pages::trouble(StatusCode::BAD_GATEWAY, "There is nowhere to go on from here.");
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Every answer leaves with the same headers, unless it has its own.
fn finished(mut response: Response, strict: bool) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if strict {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT));
    }
    response
}

/// As a refusal that also ends the connection: the rest of what was sent is not read.
fn ending(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn answer(
    shared: &Rc<Shared>,
    connection: &Rc<Connection>,
    request: hyper::Request<Incoming>,
) -> Response {
    let counted = shared.rates.borrow_mut().count(connection.peer, Instant::now());
    if let Err(wait_s) = counted {
        let mut response = pages::trouble(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many requests from this address. Wait a moment.",
        );
        response.headers_mut().insert(header::RETRY_AFTER, wait_s.into());
        return ending(response);
    }
    match hear(request).await {
        Ok(Heard { head, body }) => Request { shared, connection, head, body }.answer().await,
        Err(refused) => refused,
    }
}

/// A request that is whole, and for something that there is.
pub struct Heard {
    /// All before the body.
    pub head: Parts,
    /// The body.
    pub body: Bytes,
}

/// Reads a request, if it may be asked here.
///
/// # Errors
///
/// The refusal, after which the connection ends.
pub async fn hear(request: hyper::Request<Incoming>) -> Result<Heard, Response> {
    if let Some(refused) = refusal(&request) {
        return Err(ending(refused));
    }
    let (head, body) = request.into_parts();
    let body = read(body).await.map_err(ending)?;
    Ok(Heard { head, body })
}

/// Why this may not be asked here, by its head alone.
fn refusal(request: &hyper::Request<Incoming>) -> Option<Response> {
    let (headers, host) = (request.headers(), route::host(request.uri(), request.headers()));
    // Nobody who has business here sends a body of unknown length, and a length that is told twice, in two ways, is how
    // requests are smuggled (RFC 9112, section 6.1).
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Some(pages::trouble(StatusCode::LENGTH_REQUIRED, "The request does not say how long it is."));
    }
    // For whom a request is, others may have read in the host that is not looked at here (RFC 9112, section 3.2).
    let is_for_one = match headers.get_all(header::HOST).iter().count() {
        0 => request.version() < Version::HTTP_11,
        count => count == 1 && host.is_some(),
    };
    if !is_for_one {
        return Some(pages::trouble(
            StatusCode::BAD_REQUEST,
            "The request does not say for which host it is.",
        ));
    }
    if let Err(why) = Route::of(request.method(), request.uri().path()) {
        return Some(requests::nothing(why));
    }
    if *request.method() == Method::POST
        && let Err(why) = route::is_same_site(headers, host.as_deref())
    {
        return Some(pages::trouble(StatusCode::FORBIDDEN, why));
    }
    None
}

/// The whole body, if it is small enough and comes soon enough.
async fn read(body: Incoming) -> Result<Bytes, Response> {
    let too_large = || pages::trouble(StatusCode::PAYLOAD_TOO_LARGE, "The request is too large.");
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let collected = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_PATIENCE, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(pages::trouble(StatusCode::BAD_REQUEST, "The request is broken.")),
        Err(_) => Err(pages::trouble(StatusCode::REQUEST_TIMEOUT, "The request did not come in time.")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What is answered to this, after which the connection ends.
    async fn answered(sent: &str) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(sent.as_bytes()).await.unwrap();
        let answer = async |request| match hear(request).await {
            Ok(_) => Response::default(),
            Err(refused) => refused,
        };
        converse(server, false, answer).await;
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_request_for_two_hosts_or_none_is_for_nobody() {
        for (version, hosts, expected) in [
            ("1.1", "Host: p\r\n", "200"),
            ("1.1", "", "400"),
            ("1.1", "Host: p\r\nHost: q\r\n", "400"),
            ("1.1", "Host: p\r\nHost: p\r\n", "400"),
            ("1.1", "Host: p@q\r\n", "400"),
            ("1.1", "Host:\r\n", "400"),
            ("1.0", "", "200"),
            ("1.0", "Host: p\r\nHost: q\r\n", "400"),
        ] {
            let text = answered(&format!("GET / HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n")).await;
            assert!(text.starts_with(&format!("HTTP/{version} {expected} ")), "{version} {hosts:?}: {text}");
        }
    }
}
