//! Polling a transmitter for events (RFC 8936): what is asked, what comes, and when to ask again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::NotTaken;
use crate::tokens::json as strict;

/// The most tokens that are asked for at once.
pub const EVENTS_MAX: usize = 32;
/// How long the transmitter may let us wait for an event.
pub const LONG: Duration = Duration::from_secs(60);
/// The pause after an answer that came at once with nothing in it.
pub const IDLE: Duration = Duration::from_secs(5);
/// The longest pause after failures.
pub const LONGEST: Duration = Duration::from_secs(300);

/// What is to be told of tokens that came.
#[derive(Debug, Default)]
pub struct Outcomes {
    taken: Vec<String>,
    refused: BTreeMap<String, NotTaken>,
}

impl Outcomes {
    /// Notes what became of one.
    pub fn note(&mut self, id: String, outcome: Result<(), NotTaken>) {
        match outcome {
            Ok(()) => self.taken.push(id),
            Err(why) => drop(self.refused.insert(id, why)),
        }
    }

    /// The request that tells it and asks for more (section 2.2).
    pub fn request(&self) -> String {
        let refused: Map<String, Value> = self
            .refused
            .iter()
            .map(|(id, why)| (id.clone(), json!({ "err": why.err, "description": why.description })))
            .collect();
        let mut request = json!({ "maxEvents": EVENTS_MAX, "returnImmediately": false, "ack": self.taken });
        if !refused.is_empty() {
            request["setErrs"] = refused.into();
        }
        request.to_string()
    }
}

/// Reads an answer (section 2.3): tokens by their ids, and whether there are more.
///
/// # Errors
///
/// It is none.
pub fn read(body: &[u8]) -> Result<(Vec<(String, String)>, bool), String> {
    let body = strict::object(body).map_err(|error| format!("the transmitter's answer: {error}"))?;
    let sets = body.get("sets").and_then(Value::as_object).ok_or("the transmitter's answer has no `sets`")?;
    if sets.len() > EVENTS_MAX {
        return Err("the transmitter sends more than it was asked for".to_owned());
    }
    let token = |(id, token): (&String, &Value)| Some((id.clone(), token.as_str()?.to_owned()));
    let sets: Option<Vec<_>> = sets.iter().map(token).collect();
    let more = body.get("moreAvailable").and_then(Value::as_bool).unwrap_or(false);
    Ok((sets.ok_or("a token of the transmitter's answer is no text")?, more))
}

/// How long to wait before asking again.
#[derive(Debug, Default)]
pub struct BackOff {
    failures: u32,
}

impl BackOff {
    /// After an answer.
    pub fn answered(&mut self, is_empty: bool, more: bool, took: Duration) -> Duration {
        self.failures = 0;
        if !is_empty || more || took >= IDLE { Duration::ZERO } else { IDLE }
    }

    /// After a failure: a second, then twice as long each time.
    pub fn failed(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.failures.min(16));
        self.failures += 1;
        pause.min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_tokens_is_told_with_the_next_request() {
        let mut outcomes = Outcomes::default();
        outcomes.note("a".to_owned(), Ok(()));
        let why = NotTaken { err: "invalid_audience", description: "not us".to_owned() };
        outcomes.note("b".to_owned(), Err(why));
        let request: Value = serde_json::from_str(&outcomes.request()).unwrap();
        assert_eq!(request["ack"], json!(["a"]));
        assert_eq!(request["setErrs"]["b"], json!({ "err": "invalid_audience", "description": "not us" }));
        assert!(!Outcomes::default().request().contains("setErrs"));
    }

    #[test]
    fn an_answer_has_tokens_by_their_ids_and_no_more_than_asked_for() {
        let (sets, more) = read(br#"{"sets":{"a":"x.y.z","b":"u.v.w"},"moreAvailable":true}"#).unwrap();
        assert_eq!((sets.len(), more), (2, true));
        assert_eq!(read(br#"{"sets":{}}"#).unwrap(), (Vec::new(), false));
        for wrong in [&b"{}"[..], br#"{"sets":{"a":1}}"#, br#"{"sets":{"a":"x","a":"y"}}"#, b"no"] {
            assert!(read(wrong).is_err());
        }
        let many: Map<String, Value> = (0..=EVENTS_MAX).map(|n| (n.to_string(), json!("t"))).collect();
        assert!(read(json!({ "sets": many }).to_string().as_bytes()).is_err());
    }

    #[test]
    fn who_does_not_answer_is_asked_less_and_less_often() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..11).map(|_| back_off.failed().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(back_off.answered(true, false, Duration::ZERO), IDLE);
        assert_eq!(back_off.failed().as_secs(), 1);
        assert_eq!(back_off.answered(true, false, LONG), Duration::ZERO, "it let us wait already");
        assert_eq!(back_off.answered(false, false, Duration::ZERO), Duration::ZERO);
    }
}
