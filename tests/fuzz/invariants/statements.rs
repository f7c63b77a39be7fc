//! What holds for any bytes that come as something that a device has signed: as one token, and as a program of steps, each ended
//! by the byte 0xff, that challenge addresses and send what two devices have signed.
//!
//! The first byte of a step says how: bits 4 to 7 let time pass, 20 seconds each; bits 0 and 1 are the address; with bit 2
//! another device's key signs; with bit 3 it comes twice. After that come a header, a zero and claims; a step with nothing
//! asks for a challenge. `$` and a digit in the claims stand for the challenge of that number.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use crate::config::identity::Check;
use crate::identity::attempts::Attempts;
use crate::identity::statements::{self, Signed, heard};
use crate::portal::wire::{Certification, Enrolment, Secret, Statement};
use crate::sessions::{Health, Moment};
use crate::signed::{Author, parts};
use crate::slow;
use bulkhead_dataplane::policy::conditions::Posture;
use bulkhead_dataplane::verdict::Now;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The device of which the gateway knows the key.
const DEVICE: &str = "laptop";
/// How long a challenge may be answered, and how many an address may have at once.
const CHALLENGE: Duration = Duration::from_secs(300);
const CHALLENGES: usize = 8;
/// When statements are heard, by the packet path's clock, and a second of it.
const HEARD: Now = Now(5_000_000_000_000);
const SECOND: i128 = 1_000_000_000;

/// Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    let mut world = World::new();
    if let Ok(token) = std::str::from_utf8(bytes) {
        let token = Secret::new(token.to_owned());
        assert!(world.heard::<Statement>(&token, 0).is_err(), "nobody has signed it");
    }
    bytes.split(|byte| *byte == 0xff).for_each(|step| world.step(step));
}

/// A challenge that was given, as long as it counts.
struct Challenge {
    nonce: String,
    address: usize,
    begun: Instant,
    counts: bool,
}

/// Both devices; the gateway knows the first.
static AUTHORS: LazyLock<[Author; 2]> = LazyLock::new(|| [1, 2].map(|seed| Author::new(&[seed; 32])));

struct World {
    challenges: Mutex<Attempts<()>>,
    given: Vec<Challenge>,
    now: Instant,
}

impl World {
    fn new() -> World {
        World { challenges: Mutex::default(), given: Vec::new(), now: Instant::now() }
    }

    fn step(&mut self, step: &[u8]) {
        let Some((how, rest)) = step.split_first() else { return };
        self.now += Duration::from_millis(1) + Duration::from_secs(20) * u32::from(how >> 4);
        let address = usize::from(how & 3);
        if rest.is_empty() {
            return self.challenge(address);
        }
        let (header, claims) = parts(rest);
        let claims = self.with_challenges(claims);
        let is_own = how & 4 == 0;
        let token = Secret::new(AUTHORS[usize::from(!is_own)].signer.sign_parts(header, &claims));
        for _ in 0..=how >> 3 & 1 {
            let said =
                |typ: &str| slow::opened(header, &claims, &AUTHORS[0].kid, Some(typ)).filter(|_| is_own);
            let statement = said("bulkhead-statement+jwt").filter(is_statement);
            let enrolment = said("bulkhead-enrolment+jwt").filter(|said| has(said, &[]));
            let certification = said("bulkhead-certification+jwt").filter(|said| has(said, &["key"]));
            if let Some(statement) = self.hears::<Statement>(&token, address, statement) {
                health_is_what_was_said(&statement);
            }
            self.hears::<Enrolment>(&token, address, enrolment);
            if let Some(said) = self.hears::<Certification>(&token, address, certification) {
                assert_eq!(statements::point(&said).is_some(), is_point(&said.key), "{}", said.key);
            }
        }
    }

    fn challenge(&mut self, address: usize) {
        let mine = self.given.iter_mut().filter(|given| given.address == address && given.counts);
        let mut mine: Vec<_> = mine.collect();
        if mine.len() == CHALLENGES {
            mine[0].counts = false;
        }
        let nonce = self.challenges.lock().expect("it is whole").begin(at(address), (), self.now);
        let nonce = nonce.expect("there is room").reveal().to_owned();
        self.given.push(Challenge { nonce, address, begun: self.now, counts: true });
    }

    fn with_challenges(&self, claims: &[u8]) -> Vec<u8> {
        let mut written = Vec::new();
        let mut rest = claims;
        while let [first, more @ ..] = rest {
            let number = more.first().filter(|_| *first == b'$').and_then(|n| (*n as char).to_digit(10));
            match number.and_then(|number| self.given.get(number as usize)) {
                Some(given) => {
                    written.extend_from_slice(given.nonce.as_bytes());
                    rest = &more[1..];
                }
                None => {
                    written.push(*first);
                    rest = more;
                }
            }
        }
        written
    }

