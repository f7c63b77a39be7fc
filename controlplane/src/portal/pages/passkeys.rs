//! What the pages say of passkeys. The forms are hidden until the script shows them: without it they can do nothing.

use hyper::StatusCode;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::{ago, page};
use crate::portal::http::Response;
use crate::portal::wire::{Known, Passkey, Secret, Standing};

/// The script.
pub const SCRIPT: &str = include_str!("../passkey.js");

/// What an authenticator is asked for.
#[derive(Clone, Copy)]
pub enum For<'a> {
    /// A sign-in with nothing else.
    SignIn,
    /// The second factor of this sign-in.
    Factor(&'a Secret),
    /// A fresh second factor.
    StepUp,
}

/// The button that asks for a passkey; `at` is where passkeys are shown.
pub fn show(at: &str, asked: For<'_>) -> Markup {
    let question = match asked {
        For::SignIn => json!({ "attempt": null, "step_up": false }),
        For::Factor(attempt) => json!({ "attempt": attempt.reveal(), "step_up": false }),
        For::StepUp => json!({ "attempt": null, "step_up": true }),
    };
    let otherwise = match asked {
        For::SignIn => "Sign in with your password instead.",
        For::Factor(_) | For::StepUp => "Use what else there is on this page, or another browser.",
    };
    let quiet = if matches!(asked, For::SignIn) { "button quiet wide" } else { "button wide" };
    let form = form(
        at,
        "show",
        ("/passkey", "/api/v1/passkey_begin"),
        &question,
        html! {
            button class=(quiet) type="submit" { "Use a passkey" }
        },
    );
    part(at, form, otherwise)
}

fn form(at: &str, act: &str, (action, begin): (&str, &str), question: &Value, fields: Markup) -> Markup {
    html! {
        form method="post" action=(action) hidden data-passkey=(act) data-at=(at) data-begin=(begin)
            data-question=(question.to_string()) {
            input type="hidden" name="attempt";
            input type="hidden" name="response";
            p class="told" data-trouble hidden {}
            (fields)
        }
    }
}

/// A form with what is said where it cannot work.
fn part(at: &str, form: Markup, otherwise: &str) -> Markup {
    html! {
        div class="passkey" {
            (form)
            p class="note" data-if="elsewhere" hidden {
                "Passkeys work only at " a href={ (at) "/" } { (at) } ". " (otherwise)
            }
            p class="note" data-if="unable" hidden { "This browser knows no passkeys. " (otherwise) }
            noscript {
                p class="note" { "A passkey needs JavaScript, which is off in this browser. " (otherwise) }
            }
            script src="/passkey.js" defer {}
        }
    }
}

/// One's own passkeys. Whoever cannot have some here is told so.
pub fn list(status: StatusCode, standing: &Standing, session: &Known, told: Option<&str>) -> Response {
    let main = match (&session.passkeys, standing.passkeys.as_deref()) {
        (Some(passkeys), Some(at)) => own(passkeys, session, at),
        _ => html! {
            p class="note" { "Passkeys are for people whom this gateway knows by itself. You signed in another way." }
        },
    };
    let main = html! {
        (main)
        p { a href="/" { "Back" } }
    };
    page(status, "Your passkeys", told, main)
}

fn own(passkeys: &[Passkey], session: &Known, at: &str) -> Markup {
    html! {
        p {
            "A passkey proves that it is you with this device’s lock or a security key. It cannot be phished, and needs no "
            "password and no code."
        }
        @if passkeys.is_empty() {
            p class="note" { "You have none yet." }
        } @else {
            section class="card keys" aria-label="Registered" {
                ul { @for passkey in passkeys { (row(passkey, session.is_fresh)) } }
            }
            @if session.is_fresh { p class="fine" { "Removing one signs you out everywhere." } }
        }
        h2 { "Add a passkey" }
        @if session.is_fresh {
            (add(at))
        } @else if !session.methods.is_empty() {
            p { "To add or remove one, first show that it is you" (with_what(passkeys)) "." }
            p { a class="button" href="/step-up" { "Verify it is you" } }
        } @else {
            p { "To add one, sign out and in again: your password has to be shown just before." }
        }
    }
}

fn with_what(passkeys: &[Passkey]) -> &'static str {
    if passkeys.is_empty() {
        ""
    } else {
        ", with a passkey that you have; if you have lost it, ask your administrator"
    }
}

fn row(passkey: &Passkey, is_fresh: bool) -> Markup {
    let used = passkey.used_s.map_or_else(|| "never used".to_owned(), |s| format!("last used {}", ago(s)));
    html! {
        li {
            div class="what" {
                p class="called" { (passkey.name) }
                p class="fine" { "Added " (ago(passkey.added_s)) ", " (used) }
                @if passkey.is_synced { p class="fine" { "Kept in your account with its maker, so on several devices." } }
            }
            @if is_fresh {
                form method="post" action="/passkeys/remove" {
                    input type="hidden" name="id" value=(passkey.id);
                    button class="button quiet" type="submit" aria-label={ "Remove " (passkey.name) } { "Remove" }
                }
            }
        }
    }
}

fn add(at: &str) -> Markup {
    let form = form(
        at,
        "make",
        ("/passkeys", "/api/v1/passkey_register_begin"),
        &json!({}),
        html! {
            label for="name" { "Name" }
            p class="hint" id="name-hint" { "What you will know it by, such as “laptop” or “blue key”." }
            input id="name" name="name" type="text" autocomplete="off" required maxlength="64"
                aria-describedby="name-hint";
            button class="button wide" type="submit" { "Add a passkey" }
        },
    );
    part(at, form, "Open this page in another browser.")
}
