use serde_json::Value;

use super::*;
use crate::identity::book::tests::Directory;

#[path = "../../../../tests/src/passkey.rs"]
mod passkey;

use passkey::{PRESENT, Passkey as Key, VERIFIED};

const NAME: &str = "access.example.org";
const ORIGIN: &str = "https://access.example.org";
const NOW: u64 = 1_700_000_000;

fn party() -> Party {
    Party::new(NAME, 443).unwrap()
}

fn parsed(options: &str) -> Value {
    serde_json::from_str(options).unwrap()
}

struct Scene {
    _directory: Directory,
    book: Book,
}

impl Scene {
    fn new(name: &str, users: &[&str]) -> Scene {
        let directory = Directory::new(&format!("passkeys-{name}"));
        let book = Book::open(&directory.0).unwrap();
        for name in users {
            let user = User { name: (*name).to_owned(), ..User::default() };
            book.change(name, |_| Ok::<_, ()>((Some(user), ()))).unwrap().unwrap();
        }
        Scene { _directory: directory, book }
    }

    fn user(&self, name: &str) -> User {
        self.book.user(name).unwrap().unwrap()
    }

    fn register(&self, name: &str) -> Key {
        let mut key = Key::new(ORIGIN, NAME);
        self.register_with(name, &mut key).unwrap();
        key
    }

    fn register_with(&self, name: &str, key: &mut Key) -> Result<(), &'static str> {
        let (making, options) = party().make(&self.user(name)).unwrap();
        let response = key.made(&parsed(&options));
        let made = making.verify(&party(), &response, "blue key".to_owned(), NOW)?;
        self.book.add_passkey(name, made).unwrap().map_err(|_| "not added")
    }

    /// Asks for one of the user's, and takes what comes.
    fn show(&self, name: &str, respond: impl FnOnce(&Value) -> String) -> Result<User, NotShown> {
        let user = self.user(name);
        let (expected, options) = party().ask(&user.passkeys).unwrap();
        let shown = expected.verify(&party(), &respond(&parsed(&options)), &user)?;
        self.book.take_passkey(name, &shown, NOW + 1).unwrap()
    }
}

fn wrong(why: &'static str) -> Result<User, NotShown> {
    Err(NotShown::Wrong(why))
}

#[test]
fn a_passkey_is_registered_and_shown_and_its_counter_is_on_the_disk() {
    let scene = Scene::new("shown", &["alice"]);
    let mut key = scene.register("alice");
    let user = scene.user("alice");
    let [passkey] = user.passkeys.as_slice() else { panic!("{user:?}") };
    assert_eq!((passkey.id.as_str(), passkey.name.as_str()), (key.id().as_str(), "blue key"));
    assert_eq!((passkey.sign_count, passkey.added_s, passkey.used_s), (1, NOW, None));
    assert_eq!(passkey.aaguid, "0".repeat(32));
    let shown = scene.show("alice", |options| key.shown(options)).unwrap();
    assert_eq!(shown, scene.user("alice"));
    assert_eq!((shown.passkeys[0].sign_count, shown.passkeys[0].used_s), (2, Some(NOW + 1)));
    // The handle says nothing of who it is, and stays the same for the next one.
    scene.register("alice");
    assert_eq!(scene.user("alice").handle, shown.handle);
    assert_eq!(BASE64URL_NOPAD.decode(shown.handle.unwrap().as_bytes()).unwrap().len(), 64);
}

#[test]
fn what_is_asked_for_names_the_portal_wants_the_user_verified_and_no_attestation() {
    let scene = Scene::new("asked", &["alice"]);
    let (_, made) = party().make(&scene.user("alice")).unwrap();
    let made = parsed(&made);
    assert_eq!(made["rp"]["id"], NAME);
    assert_eq!(made["user"]["name"], "alice");
    assert_eq!(made["attestation"], "none");
    assert_eq!(made["authenticatorSelection"]["userVerification"], "required");
    // Chromium refused its own authenticator when this was true.
    assert_eq!(made["extensions"]["enforceCredentialProtectionPolicy"], false);
    let key = scene.register("alice");
    let (_, again) = party().make(&scene.user("alice")).unwrap();
    assert_eq!(parsed(&again)["excludeCredentials"][0]["id"], key.id());
    let (_, anybody) = party().ask_anybody().unwrap();
    let (_, hers) = party().ask(&scene.user("alice").passkeys).unwrap();
    let (anybody, hers) = (parsed(&anybody), parsed(&hers));
    for options in [&anybody, &hers] {
        assert_eq!((&options["rpId"], &options["userVerification"]), (&NAME.into(), &"required".into()));
    }
    assert_eq!(hers["allowCredentials"][0]["id"], key.id());
    assert_ne!(anybody["challenge"], hers["challenge"], "each has a challenge of its own");
    assert!(party().ask(&[]).is_none(), "without one nobody is asked");
    // A name that authenticators cannot list is written so that they can.
    let odd = User { name: "Alice Ex: 1".to_owned(), ..User::default() };
    let (_, odd) = party().make(&odd).unwrap();
    assert_eq!(parsed(&odd)["user"]["name"], "Alice-Ex--1");
}

