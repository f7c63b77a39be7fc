//! The gateway's own users over the control socket.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::acts::operator;
use super::gateway::Gateway;
use super::log;
use super::sessions::{name_of, refused};
use super::time::rfc3339;
use crate::api::server::Client;
use crate::api::types::{Refusal, Reply};
use crate::api::user::{self as api, NewAuthenticator, UserAct};
use crate::audit::{Entry, Kind};
use crate::config::diagnostics::quoted;
use crate::config::values;
use crate::identity::book::{Authenticator, GROUPS_MAX, USERS_MAX, User};
use crate::identity::passkeys::Passkey;
use crate::identity::{password, totp, unix_s};
use crate::portal::wire::Secret;
use crate::sessions::Which;
use crate::store;

/// What apps show beside a code.
const ISSUER: &str = "Bulkhead";

/// Tells all users.
///
/// # Errors
///
/// The store cannot be read.
pub fn list(gateway: &Gateway, client: &mut Client) -> Result<io::Result<()>, Refusal> {
    let users = gateway.desk.book().and_then(|book| book.users()).map_err(Refusal::error)?;
    let mut rows = users.iter().map(|user| row(user, sessions_of(gateway, &user.name)));
    Ok(rows.try_for_each(|row| client.say(Reply::User(Box::new(row)))))
}

/// Changes a user. It is on the disk when this returns, and where the user's sessions end with it, no packet crosses by
/// them any more.
///
/// # Errors
///
/// What of it makes no sense, and nothing has changed; or the store cannot be written, or a worker is stuck.
pub fn change(gateway: &Gateway, name: &str, act: UserAct, by: &store::Who) -> Result<api::User, Refusal> {
    let what = what(&act);
    let ends = !matches!(act, UserAct::Add { .. } | UserAct::Groups { .. } | UserAct::Enable);
    let regroups = matches!(act, UserAct::Groups { .. });
    check(gateway, name, &act)?;
    let grants =
        !matches!(act, UserAct::TotpOff | UserAct::PasskeyRemove { .. } | UserAct::Disable | UserAct::Remove);
    let passkey = match &act {
        UserAct::PasskeyRemove { id } => Some(id.clone()),
        _ => None,
    };
    let entry = |groups: &[String]| {
        let entry = Entry::new(Kind::UserChanged, operator(by)).with("user", name).with("change", what);
        let entry = entry.with("groups", groups.to_vec());
        if let Some(id) = &passkey { entry.with("passkey_id", id.as_str()) } else { entry }
    };
    if grants {
        let groups: &[String] = match &act {
            UserAct::Add { groups, .. } | UserAct::Groups { groups } => groups,
            _ => &[],
        };
        gateway.grant(entry(groups))?;
    }
    let changed = apply(gateway, name, act)?;
    if !grants {
        gateway.done(entry(&[]));
    }
    // Even if what follows fails: it has happened.
    log::say(&format!("user {} {what} by {}", quoted(name), name_of(by)));
    gateway.hub.told(json!({
        "ts": rfc3339(SystemTime::now()), "kind": "user", "change": what, "user": name, "by": name_of(by),
    }));
    let which = Which::of_user(name);
    let sessions = if ends {
        gateway.end_sessions(&which, Some(by))?
    } else if regroups {
        let sessions = gateway.sessions.list(&which, gateway.engine.now());
        for session in &sessions {
            let groups = changed.user.groups.clone();
            gateway.amend_session(session, Some(by), "other groups", |claims| {
                claims.groups.clone_from(&groups)
            })?;
        }
        sessions.len() as u64
    } else {
        sessions_of(gateway, name)
    };
    Ok(api::User { authenticator: changed.authenticator, ..row(&changed.user, sessions) })
}

/// A user after a change.
struct Changed {
    user: User,
    authenticator: Option<NewAuthenticator>,
}

fn what(act: &UserAct) -> &'static str {
    match act {
        UserAct::Add { .. } => "added",
        UserAct::Password { .. } => "given a new password",
        UserAct::Groups { .. } => "given other groups",
        UserAct::Totp => "given a new authenticator",
        UserAct::TotpOff => "left without an authenticator",
        UserAct::PasskeyRemove { .. } => "left without a passkey",
        UserAct::Disable => "disabled",
        UserAct::Enable => "enabled",
        UserAct::Remove => "removed",
    }
}

