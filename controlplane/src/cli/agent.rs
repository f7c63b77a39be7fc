//! `bulkhead agent`: what a device runs to be known by its key.

use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use super::user::PasswordArgs;
use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::agent::certificate::Certified;
use crate::agent::client::Portal;
use crate::agent::facts;
use crate::agent::home::Home;
use crate::agent::statement::{self, Heard};
use crate::agent::svid::Files;
use crate::portal::wire::Secret;
use crate::sessions::health::Facts;

/// Statements in the time for which one holds, so that two may be lost.
const STATEMENTS: u32 = 3;
/// The wait after a failure; it doubles, up to the usual interval.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// `--state`: shared by the verbs of the other end.
#[derive(Args, Clone, Debug)]
pub struct HomeArgs {
    /// Where the agent keeps its key and its session [default: bulkhead in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
}

/// `--portal`: shared by the verbs that choose one.
#[derive(Args, Clone, Debug)]
pub struct PortalArgs {
    /// The portal, such as https://10.1.0.1
    #[arg(long, value_name = "URL")]
    pub portal: Option<String>,
    /// SHA-256 of the portal's certificate, as `bulkhead status` on the gateway shows it
    #[arg(long, value_name = "HEX", requires = "portal")]
    pub fingerprint: Option<String>,
    /// File of the authorities by which the portal may be known, in PEM [default: the system's]
    #[arg(long, value_name = "FILE", requires = "portal", conflicts_with = "fingerprint")]
    pub ca: Option<PathBuf>,
}

impl PortalArgs {
    /// What was said, or nothing.
    pub(super) fn portal(self) -> Result<Option<Portal>> {
        let PortalArgs { portal, fingerprint, ca } = self;
        portal.map(|url| Portal::parse(&url, fingerprint.as_deref(), ca)).transpose()
    }
}

/// What a device runs to be known by its key, and to say that it is there and healthy
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead agent enroll --portal https://10.1.0.1 --device laptop-7 --code CODE\n  \
    bulkhead agent run")]
pub struct AgentArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a key for this device, and have the gateway take it
    ///
    /// The key is made here and never leaves this device. An operator makes the code, with `bulkhead device enroll` on the
    /// gateway.
    #[command(after_help = "Examples:\n  \
        bulkhead agent enroll --portal https://10.1.0.1 --fingerprint AB:CD:… --device laptop-7 --code CODE")]
    Enroll(EnrollArgs),
    /// Say again and again that this device is there, and how it is
    ///
    /// Reports whether the disk is encrypted, how long ago packages were brought up to date, the system and which of the
    /// processes run that the policy asks for; more with --fact. When this stops, nothing is known of the device any more
    /// after a while. Connections stay open as long as the rules let them.
    #[command(
        after_help = "Examples:\n  bulkhead agent run\n  bulkhead agent run --fact screen_lock=true --once"
    )]
    Run(RunArgs),
    /// Have a key certified with which a browser or curl shows that it is on this device
    ///
    /// The key is made for it here, and is worth something as long as this device's enrolment is. Shown at the gateway's
    /// certificate port (`certificate_port` in [portal]), it has the address known as this device, without its health.
    #[command(after_help = "Examples:\n  \
        bulkhead agent certificate --pem laptop.pem && curl --cert laptop.pem https://access.example.org:8443/\n  \
        bulkhead agent certificate --p12 laptop.p12")]
    Certificate(CertificateArgs),
    /// Show a workload's SPIFFE X.509-SVID to the gateway, again and again
    ///
    /// Shows it when it starts, whenever its files change, and before the session ends. Something else keeps the files new,
    /// such as spiffe-helper beside a SPIRE agent.
    #[command(after_help = "Examples:\n  \
        bulkhead agent svid --cert svid.pem --key svid_key.pem --at access.example.org:8443")]
    Svid(SvidArgs),
}

#[derive(Args)]
#[command(group = ArgGroup::new("form").required(true))]
struct CertificateArgs {
    /// Write certificate and key into this file, in PEM
    #[arg(long, value_name = "FILE", group = "form")]
    pem: Option<PathBuf>,
    /// Write them into this file as PKCS #12, which browsers import; asks for a password
    #[arg(long, value_name = "FILE", group = "form")]
    p12: Option<PathBuf>,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    home: HomeArgs,
}

#[derive(Args)]
struct SvidArgs {
    /// The certificate with its chain, in PEM
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its key, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The gateway's certificate port
    #[arg(long, value_name = "HOST:PORT")]
    at: String,
    /// SHA-256 of the portal's certificate, as `bulkhead status` on the gateway shows it
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// File of the authorities by which the gateway may be known, in PEM [default: the system's]
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint")]
    ca: Option<PathBuf>,
    /// Show it once, and end
    #[arg(long)]
    once: bool,
}

#[derive(Args)]
struct EnrollArgs {
    #[command(flatten)]
    portal: PortalArgs,
    /// What the device is called at the gateway
    #[arg(long, value_name = "NAME")]
    device: String,
    /// The code that an operator has made; without it, it is asked for
    #[arg(long)]
    code: Option<String>,
    #[command(flatten)]
    home: HomeArgs,
}

