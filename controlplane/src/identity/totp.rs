//! Codes of authenticator apps: RFC 6238 with SHA-1, six digits and steps of 30 seconds, which is what the apps know.

use totp_rs::{Builder, Secret as Key, Totp};

use crate::portal::wire::Secret;

/// Bytes of a key: as many as SHA-1 has (RFC 4226, section 4, requirement R6).
const KEY_BYTES: usize = 20;
/// A code of the step before or after is taken too: clocks differ, and people type slowly (RFC 6238, section 5.2).
const SKEW: u16 = 1;

/// A new key, in base32, as apps take it.
///
/// # Panics
///
/// The kernel gives no random bytes.
pub fn key() -> Secret {
    let mut bytes = zeroize::Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *bytes).expect("the kernel gives random bytes");
    Secret::new(Key::from(bytes.to_vec()).to_base32())
}

fn totp(key: &Secret, user: &str, issuer: &str) -> Option<Totp> {
    let key = Key::try_from_base32(key.reveal()).ok()?;
    // The library refuses them: they separate issuer and account in the URI.
    let plain = |text: &str| text.replace(':', " ");
    let builder = Builder::new().with_secret(key).with_skew(SKEW).with_account_name(plain(user));
    builder.with_issuer(Some(plain(issuer))).build().ok()
}

/// The key as a URI for apps: what the square code holds.
pub fn uri(key: &Secret, user: &str, issuer: &str) -> Option<Secret> {
    totp(key, user, issuer)?.to_url().ok().map(Secret::new)
}

/// The step of which this is the code, if it is one at `unix_s`: to be accepted only when it is greater than any that was
/// accepted before (RFC 6238, section 5.2: "The verifier MUST NOT accept the second attempt").
pub fn step_of(key: &Secret, code: &str, unix_s: u64) -> Option<u64> {
    // Apps show `123 456`.
    let code: String = code.chars().filter(|c| *c != ' ').collect();
    totp(key, "-", "-")?.check(&code, unix_s)
}

/// The code at a moment: what the app shows. Nothing if the key is none.
pub fn code(key: &Secret, unix_s: u64) -> Option<String> {
    totp(key, "-", "-").map(|totp| totp.generate(unix_s).to_string())
}

#[cfg(test)]
mod tests {
    use totp_rs::Algorithm;

    use super::*;

    #[test]
    fn c5_the_vectors_of_rfc_6238_appendix_b() {
        let seed = b"1234567890123456789012345678901234567890123456789012345678901234";
        let times = [59, 1_111_111_109, 1_111_111_111, 1_234_567_890, 2_000_000_000, 20_000_000_000];
        for (algorithm, bytes, codes) in [
            (Algorithm::SHA1, 20, ["94287082", "07081804", "14050471", "89005924", "69279037", "65353130"]),
            (Algorithm::SHA256, 32, ["46119246", "68084774", "67062674", "91819424", "90698825", "77737706"]),
            (Algorithm::SHA512, 64, ["90693936", "25091201", "99943326", "93441116", "38618901", "47863826"]),
        ] {
            let totp = Builder::new().with_algorithm(algorithm).with_digits(8).with_secret(&seed[..bytes]);
            let totp = totp.with_account_name("-").build().unwrap();
            for (time, code) in times.into_iter().zip(codes) {
                assert_eq!(totp.generate(time).to_string(), code, "{algorithm:?} at {time}");
            }
        }
        // Ours are the last six digits of these.
        let key = Secret::new(Key::from(seed[..20].to_vec()).to_base32());
        assert_eq!(code(&key, 59).as_deref(), Some("287082"));
        assert_eq!(step_of(&key, "287082", 59), Some(1));
    }

    #[test]
    fn c5_a_code_holds_for_its_step_and_the_next_to_it() {
        let key = key();
        let (now, step) = (1_700_000_010, 1_700_000_010 / 30);
        let shown = code(&key, now).unwrap();
        for (at, taken) in [(-60, false), (-30, true), (0, true), (30, true), (60, false)] {
            assert_eq!(step_of(&key, &shown, now.saturating_add_signed(at)).is_some(), taken, "{at}");
        }
        assert_eq!(step_of(&key, &shown, now), Some(step));
        let spaced = format!("{} {}", &shown[..3], &shown[3..]);
        assert_eq!(step_of(&key, &spaced, now), Some(step));
        for wrong in ["", "12345", "1234567", "abcdef", "１２３４５６"] {
            assert_eq!(step_of(&key, wrong, now), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_is_160_bits_and_its_uri_is_what_apps_take() {
        let key = key();
        assert_eq!(key.reveal().len(), 32);
        assert_ne!(key, super::key());
        let uri = uri(&key, "alice:x@example.org", "Bulkhead").unwrap();
        let expected = format!("otpauth://totp/Bulkhead:alice%20x%40example.org?secret={}", key.reveal());
        assert!(
            uri.reveal().starts_with(&expected) && uri.reveal().contains("issuer=Bulkhead"),
            "{}",
            uri.reveal()
        );
    }
}
