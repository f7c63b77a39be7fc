//! The second act: who asks, on which device, and how lately that was shown.
//!
//! Alice and her laptop are this very program's `login` and `agent`, in the clients' zone; the portal is the gateway's own.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};

use crate::agent::client::Portal;
use crate::agent::home::Home;
use crate::agent::statement;
use crate::api::device::DeviceAct;
use crate::api::session::{NewSession, SessionFilter};
use crate::api::types::{Asked, Said};
use crate::api::user::UserAct;
use crate::api::{Reply, Request};
use crate::demo::policy;
use crate::demo::probe::{Probe, Seen, Service, Tuple};
use crate::demo::provider::{Provider, USER};
use crate::demo::row::Finding;
use crate::demo::scenes::corporate::{self, Browser};
use crate::demo::stage::{Family, NOTHING, PATIENCE, Stage};
use crate::identity::{token, totp, unix_s};
use crate::portal::wire::{Answer, Question, Secret, Standing};
use crate::sessions::health::{Fact, Facts};

/// How long the portal may take to be there.
const PORTAL: Duration = Duration::from_secs(20);
/// A MAC address that nobody here has.
const ANOTHERS: &str = "02:00:00:00:00:99";
/// The database, which asks for a second factor of the last seconds.
const DATABASE: Service = Service::Tcp(5432);
/// Its administration, which asks for a healthy device.
const ADMINISTRATION: Service = Service::Tcp(22);

/// Plays it.
pub fn play(stage: &mut Stage<'_>) -> Result<()> {
    stage.scene("Who, on which device, how lately");
    let mut alice = Alice::enter(stage)?;
    let nobody = Asked::default();
    tried(stage, "clients → db: nobody", DATABASE, &nobody)?;
    alice.sign_in(stage)?;
    let known = |age: &str| Asked {
        user: Some("alice".to_owned()),
        mfa_age: Some(age.to_owned()),
        ..Asked::default()
    };
    let query = alice.query(stage)?;
    let mut page = alice.connection(stage, "web", Service::Tcp(443))?;
    tried(stage, "clients → db: alice", DATABASE, &known("1s"))?;
    std::thread::sleep(
        policy::FACTOR_LASTS.saturating_sub(alice.shown.elapsed()) + Duration::from_millis(100),
    );
    cut(stage, "her open query, the code too old now", &query, "expired")?;
    goes_on(stage, "her page of web, open beside it", &mut page)?;
    tried(stage, "clients → db: alice, later", DATABASE, &known("1h"))?;
    alice.step_up(stage)?;
    let query = alice.query(stage)?;
    alice.report(stage, true)?;
    let laptop = |posture: &str| Asked {
        device: vec!["enrolled".to_owned()],
        posture: vec![format!("compliant={posture}")],
        ..known("1s")
    };
    tried(stage, "clients → db: her laptop", ADMINISTRATION, &laptop("met"))?;
    alice.report(stage, false)?;
    tried(stage, "clients → db: its disk in clear", ADMINISTRATION, &laptop("failed"))?;
    let filter = SessionFilter { user: Some("alice".to_owned()), ..SessionFilter::default() };
    stage.gateway()?.request(&Request::RevokeSessions { filter, all: false, said: Said::default() })?;
    cut(stage, "her query after `session revoke`", &query, "identity_revoked")?;
    at_her_company(stage, &mut alice)?;
    thief(stage)?;
    super::ledger(stage)
}

/// Her company's identity provider says who she is, and later that she is not any more.
fn at_her_company(stage: &mut Stage<'_>, alice: &mut Alice) -> Result<()> {
    let label = "alice: through her company's provider";
    stage.trying(label)?;
    alice.cookie = Some(Browser::new(&alice.portal, &alice.provider)?.sign_in(stage)?);
    alice.shown = Instant::now();
    let standing = alice.ask(stage, &Question::Standing)?;
    alice.signed_in(stage, label, USER, standing);
    let known = Asked {
        user: Some(USER.to_owned()),
        groups: vec!["dba".to_owned()],
        mfa_age: Some("1s".to_owned()),
        ..Asked::default()
    };
    let query = alice.query(stage)?;
    tried(stage, "clients → db: one of its dba", DATABASE, &known)?;
    let taken = corporate::push(stage, &alice.portal, &alice.provider)?;
    if taken != (202, String::new()) {
        bail!("the gateway does not take the provider's event: {taken:?}");
    }
    cut(stage, "her query after the provider's event", &query, "identity_revoked")?;
    let label = format!("clients → db: after that, {DATABASE}");
    stage.trying(&label)?;
    // Whoever had a session is told that it is over, where the policy alone would say that nobody is there.
    let happened = stage.happened("clients", "db", DATABASE, Family::V4)?;
    stage.row(&label, Finding::new(NOTHING, "session_expired"), happened, None);
    Ok(())
}

