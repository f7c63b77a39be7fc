//! HTTP on one connection: bounded reading, one place where every answer gets its headers.

use std::convert::Infallible;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
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
    let service = service_fn(|request| {
        let (shared, connection) = (shared.clone(), connection.clone());
        async move {
            let response = answer(&shared, &connection, request).await;
            Ok::<_, Infallible>(finished(response, shared.strict))
        }
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
    // Nobody who has business here sends a body of unknown length, and a length that is told twice, in two ways, is how
    // requests are smuggled (RFC 9112, section 6.1).
    if request.headers().contains_key(header::TRANSFER_ENCODING) {
        return ending(pages::trouble(
            StatusCode::LENGTH_REQUIRED,
            "The request does not say how long it is.",
        ));
    }
    let path = request.uri().path().to_owned();
    let route = match Route::of(request.method(), &path) {
        Ok(route) => route,
        Err(why) => return ending(requests::nothing(why)),
    };
    if *request.method() == Method::POST
        && let Err(why) =
            route::is_same_site(request.headers(), route::host(request.uri(), request.headers()).as_deref())
    {
        return ending(pages::trouble(StatusCode::FORBIDDEN, why));
    }
    let (head, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return ending(refused),
    };
    let request = Request { shared, connection, head, body };
    request.answer(route).await
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
