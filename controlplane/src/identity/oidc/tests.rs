//! A provider that does what each test tells it to, over TLS on loopback. How a real one does is a test of its own
//! (`tests/tests/oidc`).

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use super::*;
use crate::tokens::sign::Signer;

type TokenEndpoint = Box<dyn Fn(&HashMap<String, String>) -> (u16, Value) + Send>;

/// What the provider says next.
struct Script {
    metadata: Value,
    keys: Value,
    userinfo: Value,
    /// Status and body of the token endpoint, of the form that came.
    token: TokenEndpoint,
    device: Value,
    /// Forms that came to the token endpoint.
    asked: Vec<HashMap<String, String>>,
    /// `Authorization` of them.
    authorization: Vec<Option<String>>,
}

struct Fake {
    issuer: String,
    address: SocketAddr,
    directory: PathBuf,
    script: Arc<Mutex<Script>>,
    key_requests: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    fn new() -> Fake {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bulkhead-oidc-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(directory.join("ca.pem"), made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let issuer = format!("https://localhost:{}", address.port());
        let script = Arc::new(Mutex::new(Script {
            metadata: json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/auth"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/keys"),
                "userinfo_endpoint": format!("{issuer}/me"),
                "device_authorization_endpoint": format!("{issuer}/device"),
                "authorization_response_iss_parameter_supported": true,
            }),
            keys: json!({ "keys": [] }),
            userinfo: json!({}),
            token: Box::new(|_| (400, json!({ "error": "invalid_grant" }))),
            device: json!({}),
            asked: Vec::new(),
            authorization: Vec::new(),
        }));
        let (key_requests, stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (script, key_requests, stopping) = (script.clone(), key_requests.clone(), stopping.clone());
            let config = Arc::new(config);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                    let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
                    // Who does not like the certificate goes away.
                    let _ = serve(&mut stream, &script, &key_requests);
                }
            })
        };
        Fake { issuer, address, directory, script, key_requests, stopping, thread: Some(thread) }
    }

    fn settings(&self) -> Settings {
        Settings {
            name: "corp".to_owned(),
            label: "Corporate".to_owned(),
            issuer: self.issuer.clone(),
            client_id: "bulkhead".to_owned(),
            client_secret_file: None,
            scopes: vec!["openid".to_owned(), "email".to_owned()],
            user: "email".to_owned(),
            groups: Some("realm_access.roles".to_owned()),
            ca_file: Some(self.directory.join("ca.pem")),
            max_age_s: None,
            step_up_acr: vec!["phr".to_owned()],
            device_code: true,
            trusted: claims::Trusted::default(),
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.script));
    }

    /// From now on codes become tokens of this signer with these claims.
    fn sign(&self, signer: &Signer, claims: Value) {
        let token = signer.sign("JWT", &claims);
        self.tell(|script| {
            script.keys = json!({ "keys": [signer.public_jwk()] });
            script.token = Box::new(move |_| {
                (200, json!({ "id_token": token, "access_token": "access", "token_type": "Bearer" }))
            });
        });
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn serve(
    stream: &mut (impl Read + Write),
    script: &Mutex<Script>,
    keys: &AtomicUsize,
) -> std::io::Result<()> {
    let (mut path, mut length, mut authorization) = (String::new(), 0, None);
    let mut reader = BufReader::new(&mut *stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        } else if let Some((name, value)) = line.split_once(": ") {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "authorization" => authorization = Some(value.to_owned()),
                _ => {}
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, answer) = {
        let mut script = lock(script);
        match path.as_str() {
            "/.well-known/openid-configuration" => (200, script.metadata.clone()),
            "/keys" => {
                keys.fetch_add(1, Ordering::SeqCst);
                (200, script.keys.clone())
            }
            "/me" => (200, script.userinfo.clone()),
            "/device" => (200, script.device.clone()),
            "/token" => {
                let form: HashMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
                script.authorization.push(authorization);
                script.asked.push(form.clone());
                (script.token)(&form)
            }
            _ => (404, json!({})),
        }
    };
    let body = answer.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 9));
const BACK: &str = "https://access.example/oidc/callback";

fn at() -> At {
    At { instant: Instant::now(), unix_s: jiff::Timestamp::now().as_second() }
}