/// Whether the words make sense.
fn check(gateway: &Gateway, name: &str, act: &UserAct) -> Result<(), Refusal> {
    values::identity(name, "user").map_err(|error| refused("the user", error))?;
    let (groups, new) = match act {
        UserAct::Add { groups, password } => (&groups[..], password.as_ref()),
        UserAct::Groups { groups } => (&groups[..], None),
        UserAct::Password { password } => (&[][..], Some(password)),
        _ => (&[][..], None),
    };
    // Told before anything is recorded; whoever else changes users at this moment is told by the change itself.
    let before = gateway.desk.book().and_then(|book| book.user(name)).map_err(Refusal::error)?;
    match (act, before) {
        (UserAct::Add { .. }, Some(_)) => return Err(there_is(name)),
        (UserAct::Add { .. }, None) | (_, Some(_)) => {}
        (_, None) => return Err(there_is_no(name)),
    }
    let model = gateway.in_force().model;
    if groups.len() > GROUPS_MAX {
        return Err(Refusal::error(format!("--group: a user may be in {GROUPS_MAX} groups")));
    }
    for group in groups {
        model.identities.check_told(group).map_err(|wrong| refused("--group", wrong))?;
    }
    new.map_or(Ok(()), |new| password::check(name, new)).map_err(|unfit| Refusal::error(unfit.to_string()))
}

fn there_is(name: &str) -> Refusal {
    Refusal::error(format!("there is a user {} already", quoted(name)))
}

fn there_is_no(name: &str) -> Refusal {
    Refusal::error(format!("there is no user {}; `bulkhead user list` shows them", quoted(name)))
}

fn there_is_no_passkey(name: &str, id: &str) -> Refusal {
    let message = format!("user {} has no passkey {}", quoted(name), quoted(id));
    Refusal::error(format!("{message}; `bulkhead user passkeys {name}` shows them"))
}

fn hashed(password: &Secret) -> Result<Option<Secret>, Refusal> {
    password::hash(password).map(|hash| Some(Secret::new(hash))).map_err(Refusal::error)
}

fn apply(gateway: &Gateway, name: &str, act: UserAct) -> Result<Changed, Refusal> {
    let book = gateway.desk.book().map_err(Refusal::error)?;
    let now_s = unix_s(SystemTime::now());
    // Before the transaction: it takes a while.
    let new_hash = match &act {
        UserAct::Add { password: Some(password), .. } | UserAct::Password { password } => hashed(password)?,
        _ => None,
    };
    if matches!(act, UserAct::Add { .. }) && book.count().map_err(Refusal::error)? >= USERS_MAX {
        return Err(Refusal::error(format!("there are {USERS_MAX} users, and no more fit")));
    }
    let changed = book.change(name, |before| {
        if let UserAct::Add { groups, .. } = act {
            if before.is_some() {
                return Err(there_is(name));
            }
            let password_s = if new_hash.is_some() { now_s } else { 0 };
            let name = name.to_owned();
            let user =
                User { name, groups, password: new_hash, added_s: now_s, password_s, ..User::default() };
            return Ok((Some(user.clone()), Changed { user, authenticator: None }));
        }
        let Some(mut user) = before else { return Err(there_is_no(name)) };
        let mut authenticator = None;
        match act {
            UserAct::Password { .. } => (user.password, user.password_s) = (new_hash, now_s),
            UserAct::Groups { groups } => user.groups = groups,
            UserAct::Totp => {
                let key = totp::key();
                let uri = totp::uri(&key, name, ISSUER)
                    .ok_or_else(|| Refusal::error("no authenticator can be made for this name"))?;
                authenticator = Some(NewAuthenticator { key: key.clone(), uri });
                user.totp = Some(Authenticator { key, last_step: 0 });
                user.wrong_codes = 0;
            }
            UserAct::TotpOff => user.totp = None,
            UserAct::PasskeyRemove { id } => {
                let at = user.passkeys.iter().position(|passkey| passkey.id == id);
                user.passkeys.remove(at.ok_or_else(|| there_is_no_passkey(name, &id))?);
            }
            UserAct::Disable => user.disabled = true,
            UserAct::Enable => user.disabled = false,
            UserAct::Remove => return Ok((None, Changed { user, authenticator })),
            UserAct::Add { .. } => {}
        }
        Ok((Some(user.clone()), Changed { user, authenticator }))
    });
    changed.map_err(Refusal::error)?
}

fn sessions_of(gateway: &Gateway, name: &str) -> u64 {
    let which = Which::of_user(name);
    gateway.sessions.list(&which, gateway.engine.now()).len() as u64
}

fn row(user: &User, sessions: u64) -> api::User {
    let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
    let passkey = |passkey: &Passkey| api::Passkey {
        id: passkey.id.clone(),
        name: passkey.name.clone(),
        added: at(passkey.added_s),
        used: passkey.used_s.map(at),
        sign_count: passkey.sign_count,
        synced: passkey.is_synced,
        aaguid: passkey.aaguid.clone(),
    };
    api::User {
        name: user.name.clone(),
        groups: user.groups.clone(),
        password: user.password.is_some(),
        totp: user.totp.is_some(),
        disabled: user.disabled,
        passkeys: user.passkeys.iter().map(passkey).collect(),
        added: at(user.added_s),
        sessions,
        authenticator: None,
    }
}
