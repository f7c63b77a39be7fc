//! An authenticator app: shows codes of a key, each step's once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use totp_rs::{Builder, Secret, Totp};

/// Seconds of a step (RFC 6238, section 4).
const STEP_S: u64 = 30;

/// The app of one user.
pub struct Authenticator {
    totp: Totp,
    /// The step of the last code.
    last: u64,
}

impl Authenticator {
    /// With the key that the gateway has shown, in base32.
    ///
    /// # Panics
    /// Panics when it is none.
    pub fn new(key: &str) -> Authenticator {
        let key = Secret::try_from_base32(key).expect("a key in base32");
        let totp = Builder::new().with_secret(key).with_account_name("a".to_owned()).build();
        Authenticator { totp: totp.expect("a key of the right length"), last: 0 }
    }

    /// A code that is good now and was not shown before: of the step before, of this one or of the next; waits when all
    /// three have been.
    pub fn code(&mut self) -> String {
        loop {
            let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            let step = (now_s / STEP_S - 1).max(self.last + 1);
            // A code of the step before is gone when this one ends.
            let is_ending = now_s % STEP_S >= STEP_S - 3;
            if step <= now_s / STEP_S + 1 && !is_ending {
                self.last = step;
                return self.totp.generate(step * STEP_S).to_string();
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