fn after(at: At, seconds: u64) -> At {
    At { instant: at.instant + Duration::from_secs(seconds), unix_s: at.unix_s + seconds as i64 }
}

fn signer() -> Signer {
    Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap()
}

/// The parameters that a browser is sent with.
fn query(url: &str) -> HashMap<String, String> {
    let (_, query) = url.split_once('?').unwrap();
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// A sign-in that has come so far that the browser is sent back.
struct Half {
    query: HashMap<String, String>,
    back: Back,
    at: At,
}

fn half(providers: &Providers, fake: &Fake, settings: &[Settings], step_up: bool) -> Half {
    let at = at();
    let redirect = providers.begin(settings, "corp", step_up, BACK, HERE, at).unwrap();
    assert!(redirect.url.starts_with(&format!("{}/auth?", fake.issuer)), "{}", redirect.url);
    let query = query(&redirect.url);
    let back = Back {
        state: Secret::new(query["state"].clone()),
        code: Some(Secret::new("c0de".to_owned())),
        iss: Some(fake.issuer.clone()),
        error: None,
        binding: Some(redirect.binding),
    };
    Half { query, back, at }
}

fn good_claims(fake: &Fake, half: &Half) -> Value {
    json!({
        "iss": fake.issuer, "aud": "bulkhead", "sub": "alice-1", "nonce": half.query["nonce"],
        "iat": half.at.unix_s, "exp": half.at.unix_s + 300, "auth_time": half.at.unix_s - 100,
        "email": "alice@example.org", "email_verified": true, "amr": ["pwd", "otp"], "sid": "s1",
        "realm_access": { "roles": ["staff"] },
    })
}

/// Begins, has the provider say this of it, and ends.
fn sign_in(change: impl FnOnce(&mut Value)) -> Result<SignedIn, NotIn> {
    let (fake, providers, signer) = (Fake::new(), Providers::default(), signer());
    let settings = [fake.settings()];
    let half = half(&providers, &fake, &settings, false);
    let mut claims = good_claims(&fake, &half);
    change(&mut claims);
    fake.sign(&signer, claims);
    providers.finish(&settings, &half.back, BACK, HERE, half.at)
}

#[test]
fn whoever_comes_back_is_who_the_provider_says() {
    let fake = Fake::new();
    let secret = fake.directory.join("secret");
    std::fs::write(&secret, "p@ss word\n").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let settings = [Settings { client_secret_file: Some(secret), ..fake.settings() }];
    let providers = Providers::default();
    let half = half(&providers, &fake, &settings, false);
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "bulkhead"),
        ("redirect_uri", BACK),
        ("scope", "openid email"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(half.query[name], value);
    }
    fake.sign(&signer(), good_claims(&fake, &half));
    let signed_in = providers.finish(&settings, &half.back, BACK, HERE, half.at).unwrap();
    let origin = Origin {
        provider: "corp".to_owned(),
        issuer: fake.issuer.clone(),
        subject: "alice-1".to_owned(),
        session: Some("s1".to_owned()),
    };
    assert_eq!(
        signed_in,
        SignedIn {
            user: "alice@example.org".to_owned(),
            groups: vec!["staff".to_owned()],
            factor: Some((Duration::from_secs(100), false)),
            origin,
            step_up: false,
        }
    );
    let script = lock(&fake.script);
    let form = &script.asked[0];
    assert_eq!((form["code"].as_str(), form["redirect_uri"].as_str()), ("c0de", BACK));
    // RFC 7636, section 4.6: what was sent first is the hash of what is shown now.
    let hash = ring::digest::digest(&ring::digest::SHA256, form["code_verifier"].as_bytes());
    let challenge = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, hash);
    assert_eq!(challenge, half.query["code_challenge"]);
    // RFC 6749, section 2.3.1: `bulkhead:p%40ss+word`.
    assert_eq!(script.authorization[0].as_deref(), Some("Basic YnVsa2hlYWQ6cCU0MHNzK3dvcmQ="));
    assert!(!form.contains_key("client_secret"));
}

