//! C11: what an event has to be, and what it does.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bulkhead_dataplane::policy::conditions::Posture;
use bulkhead_dataplane::verdict::Now;
use serde_json::json;

use super::*;
use crate::sessions::{Claims, Device, Origin, Proof, Session};
use crate::tokens::sign::Signer;

const ISSUER: &str = "https://idp.example/ssf";
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

struct Bench {
    signer: Signer,
    directory: PathBuf,
    transmitters: Vec<Transmitter>,
    receiver: Receiver,
    at: At,
}

impl Bench {
    fn new() -> Bench {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bulkhead-ssf-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let signer = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
        let keys = json!({ "keys": [signer.public_jwk()] });
        write(&directory.join("keys.json"), &keys.to_string());
        write(&directory.join("push"), "push-s3cret");
        let transmitter = Transmitter {
            name: "idp".to_owned(),
            issuer: ISSUER.to_owned(),
            audience: "https://access.example".to_owned(),
            keys: KeysAt::File(directory.join("keys.json")),
            ca_file: None,
            push_token_file: Some(directory.join("push")),
            poll: None,
            poll_token_file: None,
            posture: Some("compliant".to_owned()),
        };
        let at = At { instant: Instant::now(), unix_s: 1_800_000_000 };
        Bench { signer, directory, transmitters: vec![transmitter], receiver: Receiver::default(), at }
    }

    fn claims(&self, id: &str, event: &str, more: Value) -> Value {
        json!({
            "iss": ISSUER, "aud": "https://access.example", "jti": id, "iat": self.at.unix_s,
            "sub_id": { "format": "email", "email": "alice@example.org" }, "events": { event: more },
        })
    }

    fn take(&self, claims: &Value) -> Result<Vec<Told>, NotTaken> {
        self.take_token(&self.signer.sign("secevent+jwt", claims))
    }

    fn take_token(&self, token: &str) -> Result<Vec<Told>, NotTaken> {
        self.receiver.take(&self.transmitters, "idp", token, None, self.at)
    }

