//! What holds for any bytes that come to the portal as a form, or as a request of HTTP/1.1: a line, header lines, an empty line
//! and a body.

use std::net::Ipv6Addr;

use crate::portal::cookie;
use crate::portal::form::Form;
use crate::portal::route::{NoRoute, Route, host, is_same_site};
use crate::portal::wire::Secret;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Uri};

/// What there is, by path: what a GET asks for, and what a POST does. `*` is a name without a slash.
const PATHS: [(&str, &str, &str); 18] = [
    ("/", "Home", ""),
    ("/sign-in", "", "SignIn"),
    ("/factor", "", "Factor"),
    ("/step-up", "StepUpForm", "StepUp"),
    ("/passkey", "", "Passkey"),
    ("/passkeys", "Passkeys", "PasskeyAdd"),
    ("/passkeys/remove", "", "PasskeyRemove"),
    ("/passkey.js", "File", ""),
    ("/sign-out", "", "SignOut"),
    ("/captive", "Captive", ""),
    ("/oidc/callback", "ProviderBack", ""),
    ("/style.css", "File", ""),
    ("/icon.svg", "File", ""),
    ("/favicon.ico", "File", ""),
    ("/sign-in/with/*", "Provider", ""),
    ("/step-up/with/*", "Provider", ""),
    ("/api/v1/*", "", "Api"),
    ("/events/*", "", "SecurityEvent"),
];
/// Of what a browser may show, and what it is told with it.
const COOKIES: [&str; 2] = ["__Host-bulkhead", "__Host-bulkhead-binding"];
const ATTRIBUTES: [&str; 4] = ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"];

/// Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    a_form_is_read_as_slowly(bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = bytes.split_at(end.unwrap_or(bytes.len()));
    a_form_is_read_as_slowly(body.get(4..).unwrap_or_default());
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), value) {
            headers.append(name, value);
        }
    }
    cookies_are_found_as_slowly(&headers);
    headers.values().for_each(|value| what_is_given_out_comes_back(value.as_bytes()));
    let (Ok(method), Ok(target)) = (Method::from_bytes(method), std::str::from_utf8(target)) else { return };
    a_path_is_one_thing(&method, target);
    if let Ok(uri) = Uri::try_from(target) {
        a_path_is_one_thing(&method, uri.path());
        a_form_is_read_as_slowly(uri.query().unwrap_or_default().as_bytes());
        a_site_is_told_as_slowly(&uri, &headers);
    }
}

/// WHATWG URL, section 5.1; but nothing is put in the place of what is not UTF-8.
fn a_form_is_read_as_slowly(bytes: &[u8]) {
    let form = Form::parse(bytes);
    let pieces = bytes.split(|byte| *byte == b'&').filter(|piece| !piece.is_empty());
    let fields: Option<Vec<(String, String)>> = pieces
        .map(|piece| {
            let equals = piece.iter().position(|byte| *byte == b'=').unwrap_or(piece.len());
            Some((unescaped(&piece[..equals])?, unescaped(piece.get(equals + 1..).unwrap_or_default())?))
        })
        .collect();
    let is_once = |fields: &Vec<(String, String)>| {
        let mut names: Vec<&String> = fields.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.windows(2).all(|two| two[0] != two[1])
    };
    let is_short = |(name, value): &(String, String)| name.len() <= 1024 && value.len() <= 4096;
    let fields = fields.filter(|_| std::str::from_utf8(bytes).is_ok());
    let fields = fields.filter(|fields| fields.len() <= 16 && is_once(fields) && fields.iter().all(is_short));
    assert_eq!(form.is_some(), fields.is_some(), "{:?}", String::from_utf8_lossy(bytes));
    let (Some(form), Some(fields)) = (form, fields) else { return };
    let others: Vec<(String, String)> = form_urlencoded::parse(bytes).into_owned().collect();
    assert_eq!(fields, others, "what we take, others take");
    for (name, value) in &fields {
        let of = |secret: Option<Secret>| secret.map(|secret| secret.reveal().to_owned());
        assert_eq!(of(form.secret(name)), Some(value.clone()).filter(|value| !value.is_empty()));
        let trimmed = value.trim_matches(char::is_whitespace);
        let is_text = (1..=1024).contains(&trimmed.len());
        assert_eq!(form.text(name).as_deref(), is_text.then_some(trimmed));
        let digits: String = value.split(|c: char| c == '-' || c.is_whitespace()).collect();
        let is_code = !value.is_empty() && digits.len() <= 1024;
        assert_eq!(of(form.code(name)), is_code.then_some(digits));
        what_is_given_out_comes_back(value.as_bytes());
    }
}

fn unescaped(written: &[u8]) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), written);
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    while let [first, more @ ..] = rest {
        let escape = more.first().and_then(digit).zip(more.get(1).and_then(digit));
        (bytes, rest) = match (first, escape) {
            (b'%', Some((high, low))) => ([bytes, vec![high << 4 | low]].concat(), &more[2..]),
            (b'+', _) => ([bytes, vec![b' ']].concat(), more),
            _ => ([bytes, vec![*first]].concat(), more),
        };
    }
    String::from_utf8(bytes).ok()
}

/// What the gateway gives out.
fn is_plain(value: &[u8]) -> bool {
    const PLAIN: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    (1..=512).contains(&value.len()) && value.iter().all(|byte| PLAIN.as_bytes().contains(byte))
}

