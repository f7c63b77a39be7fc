//! What a request is about, and whether it may come from where it does: by its head alone.

use std::net::Ipv6Addr;

use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method, Uri};

use super::pages;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'p> {
    /// Who am I, and what may I reach? Or the form to sign in.
    Home,
    /// A name and a password.
    SignIn,
    /// A second factor of a sign-in.
    Factor,
    /// The form for a fresh second factor.
    StepUpForm,
    /// A fresh second factor.
    StepUp,
    /// What an authenticator has said, of a sign-in or as a fresh second factor.
    Passkey,
    /// One's own passkeys.
    Passkeys,
    /// A new one.
    PasskeyAdd,
    /// One that goes.
    PasskeyRemove,
    /// The end of the session.
    SignOut,
    /// To an identity provider: to sign in there, or to show a fresh second factor.
    Provider { name: &'p str, step_up: bool },
    /// Back from an identity provider.
    ProviderBack,
    /// Is this address held captive (RFC 8908)?
    Captive,
    /// Files: their type and content.
    File { media: &'static str, content: &'static str },
    /// Any question, in JSON.
    Api { ask: &'p str },
    /// A Security Event Token (RFC 8935) of this transmitter.
    SecurityEvent { transmitter: &'p str },
}

/// Why nothing is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// There is nothing of this path.
    Path,
    /// There is, for these methods.
    Method(&'static [Method]),
}

impl<'p> Route<'p> {
    /// The one of this path.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn of(method: &Method, path: &'p str) -> Result<Route<'p>, NoRoute> {
        let parts: Vec<&str> = path.strip_prefix('/').unwrap_or_default().splitn(5, '/').collect();
        let (route, methods): (_, &'static [Method]) = match (path, parts.as_slice()) {
            ("/", _) => (Route::Home, &[Method::GET]),
            ("/sign-in", _) => (Route::SignIn, &[Method::POST]),
            ("/factor", _) => (Route::Factor, &[Method::POST]),
            ("/step-up", _) if *method == Method::POST => (Route::StepUp, &[Method::POST]),
            ("/step-up", _) => (Route::StepUpForm, &[Method::GET, Method::POST]),
            ("/passkey", _) => (Route::Passkey, &[Method::POST]),
            ("/passkeys", _) if *method == Method::POST => (Route::PasskeyAdd, &[Method::POST]),
            ("/passkeys", _) => (Route::Passkeys, &[Method::GET, Method::POST]),
            ("/passkeys/remove", _) => (Route::PasskeyRemove, &[Method::POST]),
            ("/passkey.js", _) => {
                (Route::File { media: "text/javascript", content: pages::passkeys::SCRIPT }, &[Method::GET])
            }
            ("/sign-out", _) => (Route::SignOut, &[Method::POST]),
            ("/captive", _) => (Route::Captive, &[Method::GET]),
            ("/oidc/callback", _) => (Route::ProviderBack, &[Method::GET]),
            ("/style.css", _) => (Route::File { media: "text/css", content: pages::STYLE }, &[Method::GET]),
            ("/icon.svg", _) => {
                (Route::File { media: "image/svg+xml", content: pages::ICON }, &[Method::GET])
            }
            ("/favicon.ico", _) => {
                (Route::File { media: "image/svg+xml", content: pages::ICON }, &[Method::GET])
            }
            (_, ["sign-in", "with", name]) => (Route::Provider { name, step_up: false }, &[Method::GET]),
            (_, ["step-up", "with", name]) => (Route::Provider { name, step_up: true }, &[Method::GET]),
            (_, ["api", "v1", ask]) => (Route::Api { ask }, &[Method::POST]),
            (_, ["events", transmitter]) => (Route::SecurityEvent { transmitter }, &[Method::POST]),
            _ => return Err(NoRoute::Path),
        };
        // Where a GET does something, a look at its head must not.
        let does = matches!(route, Route::Provider { .. } | Route::ProviderBack);
        let is_head_of_get = *method == Method::HEAD && methods.contains(&Method::GET) && !does;
        if methods.contains(method) || is_head_of_get { Ok(route) } else { Err(NoRoute::Method(methods)) }
    }
}

/// The host that a request is for, without its port; nothing if what is said of it is none.
pub fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    without_port(authority).map(str::to_ascii_lowercase)
}

/// The host of `host[:port]` (RFC 9110, section 7.2): a DNS name or an address, and not what could be read as another one.
fn without_port(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok())?,
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(end);
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            (!host.is_empty() && host.bytes().all(is_name)).then_some((host, port))?
        }
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(host)
}

