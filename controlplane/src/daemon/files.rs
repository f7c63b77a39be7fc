//! The files that sign-ins need besides the configuration: secrets and roots.
//!
//! They are read when they are needed, so a new secret counts at once. What cannot be used is told when the policy comes in
//! force, and not only when somebody wants to sign in: but the policy comes in force, for it may have to keep somebody out.

use super::desk::certificates::bundle;
use super::gateway::Gateway;
use crate::identity::https::Https;
use crate::identity::oidc::settings::read_secret;
use crate::identity::signals::KeysAt;
use crate::model::SignIn;
use crate::tokens::key::Keys;

impl Gateway {
    /// Raises an alarm for each file that sign-ins need and that cannot be used.
    pub(super) fn look_at_files(&self, sign_in: &SignIn) {
        for trouble in troubles(sign_in) {
            self.alarm(trouble);
        }
    }
}

fn troubles(sign_in: &SignIn) -> Vec<String> {
    let mut troubles = Vec::new();
    let mut look = |whose: String, looked: Result<(), String>| {
        troubles.extend(looked.err().map(|why| format!("{whose}: {why}")));
    };
    let secret = |path| read_secret(path).map(drop).map_err(|why| why.to_string());
    let roots = |path| Https::new(Some(path)).map(drop);
    for provider in &sign_in.providers {
        let whose = || format!("nobody can sign in with the provider {}", provider.name);
        provider.client_secret_file.iter().for_each(|path| look(whose(), secret(path)));
        provider.ca_file.iter().for_each(|path| look(whose(), roots(path)));
    }
    for transmitter in &sign_in.transmitters {
        let whose = || format!("no security event of {} is taken", transmitter.name);
        let tokens = transmitter.push_token_file.iter().chain(&transmitter.poll_token_file);
        tokens.for_each(|path| look(whose(), secret(path)));
        transmitter.ca_file.iter().for_each(|path| look(whose(), roots(path)));
        if let KeysAt::File(path) = &transmitter.keys {
            let told = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
            let keys = std::fs::read(path).map_err(|error| told(&error));
            look(whose(), keys.and_then(|bytes| Keys::parse_set(&bytes).map(drop).map_err(|why| told(&why))));
        }
    }
    for domain in &sign_in.trust_domains {
        look(format!("no SVID of {} can be verified", domain.name), bundle(domain).map(drop));
    }
    for client in sign_in.radius.iter().flat_map(|radius| &radius.clients) {
        look(format!("RADIUS client {} is not heard", client.name), secret(&client.secret_file));
    }
    troubles
}
