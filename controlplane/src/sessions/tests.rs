use std::sync::Arc;

use bulkhead_dataplane::identity::MAX_STAGES;
use bulkhead_dataplane::policy::conditions::{Circumstances, Condition, Identity, Who};
use bulkhead_dataplane::policy::{Policy, Query};
use bulkhead_dataplane::verdict::{PortId, Reason};
use proptest::prelude::*;

use super::health::Fact;
use super::*;
use crate::model::{self, Model};

const HEAD: &str = r#"version = 1
[ports.a]
interface = "eth1"
[ports.b]
interface = "eth2"
[segments.office]
port = "a"
networks = ["10.1.0.0/24", "fd00:1::/64"]
[segments.servers]
port = "b"
networks = ["10.2.0.0/24", "fd00:2::/64"]
[postures.fresh]
max_age = "30s"
disk_encrypted = true
[postures.lasting]
disk_encrypted = true
os_patch_max_age = "100s"
[groups.staff]
groups = ["dba"]
[groups.dba]
members = ["dora"]
"#;

const BEGIN: Now = Now(5_000_000_000_000);

fn rule(name: &str, port: u16, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nfrom = \"office\"\nto = \"servers\"\nservices = \"tcp/{port}\"\n{more}\n"
    )
}

/// Every kind of demand, alone and together.
fn text() -> String {
    let rules = [
        "users = \"any\"",
        "users = \"alice\"",
        "users = { groups = [\"staff\"] }",
        "require = { mfa_max_age = \"10s\" }",
        "users = \"any\"\nrequire = { mfa_max_age = \"1m\", mfa = \"phishing-resistant\" }",
        "require = { mfa_max_age = \"1h\", posture = \"fresh\", risk_below = 50 }",
        "require = { posture = [\"fresh\", \"lasting\"], devices = { enrolled = true, tags = [\"laptop\"] } }",
        "require = { posture = \"lasting\" }",
    ];
    let rules = (0..).zip(rules).map(|(number, more)| rule(&format!("r{number}"), 100 + number, more));
    HEAD.to_owned() + &rules.collect::<String>()
}

