//! The pages: plain HTML, one style sheet, and no script but the one that asks authenticators for passkeys. What users, rules and providers are called is escaped by maud.

pub mod door;
pub mod passkeys;

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use maud::{DOCTYPE, Markup, html};

use self::passkeys::For;
use super::http::Response;
use super::wire::{Known, Method, Reach, Refusal, Remedy, Secret, Standing, Why};

/// The style sheet.
pub const STYLE: &str = include_str!("style.css");
/// The icon.
pub const ICON: &str = include_str!("icon.svg");

/// From so many minutes on a time that runs out is shown as such.
const SOON_S: u64 = 15 * 60;

/// Who they are and what they may reach; or the form to sign in.
pub fn home(status: StatusCode, standing: &Standing, told: Option<&str>) -> Response {
    match &standing.session {
        Some(session) => self::status(status, standing, session, told),
        None => sign_in(status, standing, told, None),
    }
}

/// A page around its main part. `told` is what went wrong, which comes first and is read out.
fn page(status: StatusCode, title: &str, told: Option<&str>, main: Markup) -> Response {
    let shown = told.map_or_else(|| title.to_owned(), |_| format!("Problem: {title}"));
    let links = html! {
        link rel="stylesheet" href="/style.css";
        link rel="icon" href="/icon.svg" type="image/svg+xml";
    };
    let header = html! {
        a class="skip" href="#main" { "Skip to the content" }
        header {
            a class="brand" href="/" {
                img src="/icon.svg" alt="" width="28" height="28";
                span { "Network access" }
            }
        }
    };
    let main = html! {
        @if let Some(told) = told {
            p class="told" role="alert" { (told) }
        }
        (main)
    };
    respond(status, document(&shown, links, header, title, main))
}

/// A document of HTML: what browsers call it, what it loads, and under its title its main part.
fn document(shown: &str, links: Markup, header: Markup, title: &str, main: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (shown) " · Network access" }
                (links)
            }
            body {
                (header)
                main id="main" {
                    h1 { (title) }
                    (main)
                }
            }
        }
    }
}

fn respond(status: StatusCode, markup: Markup) -> Response {
    let mut response = Response::new(Full::from(Bytes::from(markup.into_string())));
    *response.status_mut() = status;
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}

/// A page that says what went wrong, where nothing can be tried again.
pub fn trouble(status: StatusCode, told: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("This did not work");
    let main = html! {
        p { a class="button quiet" href="/" { "Back to the first page" } }
    };
    page(status, title, Some(told), main)
}

/// Where they are: an address, and a part of the network.
fn place(standing: &Standing) -> Markup {
    html! {
        p class="place" {
            "This device is " span class="code" { (standing.address) }
            @if let Some(segment) = &standing.segment { " in " strong { (segment) } }
            "."
        }
    }
}

/// The form to sign in; `user` is the name that was typed before.
pub fn sign_in(status: StatusCode, standing: &Standing, told: Option<&str>, user: Option<&str>) -> Response {
    let has_form = standing.passwords || !standing.providers.is_empty();
    let nobody = !has_form && standing.certificates.is_none();
    let main = html! {
        @if standing.is_taken {
            p class="note" {
                "Somebody is signed in at this address, in another browser or program. Signing in here ends that session."
            }
        }
        @for provider in &standing.providers {
            p {
                a class="button wide" href={ "/sign-in/with/" (provider.name) } {
                    "Continue with " (provider.label)
                }
            }
        }
        @if standing.passwords && !standing.providers.is_empty() {
            p class="or" aria-hidden="true" { span { "or" } }
        }
        @if standing.passwords {
            form method="post" action="/sign-in" {
                label for="user" { "Name" }
                input id="user" name="user" type="text" autocomplete="username" autocapitalize="none"
                    spellcheck="false" required maxlength="256" value=[user];
                label for="password" { "Password" }
                input id="password" name="password" type="password" autocomplete="current-password" required
                    maxlength="1024" autofocus[user.is_some()];
                button class="button wide" type="submit" { "Sign in" }
            }
        }
        @if let Some(at) = standing.passkeys.as_deref().filter(|_| standing.passwords) {
            p class="or" aria-hidden="true" { span { "or" } }
            (passkeys::show(at, For::SignIn))
        }
        @if let Some(at) = &standing.certificates {
            @if has_form { p class="or" aria-hidden="true" { span { "or" } } }
            p { a class="button quiet wide" href={ (at) "/" } { "Use this device’s certificate" } }
        }
        @if nobody {
            p { "Nobody can sign in here yet: this gateway has neither users of its own nor an identity provider." }
        }
        (place(standing))
        @if !standing.reach.is_empty() {
            h2 { "Open without signing in" }
            (reach(standing))
        }
    };
    page(status, "Sign in", told, main)
}

