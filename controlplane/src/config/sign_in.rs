//! `[identity]`: how people may say who they are, as written.

use super::diagnostics::{Located, quoted};
use super::read::{Reader, Value};
use super::trust::{
    Provider, Radius, Transmitter, TrustDomain, providers, radius, transmitters, trust_domains,
};

/// The longest that a sign-in may last: a year, as `session add`.
pub const SESSION_LIMIT_S: u32 = 365 * 86_400;

/// `[identity]`.
#[derive(Clone, Debug, Default)]
pub struct SignIn {
    /// `session`: how long a sign-in lasts, seconds.
    pub session_s: Option<Located<u32>>,
    /// `heartbeat`: for how long a device's statement holds, seconds.
    pub heartbeat_s: Option<Located<u32>>,
    /// `passwords`: whether users of the gateway's own store may sign in.
    pub passwords: Option<Located<bool>>,
    /// `[identity.providers.NAME]`.
    pub providers: Vec<Provider>,
    /// `[identity.transmitters.NAME]`.
    pub transmitters: Vec<Transmitter>,
    /// `[identity.trust_domains."NAME"]`.
    pub trust_domains: Vec<TrustDomain>,
    /// `[identity.radius]`.
    pub radius: Option<Radius>,
}

/// Reads `[identity]`.
pub(super) fn sign_in(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> SignIn {
    let Some(mut table) = reader.table(value, "[identity]") else { return SignIn::default() };
    let mut length = |value: Option<&Value<'_>>, least: u32, what: &str, hint: &str| {
        let text = value?;
        let located = Located { value: reader.seconds(value)?, at: reader.at(text.span()) };
        if !(least..=SESSION_LIMIT_S).contains(&located.value) {
            let text = text.get_ref().as_str().unwrap_or_default();
            reader.report.error(located.at, format!("{} is no length of {what}", quoted(text))).hint(hint);
        }
        Some(located)
    };
    let session_s = length(table.take("session"), 1, "a session", "from `1s` to `365d`");
    let heartbeat_s = length(table.take("heartbeat"), 10, "a heartbeat", "from `10s` to `365d`");
    let sign_in = SignIn {
        session_s,
        heartbeat_s,
        passwords: reader.boolean(table.take("passwords")),
        providers: providers(reader, table.take("providers")),
        transmitters: transmitters(reader, table.take("transmitters")),
        trust_domains: trust_domains(reader, table.take("trust_domains")),
        radius: radius(reader, table.take("radius")),
    };
    reader.finish(table, &[]);
    sign_in
}
