//! Cookies: what the gateway has given out, kept by browsers and shown again.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, COOKIE, HeaderValue};

use super::wire::Secret;

/// The session's cookie. Browsers take the prefix only from a secure page, for this host and every path, so that no
/// other host and no page in the clear can plant one (RFC 6265bis, section 4.1.3.2).
pub const SESSION: &str = "__Host-bulkhead";
/// What binds a browser to a sign-in at an identity provider.
pub const BINDING: &str = "__Host-bulkhead-binding";
/// The longest value that is taken.
const BYTES_MAX: usize = 512;
/// How long a browser keeps a binding, seconds.
const BINDING_S: u32 = 600;

/// The value of this cookie in a request; nothing when it comes twice with different values.
pub fn value(headers: &HeaderMap, name: &str) -> Option<Secret> {
    let mut found: Option<&str> = None;
    for header in headers.get_all(COOKIE) {
        for pair in header.to_str().ok()?.split(';') {
            let Some((key, value)) = pair.trim().split_once('=') else { continue };
            if key != name || !is_plain(value) {
                continue;
            }
            if found.is_some_and(|found| found != value) {
                return None;
            }
            found = Some(value);
        }
    }
    found.map(|value| Secret::new(value.to_owned()))
}

/// The session's cookie of a request: from a browser, or from a program as `Authorization: Bearer`.
pub fn session(headers: &HeaderMap) -> Option<Secret> {
    let bearer = || {
        let value = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        is_plain(value).then(|| Secret::new(value.to_owned()))
    };
    value(headers, SESSION).or_else(bearer)
}

/// `Set-Cookie` for a session; `None` when the gateway's value is none that a browser would take.
pub fn set(value: &Secret) -> Option<HeaderValue> {
    header(SESSION, value.reveal(), "Lax", None)
}

/// `Set-Cookie` for a binding. Lax, since the browser comes back from another site.
pub fn bind(value: &Secret) -> Option<HeaderValue> {
    header(BINDING, value.reveal(), "Lax", Some(BINDING_S))
}

/// `Set-Cookie` that has the browser forget one.
pub fn forget(name: &str) -> Option<HeaderValue> {
    header(name, "", "Lax", Some(0))
}

fn header(name: &str, value: &str, same_site: &str, age_s: Option<u32>) -> Option<HeaderValue> {
    if !(is_plain(value) || value.is_empty()) {
        return None;
    }
    let age = age_s.map(|age_s| format!("; Max-Age={age_s}")).unwrap_or_default();
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite={same_site}{age}");
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// What the gateway gives out: characters of base64url, and a dot.
fn is_plain(value: &str) -> bool {
    (1..=BYTES_MAX).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        cookies.iter().for_each(|cookie| {
            headers.append(COOKIE, cookie.parse().unwrap());
        });
        headers
    }

    fn of(cookies: &[&str]) -> Option<String> {
        value(&headers(cookies), SESSION).map(|secret| secret.reveal().to_owned())
    }

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
        assert_eq!(of(&["a=b; __Host-bulkhead=x1-_.; c=d"]), Some("x1-_.".to_owned()));
        assert_eq!(of(&["a=b", "__Host-bulkhead=x"]), Some("x".to_owned()));
        assert_eq!(of(&["bulkhead=x; __Host-bulkhead-binding=y; X__Host-bulkhead=z"]), None);
    }

    #[test]
    fn what_the_gateway_never_gave_out_is_no_cookie() {
        for cookie in ["", "a b", "\"x\"", "x%20", "é"] {
            assert_eq!(of(&[&format!("__Host-bulkhead={cookie}")]), None, "{cookie}");
        }
        assert_eq!(of(&[&format!("__Host-bulkhead={}", "x".repeat(BYTES_MAX + 1))]), None);
        assert_eq!(of(&["__Host-bulkhead=a; __Host-bulkhead=b"]), None, "which one?");
    }

    #[test]
    fn a_cookie_is_for_this_host_over_tls_and_for_no_script() {
        let header = set(&Secret::new("abc".to_owned())).unwrap();
        assert_eq!(header, "__Host-bulkhead=abc; Path=/; Secure; HttpOnly; SameSite=Lax");
        assert!(header.is_sensitive());
        assert!(set(&Secret::new("a\r\nb".to_owned())).is_none());
        assert!(set(&Secret::new("a; Domain=example.org".to_owned())).is_none());
        assert!(forget(SESSION).unwrap().to_str().unwrap().ends_with("Max-Age=0"));
    }
}
