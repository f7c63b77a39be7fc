//! Alice at her company's identity provider: a browser's way there and back, and what the provider tells of her later.

use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, LOCATION, SET_COOKIE};
use hyper::{Method, Request, Response};

use crate::agent::client::Portal;
use crate::demo::policy;
use crate::demo::provider::{FORM, Provider, USER};
use crate::demo::stage::Stage;
use crate::identity::{totp, unix_s};
use crate::portal::cookie;
use crate::portal::wire::Secret;

/// Where the portal has the provider send browsers back to.
pub const BACK: &str = "/oidc/callback";

/// A browser in the clients' zone that knows the portal's certificate, and the provider's.
pub struct Browser<'a> {
    portal: &'a Portal,
    provider: &'a Provider,
    idp: Portal,
}

impl<'a> Browser<'a> {
    /// Opens it.
    pub fn new(portal: &'a Portal, provider: &'a Provider) -> Result<Browser<'a>> {
        let idp = Portal::parse(&provider.issuer, Some(&provider.fingerprint), None)?;
        Ok(Browser { portal, provider, idp })
    }

    /// From the portal's page to the provider's, through its form, and back. Returns the session's cookie.
    pub fn sign_in(&self, stage: &Stage<'_>) -> Result<Secret> {
        let sent = self.portal_page(stage, "/sign-in/with/corp", None)?;
        let binding = kept(&sent, cookie::BINDING).context("the portal does not bind the browser")?;
        let back = self.at_the_provider(stage, going(&sent)?)?;
        let query = back.strip_prefix(policy::PORTAL).and_then(|path| path.strip_prefix(BACK));
        let query = query.with_context(|| format!("the provider sends the browser to {back}"))?;
        let binding = format!("{}={}", cookie::BINDING, binding.reveal());
        let back = self.portal_page(stage, &format!("{BACK}{query}"), Some(&binding))?;
        let session = kept(&back, cookie::SESSION);
        session.with_context(|| format!("the portal does not sign her in:\n{}", body(&back)))
    }

    fn portal_page(&self, stage: &Stage<'_>, path: &str, cookie: Option<&str>) -> Result<Response<Bytes>> {
        let host = policy::PORTAL.trim_start_matches("https://");
        let mut request = Request::get(path).header(HOST, host);
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        let request = request.body(Full::default())?;
        stage.lab.host("clients").namespace.run(|| self.portal.send(request))
    }

    /// Fills in the form there. Returns where it is sent then.
    fn at_the_provider(&self, stage: &Stage<'_>, url: &str) -> Result<String> {
        let path = url.strip_prefix(&self.provider.issuer);
        let path = path.with_context(|| format!("the portal sends the browser to {url}"))?;
        // The provider is not of the laboratory's zones: whoever has a browser reaches it, by another way.
        let ask = |method, body: String| -> Result<_> {
            let request = Request::builder().method(method).uri(path).header(HOST, &self.idp.authority);
            let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            let request = request.body(Full::from(body))?;
            stage.lab.gateway.run(|| self.idp.send(request))
        };
        let page = ask(Method::GET, String::new())?;
        if body(&page) != FORM {
            bail!("the provider does not ask who it is: {}", body(&page));
        }
        let credentials = &self.provider.credentials;
        let code = totp::code(&credentials.key, unix_s(SystemTime::now()));
        let typed = form_urlencoded::Serializer::new(String::new())
            .append_pair("user", USER)
            .append_pair("password", credentials.password.reveal())
            .append_pair("code", &code.context("the key of an authenticator is one")?)
            .finish();
        Ok(going(&ask(Method::POST, typed)?)?.to_owned())
    }
}

/// The provider pushes an event to the portal (RFC 8935). Returns the answer's status and text.
pub fn push(stage: &Stage<'_>, portal: &Portal, provider: &Provider) -> Result<(u16, String)> {
    let event = provider.session_revoked(policy::PORTAL);
    let request = Request::post("/events/corp")
        .header(HOST, policy::PORTAL.trim_start_matches("https://"))
        .header(AUTHORIZATION, format!("Bearer {}", provider.push.reveal()))
        .header(CONTENT_TYPE, "application/secevent+jwt")
        .body(Full::from(event))?;
    let answer = stage.lab.host("clients").namespace.run(|| portal.send(request))?;
    Ok((answer.status().as_u16(), body(&answer)))
}

/// Where an answer sends a browser.
fn going(answer: &Response<Bytes>) -> Result<&str> {
    let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    location.with_context(|| format!("{}, and not somewhere else:\n{}", answer.status(), body(answer)))
}

fn body(answer: &Response<Bytes>) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}

/// The cookie of this name that an answer has a browser keep.
fn kept(answer: &Response<Bytes>, name: &str) -> Option<Secret> {
    let cookies = answer.headers().get_all(SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok());
    let mut pairs = cookies.filter_map(|cookie| cookie.split(';').next()?.split_once('='));
    pairs
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| Secret::new(value.to_owned()))
}