#[test]
fn c3_a_token_that_does_not_hold_signs_nobody_in() {
    assert!(sign_in(|_| ()).is_ok());
    let wrong: [(&str, Value); 9] = [
        ("iss", json!("https://evil.example")),
        ("aud", json!("other")),
        ("azp", json!("other")),
        ("nonce", json!("other")),
        ("exp", json!(1)),
        ("iat", json!(1)),
        ("at_hash", json!("77QmUPtjPfzWtF2AnpK9RQ")),
        ("sub", json!("")),
        ("nbf", json!(99_999_999_999_i64)),
    ];
    for (claim, value) in wrong {
        let told = sign_in(|claims| claims[claim] = value);
        assert!(
            matches!(&told, Err(NotIn::Provider(why)) if why.contains("the ID token")),
            "{claim}: {told:?}"
        );
    }
    for claim in ["iss", "aud", "nonce", "exp", "iat", "sub"] {
        let told = sign_in(|claims| drop(claims.as_object_mut().unwrap().remove(claim)));
        assert!(matches!(told, Err(NotIn::Provider(_))), "{claim}: {told:?}");
    }
}

#[test]
fn a_user_without_a_verified_name_is_not_signed_in() {
    for change in [
        |claims: &mut Value| claims["email_verified"] = json!(false),
        |claims: &mut Value| claims["email_verified"] = json!("true"),
        |claims: &mut Value| claims["email"] = json!("any"),
        |claims: &mut Value| claims["email"] = json!(" alice"),
        |claims: &mut Value| claims["realm_access"] = json!({ "roles": ["a\u{1b}[2J"] }),
        |claims: &mut Value| claims["_claim_names"] = json!({ "realm_access.roles": "elsewhere" }),
    ] {
        assert!(matches!(sign_in(change), Err(NotIn::Provider(_))));
    }
}

#[test]
fn a_factor_of_an_unknown_age_is_none() {
    let without_time = sign_in(|claims| drop(claims.as_object_mut().unwrap().remove("auth_time")));
    assert_eq!(without_time.unwrap().factor, None);
    let one_factor = sign_in(|claims| claims["amr"] = json!(["pwd"]));
    assert_eq!(one_factor.unwrap().factor, None);
    let strong = sign_in(|claims| claims["acr"] = json!("phr"));
    assert_eq!(strong.unwrap().factor, Some((Duration::from_secs(100), true)));
}

#[test]
fn n7_only_the_browser_and_the_address_that_began_can_end_and_only_once() {
    let (fake, providers) = (Fake::new(), Providers::default());
    let settings = [fake.settings()];
    let half = half(&providers, &fake, &settings, false);
    fake.sign(&signer(), good_claims(&fake, &half));
    let finish = |back: &Back, address, at| providers.finish(&settings, back, BACK, address, at);
    let elsewhere: IpAddr = "10.1.0.10".parse().unwrap();
    for binding in [None, Some(Secret::new("other".to_owned()))] {
        let back = Back { binding, ..half.back.clone() };
        assert_eq!(finish(&back, HERE, half.at), Err(NotIn::Stale), "a browser that did not begin");
    }
    assert_eq!(finish(&half.back, elsewhere, half.at), Err(NotIn::Stale));
    let state = Secret::new("guessed".to_owned());
    assert_eq!(finish(&Back { state, ..half.back.clone() }, HERE, half.at), Err(NotIn::Stale));
    assert_eq!(finish(&half.back, HERE, after(half.at, 301)), Err(NotIn::Stale));
    assert!(lock(&fake.script).asked.is_empty(), "none of them has used up a code");
    assert!(finish(&half.back, HERE, half.at).is_ok(), "nor the sign-in");
    assert_eq!(finish(&half.back, HERE, half.at), Err(NotIn::Stale), "once");
}

#[test]
fn an_answer_of_another_provider_is_refused() {
    let (fake, providers) = (Fake::new(), Providers::default());
    let settings = [fake.settings()];
    for (iss, error) in [
        (Some("https://evil.example"), None),
        (None, None),
        (Some("https://evil.example"), Some("access_denied")),
        (None, Some("access_denied")),
    ] {
        let half = half(&providers, &fake, &settings, false);
        let back = Back { iss: iss.map(str::to_owned), error: error.map(str::to_owned), ..half.back };
        let told = providers.finish(&settings, &back, BACK, HERE, half.at);
        assert!(matches!(&told, Err(NotIn::Provider(why)) if why.contains("RFC 9207")), "{told:?}");
    }
    assert!(lock(&fake.script).asked.is_empty());
    // A provider that never said that it names itself need not.
    fake.tell(|script| script.metadata["authorization_response_iss_parameter_supported"] = json!(false));
    let providers = Providers::default();
    let half = half(&providers, &fake, &settings, false);
    fake.sign(&signer(), good_claims(&fake, &half));
    assert!(providers.finish(&settings, &Back { iss: None, ..half.back }, BACK, HERE, half.at).is_ok());
}

