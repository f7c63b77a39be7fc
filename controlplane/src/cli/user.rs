//! `bulkhead user`: the gateway's own users.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::json;
use zeroize::Zeroizing;

use super::control::{ControlArgs, Table, said, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::user::{NewAuthenticator, User, UserAct};
use crate::api::{Reply, Request};
use crate::config::diagnostics::quoted;
use crate::identity::password::BYTES_MAX;
use crate::portal::wire::Secret;

/// The gateway's own users: add, list and disable them, give them passwords and authenticators
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead user add alice --group dba\n  \
    bulkhead user totp alice\n  \
    bulkhead user passkeys alice\n  \
    bulkhead user list\n  \
    bulkhead user disable alice")]
pub struct UserArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Add a user, who signs in at the portal
    ///
    /// Asks for the password at the terminal, or reads it from standard input with --password-stdin. With --totp the user
    /// gets an authenticator app too, as by `user totp`.
    #[command(after_help = "Examples:\n  \
        bulkhead user add alice --group dba --totp\n  \
        pass show bulkhead/alice | bulkhead user add alice --password-stdin")]
    Add(AddArgs),
    /// Show all users
    #[command(after_help = "Examples:\n  bulkhead user list\n  bulkhead user list -o json")]
    List(ListArgs),
    /// Set a user's password, and end the user's sessions
    #[command(after_help = "Examples:\n  bulkhead user passwd alice")]
    Passwd(PasswdArgs),
    /// Give a user a new authenticator app, and end the user's sessions
    ///
    /// Prints a square code to be scanned by the app, and the same as text. It is shown this once. From then on the user is
    /// asked for six digits after the password.
    #[command(after_help = "Examples:\n  bulkhead user totp alice\n  bulkhead user totp alice --off")]
    Totp(TotpArgs),
    /// Show a user's passkeys, or take one away and end the user's sessions
    ///
    /// Users add their own at the portal. Whoever has lost the only one signs in with what else there is after it is taken
    /// away.
    #[command(
        after_help = "Examples:\n  bulkhead user passkeys alice\n  bulkhead user passkeys alice --remove mXhT…"
    )]
    Passkeys(PasskeysArgs),
    /// Set the groups that the store tells of a user; live sessions are judged by them at once
    ///
    /// Members that the policy declares are in their groups besides.
    #[command(after_help = "Examples:\n  bulkhead user groups alice dba staff\n  bulkhead user groups alice")]
    Groups(GroupsArgs),
    /// Keep a user from signing in, and end the user's sessions at once
    #[command(after_help = "Examples:\n  bulkhead user disable alice")]
    Disable(OneArgs),
    /// Let a user sign in again
    #[command(after_help = "Examples:\n  bulkhead user enable alice")]
    Enable(OneArgs),
    /// Take a user away, and end the user's sessions at once
    #[command(after_help = "Examples:\n  bulkhead user remove alice")]
    Remove(OneArgs),
}

