//! Sessions over the control socket, by the clock, and when another policy comes in force.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bulkhead_dataplane::policy::conditions::{Identity, Posture as State, Who};
use bulkhead_dataplane::topology::{Egress, Mac, Topology};
use bulkhead_dataplane::verdict::{Now, PortId};
use serde_json::json;

use super::acts::{session_begins, session_changed, session_changes};
use super::gateway::Gateway;
use super::log;
use super::time::rfc3339;
use crate::api::server::Client;
use crate::api::session::{self as api, NewSession, SessionFilter};
use crate::api::types::{Asked, Refusal, Reply};
use crate::audit::{By, Entry, Kind};
use crate::config::diagnostics::{Located, quoted};
use crate::config::schema::Text;
use crate::config::values;
use crate::explain::{Occasion, written};
use crate::model::{Asker, Model};
use crate::sessions::{
    self, Claims, Device, Ended, Factor, LONGEST, Moment, New, Placed, Proof, Report, Session, Which, Why,
};
use crate::store;

/// Sessions that an alarm names one by one.
const NAMED: usize = 5;

/// Begins a session. Returns when every worker judges by it.
///
/// # Errors
///
/// What of it makes no sense, or why it cannot begin; nothing has changed.
pub fn begin(gateway: &Gateway, new: &NewSession, by: &store::Who) -> Result<api::Session, Refusal> {
    let model = gateway.in_force().model;
    let address = address(&new.address)?;
    let lasts = values::seconds(&new.lasts).map_err(|wrong| refused("--for", wrong))?;
    let lasts = Duration::from_secs(lasts.into());
    if lasts > LONGEST {
        return Err(Refusal::error("--for: a session may last a year"));
    }
    let mac = new.mac.as_deref().map(values::mac).transpose().map_err(|wrong| refused("--mac", wrong))?;
    let mac = binding(&gateway.engine.snapshot().topology, address, mac).map_err(Refusal::error)?;
    let now = gateway.engine.now();
    let claims = claims(new, &model, now)?;
    let new = New { address, mac, claims, proof: Proof::Operator, ends: sessions::later(now, lasts) };
    let session = gateway.begin_session(new, Some(by))?;
    Ok(row(gateway, &model, &session, now))
}

/// Tells the sessions that match.
///
/// # Errors
///
/// The filter makes no sense.
pub fn list(
    gateway: &Gateway,
    filter: &SessionFilter,
    client: &mut Client,
) -> Result<io::Result<()>, Refusal> {
    let which = which(filter)?;
    let (model, now) = (gateway.in_force().model, gateway.engine.now());
    let found = gateway.sessions.list(&which, now);
    let mut rows = found.iter().map(|session| row(gateway, &model, session, now));
    Ok(rows.try_for_each(|row| client.say(Reply::Session(Box::new(row)))))
}

/// Ends the sessions that match. Returns how many, when no packet crosses by them any more.
///
/// # Errors
///
/// The filter makes no sense, or means all without `all`, or no session has the id; nothing has changed. Or a worker is
/// stuck.
pub fn revoke(gateway: &Gateway, filter: &SessionFilter, all: bool, by: &store::Who) -> Result<u64, Refusal> {
    if *filter == SessionFilter::default() && !all {
        return Err(Refusal::error("this would end every session; say which, or --all"));
    }
    let revoked = gateway.end_sessions(&which(filter)?, Some(by))?;
    match &filter.id {
        Some(id) if revoked == 0 => Err(Refusal::error(format!(
            "no session has the id {}; `bulkhead session list` shows them",
            quoted(id)
        ))),
        _ => Ok(revoked),
    }
}