#[test]
fn what_the_provider_refuses_is_told_without_what_it_could_do_to_a_terminal() {
    let (fake, providers) = (Fake::new(), Providers::default());
    let settings = [fake.settings()];
    let half = half(&providers, &fake, &settings, false);
    let error = Some("access_denied\u{1b}[2J\n<b>".to_owned());
    let told = providers.finish(&settings, &Back { error, ..half.back }, BACK, HERE, half.at);
    assert_eq!(told, Err(NotIn::Provider("the provider answers `access_denied[2J<b>`".to_owned())));
}

#[test]
fn a_step_up_asks_for_a_fresh_factor_and_takes_no_older_one() {
    let (fake, providers, signer) = (Fake::new(), Providers::default(), signer());
    let settings = [fake.settings()];
    let step_up = |auth_time: Option<i64>| {
        let half = half(&providers, &fake, &settings, true);
        for (name, value) in [("prompt", "login"), ("max_age", "0"), ("acr_values", "phr")] {
            assert_eq!(half.query[name], value);
        }
        let mut claims = good_claims(&fake, &half);
        claims.as_object_mut().unwrap().remove("auth_time");
        if let Some(seconds) = auth_time {
            claims["auth_time"] = json!(half.at.unix_s + seconds);
        }
        fake.sign(&signer, claims);
        providers.finish(&settings, &half.back, BACK, HERE, after(half.at, 30))
    };
    assert!(step_up(Some(5)).unwrap().step_up);
    assert!(matches!(step_up(None), Err(NotIn::Provider(why)) if why.contains("auth_time")));
    assert!(matches!(step_up(Some(-100)), Err(NotIn::Provider(why)) if why.contains("too long ago")));
}

#[test]
fn c4_a_rotated_key_is_fetched_and_an_unknown_one_not_more_than_once_a_minute() {
    let (fake, providers) = (Fake::new(), Providers::default());
    let settings = [fake.settings()];
    let (old, new) = (signer(), signer());
    let sign_in = |by: &Signer, published: &Signer, seconds: u64| {
        let half = half(&providers, &fake, &settings, false);
        fake.sign(by, good_claims(&fake, &half));
        fake.tell(|script| script.keys = json!({ "keys": [published.public_jwk()] }));
        let at = At { instant: half.at.instant + Duration::from_secs(seconds), ..half.at };
        // The attempt's own time is not what is tested.
        lock(&providers.browsers).find(&half.back.state, HERE, half.at.instant).unwrap();
        providers.finish(&settings, &half.back, BACK, HERE, at)
    };
    assert!(sign_in(&old, &old, 0).is_ok());
    assert_eq!(fake.key_requests.load(Ordering::SeqCst), 1);
    let told = sign_in(&new, &new, 1);
    assert!(matches!(&told, Err(NotIn::Provider(why)) if why.contains("no key has the `kid`")), "{told:?}");
    assert_eq!(fake.key_requests.load(Ordering::SeqCst), 1, "not within a minute");
    assert!(sign_in(&new, &new, 70).is_ok(), "then it is");
    assert_eq!(fake.key_requests.load(Ordering::SeqCst), 2);
    for seconds in [80, 90, 100, 120] {
        assert!(sign_in(&old, &new, seconds).is_err(), "a key that is withdrawn");
    }
    assert_eq!(fake.key_requests.load(Ordering::SeqCst), 2, "however often");
}

