//! C2: what a token may not do, however well it is signed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::forge::{Forger, unsigned};
use crate::tokens::{Key, Keys, Refused, TOKEN_BYTES_MAX, Typ, open};

const CLAIMS: &str = r#"{"sub":"alice"}"#;

fn refusal(forger: &Forger, token: &str) -> Refused {
    open(token, &forger.keys(), Typ::Jwt).unwrap_err()
}

fn header(more: &Value) -> String {
    let mut header = json!({ "alg": "EdDSA", "kid": "k" });
    header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    header.to_string()
}

#[test]
fn what_is_signed_rightly_is_taken() {
    let forger = Forger::new();
    let (claims, _) = open(&forger.sign(&header(&json!({})), CLAIMS), &forger.keys(), Typ::Jwt).unwrap();
    assert_eq!(claims["sub"], "alice");
}

/// OIDF: `oidcc-client-test-idtoken-sig-none`.
#[test]
fn c2_alg_none_is_refused_with_and_without_a_signature() {
    let forger = Forger::new();
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({ "alg": name, "kid": "k" }).to_string();
        for token in [format!("{}.", unsigned(&header, CLAIMS)), forger.sign(&header, CLAIMS)] {
            assert_eq!(refusal(&forger, &token), Refused::Algorithm, "{name}");
        }
    }
    for header in [r#"{"kid":"k"}"#, r#"{"alg":null,"kid":"k"}"#, r#"{"alg":["EdDSA"],"kid":"k"}"#] {
        assert_eq!(refusal(&forger, &forger.sign(header, CLAIMS)), Refused::Algorithm, "{header}");
    }
}

#[test]
fn c2_a_public_key_is_no_shared_secret() {
    let forger = Forger::new();
    let jwk = forger.nist_jwk("k");
    let keys = Keys::one(Key::of(jwk.as_object().unwrap()).unwrap());
    let x = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    for secret in [x.as_slice(), jwk.to_string().as_bytes(), b""] {
        let signed = unsigned(r#"{"alg":"HS256","kid":"k"}"#, CLAIMS);
        let mac = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret), signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac));
        assert_eq!(open(&token, &keys, Typ::Jwt), Err(Refused::Algorithm));
    }
}

