//! C3: what an ID token has to say. Names of the OpenID Foundation's conformance tests stand where there is one.

use serde_json::{Value, json};

use crate::tokens::Algorithm;
use crate::tokens::claims::{
    AGE_MAX_S, Expected, GROUPS_MAX, IdToken, LEEWAY_S, Strength, Trusted, Wrong, at_hash, groups, id_token,
    strength,
};

const NOW: i64 = 1_800_000_000;

fn good() -> Value {
    json!({
        "iss": "https://idp.example/", "aud": "bulkhead", "sub": "248289761001", "nonce": "n-0S6_WzA2Mj",
        "exp": NOW + 300, "iat": NOW, "auth_time": NOW - 10,
    })
}

fn expected() -> Expected<'static> {
    Expected {
        issuer: "https://idp.example/",
        client: "bulkhead",
        nonce: Some("n-0S6_WzA2Mj"),
        access_token: Some("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"),
        auth_age_max_s: None,
        now: NOW,
    }
}

fn check(claims: &Value) -> Result<IdToken, Wrong> {
    id_token(claims.as_object().unwrap().clone(), Algorithm::Rs256, &expected())
}

fn with(claim: &str, value: Value) -> Result<IdToken, Wrong> {
    let mut claims = good();
    claims[claim] = value;
    check(&claims)
}

fn without(claim: &str) -> Result<IdToken, Wrong> {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(claim);
    check(&claims)
}

/// OIDF: `oidcc-client-test`.
#[test]
fn c3_a_whole_token_is_taken() {
    let token = check(&good()).unwrap();
    assert_eq!((token.subject.as_str(), token.auth_time), ("248289761001", Some(NOW - 10)));
}

/// OIDF: `oidcc-client-test-invalid-iss`.
#[test]
fn c3_iss_is_compared_to_the_letter() {
    for iss in
        ["https://idp.example", "https://idp.example//", "https://IDP.example/", "http://idp.example/", ""]
    {
        assert_eq!(with("iss", json!(iss)), Err(Wrong::Mismatch("iss")), "{iss}");
    }
    assert_eq!(with("iss", json!(["https://idp.example/"])), Err(Wrong::Malformed("iss")));
    assert_eq!(without("iss"), Err(Wrong::Missing("iss")));
}

/// OIDF: `oidcc-client-test-invalid-aud`, `oidcc-client-test-missing-aud`.
#[test]
fn c3_aud_names_us_and_azp_says_so_if_it_names_others() {
    assert!(with("aud", json!(["bulkhead"])).is_ok());
    assert_eq!(with("aud", json!("other")), Err(Wrong::Mismatch("aud")));
    assert_eq!(with("aud", json!([])), Err(Wrong::Mismatch("aud")));
    assert_eq!(with("aud", json!(["bulkhead", 7])), Err(Wrong::Malformed("aud")));
    assert_eq!(with("aud", json!({})), Err(Wrong::Malformed("aud")));
    assert_eq!(without("aud"), Err(Wrong::Missing("aud")));
    assert_eq!(with("aud", json!(["bulkhead", "other"])), Err(Wrong::Missing("azp")));
    let mut claims = good();
    claims["aud"] = json!(["other", "bulkhead"]);
    claims["azp"] = "bulkhead".into();
    assert!(check(&claims).is_ok());
    claims["azp"] = "other".into();
    assert_eq!(check(&claims), Err(Wrong::Mismatch("azp")));
    assert_eq!(with("azp", json!("other")), Err(Wrong::Mismatch("azp")));
    assert_eq!(with("azp", json!(1)), Err(Wrong::Malformed("azp")));
}

/// OIDF: `oidcc-client-test-missing-sub`.
#[test]
fn c3_sub_is_there_and_no_longer_than_it_may_be() {
    assert_eq!(without("sub"), Err(Wrong::Missing("sub")));
    for wrong in [json!(""), json!("x".repeat(256)), json!("ä"), json!(1)] {
        assert_eq!(with("sub", wrong.clone()), Err(Wrong::Malformed("sub")), "{wrong}");
    }
    assert!(with("sub", json!("x".repeat(255))).is_ok());
}