/// What is known of the source of a question, if that is an address and the question does not say.
pub fn occasion(gateway: &Gateway, model: &Model, from: &str, asked: &Asked) -> Option<Occasion> {
    let source =
        from.parse().ok().filter(|_| *asked == Asked::default() && model.segment_id(from).is_none())?;
    let now = gateway.engine.now();
    let Some(session) = gateway.sessions.of(source, now) else {
        let policy = &gateway.engine.snapshot().policy.policy;
        let judged = policy.identities().judge(source, None, now, |who| who == Who::Expired);
        let words = vec!["whose session has ended".to_owned()];
        return judged.answer.then(|| Occasion { asker: Asker::Expired, words, ..Occasion::now() });
    };
    let identity = sessions::identity(&model.identities, &session, now);
    let mut words: Vec<String> = session.claims.user.iter().map(|user| format!("user {user}")).collect();
    words.extend(groups(model, &identity).into_iter().map(|group| format!("in group {group}")));
    let device = session.claims.device.as_ref();
    words.extend(device.and_then(|device| device.name.as_ref()).map(|name| format!("device {name}")));
    words.extend(device.and_then(|device| device.credential.clone()));
    words.push(format!("session {}", session.id));
    Some(Occasion { asker: Asker::Known(Box::new(identity)), words, ..Occasion::now() })
}

/// Why no packet may cross by a session.
pub(super) enum NotBegun {
    /// None can begin at this address.
    Refused(IpAddr, sessions::Refused),
    /// Somebody or something of it is locked out.
    Locked(Refusal),
    /// It must not begin: it cannot be recorded, or there is no room in quarantine.
    Denied(Refusal),
    /// It has begun or changed, but a worker does not know.
    Stuck(Refusal),
}

impl From<NotBegun> for Refusal {
    fn from(not: NotBegun) -> Refusal {
        match not {
            NotBegun::Refused(address, refused) => {
                Refusal::error(format!("no session for {address}: {refused}"))
            }
            NotBegun::Locked(refusal) | NotBegun::Denied(refusal) | NotBegun::Stuck(refusal) => refusal,
        }
    }
}

impl Gateway {
    /// Begins a session, records it and tells of it; without `by` it is the user's own doing. Returns when every worker
    /// judges by it.
    pub(super) fn begin_session(
        &self,
        mut new: New,
        by: Option<&store::Who>,
    ) -> Result<Arc<Session>, NotBegun> {
        let now = self.engine.now();
        self.remind(&mut new.claims);
        // It is recorded before it opens anything, so its name is made before.
        let id = self.sessions.fresh_id();
        let session = self
            .sessions
            .intended(&id, &new, now)
            .map_err(|refused| NotBegun::Refused(new.address, refused))?;
        if let Some(why) = self.locked(&session.claims, session.address) {
            let message = format!("no session for {}: {why}", session.address);
            return Err(NotBegun::Locked(Refusal::error(message)));
        }
        self.quarantine_of(&session.claims, session.address).map_err(NotBegun::Denied)?;
        self.grant(session_begins(&session, by)).map_err(NotBegun::Denied)?;
        let begun = self.sessions.begin_as(id, new, now).map_err(|refused| {
            let failed = session_changed(Kind::SessionFailed, &session, by).with("why", refused.to_string());
            self.done(failed);
            NotBegun::Refused(session.address, refused)
        })?;
        let settled = self.engine.settle();
        if let Some(replaced) = &begun.replaced {
            self.done(
                session_changed(Kind::SessionReplaced, replaced, by).with("by_id", begun.session.id.clone()),
            );
            self.tell("replaced", replaced, by);
        }
        self.tell("begun", &begun.session, by);
        self.settled(settled, "a session has begun").map_err(NotBegun::Stuck)?;
        // Whoever was locked out or put in quarantine since the look above has not seen this session.
        self.still_free(&begun.session, by)?;
        // Nor has whoever told something of it.
        let mut claims = begun.session.claims.clone();
        self.remind(&mut claims);
        if claims == begun.session.claims {
            return Ok(begun.session);
        }
        Ok(self.amend_unrecorded(&begun.session, by, |_| {})?.unwrap_or(begun.session))
    }

    /// Adds what transmitters of security events have said last of whoever has these claims.
    fn remind(&self, claims: &mut Claims) {
        self.desk.signals.remind(&self.in_force().model.sign_in.transmitters, claims);
    }

    /// Changes what is known of a session ([`Sessions::amend`](crate::sessions::Sessions::amend)), records and tells of it,
    /// with the words `what`. Returns it as it is then, when every worker judges by that; nothing when it has ended.
    ///
    /// # Errors
    ///
    /// It cannot be recorded, and nothing has changed; or a worker is stuck.
    pub(super) fn amend_session(
        &self,
        session: &Session,
        by: Option<&store::Who>,
        what: &str,
        change: impl Fn(&mut Claims),
    ) -> Result<Option<Arc<Session>>, Refusal> {
        let entry = session_changed(Kind::SessionChanged, session, by).with("what", what);
        self.amend_session_as(session, by, entry, change)
    }

