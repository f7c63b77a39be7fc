//! What may be said of somebody, in options.

use clap::Args;

use crate::api::types::Asked;

/// Heading of these options.
pub(super) const WHO: &str = "Who it is, and when";

/// What is said of somebody.
#[derive(Args)]
pub(super) struct ClaimArgs {
    /// The user who is behind the address
    #[arg(help_heading = WHO, long, value_name = "NAME")]
    user: Option<String>,
    /// A group that the identity provider tells of the user; declared members are in theirs anyway; may be given several
    /// times
    #[arg(help_heading = WHO, long = "group", value_name = "NAME", requires = "user")]
    groups: Vec<String>,
    /// What is known of the device: enrolled, not-enrolled, or tag=NAME; may be given several times
    #[arg(help_heading = WHO, long, value_name = "WORD")]
    device: Vec<String>,
    /// A posture and how the device stands to it: met (without a state), failed or unknown; may be given several times
    #[arg(help_heading = WHO, long, value_name = "NAME[=STATE]")]
    posture: Vec<String>,
    /// How long ago a second factor was shown, such as 2h; just now with --mfa alone
    #[arg(help_heading = WHO, long, value_name = "DURATION")]
    mfa_age: Option<String>,
    /// The kind of the second factor: phishing-resistant
    #[arg(help_heading = WHO, long, value_name = "KIND")]
    mfa: Option<String>,
    /// The risk that is seen in the user, 0 to 100
    #[arg(help_heading = WHO, long, value_name = "RISK", value_parser = clap::value_parser!(u8).range(0..=100))]
    risk: Option<u8>,
}

impl ClaimArgs {
    /// In the words of the control socket, of a session that lives, now.
    pub(super) fn asked(self) -> Asked {
        let ClaimArgs { user, groups, device, posture, mfa_age, mfa, risk } = self;
        Asked { user, groups, device, posture, mfa_age, mfa, risk, ..Asked::default() }
    }
}
