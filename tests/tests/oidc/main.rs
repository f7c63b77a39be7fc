//! Signing in at a real identity provider: `oidc-provider`, which is certified, behind TLS of a root of its own, with a browser
//! that can just fill in forms.
//!
//! `.ci/run` installs the package; where it or node is missing, the tests say so and pass. `BULKHEAD_NODE_MODULES` names the
//! directory in which it is.

mod browser;
mod gateway;
mod provider;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bulkhead::identity::oidc::{At, Back, NotIn, Poll, Providers, SignedIn};
use bulkhead::portal::wire::Secret;

use browser::Browser;
use provider::{BACK, Provider};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 9));

fn now() -> At {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    At { instant: Instant::now(), unix_s: since.as_secs() as i64 }
}

/// Signs in, from the portal to the provider and back.
fn sign_in(
    providers: &Providers,
    provider: &Provider,
    browser: &mut Browser,
    step_up: bool,
    at: At,
) -> Result<SignedIn, NotIn> {
    let all = [provider.settings()];
    let redirect = providers.begin(&all, "corp", step_up, BACK, HERE, at)?;
    let answer = browser.visit(&redirect.url, BACK);
    let back = Back {
        state: Secret::new(answer["state"].clone()),
        code: answer.get("code").map(|code| Secret::new(code.clone())),
        iss: answer.get("iss").cloned(),
        error: answer.get("error").cloned(),
        binding: Some(redirect.binding),
    };
    providers.finish(&all, &back, BACK, HERE, at)
}

#[test]
fn a_browser_signs_in_with_a_code_and_comes_back_with_groups_and_factors() {
    let Some(provider) = Provider::start("k1", false) else { return };
    let providers = Providers::default();
    let mut browser = provider.browser("alice", "weak");
    let signed_in = sign_in(&providers, &provider, &mut browser, false, now()).unwrap();
    assert_eq!(signed_in.user, "alice@example.org");
    assert_eq!(signed_in.groups, ["staff", "dba"]);
    assert_eq!((signed_in.origin.subject.as_str(), &signed_in.origin.issuer), ("alice", &provider.issuer));
    let (age, phishing_resistant) = signed_in.factor.unwrap();
    assert!(age <= Duration::from_secs(5) && !phishing_resistant, "a password and a code, just now");
    // The provider knows the browser now: no form, the same answer, the same time of the sign-in.
    browser.type_nothing();
    let again = sign_in(&providers, &provider, &mut browser, false, now()).unwrap();
    assert_eq!(again.user, "alice@example.org");
    // A step-up asks all the same.
    let mut browser = browser.with("alice", "strong");
    let stepped = sign_in(&providers, &provider, &mut browser, true, now()).unwrap();
    assert!(stepped.step_up && stepped.factor.unwrap().1, "a key that cannot be phished: {stepped:?}");
    let mut bob = provider.browser("bob", "weak");
    assert_eq!(sign_in(&providers, &provider, &mut bob, false, now()).unwrap().groups, ["contractors"]);
    let mut mallory = provider.browser("mallory", "weak");
    let refused = sign_in(&providers, &provider, &mut mallory, false, now());
    assert!(matches!(&refused, Err(NotIn::Provider(why)) if why.contains("email_verified")), "{refused:?}");
}

#[test]
fn claims_that_are_in_the_user_information_alone_are_found_there() {
    let Some(provider) = Provider::start("k1", true) else { return };
    let mut browser = provider.browser("alice", "weak");
    let signed_in = sign_in(&Providers::default(), &provider, &mut browser, false, now()).unwrap();
    assert_eq!((signed_in.user.as_str(), signed_in.groups.len()), ("alice@example.org", 2));
}

#[test]
fn a_code_is_worth_nothing_without_the_verifier_and_only_once() {
    let Some(provider) = Provider::start("k1", false) else { return };
    let (mine, other) = (Providers::default(), Providers::default());
    let all = [provider.settings()];
    let stolen = mine.begin(&all, "corp", false, BACK, HERE, now()).unwrap();
    let answer = provider.browser("alice", "weak").visit(&stolen.url, BACK);
    // Somebody who has seen the code puts it into a sign-in of his own.
    let redirect = other.begin(&all, "corp", false, BACK, HERE, now()).unwrap();
    let own = provider.browser("bob", "weak").visit(&redirect.url, BACK);
    let back = Back {
        state: Secret::new(own["state"].clone()),
        code: Some(Secret::new(answer["code"].clone())),
        iss: own.get("iss").cloned(),
        error: None,
        binding: Some(redirect.binding),
    };
    let refused = other.finish(&all, &back, BACK, HERE, now());
    assert!(matches!(&refused, Err(NotIn::Provider(why)) if why.contains("invalid_grant")), "{refused:?}");
}

#[test]
fn c4_a_provider_that_changes_its_key_goes_on() {
    let Some(provider) = Provider::start("k1", false) else { return };
    let providers = Providers::default();
    let began = now();
    let mut browser = provider.browser("alice", "weak");
    assert!(sign_in(&providers, &provider, &mut browser, false, began).is_ok());
    let provider = provider.restart("k2");
    let mut browser = provider.browser("alice", "weak");
    let soon = sign_in(&providers, &provider, &mut browser, false, now());
    assert!(matches!(&soon, Err(NotIn::Provider(why)) if why.contains("k2")), "{soon:?}");
    let later = At { instant: began.instant + Duration::from_secs(61), ..now() };
    let mut browser = provider.browser("alice", "weak");
    assert_eq!(sign_in(&providers, &provider, &mut browser, false, later).unwrap().user, "alice@example.org");
}

#[test]
fn a_terminal_is_signed_in_by_a_browser_elsewhere() {
    let Some(provider) = Provider::start("k1", false) else { return };
    let (providers, all) = (Providers::default(), [provider.settings()]);
    let (attempt, told, _) = providers.device_begin(&all, "corp", HERE, now()).unwrap();
    let mut at = now();
    let mut poll = || {
        at.instant += Duration::from_secs(10);
        providers.device_poll(&all, &attempt, HERE, at)
    };
    assert!(matches!(poll(), Ok(Poll::Wait(_))), "nobody has typed the code");
    provider.browser("alice", "weak").allow(&told.verification_uri, &told.user_code);
    let told = poll();
    let Ok(Poll::Done(signed_in)) = told else { panic!("{told:?}") };
    assert_eq!((signed_in.user.as_str(), signed_in.groups.len()), ("alice@example.org", 2));
    assert!(matches!(poll(), Err(NotIn::Stale)));
}

#[test]
fn a_wrong_secret_is_told_and_not_shown() {
    let Some(provider) = Provider::start("k1", false) else { return };
    provider.write_secret("s3cret-that-is-wrong");
    let mut browser = provider.browser("alice", "weak");
    let refused = sign_in(&Providers::default(), &provider, &mut browser, false, now()).unwrap_err();
    let told = format!("{refused} {refused:?}");
    assert!(told.contains("invalid_client") && !told.contains("s3cret"), "{told}");
}