    /// As [`Gateway::amend_session`], recorded as this.
    pub(super) fn amend_session_as(
        &self,
        session: &Session,
        by: Option<&store::Who>,
        entry: Entry,
        change: impl Fn(&mut Claims),
    ) -> Result<Option<Arc<Session>>, Refusal> {
        self.grant(entry)?;
        let amended = self.amend_unrecorded(session, by, change)?;
        if let Some(amended) = &amended {
            self.tell("changed", amended, by);
        }
        Ok(amended)
    }

    /// As [`Gateway::amend_session`], neither recorded nor told: what takes something away does not wait for the disk, and
    /// what a device says all the time is news only when it changes an answer.
    pub(super) fn amend_unrecorded(
        &self,
        session: &Session,
        by: Option<&store::Who>,
        change: impl Fn(&mut Claims),
    ) -> Result<Option<Arc<Session>>, NotBegun> {
        // It may be of somebody or on a device then of whom something was said.
        let change = |claims: &mut Claims| {
            change(claims);
            self.remind(claims);
        };
        let mut meant = session.clone();
        change(&mut meant.claims);
        // It may be of a group or on a device then that is locked out: seen before anything is opened by it.
        self.still_free(&meant, by)?;
        let amended = self.sessions.amend(session.address, &session.id, self.engine.now(), change);
        let Some(amended) = amended else { return Ok(None) };
        let settled = self.engine.settle();
        self.settled(settled, "a session has changed").map_err(NotBegun::Stuck)?;
        // Whoever was locked out or put in quarantine since that look has not seen this change.
        self.still_free(&amended, by)?;
        Ok(Some(amended))
    }

    /// Records and tells that something else is known of a session.
    pub(super) fn tell_changed(&self, session: &Session, what: &str) {
        self.done(session_changed(Kind::SessionChanged, session, None).with("what", what));
        self.tell("changed", session, None);
    }

    /// Ends a session that comes to be somebody's who is locked out, and brings one into quarantine that is meant; without
    /// room there it ends, too.
    fn still_free(&self, session: &Session, by: Option<&store::Who>) -> Result<(), NotBegun> {
        let not = if let Some(why) = self.locked(&session.claims, session.address) {
            NotBegun::Locked(Refusal::error(format!("the session has ended: {why}")))
        } else if let Err(refusal) = self.quarantine_of(&session.claims, session.address) {
            NotBegun::Denied(refusal)
        } else {
            return Ok(());
        };
        self.end_sessions(&Which::one(session), by).map_err(NotBegun::Stuck)?;
        Err(not)
    }

    /// Ends sessions, records it and tells of it. Returns how many, when no packet crosses by them any more.
    ///
    /// # Errors
    ///
    /// A worker is stuck.
    pub(super) fn end_sessions(&self, which: &Which, by: Option<&store::Who>) -> Result<u64, Refusal> {
        self.end_sessions_as(which, by, |session| session_changed(Kind::SessionRevoked, session, by))
    }

    /// As [`Gateway::end_sessions`], recorded as this.
    pub(super) fn end_sessions_as(
        &self,
        which: &Which,
        by: Option<&store::Who>,
        entry: impl Fn(&Session) -> Entry,
    ) -> Result<u64, Refusal> {
        self.tell_ended(&self.sessions.end(which), by, entry)
    }

    /// Waits until no packet crosses by sessions that have ended, records that and tells of it. Returns how many.
    ///
    /// # Errors
    ///
    /// A worker is stuck.
    pub(super) fn tell_ended(
        &self,
        ended: &[Arc<Session>],
        by: Option<&store::Who>,
        entry: impl Fn(&Session) -> Entry,
    ) -> Result<u64, Refusal> {
        // Also when there was none: somebody else may be ending the same ones at this moment.
        let settled = self.engine.settle();
        self.done_all(ended.iter().map(|session| entry(session)));
        for session in ended {
            self.tell("revoked", session, by);
        }
        self.settled(settled, "sessions are revoked")?;
        Ok(ended.len() as u64)
    }