#[test]
fn without_a_name_somebody_is_known_by_the_passkey_alone() {
    let scene = Scene::new("anybody", &["alice", "bob"]);
    let (mut hers, mut his) = (scene.register("alice"), scene.register("bob"));
    let (expected, options) = party().ask_anybody().unwrap();
    let response = hers.shown(&parsed(&options));
    let owner = scene.book.owner(&shown_id(&response).unwrap()).unwrap().unwrap();
    assert_eq!(owner.name, "alice");
    assert!(expected.verify(&party(), &response, &owner).is_ok());
    // With another's handle, or none, it is not hers.
    for handle in [his.handle.clone(), None] {
        let (expected, options) = party().ask_anybody().unwrap();
        hers.handle = handle;
        let response = hers.shown(&parsed(&options));
        assert!(matches!(expected.verify(&party(), &response, &owner), Err(NotShown::Wrong(_))));
    }
    let (expected, options) = party().ask_anybody().unwrap();
    let response = his.shown(&parsed(&options));
    let not = expected.verify(&party(), &response, &owner);
    assert_eq!(not, Err(NotShown::Wrong("it is no passkey of the user")));
    assert_eq!(scene.book.owner("nobody's").unwrap(), None);
}

#[test]
fn c5_an_answer_is_taken_once_and_only_for_its_own_challenge() {
    let scene = Scene::new("replay", &["alice"]);
    let mut key = scene.register("alice");
    let mut first = String::new();
    let shown = scene.show("alice", |options| {
        first = key.shown(options);
        first.clone()
    });
    assert!(shown.is_ok());
    assert_eq!(scene.show("alice", |_| first), wrong("it answers another challenge"), "replayed");
    let other = serde_json::json!({ "challenge": BASE64URL_NOPAD.encode(&[7; 16]) });
    assert_eq!(scene.show("alice", |_| key.shown(&other)), wrong("it answers another challenge"));
}

#[test]
fn what_was_signed_for_another_site_name_or_purpose_or_without_the_user_is_refused() {
    let scene = Scene::new("wrong", &["alice"]);
    let mut key = scene.register("alice");
    let origins = [
        "https://evil.example",
        "https://access.example.org.evil.example",
        "https://access.example.org:8443",
        "http://access.example.org",
        "https://sub.access.example.org",
        "https://example.org",
    ];
    for origin in origins {
        key.origin = origin.to_owned();
        assert_eq!(
            scene.show("alice", |options| key.shown(options)),
            wrong("it was shown to another site"),
            "{origin}"
        );
    }
    key.origin = ORIGIN.to_owned();
    for rp_id in ["example.org", "evil.example"] {
        key.rp_id = rp_id.to_owned();
        assert_eq!(
            scene.show("alice", |options| key.shown(options)),
            wrong("it is a passkey of another name")
        );
    }
    key.rp_id = NAME.to_owned();
    for (flags, why) in [
        (PRESENT, "the authenticator has not verified its user"),
        (VERIFIED, "it is no answer of an authenticator"),
        (0, "it is no answer of an authenticator"),
    ] {
        key.flags = flags;
        assert_eq!(scene.show("alice", |options| key.shown(options)), wrong(why), "{flags:#x}");
    }
    key.flags = PRESENT | VERIFIED;
    key.kind = Some("webauthn.create");
    let kind = scene.show("alice", |options| key.shown(options));
    assert_eq!(kind, wrong("it is no answer of an authenticator"));
    key.kind = None;
    assert!(scene.show("alice", |options| key.shown(options)).is_ok(), "and otherwise it is taken");
}