    fn heard<S: Signed>(&self, token: &Secret, address: usize) -> Result<S, &'static str> {
        heard(token, &AUTHORS[0].keys, DEVICE, &self.challenges, at(address), self.now)
    }

    /// It is heard exactly if it is one of its kind, and answers a challenge of its address that counts, which it uses up.
    fn hears<S: Signed + Serialize + Debug + PartialEq>(
        &mut self,
        token: &Secret,
        address: usize,
        slow: Option<Map<String, Value>>,
    ) -> Option<S> {
        let heard = self.heard::<S>(token, address);
        let now = self.now;
        let answered = slow.as_ref().and_then(|said| {
            let is_it = |given: &&mut Challenge| said["nonce"] == given.nonce && given.address == address;
            self.given.iter_mut().filter(|given| given.counts && now < given.begun + CHALLENGE).find(is_it)
        });
        assert_eq!(heard.is_ok(), answered.is_some(), "{heard:?}: {slow:?}");
        let said = heard.ok()?;
        answered?.counts = false;
        let said_again = serde_json::to_value(&said).expect("it is JSON");
        assert_eq!(said_again, Value::Object(slow?));
        self.is_heard_as_the_agent_signs_it(&said, address);
        Some(said)
    }

    fn is_heard_as_the_agent_signs_it<S: Signed + Serialize + Debug + PartialEq>(
        &mut self,
        said: &S,
        address: usize,
    ) {
        let begun = self.challenges.lock().expect("it is whole").begin(at(address), (), self.now);
        let mut again = serde_json::to_value(said).expect("it is JSON");
        again["nonce"] = begun.expect("there is room").reveal().into();
        let token = Secret::new(AUTHORS[0].signer.sign(S::TYP, &again));
        let heard = self.heard::<S>(&token, address).expect("the agent has signed it");
        assert_eq!(serde_json::to_value(&heard).expect("it is JSON"), again);
        assert!(self.heard::<S>(&token, address).is_err(), "a challenge serves once");
    }
}

fn at(address: usize) -> IpAddr {
    Ipv4Addr::from([10, 1, 0, address as u8]).into()
}

/// Exactly these fields, all texts, of this device.
fn has(said: &Map<String, Value>, more: &[&str]) -> bool {
    let names = [&["device", "nonce"], more].concat();
    said.len() == names.len()
        && names.iter().all(|name| said.get(*name).is_some_and(Value::is_string))
        && said["device"] == DEVICE
}

fn is_statement(said: &Map<String, Value>) -> bool {
    let mut rest = said.clone();
    let Some(Value::Object(facts)) = rest.remove("facts") else { return false };
    let is_text = |value: &Value| value.as_str().is_some_and(|text| text.len() <= 256);
    let is_fact = |value: &Value| match value {
        Value::Bool(_) => true,
        Value::Number(number) => number.as_u64().is_some_and(|age_s| age_s < 1 << 32),
        Value::Array(list) => list.len() <= 4096 && list.iter().all(is_text),
        value => is_text(value),
    };
    has(&rest, &[])
        && facts.len() <= 256
        && facts.iter().all(|(name, fact)| name.len() <= 256 && is_fact(fact))
}

/// 65 bytes in base64url (RFC 4648, section 5), of which the first is 4: 522 bits, the last two of them of no byte.
fn is_point(key: &str) -> bool {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Option<String> = key.chars().map(|c| Some(format!("{:06b}", DIGITS.find(c)?))).collect();
    bits.is_some_and(|bits| bits.len() == 522 && bits.starts_with("00000100") && bits.ends_with("00"))
}

/// What the facts mean, and when they mean something else.
fn health_is_what_was_said(statement: &Statement) {
    let health = Health { facts: statement.facts.clone(), at: Moment::before(HEARD, Duration::ZERO) };
    let facts = json!(statement.facts);
    let texts = |texts: [&str; 2]| Check::Texts(texts.map(str::to_owned).to_vec());
    let checks: Vec<(String, Check)> = [
        ("disk_encrypted", Check::Flag(true)),
        ("os_patch_max_age", Check::MaxAge(Duration::from_secs(30 * 86_400))),
        ("max_age", Check::MaxAge(Duration::from_secs(100))),
        ("os", Check::Text("debian".to_owned())),
        ("processes", texts(["edr", "av"])),
    ]
    .map(|(name, check)| (name.to_owned(), check))
    .to_vec();
    let edges: Vec<Now> = health.edges(&checks).collect();
    let moments = edges.iter().flat_map(|edge| [Now(edge.0 - 1), *edge]);
    for at in moments.chain([HEARD, Now(HEARD.0 + 50_000_000_000), Now(HEARD.0 * 1000)]) {
        let states: Vec<Posture> =
            checks.iter().map(|(name, check)| state(&facts, name, check, at)).collect();
        for (one, state) in checks.iter().zip(&states) {
            assert_eq!(health.stands_to(std::slice::from_ref(one), at), *state, "{one:?}: {facts}");
        }
        let worst = [Posture::Failed, Posture::Unknown].into_iter().find(|state| states.contains(state));
        assert_eq!(health.stands_to(&checks, at), worst.unwrap_or(Posture::Met), "{facts}");
    }
    for one in &checks {
        let edge = health.edges(std::slice::from_ref(one)).next();
        let is = |at: Now| state(&facts, &one.0, &one.1, at);
        // Long after it a state is what it is at once, or an edge lies between.
        assert_eq!(edge.is_some(), is(HEARD) != is(Now(HEARD.0 * 1000)), "{one:?}: {facts}");
        if let Some(edge) = edge {
            assert_eq!((is(Now(edge.0 - 1)), is(edge)), (Posture::Met, Posture::Failed), "{one:?}: {facts}");
        }
    }
}

fn state(facts: &Value, check: &str, wanted: &Check, at: Now) -> Posture {
    let fact = &facts[check.replace("max_age", "age")];
    let is_met = match wanted {
        Check::Flag(wanted) => fact.as_bool().map(|is| is == *wanted),
        Check::Text(wanted) => fact.as_str().map(|is| is == wanted),
        Check::Texts(wanted) => {
            fact.as_array().map(|are| wanted.iter().all(|wanted| are.contains(&json!(wanted))))
        }
        Check::MaxAge(most) => fact
            .as_u64()
            .map(|age_s| i128::from(age_s) * SECOND + i128::from(at.0 - HEARD.0) <= most.as_nanos() as i128),
    };
    match is_met {
        Some(true) => Posture::Met,
        Some(false) => Posture::Failed,
        None => Posture::Unknown,
    }
}
