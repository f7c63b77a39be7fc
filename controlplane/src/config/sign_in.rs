//! `[identity]`: how people may say who they are, as written.

use super::diagnostics::{Located, quoted};
use super::read::{Reader, Value};
use super::trust::{Provider, Transmitter, providers, transmitters};

/// The longest that a sign-in may last: a year, as `session add`.
pub const SESSION_LIMIT_S: u32 = 365 * 86_400;

/// `[identity]`.
#[derive(Clone, Debug, Default)]
pub struct SignIn {
    /// `session`: how long a sign-in lasts, seconds.
    pub session_s: Option<Located<u32>>,
    /// `passwords`: whether users of the gateway's own store may sign in.
    pub passwords: Option<Located<bool>>,
    /// `[identity.providers.NAME]`.
    pub providers: Vec<Provider>,
    /// `[identity.transmitters.NAME]`.
    pub transmitters: Vec<Transmitter>,
}

/// Reads `[identity]`.
pub(super) fn sign_in(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> SignIn {
    let Some(mut table) = reader.table(value, "[identity]") else { return SignIn::default() };
    let session = table.take("session");
    let session_s = reader.seconds(session).zip(session).map(|(value, written)| {
        let at = reader.at(written.span());
        if value == 0 || value > SESSION_LIMIT_S {
            let text = written.get_ref().as_str().unwrap_or_default();
            let message = format!("{} is no length of a session", quoted(text));
            reader.report.error(at, message).hint("from `1s` to `365d`");
        }
        Located { value, at }
    });
    let sign_in = SignIn {
        session_s,
        passwords: reader.boolean(table.take("passwords")),
        providers: providers(reader, table.take("providers")),
        transmitters: transmitters(reader, table.take("transmitters")),
    };
    reader.finish(table, &[]);
    sign_in
}