    /// Forgets the sessions that have ended by the clock. Cheap when none has: to be called all the time.
    pub fn follow_sessions(&self) {
        for session in self.sessions.follow(self.engine.now()) {
            self.audit.later(session_changes(Kind::SessionExpired, &session, By::Clock));
            self.tell("expired", &session, None);
        }
    }

    /// Tells of the sessions that another policy has ended, and of those that it has begun.
    pub(super) fn tell_placed(&self, placed: &Placed) {
        let Placed { ended, bound } = placed;
        // What the policy says itself is no trouble.
        for ended in ended {
            let change = match ended.why {
                Why::Bound => "bound_by_policy",
                Why::Unbound => "unbound",
                Why::Moved | Why::NoRoom => continue,
            };
            let entry = session_changes(Kind::SessionMoved, &ended.session, By::Gateway);
            self.audit.later(entry.with("why", change));
            self.tell(change, &ended.session, None);
        }
        for session in bound {
            self.audit.later(session_begins(session, None));
            self.tell("bound", session, None);
        }
        for (why, change, words) in [
            (Why::Moved, "moved", "their addresses belong to other segments now, or to none"),
            (Why::NoRoom, "no_room", "the policy's table has no room for them"),
        ] {
            let ended: Vec<_> = ended.iter().filter(|ended| ended.why == why).collect();
            for ended in &ended {
                self.audit.later(
                    session_changes(Kind::SessionMoved, &ended.session, By::Gateway).with("why", change),
                );
                self.event(change, &ended.session, None);
            }
            if ended.is_empty() {
                continue;
            }
            let named = |ended: &&Ended| {
                let Session { address, segment, .. } = &*ended.session;
                format!("{} at {address} (was {segment})", whose(&ended.session))
            };
            let mut names: Vec<String> = ended.iter().take(NAMED).map(named).collect();
            if ended.len() > NAMED {
                names.push(format!("and {} more", ended.len() - NAMED));
            }
            self.alarm(format!(
                "{} session(s) ended with the policy of before: {words}: {}",
                ended.len(),
                names.join(", ")
            ));
        }
    }

    /// Logs a change of a session, and tells it as an event.
    fn tell(&self, change: &str, session: &Session, by: Option<&store::Who>) {
        let Session { id, address, segment, ends, .. } = session;
        let until = match change {
            "begun" => format!(" until {}", rfc3339(self.engine.wall(*ends))),
            _ => String::new(),
        };
        let by = by.map(name_of);
        let asked = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        log::say(&format!(
            "session {id} {change}{asked}: {} at {address} ({segment}){until}",
            whose(session)
        ));
        self.event(change, session, by.as_deref());
    }

    fn event(&self, change: &str, session: &Session, by: Option<&str>) {
        self.hub.told(json!({
            "ts": rfc3339(SystemTime::now()),
            "kind": "session",
            "change": change,
            "id": session.id,
            "address": session.address,
            "segment": session.segment,
            "user": session.claims.user,
            "device": session.claims.device.as_ref().and_then(|device| device.name.as_ref()),
            "by": by,
        }));
    }

    /// Whether every worker judges by what was written.
    pub(super) fn settled(
        &self,
        settled: Result<(), bulkhead_dataplane::engine::Error>,
        what: &str,
    ) -> Result<(), Refusal> {
        settled.map_err(|error| {
            let message = format!("{what}, but {error}");
            self.alarm(message.clone());
            Refusal::error(message)
        })
    }
}

/// Who asked for something.
pub(super) fn name_of(who: &store::Who) -> String {
    match (&who.user, who.uid) {
        (Some(user), _) => user.clone(),
        (None, Some(uid)) => format!("user {uid}"),
        (None, None) => "somebody".to_owned(),
    }
}

/// Whom a session is of, for people.
fn whose(session: &Session) -> String {
    let Claims { user, device, .. } = &session.claims;
    match (user, device.as_ref().and_then(|device| device.name.as_ref())) {
        (Some(user), _) => user.clone(),
        (None, Some(device)) => format!("device {device}"),
        (None, None) => "a device".to_owned(),
    }
}