#[test]
fn another_users_passkey_a_strangers_signature_and_noise_are_refused() {
    let scene = Scene::new("others", &["alice", "bob"]);
    let (mut hers, mut his) = (scene.register("alice"), scene.register("bob"));
    assert_eq!(
        scene.show("alice", |options| his.shown(options)),
        wrong("it is no passkey of the user"),
        "of another user"
    );
    // Whoever knows the id does not have the key.
    let mut forged = Key::new(ORIGIN, NAME);
    (forged.id, forged.handle) = (hers.id.clone(), hers.handle.clone());
    forged.count = 9;
    assert_eq!(
        scene.show("alice", |options| forged.shown(options)),
        wrong("it is not signed by the passkey")
    );
    let noise = ["", "{}", "null", "[]", "{\"id\":\"AAAA\"}", "\u{0}", "{\"id\":1,\"response\":{}}"];
    for noise in noise {
        let not = scene.show("alice", |_| noise.to_owned());
        assert_eq!(not, wrong("it is no answer of an authenticator"), "{noise:?}");
    }
    // Each byte of the signed parts counts.
    for field in ["clientDataJSON", "authenticatorData", "signature"] {
        let not = scene.show("alice", |options| {
            let mut response = parsed(&hers.shown(options));
            let text = response["response"][field].as_str().unwrap();
            let mut bytes = BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            response["response"][field] = BASE64URL_NOPAD.encode(&bytes).into();
            response.to_string()
        });
        assert!(matches!(not, Err(NotShown::Wrong(_))), "{field}: {not:?}");
    }
}

#[test]
fn a_counter_that_goes_backwards_is_told_as_a_copy_and_changes_nothing() {
    let scene = Scene::new("cloned", &["alice"]);
    let mut key = scene.register("alice");
    key.count = 7;
    assert!(scene.show("alice", |options| key.shown(options)).is_ok());
    for count in [7, 6, 0] {
        key.count = count;
        let not = scene.show("alice", |options| key.shown(options));
        assert_eq!(not, Err(NotShown::Cloned("blue key".to_owned())), "{count}");
    }
    assert_eq!(scene.user("alice").passkeys[0].sign_count, 7);
    key.count = 8;
    assert!(scene.show("alice", |options| key.shown(options)).is_ok());
    // One that never counts is no copy for that.
    let mut plain = Key::new(ORIGIN, NAME);
    plain.count = 0;
    scene.register_with("alice", &mut plain).unwrap();
    for _ in 0..2 {
        assert!(scene.show("alice", |options| plain.shown(options)).is_ok());
    }
}

#[test]
fn of_two_copies_at_once_with_one_counter_only_one_is_taken() {
    let scene = Scene::new("race", &["alice"]);
    let mut key = scene.register("alice");
    let user = scene.user("alice");
    let mut shown = [(); 2].map(|()| {
        key.count = 5;
        let (expected, options) = party().ask(&user.passkeys).unwrap();
        expected.verify(&party(), &key.shown(&parsed(&options)), &user).unwrap()
    });
    shown.reverse();
    let taken = shown.map(|shown| scene.book.take_passkey("alice", &shown, NOW).unwrap().is_ok());
    assert_eq!(taken, [true, false]);
}

#[test]
fn a_new_passkey_is_of_the_portal_and_made_before_a_verified_user() {
    let scene = Scene::new("made", &["alice"]);
    let with = |change: &dyn Fn(&mut Key)| {
        let mut key = Key::new(ORIGIN, NAME);
        change(&mut key);
        scene.register_with("alice", &mut key)
    };
    for (change, why) in [
        (
            &(|key: &mut Key| key.origin = "https://evil.example".to_owned()) as &dyn Fn(&mut Key),
            "it was made for another site",
        ),
        (&|key| key.rp_id = "evil.example".to_owned(), "it is a passkey of another name"),
        (&|key| key.flags = PRESENT, "the authenticator has not verified its user"),
        (&|key| key.flags = VERIFIED, "the authenticator has not verified its user"),
        (&|key| key.kind = Some("webauthn.get"), "it is no answer of an authenticator"),
    ] {
        assert_eq!(with(change), Err(why));
    }
    let (making, _) = party().make(&scene.user("alice")).unwrap();
    let (_, other) = party().make(&scene.user("alice")).unwrap();
    let response = Key::new(ORIGIN, NAME).made(&parsed(&other));
    let not = making.verify(&party(), &response, "x".to_owned(), NOW);
    assert_eq!(not, Err("it answers another challenge"));
    assert!(scene.user("alice").passkeys.is_empty());
}

