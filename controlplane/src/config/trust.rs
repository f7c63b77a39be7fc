//! `[identity.providers]` and `[identity.transmitters]`: who else is believed, as written.

use super::diagnostics::{At, Located};
use super::read::{Reader, Table, Value};
use super::schema::Text;

/// `[identity.providers.NAME]`.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name.
    pub name: Text,
    /// `label`: what people call it.
    pub label: Option<Text>,
    /// `issuer`.
    pub issuer: Option<Text>,
    /// `client_id`.
    pub client_id: Option<Text>,
    /// `client_secret_file`.
    pub client_secret_file: Option<Text>,
    /// `scopes`.
    pub scopes: Vec<Text>,
    /// `user`: the claim with the user's name.
    pub user: Option<Text>,
    /// `groups`: the claim with the groups.
    pub groups: Option<Text>,
    /// `ca_file`.
    pub ca_file: Option<Text>,
    /// `max_age`: how long ago the user may have signed in at the provider, seconds.
    pub max_age_s: Option<u32>,
    /// `device_code`: people may sign in at a terminal.
    pub device_code: Option<Located<bool>>,
    /// `step_up_acr`.
    pub step_up_acr: Vec<Text>,
    /// `mfa_acr`.
    pub mfa_acr: Vec<Text>,
    /// `phishing_resistant_acr`.
    pub phishing_resistant_acr: Vec<Text>,
    /// `phishing_resistant_amr`.
    pub phishing_resistant_amr: Vec<Text>,
}

/// `[identity.transmitters.NAME]`.
#[derive(Clone, Debug)]
pub struct Transmitter {
    /// Its name.
    pub name: Text,
    /// `issuer`.
    pub issuer: Option<Text>,
    /// `audience`.
    pub audience: Option<Text>,
    /// `keys`: the address of its keys.
    pub keys: Option<Text>,
    /// `keys_file`.
    pub keys_file: Option<Text>,
    /// `ca_file`.
    pub ca_file: Option<Text>,
    /// `push_token_file`.
    pub push_token_file: Option<Text>,
    /// `poll`: where to poll.
    pub poll: Option<Text>,
    /// `poll_token_file`.
    pub poll_token_file: Option<Text>,
    /// `posture`: the one that its word on a device's compliance is about.
    pub posture: Option<Text>,
}

/// `[identity.trust_domains."NAME"]`.
#[derive(Clone, Debug)]
pub struct TrustDomain {
    /// Its name.
    pub name: Text,
    /// `bundle`: a file.
    pub bundle: Option<Text>,
}

/// `[identity.radius]`.
#[derive(Clone, Debug)]
pub struct Radius {
    /// Where it stands.
    pub at: At,
    /// `ports`: of the gateway, at which its clients are.
    pub ports: Vec<Text>,
    /// `port`: of UDP.
    pub port: Option<Located<u64>>,
    /// `[identity.radius.clients.NAME]`.
    pub clients: Vec<RadiusClient>,
}

/// `[identity.radius.clients.NAME]`.
#[derive(Clone, Debug)]
pub struct RadiusClient {
    /// Its name.
    pub name: Text,
    /// `address`: from where it speaks.
    pub address: Option<Text>,
    /// `secret_file`.
    pub secret_file: Option<Text>,
    /// `groups`: of everybody whom it tells of.
    pub groups: Vec<Text>,
    /// `lasts`: how long a session lasts unless it is stopped before, seconds.
    pub lasts_s: Option<u32>,
}

/// Reports keys that a table must have and does not.
fn need(reader: &mut Reader<'_>, table: &mut Table<'_, '_>, what: &str, keys: &[(&'static str, &str)]) {
    for (key, example) in keys {
        if table.take(key).is_none() {
            reader
                .report
                .error(table.at, format!("{what} has no `{key}`"))
                .hint(format!("for example `{example}`"));
        }
    }
}

impl Reader<'_> {
    fn absolute(&mut self, value: Option<&Value<'_>>) -> Option<Text> {
        let path = self.string(value)?;
        if !path.value.starts_with('/') {
            let message = format!("{} is no absolute path", super::diagnostics::quoted(&path.value));
            self.report.error(path.at, message).hint("begin it with `/`");
        }
        Some(path)
    }
}