/// What is wrong with an option's value.
pub(super) fn refused(option: &str, wrong: values::Wrong) -> Refusal {
    Refusal::error(format!("{option}: {wrong}"))
}

pub(super) fn address(text: &str) -> Result<IpAddr, Refusal> {
    let address: Result<IpAddr, _> = text.parse();
    let wrong = |_| Refusal::error(format!("--address: {} is not an IP address", quoted(text)));
    // `::ffff:10.1.0.7` is 10.1.0.7: no packet has it.
    address.map(|address| address.to_canonical()).map_err(wrong)
}

fn which(filter: &SessionFilter) -> Result<Which, Refusal> {
    let address = filter.address.as_deref().map(address).transpose()?;
    Ok(Which { id: filter.id.clone(), user: filter.user.clone(), address })
}

/// What is said of whoever is behind the address.
fn claims(new: &NewSession, model: &Model, now: Now) -> Result<Claims, Refusal> {
    if new.asked.session.is_some() || new.asked.at.is_some() {
        return Err(Refusal::error("a session begins now, and has not ended"));
    }
    let written = written(&new.asked, model).map_err(|error| Refusal::error(format!("{error:#}")))?;
    if let Some(name) = &new.device_name {
        values::identity(name, "device").map_err(|wrong| refused("--device-name", wrong))?;
    }
    let is_known = written.device.is_some() || new.device_name.is_some();
    if written.user.is_none() && !is_known {
        let message = "say who is behind the address (--user), or at least which device (--device)";
        return Err(Refusal::error(message));
    }
    let texts = |texts: Vec<Text>| texts.into_iter().map(|text| text.value).collect();
    let device = written.device.map(|device| (device.enrolled, device.tags));
    let device = is_known.then(|| {
        let (enrolled, tags) = device.unwrap_or_default();
        Device { name: new.device_name.clone(), enrolled, tags: texts(tags), ..Device::default() }
    });
    let factor = written.mfa_age_s.map(|age_s| Factor {
        shown: Moment::before(now, Duration::from_secs(age_s.into())),
        phishing_resistant: written.phishing_resistant,
    });
    let at = Moment::before(now, Duration::ZERO);
    let report =
        |(posture, state): (Text, Located<State>)| Report { posture: posture.value, state: state.value, at };
    Ok(Claims {
        user: written.user.map(|user| user.value),
        groups: texts(written.groups),
        device,
        factor,
        origin: None,
        reports: written.postures.into_iter().map(report).collect(),
        health: None,
        risk: written.risk,
    })
}

/// The MAC address to which a session of this address is bound; `None` behind routers, whose own all packets have.
///
/// # Errors
///
/// It is not known, or one is given where there is none.
pub(super) fn binding(
    topology: &Topology,
    address: IpAddr,
    given: Option<Mac>,
) -> Result<Option<Mac>, String> {
    let is_neighbour = |port: PortId, mac: Mac| {
        let neighbours = &topology.spec().neighbours;
        neighbours.iter().any(|n| (n.port, n.address, n.mac) == (port, address, mac))
    };
    match topology.egress(address) {
        Egress::Refuse(reason) => Err(format!("no session for {address}: {reason}: {}", reason.help())),
        Egress::Send(hop) if is_neighbour(hop.port, hop.destination) => Ok(Some(given.unwrap_or(hop.destination))),
        Egress::Resolve(_, next_hop) if next_hop == address => given.map(Some).ok_or_else(|| {
            format!(
                "no session for {address}: its MAC address is not known, for it has not been heard of; have it send \
                 something through the gateway, or give --mac"
            )
        }),
        Egress::Send(_) | Egress::Resolve(..) if given.is_some() => {
            Err(format!("--mac: {address} is behind a router, from which all its packets come"))
        }
        Egress::Send(_) | Egress::Resolve(..) => Ok(None),
    }
}

/// The names of all groups of an identity.
pub(super) fn groups(model: &Model, identity: &Identity) -> Vec<String> {
    let name = |id: u32| model.identities.groups.get(id as usize).map(|group| group.name.clone());
    identity.groups.iter().filter_map(name).collect()
}