#[test]
fn a_passkey_is_one_users_once_and_there_are_so_many_of_one_user() {
    let scene = Scene::new("full", &["alice", "bob"]);
    let mut key = scene.register("alice");
    key.count = 1;
    for name in ["alice", "bob"] {
        assert_eq!(scene.register_with(name, &mut key), Err("not added"), "{name}");
    }
    (1..PASSKEYS_MAX).for_each(|_| drop(scene.register("alice")));
    assert_eq!(scene.register_with("alice", &mut Key::new(ORIGIN, NAME)), Err("not added"));
    // What is taken away is nobody's any more, and may be registered again.
    assert!(scene.book.remove_passkey("alice", &key.id()).unwrap().is_some());
    assert_eq!(scene.book.remove_passkey("alice", &key.id()).unwrap(), None);
    assert_eq!(scene.book.owner(&key.id()).unwrap(), None);
    scene.register_with("bob", &mut key).unwrap();
    scene.book.change("bob", |_| Ok::<_, ()>((None, ()))).unwrap().unwrap();
    assert_eq!(scene.book.owner(&key.id()).unwrap(), None, "nor is that of a user who is removed");
}

#[test]
fn what_was_begun_for_a_user_who_is_gone_is_not_added_to_the_next_of_that_name() {
    let scene = Scene::new("gone", &["alice"]);
    scene.register("alice");
    let (making, options) = party().make(&scene.user("alice")).unwrap();
    let response = Key::new(ORIGIN, NAME).made(&parsed(&options));
    let made = making.verify(&party(), &response, "x".to_owned(), NOW).unwrap();
    let next = User { name: "alice".to_owned(), handle: Some("other".to_owned()), ..User::default() };
    scene.book.change("alice", |_| Ok::<_, ()>((Some(next), ()))).unwrap().unwrap();
    assert_eq!(scene.book.add_passkey("alice", made).unwrap(), Err(NotAdded::Gone));
}

#[test]
fn a_removed_passkey_and_a_disabled_user_are_refused_also_when_it_was_verified_before() {
    let scene = Scene::new("removed", &["alice"]);
    let mut key = scene.register("alice");
    let user = scene.user("alice");
    let mut shown = || {
        let (expected, options) = party().ask(&user.passkeys).unwrap();
        expected.verify(&party(), &key.shown(&parsed(&options)), &user).unwrap()
    };
    let (first, second) = (shown(), shown());
    scene
        .book
        .change("alice", |user| Ok::<_, ()>((user.map(|user| User { disabled: true, ..user }), ())))
        .unwrap()
        .unwrap();
    assert_eq!(scene.book.take_passkey("alice", &first, NOW).unwrap(), wrong("disabled"));
    scene
        .book
        .change("alice", |user| Ok::<_, ()>((user.map(|user| User { disabled: false, ..user }), ())))
        .unwrap()
        .unwrap();
    scene.book.remove_passkey("alice", &key.id()).unwrap();
    let gone = wrong("it is no passkey of the user any more");
    assert_eq!(scene.book.take_passkey("alice", &second, NOW).unwrap(), gone);
}

#[test]
fn users_of_a_store_from_before_passkeys_are_read() {
    let old = r#"{"name":"alice","groups":[],"password":null,"totp":null,"disabled":false,"added_s":1,"password_s":0}"#;
    let user: User = serde_json::from_str(old).unwrap();
    assert_eq!((user.handle, user.passkeys), (None, Vec::new()));
}

#[test]
fn a_port_that_is_not_that_of_https_is_a_part_of_the_origin_and_not_of_the_name() {
    let party = Party::new(NAME, 8443).unwrap();
    assert_eq!(party.origin(), "https://access.example.org:8443");
    let mut key = Key::new(party.origin(), NAME);
    let (making, options) = party.make(&User { name: "alice".to_owned(), ..User::default() }).unwrap();
    let response = key.made(&parsed(&options));
    assert!(making.verify(&party, &response, "x".to_owned(), NOW).is_ok());
    assert_eq!(Party::new("", 443), None);
}

#[test]
fn names_are_short_and_plain() {
    assert_eq!(name(" blue key ").as_deref(), Some("blue key"));
    assert_eq!(name(&"é".repeat(64)), Some("é".repeat(64)));
    for text in ["", "  ", "a\nb", &"x".repeat(65)] {
        assert_eq!(name(text), None, "{text:?}");
    }
}