/// Reads `[identity.providers]`.
pub(super) fn providers(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<Provider> {
    let mut list = Vec::new();
    for (name, mut table) in reader.named(value, "an identity provider") {
        let needed =
            [("issuer", "issuer = \"https://id.example.org\""), ("client_id", "client_id = \"bulkhead\"")];
        need(reader, &mut table, "an identity provider", &needed);
        list.push(Provider {
            name,
            label: reader.string(table.take("label")),
            issuer: reader.string(table.take("issuer")),
            client_id: reader.string(table.take("client_id")),
            client_secret_file: reader.absolute(table.take("client_secret_file")),
            scopes: reader.strings(table.take("scopes")).unwrap_or_default(),
            user: reader.string(table.take("user")),
            groups: reader.string(table.take("groups")),
            ca_file: reader.absolute(table.take("ca_file")),
            max_age_s: reader.seconds(table.take("max_age")),
            device_code: reader.boolean(table.take("device_code")),
            step_up_acr: reader.strings(table.take("step_up_acr")).unwrap_or_default(),
            mfa_acr: reader.strings(table.take("mfa_acr")).unwrap_or_default(),
            phishing_resistant_acr: reader.strings(table.take("phishing_resistant_acr")).unwrap_or_default(),
            phishing_resistant_amr: reader.strings(table.take("phishing_resistant_amr")).unwrap_or_default(),
        });
        reader.finish(table, &[]);
    }
    list
}

/// Reads `[identity.transmitters]`.
pub(super) fn transmitters(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<Transmitter> {
    let mut list = Vec::new();
    for (name, mut table) in reader.named(value, "a transmitter") {
        let needed = [
            ("issuer", "issuer = \"https://id.example.org\""),
            ("audience", "audience = \"https://access.example.org\""),
        ];
        need(reader, &mut table, "a transmitter", &needed);
        list.push(Transmitter {
            name,
            issuer: reader.string(table.take("issuer")),
            audience: reader.string(table.take("audience")),
            keys: reader.string(table.take("keys")),
            keys_file: reader.absolute(table.take("keys_file")),
            ca_file: reader.absolute(table.take("ca_file")),
            push_token_file: reader.absolute(table.take("push_token_file")),
            poll: reader.string(table.take("poll")),
            poll_token_file: reader.absolute(table.take("poll_token_file")),
            posture: reader.string(table.take("posture")),
        });
        reader.finish(table, &[]);
    }
    list
}

/// Reads `[identity.trust_domains]`.
pub(super) fn trust_domains(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<TrustDomain> {
    let mut list = Vec::new();
    for (name, mut table) in reader.named(value, "a trust domain") {
        let needed = [("bundle", "bundle = \"/etc/bulkhead/example.org.pem\"")];
        need(reader, &mut table, "a trust domain", &needed);
        list.push(TrustDomain { name, bundle: reader.absolute(table.take("bundle")) });
        reader.finish(table, &[]);
    }
    list
}

/// Reads `[identity.radius]`.
pub(super) fn radius(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Option<Radius> {
    let mut table = reader.table(value, "[identity.radius]")?;
    let needed = [
        ("ports", "ports = [\"core\"]"),
        ("clients", "[identity.radius.clients.switch]` with `address` and `secret_file"),
    ];
    need(reader, &mut table, "[identity.radius]", &needed);
    let mut clients = Vec::new();
    for (name, mut table) in reader.named(table.take("clients"), "a client of RADIUS") {
        let needed = [
            ("address", "address = \"10.20.0.5\""),
            ("secret_file", "secret_file = \"/etc/bulkhead/switch.secret\""),
        ];
        need(reader, &mut table, "a client of RADIUS", &needed);
        clients.push(RadiusClient {
            name,
            address: reader.string(table.take("address")),
            secret_file: reader.absolute(table.take("secret_file")),
            groups: reader.identities(table.take("groups"), "group"),
            lasts_s: reader.seconds(table.take("lasts")),
        });
        reader.finish(table, &[]);
    }
    let radius = Radius {
        at: table.at,
        ports: reader.strings(table.take("ports")).unwrap_or_default(),
        port: reader.integer(table.take("port"), 1..u64::from(u16::MAX) + 1),
        clients,
    };
    reader.finish(table, &[]);
    Some(radius)
}
