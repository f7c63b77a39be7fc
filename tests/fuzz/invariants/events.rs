//! What holds for any bytes that come as an answer of a transmitter that is polled, and as a program of security events, each
//! ended by the byte 0xff, that two transmitters have signed.
//!
//! The first byte of an event says how: bits 4 to 7 let a time of [`PAUSES_S`] pass; bit 0 is the transmitter; with bit 1 the
//! other one's key signs; with bit 2 it is given under the id `1`; with bit 3 it comes twice. After that come a header, a
//! zero and claims.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::Duration;

use crate::identity::signals::{Effect, KeysAt, Subject, TYP, Taken, Told, Transmitter, judged, poll};
use crate::sessions::{Claims, Device, Factor, Moment, Origin, Proof, Report, Session};
use crate::signed::{Author, parts};
use crate::slow;
use crate::tokens::open;
use bulkhead_dataplane::policy::conditions::Posture;
use bulkhead_dataplane::verdict::Now;
use serde_json::{Map, Value};

/// When the first one comes, seconds since 1970.
const BEGIN: i64 = 1_800_000_000;
/// What can pass before one comes, seconds: around the leeway of clocks, and around the day that an event lasts.
const PAUSES_S: [i64; 16] =
    [0, 1, 59, 60, 61, 600, 3600, 43_200, 86_338, 86_339, 86_340, 86_341, 86_399, 86_400, 86_401, 90_000];
const DAY_S: i64 = 86_400;
const LEEWAY_S: i64 = 60;

/// Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    an_answer_is_read_as_slowly(bytes);
    let mut world = World::new();
    bytes.split(|byte| *byte == 0xff).for_each(|event| world.step(event));
}

/// RFC 8936, section 2.3.
fn an_answer_is_read_as_slowly(bytes: &[u8]) {
    let answer = slow::json(bytes).filter(Value::is_object);
    let sets = answer.as_ref().and_then(|answer| answer["sets"].as_object());
    let sets = sets.filter(|sets| sets.len() <= 32 && sets.values().all(Value::is_string));
    let read = poll::read(bytes).ok();
    assert_eq!(read.is_some(), sets.is_some());
    if let (Some((read, more)), Some(sets), Some(answer)) = (read, sets, &answer) {
        let read: Map<String, Value> = read.into_iter().map(|(id, token)| (id, token.into())).collect();
        assert_eq!(read, *sets);
        assert_eq!(more, answer["moreAvailable"] == true);
    }
}

/// Both transmitters.
static AUTHORS: LazyLock<[Author; 2]> = LazyLock::new(|| [1, 2].map(|seed| Author::new(&[seed; 32])));

struct World {
    transmitters: [Transmitter; 2],
    taken: Taken,
    /// When those that were taken were issued, by transmitter and id.
    known: BTreeMap<(usize, String), i64>,
    now: i64,
}

/// What a token tells.
struct Slow {
    id: String,
    issued: i64,
    told: Vec<(String, SlowSubject, Effect)>,
}

impl World {
    fn new() -> World {
        let transmitter = |name: &str, posture: Option<&str>| Transmitter {
            name: name.to_owned(),
            issuer: format!("https://{name}.example"),
            audience: "https://access.example".to_owned(),
            keys: KeysAt::File("keys.json".into()),
            ca_file: None,
            push_token_file: None,
            poll: None,
            poll_token_file: None,
            posture: posture.map(str::to_owned),
        };
        let transmitters = [transmitter("idp", Some("compliant")), transmitter("mdm", None)];
        World { transmitters, taken: Taken::default(), known: BTreeMap::new(), now: BEGIN }
    }

    fn step(&mut self, event: &[u8]) {
        let Some((how, rest)) = event.split_first() else { return };
        self.now += PAUSES_S[usize::from(how >> 4)];
        let from = usize::from(how & 1);
        let is_own = how & 2 == 0;
        let id = (how & 4 != 0).then_some("1");
        let (header, claims) = parts(rest);
        let Author { signer, .. } = &AUTHORS[if is_own { from } else { 1 - from }];
        let Author { keys, kid, .. } = &AUTHORS[from];
        let token = signer.sign_parts(header, claims);
        let said = slow::opened(header, claims, kid, Some("secevent+jwt")).filter(|_| is_own);
        let opened = open(&token, keys, TYP).ok().map(|(claims, _)| claims);
        assert_eq!(opened, said);
        let Some(claims) = opened else { return };
        for _ in 0..=how >> 3 & 1 {
            self.judge(from, &claims, id);
        }
    }

