//! The same provider behind a running gateway: from a browser in the office through the portal to what rules open, and by an
//! event of the provider to its end.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulkhead::tokens::sign::Signer;
use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::gateway::program;
use bulkhead_tests::https::{Answer, NAME, ask, get};
use bulkhead_tests::scene::{Scene, office_and_servers};
use bulkhead_tests::wait_until;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::provider::Provider;

const BACK: &str = "https://portal.test/oidc/callback";

fn write(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

struct Stage {
    scene: Scene,
    provider: Provider,
    signer: Signer,
    portal: SocketAddr,
    _servers: [TcpListener; 2],
}

fn stage() -> Option<Stage> {
    let mut scene = Scene::build(office_and_servers())?;
    let provider = Provider::start_in(Some(&scene.lab.gateway), "k1", false, BACK)?;
    let signer = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
    let directory = scene.config().parent().unwrap().to_owned();
    write(&directory.join("keys.json"), &json!({ "keys": [signer.public_jwk()] }).to_string());
    write(&directory.join("push"), "push-s3cret");
    let settings = provider.settings();
    let rules = allow("dba", "office", "servers", "tcp/5432")
        + "users = { groups = [\"dba\"] }\n"
        + &allow("careful", "office", "servers", "tcp/22")
        + "users = \"any\"\nrequire = { mfa = \"phishing-resistant\", mfa_max_age = \"1h\" }\n"
        + &format!(
            "[portal]\nports = [\"office\"]\nname = \"{NAME}\"\n\
             [identity.providers.corp]\nlabel = \"Corporate\"\nissuer = \"{}\"\nclient_id = \"bulkhead\"\n\
             client_secret_file = \"{}\"\nscopes = [\"email\", \"groups\"]\ngroups = \"realm_access.roles\"\n\
             ca_file = \"{}\"\nmax_age = \"1h\"\nstep_up_acr = \"phr\"\ndevice_code = true\n\
             [identity.transmitters.corp]\nissuer = \"{}\"\naudience = \"https://{NAME}\"\n\
             keys_file = \"{directory}/keys.json\"\npush_token_file = \"{directory}/push\"\n",
            provider.issuer,
            settings.client_secret_file.unwrap().display(),
            settings.ca_file.unwrap().display(),
            provider.issuer,
            directory = directory.display(),
        );
    scene.run(&Config::new(rules));
    let portal = SocketAddr::new(scene.host("office").gateway_v4.into(), 443);
    wait_until("the portal listens", || {
        scene.status()["portal"]["listening"].as_array().is_some_and(|places| places.len() >= 2)
    });
    let server = scene.host_address("servers", Family::V4);
    let listen = |port| TcpListener::bind((server, port)).unwrap();
    let servers = &scene.host("servers").namespace;
    let listening = [servers.run(|| listen(5432)), servers.run(|| listen(22))];
    Some(Stage { scene, provider, signer, portal, _servers: listening })
}

impl Stage {
    fn get(&self, path: &str, cookie: Option<&str>) -> Answer {
        get(self.scene.host("office"), self.portal, path, cookie)
    }

    /// A connection from the office to a server's port.
    fn reaches(&self, port: u16) -> Option<TcpStream> {
        let to = SocketAddr::new(self.scene.host_address("servers", Family::V4), port);
        let wait = Duration::from_millis(400);
        self.scene.host("office").namespace.run(|| TcpStream::connect_timeout(&to, wait)).ok()
    }

    /// By a page of the portal to the provider and back; returns the session's cookie.
    fn sign_in(&self, page: &str, browser: &mut Browser, cookie: Option<&str>) -> Result<String, Answer> {
        let sent = self.get(page, cookie);
        let Some(to) = sent.header("location").filter(|_| sent.status == 303) else { return Err(sent) };
        let binding = set_cookie(&sent, "__Host-bulkhead-binding").expect("it binds the browser");
        let query = self.scene.lab.gateway.run(|| browser.travel(to, BACK));
        let both = cookie.map_or_else(|| binding.clone(), |cookie| format!("{cookie}; {binding}"));
        let back = self.get(&format!("/oidc/callback?{query}"), Some(&both));
        set_cookie(&back, "__Host-bulkhead").ok_or(back)
    }

    fn push(&self, token: &str, authorization: &str) -> Answer {
        let authorization = format!("Authorization: {authorization}");
        let headers = [authorization.as_str(), "Content-Type: application/secevent+jwt"];
        ask(self.scene.host("office"), self.portal, "POST /events/corp", &headers, token.as_bytes())
    }

    fn event(&self, id: &str, aud: &str, sub: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({
            "iss": self.provider.issuer, "aud": aud, "jti": id, "iat": now,
            "sub_id": { "format": "iss_sub", "iss": self.provider.issuer, "sub": sub },
            "events": { "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {} },
        });
        self.signer.sign("secevent+jwt", &claims)
    }

    fn sessions(&self) -> Vec<Value> {
        self.scene.json(&["session", "list"])["sessions"].as_array().cloned().unwrap_or_default()
    }
}

fn set_cookie(answer: &Answer, name: &str) -> Option<String> {
    let set = answer.headers.iter().filter(|(header, _)| header == "set-cookie");
    let mut pairs = set.filter_map(|(_, value)| value.split(';').next());
    pairs.find(|pair| pair.starts_with(&format!("{name}=")) && !pair.ends_with('=')).map(str::to_owned)
}

#[test]
fn n2_n6_from_a_browser_in_the_office_through_a_provider_to_a_server_and_to_the_end_by_an_event() {
    let Some(stage) = stage() else { return };
    assert!(stage.reaches(5432).is_none(), "nobody has signed in");
    assert!(stage.get("/", None).body.contains("Corporate"), "the page offers the provider");
    let mut browser = stage.provider.browser("alice", "weak");
    let cookie = stage.sign_in("/sign-in/with/corp", &mut browser, None).unwrap();
    let sessions = stage.sessions();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    assert_eq!(
        (&sessions[0]["user"], &sessions[0]["proof"]),
        (&json!("alice@example.org"), &json!("provider"))
    );
    let connected = stage.reaches(5432);
    assert!(connected.is_some(), "dba, as the provider says");
    assert!(stage.reaches(22).is_none(), "a factor that can be phished");
    // A step-up, with a factor that cannot.
    let mut browser = browser.with("alice", "strong");
    let stepped = stage.sign_in("/step-up/with/corp", &mut browser, Some(&cookie)).unwrap();
    assert_ne!(stepped, cookie, "another cookie");
    assert!(stage.reaches(22).is_some());
    // Somebody else's step-up is none of hers.
    let mut bob = stage.provider.browser("bob", "strong");
    let refused = stage.sign_in("/step-up/with/corp", &mut bob, Some(&stepped)).unwrap_err();
    assert!(refused.status >= 400, "{refused:?}");
    assert_eq!(stage.sessions()[0]["user"], "alice@example.org");
    // Events: not with the wrong words, not for others, not about others.
    let revoked = stage.event("1", &format!("https://{NAME}"), "alice");
    assert_eq!(stage.push(&revoked, "Bearer wrong").status, 401);
    let elsewhere = stage.push(&stage.event("2", "https://other.example", "alice"), "Bearer push-s3cret");
    assert!(elsewhere.status == 400 && elsewhere.body.contains("invalid_audience"), "{elsewhere:?}");
    assert_eq!(
        stage.push(&stage.event("3", &format!("https://{NAME}"), "bob"), "Bearer push-s3cret").status,
        202
    );
    assert_eq!(stage.sessions().len(), 1);
    assert!(stage.reaches(5432).is_some());
    // Hers ends her session, and with it what she has open.
    let taken = stage.push(&revoked, "Bearer push-s3cret");
    assert_eq!((taken.status, taken.body.as_str()), (202, ""), "{taken:?}");
    assert!(stage.sessions().is_empty());
    assert!(stage.reaches(5432).is_none() && stage.reaches(22).is_none());
    let again = stage.push(&revoked, "Bearer push-s3cret");
    assert!(again.status == 400 && again.body.contains("received before"), "{again:?}");
    drop(connected);
}

#[test]
fn n2_a_terminal_in_the_office_is_signed_in_by_a_browser_elsewhere_and_opens_what_the_rules_say() {
    let Some(stage) = stage() else { return };
    let office = stage.scene.host("office");
    let home = stage.scene.state().with_file_name("alices-machine");
    let portal = format!("https://{}", office.gateway_v4);
    let fingerprint = stage.scene.status()["portal"]["fingerprint"].as_str().unwrap().to_owned();
    let mut command = Command::new(program());
    command.args(["login", "--provider", "corp", "--device-code", "--portal", &portal]);
    command.args(["--fingerprint", &fingerprint, "--state"]).arg(&home).stderr(Stdio::piped());
    let login = office.namespace.run(|| command.stdout(Stdio::piped()).spawn()).unwrap();
    let mut login = Ended(login);
    let mut lines = BufReader::new(login.0.stderr.take().unwrap()).lines();
    let told = lines.next().expect("it says where to go").unwrap();
    let (uri, code) = told
        .split_once("open ")
        .and_then(|(_, rest)| rest.split_once(" in a browser, anywhere, and type "))
        .unwrap_or_else(|| panic!("{told}"));
    assert!(stage.reaches(5432).is_none() && stage.sessions().is_empty(), "nobody has typed the code");
    // Elsewhere: beside the provider, where the office's host is not.
    let mut browser = stage.provider.browser("alice", "weak");
    stage.scene.lab.gateway.run(|| browser.allow(uri, code));
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let ended = login.0.wait().unwrap();
    assert!(ended.success(), "{ended}: {rest:?}");
    let sessions = stage.sessions();
    let of = |key: &str| sessions[0][key].as_str().map(str::to_owned);
    assert_eq!(of("user").as_deref(), Some("alice@example.org"), "{sessions:?}");
    assert_eq!(of("address"), Some(office.v4[0].to_string()), "at the terminal's address, not the browser's");
    assert!(stage.reaches(5432).is_some(), "dba, as the provider says");
    let run = |args: &[&str]| {
        let args = [args, &["--state", home.to_str().unwrap()]].concat();
        office.namespace.run(|| bulkhead_tests::gateway::run(&args))
    };
    let who = run(&["whoami"]);
    assert!(who.code == 0 && who.stdout.contains("alice@example.org"), "{who:?}");
    assert_eq!(run(&["logout"]).code, 0);
    assert!(stage.reaches(5432).is_none() && stage.sessions().is_empty());
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn n7_a_browser_that_did_not_begin_cannot_be_signed_in_by_somebody_elses_link() {
    let Some(stage) = stage() else { return };
    let sent = stage.get("/sign-in/with/corp", None);
    let mut mallory = stage.provider.browser("mallory", "weak");
    let to = sent.header("location").unwrap();
    let query = stage.scene.lab.gateway.run(|| mallory.travel(to, BACK));
    // The victim follows the link without the binding.
    let victim = stage.get(&format!("/oidc/callback?{query}"), None);
    assert!(victim.status >= 400 && set_cookie(&victim, "__Host-bulkhead").is_none(), "{victim:?}");
    assert!(stage.sessions().is_empty());
}