/// Whether what changes something comes from the portal's own page, or from no browser. What browsers say of it cannot
/// be written by pages: `Sec-Fetch-Site`, and `Origin` where they do not know that yet.
///
/// # Errors
///
/// Why not.
pub fn is_same_site(headers: &HeaderMap, host: Option<&str>) -> Result<(), &'static str> {
    const FOREIGN: &str =
        "This was sent by a page of another site. Open the portal's own page and try again.";
    let is_site = |site: &HeaderValue| site == "same-origin" || site == "none";
    let is_origin = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("https://"));
        let same = origin.and_then(without_port).map(str::to_ascii_lowercase);
        same.is_some() && same.as_deref() == host
    };
    // A browser says each once; of what is said twice all has to be so.
    let mut sites = headers.get_all("sec-fetch-site").iter().peekable();
    let is_same = match sites.peek() {
        Some(_) => sites.all(is_site),
        None => headers.get_all(header::ORIGIN).iter().all(is_origin),
    };
    if is_same { Ok(()) } else { Err(FOREIGN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_methods_and_others_are_refused_with_them() {
        let of = |method: Method, path: &'static str| Route::of(&method, path);
        assert_eq!(of(Method::GET, "/").unwrap(), Route::Home);
        assert_eq!(of(Method::HEAD, "/").unwrap(), Route::Home);
        assert_eq!(of(Method::POST, "/step-up").unwrap(), Route::StepUp);
        assert_eq!(of(Method::GET, "/step-up").unwrap(), Route::StepUpForm);
        assert_eq!(
            of(Method::GET, "/sign-in/with/idp").unwrap(),
            Route::Provider { name: "idp", step_up: false }
        );
        assert_eq!(of(Method::POST, "/api/v1/standing").unwrap(), Route::Api { ask: "standing" });
        for (method, path, allow) in [
            (Method::POST, "/", "GET"),
            (Method::GET, "/sign-in", "POST"),
            (Method::DELETE, "/step-up", "GET, POST"),
            (Method::GET, "/api/v1/standing", "POST"),
            (Method::OPTIONS, "/sign-out", "POST"),
            (Method::TRACE, "/", "GET"),
            (Method::HEAD, "/oidc/callback", "GET"),
            (Method::HEAD, "/sign-in/with/idp", "GET"),
        ] {
            let Err(NoRoute::Method(methods)) = of(method.clone(), path) else { panic!("{method} {path}") };
            let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
            assert_eq!(methods.join(", "), allow);
        }
        for path in [
            "/x",
            "//",
            "/sign-in/",
            "/sign-in/with/",
            "/api/v1",
            "/api/v1/a/b",
            "/../etc/passwd",
            "/style.css/",
        ] {
            let found = of(Method::GET, path);
            let is_nothing = found == Err(NoRoute::Path);
            let is_empty_name = matches!(found, Ok(Route::Provider { name: "", .. }));
            assert!(is_nothing || is_empty_name, "{path}");
        }
    }

    #[test]
    fn a_path_with_more_slashes_before_it_was_taken_for_the_one_with_one() {
        for path in [
            "//api/v1/standing",
            "///events/idp",
            "//sign-in/with/idp",
            "api/v1/standing",
            "events/idp",
            "*",
            "",
        ] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(Route::of(&method, path), Err(NoRoute::Path), "{method} {path}");
            }
        }
    }

    #[test]
    fn only_the_portals_own_pages_and_programs_may_change_something() {
        let may = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            pairs.iter().for_each(|(name, value)| {
                headers.insert(*name, value.parse().unwrap());
            });
            is_same_site(&headers, Some("portal.example")).is_ok()
        };
        assert!(may(&[]), "no browser");
        assert!(may(&[("sec-fetch-site", "same-origin"), ("origin", "null")]));
        assert!(may(&[("sec-fetch-site", "none")]));
        assert!(may(&[("origin", "https://portal.example")]));
        assert!(may(&[("origin", "https://PORTAL.example:8443")]));
        for site in ["cross-site", "same-site", "x"] {
            assert!(!may(&[("sec-fetch-site", site), ("origin", "https://portal.example")]), "{site}");
        }
        for origin in ["null", "http://portal.example", "https://evil.example", "https://portal.example.evil"]
        {
            assert!(!may(&[("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn an_origin_with_more_before_its_host_was_taken_for_the_portals() {
        for origin in [
            "https://portal.example:x@evil.example",
            "https://portal.example:443.evil",
            "https://portal.example:1/",
        ] {
            let headers = HeaderMap::from_iter([(header::ORIGIN, origin.parse().unwrap())]);
            assert!(is_same_site(&headers, Some("portal.example")).is_err(), "{origin}");
        }
    }

    #[test]
    fn the_second_of_two_words_of_a_browser_was_not_looked_at() {
        for name in ["sec-fetch-site", "origin"] {
            let own = if name == "origin" { "https://portal.example" } else { "same-origin" };
            let mut headers = HeaderMap::new();
            headers.append(name, own.parse().unwrap());
            assert!(is_same_site(&headers, Some("portal.example")).is_ok());
            headers.append(name, "cross-site".parse().unwrap());
            assert!(is_same_site(&headers, Some("portal.example")).is_err(), "{name}");
        }
    }

    #[test]
    fn a_host_is_told_from_its_port() {
        for (written, host) in
            [("a.b:443", "a.b"), ("A.B", "a.b"), ("[fd00::1]:443", "fd00::1"), ("10.1.0.1", "10.1.0.1")]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, written.parse().unwrap());
            assert_eq!(super::host(&Uri::from_static("/"), &headers).as_deref(), Some(host));
        }
    }
}