    /// It is taken exactly if the slow reading takes it, and it is the first time.
    fn judge(&mut self, from: usize, claims: &Map<String, Value>, id: Option<&str>) {
        let (settings, now) = (&self.transmitters[from], self.now);
        let judged = judged(claims, settings, id, now);
        let slow = slow_judged(claims, settings, id, now);
        assert_eq!(judged.is_ok(), slow.is_some(), "{judged:?}: {claims:?}");
        let (Ok(judged), Some(slow)) = (judged, slow) else { return };
        assert_eq!((&judged.id, judged.issued), (&slow.id, slow.issued));
        let key = (from, slow.id);
        let is_known = self.known.get(&key).is_some_and(|issued| now - issued <= DAY_S);
        let told = self.taken.once(&settings.issuer, judged, now);
        assert_eq!(told.is_ok(), !is_known, "{claims:?}");
        let Ok(told) = told else { return };
        self.known.insert(key, slow.issued);
        assert_eq!(told.len(), slow.told.len(), "{claims:?}");
        for (told, (kind, subject, effect)) in told.iter().zip(&slow.told) {
            assert!(kind.ends_with(&format!("/{}", told.event)), "{kind}: {}", told.event);
            assert_eq!(told.effect, *effect, "{claims:?}");
            subject.is_meant_by(&told.subject, &settings.issuer);
            takes_away_at_most(told);
        }
    }
}

fn slow_judged(
    claims: &Map<String, Value>,
    settings: &Transmitter,
    id: Option<&str>,
    now: i64,
) -> Option<Slow> {
    let is_us = |value: &Value| *value == settings.audience;
    let is_for_us = match claims.get("aud")? {
        Value::Array(several) => several.iter().any(is_us),
        one => is_us(one),
    };
    let jti = claims.get("jti")?.as_str()?;
    let is_id = (1..=256).contains(&jti.len()) && id.is_none_or(|id| id == jti);
    if claims.get("iss")? != settings.issuer.as_str() || !is_for_us || !is_id {
        return None;
    }
    // RFC 7519, section 2; up to the end of the year 9999.
    let date = |value: &Value| {
        let seconds = value.as_f64().filter(|seconds| (0.0..=253_402_300_799.0).contains(seconds))?;
        Some(seconds.floor() as i64)
    };
    let issued = date(claims.get("iat")?)?;
    let expires = match claims.get("exp") {
        Some(expires) => date(expires)?,
        None => i64::MAX - LEEWAY_S,
    };
    if !(now - DAY_S..=now + LEEWAY_S).contains(&issued) || now >= expires + LEEWAY_S {
        return None;
    }
    let events = claims.get("events")?.as_object()?;
    let mut told = Vec::new();
    for (kind, event) in events {
        if let Some(effect) = slow_effect(kind, event.as_object()?, settings.posture.as_deref())? {
            let subject = claims.get("sub_id").or_else(|| event.get("subject"))?;
            told.push((kind.clone(), SlowSubject::of(subject)?, effect));
        }
    }
    (1..=8).contains(&events.len()).then(|| Slow { id: jti.to_owned(), issued, told })
}

/// CAEP 1.0, section 3, and RISC 1.0, section 2; the outer nothing is an event that does not say what it has to say.
fn slow_effect(kind: &str, event: &Map<String, Value>, posture: Option<&str>) -> Option<Option<Effect>> {
    let known = kind.strip_prefix("https://schemas.openid.net/secevent/");
    let (of, name) = known.and_then(|known| known.split_once("/event-type/")).unwrap_or_default();
    let word = |key: &str| event.get(key)?.as_str();
    Some(match (of, name) {
        ("caep", "session-revoked")
        | ("risc", "account-disabled" | "account-purged" | "credential-compromise" | "sessions-revoked") => {
            Some(Effect::End)
        }
        ("caep", "credential-change") => (word("change_type")? != "create").then_some(Effect::DropFactor),
        ("caep", "assurance-level-change") => {
            (word("change_direction") != Some("increase")).then_some(Effect::DropFactor)
        }
        ("caep", "device-compliance-change") => match (posture, word("current_status")?) {
            (Some(posture), "compliant") => Some(Effect::Posture(posture.to_owned(), Posture::Met)),
            (Some(posture), _) => Some(Effect::Posture(posture.to_owned(), Posture::Failed)),
            (None, "compliant") => None,
            (None, _) => Some(Effect::End),
        },
        ("caep", "risk-level-change") => match word("current_level")?.to_ascii_uppercase().as_str() {
            "LOW" => Some(Effect::Risk(20)),
            "MEDIUM" => Some(Effect::Risk(50)),
            _ => Some(Effect::Risk(90)),
        },
        _ => None,
    })
}

/// Whom an event is about: of a user, of a session, of a device, of a group the format, the issuer and the name that its JSON
/// has.
#[derive(Debug)]
struct SlowSubject([Option<[String; 3]>; 4]);

impl SlowSubject {
    /// RFC 9493, section 3; SSF 1.0, section 3.
    fn of(subject: &Value) -> Option<SlowSubject> {
        let members = ["user", "session", "device", "group"].map(|member| subject.get(member));
        match subject.as_object()?.get("format") {
            Some(format) if format == "complex" => {}
            None => {}
            Some(_) => return Some(SlowSubject([Some(SlowSubject::name(subject)?), None, None, None])),
        }
        let mut names = [None, None, None, None];
        for (name, member) in names.iter_mut().zip(members) {
            if let Some(member) = member {
                *name = Some(SlowSubject::name(member)?);
            }
        }
        names.iter().any(Option::is_some).then_some(SlowSubject(names))
    }

