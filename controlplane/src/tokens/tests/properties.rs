//! Whatever comes, it is refused or it is what was signed.

use proptest::prelude::*;
use serde_json::json;

use super::forge::Forger;
use crate::tokens::jws::Token;
use crate::tokens::{Key, Keys, Typ, json, open};

proptest! {
    #[test]
    fn no_text_is_taken_that_nobody_signed(text in "\\PC{0,200}|([A-Za-z0-9_-]{0,80}\\.){2}[A-Za-z0-9_-]{0,90}") {
        let forger = Forger::new();
        prop_assert!(open(&text, &forger.keys(), Typ::Jwt).is_err());
    }

    #[test]
    fn what_was_signed_comes_out_and_any_change_is_told(claim in "\\PC{0,60}", place in any::<prop::sample::Index>(), with in 0_u8..128) {
        let forger = Forger::new();
        let token = forger.token("JWT", &json!({ "claim": claim.as_str() }));
        let (claims, _) = open(&token, &forger.keys(), Typ::Jwt).unwrap();
        prop_assert_eq!(&claims["claim"], &json!(claim));
        let mut changed = token.clone().into_bytes();
        let at = place.index(changed.len());
        changed[at] = with;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert_eq!(open(&changed, &forger.keys(), Typ::Jwt).is_ok(), changed == token);
    }

    #[test]
    fn bytes_make_no_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = json::value(&bytes);
        let _ = Key::parse(&bytes);
        let _ = Keys::parse_set(&bytes);
        let _ = Token::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn json_without_repetitions_reads_as_others_read_it(value in values()) {
        let text = value.to_string();
        prop_assert_eq!(json::value(text.as_bytes()).unwrap(), value);
    }
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map("\\PC{0,6}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}