/// The second factor of a sign-in; `at` is where passkeys are shown.
pub fn factor(
    status: StatusCode,
    at: &str,
    attempt: &Secret,
    methods: &[Method],
    told: Option<&str>,
) -> Response {
    let (has_passkey, has_code) = (methods.contains(&Method::Passkey), methods.contains(&Method::Totp));
    let main = html! {
        @if has_passkey {
            (passkeys::show(at, For::Factor(attempt)))
        }
        @if has_passkey && has_code {
            p class="or" aria-hidden="true" { span { "or" } }
        }
        @if has_code {
            form method="post" action="/factor" {
                input type="hidden" name="attempt" value=(attempt.reveal());
                @if has_passkey { input type="hidden" name="passkey" value="1"; }
                (code_field())
                button class="button wide" type="submit" { "Continue" }
            }
        } @else if !has_passkey {
            p { "This account has no factor that can be shown here. Ask your administrator." }
        }
        p { a href="/" { "Start again" } }
    };
    page(status, "Second step", told, main)
}

fn code_field() -> Markup {
    html! {
        label for="code" { "Code" }
        p class="hint" id="code-hint" { "Six digits from your authenticator app." }
        input id="code" class="digits" name="code" type="text" inputmode="numeric" pattern="[0-9 \\-]{6,9}"
            title="Six digits" autocomplete="one-time-code" aria-describedby="code-hint" required maxlength="9" autofocus;
    }
}

/// The form for a fresh second factor.
pub fn step_up(status: StatusCode, standing: &Standing, told: Option<&str>) -> Response {
    let session = standing.session.as_ref();
    let has = |method| session.is_some_and(|session| session.methods.contains(&method));
    let has_code = has(Method::Totp);
    let at = standing.passkeys.as_deref().filter(|_| has(Method::Passkey));
    let provider = session.and_then(|session| session.provider.as_deref());
    let main = html! {
        p { "Some of what you may use wants to know that it is still you." }
        @if let Some(at) = at {
            (passkeys::show(at, For::StepUp))
            @if has_code { p class="or" aria-hidden="true" { span { "or" } } }
        }
        @if has_code {
            form method="post" action="/step-up" {
                (code_field())
                button class="button wide" type="submit" { "Verify" }
            }
        }
        @if let Some(provider) = provider {
            p { a class="button wide" href={ "/step-up/with/" (provider) } { "Verify with " (label(standing, provider)) } }
        }
        @if !has_code && at.is_none() && provider.is_none() {
            p class="note" { "This account has no second factor that can be shown here. Ask your administrator to set one up." }
        }
        p { a href="/" { "Back" } }
    };
    page(status, "Verify it is you", told, main)
}

fn label<'s>(standing: &'s Standing, name: &'s str) -> &'s str {
    standing.providers.iter().find(|provider| provider.name == name).map_or(name, |provider| &provider.label)
}

fn status(status: StatusCode, standing: &Standing, session: &Known, told: Option<&str>) -> Response {
    let who = session.user.as_deref().or(session.device.as_deref()).unwrap_or("A device");
    let can_step_up = !session.methods.is_empty() || session.provider.is_some();
    let main = html! {
        section class="card" aria-labelledby="you" {
            h2 id="you" { "You" }
            dl {
                dt { "Session" }
                dd { "ends in " (time(session.left_s)) }
                dt { "Second factor" }
                dd {
                    @match session.mfa_age_s {
                        None => { "not shown" },
                        Some(age_s) => {
                            "shown " (ago(u64::from(age_s)))
                            @if session.phishing_resistant { ", with a passkey" }
                        },
                    }
                }
                @if !session.groups.is_empty() {
                    dt { "Groups" }
                    dd { (session.groups.join(", ")) }
                }
                @if let Some(device) = &session.device {
                    dt { "Device" }
                    dd { (device) }
                }
                @for (posture, state) in &session.postures {
                    dt { "Health: " (posture) }
                    dd { (health(state)) }
                }
                dt { "Address" }
                dd {
                    span class="code" { (standing.address) }
                    @if let Some(segment) = &standing.segment { " in " (segment) }
                }
            }
            div class="actions" {
                @if can_step_up {
                    a class="button quiet" href="/step-up" { "Verify it is you" }
                }
                @if session.passkeys.is_some() {
                    a class="button quiet" href="/passkeys" { "Your passkeys" }
                }
                @if let Some(at) = standing.certificates.as_deref().filter(|_| session.device.is_none()) {
                    a class="button quiet" href={ (at) "/" } { "Show this device’s certificate" }
                }
                form method="post" action="/sign-out" {
                    button class="button quiet" type="submit" { "Sign out" }
                }
            }
        }
        h2 { "What you can reach" }
        @if standing.reach.is_empty() {
            p { "Nothing from here: no rule opens a way for you." }
        } @else {
            (reach(standing))
        }
        p class="fine" { "As of when this page was loaded. " a href="/" { "Look again" } }
    };
    page(status, &format!("Signed in as {who}"), told, main)
}