#[derive(Args)]
struct RunArgs {
    /// State it once, and end
    #[arg(long)]
    once: bool,
    /// A fact more, or another one: true, false, a number of seconds or a text; may be given several times
    #[arg(long = "fact", value_name = "NAME=VALUE")]
    facts: Vec<String>,
    #[command(flatten)]
    home: HomeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl AgentArgs {
    pub(super) fn run(self) -> Result<Exit> {
        match self.action {
            Action::Enroll(args) => args.run(),
            Action::Run(args) => args.run(),
            Action::Certificate(args) => args.run(),
            Action::Svid(args) => args.run(),
        }
    }
}

impl EnrollArgs {
    fn run(self) -> Result<Exit> {
        let home = Home::open(self.home.state)?;
        let portal = match self.portal.portal()? {
            Some(portal) => portal,
            None => super::login::settled(&home)?.portal,
        };
        let code = match self.code {
            Some(code) => Secret::new(code),
            None => Secret::new(rpassword::prompt_password("Code: ")?),
        };
        statement::enroll(&home, portal, &self.device, code)?;
        say(&format!(
            "{} is enrolled; its key is in {}, and `bulkhead agent run` says that it is there",
            self.device,
            home.path().display()
        ));
        Ok(Exit::Ok)
    }
}

impl CertificateArgs {
    fn run(self) -> Result<Exit> {
        let home = Home::open(self.home.state)?;
        let (path, bytes) = match (self.pem, self.p12) {
            (Some(path), _) => (path, Zeroizing::new(Certified::new(&home)?.pem().as_bytes().to_vec())),
            (None, Some(path)) => {
                let password = self.password.read()?;
                (path, Certified::new(&home)?.pkcs12(password.reveal())?)
            }
            (None, None) => bail!("say where to write it: --pem FILE or --p12 FILE"),
        };
        write_private(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
        say(&format!("{} has a certificate of this device, and its key", path.display()));
        Ok(Exit::Ok)
    }
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

impl SvidArgs {
    fn run(self) -> Result<Exit> {
        let at = Portal::parse(&self.at, self.fingerprint.as_deref(), self.ca)?;
        let files = Files { certificate: self.cert, key: self.key };
        let mut retry = RETRY_MIN;
        loop {
            let shown = files.stamp();
            let wait = match files.show(&at) {
                Ok(known) => {
                    say(&known.said);
                    retry = RETRY_MIN;
                    // In time, and not without end when little is left.
                    (known.left / 2).max(RETRY_MIN)
                }
                Err(error) if self.once => return Err(error),
                Err(error) => {
                    complain(&format!("{error:#}; trying again in {} s", retry.as_secs()));
                    let wait = retry;
                    retry = (retry * 2).min(Duration::from_secs(60));
                    wait
                }
            };
            if self.once {
                return Ok(Exit::Ok);
            }
            let until = Instant::now() + wait;
            while Instant::now() < until && files.stamp() == shown {
                std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            }
        }
    }
}

impl RunArgs {
    fn run(self) -> Result<Exit> {
        let home = Home::open(self.home.state)?;
        let facts: Facts = self.facts.iter().map(|text| facts::given(text)).collect::<Result<_>>()?;
        let mut told = None;
        let mut retry = RETRY_MIN;
        loop {
            let wait = match statement::state(&home, &facts) {
                Ok(heard) => {
                    let words = words(&heard);
                    if self.output.output == Format::Json {
                        say_json(&json!(heard.standing));
                    } else if told.as_ref() != Some(&words) {
                        say(&words);
                    }
                    told = Some(words);
                    retry = RETRY_MIN;
                    Duration::from_secs((heard.heartbeat_s / STATEMENTS).max(1).into())
                }
                Err(error) if self.once => return Err(error),
                Err(error) => {
                    complain(&format!("{error:#}; trying again in {} s", retry.as_secs()));
                    told = None;
                    let wait = retry;
                    retry = (retry * 2).min(Duration::from_secs(60));
                    wait
                }
            };
            if self.once {
                return Ok(Exit::Ok);
            }
            std::thread::sleep(wait);
        }
    }
}

/// What the gateway knows of this device, in a line.
fn words(heard: &Heard) -> String {
    let Heard { standing, .. } = heard;
    let segment = standing.segment.as_deref().unwrap_or("no segment");
    let Some(session) = &standing.session else {
        return format!("heard at {} ({segment}); sign in here with `bulkhead login`", standing.address);
    };
    let postures = session.postures.iter().map(|(name, state)| format!("{name} {state}"));
    let postures: Vec<String> = postures.collect();
    let health = if postures.is_empty() { String::new() } else { format!("; {}", postures.join(", ")) };
    let user = session.user.as_deref().unwrap_or("nobody signed in");
    let device = session.device.as_deref().unwrap_or("?");
    format!("{device} at {} ({segment}): {user}{health}", standing.address)
}
