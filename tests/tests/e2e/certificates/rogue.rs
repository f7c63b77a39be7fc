//! C10: a doorman was taken over. It has one connection, and can say of it nothing that its client could not prove.

use std::io::{Read, Write};
use std::time::Duration;

use bulkhead::identity::certificates::Evidence;
use bulkhead_tests::gateway;
use bulkhead_tests::https::dial;
use bulkhead_tests::scene::Scene;
use bulkhead_tests::wait_until;
use rcgen::{KeyPair, SigningKey};
use rustls::SignatureScheme;
use serde_json::json;

use super::svid::{ID, TrustDomain};
use super::{door, path};

fn scene() -> Option<(Scene, TrustDomain)> {
    let (scene, domain) = super::svid::scene(|scene, config| scene.run_program(gateway::ROGUE, config))?;
    super::listens(&scene);
    Some((scene, domain))
}

/// What a client with this key shows, whose certificate is perhaps another's.
fn evidence(certificate: &rcgen::Certificate, key: &KeyPair, context: &[u8]) -> Evidence {
    let message = [&[0x20; 64][..], context, &[7; 32]].concat();
    let signature = key.sign(&message).expect("a signature");
    Evidence::new(&[certificate.der().clone()], SignatureScheme::ECDSA_NISTP256_SHA256, &message, &signature)
}

const CONTEXT: &[u8] = b"TLS 1.3, client CertificateVerify\0";

/// Has the doorman do something; what the gateway says to it.
fn does(scene: &Scene, misdeed: &str, word: &serde_json::Value) -> String {
    let mut stream = dial(scene.host("office"), door(scene)).expect("it connects");
    writeln!(stream, "{misdeed} {word}").expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut text = Vec::new();
    // It may be killed for it, or wait for more.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn c6_c10_a_doorman_that_was_taken_over_shows_nothing_that_its_client_could_not() {
    let Some((scene, domain)) = scene() else { return };
    let (hour, thief) = (Duration::from_secs(3600), KeyPair::generate().expect("a key"));
    let (certificate, key) = domain.svid(ID, hour);
    let says = |evidence: &Evidence| does(&scene, "say", &json!({ "shown": evidence }));
    let path = path(&scene);
    let stolen = says(&evidence(&certificate, &thief, CONTEXT));
    assert!(stolen.contains("403") && stolen.contains("has not signed this handshake"), "{stolen}");
    let other = says(&evidence(&certificate, &key, b"TLS 1.3, server CertificateVerify\0"));
    assert!(other.contains("403") && other.contains("no handshake of TLS 1.3"), "{other}");
    let nothing = does(&scene, "say", &json!({ "shown": null }));
    assert!(nothing.contains("401"), "{nothing}");
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"nobody was recognised"));
    // What the key has signed once serves once.
    let own = evidence(&certificate, &key, CONTEXT);
    let first = says(&own);
    assert!(first.contains("303") && first.contains("workload billing"), "{first}");
    assert_eq!(scene.cli(&["session", "revoke", "--all"]).code, 0);
    let again = says(&own);
    assert!(again.contains("403") && again.contains("was shown before"), "{again}");
    scene.stays_out("office", "servers", &path.udp(4000, 5432, b"replayed"));
}

#[test]
fn c10_a_doorman_has_one_handshake_signed_and_is_killed_for_whatever_else_it_wants() {
    let Some((scene, _)) = scene() else { return };
    let base64 = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
    let sign = |message: &[u8]| json!({ "sign": { "scheme": 0x0403, "message": base64(message) } });
    let server = [&[0x20; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat();
    assert!(does(&scene, "say", &sign(&server)).contains("signature"), "what an honest one needs");
    let client = [&[0x20; 64][..], CONTEXT, &[7; 32]].concat();
    let alarms = || scene.status()["alarms"].to_string();
    for (misdeed, word, told) in [
        ("say", sign(b"a token that says that I am alice"), "signed what is no handshake"),
        ("say", sign(&client), "signed what is no handshake"),
        ("twice", sign(&server), "it said the same again"),
        ("twice", json!({ "shown": null }), "it said the same again"),
        ("with-connection", json!({ "shown": null }), "it said what is no message"),
        ("garbage", json!({}), "it said what is no message"),
    ] {
        let before = alarms().matches(told).count();
        does(&scene, misdeed, &word);
        wait_until("it is told", || alarms().matches(told).count() > before);
    }
    assert_eq!(scene.json(&["session", "list"])["sessions"].as_array().map(Vec::len), Some(0));
}
