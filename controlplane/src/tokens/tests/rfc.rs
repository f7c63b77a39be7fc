//! The examples of the RFCs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::tokens::jws::Token;
use crate::tokens::sign::Signer;
use crate::tokens::{BadKey, BadKeys, Key, Keys, Refused};

fn key(jwk: serde_json::Value) -> Keys {
    Keys::one(Key::of(jwk.as_object().unwrap()).unwrap())
}

const JOE: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

#[test]
fn rfc_7515_a_2_is_verified_by_its_rsa_key() {
    let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZ\
             S-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2\
             R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcD\
             TW9gb54h4FRWyuXpoQ";
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdb\
                     F9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383\
                     LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWy\
                     wlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let text = format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{signature}");
    let token = Token::parse(&text).unwrap();
    let keys = key(json!({ "kty": "RSA", "n": n, "e": "AQAB" }));
    assert!(token.verify(&keys).unwrap().starts_with(b"{\"iss\":\"joe\""));
}

/// A shared secret, a curve that *ring* does not have, and no signature at all.
#[test]
fn rfc_7515_a_1_a_4_and_a_5_are_of_algorithms_that_are_not_taken() {
    let secret =
        format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    let none = format!("eyJhbGciOiJub25lIn0.{JOE}.");
    let es512 = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AA";
    for token in [secret.as_str(), none.as_str(), es512] {
        assert_eq!(Token::parse(token).err(), Some(Refused::Algorithm), "{token}");
    }
    let k = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let jwk = json!({ "kty": "oct", "k": k });
    assert_eq!(Key::of(jwk.as_object().unwrap()), Err(BadKey::Symmetric));
}

#[test]
fn rfc_7515_a_3_is_verified_by_its_point_and_by_no_other() {
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let text = format!("eyJhbGciOiJFUzI1NiJ9.{JOE}.{signature}");
    let token = Token::parse(&text).unwrap();
    let (x, y) =
        ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
    let mut jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    assert!(token.verify(&key(jwk.clone())).is_ok());
    // The example has its key with `d`: whoever hands that to us has lost it.
    jwk["d"] = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI".into();
    assert_eq!(Key::of(jwk.as_object().unwrap()), Err(BadKey::Private));
    jwk = json!({ "kty": "EC", "crv": "P-256", "x": y, "y": x });
    assert_eq!(token.verify(&key(jwk)), Err(Refused::Signature), "it is on no curve");
}

#[test]
fn rfc_8037_a_4_is_verified_and_a_3_is_the_thumbprint() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4\
                 ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let keys = key(json!({ "kty": "OKP", "crv": "Ed25519", "x": x }));
    assert_eq!(Token::parse(token).unwrap().verify(&keys).unwrap(), b"Example of Ed25519 signing");
    // The key of appendix A.1, in PKCS#8 (RFC 8410, section 7).
    let mut pkcs8 = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pkcs8.extend(URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap());
    let signer = Signer::from_pkcs8_without_public(&pkcs8).unwrap();
    assert_eq!(signer.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(signer.public_jwk()["x"], x);
}

/// RFC 7517, appendix A.1: an RSA key for signatures, and a point for encryption.
#[test]
fn rfc_7517_a_1_has_one_key_to_verify_with_and_a_3_none() {
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3\
             oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA\
             ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-\
             kEgU8awapJzKnqDKgw";
    let (x, y) =
        ("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM");
    let point = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "enc", "kid": "1" });
    let rsa = json!({ "kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29" });
    let set = json!({ "keys": [point, rsa] });
    let keys = Keys::parse_set(set.to_string().as_bytes()).unwrap();
    assert_eq!(keys.iter().map(Key::id).collect::<Vec<_>>(), [Some("2011-04-29")]);
    let secrets = json!({ "keys": [{ "kty": "oct", "alg": "A128KW", "k": "GawgguFyGrWKav7AX4VKUg" }, rsa] });
    assert_eq!(
        Keys::parse_set(secrets.to_string().as_bytes()),
        Err(BadKeys::Secret(BadKey::Symmetric)),
        "a secret in what everybody may read"
    );
}
