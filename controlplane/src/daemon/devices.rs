//! Enrolled devices over the control socket.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::acts::operator;
use super::gateway::Gateway;
use super::log;
use super::sessions::{name_of, refused};
use super::time::rfc3339;
use crate::api::device::{self as api, Code, DeviceAct};
use crate::api::server::Client;
use crate::api::types::{Refusal, Reply};
use crate::audit::{Entry, Kind};
use crate::config::diagnostics::quoted;
use crate::config::values;
use crate::identity::devices::{CODE_LASTS_S, DEVICES_MAX, Device};
use crate::identity::unix_s;
use crate::sessions::{Session, Which};
use crate::store;

/// The most tags of a device.
const TAGS_MAX: usize = 64;

/// Tells all devices.
///
/// # Errors
///
/// The store cannot be read.
pub fn list(gateway: &Gateway, client: &mut Client) -> Result<io::Result<()>, Refusal> {
    let devices = gateway.desk.book().and_then(|book| book.devices()).map_err(Refusal::error)?;
    let mut rows = devices.iter().map(|device| row(device, sessions_of(gateway, &device.name).len()));
    Ok(rows.try_for_each(|row| client.say(Reply::Device(Box::new(row)))))
}

/// Changes a device. It is on the disk when this returns, and every worker judges the device's sessions by it.
///
/// # Errors
///
/// What of it makes no sense, and nothing has changed; or the store cannot be written, or a worker is stuck.
pub fn change(
    gateway: &Gateway,
    name: &str,
    act: DeviceAct,
    by: &store::Who,
) -> Result<api::Device, Refusal> {
    let book = gateway.desk.book().map_err(Refusal::error)?;
    let before = book.device(name).map_err(Refusal::error)?;
    let (change, grants) = match &act {
        DeviceAct::Enroll { .. } => ("invited", true),
        DeviceAct::Tags { .. } => ("given other tags", true),
        DeviceAct::Revoke => ("revoked", false),
        DeviceAct::Remove => ("removed", false),
    };
    check(name, &act, before.is_some())?;
    if before.is_none() && book.devices_count().map_err(Refusal::error)? >= DEVICES_MAX {
        return Err(Refusal::error(format!("there are {DEVICES_MAX} devices, and no more fit")));
    }
    let entry = Entry::new(Kind::DeviceChanged, operator(by)).with("device", name).with("change", change);
    if grants {
        gateway.grant(entry.clone())?;
    }
    let (device, code) = match &act {
        DeviceAct::Enroll { tags, lasts } => {
            let lasts_s = values::seconds(lasts).map_err(|wrong| refused("--for", wrong))?;
            let before = before.unwrap_or_else(|| Device { name: name.to_owned(), ..Device::default() });
            let device = Device { tags: tags.clone(), lasts_s: lasts_s.into(), ..before };
            let code = book.invite(device.clone(), unix_s(SystemTime::now())).map_err(Refusal::error)?;
            (device, Some(Code { code, lasts_s: CODE_LASTS_S }))
        }
        _ => (apply(gateway, name, &act)?, None),
    };
    if !grants {
        gateway.done(entry);
    }
    log::say(&format!("device {} {change} by {}", quoted(name), name_of(by)));
    gateway.hub.told(json!({
        "ts": rfc3339(SystemTime::now()), "kind": "device", "change": change, "device": name, "by": name_of(by),
    }));
    let sessions = sessions_of(gateway, name);
    for session in &sessions {
        match &act {
            DeviceAct::Enroll { .. } => {}
            DeviceAct::Tags { tags } => {
                gateway.amend_session(session, Some(by), "other tags", |claims| {
                    claims.device.iter_mut().for_each(|device| device.tags.clone_from(tags));
                })?;
            }
            DeviceAct::Revoke | DeviceAct::Remove => gateway.take_device(session, Some(by))?,
        }
    }
    Ok(api::Device { code, ..row(&device, sessions.len()) })
}

impl Gateway {
    /// Nothing is known any more of the device of a session; where nobody else is known, it ends.
    pub(super) fn take_device(&self, session: &Session, by: Option<&store::Who>) -> Result<(), Refusal> {
        if session.claims.user.is_none() {
            return self.end_sessions(&Which::one(session), by).map(drop);
        }
        let taken = self.amend_unrecorded(session, by, |claims| {
            (claims.device, claims.health) = (None, None);
        })?;
        if let Some(session) = taken {
            self.tell_changed(&session, "its device was revoked");
        }
        Ok(())
    }
}

fn check(name: &str, act: &DeviceAct, is_there: bool) -> Result<(), Refusal> {
    values::identity(name, "device").map_err(|wrong| refused("the device", wrong))?;
    if !is_there && !matches!(act, DeviceAct::Enroll { .. }) {
        return Err(there_is_no(name));
    }
    let (DeviceAct::Enroll { tags, .. } | DeviceAct::Tags { tags }) = act else { return Ok(()) };
    if tags.len() > TAGS_MAX {
        return Err(Refusal::error(format!("--tag: a device may have {TAGS_MAX} tags")));
    }
    tags.iter().try_for_each(|tag| values::identity(tag, "tag")).map_err(|wrong| refused("--tag", wrong))?;
    if let DeviceAct::Enroll { lasts, .. } = act {
        values::seconds(lasts).map_err(|wrong| refused("--for", wrong))?;
    }
    Ok(())
}

fn there_is_no(name: &str) -> Refusal {
    Refusal::error(format!("there is no device {}; `bulkhead device list` shows them", quoted(name)))
}

fn apply(gateway: &Gateway, name: &str, act: &DeviceAct) -> Result<Device, Refusal> {
    let book = gateway.desk.book().map_err(Refusal::error)?;
    let changed = book.change_device(name, |before| {
        let mut device = before.ok_or_else(|| there_is_no(name))?;
        match act {
            DeviceAct::Tags { tags } => device.tags.clone_from(tags),
            DeviceAct::Revoke => (device.revoked, device.code) = (true, None),
            DeviceAct::Remove => return Ok((None, device)),
            DeviceAct::Enroll { .. } => {}
        }
        Ok((Some(device.clone()), device))
    });
    changed.map_err(Refusal::error)?
}

/// The sessions in which a device of this name is known.
fn sessions_of(gateway: &Gateway, name: &str) -> Vec<Arc<Session>> {
    let mut sessions = gateway.sessions.list(&Which::default(), gateway.engine.now());
    sessions.retain(|session| {
        session
            .claims
            .device
            .as_ref()
            .is_some_and(|device| device.enrolled && device.name.as_deref() == Some(name))
    });
    sessions
}

fn row(device: &Device, sessions: usize) -> api::Device {
    let now_s = unix_s(SystemTime::now());
    let moment =
        |at_s: u64| Some(rfc3339(UNIX_EPOCH + Duration::from_secs(at_s))).filter(|_| device.key.is_some());
    let state = match device {
        device if device.revoked => "revoked",
        device if device.is_enrolled(now_s) => "enrolled",
        Device { key: Some(_), .. } => "expired",
        _ => "invited",
    };
    api::Device {
        name: device.name.clone(),
        tags: device.tags.clone(),
        state: state.to_owned(),
        enrolled: moment(device.enrolled_s),
        ends: moment(device.ends_s()),
        key: device.kid.clone(),
        sessions: sessions as u64,
        code: None,
    }
}
