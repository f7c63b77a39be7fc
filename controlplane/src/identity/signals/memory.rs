//! What transmitters have said last of devices and of risk, for whoever is there later.
//!
//! A transmitter tells of a change once. Who signs in after that, or anew, or on a device of which one hears only then, is as
//! healthy and as risky as was told last: else whoever was found amiss would only have to sign out. In memory, and bounded:
//! with too many the ones told the longest ago are forgotten.

use std::collections::{HashMap, VecDeque};

use super::{Effect, Subject, Transmitter};
use crate::sessions::{Claims, Moment, Report};

/// The most that is remembered.
const MOST: usize = 65_536;

struct Said {
    /// In the order in which they came.
    number: u64,
    transmitter: String,
    issuer: String,
    subject: Subject,
    effect: Effect,
    at: Moment,
}

/// What was said last.
pub struct Memory {
    /// By a name of the subject, see [`Subject::name`].
    said: HashMap<String, Vec<Said>>,
    /// The names in the order in which something was said of them, with its number; also of what was said anew since.
    order: VecDeque<(u64, String)>,
    count: usize,
    next: u64,
    most: usize,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { said: HashMap::new(), order: VecDeque::new(), count: 0, next: 0, most: MOST }
    }
}

/// Whether both say the same kind of thing.
fn is_about_the_same(one: &Effect, other: &Effect) -> bool {
    match (one, other) {
        (Effect::Posture(one, _), Effect::Posture(other, _)) => one == other,
        (Effect::Risk(_), Effect::Risk(_)) => true,
        _ => false,
    }
}

impl Memory {
    /// Remembers what lasts, in place of what was said of the same before.
    pub fn note(&mut self, transmitter: &Transmitter, subject: &Subject, effect: &Effect, at: Moment) {
        if !matches!(effect, Effect::Posture(..) | Effect::Risk(_)) {
            return;
        }
        let name = subject.name();
        let of_name = self.said.entry(name.clone()).or_default();
        let before = of_name.len();
        of_name.retain(|said| said.subject != *subject || !is_about_the_same(&said.effect, effect));
        let Transmitter { name: transmitter, issuer, .. } = transmitter;
        of_name.push(Said {
            number: self.next,
            transmitter: transmitter.clone(),
            issuer: issuer.clone(),
            subject: subject.clone(),
            effect: effect.clone(),
            at,
        });
        self.count = self.count + of_name.len() - before;
        self.order.push_back((self.next, name));
        self.next += 1;
        self.make_room();
    }

    fn make_room(&mut self) {
        if self.order.len() > 2 * self.most {
            // What was said anew has left its number behind.
            let is_held = |number: u64, of_name: &[Said]| of_name.iter().any(|said| said.number == number);
            let said = &self.said;
            self.order
                .retain(|(number, name)| said.get(name).is_some_and(|of_name| is_held(*number, of_name)));
        }
        while self.count > self.most {
            let Some((number, name)) = self.order.pop_front() else { return };
            let Some(of_name) = self.said.get_mut(&name) else { continue };
            let before = of_name.len();
            of_name.retain(|said| said.number != number);
            self.count -= before - of_name.len();
            if of_name.is_empty() {
                self.said.remove(&name);
            }
        }
    }