#[test]
fn c2_the_key_says_which_algorithm_and_not_the_token() {
    let forger = Forger::new();
    // Signed by a key that we trust, but under the name of another one.
    let crossed = forger.sign_nist(r#"{"alg":"ES256","kid":"k"}"#, CLAIMS);
    assert_eq!(refusal(&forger, &crossed), Refused::Algorithm);
    let mut both = forger.edwards_jwk("k");
    both["alg"] = "ES256".into();
    assert!(Key::of(both.as_object().unwrap()).is_err(), "a key whose `alg` is not of its kind");
}

#[test]
fn c2_nothing_in_a_header_brings_a_key() {
    let (forger, attacker) = (Forger::new(), Forger::new());
    let with = [
        ("jwk", attacker.edwards_jwk("k")),
        ("jku", "https://attacker.example/keys".into()),
        ("x5u", "https://attacker.example/chain".into()),
        ("x5c", json!(["MIIB"])),
    ];
    for (name, value) in with {
        let header = header(&json!({ name: value }));
        // Also when the signature is right: whoever signs such a token is misled, or wants us to be.
        for token in [attacker.sign(&header, CLAIMS), forger.sign(&header, CLAIMS)] {
            assert_eq!(refusal(&forger, &token), Refused::Parameter(name));
        }
    }
}

#[test]
fn c2_a_kid_is_compared_and_nothing_else() {
    let forger = Forger::new();
    for kid in ["../../../../dev/null", "K", "k ", "k\0", "' OR 1=1 --", "", "https://attacker.example/k"] {
        let token = forger.sign(&json!({ "alg": "EdDSA", "kid": kid }).to_string(), CLAIMS);
        assert_eq!(refusal(&forger, &token), Refused::UnknownKey(Some(kid.to_owned())));
    }
    let token = forger.sign(r#"{"alg":"EdDSA","kid":7}"#, CLAIMS);
    assert_eq!(refusal(&forger, &token), Refused::NotJson);
}

/// OIDF: `oidcc-client-test-kid-absent-single-jwks`, `oidcc-client-test-kid-absent-multiple-jwks`.
#[test]
fn c2_without_a_kid_there_may_be_only_one_key_of_the_kind() {
    let (one, two) = (Forger::new(), Forger::new());
    let token = one.sign(r#"{"alg":"EdDSA"}"#, CLAIMS);
    let open = |set: Value| open(&token, &Keys::parse_set(set.to_string().as_bytes()).unwrap(), Typ::Jwt);
    assert!(open(json!({ "keys": [one.edwards_jwk("a"), two.nist_jwk("b")] })).is_ok());
    assert_eq!(
        open(json!({ "keys": [one.edwards_jwk("a"), two.edwards_jwk("b")] })),
        Err(Refused::Ambiguous)
    );
    assert_eq!(open(json!({ "keys": [two.nist_jwk("b")] })), Err(Refused::UnknownKey(None)));
}

#[test]
fn c2_every_crit_is_refused() {
    let forger = Forger::new();
    for critical in [json!([]), json!(["b64"]), json!(["exp"]), json!(["unknown"]), json!("alg")] {
        let token = forger.sign(&header(&json!({ "crit": critical, "b64": false })), CLAIMS);
        assert_eq!(refusal(&forger, &token), Refused::Parameter("crit"));
    }
}

#[test]
fn c2_a_name_that_comes_twice_is_refused_in_header_and_claims() {
    let forger = Forger::new();
    for header in [
        r#"{"alg":"none","alg":"EdDSA","kid":"k"}"#,
        r#"{"alg":"EdDSA","kid":"k","kid":"k"}"#,
        r#"{"alg":"EdDSA","kid":"k","\u0061lg":"EdDSA"}"#,
        r#"{"alg":"EdDSA","kid":"k","x":{"y":1,"y":1}}"#,
    ] {
        assert_eq!(refusal(&forger, &forger.sign(header, CLAIMS)), Refused::NotJson, "{header}");
    }
    for claims in [
        r#"{"sub":"mallory","sub":"alice"}"#,
        r#"{"sub":"alice","\u0073ub":"mallory"}"#,
        r#"{"sub":"alice","a":[{"b":0,"b":0}]}"#,
        r#"{"sub":"alice"} {"sub":"mallory"}"#,
        r#"["sub","alice"]"#,
        "\u{feff}{}",
        "",
    ] {
        let token = forger.sign(&header(&json!({})), claims);
        assert_eq!(refusal(&forger, &token), Refused::NotJson, "{claims}");
    }
}

#[test]
fn c2_one_kind_of_token_is_not_another_one() {
    let forger = Forger::new();
    let opened = |typ: &str, expected| open(&forger.token(typ, &json!({})), &forger.keys(), expected);
    for typ in ["secevent+jwt", "at+jwt", "application/at+jwt", "dpop+jwt", "logout+jwt", "", "jwt2"] {
        assert_eq!(opened(typ, Typ::Jwt), Err(Refused::Type), "{typ}");
    }
    for typ in ["JWT", "jwt", "application/jwt", "Application/JWT"] {
        assert!(opened(typ, Typ::Jwt).is_ok(), "{typ}");
        assert_eq!(opened(typ, Typ::Is("secevent+jwt")), Err(Refused::Type), "{typ}");
    }
    for typ in ["secevent+jwt", "application/secevent+jwt", "SecEvent+JWT"] {
        assert!(opened(typ, Typ::Is("secevent+jwt")).is_ok(), "{typ}");
    }
    let without = forger.sign(&header(&json!({})), CLAIMS);
    assert_eq!(open(&without, &forger.keys(), Typ::Is("secevent+jwt")), Err(Refused::Type));
}

#[test]
fn c2_there_is_one_way_to_write_a_token() {
    let forger = Forger::new();
    let good = forger.sign(&header(&json!({})), CLAIMS);
    let parts: Vec<&str> = good.split('.').collect();
    let padded = format!("{good}==");
    // A signature has 64 bytes, so its last character has four bits of no meaning.
    let last = parts[2].chars().last().unwrap();
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let other = digits.chars().nth(digits.find(last).unwrap() + 1).unwrap();
    let loose = format!("{}{other}", &good[..good.len() - 1]);
    let wrong = [
        padded,
        loose,
        format!("{good}."),
        format!("{good}.{}", parts[2]),
        format!(" {good}"),
        format!("{good}\n"),
        good.replacen('.', "..", 1),
        format!("{}.{}", parts[0], parts[1]),
        json!({ "protected": parts[0], "payload": parts[1], "signature": parts[2] }).to_string(),
        String::new(),
    ];
    for token in wrong {
        assert_eq!(refusal(&forger, &token), Refused::NotCompact, "{token:?}");
    }
    for place in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        refusal(&forger, &String::from_utf8(changed).unwrap());
    }
}

#[test]
fn a_token_is_as_long_as_it_may_be_and_not_longer() {
    let forger = Forger::new();
    // Three bytes are four characters.
    let fit = |more: usize| forger.token("JWT", &json!({ "x": "x".repeat(more) }));
    let base = fit(0).len();
    let most = (TOKEN_BYTES_MAX - base) / 4 * 3;
    assert!(fit(most).len() <= TOKEN_BYTES_MAX && open(&fit(most), &forger.keys(), Typ::Jwt).is_ok());
    assert_eq!(refusal(&forger, &fit(most + 4)), Refused::NotCompact);
}