/// Tries a service from the clients' address, and compares with what the policy says of whoever that is.
fn tried(stage: &mut Stage<'_>, label: &str, service: Service, asked: &Asked) -> Result<()> {
    let label = format!("{label}, {service}");
    stage.trying(&label)?;
    let expected = stage.expected_of("clients", "db", service, Family::V4, asked)?;
    let happened = stage.happened("clients", "db", service, Family::V4)?;
    stage.row(&label, expected, happened, None);
    Ok(())
}

/// Has a connection send once more, and sees it cut.
fn cut(stage: &mut Stage<'_>, label: &str, query: &Query, reason: &str) -> Result<()> {
    use std::io::Write;
    stage.trying(label)?;
    // It may be refused at once.
    let _ = (&query.stream).write_all(b"once more\n");
    let event = stage.gateway()?.wait(PATIENCE, |events| {
        let of_it = |event: &&serde_json::Value| {
            event["kind"] == "cut" && event["source_port"] == query.tuple.source_port
        };
        events.iter().find(of_it).cloned()
    });
    let why = event.as_ref().and_then(|event| event["reason"].as_str()).unwrap_or("no event").to_owned();
    let what = if event.is_some() { "cut" } else { "went on" };
    stage.row(label, Finding::new("cut", reason), Finding::new(what, why), None);
    Ok(())
}

/// Has a connection ask once more, and sees it answered.
fn goes_on(stage: &mut Stage<'_>, label: &str, query: &mut Query) -> Result<()> {
    use std::io::{BufRead, BufReader, Write};
    stage.trying(label)?;
    query.stream.set_read_timeout(Some(PATIENCE))?;
    query.stream.write_all(b"say once more\n")?;
    let mut line = String::new();
    let read = BufReader::new(&query.stream).read_line(&mut line);
    let what = if read.is_ok() && line == "once more\n" { "went on" } else { "cut" };
    let rule = stage.gateway()?.connection(&query.tuple)?.and_then(|connection| connection.rule);
    let happened = Finding::new(what, rule.unwrap_or_else(|| "no rule".to_owned()));
    stage.row(label, Finding::new("went on", "web-pages"), happened, None);
    Ok(())
}

/// Somebody else takes the address of a session: here the session is that of another machine with the clients' address.
fn thief(stage: &mut Stage<'_>) -> Result<()> {
    let label = format!("a thief with her address, {DATABASE}");
    stage.trying(&label)?;
    let address = Family::V4.address(stage.lab.host("clients")).to_string();
    let asked = Asked { user: Some("alice".to_owned()), mfa_age: Some("1s".to_owned()), ..Asked::default() };
    let new = NewSession {
        address,
        asked,
        mac: Some(ANOTHERS.to_owned()),
        lasts: "1h".to_owned(),
        ..NewSession::default()
    };
    stage.gateway()?.request(&Request::BeginSession { new, said: Said::default() })?;
    let happened = stage.happened("clients", "db", DATABASE, Family::V4)?;
    let note = "her session is bound to her laptop: from another MAC address it is nobody".to_owned();
    stage.row(&label, Finding::new(NOTHING, "not_authenticated"), happened, Some(note));
    Ok(())
}

/// A connection that stays open.
struct Query {
    stream: std::net::TcpStream,
    tuple: Tuple,
}

/// A user, her laptop and her company.
struct Alice {
    portal: Portal,
    provider: Provider,
    password: Secret,
    key: Secret,
    home: Home,
    cookie: Option<Secret>,
    /// When she has shown her second factor last.
    shown: Instant,
}

impl Alice {
    /// Has the gateway know a user and a device, and open its portal.
    fn enter(stage: &mut Stage<'_>) -> Result<Alice> {
        stage.trying("a policy that asks who it is, and a portal")?;
        let back = format!("{}{}", policy::PORTAL, corporate::BACK);
        let directory = stage.path("corp");
        std::fs::create_dir(&directory)?;
        let (provider, corporate) = Provider::start(&stage.lab.gateway, &directory, &back)?;
        let text = stage.second_act(&corporate);
        stage.write_config(&text)?;
        let output = stage.gateway()?.command(&["reload"])?;
        if !output.status.success() {
            bail!("the reload was refused: {}", String::from_utf8_lossy(&output.stderr));
        }
        stage.model = crate::model::parse("demo.toml", &text).map_err(|errors| anyhow!("{errors}"))?;
        let password = token();
        let act = UserAct::Add { groups: Vec::new(), password: Some(password.clone()) };
        let user = |act| Request::User { name: "alice".to_owned(), act, said: Said::default() };
        stage.gateway()?.request(&user(act))?;
        let Reply::User(made) = stage.gateway()?.request(&user(UserAct::Totp))? else {
            bail!("the gateway gave alice no authenticator");
        };
        let key = made.authenticator.context("the gateway gave alice no authenticator")?.key;
        let fingerprint = portal(stage)?;
        let address = stage.lab.host("clients").gateway_v4;
        let portal = Portal::parse(&format!("https://{address}"), Some(&fingerprint), None)?;
        let home = Home::open(Some(stage.path("alices-laptop")))?;
        let mut alice = Alice { portal, provider, password, key, home, cookie: None, shown: Instant::now() };
        alice.enroll(stage)?;
        Ok(alice)
    }