fn health(state: &str) -> &'static str {
    match state {
        "met" => "good",
        "failed" => "a check failed",
        _ => "not known",
    }
}

/// What may be reached, destination by destination; of each the open ways first.
fn reach(standing: &Standing) -> Markup {
    let mut groups: Vec<(&Reach, Vec<&Reach>)> = Vec::new();
    for row in &standing.reach {
        match groups.iter_mut().find(|(first, _)| first.to == row.to) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((row, vec![row])),
        }
    }
    groups.iter_mut().for_each(|(_, rows)| rows.sort_by_key(|row| row.refusal.is_some()));
    html! {
        @for (first, rows) in groups {
            section class="card reach" {
                h3 { (first.to) }
                @if let Some(description) = &first.description { p class="hint" { (description) } }
                ul { @for row in rows { (way(standing, row)) } }
            }
        }
        @if standing.is_partial {
            p class="fine" { "There is more than fits on this page." }
        }
    }
}

/// One way, and whether it is open.
fn way(standing: &Standing, row: &Reach) -> Markup {
    html! {
        li class=(if row.refusal.is_none() { "open" } else { "shut" }) {
            div class="what" {
                p class="services" {
                    @for service in &row.services { span class="code" { (service) } " " }
                }
                p class="rule" { "Rule " span class="code" { (row.rule) } }
            }
            div class="state" {
                @match &row.refusal {
                    None => {
                        p class="badge" { "Open" }
                        @if let Some(left_s) = row.left_s { p class="fine" { "for " (time(left_s)) } }
                    },
                    Some(refusal) => {
                        p class="badge" { "Closed" }
                        (why_shut(standing, refusal))
                    },
                }
            }
        }
    }
}

fn why_shut(standing: &Standing, refusal: &Refusal) -> Markup {
    let session = standing.session.as_ref();
    let elsewhere = session.is_some_and(|session| session.provider.is_some());
    let has = |method: Option<Method>| {
        session.is_some_and(|session| match method {
            Some(method) => session.methods.contains(&method),
            None => !session.methods.is_empty(),
        })
    };
    let remedy = match refusal.remedy {
        Some(Remedy::SignIn) => Some(("/", "Sign in")),
        Some(Remedy::StepUp) if has(None) || elsewhere => Some(("/step-up", "Verify it is you")),
        Some(Remedy::Passkey) if has(Some(Method::Passkey)) || elsewhere => {
            Some(("/step-up", "Use a passkey"))
        }
        Some(Remedy::Passkey) if session.is_some_and(|session| session.passkeys.is_some()) => {
            Some(("/passkeys", "Add a passkey"))
        }
        _ => None,
    };
    html! {
        p class="fine" title=(refusal.help) { (reason(&refusal.reason)) }
        @if let Some((to, words)) = remedy { p { a href=(to) { (words) } } }
    }
}

/// A reason in the words of whoever is refused. The gateway's own words are for whoever writes rules.
fn reason(name: &str) -> &'static str {
    match name {
        "not_authenticated" | "session_expired" => "Needs you to sign in.",
        "not_in_group" => "Not for your groups.",
        "device_mismatch" => "Needs another device, such as an enrolled one.",
        "mfa_missing" => "Needs a second factor.",
        "mfa_too_weak" => "Needs a second factor that cannot be phished.",
        "mfa_too_old" => "Your second factor was shown too long ago.",
        "posture_unknown" => "Needs a recent report of this device's health.",
        "posture_failed" => "This device fails a health check.",
        "risk_unknown" => "Needs a rating of your risk, and there is none.",
        "risk_too_high" => "Your risk is rated too high.",
        "outside_schedule" => "Not at this time.",
        "rule_denied" | "rule_rejected" => "Blocked by a rule.",
        _ => "Not open to you now.",
    }
}

