//! Wycheproof's test vectors for JSON Web Signatures (github.com/C2SP/wycheproof, `testvectors_v1`, Apache-2.0).
//!
//! `wycheproof.json` holds their published data in a shorter form: all of `json_web_key_test.json` and
//! `json_web_crypto_test.json`, and 121 of the 401 of `json_web_signature_test.json`: one series of each kind, but not the
//! long ones of damaged RSA paddings (46 to 319) and of other lengths of the same hashes. No package has them; what they do
//! to a signature, `signatures` does with Wycheproof's files of the algorithms themselves, and `paddings` to whole tokens. With
//! a checkout in `BULKHEAD_WYCHEPROOF` (the directory with the three files) all of them are run.

use std::path::Path;

use serde_json::{Map, Value};

use crate::tokens::jws::Token;
use crate::tokens::{Key, Keys};

const FILES: [(&str, usize); 3] = [
    ("json_web_crypto_test.json", 83),
    ("json_web_key_test.json", 26),
    ("json_web_signature_test.json", 401),
];

/// Why a vector that is `valid` is refused all the same.
fn refused_on_purpose(file: &str, id: u64, key: &Map<String, Value>) -> Option<&'static str> {
    let list = key.get("keys").and_then(Value::as_array);
    let first = list.map_or(key, |list| list[0].as_object().unwrap());
    let is = |member: &str, value: &str| first.get(member).is_some_and(|found| found == value);
    if is("kty", "oct") {
        // Whoever checks a token with a shared secret could have made it.
        return Some("no shared secrets");
    }
    if is("use", "enc") {
        return Some("no encryption");
    }
    if is("crv", "P-521") {
        return Some("no ES512, which ring does not have");
    }
    // The key says that it is for PS256 alone, and the token is PS384: `alg` of a key is a promise here (RFC 7517, 4.4).
    // 346 is the same token under a key with `use` instead of `key_ops`.
    if file == "json_web_signature_test.json" && [346, 350].contains(&id) && is("alg", "PS256") {
        return Some("the key's alg is not the token's");
    }
    None
}

fn keys(key: &Map<String, Value>) -> Option<Keys> {
    if key.contains_key("keys") { Keys::of_set(key).ok() } else { Key::of(key).ok().map(Keys::one) }
}

fn is_taken(key: &Map<String, Value>, token: &str) -> bool {
    let Some(keys) = keys(key) else { return false };
    Token::parse(token).and_then(|token| token.verify(&keys).map(|_| ())).is_ok()
}

/// Runs one, and returns whether it was taken.
fn run(file: &str, id: u64, key: &Map<String, Value>, token: &str, expected: &str) -> bool {
    let taken = is_taken(key, token);
    let on_purpose = refused_on_purpose(file, id, key);
    match expected {
        "valid" => assert_eq!(taken, on_purpose.is_none(), "{file} {id}: {on_purpose:?}"),
        "invalid" => assert!(!taken, "{file} {id} is invalid, and was taken"),
        other => panic!("{file} {id}: what is {other}?"),
    }
    taken
}

#[test]
fn c1_wycheproof_vectors_are_taken_and_refused_as_they_say() {
    let groups: Value = serde_json::from_str(include_str!("wycheproof.json")).unwrap();
    let (mut count, mut taken) = ([0; 3], 0);
    for group in groups.as_array().unwrap() {
        let file = group["file"].as_str().unwrap();
        let key = group["key"].as_object().unwrap();
        for test in group["tests"].as_array().unwrap() {
            let (id, token) = (test[0].as_u64().unwrap(), test[2].as_str().unwrap());
            taken += usize::from(run(file, id, key, token, test[3].as_str().unwrap()));
            count[FILES.iter().position(|(name, _)| *name == file).unwrap()] += 1;
        }
    }
    assert_eq!(count, [83, 26, 121]);
    // ES256 and RS256 of two files, RS256 of the keys, PS384 and PS512, RFC 7520's figure 13 twice, and a special case.
    assert_eq!(taken, 16, "what is taken are these and no others");
}

#[test]
fn c1_every_wycheproof_vector_of_a_checkout() {
    let Some(directory) = std::env::var_os("BULKHEAD_WYCHEPROOF") else {
        eprintln!("skipped: BULKHEAD_WYCHEPROOF names no directory with Wycheproof's testvectors_v1");
        return;
    };
    for (file, expected) in FILES {
        let text = std::fs::read_to_string(Path::new(&directory).join(file)).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        let mut count = 0;
        for group in all["testGroups"].as_array().unwrap() {
            let key = group.get("public").unwrap_or(&group["private"]).as_object().unwrap();
            for test in group["tests"].as_array().unwrap() {
                let token = test.get("jws").unwrap_or(&test["jwe"]);
                let token = token.as_str().map_or_else(|| token.to_string(), str::to_owned);
                run(file, test["tcId"].as_u64().unwrap(), key, &token, test["result"].as_str().unwrap());
                count += 1;
            }
        }
        assert_eq!(count, expected, "{file}");
    }
}
