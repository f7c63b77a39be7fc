//! An identity provider in a few pages: OpenID Connect's code flow with PKCE, for one client and one user, who shows a password
//! and a code; and a transmitter of security events about that user. On the loopback of the gateway's namespace, over TLS, until
//! it is dropped. The gateway knows of it what its configuration says, and asks for the rest as of any other.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;
use std::{cell::RefCell, fs, io};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::demo::policy::Corporate;
use crate::identity::{token, totp, unix_s};
use crate::lab::Namespace;
use crate::portal::wire::Secret;
use crate::store::sha256;
use crate::tokens::sign::Signer;

/// `sub` of its user …
const SUBJECT: &str = "a1b2c3";
/// … and `email`, by which the gateway's rules know her.
pub const USER: &str = "alice@corp.demo";
/// `client_id` of the gateway.
pub const CLIENT: &str = "bulkhead";
/// How long what it signs holds, seconds.
const LASTS_S: u64 = 60;

/// What is typed into its form.
pub struct Credentials {
    /// The password.
    pub password: Secret,
    /// The key of the authenticator.
    pub key: Secret,
}

/// A running provider.
pub struct Provider {
    /// `iss`.
    pub issuer: String,
    /// Of its certificate, as browsers would be told.
    pub fingerprint: String,
    /// What its user knows and has.
    pub credentials: Credentials,
    /// What it shows when it pushes events.
    pub push: Secret,
    signer: Arc<Signer>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    /// Starts it in this namespace, for browsers that are sent back to `redirect`, and writes into `directory` what the gateway
    /// has to know. Returns it with what the configuration says of it.
    pub fn start(namespace: &Namespace, directory: &Path, redirect: &str) -> Result<(Provider, Corporate)> {
        let listener = namespace.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        listener.set_nonblocking(true)?;
        let issuer = format!("https://localhost:{}", listener.local_addr()?.port());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let signer = Arc::new(Signer::from_pkcs8(&Signer::generate()?)?);
        let credentials = Credentials { password: token(), key: totp::key() };
        let (secret, push) = (token(), token());
        let corporate = Corporate {
            issuer: issuer.clone(),
            authority: directory.join("corp.pem"),
            secret: directory.join("corp.secret"),
            push: directory.join("corp.push"),
        };
        fs::write(&corporate.authority, made.cert.pem())?;
        keep(&corporate.secret, &secret)?;
        keep(&corporate.push, &push)?;
        let pages = Pages {
            issuer: issuer.clone(),
            redirect: redirect.to_owned(),
            secret,
            password: credentials.password.clone(),
            key: credentials.key.clone(),
            signer: signer.clone(),
            codes: RefCell::default(),
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("provider".to_owned());
        let thread = thread.spawn(move || serve(listener, tls, pages, stopped))?;
        let fingerprint = sha256(made.cert.der());
        let (stop, thread) = (Some(stop), Some(thread));
        Ok((Provider { issuer, fingerprint, credentials, push, signer, stop, thread }, corporate))
    }

    /// A Security Event Token (RFC 8417) for this audience: the user's session is over (CAEP 1.0, section 3.1).
    pub fn session_revoked(&self, audience: &str) -> String {
        let now = unix_s(SystemTime::now());
        let event =
            json!({ "event_timestamp": now, "reason_admin": { "en": "the laptop was reported stolen" } });
        let claims = json!({
            "iss": self.issuer, "aud": audience, "jti": token().reveal(), "iat": now,
            "sub_id": { "format": "iss_sub", "iss": self.issuer, "sub": SUBJECT },
            "events": { "https://schemas.openid.net/secevent/caep/event-type/session-revoked": event },
        });
        self.signer.sign("secevent+jwt", &claims)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes a secret that nobody else can read.
fn keep(path: &Path, secret: &Secret) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.reveal().as_bytes())
}

/// Until it is told to stop.
fn serve(listener: TcpListener, tls: ServerConfig, pages: Pages, stopped: oneshot::Receiver<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let (acceptor, pages) = (TlsAcceptor::from(Arc::new(tls)), Rc::new(pages));
    let served = tokio::task::LocalSet::new();
    let accepting = async {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, pages) = (acceptor.clone(), pages.clone());
            tokio::task::spawn_local(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request| answer(&pages, request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    };
    runtime.block_on(served.run_until(async {
        tokio::select! {
            () = accepting => {}
            // Told to, or nobody is left who could.
            _ = stopped => {}
        }
    }));
}

async fn answer(pages: &Pages, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // The clients are the gateway and one browser, which send what they send.
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let query = form(head.uri.query().unwrap_or_default().as_bytes());
    let now = unix_s(SystemTime::now());
    Ok(match (&head.method, head.uri.path()) {
        (&Method::GET, "/.well-known/openid-configuration") => told(StatusCode::OK, &pages.metadata()),
        (&Method::GET, "/keys") => told(StatusCode::OK, &json!({ "keys": [pages.signer.public_jwk()] })),
        (&Method::GET, "/authorize") => match pages.wrong_with(&query) {
            None => shown(StatusCode::OK, FORM),
            Some(why) => shown(StatusCode::BAD_REQUEST, why),
        },
        (&Method::POST, "/authorize") => pages.sign_in(&query, &form(&body), now),
        (&Method::POST, "/token") => pages.token(head.headers.get(AUTHORIZATION), &form(&body), now),
        _ => shown(StatusCode::NOT_FOUND, "There is nothing here."),
    })
}

/// The fields of a form.
type Fields = HashMap<String, String>;

fn form(bytes: &[u8]) -> Fields {
    form_urlencoded::parse(bytes).into_owned().collect()
}

/// The page on which somebody signs in.
pub const FORM: &str = r#"<form method="post"><input name="user"><input name="password" type="password"><input name="code"></form>"#;

fn shown(status: StatusCode, html: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(html));
    *response.status_mut() = status;
    response
}

fn told(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    response
}

/// An error of RFC 6749, section 5.2.
fn denied(error: &str) -> Response<Full<Bytes>> {
    told(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

/// What a code was given out for.
struct Given {
    challenge: String,
    nonce: String,
    shown_at: u64,
}

struct Pages {
    issuer: String,
    redirect: String,
    secret: Secret,
    password: Secret,
    key: Secret,
    signer: Arc<Signer>,
    codes: RefCell<HashMap<String, Given>>,
}

impl Pages {
    fn metadata(&self) -> Value {
        let at = |path: &str| format!("{}/{path}", self.issuer);
        json!({
            "issuer": self.issuer,
            "authorization_endpoint": at("authorize"),
            "token_endpoint": at("token"),
            "jwks_uri": at("keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["EdDSA"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "authorization_response_iss_parameter_supported": true,
        })
    }

    /// Why nobody is sent back with a code who comes with this.
    fn wrong_with(&self, query: &Fields) -> Option<&'static str> {
        let is = |name: &str, value: &str| query.get(name).is_some_and(|is| is == value);
        if !is("client_id", CLIENT) || !is("redirect_uri", &self.redirect) {
            return Some("Whoever sent you is not known here.");
        }
        if !is("response_type", "code") || !is("code_challenge_method", "S256") {
            return Some("Only the code flow with PKCE is spoken here.");
        }
        let has_all = ["state", "nonce", "code_challenge"].iter().all(|name| query.contains_key(*name));
        (!has_all).then_some("The state, the nonce or the challenge is missing.")
    }

    fn sign_in(&self, query: &Fields, typed: &Fields, now: u64) -> Response<Full<Bytes>> {
        if let Some(why) = self.wrong_with(query) {
            return shown(StatusCode::BAD_REQUEST, why);
        }
        let of = |fields: &Fields, name: &str| fields.get(name).cloned().unwrap_or_default();
        let is_her = of(typed, "user") == USER && of(typed, "password") == self.password.reveal();
        if !is_her || totp::step_of(&self.key, &of(typed, "code"), now).is_none() {
            return shown(StatusCode::FORBIDDEN, "That is not right.");
        }
        let code = token();
        let (challenge, nonce) = (of(query, "code_challenge"), of(query, "nonce"));
        self.codes.borrow_mut().insert(code.reveal().to_owned(), Given { challenge, nonce, shown_at: now });
        let back = form_urlencoded::Serializer::new(format!("{}?", self.redirect))
            .append_pair("code", code.reveal())
            .append_pair("state", &of(query, "state"))
            .append_pair("iss", &self.issuer)
            .finish();
        let mut response = shown(StatusCode::SEE_OTHER, "");
        if let Ok(back) = HeaderValue::try_from(back) {
            response.headers_mut().insert(LOCATION, back);
        }
        response
    }

    fn token(&self, authorization: Option<&HeaderValue>, asked: &Fields, now: u64) -> Response<Full<Bytes>> {
        // Neither has a character that RFC 6749, section 2.3.1, would encode.
        let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{}", self.secret.reveal())));
        if authorization.is_none_or(|shown| shown.as_bytes() != basic.as_bytes()) {
            return denied("invalid_client");
        }
        let of = |name: &str| asked.get(name).map(String::as_str).unwrap_or_default();
        if of("grant_type") != "authorization_code" {
            return denied("unsupported_grant_type");
        }
        // Once, whatever comes of it.
        let given = self.codes.borrow_mut().remove(of("code"));
        let challenge = ::ring::digest::digest(&::ring::digest::SHA256, of("code_verifier").as_bytes());
        let challenge = URL_SAFE_NO_PAD.encode(challenge);
        let Some(given) = given
            .filter(|given| given.challenge == challenge && now <= given.shown_at + LASTS_S)
            .filter(|_| of("redirect_uri") == self.redirect)
        else {
            return denied("invalid_grant");
        };
        let claims = json!({
            "iss": self.issuer, "sub": SUBJECT, "aud": CLIENT, "iat": now, "exp": now + LASTS_S,
            "nonce": given.nonce, "auth_time": given.shown_at, "amr": ["pwd", "otp"],
            "email": USER, "email_verified": true, "groups": ["dba"],
        });
        let id_token = self.signer.sign("JWT", &claims);
        let access_token = token();
        told(
            StatusCode::OK,
            &json!({ "access_token": access_token.reveal(), "token_type": "Bearer", "id_token": id_token }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const VERIFIER: &str = "a-verifier-of-forty-three-characters-at-least";

    fn pages() -> Pages {
        Pages {
            issuer: "https://localhost:1".to_owned(),
            redirect: "https://portal.demo/oidc/callback".to_owned(),
            secret: token(),
            password: token(),
            key: totp::key(),
            signer: Arc::new(Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap()),
            codes: RefCell::default(),
        }
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn query(pages: &Pages) -> Fields {
        let challenge = ::ring::digest::digest(&::ring::digest::SHA256, VERIFIER.as_bytes());
        fields(&[
            ("response_type", "code"),
            ("client_id", CLIENT),
            ("redirect_uri", &pages.redirect),
            ("state", "s"),
            ("nonce", "n"),
            ("code_challenge", &URL_SAFE_NO_PAD.encode(challenge)),
            ("code_challenge_method", "S256"),
        ])
    }

    /// Signs the user in; the code that the browser is sent back with.
    fn code(pages: &Pages) -> String {
        let code = totp::code(&pages.key, NOW).unwrap();
        let typed = fields(&[("user", USER), ("password", pages.password.reveal()), ("code", &code)]);
        let sent = pages.sign_in(&query(pages), &typed, NOW);
        assert_eq!(sent.status(), StatusCode::SEE_OTHER);
        let back = sent.headers()[LOCATION].to_str().unwrap().to_owned();
        form(back.split_once('?').unwrap().1.as_bytes()).remove("code").unwrap()
    }

    fn redeem(pages: &Pages, secret: &Secret, code: &str, verifier: &str) -> StatusCode {
        let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{}", secret.reveal())));
        let asked = fields(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &pages.redirect),
            ("code_verifier", verifier),
        ]);
        pages.token(Some(&HeaderValue::try_from(basic).unwrap()), &asked, NOW).status()
    }

    #[test]
    fn a_code_is_redeemed_once_by_its_client_with_its_verifier() {
        let pages = pages();
        let good = code(&pages);
        assert_eq!(redeem(&pages, &pages.secret, &good, VERIFIER), StatusCode::OK);
        assert_eq!(redeem(&pages, &pages.secret, &good, VERIFIER), StatusCode::BAD_REQUEST, "again");
        assert_eq!(redeem(&pages, &pages.secret, &code(&pages), "another"), StatusCode::BAD_REQUEST);
        assert_eq!(redeem(&pages, &token(), &code(&pages), VERIFIER), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn nobody_gets_a_code_who_is_not_sent_by_the_gateway_or_not_the_user() {
        let pages = pages();
        for (name, other) in [
            ("client_id", "other"),
            ("redirect_uri", "https://elsewhere.example/"),
            ("response_type", "token"),
            ("code_challenge_method", "plain"),
        ] {
            let mut query = query(&pages);
            query.insert(name.to_owned(), other.to_owned());
            assert!(pages.wrong_with(&query).is_some(), "{name}");
        }
        let right = totp::code(&pages.key, NOW).unwrap();
        for (password, code) in [("wrong", right.as_str()), (pages.password.reveal(), "12345x")] {
            let typed = fields(&[("user", USER), ("password", password), ("code", code)]);
            assert_eq!(pages.sign_in(&query(&pages), &typed, NOW).status(), StatusCode::FORBIDDEN);
        }
        assert!(pages.codes.borrow().is_empty());
    }
}
