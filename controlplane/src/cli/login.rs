//! `bulkhead login`, `whoami`, `logout`: a user at their own end.

use std::io::{self, BufRead, IsTerminal, Read};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::agent::{HomeArgs, PortalArgs};
use super::control::Table;
use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::agent::home::{Home, Settings};
use crate::agent::statement::{unexpected, words};
use crate::identity::password::BYTES_MAX;
use crate::plan::words::duration_s;
use crate::portal::wire::{Answer, Known, Method, Question, Secret, Standing, Why};

/// How often a wrong code may be typed again.
const CODES: usize = 3;

/// Sign in at the portal, from this machine's address
///
/// Asks for the password, and for a code where the user has an authenticator app; with a session already, only for the code,
/// which makes the second factor fresh again. At an identity provider with --provider, whose page shows a code to type on
/// another device.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead login --portal https://10.1.0.1 --user alice\n  \
    bulkhead login --provider corp --device-code\n  \
    bulkhead login --step-up")]
pub struct LoginArgs {
    #[command(flatten)]
    portal: PortalArgs,
    /// The user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Show a second factor again, in the session that is there
    #[arg(long, conflicts_with_all = ["user", "provider"])]
    step_up: bool,
    /// Sign in at this identity provider
    #[arg(long, value_name = "NAME", requires = "device_code")]
    provider: Option<String>,
    /// With a code to be typed in a browser somewhere else
    #[arg(long, requires = "provider")]
    device_code: bool,
    /// Read the password, and in a second line the code, from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    home: HomeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show who is signed in from here, and what may be reached now
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead whoami\n  bulkhead whoami -o json")]
pub struct WhoamiArgs {
    #[command(flatten)]
    home: HomeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// End the session that was begun from here
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead logout")]
pub struct LogoutArgs {
    #[command(flatten)]
    home: HomeArgs,
}

/// What was settled here before.
pub(super) fn settled(home: &Home) -> Result<Settings> {
    home.settings()?.context("which portal? give it with --portal; it is remembered then")
}

/// What is typed, or comes from standard input.
struct Typed {
    lines: Option<io::Lines<io::BufReader<Box<dyn Read>>>>,
}

impl Typed {
    fn from(stdin: bool) -> Typed {
        // Bounded: a password and a code.
        let limited =
            || io::BufReader::new(Box::new(io::stdin().take(BYTES_MAX as u64 + 64)) as Box<dyn Read>);
        Typed { lines: stdin.then(|| limited().lines()) }
    }

    fn ask(&mut self, prompt: &str) -> Result<Secret> {
        match &mut self.lines {
            Some(lines) => {
                let line = lines.next().context("standard input ended before everything was said")?;
                Ok(Secret::new(line.context("reading standard input")?))
            }
            None if !io::stdin().is_terminal() => {
                bail!("there is no terminal to ask at; say it on standard input with --password-stdin")
            }
            None => Ok(Secret::new(rpassword::prompt_password(prompt)?)),
        }
    }
}

impl LoginArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let home = Home::open(self.home.state.clone())?;
        let before = home.settings()?;
        let settings = match self.portal.clone().portal()? {
            Some(portal) => Settings { portal, ..before.unwrap_or_default() },
            None => settled(&home)?,
        };
        let mut typed = Typed::from(self.password_stdin);
        let portal = &settings.portal;
        let cookie = home.cookie()?;
        let answer = if let Some(provider) = &self.provider {
            self.with_device_code(&settings, provider, cookie.as_ref())?
        } else if self.step_up {
            portal.ask(&Question::Totp { attempt: None, code: typed.ask("Code: ")? }, cookie.as_ref())?
        } else {
            let user = self.user.clone().or_else(|| std::env::var("USER").ok());
            let user = user.context("who signs in? say it with --user")?;
            let password = typed.ask(&format!("Password of {user}: "))?;
            portal.ask(&Question::Password { user, password }, cookie.as_ref())?
        };
        let answer = match answer {
            Answer::Factor { attempt, methods } => {
                second_factor(&settings, &attempt, &methods, cookie.as_ref(), &mut typed)?
            }
            answer => answer,
        };
        let Answer::Begun { cookie, standing } = answer else { return Err(unexpected(&answer)) };
        home.keep_cookie(Some(&cookie))?;
        home.settle(&settings)?;
        show(&standing, self.output);
        Ok(Exit::Ok)
    }