#[test]
fn claims_that_the_token_lacks_come_from_the_user_information_of_the_same_user() {
    let (fake, providers, signer) = (Fake::new(), Providers::default(), signer());
    let settings = [fake.settings()];
    let sign_in = |userinfo: Value| {
        let half = half(&providers, &fake, &settings, false);
        let mut claims = good_claims(&fake, &half);
        for claim in ["email", "email_verified", "realm_access"] {
            claims.as_object_mut().unwrap().remove(claim);
        }
        fake.sign(&signer, claims);
        fake.tell(|script| script.userinfo = userinfo);
        providers.finish(&settings, &half.back, BACK, HERE, half.at)
    };
    let whole = json!({ "sub": "alice-1", "email": "alice@example.org", "email_verified": true,
                        "realm_access": { "roles": ["staff"] }, "amr": ["phr"], "auth_time": 1 });
    let signed_in = sign_in(whole.clone()).unwrap();
    assert_eq!((signed_in.user.as_str(), signed_in.groups.len()), ("alice@example.org", 1));
    assert_eq!(signed_in.factor, Some((Duration::from_secs(100), false)), "what the token says stays");
    let mut other = whole;
    other["sub"] = json!("mallory");
    assert!(matches!(sign_in(other), Err(NotIn::Provider(why)) if why.contains("somebody else's")));
    assert!(
        matches!(sign_in(json!({ "sub": "alice-1" })), Err(NotIn::Provider(why)) if why.contains("`email`"))
    );
}

#[test]
fn a_terminal_waits_as_the_provider_wants_and_is_signed_in_once() {
    let (fake, providers, signer) = (Fake::new(), Providers::default(), signer());
    let settings = [fake.settings()];
    let device = json!({
        "device_code": "d3vice", "user_code": "WDJB-MJHT", "verification_uri": format!("{}/activate", fake.issuer),
        "expires_in": 1800, "interval": 2,
    });
    fake.tell(|script| script.device = device);
    let begun = at();
    let (attempt, told, interval_s) = providers.device_begin(&settings, "corp", HERE, begun).unwrap();
    assert_eq!((told.user_code.as_str(), told.expires_s, interval_s), ("WDJB-MJHT", 300, 2));
    let poll = |seconds| providers.device_poll(&settings, &attempt, HERE, after(begun, seconds));
    fake.tell(|script| script.token = Box::new(|_| (400, json!({ "error": "authorization_pending" }))));
    assert!(matches!(poll(1), Ok(Poll::Wait(2))));
    assert_eq!(lock(&fake.script).asked.len(), 0, "who is impatient does not bother the provider");
    assert!(matches!(poll(2), Ok(Poll::Wait(2))));
    fake.tell(|script| script.token = Box::new(|_| (400, json!({ "error": "slow_down" }))));
    assert!(matches!(poll(4), Ok(Poll::Wait(7))), "RFC 8628, section 3.5");
    assert!(matches!(poll(9), Ok(Poll::Wait(7))));
    assert_eq!(lock(&fake.script).asked.len(), 2);
    assert_eq!(lock(&fake.script).asked[1]["device_code"], "d3vice");
    let claims = json!({
        "iss": fake.issuer, "aud": "bulkhead", "sub": "alice-1", "iat": begun.unix_s, "exp": begun.unix_s + 300,
        "email": "alice@example.org", "email_verified": true, "realm_access": { "roles": [] },
    });
    fake.sign(&signer, claims);
    let elsewhere: IpAddr = "10.1.0.10".parse().unwrap();
    let stolen = providers.device_poll(&settings, &attempt, elsewhere, after(begun, 30));
    assert!(matches!(stolen, Err(NotIn::Stale)));
    let told = poll(30);
    let Ok(Poll::Done(signed_in)) = told else { panic!("{told:?}") };
    assert_eq!((signed_in.user.as_str(), signed_in.factor), ("alice@example.org", None));
    assert!(matches!(poll(60), Err(NotIn::Stale)), "once");
}

