//! What holds for any bytes that a portal, or a doorman, which was taken over sends to the gateway, and for any bytes that
//! answer an agent.

use std::fmt::Debug;
use std::io::ErrorKind;

use crate::portal::wire::{Answer, MESSAGE_BYTES_MAX, receive, send};
use crate::portal::{doorman, orders};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Fields that are secret wherever they stand.
const SECRETS: [&str; 8] =
    ["attempt", "authorization", "binding", "code", "cookie", "password", "state", "token"];

/// Panics if an invariant does not hold.
pub fn check(bytes: &[u8]) {
    is_taken_whole_or_not_at_all::<orders::Word>(bytes);
    is_taken_whole_or_not_at_all::<doorman::Word>(bytes);
    if let Ok(answer) = serde_json::from_slice::<Answer>(bytes) {
        means_what_it_says(bytes, &answer);
        no_secret_is_printed(&answer);
    }
}

fn is_taken_whole_or_not_at_all<W: Serialize + DeserializeOwned + Debug + PartialEq>(bytes: &[u8]) {
    let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (one, other) = pair().expect("a pair of sockets");
    // An empty one is the end, as is that of the process.
    if bytes.is_empty() || rustix::net::send(&one, bytes, SendFlags::DONTWAIT).is_err() {
        return;
    }
    let word = match receive::<W>(&other) {
        Ok(word) => word.expect("the other end is there"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            // Not a byte of it gets into a log.
            let why = error.to_string();
            assert!(why == "not a message" || why == "the message is too long", "{why}");
            return;
        }
    };
    let (word, descriptor) = word;
    assert!(bytes.len() <= MESSAGE_BYTES_MAX && descriptor.is_none());
    means_what_it_says(bytes, &word);
    no_secret_is_printed(&word);
    match send(&one, &word, None) {
        Ok(()) => assert_eq!(receive::<W>(&other).expect("we sent it").expect("it is there").0, word),
        // Names that were left out are told, so it may have grown.
        Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidInput),
    }
}

/// Another reader finds in the bytes all that was taken of them.
fn means_what_it_says(bytes: &[u8], taken: &impl Serialize) {
    let said: Value = serde_json::from_slice(bytes).expect("it was taken");
    let taken = serde_json::to_value(taken).expect("it is JSON");
    assert!(is_in(&taken, &said), "{taken} of {said}");
}

fn is_in(taken: &Value, said: &Value) -> bool {
    match (taken, said) {
        // The fields in their order, without names: serde takes that too.
        (Value::Object(_), Value::Array(_)) => true,
        (Value::Object(taken), Value::Object(said)) => {
            taken.iter().all(|(name, value)| is_in(value, said.get(name).unwrap_or(&Value::Null)))
        }
        (Value::Array(taken), Value::Array(said)) => {
            taken.len() == said.len() && taken.iter().zip(said).all(|(taken, said)| is_in(taken, said))
        }
        // A word that may stand alone.
        (Value::String(taken), Value::Object(said)) => said.get(taken) == Some(&Value::Null),
        (taken, said) => taken == said,
    }
}

/// What is printed is the same whatever the secrets are.
fn no_secret_is_printed<W: Serialize + DeserializeOwned + Debug>(word: &W) {
    let mut value = serde_json::to_value(word).expect("it is JSON");
    hide(&mut value);
    let hidden: W = serde_json::from_value(value).expect("only texts were changed");
    assert_eq!(format!("{word:?}"), format!("{hidden:?}"));
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| match value {
            Value::String(text) if SECRETS.contains(&name.as_str()) => *text = "hidden".to_owned(),
            value => hide(value),
        }),
        Value::Array(values) => values.iter_mut().for_each(hide),
        _ => {}
    }
}
