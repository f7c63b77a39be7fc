//! Who else is believed, resolved: identity providers and transmitters of security events.

use std::net::IpAddr;
use std::path::PathBuf;

use bulkhead_dataplane::steering::LocalService;

use serde::Serialize;

use super::resolve::Resolver;
use super::{Port, SignIn};
use crate::config::Config;
use crate::config::diagnostics::quoted;
use crate::config::schema::Text;
use crate::config::{trust as written, values};
use crate::identity::certificates::spiffe::{Id, is_trust_domain};
use crate::identity::https::is_https;
use crate::identity::oidc::settings::Settings;
use crate::identity::radius::{Client, Settings as Radius};
use crate::identity::signals::{KeysAt, Transmitter};
use crate::tokens::claims::Trusted;

/// UDP port of RADIUS accounting (RFC 2866, section 3).
const ACCOUNTING: u16 = 1813;
/// How long a session lasts that nobody stops, seconds: a long day.
const LASTS_S: u32 = 12 * 3600;

/// A trust domain of SPIFFE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrustDomain {
    /// Its name.
    pub name: String,
    /// File of its authorities, in PEM.
    pub bundle: PathBuf,
}

fn path(text: &Option<Text>) -> Option<PathBuf> {
    text.as_ref().map(|text| PathBuf::from(&text.value))
}

fn text(text: &Option<Text>) -> String {
    text.as_ref().map(|text| text.value.clone()).unwrap_or_default()
}

fn texts(list: &[Text]) -> Vec<String> {
    list.iter().map(|text| text.value.clone()).collect()
}

impl Resolver {
    /// What stands in the path of a page or of a push has to be a plain name.
    fn plain_name(&mut self, name: &Text) {
        if let Err(wrong) = values::name(&name.value) {
            self.report.error(name.at, wrong.message).maybe_hint(wrong.hint);
        }
    }

    fn https(&mut self, address: &Option<Text>) {
        if let Some(address) = address.as_ref().filter(|address| !is_https(&address.value)) {
            let message = format!("{} is no https address", quoted(&address.value));
            self.report.error(address.at, message).hint("for example \"https://id.example.org\"");
        }
    }

    /// `[identity]`, with defaults. `postures` are the names of those that are declared.
    pub(super) fn sign_in(
        &mut self,
        config: &Config,
        has_portal: bool,
        postures: &[String],
        ports: &mut [Port],
    ) -> SignIn {
        let (written, default) = (&config.sign_in, SignIn::default());
        SignIn {
            session_s: written.session_s.as_ref().map_or(default.session_s, |v| v.value),
            heartbeat_s: written.heartbeat_s.as_ref().map_or(default.heartbeat_s, |v| v.value),
            passwords: written.passwords.as_ref().map_or(default.passwords, |v| v.value),
            providers: self.providers(&written.providers, has_portal),
            trust_domains: self.trust_domains(config, has_portal),
            transmitters: self.transmitters(&written.transmitters, postures, has_portal),
            radius: written.radius.as_ref().map(|written| self.radius(written, ports)),
        }
    }