#[test]
fn a_terminal_that_is_refused_or_not_wanted_is_told_so() {
    let (fake, providers) = (Fake::new(), Providers::default());
    let off = [Settings { device_code: false, ..fake.settings() }];
    assert!(matches!(providers.device_begin(&off, "corp", HERE, at()), Err(NotIn::Unknown)));
    assert!(matches!(providers.device_begin(&off, "other", HERE, at()), Err(NotIn::Unknown)));
    let settings = [fake.settings()];
    let good = json!({ "device_code": "d", "user_code": "u", "verification_uri": "https://idp.example/a" });
    let with = |name: &str, value: Value| {
        let mut answer = good.clone();
        answer[name] = value;
        fake.tell(|script| script.device = answer);
        providers.device_begin(&settings, "corp", HERE, at())
    };
    assert!(matches!(with("verification_uri", json!("http://idp.example/a")), Err(NotIn::Provider(_))));
    assert!(matches!(with("verification_uri_complete", json!("javascript:1")), Err(NotIn::Provider(_))));
    assert!(matches!(with("user_code", json!("a\u{1b}[2J")), Err(NotIn::Provider(_))));
    assert!(matches!(with("device_code", json!(null)), Err(NotIn::Provider(_))));
    let begun = at();
    let (attempt, _, interval_s) = with("interval", json!(0)).unwrap();
    assert_eq!(interval_s, 1, "never without a pause");
    fake.tell(|script| script.token = Box::new(|_| (400, json!({ "error": "access_denied" }))));
    let poll = || providers.device_poll(&settings, &attempt, HERE, after(begun, 10));
    assert!(matches!(poll(), Err(NotIn::Provider(why)) if why.contains("access_denied")));
    assert!(matches!(poll(), Err(NotIn::Stale)), "for good");
}

#[test]
fn a_provider_with_another_certificate_or_other_metadata_is_not_asked_for_more() {
    let (fake, other) = (Fake::new(), Fake::new());
    let settings = [Settings { ca_file: Some(other.directory.join("ca.pem")), ..fake.settings() }];
    let begin = |settings: &[Settings]| Providers::default().begin(settings, "corp", false, BACK, HERE, at());
    assert!(matches!(begin(&settings), Err(NotIn::Failed(_))));
    let mozilla = [Settings { ca_file: None, ..fake.settings() }];
    assert!(matches!(begin(&mozilla), Err(NotIn::Failed(_))));
    let lost = [Settings { ca_file: Some(fake.directory.join("lost.pem")), ..fake.settings() }];
    assert!(matches!(begin(&lost), Err(NotIn::Failed(why)) if why.contains("lost.pem")));
    fake.tell(|script| script.metadata["issuer"] = json!("https://evil.example"));
    assert!(matches!(begin(&[fake.settings()]), Err(NotIn::Failed(why)) if why.contains("name the issuer")));
    assert!(matches!(begin(&[]), Err(NotIn::Unknown)));
}

#[test]
fn settings_that_change_begin_the_provider_anew() {
    let (fake, providers) = (Fake::new(), Providers::default());
    let settings = [fake.settings()];
    let first = providers.provider(&settings, "corp").unwrap();
    assert!(Arc::ptr_eq(&first, &providers.provider(&settings, "corp").unwrap()));
    let changed = [Settings { client_id: "other".to_owned(), ..fake.settings() }];
    let second = providers.provider(&changed, "corp").unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    assert!(matches!(providers.provider(&[], "corp"), Err(NotIn::Unknown)));
}

#[test]
fn c7_a_provider_that_does_not_answer_takes_no_more_than_three_threads() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let fake = Fake::new();
    let issuer = format!("https://localhost:{}", silent.local_addr().unwrap().port());
    let settings = [Settings { issuer, ..fake.settings() }];
    let providers = Providers::default();
    let begun = Instant::now();
    let mut told: Vec<NotIn> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| providers.begin(&settings, "corp", false, BACK, HERE, at()).unwrap_err()))
            .collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    told.retain(|told| *told == NotIn::Busy);
    assert_eq!(told.len(), 2);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(providers.waiting.load(Ordering::SeqCst), 0);
}

#[test]
fn strangers_cause_no_more_requests_than_a_provider_can_bear() {
    let mut bucket = Bucket { left: BURST, at: None };
    let now = Instant::now();
    assert_eq!((0..1000).filter(|_| bucket.take(now)).count(), 50);
    let later = now + Duration::from_secs(4);
    assert_eq!((0..1000).filter(|_| bucket.take(later)).count(), 20);
    let much_later = now + Duration::from_secs(4000);
    assert_eq!((0..1000).filter(|_| bucket.take(much_later)).count(), 50);
}