    /// Adds to what is known of somebody what was said of them by these transmitters, where nobody has said something later.
    pub fn remind(&self, transmitters: &[Transmitter], claims: &mut Claims) {
        if self.count == 0 {
            return;
        }
        let is_believed = |said: &&Said| {
            transmitters.iter().any(|known| (&known.name, &known.issuer) == (&said.transmitter, &said.issuer))
        };
        let mut names = Subject::names_of(claims);
        names.sort_unstable();
        names.dedup();
        let found = names.iter().filter_map(|name| self.said.get(name)).flatten();
        let mut found: Vec<&Said> =
            found.filter(|said| said.subject.is_of(claims)).filter(is_believed).collect();
        found.sort_unstable_by_key(|said| said.number);
        let mut risk = None;
        for said in found {
            match &said.effect {
                Effect::Posture(posture, state) => {
                    let is_old = |report: &Report| report.posture == *posture && report.at >= said.at;
                    if !claims.reports.iter().any(is_old) {
                        claims.reports.retain(|report| report.posture != *posture);
                        claims.reports.push(Report { posture: posture.clone(), state: *state, at: said.at });
                    }
                }
                Effect::Risk(of_theirs) => risk = Some(*of_theirs),
                Effect::End | Effect::DropFactor => {}
            }
        }
        // What is known of it already was said later, or by whoever vouches for them.
        claims.risk = claims.risk.or(risk);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bulkhead_dataplane::policy::conditions::Posture;
    use bulkhead_dataplane::verdict::Now;
    use serde_json::json;

    use super::*;
    use crate::identity::signals::KeysAt;

    fn transmitter(name: &str) -> Transmitter {
        Transmitter {
            name: name.to_owned(),
            issuer: format!("https://{name}.example"),
            audience: "us".to_owned(),
            keys: KeysAt::File("keys.json".into()),
            ca_file: None,
            push_token_file: None,
            poll: None,
            poll_token_file: None,
            posture: None,
        }
    }

    fn of(user: &str) -> Subject {
        let subject = json!({ "format": "email", "email": user });
        Subject::read(&subject, "https://idp.example").unwrap()
    }

    fn ago(seconds: u64) -> Moment {
        Moment::before(Now(5_000_000_000_000), Duration::from_secs(seconds))
    }

    fn user(name: &str) -> Claims {
        Claims { user: Some(name.to_owned()), ..Claims::default() }
    }

    #[test]
    fn the_last_word_of_those_who_are_believed_still_holds_for_its_subject_and_for_nobody_else() {
        let (idp, mdm) = (transmitter("idp"), transmitter("mdm"));
        let mut memory = Memory::default();
        memory.note(&idp, &of("alice"), &Effect::Risk(90), ago(9));
        memory.note(&mdm, &of("Alice"), &Effect::Posture("ok".to_owned(), Posture::Met), ago(8));
        memory.note(&mdm, &of("Alice"), &Effect::Posture("ok".to_owned(), Posture::Failed), ago(7));
        memory.note(&idp, &of("alice"), &Effect::DropFactor, ago(6));
        let reminded = |transmitters: &[Transmitter], mut claims: Claims| {
            memory.remind(transmitters, &mut claims);
            (claims.reports.iter().map(|report| (report.state, report.at)).collect::<Vec<_>>(), claims.risk)
        };
        let both = [idp.clone(), mdm.clone()];
        assert_eq!(reminded(&both, user("alice")), (vec![(Posture::Failed, ago(7))], Some(90)));
        assert_eq!(reminded(&both, user("bob")), (vec![], None));
        assert_eq!(
            reminded(std::slice::from_ref(&mdm), user("alice")).1,
            None,
            "the other one is believed no more"
        );
        let moved = Transmitter { issuer: "https://other.example".to_owned(), ..mdm };
        assert_eq!(reminded(&[idp, moved], user("alice")).0, [], "it is somebody else now");
        let report = |state, at| Report { posture: "ok".to_owned(), state, at };
        let later = Claims { reports: vec![report(Posture::Met, ago(6))], risk: Some(3), ..user("alice") };
        assert_eq!(reminded(&both, later), (vec![(Posture::Met, ago(6))], Some(3)));
        let earlier = Claims { reports: vec![report(Posture::Met, ago(8))], ..user("alice") };
        assert_eq!(reminded(&both, earlier).0, [(Posture::Failed, ago(7))]);
    }

    #[test]
    fn with_too_many_those_told_the_longest_ago_are_forgotten() {
        let idp = transmitter("idp");
        let mut memory = Memory { most: 8, ..Memory::default() };
        for round in 0..100 {
            for n in 0..10 {
                memory.note(&idp, &of(&format!("user{n}")), &Effect::Risk(round), ago(0));
                assert!(memory.count <= 8 && memory.order.len() <= 16 && memory.said.len() <= 8);
            }
        }
        let risk = |name: &str| {
            let mut claims = user(name);
            memory.remind(std::slice::from_ref(&idp), &mut claims);
            claims.risk
        };
        let risks: Vec<_> = (0..10).map(|n| risk(&format!("user{n}"))).collect();
        assert_eq!((&risks[..2], &risks[2..]), (&[None; 2][..], &[Some(99); 8][..]));
    }
}