    /// Asks the portal, in the clients' zone.
    fn ask(&self, stage: &Stage<'_>, question: &Question) -> Result<Answer> {
        stage.lab.host("clients").namespace.run(|| self.portal.ask(question, self.cookie.as_ref()))
    }

    fn code(&self, later_s: u64) -> Result<Secret> {
        let code = totp::code(&self.key, unix_s(SystemTime::now()) + later_s);
        code.map(Secret::new).context("the key of an authenticator is one")
    }

    fn sign_in(&mut self, stage: &mut Stage<'_>) -> Result<()> {
        let label = "alice: password, and a code of her app";
        stage.trying(label)?;
        let question = Question::Password { user: "alice".to_owned(), password: self.password.clone() };
        let answer = match self.ask(stage, &question)? {
            Answer::Factor { attempt, .. } => {
                self.ask(stage, &Question::Totp { attempt: Some(attempt), code: self.code(0)? })?
            }
            other => other,
        };
        self.signed_in(stage, label, "alice", answer);
        Ok(())
    }

    /// The code of the step after: the one before was taken.
    fn step_up(&mut self, stage: &mut Stage<'_>) -> Result<()> {
        let label = "alice: a fresh code";
        stage.trying(label)?;
        let answer = self.ask(stage, &Question::Totp { attempt: None, code: self.code(30)? })?;
        self.signed_in(stage, label, "alice", answer);
        Ok(())
    }

    fn signed_in(&mut self, stage: &mut Stage<'_>, label: &str, name: &str, answer: Answer) {
        let user = |standing: Standing| standing.session.and_then(|session| session.user).unwrap_or_default();
        let (what, why) = match answer {
            Answer::Begun { cookie, standing } => {
                self.cookie = Some(cookie);
                self.shown = Instant::now();
                ("signed in", user(*standing))
            }
            Answer::Standing(standing) => ("signed in", user(*standing)),
            Answer::Refused { why, .. } => ("refused", statement::words(why).to_owned()),
            _ => ("refused", "an answer to something else".to_owned()),
        };
        stage.row(label, Finding::new("signed in", name), Finding::new(what, why), None);
    }

    fn query(&self, stage: &Stage<'_>) -> Result<Query> {
        self.connection(stage, "db", DATABASE)
    }

    fn connection(&self, stage: &Stage<'_>, to: &str, service: Service) -> Result<Query> {
        let (from, host) = (stage.lab.host("clients"), stage.lab.host(to));
        let (source, destination) = (Family::V4.address(from), Family::V4.address(host));
        let mut probe = from.namespace.run(|| Probe::send(source, destination, service))?;
        if probe.look(PATIENCE)? != Seen::Answered {
            bail!("alice does not reach {service} of {to}");
        }
        let tuple = probe.tuple;
        Ok(Query { stream: probe.into_stream()?, tuple })
    }

    fn enroll(&mut self, stage: &Stage<'_>) -> Result<()> {
        let act = DeviceAct::Enroll { tags: Vec::new(), lasts: "1h".to_owned() };
        let request = Request::Device { name: "laptop".to_owned(), act, said: Said::default() };
        let Reply::Device(device) = stage.gateway()?.request(&request)? else {
            bail!("the gateway made no code for alice's laptop");
        };
        let code = device.code.context("the gateway made no code for alice's laptop")?.code;
        let (home, portal) = (self.home.clone(), self.portal.clone());
        stage.lab.host("clients").namespace.run(|| statement::enroll(&home, portal, "laptop", code))
    }

    /// Her laptop says how it is.
    fn report(&self, stage: &Stage<'_>, is_encrypted: bool) -> Result<()> {
        let facts = Facts::from([("disk_encrypted".to_owned(), Fact::Flag(is_encrypted))]);
        self.home.keep_cookie(self.cookie.as_ref())?;
        stage.lab.host("clients").namespace.run(|| statement::state(&self.home, &facts)).map(drop)
    }
}

/// Waits until the portal listens. Returns its certificate's fingerprint.
fn portal(stage: &Stage<'_>) -> Result<String> {
    let deadline = Instant::now() + PORTAL;
    loop {
        let status = stage.gateway()?.status()?;
        match status.portal {
            Some(portal) if portal.listening.len() == 2 => return Ok(portal.fingerprint),
            portal if Instant::now() > deadline => bail!("the portal does not listen: {portal:?}"),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
