//! What browsers show at the certificate port when nobody was recognised there. Nothing but this page is served there, so it
//! has its style in it.

use maud::{Markup, PreEscaped, html};

use super::{STYLE, document};

/// The page: what was told; whether a certificate was shown at all; and where the portal is.
pub fn page(told: &str, is_shown: bool, portal: Option<&str>) -> String {
    let title = if is_shown { "Not recognised" } else { "No certificate was shown" };
    let style = html! { style { (PreEscaped(STYLE)) } };
    let main = html! {
        @if is_shown {
            p class="told" role="alert" { (told) }
        } @else {
            (how())
        }
        @if let Some(portal) = portal {
            p { a class="button quiet" href=(portal) { "To the first page" } }
        }
    };
    document(&format!("Problem: {title}"), style, html! {}, title, main).into_string()
}

/// What to do without one.
fn how() -> Markup {
    html! {
        p { "This device can be known by a certificate if it is enrolled, and if this browser has the certificate:" }
        ol {
            li {
                "Is the device not enrolled yet? Your administrator makes a code for it, and "
                span class="code" { "bulkhead agent enroll" } " on the device uses it."
            }
            li {
                span class="code" { "bulkhead agent certificate --p12 laptop.p12" }
                " on the device writes the certificate into a file, with a password that you choose."
            }
            li { "Import that file in this browser’s settings, among your own certificates." }
            li { "Open this page again, in a new window if the browser does not ask which certificate to show." }
        }
    }
}