    fn name(subject: &Value) -> Option<[String; 3]> {
        let text = |key: &str| {
            subject[key].as_str().filter(|text| (1..=512).contains(&text.len())).map(str::to_owned)
        };
        let format = subject["format"].as_str()?.to_owned();
        let (issuer, name) = match format.as_str() {
            "email" => (String::new(), text("email")?),
            "iss_sub" => (text("iss")?, text("sub")?),
            "opaque" => (String::new(), text("id")?),
            _ => return None,
        };
        Some([format, issuer, name])
    }

    /// Whether it is about whoever has this user, issuer, subject, session, device and group.
    fn means(&self, who: &[Option<String>; 6], transmitter: &str) -> bool {
        let [user, issuer, subject, session, device, group] = who.each_ref().map(Option::as_deref);
        self.0.iter().enumerate().all(|(member, name)| {
            let Some([format, of, name]) = name.as_ref().map(|name| name.each_ref().map(String::as_str))
            else {
                return true;
            };
            let is_from = issuer == Some(if format == "opaque" { transmitter } else { of });
            match (member, format) {
                (0, "email") => user.map(str::to_ascii_lowercase) == Some(name.to_ascii_lowercase()),
                (0, "iss_sub") => is_from && subject == Some(name),
                (0, _) => is_from && (subject == Some(name) || session == Some(name)),
                (_, "email") => false,
                (1, _) => is_from && session == Some(name),
                (3, _) => is_from && group == Some(name),
                _ => device == Some(name),
            }
        })
    }

    /// What was read of it means the same sessions: that of whom it is about, and those of which one thing is another.
    fn is_meant_by(&self, read: &Subject, transmitter: &str) {
        let name = |member: usize| self.0[member].as_ref().map(|[_, _, name]| name.clone());
        let issuer = self.0.iter().flatten().map(|[_, of, _]| of.clone()).find(|of| !of.is_empty());
        let issuer = issuer.or_else(|| Some(transmitter.to_owned()));
        let who = [name(0), issuer, name(0), name(1), name(2), name(3)];
        let nobody = ["nobody", transmitter].map(|name| Some(name.to_owned()));
        let others = [None, name(0), name(1), name(2), name(3)].into_iter().chain(nobody);
        let others: Vec<_> = others.collect();
        let changed = |change: fn(&str) -> String| name(0).map(|name| change(&name));
        let more = [changed(str::to_ascii_uppercase), changed(|name| format!("{name}x"))];
        let asked = |who: &[Option<String>; 6]| {
            let is = read.means(&session(who));
            assert_eq!(is, self.means(who, transmitter), "{who:?}: {self:?}");
        };
        asked(&who);
        for place in 0..who.len() {
            for other in others.iter().chain(&more) {
                let mut who = who.clone();
                who[place].clone_from(other);
                asked(&who);
            }
        }
        let nobody = [None, None, None, None, None, None];
        assert!(!read.means(&session(&nobody)), "it is about somebody");
    }
}

fn session(who: &[Option<String>; 6]) -> Session {
    let [user, issuer, subject, session, device, group] = who.clone();
    let subject = subject.unwrap_or_default();
    let provider = "corp".to_owned();
    let origin = issuer.map(|issuer| Origin { provider, issuer, subject, session });
    let device = device.map(|name| Device { name: Some(name), ..Device::default() });
    Session {
        id: "abc".to_owned(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        segment: "office".to_owned(),
        mac: None,
        claims: Claims { user, device, origin, groups: group.into_iter().collect(), ..Claims::default() },
        proof: Proof::Operator,
        begun: Now(0),
        ends: Now(1),
    }
}

/// What was shown stays as it was, or is gone; what somebody reports is the transmitter's one posture, or a risk.
fn takes_away_at_most(told: &Told) {
    let now = Moment::before(Now(5_000_000_000), Duration::ZERO);
    let report = |posture: &str, state| Report { posture: posture.to_owned(), state, at: now };
    let who = ["alice", "https://idp.example", "alice-1", "sid-1", "laptop-7", "dba"];
    let before = Claims {
        factor: Some(Factor { shown: now, phishing_resistant: true }),
        reports: vec![report("compliant", Posture::Unknown), report("patched", Posture::Failed)],
        risk: Some(70),
        ..session(&who.map(|text| Some(text.to_owned()))).claims
    };
    let mut after = before.clone();
    told.effect.change(&mut after, now);
    let patched = report("patched", Posture::Failed);
    let expected = match &told.effect {
        Effect::End => before,
        Effect::DropFactor => Claims { factor: None, ..before },
        Effect::Posture(name, state) => Claims { reports: vec![patched, report(name, *state)], ..before },
        Effect::Risk(risk) => Claims { risk: Some(*risk), ..before },
    };
    assert_eq!(after, expected);
}