    fn effect(&self, event: &str, more: Value) -> Result<Vec<Effect>, NotTaken> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = COUNT.fetch_add(1, Ordering::Relaxed).to_string();
        let event = format!("https://schemas.openid.net/secevent/caep/event-type/{event}");
        let told = self.take(&self.claims(&id, &event, more))?;
        Ok(told.into_iter().map(|told| told.effect).collect())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn session(claims: Claims) -> Session {
    Session {
        id: "abc".to_owned(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        segment: "office".to_owned(),
        mac: None,
        claims,
        proof: Proof::Operator,
        begun: Now(0),
        ends: Now(1),
    }
}

fn alice() -> Session {
    session(Claims {
        user: Some("alice@example.org".to_owned()),
        groups: vec!["dba".to_owned()],
        device: Some(Device { name: Some("laptop-7".to_owned()), ..Device::default() }),
        origin: Some(Origin {
            provider: "corp".to_owned(),
            issuer: "https://idp.example".to_owned(),
            subject: "alice-1".to_owned(),
            session: Some("sid-1".to_owned()),
        }),
        ..Claims::default()
    })
}

#[test]
fn c11_a_whole_event_is_taken_once() {
    let bench = Bench::new();
    let claims = bench.claims("1", REVOKED, json!({ "event_timestamp": bench.at.unix_s }));
    let told = bench.take(&claims).unwrap();
    assert_eq!((told.len(), told[0].event.as_str(), &told[0].effect), (1, "session-revoked", &Effect::End));
    assert!(told[0].subject.means(&alice()));
    assert!(!told[0].subject.means(&session(Claims { user: Some("bob".to_owned()), ..Claims::default() })));
    let again = bench.take(&claims).unwrap_err();
    assert_eq!((again.err, again.description.as_str()), ("invalid_request", "it was received before"));
    let mut later = claims;
    later["iat"] = json!(bench.at.unix_s - 5);
    assert_eq!(bench.take(&later).unwrap_err(), again, "the same id in another token");
}

#[test]
fn c11_what_is_not_from_the_transmitter_to_us_is_refused() {
    let bench = Bench::new();
    let with = |claim: &str, value: Value| {
        let mut claims = bench.claims("x", REVOKED, json!({}));
        claims[claim] = value;
        bench.take(&claims).map_err(|why| why.err)
    };
    let now = bench.at.unix_s;
    for (claim, value, err) in [
        ("iss", json!("https://evil.example"), "invalid_issuer"),
        ("iss", json!(null), "invalid_request"),
        ("aud", json!("https://other.example"), "invalid_audience"),
        ("aud", json!(["https://other.example"]), "invalid_audience"),
        ("aud", json!(null), "invalid_audience"),
        ("jti", json!(""), "invalid_request"),
        ("jti", json!("x".repeat(257)), "invalid_request"),
        ("jti", json!(7), "invalid_request"),
        ("iat", json!(now + 61), "invalid_request"),
        ("iat", json!(now - 86_401), "invalid_request"),
        ("iat", json!("now"), "invalid_request"),
        ("exp", json!(now - 61), "invalid_request"),
        ("events", json!({}), "invalid_request"),
        ("events", json!([]), "invalid_request"),
        ("events", json!({ REVOKED: 1 }), "invalid_request"),
        ("sub_id", json!({ "format": "phone_number", "phone_number": "+1" }), "invalid_request"),
        ("sub_id", json!({ "format": "complex", "tenant": {} }), "invalid_request"),
        ("sub_id", json!("alice"), "invalid_request"),
    ] {
        assert_eq!(with(claim, value.clone()), Err(err), "{claim}: {value}");
    }
    assert!(with("aud", json!(["https://other.example", "https://access.example"])).is_ok());
    for claim in ["iss", "aud", "jti", "iat", "events", "sub_id"] {
        let mut claims = bench.claims("y", REVOKED, json!({}));
        claims.as_object_mut().unwrap().remove(claim);
        assert!(bench.take(&claims).is_err(), "{claim} is missing");
    }
}

#[test]
fn c11_only_a_security_event_token_of_its_key_is_one() {
    let bench = Bench::new();
    let claims = bench.claims("1", REVOKED, json!({}));
    for typ in ["JWT", "at+jwt", ""] {
        assert_eq!(bench.take_token(&bench.signer.sign(typ, &claims)).unwrap_err().err, "invalid_request");
    }
    let without = bench.signer.sign_parts(br#"{"alg":"EdDSA"}"#, claims.to_string().as_bytes());
    assert_eq!(bench.take_token(&without).unwrap_err().err, "invalid_request", "typ missing");
    let other = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
    assert_eq!(bench.take_token(&other.sign("secevent+jwt", &claims)).unwrap_err().err, "invalid_key");
    let unsigned = bench.signer.sign_parts(br#"{"alg":"none","typ":"secevent+jwt"}"#, b"{}");
    assert_eq!(bench.take_token(&unsigned).unwrap_err().err, "invalid_key");
    assert!(bench.take(&claims).is_ok(), "none of them has used up the id");
}

#[test]
fn c11_who_may_not_push_is_refused_before_anything_is_looked_at() {
    let bench = Bench::new();
    let token = bench.signer.sign("secevent+jwt", &bench.claims("1", REVOKED, json!({})));
    let push = |name: &str, header: Option<&str>, token: &str| {
        let header = header.map(|header| Secret::new(header.to_owned()));
        let told = bench.receiver.pushed(&bench.transmitters, name, header.as_ref(), token, bench.at);
        told.map_err(|why| why.err)
    };
    for header in
        [None, Some(""), Some("Bearer"), Some("Bearer wrong"), Some("Basic push-s3cret"), Some("push-s3cret")]
    {
        assert_eq!(push("idp", header, &token), Err("authentication_failed"), "{header:?}");
    }
    assert_eq!(push("other", Some("Bearer push-s3cret"), &token), Err("authentication_failed"));
    assert_eq!(push("idp", Some("Bearer push-s3cret"), "no token"), Err("invalid_request"));
    assert!(push("idp", Some("bearer push-s3cret"), &token).is_ok());
    let mut closed = bench.transmitters[0].clone();
    closed.push_token_file = None;
    let header = Secret::new("Bearer push-s3cret".to_owned());
    let told = bench.receiver.pushed(&[closed], "idp", Some(&header), &token, bench.at);
    assert_eq!(told.unwrap_err().err, "authentication_failed", "nobody may push who was not told with what");
}

#[test]
fn every_event_of_caep_has_its_effect_and_none_gives_anything() {
    let bench = Bench::new();
    let compliant = |state| Effect::Posture("compliant".to_owned(), state);
    for (event, more, expected) in [
        ("session-revoked", json!({}), Some(Effect::End)),
        ("credential-change", json!({ "change_type": "create" }), None),
        ("credential-change", json!({ "change_type": "revoke" }), Some(Effect::DropFactor)),
        ("credential-change", json!({ "change_type": "update" }), Some(Effect::DropFactor)),
        ("assurance-level-change", json!({ "change_direction": "increase" }), None),
        ("assurance-level-change", json!({ "change_direction": "decrease" }), Some(Effect::DropFactor)),
        ("assurance-level-change", json!({}), Some(Effect::DropFactor)),
        ("device-compliance-change", json!({ "current_status": "compliant" }), Some(compliant(Posture::Met))),
        (
            "device-compliance-change",
            json!({ "current_status": "not-compliant" }),
            Some(compliant(Posture::Failed)),
        ),
        ("device-compliance-change", json!({ "current_status": "?" }), Some(compliant(Posture::Failed))),
        ("risk-level-change", json!({ "current_level": "LOW" }), Some(Effect::Risk(20))),
        ("risk-level-change", json!({ "current_level": "MEDIUM" }), Some(Effect::Risk(50))),
        ("risk-level-change", json!({ "current_level": "HIGH" }), Some(Effect::Risk(90))),
        ("risk-level-change", json!({ "current_level": "SEVERE" }), Some(Effect::Risk(90))),
        ("token-claims-change", json!({ "claims": { "groups": ["admin"] } }), None),
    ] {
        let expected: Vec<Effect> = expected.into_iter().collect();
        assert_eq!(bench.effect(event, more.clone()), Ok(expected), "{event} {more}");
    }
    for event in ["credential-change", "device-compliance-change", "risk-level-change"] {
        assert_eq!(bench.effect(event, json!({})).unwrap_err().err, "invalid_request", "{event}");
    }
}

#[test]
fn a_device_that_fails_something_unnamed_fails_everything() {
    let mut bench = Bench::new();
    bench.transmitters[0].posture = None;
    let effect = |status| bench.effect("device-compliance-change", json!({ "current_status": status }));
    assert_eq!(effect("not-compliant"), Ok(vec![Effect::End]));
    assert_eq!(effect("compliant"), Ok(vec![]));
}

#[test]
fn an_account_that_is_over_ends_its_sessions() {
    let bench = Bench::new();
    for event in ["account-disabled", "account-purged", "credential-compromise", "sessions-revoked"] {
        let kind = format!("https://schemas.openid.net/secevent/risc/event-type/{event}");
        assert_eq!(
            bench.take(&bench.claims(event, &kind, json!({}))).unwrap()[0].effect,
            Effect::End,
            "{event}"
        );
    }
    let kind = "https://schemas.openid.net/secevent/ssf/event-type/verification";
    assert_eq!(bench.take(&bench.claims("v", kind, json!({ "state": "x" }))), Ok(vec![]), "and is taken");
}

#[test]
fn a_subject_means_those_sessions_of_which_all_that_it_says_holds() {
    let means = |subject: Value| Subject::read(&subject, "https://idp.example").unwrap().means(&alice());
    let email = |email: &str| json!({ "format": "email", "email": email });
    let at = |iss: &str, sub: &str| json!({ "format": "iss_sub", "iss": iss, "sub": sub });
    let opaque = |id: &str| json!({ "format": "opaque", "id": id });
    for (subject, expected) in [
        (email("alice@example.org"), true),
        (email("Alice@Example.org"), true),
        (email("bob@example.org"), false),
        (at("https://idp.example", "alice-1"), true),
        (at("https://other.example", "alice-1"), false),
        (at("https://idp.example", "alice-2"), false),
        (opaque("alice-1"), true),
        (opaque("sid-1"), true),
        (opaque("sid-2"), false),
        (
            json!({ "format": "complex", "user": email("alice@example.org"), "session": opaque("sid-1") }),
            true,
        ),
        (
            json!({ "format": "complex", "user": email("alice@example.org"), "session": opaque("sid-2") }),
            false,
        ),
        (json!({ "format": "complex", "user": email("bob@example.org"), "session": opaque("sid-1") }), false),
        // What sessions do not have keeps no event from them.
        (json!({ "format": "complex", "device": opaque("laptop-7"), "tenant": opaque("t") }), true),
        (json!({ "user": email("alice@example.org"), "org_unit": opaque("sales") }), true),
        (json!({ "format": "complex", "group": opaque("dba") }), true),
        (json!({ "user": email("alice@example.org"), "group": at("https://idp.example", "dba") }), true),
        (json!({ "user": email("alice@example.org"), "group": at("https://other.example", "dba") }), false),
        (json!({ "user": email("alice@example.org"), "group": opaque("staff") }), false),
        (json!({ "user": email("alice@example.org"), "group": email("dba") }), false),
        (json!({ "format": "complex", "device": opaque("laptop-8") }), false),
        (json!({ "user": at("https://idp.example", "alice-1"), "device": opaque("laptop-7") }), true),
    ] {
        assert_eq!(means(subject.clone()), expected, "{subject}");
    }
    for unknown in [
        json!({ "format": "complex", "user": { "format": "did", "url": "did:x" }, "device": opaque("laptop-7") }),
        json!({ "format": "complex" }),
        json!({ "format": "email", "email": "" }),
        json!({ "format": "opaque", "id": "x".repeat(513) }),
        json!({}),
    ] {
        assert_eq!(Subject::read(&unknown, "https://idp.example"), None, "{unknown}");
    }
}

#[test]
fn a_format_that_is_no_text_was_taken_for_one_that_is_left_out() {
    let user = json!({ "format": "email", "email": "alice@example.org" });
    assert!(Subject::read(&json!({ "user": user }), ISSUER).is_some(), "as drafts had it");
    for format in [json!(null), json!(7), json!(["complex"])] {
        let subject = json!({ "format": format, "user": user });
        assert_eq!(Subject::read(&subject, ISSUER), None, "{subject}");
    }
}

#[test]
fn events_outlive_a_change_of_settings_as_taken() {
    let mut bench = Bench::new();
    let claims = bench.claims("1", REVOKED, json!({}));
    assert!(bench.take(&claims).is_ok());
    bench.transmitters[0].posture = None;
    assert_eq!(bench.take(&claims).unwrap_err().description, "it was received before");
    bench.transmitters.clear();
    assert_eq!(bench.take(&claims).unwrap_err().description, "there is no such transmitter");
}