#[test]
fn c3_exp_is_there_and_not_over() {
    assert_eq!(without("exp"), Err(Wrong::Missing("exp")));
    assert!(with("exp", json!(NOW - LEEWAY_S + 1)).is_ok());
    assert_eq!(with("exp", json!(NOW - LEEWAY_S)), Err(Wrong::Expired));
    for wrong in [json!("1800000300"), json!(-1), json!(1e18), json!(null), json!(true)] {
        assert_eq!(with("exp", wrong.clone()), Err(Wrong::Malformed("exp")), "{wrong}");
    }
    assert!(with("exp", json!(NOW as f64 + 0.5)).is_ok(), "RFC 7519, section 2");
}

/// OIDF: `oidcc-client-test-missing-iat`.
#[test]
fn c3_iat_is_there_and_neither_old_nor_in_the_future() {
    assert_eq!(without("iat"), Err(Wrong::Missing("iat")));
    assert!(with("iat", json!(NOW + LEEWAY_S)).is_ok());
    assert_eq!(with("iat", json!(NOW + LEEWAY_S + 1)), Err(Wrong::NotYet("iat")));
    assert!(with("iat", json!(NOW - AGE_MAX_S - LEEWAY_S)).is_ok());
    assert_eq!(with("iat", json!(NOW - AGE_MAX_S - LEEWAY_S - 1)), Err(Wrong::Expired));
}

#[test]
fn c3_nbf_may_be_missing_but_not_in_the_future() {
    assert!(with("nbf", json!(NOW + LEEWAY_S)).is_ok());
    assert_eq!(with("nbf", json!(NOW + LEEWAY_S + 1)), Err(Wrong::NotYet("nbf")));
    assert_eq!(with("nbf", json!("now")), Err(Wrong::Malformed("nbf")));
}

/// OIDF: `oidcc-client-test-nonce-invalid`, `oidcc-client-test-nonce-unless-code-flow`.
#[test]
fn c3_nonce_is_the_one_that_was_sent() {
    assert_eq!(without("nonce"), Err(Wrong::Missing("nonce")));
    assert_eq!(with("nonce", json!("n-0S6_WzA2MJ")), Err(Wrong::Mismatch("nonce")));
    assert_eq!(with("nonce", json!(1)), Err(Wrong::Malformed("nonce")));
}

/// OIDF: `oidcc-client-test-invalid-athash`. The pair is that of OpenID Connect Core, appendix A.3.
#[test]
fn c3_at_hash_is_of_the_access_token_if_it_is_there() {
    assert_eq!(at_hash(Algorithm::Rs256, expected().access_token.unwrap()), "77QmUPtjPfzWtF2AnpK9RQ");
    assert!(with("at_hash", json!("77QmUPtjPfzWtF2AnpK9RQ")).is_ok());
    assert_eq!(with("at_hash", json!("77QmUPtjPfzWtF2AnpK9Rg")), Err(Wrong::Mismatch("at_hash")));
    assert_eq!(with("at_hash", json!("")), Err(Wrong::Mismatch("at_hash")));
    assert!(without("at_hash").is_ok(), "in the code flow it is optional (section 3.1.3.6)");
    let mut claims = good();
    claims["at_hash"] = "77QmUPtjPfzWtF2AnpK9RQ".into();
    let expected = Expected { access_token: None, ..expected() };
    let checked = id_token(claims.as_object().unwrap().clone(), Algorithm::Rs256, &expected);
    assert_eq!(checked, Err(Wrong::Mismatch("at_hash")), "a hash of nothing that came with it");
}

