//! The same questions in JSON, for programs: `POST /api/v1/NAME` with the fields of the question of that name, and the
//! answer as the gateway gives it. And Security Event Tokens, as RFC 8935 has them pushed.

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use serde_json::{Map, Value, json};

use super::cookie;
use super::http::Response;
use super::requests::{Request, status_of};
use super::wire::{Answer, Question, Secret, Why};

/// Answers a question by its name.
pub async fn answer(request: &Request<'_>, ask: &str) -> Response {
    let question = match question(request, ask) {
        Ok(question) => question,
        Err((status, why)) => return wrong(status, why),
    };
    let answer = request.ask(question).await;
    let status = match &answer {
        Answer::Refused { why, .. } => status_of(*why),
        Answer::NotTaken { .. } => StatusCode::BAD_REQUEST,
        Answer::Taken => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    let mut said = json!(&answer);
    let cookie = match &answer {
        Answer::Begun { cookie, .. } => cookie::set(cookie),
        Answer::SignedOut => cookie::forget(cookie::SESSION),
        _ => None,
    };
    // A browser keeps its cookie where no script can read it.
    if is_browser(request)
        && let Some(said) = said.as_object_mut()
    {
        said.remove("cookie");
    }
    let mut response = reply(status, &said);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    if let Answer::Refused { retry_after_s: Some(retry_after_s), .. } = answer {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after_s.into());
    }
    response
}

fn question(request: &Request<'_>, ask: &str) -> Result<Question, (StatusCode, &'static str)> {
    let unknown = (StatusCode::NOT_FOUND, "there is no such question");
    let other_fields = (StatusCode::BAD_REQUEST, "these are not the fields of the question");
    if !ask.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
        return Err(unknown);
    }
    let mut fields: Map<String, Value> = match request.body.as_ref() {
        b"" => Map::new(),
        body if media(request) == "application/json" => serde_json::from_slice(body)
            .map_err(|_| (StatusCode::BAD_REQUEST, "the body is no JSON object"))?,
        // Whatever else a page of another site can have a browser send.
        _ => return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")),
    };
    if fields.insert("ask".to_owned(), ask.into()).is_some() {
        return Err((StatusCode::BAD_REQUEST, "what is asked stands in the path"));
    }
    let names: Vec<String> = fields.keys().cloned().collect();
    // What serde says of it would repeat what was sent.
    let question: Question = serde_json::from_value(Value::Object(fields)).map_err(|error| {
        if error.to_string().starts_with("unknown variant") { unknown } else { other_fields }
    })?;
    // It lets pass what a question without fields is given.
    match json!(&question).as_object() {
        Some(known) if names.iter().all(|name| known.contains_key(name)) => Ok(question),
        _ => Err(other_fields),
    }
}

/// Takes a Security Event Token.
pub async fn security_event(request: &Request<'_>, transmitter: &str) -> Response {
    if media(request) != "application/secevent+jwt" {
        let told =
            json!({ "err": "invalid_request", "description": "the body must be application/secevent+jwt" });
        return reply(StatusCode::BAD_REQUEST, &told);
    }
    let Ok(token) = std::str::from_utf8(&request.body) else {
        let told = json!({ "err": "invalid_request", "description": "the body is no token" });
        return reply(StatusCode::BAD_REQUEST, &told);
    };
    let authorization = request.head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let question = Question::SecurityEvent {
        transmitter: transmitter.to_owned(),
        authorization: authorization.map(|value| Secret::new(value.to_owned())),
        token: Secret::new(token.trim().to_owned()),
    };
    match request.ask(question).await {
        Answer::Taken => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::ACCEPTED;
            response
        }
        Answer::NotTaken { err, description } => {
            let status = match err.as_str() {
                "authentication_failed" => StatusCode::UNAUTHORIZED,
                "access_denied" => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_REQUEST,
            };
            reply(status, &json!({ "err": err, "description": description }))
        }
        Answer::Refused { why, .. } => wrong(status_of(why), "not now"),
        _ => wrong(status_of(Why::Failed), "the gateway said something else than was asked"),
    }
}

/// The type of the body, without parameters.
fn media(request: &Request<'_>) -> String {
    let media = request.head.headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
    media.and_then(|media| media.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_browser(request: &Request<'_>) -> bool {
    request.head.headers.contains_key("sec-fetch-site") || request.head.headers.contains_key(header::ORIGIN)
}

fn wrong(status: StatusCode, error: &str) -> Response {
    reply(status, &json!({ "error": error }))
}

fn reply(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Full::from(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let media = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}