/// A refusal of the gateway in words.
pub fn why(why: Why, retry_after_s: Option<u32>) -> String {
    let wait = retry_after_s.map(|s| format!(" Try again in {}.", duration(s.into()))).unwrap_or_default();
    let told = match why {
        Why::Wrong => "That was not right. Check the name, the password or the code, and try again.",
        Why::TooMany => "Too many wrong tries.",
        Why::Stale => "This sign-in took too long, or began elsewhere. Start again.",
        Why::NotSignedIn => "You are not signed in here any more. Sign in again.",
        Why::NotFresh => {
            "To change your passkeys, first show that it is you: with a passkey if you have one, else with a code, or by \
             signing in again."
        }
        Why::NotAdded => "This passkey is registered already, or there are as many as one account may have.",
        Why::Locked => "This account or address is locked. Ask your administrator.",
        Why::NoSegment => "This address belongs to no part of the network, so nobody can sign in from it.",
        Why::Shared => {
            "Two people have signed in from this address, and the gateway cannot tell their devices apart."
        }
        Why::Full => "There are as many sessions as fit. Ask your administrator.",
        Why::Unknown => "This gateway does not offer that.",
        Why::Provider => "The identity provider did not confirm who you are.",
        Why::Busy => "The gateway is busy.",
        Why::Failed => "Something failed. The gateway's log says what.",
    };
    format!("{told}{wait}")
}

/// A time that runs out, marked when it soon does.
fn time(left_s: u64) -> Markup {
    html! {
        @if left_s <= SOON_S { strong class="soon" { (duration(left_s)) } } @else { (duration(left_s)) }
    }
}

/// How long ago.
fn ago(seconds: u64) -> String {
    if seconds < 60 { "just now".to_owned() } else { format!("{} ago", duration(seconds)) }
}