    fn with_device_code(
        &self,
        settings: &Settings,
        provider: &str,
        cookie: Option<&Secret>,
    ) -> Result<Answer> {
        let begun = settings.portal.ask(&Question::DeviceBegin { provider: provider.to_owned() }, cookie)?;
        let Answer::Device {
            attempt,
            user_code,
            verification_uri,
            verification_uri_complete,
            mut interval_s,
            ..
        } = begun
        else {
            return Err(unexpected(&begun));
        };
        complain(&format!("open {verification_uri} in a browser, anywhere, and type {user_code}"));
        if let Some(uri) = verification_uri_complete {
            complain(&format!("or open {uri}"));
        }
        loop {
            std::thread::sleep(std::time::Duration::from_secs(interval_s.clamp(1, 60).into()));
            match settings.portal.ask(&Question::DevicePoll { attempt: attempt.clone() }, cookie)? {
                Answer::Wait { interval_s: next } => interval_s = next,
                answer => return Ok(answer),
            }
        }
    }
}

fn second_factor(
    settings: &Settings,
    attempt: &Secret,
    methods: &[Method],
    cookie: Option<&Secret>,
    typed: &mut Typed,
) -> Result<Answer> {
    if !methods.contains(&Method::Totp) {
        bail!(
            "this user has only passkeys, which need a browser: sign in at https://{}",
            settings.portal.authority
        );
    }
    for _ in 1..CODES {
        let question = Question::Totp { attempt: Some(attempt.clone()), code: typed.ask("Code: ")? };
        match settings.portal.ask(&question, cookie)? {
            Answer::Refused { why: Why::Wrong, .. } if typed.lines.is_none() => {
                complain("this code is wrong, or was used already; the next one comes within 30 s");
            }
            answer => return Ok(answer),
        }
    }
    let question = Question::Totp { attempt: Some(attempt.clone()), code: typed.ask("Code: ")? };
    settings.portal.ask(&question, cookie)
}

impl WhoamiArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let home = Home::open(self.home.state)?;
        let answer = settled(&home)?.portal.ask(&Question::Standing, home.cookie()?.as_ref())?;
        let Answer::Standing(standing) = answer else { return Err(unexpected(&answer)) };
        show(&standing, self.output);
        Ok(if standing.session.is_some() { Exit::Ok } else { Exit::Error })
    }
}

impl LogoutArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let home = Home::open(self.home.state)?;
        let Some(cookie) = home.cookie()? else { bail!("{}", words(Why::NotSignedIn)) };
        match settled(&home)?.portal.ask(&Question::SignOut, Some(&cookie))? {
            Answer::SignedOut => {}
            other => return Err(unexpected(&other)),
        }
        home.keep_cookie(None)?;
        say("signed out");
        Ok(Exit::Ok)
    }
}

fn show(standing: &Standing, output: OutputArgs) {
    if output.output == Format::Json {
        say_json(&json!(standing));
        return;
    }
    let segment = standing.segment.as_deref().unwrap_or("no segment");
    match &standing.session {
        Some(session) => say(&known(session, &standing.address, segment)),
        None if standing.is_taken => {
            say(&format!("somebody is signed in at {} ({segment}), but not from here", standing.address));
        }
        None => say(&format!("nobody is signed in at {} ({segment})", standing.address)),
    }
    let mut table = Table::new(&["TO", "SERVICES", "RULE", "NOW", ">LEFT"]);
    for reach in &standing.reach {
        let now = reach.refusal.as_ref().map_or("allowed", |refusal| refusal.reason.as_str());
        let left = reach.left_s.map(|s| duration_s(u32::try_from(s).unwrap_or(u32::MAX)));
        table.row([
            reach.to.clone(),
            reach.services.join(" "),
            reach.rule.clone(),
            now.to_owned(),
            left.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    say(&table.text());
    if standing.is_partial {
        say("… and more");
    }
}

fn known(session: &Known, address: &str, segment: &str) -> String {
    let left = duration_s(u32::try_from(session.left_s).unwrap_or(u32::MAX));
    let user = session.user.as_deref().unwrap_or("nobody");
    let mut text = format!("{user} at {address} ({segment}), session {} for {left}", session.id);
    if !session.groups.is_empty() {
        text += &format!("\ngroups: {}", session.groups.join(", "));
    }
    if let Some(device) = &session.device {
        text += &format!("\ndevice: {device}");
    }
    for (name, state) in &session.postures {
        text += &format!("\nposture {name}: {state}");
    }
    if let Some(age_s) = session.mfa_age_s {
        let kind = if session.phishing_resistant { " that cannot be phished" } else { "" };
        text += &format!("\nsecond factor{kind}: {} ago", duration_s(age_s));
    }
    text + "\n"
}