/// RFC 6265, section 4.2.1: pairs, with a semicolon between them.
fn cookies_are_found_as_slowly(headers: &HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all("cookie").iter().map(HeaderValue::as_bytes).collect();
    let is_readable = lines.iter().all(|line| line.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')));
    let pairs: Vec<&[u8]> = lines.iter().flat_map(|line| line.split(|byte| *byte == b';')).collect();
    for name in COOKIES {
        let start = format!("{name}=");
        let mut values: Vec<&[u8]> = pairs
            .iter()
            .filter_map(|pair| pair.trim_ascii().strip_prefix(start.as_bytes()))
            .filter(|value| is_plain(value))
            .collect();
        values.dedup();
        let expected = (is_readable && values.len() == 1).then(|| values[0]);
        let found = cookie::value(headers, name);
        assert_eq!(found.as_ref().map(|found| found.reveal().as_bytes()), expected, "{headers:?}");
        if name == COOKIES[0] {
            let bearer =
                headers.get("authorization").and_then(|line| line.as_bytes().strip_prefix(b"Bearer "));
            let expected = expected.or(bearer.filter(|bearer| is_plain(bearer)));
            let found = cookie::session(headers);
            assert_eq!(found.as_ref().map(|found| found.reveal().as_bytes()), expected, "{headers:?}");
        }
    }
}

/// A browser keeps it as it is, for this host alone, and shows it again.
fn what_is_given_out_comes_back(value: &[u8]) {
    let Ok(text) = std::str::from_utf8(value) else { return };
    let secret = Secret::new(text.to_owned());
    for (name, set) in COOKIES.into_iter().zip([cookie::set(&secret), cookie::bind(&secret)]) {
        assert_eq!(set.is_some(), is_plain(value) || value.is_empty(), "{text:?}");
        let Some(set) = set else { continue };
        assert!(set.is_sensitive());
        let mut parts = set.to_str().expect("it is ASCII").split("; ");
        let pair = parts.next().expect("there is one");
        assert_eq!(pair, format!("{name}={text}"));
        let attributes: Vec<&str> = parts.collect();
        assert_eq!(attributes[..4], ATTRIBUTES);
        assert!(attributes[4..].iter().all(|attribute| *attribute == "Max-Age=600"), "{attributes:?}");
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from_str(&format!("a=b; {pair}; c=d")).expect("it is ASCII"));
        let shown = cookie::value(&headers, name);
        assert_eq!(shown.as_ref().map(Secret::reveal), Some(text).filter(|text| !text.is_empty()));
    }
}

fn a_path_is_one_thing(method: &Method, path: &str) {
    let found = PATHS.iter().find_map(|(known, get, post)| match known.strip_suffix('*') {
        None => (path == *known).then_some((*get, *post, None)),
        Some(stem) => {
            let name = path.strip_prefix(stem).filter(|name| !name.contains('/'))?;
            Some((*get, *post, Some(name)))
        }
    });
    let route = Route::of(method, path);
    let Some((get, post, name)) = found else {
        assert_eq!(route, Err(NoRoute::Path), "{method} {path}");
        return;
    };
    let asked = match method.as_str() {
        "GET" => get,
        "POST" => post,
        // What a GET does is not done by looking at its head.
        "HEAD" if get != "Provider" && get != "ProviderBack" => get,
        _ => "",
    };
    match route {
        Ok(route) => {
            let told = format!("{route:?}");
            assert_eq!(told.split([' ', '{']).next(), Some(asked), "{method} {path}");
            let named = match route {
                Route::Provider { name, step_up } => {
                    assert_eq!(step_up, path.starts_with("/step-up/"));
                    Some(name)
                }
                Route::Api { ask } => Some(ask),
                Route::SecurityEvent { transmitter } => Some(transmitter),
                _ => None,
            };
            assert_eq!(named, name, "{method} {path}");
        }
        Err(NoRoute::Path) => panic!("there is something: {method} {path}"),
        Err(NoRoute::Method(methods)) => {
            assert_eq!(asked, "", "{method} {path}");
            let known = [(get, Method::GET), (post, Method::POST)];
            let known: Vec<_> = known.into_iter().filter(|(what, _)| !what.is_empty()).collect();
            assert!(methods.iter().eq(known.iter().map(|(_, method)| method)), "{method} {path}");
        }
    }
}

fn a_site_is_told_as_slowly(uri: &Uri, headers: &HeaderMap) {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let said = match uri.authority() {
        Some(authority) => Some(authority.to_string()),
        None => headers.get("host").and_then(text),
    };
    let expected = said.as_deref().and_then(slow_host);
    let found = host(uri, headers);
    assert_eq!(found, expected, "{uri} {headers:?}");
    let sites: Vec<&[u8]> = headers.get_all("sec-fetch-site").iter().map(HeaderValue::as_bytes).collect();
    let mut origins = headers.get_all("origin").iter();
    let is_ours = if sites.is_empty() {
        origins.all(|origin| {
            let origin = text(origin).and_then(|origin| slow_host(origin.strip_prefix("https://")?));
            origin.is_some() && origin == expected
        })
    } else {
        sites.iter().all(|site| [&b"same-origin"[..], b"none"].contains(site))
    };
    assert_eq!(is_same_site(headers, found.as_deref()).is_ok(), is_ours, "{uri} {headers:?}");
}

/// A DNS name or an address, with or without a port; another reader finds the same host in it.
fn slow_host(authority: &str) -> Option<String> {
    let digits = authority.len() - authority.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let host = authority[..authority.len() - digits].strip_suffix(':').unwrap_or(authority);
    let (plain, is_host) = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => (address, address.parse::<Ipv6Addr>().is_ok()),
        None => {
            let is_in_names = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            (host, !host.is_empty() && host.chars().all(is_in_names))
        }
    };
    if !is_host {
        return None;
    }
    let other = Authority::try_from(authority).expect("what we take, others take");
    assert_eq!(other.host(), host);
    Some(plain.to_ascii_lowercase())
}
