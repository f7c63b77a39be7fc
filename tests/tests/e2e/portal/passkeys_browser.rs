//! Passkeys in a real browser with a virtual authenticator: `tests/browser/passkeys.mjs`.

use bulkhead_tests::frames::Family;
use serde_json::json;

use super::browser::{drive, is_skipped};
use super::passkeys::scene;
use super::sign_in;

#[test]
fn people_add_show_and_remove_passkeys_in_a_real_browser() {
    if is_skipped("people_add_show_and_remove_passkeys") {
        return;
    }
    let Some((scene, mut app)) = scene() else { return };
    let report = drive("passkeys.mjs", &scene, &mut app);
    assert_eq!(report["problems"], json!([]), "{report:#}");
    let seen = &report["seen"];
    let alice = "Signed in as alice";
    for (step, expected) in [
        ("withCode", alice),
        ("list", "Your passkeys"),
        ("added", "Your passkeys"),
        ("steppedUp", alice),
        ("asFactor", alice),
        ("alone", alice),
        ("removed", "Sign in"),
        ("afterRemoval", "Problem: Sign in · Network access"),
    ] {
        assert_eq!(seen[step], expected, "{step}: {seen:#}");
    }
    let has = |step: &str, text: &str| {
        assert!(seen[step].as_str().is_some_and(|shown| shown.contains(text)), "{step}: {seen:#}");
    };
    has("vaultBefore", "Add a passkey");
    has("vaultWith", "Use a passkey");
    has("vaultAfter", "Open");
    has("row", "laptop");
    has("factorOfAlone", "with a passkey");
    has("withoutScript", "A passkey needs JavaScript");
    has("atAddress", "Passkeys work only at https://portal.test");
    has("cancelled", "No passkey came");
    has("again", "has a passkey of yours");
    assert_eq!(seen["csp"], json!([]), "nothing that the pages do is against their own rules");
    let path = sign_in::path(&scene, Family::V4);
    scene.stays_out("office", "servers", &path.udp(4000, 8200, b"it was removed"));
}