#[derive(Args)]
pub(super) struct PasswordArgs {
    /// Read the password from standard input, of which a line break at the end is no part
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Args)]
struct AddArgs {
    /// The name with which the user signs in, and which rules name
    name: String,
    /// A group of the user; may be given several times
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// Give the user an authenticator app too
    #[arg(long)]
    totp: bool,
    /// No password: the user cannot sign in until there is one
    #[arg(long, conflicts_with = "password_stdin")]
    no_password: bool,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct PasswdArgs {
    /// Whose
    name: String,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct TotpArgs {
    /// Whose
    name: String,
    /// Take the authenticator away instead
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct PasskeysArgs {
    /// Whose
    name: String,
    /// Take this one away instead
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    remove: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct GroupsArgs {
    /// Whose
    name: String,
    /// All groups; none takes all away
    groups: Vec<String>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct OneArgs {
    /// Whom
    name: String,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl UserArgs {
    pub(super) fn run(self) -> Result<Exit> {
        match self.action {
            Action::Add(args) => args.run(),
            Action::List(args) => args.run(),
            Action::Passwd(args) => {
                let act = UserAct::Password { password: args.password.read()? };
                change(&args.control, args.output, args.name, act, "has a new password")
            }
            Action::Totp(args) if args.off => change(
                &args.control,
                args.output,
                args.name,
                UserAct::TotpOff,
                "has no authenticator any more",
            ),
            Action::Totp(args) => {
                change(&args.control, args.output, args.name, UserAct::Totp, "has a new authenticator")
            }
            Action::Passkeys(args) => args.run(),
            Action::Groups(args) => {
                let act = UserAct::Groups { groups: args.groups };
                change(&args.control, args.output, args.name, act, "has other groups")
            }
            Action::Disable(args) => args.run(UserAct::Disable, "may not sign in any more"),
            Action::Enable(args) => args.run(UserAct::Enable, "may sign in again"),
            Action::Remove(args) => args.run(UserAct::Remove, "is removed"),
        }
    }
}

impl PasswordArgs {
    /// From the terminal or from standard input; never from the command line, which everybody can read.
    pub(super) fn read(&self) -> Result<Secret> {
        if self.password_stdin {
            let mut text = Zeroizing::new(String::new());
            let limit = BYTES_MAX as u64 + 2;
            io::stdin()
                .take(limit)
                .read_to_string(&mut text)
                .context("reading the password from standard input")?;
            return Ok(Secret::new(text.strip_suffix('\n').unwrap_or(&text).to_owned()));
        }
        if !io::stdin().is_terminal() {
            bail!("there is no terminal to ask for the password; give it with --password-stdin");
        }
        let ask =
            |prompt| rpassword::prompt_password(prompt).map(Secret::new).context("asking for the password");
        let password = ask("Password: ")?;
        if ask("Again: ")? != password {
            bail!("these are two different passwords; nothing was changed");
        }
        Ok(password)
    }
}

impl AddArgs {
    fn run(self) -> Result<Exit> {
        let AddArgs { name, groups, totp, no_password, password, control, output } = self;
        let password = if no_password { None } else { Some(password.read()?) };
        let act = UserAct::Add { groups, password };
        if !totp {
            return change(&control, output, name, act, "is added");
        }
        match asked(&control, &name, act)? {
            Ok(_) => change(&control, output, name, UserAct::Totp, "is added and has an authenticator"),
            Err(exit) => Ok(exit),
        }
    }
}

impl OneArgs {
    fn run(self, act: UserAct, done: &str) -> Result<Exit> {
        change(&self.control, self.output, self.name, act, done)
    }
}

fn asked(control: &ControlArgs, name: &str, act: UserAct) -> Result<Result<User, Exit>> {
    let request = Request::User { name: name.to_owned(), act, said: said() };
    match control.ask_one(&request, "writing")? {
        Ok(Reply::User(user)) => Ok(Ok(*user)),
        Ok(reply) => Err(unexpected(&reply)),
        Err(exit) => Ok(Err(exit)),
    }
}

fn change(control: &ControlArgs, output: OutputArgs, name: String, act: UserAct, done: &str) -> Result<Exit> {
    let user = match asked(control, &name, act.clone())? {
        Ok(user) => user,
        Err(exit) => return Ok(exit),
    };
    if output.output == Format::Json {
        say_json(&json!(user));
        return Ok(Exit::Ok);
    }
    let count = user.sessions;
    let sessions = match act {
        UserAct::Add { .. } | UserAct::Enable => String::new(),
        UserAct::Groups { .. } => format!("; {count} session(s) are judged by them"),
        _ => format!("; {count} session(s) ended"),
    };
    say(&format!("{name} {done}{sessions}"));
    if let Some(authenticator) = &user.authenticator {
        say(&told(authenticator)?);
    }
    Ok(Exit::Ok)
}

/// A square code for a terminal of any colours, and the same as text.
fn told(authenticator: &NewAuthenticator) -> Result<String> {
    let code = QrCode::with_error_correction_level(authenticator.uri.reveal(), EcLevel::L)?;
    // Scanners want dark on light; terminals are mostly light on dark.
    let picture = code.render::<Dense1x2>().dark_color(Dense1x2::Dark).light_color(Dense1x2::Light).build();
    let (uri, key) = (authenticator.uri.reveal(), authenticator.key.reveal());
    Ok(format!("{picture}\n{uri}\nkey: {key}\nThis is shown once; whoever has it can make the codes."))
}

fn all(control: &ControlArgs) -> Result<Result<Vec<User>, Exit>> {
    control.ask_all(&Request::Users, |reply| match reply {
        Reply::User(user) => Ok(*user),
        reply => Err(Box::new(reply)),
    })
}

impl PasskeysArgs {
    fn run(self) -> Result<Exit> {
        let PasskeysArgs { name, remove, control, output } = self;
        if let Some(id) = remove {
            let act = UserAct::PasskeyRemove { id };
            return change(&control, output, name, act, "has a passkey less");
        }
        let users = match all(&control)? {
            Ok(users) => users,
            Err(exit) => return Ok(exit),
        };
        let Some(user) = users.into_iter().find(|user| user.name == name) else {
            bail!("there is no user {}; `bulkhead user list` shows them", quoted(&name));
        };
        if output.output == Format::Json {
            say_json(&json!({ "user": user.name, "passkeys": user.passkeys }));
            return Ok(Exit::Ok);
        }
        let mut table = Table::new(&["NAME", "ID", "ADDED", "LAST USED", "SYNCED", ">COUNTER"]);
        for passkey in &user.passkeys {
            table.row([
                passkey.name.clone(),
                passkey.id.clone(),
                passkey.added.clone(),
                passkey.used.clone().unwrap_or_else(|| "never".to_owned()),
                yes(passkey.synced),
                passkey.sign_count.to_string(),
            ]);
        }
        say(&format!("{}\n{} passkey(s)", table.text(), user.passkeys.len()));
        Ok(Exit::Ok)
    }
}

fn yes(is: bool) -> String {
    (if is { "yes" } else { "no" }).to_owned()
}

impl ListArgs {
    fn run(self) -> Result<Exit> {
        let users = match all(&self.control)? {
            Ok(users) => users,
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!({ "users": users }));
            return Ok(Exit::Ok);
        }
        let mut table = Table::new(&[
            "USER",
            "GROUPS",
            "PASSWORD",
            "AUTHENTICATOR",
            ">PASSKEYS",
            "MAY SIGN IN",
            "ADDED",
            ">SESSIONS",
        ]);
        for user in &users {
            let groups = if user.groups.is_empty() { "-".to_owned() } else { user.groups.join(",") };
            table.row([
                user.name.clone(),
                groups,
                yes(user.password),
                yes(user.totp),
                user.passkeys.len().to_string(),
                yes(!user.disabled),
                user.added.clone(),
                user.sessions.to_string(),
            ]);
        }
        say(&format!("{}\n{} user(s)", table.text(), users.len()));
        Ok(Exit::Ok)
    }
}
