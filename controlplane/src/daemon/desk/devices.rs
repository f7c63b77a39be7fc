//! What devices say of themselves, signed by the keys that were enrolled.
//!
//! A statement holds at the address from which it came, for the time of a heartbeat, and each challenge serves for one: one
//! that was overheard or shown elsewhere is worth nothing. What the portal relays it cannot change.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Proven, Record, Visitor, refused};
use crate::audit::{By, Entry, Kind};
use crate::config::diagnostics::quoted;
use crate::config::identity::Check;
use crate::daemon::gateway::lock;
use crate::daemon::log;
use crate::daemon::sessions::NotBegun;
use crate::identity::authority::PublicKey;
use crate::identity::certificates::device::mark;
use crate::identity::devices::{self, Device, NotEnrolled};
use crate::identity::statements::{self, Signed};
use crate::identity::unix_s;
use crate::portal::wire::{Answer, Certification, Enrolment, Secret, Statement, Why};
use crate::sessions::{self, Claims, Health, Moment, Proof, Session};
use crate::tokens::key::{Key, Keys};

/// The name of the check that a posture makes of running processes.
const PROCESSES: &str = "processes";
/// Processes that are asked for.
const PROCESSES_MAX: usize = 256;

impl Visitor<'_> {
    /// Something to sign.
    pub(super) fn challenge(&self) -> Answer {
        if let Err(no) = self.may_begin() {
            return no;
        }
        let model = self.gateway.in_force().model;
        let mut processes: Vec<String> = Vec::new();
        for (name, check) in model.identities.postures.iter().flat_map(|posture| &posture.checks) {
            if let (PROCESSES, Check::Texts(texts)) = (name.as_str(), check) {
                processes.extend(texts.iter().cloned());
            }
        }
        processes.sort_unstable();
        processes.dedup();
        processes.truncate(PROCESSES_MAX);
        match lock(&self.desk().challenges).begin(self.address, (), Instant::now()) {
            Some(nonce) => Answer::Challenge {
                nonce: nonce.reveal().to_owned(),
                processes,
                heartbeat_s: model.sign_in.heartbeat_s,
            },
            None => refused(Why::Busy),
        }
    }

    /// What this device has signed with this key, for a challenge of this address.
    fn signed<S: Signed>(&self, name: &str, token: &Secret, keys: &Keys) -> Result<S, &'static str> {
        statements::heard(token, keys, name, &self.desk().challenges, self.address, Instant::now())
    }

    fn tell_device_refused(&self, device: Option<&str>, why: &str) -> Answer {
        let who = device.map_or_else(|| "a device that is not known".to_owned(), quoted);
        log::say(&format!("device refused at {}: {who}: {why}", self.address));
        let by = By::User { user: None, address: self.address };
        self.gateway.refused(Entry::new(Kind::SignInRefused, by).with("device", device).with("why", why));
        refused(Why::Wrong)
    }

    /// Takes a device's key for its code.
    pub(super) fn enroll(&self, name: &str, code: &Secret, key: &str, token: &Secret) -> Answer {
        if let Err(no) = self.may_begin() {
            return no;
        }
        let jwk = crate::tokens::json::object(key.as_bytes()).ok();
        let Some((jwk, key)) = jwk.and_then(|jwk| Key::of(&jwk).ok().map(|key| (jwk, key))) else {
            return refused(Why::Wrong);
        };
        if let Err(why) = self.signed::<Enrolment>(name, token, &Keys::one(key)) {
            return self.tell_device_refused(None, why);
        }
        let book = match self.desk().book() {
            Ok(book) => book,
            Err(why) => return self.broken(&why),
        };
        let jwk = jwk.into();
        let known = match book.device(name) {
            Ok(known) => known,
            Err(why) => return self.broken(&why),
        };
        let wrong_code = |known: Option<&Device>| {
            self.tell_device_refused(known.map(|device| device.name.as_str()), "wrong or used code")
        };
        let now_s = unix_s(SystemTime::now());
        if !known.as_ref().is_some_and(|device| device.is_invited_by(code, now_s)) {
            return wrong_code(known.as_ref());
        }
        // Recorded before it counts.
        let by = By::User { user: None, address: self.address };
        let entry = Entry::new(Kind::DeviceChanged, by).with("device", name).with("change", "enrolled");
        if self.gateway.grant(entry).is_err() {
            return refused(Why::Failed);
        }
        let enrolled = match book.enroll(name, code, &jwk, now_s) {
            Ok(Ok(device)) => device,
            // Of two at once with one code only the first has it.
            Ok(Err(NotEnrolled::Code)) => return wrong_code(known.as_ref()),
            Ok(Err(NotEnrolled::Key)) => return refused(Why::Wrong),
            Err(why) => return self.broken(&why),
        };
        log::say(&format!("device {} enrolled at {}", quoted(name), self.address));
        let key = enrolled.key.as_ref().and_then(devices::public).map(PublicKey::Own);
        match self.certificates(&enrolled, key) {
            Ok((certificate, authority)) => Answer::Enrolled { certificate, authority },
            Err(why) => {
                self.gateway
                    .alarm(format!("device {} is enrolled, but has no certificate: {why}", quoted(name)));
                refused(Why::Failed)
            }
        }
    }

    fn certificates(&self, device: &Device, key: Option<PublicKey>) -> Result<(String, String), String> {
        let key = key.ok_or("its key is of another kind")?;
        let until = UNIX_EPOCH + Duration::from_secs(device.ends_s());
        self.desk().with_authority(|authority| {
            Ok((authority.issue(&device.name, &key, until)?, authority.certificate().to_owned()))
        })?
    }

    /// A device has another key of its own certified.
    pub(super) fn certify(&self, name: &str, token: &Secret, proof: &str) -> Answer {
        let (device, said) = match self.stated::<Certification>(name, token) {
            Ok(stated) => stated,
            Err(no) => return no,
        };
        let point = match statements::possessed(&said, proof) {
            Ok(point) => point,
            Err(why) => return self.tell_device_refused(Some(name), why),
        };
        let Some(own) = device.key.as_ref().and_then(devices::public) else { return refused(Why::Wrong) };
        let by = By::User { user: None, address: self.address };
        let entry = Entry::new(Kind::DeviceChanged, by).with("device", name).with("change", "certified");
        if self.gateway.grant(entry).is_err() {
            return refused(Why::Failed);
        }
        log::say(&format!("device {} had another key certified at {}", quoted(name), self.address));
        match self.certificates(&device, Some(PublicKey::Other { point, mark: mark(&own) })) {
            Ok((certificate, authority)) => Answer::Enrolled { certificate, authority },
            Err(why) => {
                self.gateway.alarm(format!("device {} cannot have a key certified: {why}", quoted(name)));
                refused(Why::Failed)
            }
        }
    }

    /// What an enrolled device has signed, with what the book knows of it.
    fn stated<S: Signed>(&self, name: &str, token: &Secret) -> Result<(Device, S), Answer> {
        self.may_begin()?;
        let device =
            self.desk().book().and_then(|book| book.device(name)).map_err(|why| self.broken(&why))?;
        let device = device.and_then(|device| device.keys().map(|keys| (device, keys)));
        let (device, keys) = device.ok_or_else(|| self.tell_device_refused(None, "it is not enrolled"))?;
        let said =
            self.signed(name, token, &keys).map_err(|why| self.tell_device_refused(Some(name), why))?;
        if !device.is_enrolled(unix_s(SystemTime::now())) {
            return Err(self.tell_device_refused(Some(name), "its enrolment was revoked or is over"));
        }
        Ok((device, said))
    }

    /// A device says that it is there, and how it is.
    pub(super) fn statement(&self, name: &str, token: &Secret) -> Answer {
        let (device, said) = match self.stated::<Statement>(name, token) {
            Ok(stated) => stated,
            Err(no) => return no,
        };
        let now = self.gateway.engine.now();
        let record = Record::of_device(&device);
        let model = self.gateway.in_force().model;
        let heartbeat = Duration::from_secs(model.sign_in.heartbeat_s.into());
        let lasts = Duration::from_secs(model.sign_in.session_s.into());
        let health = Health { facts: said.facts, at: Moment::before(now, Duration::ZERO) };
        let device = sessions::Device {
            name: Some(device.name),
            enrolled: true,
            tags: device.tags,
            credential: None,
            until: Some(sessions::later(now, heartbeat)),
        };
        match self.gateway.sessions.of(self.address, now).filter(|session| self.is_on(session, name)) {
            Some(session) if !self.is_to_begin_anew(&session, lasts) => {
                self.heard(&session, device, Some(health), &record)
            }
            _ => {
                let (device, record) = (Some((device, Some(health))), Some(record));
                self.begin(Proven { device, record, ..Proven::by(Proof::Device) })
            }
        }
    }

    /// Whether less than half is left of a session of a device alone: then it begins anew, and its connections go on.
    /// Somebody's who has signed in there ends when it ends.
    pub(super) fn is_to_begin_anew(&self, session: &Session, lasts: Duration) -> bool {
        let half = sessions::later(self.gateway.engine.now(), lasts / 2);
        session.claims.user.is_none() && session.ends < half
    }

    /// Whether a session of the address is on this device: its own, or that of whoever shows its cookie, or one that is bound
    /// to the MAC address of the very machine that speaks here, and of which no other device is known.
    pub(super) fn is_on(&self, session: &Session, name: &str) -> bool {
        let other = session.claims.device.as_ref().and_then(|device| device.name.as_deref());
        if other.is_some_and(|other| other != name) {
            return false;
        }
        let is_opened = self.session().is_some_and(|mine| mine.id == session.id);
        self.is_on_machine(session) && (is_opened || other.is_some() || session.mac.is_some())
    }

    /// Takes in what a device says that is known already; what it does not say stays as it was. Only what changes an answer is
    /// recorded and told.
    pub(super) fn heard(
        &self,
        session: &Session,
        device: sessions::Device,
        health: Option<Health>,
        record: &Record,
    ) -> Answer {
        let gateway = self.gateway;
        let change = |claims: &mut Claims| {
            let before = claims.device.take().and_then(|device| device.credential);
            let credential = device.credential.clone().or(before);
            claims.device = Some(sessions::Device { credential, ..device.clone() });
            claims.health = health.clone().or(claims.health.take());
        };
        let heard = match gateway.amend_unrecorded(session, None, change) {
            Ok(Some(heard)) => heard,
            Ok(None) => return refused(Why::NotSignedIn),
            Err(NotBegun::Locked(_)) => return refused(Why::Locked),
            Err(_) => return refused(Why::Failed),
        };
        // Whoever has revoked it since the book was looked at has not seen it here.
        if !self.says_still(record) {
            return match gateway.take_device(&heard, None) {
                Ok(()) => refused(Why::Stale),
                Err(_) => refused(Why::Failed),
            };
        }
        let now = gateway.engine.now();
        let names = &gateway.in_force().model.identities;
        let stands = |session: &Session| {
            let known = sessions::identity(names, session, now);
            (known.device, known.postures)
        };
        if stands(session) != stands(&heard) {
            gateway.tell_changed(&heard, "its device or how it stands to a posture");
        }
        Answer::Standing(Box::new(self.stands_briefly(self.session().as_deref())))
    }
}