    /// `[identity.providers]`, by name. Without a portal nobody could come back from one.
    fn providers(&mut self, written: &[written::Provider], has_portal: bool) -> Vec<Settings> {
        let mut all: Vec<Settings> =
            written.iter().map(|provider| self.provider(provider, has_portal)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn provider(&mut self, written: &written::Provider, has_portal: bool) -> Settings {
        self.plain_name(&written.name);
        self.https(&written.issuer);
        if let Some(issuer) = written.issuer.as_ref().filter(|issuer| issuer.value.contains(['?', '#'])) {
            let message = "an issuer has no query and no fragment";
            self.report.error(issuer.at, message).hint("it is what `iss` of the provider's tokens says");
        }
        if !has_portal {
            let message = format!("provider {} needs a portal", quoted(&written.name.value));
            let hint = "browsers come back to it: add [portal] with `ports` and `name`";
            self.report.error(written.name.at, message).hint(hint);
        }
        let mut scopes = texts(&written.scopes);
        if scopes.is_empty() {
            scopes = ["email", "profile"].map(str::to_owned).to_vec();
        }
        for scope in written.scopes.iter().filter(|scope| scope.value.contains(char::is_whitespace)) {
            let message = format!("{} is not one scope", quoted(&scope.value));
            self.report.error(scope.at, message).hint("write a list: [\"email\", \"groups\"]");
        }
        scopes.retain(|scope| scope != "openid");
        scopes.insert(0, "openid".to_owned());
        let name = written.name.value.clone();
        let label = written.label.as_ref().map_or_else(|| name.clone(), |label| label.value.clone());
        Settings {
            name,
            label,
            issuer: text(&written.issuer),
            client_id: text(&written.client_id),
            client_secret_file: path(&written.client_secret_file),
            scopes,
            user: written.user.as_ref().map_or("email", |user| &user.value).to_owned(),
            groups: written.groups.as_ref().map(|groups| groups.value.clone()),
            ca_file: path(&written.ca_file),
            max_age_s: written.max_age_s,
            step_up_acr: texts(&written.step_up_acr),
            device_code: written.device_code.as_ref().is_some_and(|flag| flag.value),
            trusted: Trusted {
                mfa_acr: texts(&written.mfa_acr),
                phishing_resistant_acr: texts(&written.phishing_resistant_acr),
                phishing_resistant_amr: texts(&written.phishing_resistant_amr),
            },
        }
    }

    /// `[identity.trust_domains]`, by name. An id of another one could prove nothing.
    fn trust_domains(&mut self, config: &Config, has_portal: bool) -> Vec<TrustDomain> {
        let mut all = Vec::new();
        let has_door = config.portal.as_ref().is_some_and(|portal| portal.certificate_port.is_some());
        for written in &config.sign_in.trust_domains {
            let name = &written.name;
            if !is_trust_domain(&name.value) {
                let message = format!("{} is no trust domain", quoted(&name.value));
                self.report.error(name.at, message).hint("for example \"example.org\", in lower case");
            }
            if !has_portal || !has_door {
                let message = format!("trust domain {} needs a place to show SVIDs", quoted(&name.value));
                self.report.error(name.at, message).hint("add `certificate_port = 8443` to [portal]");
            }
            let bundle = path(&written.bundle).unwrap_or_default();
            all.push(TrustDomain { name: name.value.clone(), bundle });
        }
        all.sort_by(|a: &TrustDomain, b| a.name.cmp(&b.name));
        for workload in &config.workloads {
            let Some(text) = &workload.spiffe else { continue };
            let Ok(id) = Id::parse(&text.value) else { continue };
            if !all.iter().any(|domain| domain.name == id.trust_domain()) {
                let message = format!("nothing is said of the trust domain {}", quoted(id.trust_domain()));
                let hint = format!("add [identity.trust_domains.\"{}\"] with `bundle`", id.trust_domain());
                self.report.error(text.at, message).hint(hint);
            }
        }
        all
    }

    /// `[identity.radius]`; its UDP port becomes a local service of its ports.
    fn radius(&mut self, written: &written::Radius, ports: &mut [Port]) -> Radius {
        let port = written.port.as_ref().map_or(ACCOUNTING, |port| port.value as u16);
        for name in &written.ports {
            match ports.binary_search_by(|p| p.name.as_str().cmp(&name.value)) {
                Ok(index) => {
                    let local = &mut ports[index].local;
                    local.push(LocalService::Udp(port));
                    local.sort();
                    local.dedup();
                }
                Err(_) => self.unknown("port", name, ports.iter().map(|p| p.name.as_str())),
            }
        }
        let mut clients: Vec<Client> = Vec::new();
        for client in &written.clients {
            self.plain_name(&client.name);
            let Some(text) = &client.address else { continue };
            let Ok(address) = text.value.parse::<IpAddr>() else {
                let message = format!("{} is no address", quoted(&text.value));
                self.report.error(text.at, message).hint("for example \"10.20.0.5\"");
                continue;
            };
            let address = address.to_canonical();
            if let Some(other) = clients.iter().find(|other| other.address == address) {
                let message = format!("client {} has this address too", quoted(&other.name));
                self.report.error(text.at, message).hint("whose secret it is could not be told");
            }
            clients.push(Client {
                name: client.name.value.clone(),
                address,
                secret_file: path(&client.secret_file).unwrap_or_default(),
                groups: texts(&client.groups),
                lasts_s: client.lasts_s.unwrap_or(LASTS_S),
            });
        }
        clients.sort_by(|a, b| a.name.cmp(&b.name));
        Radius { port, clients }
    }

    /// `[identity.transmitters]`, by name.
    fn transmitters(
        &mut self,
        written: &[written::Transmitter],
        postures: &[String],
        has_portal: bool,
    ) -> Vec<Transmitter> {
        let mut all: Vec<Transmitter> = written
            .iter()
            .filter_map(|transmitter| self.transmitter(transmitter, postures, has_portal))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn transmitter(
        &mut self,
        written: &written::Transmitter,
        postures: &[String],
        has_portal: bool,
    ) -> Option<Transmitter> {
        self.plain_name(&written.name);
        self.https(&written.keys);
        self.https(&written.poll);
        let name = quoted(&written.name.value);
        let at = written.name.at;
        let keys = match (&written.keys, &written.keys_file) {
            (Some(url), None) => Some(KeysAt::Url(url.value.clone())),
            (None, Some(file)) => Some(KeysAt::File(PathBuf::from(&file.value))),
            (None, None) => {
                let message = format!("transmitter {name} has no keys");
                let hint = "say where they are, with `keys = \"https://…\"` or `keys_file = \"/…\"`";
                self.report.error(at, message).hint(hint);
                None
            }
            (Some(_), Some(file)) => {
                self.report.error(file.at, "`keys` and `keys_file` are both given").hint("leave one out");
                None
            }
        };
        match (&written.poll, &written.push_token_file) {
            (None, None) => {
                let message = format!("nothing can come from transmitter {name}");
                let hint = "give `push_token_file`, or `poll` with `poll_token_file`";
                self.report.error(at, message).hint(hint);
            }
            (None, Some(push)) if !has_portal => {
                let hint = "it is where events are pushed to: add [portal], or use `poll`";
                self.report.error(push.at, format!("transmitter {name} needs a portal")).hint(hint);
            }
            _ => {}
        }
        if let Some(posture) = &written.posture
            && !postures.contains(&posture.value)
        {
            self.unknown("posture", posture, postures.iter().map(String::as_str));
        }
        Some(Transmitter {
            name: written.name.value.clone(),
            issuer: text(&written.issuer),
            audience: text(&written.audience),
            keys: keys?,
            ca_file: path(&written.ca_file),
            push_token_file: path(&written.push_token_file),
            poll: written.poll.as_ref().map(|poll| poll.value.clone()),
            poll_token_file: path(&written.poll_token_file),
            posture: written.posture.as_ref().map(|posture| posture.value.clone()),
        })
    }
}