#[test]
fn c3_a_step_up_is_a_sign_in_of_just_now() {
    let step_up = |auth_time: Option<i64>| {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove("auth_time");
        if let Some(at) = auth_time {
            claims["auth_time"] = at.into();
        }
        let expected = Expected { auth_age_max_s: Some(0), ..expected() };
        id_token(claims.as_object().unwrap().clone(), Algorithm::Rs256, &expected).map(|_| ())
    };
    assert_eq!(step_up(None), Err(Wrong::Missing("auth_time")));
    assert_eq!(step_up(Some(NOW - LEEWAY_S)), Ok(()));
    assert_eq!(step_up(Some(NOW - LEEWAY_S - 1)), Err(Wrong::Stale));
    assert_eq!(step_up(Some(NOW + LEEWAY_S + 1)), Err(Wrong::NotYet("auth_time")));
}

#[test]
fn groups_are_found_under_every_kind_of_name() {
    let claims = json!({
        "groups": ["a", "b"], "role": "one", "realm_access": { "roles": ["r"] },
        "https://example.org/groups": ["n"], "a.b": ["flat"], "a": { "b": ["deep"] }, "bad": [1], "deep": { "x": 1 },
    });
    let claims = claims.as_object().unwrap();
    for (path, expected) in [
        ("groups", Ok(vec!["a", "b"])),
        ("role", Ok(vec!["one"])),
        ("realm_access.roles", Ok(vec!["r"])),
        ("https://example.org/groups", Ok(vec!["n"])),
        ("a.b", Ok(vec!["flat"])),
        ("nothing", Ok(vec![])),
        ("realm_access.nothing.more", Ok(vec![])),
        ("bad", Err(Wrong::Malformed("groups"))),
        ("deep.x", Err(Wrong::Malformed("groups"))),
    ] {
        let expected = expected.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(groups(claims, path), expected, "{path}");
    }
}

#[test]
fn groups_that_are_elsewhere_or_too_many_are_not_none() {
    let elsewhere = json!({ "_claim_names": { "groups": "src1" }, "_claim_sources": { "src1": {} } });
    assert_eq!(groups(elsewhere.as_object().unwrap(), "groups"), Err(Wrong::Missing("groups")));
    let many = |count: usize| json!({ "groups": vec!["g"; count] });
    assert!(groups(many(GROUPS_MAX).as_object().unwrap(), "groups").is_ok());
    let too_many = many(GROUPS_MAX + 1);
    assert_eq!(groups(too_many.as_object().unwrap(), "groups"), Err(Wrong::Malformed("groups")));
}

#[test]
fn strength_is_what_acr_and_amr_say_and_no_more() {
    let trusted = Trusted {
        mfa_acr: vec!["urn:mace:incommon:iap:silver".to_owned()],
        phishing_resistant_acr: vec!["gold".to_owned()],
        phishing_resistant_amr: vec!["fido".to_owned()],
    };
    let of = |acr: Option<&str>, amr: &[&str]| {
        let mut claims = good();
        if let Some(acr) = acr {
            claims["acr"] = acr.into();
        }
        claims["amr"] = json!(amr);
        let Strength { second_factor, phishing_resistant } = strength(&check(&claims).unwrap(), &trusted);
        (second_factor, phishing_resistant)
    };
    for (acr, amr, expected) in [
        (None, &[][..], (false, false)),
        (None, &["pwd"], (false, false)),
        (None, &["otp"], (false, false)),
        (None, &["pwd", "pin"], (false, false)),
        (None, &["pwd", "otp"], (true, false)),
        (None, &["hwk", "fpt"], (true, false)),
        (None, &["mfa"], (true, false)),
        (None, &["hwk"], (false, false)),
        (None, &["fido"], (true, true)),
        (Some("0"), &["pwd"], (false, false)),
        (Some(""), &["pwd"], (false, false)),
        (Some("phr"), &[], (true, true)),
        (Some("phrh"), &["pop"], (true, true)),
        (Some("gold"), &[], (true, true)),
        (Some("Gold"), &[], (false, false)),
        (Some("urn:mace:incommon:iap:silver"), &["pwd"], (true, false)),
    ] {
        assert_eq!(of(acr, amr), expected, "{acr:?} {amr:?}");
    }
}