/// A session in the words of the control socket.
pub(super) fn row(gateway: &Gateway, model: &Model, session: &Session, now: Now) -> api::Session {
    let claims = &session.claims;
    let identity = sessions::identity(&model.identities, session, now);
    let posture = |report: &Report| {
        let id = model.identities.posture(&report.posture);
        let state = id.and_then(|id| identity.postures.get(id.0 as usize)).copied().unwrap_or_default();
        api::Posture {
            name: report.posture.clone(),
            state: values::posture_state_name(state).to_owned(),
            age_s: report.at.age_s(now),
        }
    };
    let device = claims.device.as_ref().map(|device| api::Device {
        name: device.name.clone(),
        enrolled: device.enrolled,
        tags: device.tags.clone(),
        credential: device.credential.clone(),
    });
    let mfa = claims.factor.map(|factor| api::Factor {
        age_s: factor.shown.age_s(now),
        phishing_resistant: factor.phishing_resistant,
    });
    api::Session {
        id: session.id.clone(),
        address: session.address.to_string(),
        segment: session.segment.clone(),
        mac: session.mac.map(values::mac_text),
        user: claims.user.clone(),
        groups: groups(model, &identity),
        device,
        mfa,
        postures: claims.reports.iter().map(posture).collect(),
        risk: claims.risk,
        proof: session.proof.name().to_owned(),
        begun: rfc3339(gateway.engine.wall(session.begun)),
        ends: rfc3339(gateway.engine.wall(session.ends)),
        left_s: session.ends.0.saturating_sub(now.0) / 1_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_dataplane::topology::{Neighbour, PortState, Route, RouteKind, TopologySpec};

    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const HOST: Mac = [2, 0, 0, 0, 0, 7];
    const ROUTER: Mac = [2, 0, 0, 0, 0, 8];

    fn topology() -> Topology {
        let neighbour =
            |address: &str, mac| Neighbour { port: PortId(0), address: address.parse().unwrap(), mac };
        let route = |prefix: &str, gateway: Option<&str>| Route {
            prefix: prefix.parse().unwrap(),
            kind: RouteKind::Via(PortId(0), gateway.map(|gateway| gateway.parse().unwrap())),
        };
        Topology::new(TopologySpec {
            ports: vec![PortState {
                mac: OWN,
                mtu: 1500,
                up: true,
                addresses: vec!["10.1.0.1/24".parse().unwrap()],
            }],
            routes: vec![
                route("10.1.0.0/24", None),
                route("10.2.0.0/16", Some("10.1.0.8")),
                route("10.3.0.0/16", Some("10.1.0.9")),
            ],
            neighbours: vec![neighbour("10.1.0.7", HOST), neighbour("10.1.0.8", ROUTER)],
            own_addresses: vec![],
        })
    }

    fn bound(address: &str, given: Option<Mac>) -> Result<Option<Mac>, String> {
        binding(&topology(), address.parse().unwrap(), given)
    }

    #[test]
    fn a_session_is_bound_to_its_neighbours_mac_address_or_the_given_one() {
        assert_eq!(bound("10.1.0.7", None), Ok(Some(HOST)));
        assert_eq!(bound("10.1.0.8", None), Ok(Some(ROUTER)), "a router is a neighbour itself");
        assert_eq!(bound("10.1.0.7", Some(ROUTER)), Ok(Some(ROUTER)));
        assert_eq!(bound("10.1.0.66", Some(HOST)), Ok(Some(HOST)));
        let unknown = bound("10.1.0.66", None).unwrap_err();
        assert!(
            unknown.contains("10.1.0.66: its MAC address is not known") && unknown.contains("--mac"),
            "{unknown}"
        );
    }

    #[test]
    fn behind_a_router_known_or_not_no_mac_address_is_the_sessions_own() {
        for address in ["10.2.0.5", "10.3.0.5"] {
            assert_eq!(bound(address, None), Ok(None));
            assert!(bound(address, Some(HOST)).unwrap_err().contains("is behind a router"));
        }
    }

    #[test]
    fn what_no_packet_can_come_from_has_no_session() {
        for address in ["10.1.0.1", "10.1.0.255", "192.0.2.1", "fd00::1"] {
            assert!(bound(address, None).is_err() && bound(address, Some(HOST)).is_err(), "{address}");
        }
    }
}
