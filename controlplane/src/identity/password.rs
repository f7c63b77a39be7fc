//! Passwords: argon2id (RFC 9106), as PHC strings.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::portal::wire::Secret;

/// The fewest characters. NIST SP 800-63B-4, section 3.1.1.2: eight beside a second factor, fifteen alone; somebody who
/// has only a password has only what needs no second factor, and the segments' floors say what does.
pub const CHARACTERS_MIN: usize = 8;
/// The most bytes: what is longer is refused before it costs anything.
pub const BYTES_MAX: usize = 1024;

/// Why something cannot be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Fewer than [`CHARACTERS_MIN`] characters.
    Short,
    /// More than [`BYTES_MAX`] bytes.
    Long,
    /// The same character all over, or the user's name.
    Plain,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unfit::Short => write!(f, "a password has at least {CHARACTERS_MIN} characters"),
            Unfit::Long => write!(f, "a password has at most {BYTES_MAX} bytes"),
            Unfit::Plain => write!(f, "this password is guessed at once"),
        }
    }
}

/// One keyboard writes `ü` as one character, another as two: NIST SP 800-63B-4 asks for one form of both.
fn normal(password: &Secret) -> Zeroizing<String> {
    Zeroizing::new(password.reveal().nfc().collect())
}

/// Whether it may be a password of this user.
///
/// # Errors
///
/// See [`Unfit`].
pub fn check(user: &str, password: &Secret) -> Result<(), Unfit> {
    if password.reveal().len() > BYTES_MAX {
        return Err(Unfit::Long);
    }
    let normal = normal(password);
    let mut characters = normal.chars();
    if characters.clone().count() < CHARACTERS_MIN {
        return Err(Unfit::Short);
    }
    let first = characters.next();
    if characters.all(|c| Some(c) == first) || normal.eq_ignore_ascii_case(user) {
        return Err(Unfit::Plain);
    }
    Ok(())
}

/// What is kept of a password: parameters, salt and hash.
///
/// # Errors
///
/// The library refuses, which it does of no password that [`check`] accepts.
pub fn hash(password: &Secret) -> Result<String, String> {
    let hash: PasswordHash = Argon2::default()
        .hash_password(normal(password).as_bytes())
        .map_err(|error| format!("hashing a password: {error}"))?;
    Ok(hash.to_string())
}

/// Whether it is the password of which `hash` is kept. Without one it takes as long, and is not: nobody learns from the
/// clock whether a user exists.
pub fn is_right(password: &Secret, hash: Option<&str>) -> bool {
    if password.reveal().len() > BYTES_MAX {
        return false;
    }
    let Ok(kept) = PasswordHash::new(hash.unwrap_or(NOBODYS)) else { return false };
    let is_right = Argon2::default().verify_password(normal(password).as_bytes(), &kept).is_ok();
    is_right && hash.is_some()
}

/// Of no password that is known: its hash is chance. The parameters are those of [`hash`], which a test holds.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdCBvZiBub2JvZHkhIQ$\
    q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA";

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_password_is_right_and_no_other() {
        let kept = hash(&secret("correct horse")).unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(is_right(&secret("correct horse"), Some(&kept)));
        for wrong in ["correct horsf", "correct hors", "correct horse ", "Correct horse", ""] {
            assert!(!is_right(&secret(wrong), Some(&kept)), "{wrong}");
        }
        assert_ne!(kept, hash(&secret("correct horse")).unwrap(), "every one has a salt of its own");
    }

    #[test]
    fn two_ways_to_write_a_letter_are_one() {
        let kept = hash(&secret("M\u{fc}nchhausen")).unwrap();
        assert!(is_right(&secret("Mu\u{308}nchhausen"), Some(&kept)));
    }

    #[test]
    fn nobodys_password_takes_as_long_and_is_never_right() {
        let shape = |hash: &str| hash.rsplit_once("$").unwrap().0.rsplit_once("$").unwrap().0.to_owned();
        assert_eq!(shape(NOBODYS), shape(&hash(&secret("12345678a")).unwrap()));
        assert!(PasswordHash::new(NOBODYS).is_ok_and(|hash| hash.hash.is_some_and(|hash| hash.len() == 32)));
        assert!(!is_right(&secret("anything"), None));
        assert!(!is_right(&secret("anything"), Some("not a hash")));
    }

    #[test]
    fn what_cannot_be_a_password_is_told() {
        for (password, why) in [
            ("1234567", Unfit::Short),
            ("", Unfit::Short),
            ("aaaaaaaaaa", Unfit::Plain),
            ("ALICE.MEIER", Unfit::Plain),
            (&"x1".repeat(513), Unfit::Long),
        ] {
            assert_eq!(check("alice.meier", &secret(password)), Err(why), "{password}");
        }
        assert_eq!(check("alice.meier", &secret("пароль-длинный")), Ok(()));
    }
}