fn parsed(text: &str) -> Arc<Model> {
    Arc::new(model::parse("t.toml", text).unwrap_or_else(|errors| panic!("{errors}")))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(after: u64) -> Now {
    later(BEGIN, seconds(after))
}

fn session(claims: Claims, lasts: u64) -> Session {
    Session {
        id: "id".to_owned(),
        address: "10.1.0.7".parse().unwrap(),
        segment: "office".to_owned(),
        mac: None,
        claims,
        proof: Proof::Operator,
        begun: BEGIN,
        ends: at(lasts),
    }
}

fn user(name: &str) -> Claims {
    Claims { user: Some(name.to_owned()), ..Claims::default() }
}

#[test]
fn an_age_is_more_than_so_many_seconds_exactly_when_it_counts_more() {
    for (age_ns, seconds) in [(0, 0), (1, 1), (999_999_999, 1), (1_000_000_000, 1), (1_000_000_001, 2)] {
        let moment = Moment::before(BEGIN, Duration::from_nanos(age_ns));
        assert_eq!(moment.age_s(BEGIN), seconds, "{age_ns} ns");
    }
    let moment = Moment::before(BEGIN, seconds(7));
    let edge = moment.older_than(10);
    assert_eq!(edge, Now(at(3).0 + 1));
    assert_eq!((moment.age_s(Now(edge.0 - 1)), moment.age_s(edge)), (10, 11));
    // Before the clock began, and further away than it counts.
    let long_ago = Moment::before(Now(1), Duration::from_secs(86_400));
    assert_eq!((long_ago.age_s(Now(1)), long_ago.older_than(10)), (86_400, Now(0)));
    assert_eq!(Moment::before(BEGIN, Duration::MAX).age_s(BEGIN), u32::MAX);
    assert_eq!(Moment::before(BEGIN, Duration::ZERO).age_s(Now(0)), 0);
}

#[test]
fn a_session_is_told_in_the_numbers_of_the_model() {
    let model = parsed(&text());
    let device = Device {
        name: None,
        enrolled: true,
        tags: vec!["laptop".to_owned(), "unheard-of".to_owned()],
        credential: None,
        until: None,
    };
    let report = |posture: &str, state| Report {
        posture: posture.to_owned(),
        state,
        at: Moment::before(BEGIN, seconds(20)),
    };
    let claims = Claims {
        device: Some(device),
        factor: Some(Factor { shown: Moment::before(BEGIN, seconds(5)), phishing_resistant: true }),
        reports: vec![
            report("fresh", State::Met),
            report("lasting", State::Failed),
            report("gone", State::Met),
        ],
        risk: Some(7),
        ..user("dora")
    };
    let names = &model.identities;
    let found = identity(names, &session(claims, 60), at(10));
    let groups: Vec<_> = ["dba", "staff"].map(|name| names.group(name).unwrap().0).into();
    assert_eq!(found.groups.iter().collect::<Vec<_>>(), groups);
    assert_eq!(found.user, Some(names.user("dora")));
    let device = found.device.unwrap();
    assert!(device.enrolled && device.tags.iter().eq([names.tag("laptop").unwrap().0]));
    assert_eq!((found.mfa_age_s, found.phishing_resistant, found.risk), (Some(15), true, Some(7)));
    let posture = |name: &str| found.postures[names.posture(name).unwrap().0 as usize];
    assert_eq!((posture("fresh"), posture("lasting")), (State::Met, State::Failed));
    // A group that is told, of nobody the policy names.
    let claims = Claims { groups: vec!["dba".to_owned(), "gone".to_owned()], ..user("eve") };
    assert_eq!(identity(names, &session(claims, 60), BEGIN).groups.iter().collect::<Vec<_>>(), groups);
}

#[test]
fn an_older_report_of_the_same_posture_does_not_count_whatever_their_order() {
    let model = parsed(&text());
    let report = |state, age_s| Report {
        posture: "fresh".to_owned(),
        state,
        at: Moment::before(BEGIN, seconds(age_s)),
    };
    let id = model.identities.posture("fresh").unwrap().0 as usize;
    for reports in [
        vec![report(State::Failed, 0), report(State::Met, 5)],
        vec![report(State::Met, 5), report(State::Failed, 0)],
    ] {
        let found = identity(&model.identities, &session(Claims { reports, ..user("dora") }, 60), at(1));
        assert_eq!(found.postures[id], State::Failed);
    }
}

#[test]
fn a_device_talked_away_what_somebody_else_had_found_amiss() {
    let model = parsed(&text());
    let id = model.identities.posture("fresh").unwrap().0 as usize;
    let stands = |told: State, told_age_s| {
        let report = Report {
            posture: "fresh".to_owned(),
            state: told,
            at: Moment::before(BEGIN, seconds(told_age_s)),
        };
        let facts = [("disk_encrypted".to_owned(), Fact::Flag(true))].into();
        let health = Some(Health { facts, at: Moment::before(BEGIN, Duration::ZERO) });
        let claims = Claims { reports: vec![report], health, ..user("dora") };
        identity(&model.identities, &session(claims, 60), BEGIN).postures[id]
    };
    assert_eq!(stands(State::Failed, 10), State::Failed);
    assert_ne!(stands(State::Failed, 86_400), State::Met, "also when that is long ago");
    assert_eq!(stands(State::Met, 86_400), State::Met, "what nobody finds amiss, its own word is about");
}

/// What the condition says at a moment, from the times themselves.
fn expected(model: &Model, session: &Session, condition: &Condition, now: Now) -> Option<Reason> {
    let gates = (0..100).collect();
    if now >= session.ends {
        return condition.unmet(&Circumstances { who: Who::Expired, gates: &gates });
    }
    let is_over = |since: Moment, limit_s: u32| now.0 as i64 - since.0 > i64::from(limit_s) * 1_000_000_000;
    let mut known = identity(&model.identities, session, session.begun);
    let limit_s = condition.mfa_max_age_s.unwrap_or_default();
    known.mfa_age_s = session.claims.factor.map(|factor| limit_s + u32::from(is_over(factor.shown, limit_s)));
    for name in ["fresh", "lasting"] {
        let of_it = session.claims.reports.iter().filter(|report| report.posture == name);
        let Some(report) = of_it.max_by_key(|report| report.at) else { continue };
        let id = model.identities.posture(&report.posture).unwrap().0 as usize;
        let max_age_s = model.identities.postures[id].max_age_s;
        let is_over = max_age_s.is_some_and(|max_age_s| is_over(report.at, max_age_s));
        known.postures[id] = if is_over { State::Unknown } else { report.state };
    }
    if let Some(health) = &session.claims.health {
        let elapsed_ns = now.0 as i64 - health.at.0;
        let flag = match health.facts.get("disk_encrypted") {
            Some(Fact::Flag(true)) => State::Met,
            Some(_) => State::Failed,
            None => State::Unknown,
        };
        let patched = match health.facts.get("os_patch_age") {
            Some(Fact::Age(age_s)) if i64::from(*age_s) * 1_000_000_000 + elapsed_ns > 100_000_000_000 => {
                State::Failed
            }
            Some(_) => State::Met,
            None => State::Unknown,
        };
        let both = match (flag, patched) {
            (State::Failed, _) | (_, State::Failed) => State::Failed,
            (State::Met, State::Met) => State::Met,
            _ => State::Unknown,
        };
        let fresh = if elapsed_ns > 30_000_000_000 { State::Unknown } else { flag };
        for (name, state) in [("fresh", fresh), ("lasting", both)] {
            let of_it = session.claims.reports.iter().filter(|report| report.posture == name);
            let last = of_it.max_by_key(|report| report.at);
            if last.is_none_or(|last| last.at <= health.at && last.state != State::Failed) {
                known.postures[model.identities.posture(name).unwrap().0 as usize] = state;
            }
        }
    }
    if session.claims.device.as_ref().and_then(|device| device.until).is_some_and(|until| now >= until) {
        known.device = None;
    }
    condition.unmet(&Circumstances { who: Who::Known(&known), gates: &gates })
}

fn told(stages: &[bulkhead_dataplane::identity::Stage], condition: &Condition, now: Now) -> Option<Reason> {
    let gates = (0..100).collect();
    let stage = stages.iter().find(|stage| now < stage.until);
    let who = stage.map_or(Who::Expired, |stage| Who::Known(&stage.identity));
    condition.unmet(&Circumstances { who, gates: &gates })
}

prop_compose! {
    fn some_claims()(
        user in prop::option::of(prop::sample::select(vec!["alice", "dora", "eve"])),
        factor in prop::option::of((0u64..5000, any::<bool>())),
        device in prop::option::of((any::<bool>(), any::<bool>(), prop::option::of(0u64..100_000))),
        health in prop::option::of((prop::option::of(any::<bool>()), prop::option::of(0u32..200), 0u64..60_000)),
        reports in prop::collection::vec((prop::sample::select(vec!["fresh", "lasting"]),
            prop::sample::select(vec![State::Met, State::Failed, State::Unknown]), 0u64..60_000), 0..3),
        risk in prop::option::of(0u8..=100),
    ) -> Claims {
        Claims {
            user: user.map(str::to_owned),
            groups: Vec::new(),
            device: device.map(|(enrolled, tagged, until_ms)| Device {
                name: None, enrolled, tags: tagged.then(|| "laptop".to_owned()).into_iter().collect(),
                credential: None, until: until_ms.map(|ms| later(BEGIN, Duration::from_millis(ms))),
            }),
            factor: factor.map(|(age_s, phishing_resistant)| Factor {
                shown: Moment::before(BEGIN, seconds(age_s)), phishing_resistant,
            }),
            reports: reports.into_iter().map(|(posture, state, age_ms)| Report {
                posture: posture.to_owned(), state, at: Moment::before(BEGIN, Duration::from_millis(age_ms)),
            }).collect(),
            health: health.map(|(encrypted, patched, age_ms)| Health {
                facts: encrypted.map(|is| ("disk_encrypted".to_owned(), Fact::Flag(is))).into_iter()
                    .chain(patched.map(|age_s| ("os_patch_age".to_owned(), Fact::Age(age_s)))).collect(),
                at: Moment::before(BEGIN, Duration::from_millis(age_ms)),
            }),
            risk,
            origin: None,
        }
    }
}

proptest! {
    #[test]
    fn at_every_moment_the_stages_answer_as_the_session_itself(
        claims in some_claims(),
        lasts in 1u64..6000,
        after_ms in 0u64..100_000,
        moments in prop::collection::vec(0u64..6_100_000, 30),
    ) {
        let model = parsed(&text());
        let session = session(claims, lasts);
        let now = later(BEGIN, Duration::from_millis(after_ms));
        let Described { stages, again } = describe(&model.identities, &Ages::of(&model), &session, now);
        prop_assert_eq!(again, None);
        prop_assert!(stages.is_sorted_by(|a, b| a.until < b.until));
        let edges = stages.iter().flat_map(|stage| [Now(stage.until.0 - 1), stage.until, Now(stage.until.0 + 1)]);
        let moments = moments.iter().map(|ms| later(BEGIN, Duration::from_millis(*ms)));
        for moment in edges.chain(moments).chain([now]).filter(|moment| *moment >= now) {
            for condition in &model.rules.conditions {
                prop_assert_eq!(
                    told(&stages, condition, moment), expected(&model, &session, condition, moment),
                    "{:?} at {:?}", condition, moment
                );
            }
        }
    }
}

/// A model whose rules ask for second factors of 300 ages.
fn many_ages() -> Arc<Model> {
    let rules = (1..=300)
        .map(|age| rule(&format!("r{age}"), age, &format!("require = {{ mfa_max_age = \"{age}s\" }}")));
    parsed(&(HEAD.to_owned() + &rules.collect::<String>()))
}

fn fresh_factor() -> Claims {
    let factor = Factor { shown: Moment::before(BEGIN, Duration::ZERO), phishing_resistant: false };
    Claims { factor: Some(factor), ..user("alice") }
}

#[test]
fn a_session_of_too_many_stages_ends_early_unless_it_is_described_again() {
    let (model, session) = (many_ages(), session(fresh_factor(), 3600));
    let ages = Ages::of(&model);
    let first = describe(&model.identities, &ages, &session, BEGIN);
    assert_eq!((first.stages.len(), first.stages.last().unwrap().until), (MAX_STAGES, Now(at(256).0 + 1)));
    let again = first.again.unwrap();
    assert!(again < at(200), "in good time");
    let second = describe(&model.identities, &ages, &session, again);
    assert_eq!((second.stages.last().unwrap().until, second.again), (session.ends, None));
}

fn policy(sessions: &Sessions, model: &Arc<Model>, now: Now) -> (Policy, Vec<Ended>) {
    let mut policy = model.compile().unwrap();
    let ended = sessions.put_in_force(model, &mut policy, now);
    (policy, ended)
}

/// Why the policy lets no connection through from an address to a port of the servers.
fn refused(policy: &Policy, source: &str, port: u16, now: Now) -> Option<Reason> {
    let source: IpAddr = source.parse().unwrap();
    let destination = if source.is_ipv4() { "10.2.0.9" } else { "fd00:2::9" }.parse().unwrap();
    let query = Query { ingress: PortId(0), source, destination, protocol: 6, destination_port: port };
    policy.judge_now(&query, None, now).answer.refusal
}

fn new(address: &str, claims: Claims, lasts: u64) -> New {
    New { address: address.parse().unwrap(), mac: None, claims, proof: Proof::Operator, ends: at(lasts) }
}

fn of_address(address: &str) -> Which {
    Which { address: Some(address.parse().unwrap()), ..Which::default() }
}

/// Port 1 for any user, port 2 for alice, port 3 for a factor of ten seconds.
fn small() -> Arc<Model> {
    parsed(
        &(HEAD.to_owned()
            + &rule("anyone", 1, "users = \"any\"")
            + &rule("alice", 2, "users = \"alice\"")
            + &rule("mfa", 3, "require = { mfa_max_age = \"10s\" }")),
    )
}

#[test]
fn every_policy_in_use_knows_a_session_from_its_beginning_to_its_end() {
    let sessions = Sessions::new(4);
    let (first, _) = policy(&sessions, &small(), BEGIN);
    // Other numbers for the same names.
    let other = parsed(
        &(HEAD.to_owned() + &rule("aaron", 1, "users = \"aaron\"") + &rule("alice", 2, "users = \"alice\"")),
    );
    let mut beside = other.compile().unwrap();
    sessions.attach(&other, &mut beside, BEGIN);
    let refused_by = |now| [&first, &beside].map(|policy| refused(policy, "10.1.0.7", 2, now));
    assert_eq!(refused_by(BEGIN), [Some(Reason::NotAuthenticated); 2]);
    let begun = sessions.begin(new("10.1.0.7", user("alice"), 100), BEGIN).unwrap();
    assert!(begun.replaced.is_none() && begun.session.segment == "office" && begun.session.id.len() == 10);
    assert_eq!(refused_by(BEGIN), [None; 2]);
    // One that comes later knows it too.
    let mut late = other.compile().unwrap();
    sessions.attach(&other, &mut late, at(1));
    assert_eq!(
        (refused(&late, "10.1.0.7", 2, at(1)), refused(&late, "10.1.0.7", 1, at(1))),
        (None, Some(Reason::NotInGroup))
    );
    let begun_again = sessions.begin(new("10.1.0.7", user("bob"), 100), at(1)).unwrap();
    assert_eq!(begun_again.replaced.map(|replaced| replaced.id.clone()), Some(begun.session.id.clone()));
    assert_eq!(refused_by(at(1)), [Some(Reason::NotInGroup); 2]);
    assert_eq!(sessions.end(&Which { id: Some(begun.session.id.clone()), ..Which::default() }).len(), 0);
    assert_eq!(sessions.end(&Which { user: Some("bob".to_owned()), ..Which::default() }).len(), 1);
    assert_eq!(refused_by(at(1)), [Some(Reason::SessionExpired); 2]);
    assert_eq!(refused(&late, "10.1.0.7", 2, at(1)), Some(Reason::SessionExpired));
    assert!(sessions.end(&Which::default()).is_empty() && sessions.is_empty());
}

#[test]
fn a_policy_that_is_no_longer_asked_is_forgotten_and_one_that_asks_nobody_has_no_slots() {
    let sessions = Sessions::new(4);
    let (mut held, _) = policy(&sessions, &small(), BEGIN);
    let weak = Arc::downgrade(held.identities());
    (held, _) = policy(&sessions, &parsed(&(HEAD.to_owned() + &rule("plain", 1, ""))), BEGIN);
    assert!(weak.upgrade().is_none() && held.identities().capacity() == 0);
    // Whoever signs in then is known to the next one.
    sessions.begin(new("10.1.0.7", user("alice"), 100), BEGIN).unwrap();
    let (held, _) = policy(&sessions, &small(), BEGIN);
    assert_eq!((refused(&held, "10.1.0.7", 2, BEGIN), held.identities().len()), (None, 1));
}

#[test]
fn n8_a_session_of_one_address_is_none_of_the_other_family() {
    let sessions = Sessions::new(4);
    let (policy, _) = policy(&sessions, &small(), BEGIN);
    sessions.begin(new("10.1.0.7", user("alice"), 100), BEGIN).unwrap();
    assert_eq!(refused(&policy, "10.1.0.7", 2, BEGIN), None);
    assert_eq!(refused(&policy, "fd00:1::7", 2, BEGIN), Some(Reason::NotAuthenticated));
    sessions.begin(new("fd00:1::7", user("alice"), 100), BEGIN).unwrap();
    sessions.end(&of_address("10.1.0.7"));
    assert_eq!(refused(&policy, "fd00:1::7", 2, BEGIN), None);
}

#[test]
fn n10_a_full_store_refuses_new_addresses_and_those_that_are_there_stay_and_change() {
    let sessions = Sessions::new(3);
    let (policy, _) = policy(&sessions, &small(), BEGIN);
    let begin = |last: u8, claims, lasts, now| {
        sessions.begin(new(&format!("10.1.0.{last}"), claims, lasts), now).map(|_| ())
    };
    for last in 1..=3 {
        assert_eq!(begin(last, user("alice"), 100 * u64::from(last), BEGIN), Ok(()));
    }
    for last in 4..200 {
        assert_eq!(begin(last, user("mallory"), 100, BEGIN), Err(Refused::Full));
    }
    let known =
        |now| (1..=4).map(|last| refused(&policy, &format!("10.1.0.{last}"), 2, now)).collect::<Vec<_>>();
    assert_eq!(known(BEGIN), [None, None, None, Some(Reason::NotAuthenticated)]);
    assert_eq!(begin(2, user("bob"), 200, BEGIN), Ok(()));
    // One that is over makes room, and is told of nevertheless.
    assert_eq!(begin(4, user("alice"), 300, at(100)), Ok(()));
    assert_eq!(known(at(100))[1..], [Some(Reason::NotInGroup), None, None]);
    assert_eq!(begin(5, user("alice"), 300, at(100)), Err(Refused::Full));
    let expired: Vec<_> =
        sessions.follow(at(100)).iter().map(|session| session.address.to_string()).collect();
    assert_eq!(expired, ["10.1.0.1"]);
    assert_eq!(sessions.len(), 3);
}

#[test]
fn what_ends_by_the_clock_is_forgotten_and_told_once() {
    let sessions = Sessions::new(4);
    let (policy, _) = policy(&sessions, &small(), BEGIN);
    sessions.begin(new("10.1.0.7", user("alice"), 10), BEGIN).unwrap();
    sessions.begin(new("10.1.0.8", user("alice"), 20), BEGIN).unwrap();
    assert!(sessions.follow(Now(at(10).0 - 1)).is_empty());
    // The packets need nobody who follows.
    assert_eq!(refused(&policy, "10.1.0.7", 2, at(10)), Some(Reason::SessionExpired));
    assert!(sessions.of("10.1.0.7".parse().unwrap(), at(10)).is_none());
    assert_eq!(sessions.list(&Which::default(), at(10)).len(), 1);
    assert_eq!(sessions.follow(at(10)).len(), 1);
    assert!(sessions.follow(at(11)).is_empty() && sessions.len() == 1);
    // One that begins in the place of one that is over does not end it a second time.
    let begun = sessions.begin(new("10.1.0.8", user("bob"), 40), at(20)).unwrap();
    assert!(begun.replaced.is_none());
    assert_eq!(sessions.follow(at(21)).len(), 1);
    assert_eq!(refused(&policy, "10.1.0.8", 1, at(21)), None);
}

#[test]
fn an_age_bites_by_the_clock_alone_and_many_ages_are_described_again_in_time() {
    let sessions = Sessions::new(4);
    let (policy, _) = policy(&sessions, &many_ages(), BEGIN);
    sessions.begin(new("10.1.0.7", fresh_factor(), 3600), BEGIN).unwrap();
    let refused = |age, now| refused(&policy, "10.1.0.7", age, now);
    assert_eq!((refused(10, at(10)), refused(10, Now(at(10).0 + 1))), (None, Some(Reason::MfaTooOld)));
    assert_eq!(refused(300, at(257)), Some(Reason::SessionExpired), "nobody has followed");
    for second in 0..300 {
        assert!(sessions.follow(at(second)).is_empty());
    }
    assert_eq!((refused(300, at(299)), refused(300, at(301))), (None, Some(Reason::MfaTooOld)));
}

#[test]
fn n4_an_address_that_another_policy_has_in_another_segment_loses_its_session() {
    let sessions = Sessions::new(4);
    let (first, ended) = policy(&sessions, &small(), BEGIN);
    assert!(ended.is_empty());
    for address in ["10.1.0.7", "10.1.0.8", "fd00:1::7"] {
        sessions.begin(new(address, user("alice"), 100), BEGIN).unwrap();
    }
    // The same networks with one host taken out.
    let guests = "[segments.guests]\nport = \"a\"\nnetworks = [\"10.1.0.8/32\"]\n";
    let rules = rule("alice", 2, "users = \"alice\"")
        + &rule("guests", 4, "users = \"alice\"").replace("from = \"office\"", "from = \"guests\"");
    let moved = parsed(&(HEAD.to_owned() + guests + &rules));
    // Beside, it does not count there, and stays where it is.
    let mut beside = moved.compile().unwrap();
    sessions.attach(&moved, &mut beside, BEGIN);
    assert_eq!(refused(&beside, "10.1.0.8", 4, BEGIN), Some(Reason::NotAuthenticated));
    assert_eq!((refused(&beside, "10.1.0.7", 2, BEGIN), refused(&first, "10.1.0.8", 2, BEGIN)), (None, None));
    let (second, ended) = policy(&sessions, &moved, BEGIN);
    let told: Vec<_> = ended.iter().map(|ended| (ended.session.address.to_string(), ended.why)).collect();
    assert_eq!(told, [("10.1.0.8".to_owned(), Why::Moved)]);
    assert_eq!(refused(&second, "10.1.0.8", 4, BEGIN), Some(Reason::NotAuthenticated));
    assert_eq!(refused(&first, "10.1.0.8", 2, BEGIN), Some(Reason::SessionExpired));
    assert_eq!(
        (refused(&second, "10.1.0.7", 2, BEGIN), refused(&second, "fd00:1::7", 2, BEGIN)),
        (None, None)
    );
    // It can be had anew, where it belongs now.
    assert_eq!(sessions.begin(new("10.1.0.8", user("alice"), 100), BEGIN).unwrap().session.segment, "guests");
    assert_eq!(refused(&second, "10.1.0.8", 4, BEGIN), None);
    assert_eq!(refused(&first, "10.1.0.8", 2, BEGIN), Some(Reason::SessionExpired));
    let nowhere = sessions.begin(new("192.0.2.1", user("alice"), 100), BEGIN);
    assert_eq!(nowhere.map(|_| ()), Err(Refused::NoSegment));
}

#[test]
fn ids_are_random_short_and_easy_to_read() {
    let sessions = Sessions::new(300);
    policy(&sessions, &small(), BEGIN);
    let mut ids: Vec<String> = (0..200)
        .map(|last| {
            sessions
                .begin(new(&format!("10.1.0.{last}"), user("alice"), 100), BEGIN)
                .unwrap()
                .session
                .id
                .clone()
        })
        .collect();
    assert!(ids.iter().all(|id| id.len() == 10 && id.bytes().all(|digit| digit.is_ascii_alphanumeric())));
    assert!(!ids.iter().any(|id| id.contains(['i', 'l', 'o', 'u'])));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

#[test]
fn nobody_knows_an_identity_without_a_session() {
    // What `Identity` knows by default meets no demand of the model: a slot that says nothing opens nothing.
    let model = parsed(&text());
    let gates = (0..100).collect();
    let empty = Identity::default();
    for condition in &model.rules.conditions {
        assert!(condition.unmet(&Circumstances { who: Who::Known(&empty), gates: &gates }).is_some());
    }
}