/// The two largest parts: `2 h 5 min`.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |large: u64, a: &str, small: u64, b: &str| {
        if small == 0 { format!("{large} {a}") } else { format!("{large} {a} {small} {b}") }
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => two(hours, "h", minutes, "min"),
        (1, hours, _) => two(1, "day", hours, "h"),
        (days, hours, _) => two(days, "days", hours, "h"),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::portal::wire::{Passkey, Provider};

    const HOSTILE: &str = "<script>alert(1)</script>\"'&";

    fn text(response: Response) -> String {
        let body = response.into_body();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(body.collect()).unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn row(to: &str, refusal: Option<(&str, Option<Remedy>)>) -> Reach {
        Reach {
            to: to.to_owned(),
            description: Some(HOSTILE.to_owned()),
            services: vec!["tcp/5432".to_owned(), HOSTILE.to_owned()],
            rule: HOSTILE.to_owned(),
            refusal: refusal.map(|(reason, remedy)| Refusal {
                reason: reason.to_owned(),
                help: HOSTILE.to_owned(),
                remedy,
            }),
            left_s: Some(600),
        }
    }

    fn standing(is_signed_in: bool) -> Standing {
        let session = Known {
            id: "id".to_owned(),
            user: Some(HOSTILE.to_owned()),
            groups: vec![HOSTILE.to_owned()],
            device: Some(HOSTILE.to_owned()),
            methods: vec![Method::Passkey, Method::Totp],
            passkeys: Some(vec![Passkey {
                id: HOSTILE.to_owned(),
                name: HOSTILE.to_owned(),
                ..Passkey::default()
            }]),
            is_fresh: true,
            provider: Some("idp".to_owned()),
            postures: vec![(HOSTILE.to_owned(), HOSTILE.to_owned())],
            mfa_age_s: Some(300),
            left_s: 7500,
            ..Known::default()
        };
        Standing {
            address: HOSTILE.to_owned(),
            segment: Some(HOSTILE.to_owned()),
            session: is_signed_in.then_some(session),
            passwords: true,
            passkeys: Some(HOSTILE.to_owned()),
            certificates: Some(HOSTILE.to_owned()),
            providers: vec![Provider { name: "idp".to_owned(), label: HOSTILE.to_owned() }],
            reach: vec![
                row(HOSTILE, None),
                row("db", Some(("mfa_too_old", Some(Remedy::StepUp)))),
                row("hr", Some((HOSTILE, None))),
            ],
            ..Standing::default()
        }
    }

    fn every_page() -> Vec<String> {
        let attempt = Secret::new(HOSTILE.to_owned());
        let (known, unknown) = (standing(true), standing(false));
        vec![
            text(home(StatusCode::OK, &known, None)),
            text(home(StatusCode::FORBIDDEN, &unknown, Some(HOSTILE))),
            text(factor(StatusCode::OK, HOSTILE, &attempt, &[Method::Passkey, Method::Totp], Some(HOSTILE))),
            text(step_up(StatusCode::OK, &known, Some(HOSTILE))),
            text(passkeys::list(StatusCode::OK, &known, known.session.as_ref().unwrap(), Some(HOSTILE))),
            text(trouble(StatusCode::NOT_FOUND, HOSTILE)),
            door::page(HOSTILE, true, Some(HOSTILE)),
            door::page(HOSTILE, false, Some(HOSTILE)),
        ]
    }

    #[test]
    fn nothing_that_others_have_named_becomes_markup() {
        for page in every_page() {
            assert!(page.contains("&lt;script&gt;"), "{page}");
            let page = page.replace("<script src=\"/passkey.js\" defer></script>", "");
            assert!(
                !page.contains("<script") && !page.contains("style=") && !page.contains("onclick"),
                "{page}"
            );
        }
    }

    #[test]
    fn every_page_has_a_language_one_heading_one_main_part_and_a_label_for_each_field() {
        for page in every_page() {
            for once in ["<html lang=\"en\">", "<h1>", "<main id=\"main\">", "<title>", "name=\"viewport\""] {
                assert_eq!(page.matches(once).count(), 1, "{once}\n{page}");
            }
            let fields = page.split("<input ").skip(1);
            for field in fields.filter(|field| !field.starts_with("type=\"hidden\"")) {
                let id = field.split("id=\"").nth(1).unwrap().split('"').next().unwrap();
                assert_eq!(page.matches(&format!("<label for=\"{id}\">")).count(), 1, "{id}\n{page}");
            }
        }
    }

    #[test]
    fn what_went_wrong_is_read_out_and_stands_in_the_title() {
        let page = text(home(StatusCode::FORBIDDEN, &standing(false), Some("Wrong.")));
        assert!(
            page.contains("role=\"alert\">Wrong.</p>") && page.contains("<title>Problem: Sign in"),
            "{page}"
        );
        assert!(!text(home(StatusCode::OK, &standing(false), None)).contains("role=\"alert\""));
    }

    #[test]
    fn open_ways_come_first_and_shut_ones_say_why_and_what_helps() {
        let page = text(home(StatusCode::OK, &standing(true), None));
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}\n{page}"));
        assert!(at(">Open<") < at(">Closed<"));
        assert!(at("for <strong class=\"soon\">10 min</strong>") < at(">Closed<"));
        assert!(
            at("Your second factor was shown too long ago.")
                < at("href=\"/step-up\">Verify it is you</a></p>")
        );
        assert!(page.contains("ends in 2 h 5 min"), "{page}");
    }

    #[test]
    fn where_nobody_can_sign_in_it_says_so() {
        let page = text(home(StatusCode::OK, &Standing::default(), None));
        assert!(page.contains("Nobody can sign in here yet") && !page.contains("<form"), "{page}");
    }

    #[test]
    fn who_may_be_known_by_a_certificate_is_led_to_where_it_is_shown() {
        let at = Some("https://a.example:8443".to_owned());
        let link = "href=\"https://a.example:8443/\"";
        let page =
            text(home(StatusCode::OK, &Standing { certificates: at.clone(), ..Standing::default() }, None));
        assert!(page.contains(link) && !page.contains("Nobody can sign in here yet"), "{page}");
        let known = |device: Option<&str>| {
            let session = Known { device: device.map(str::to_owned), ..Known::default() };
            let standing =
                Standing { session: Some(session), certificates: at.clone(), ..Standing::default() };
            text(home(StatusCode::OK, &standing, None))
        };
        assert!(known(None).contains(link));
        assert!(!known(Some("laptop-7")).contains(link), "the device is known");
    }

    #[test]
    fn durations_tell_their_two_largest_parts() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (7500, "2 h 5 min"),
            (86_400, "1 day"),
            (90_000, "1 day 1 h"),
            (864_000, "10 days"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
