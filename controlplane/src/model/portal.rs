//! `[portal]`, resolved.

use std::path::PathBuf;

use bulkhead_dataplane::steering::LocalService;
use bulkhead_dataplane::verdict::PortId;

use super::Port;
use super::resolve::Resolver;
use crate::config::Located;
use crate::config::diagnostics::quoted;
use crate::config::portal as written;
use crate::portal::{HTTPS, origin};

/// Who the portal's process runs as, unless somebody else is named.
const NOBODY: &str = "nobody";

/// Where people sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Where it listens, at all of the gateway's own addresses there; ascending.
    pub ports: Vec<PortId>,
    /// The TCP port.
    pub port: u16,
    /// Another TCP port, in the clear, from which browsers are sent to the first.
    pub redirect_port: Option<u16>,
    /// Another TCP port, at which clients show certificates.
    pub certificate_port: Option<u16>,
    /// Its DNS name, in lower case.
    pub name: String,
    /// Certificate chain and key, both PEM files; without them the gateway makes its own.
    pub files: Option<(PathBuf, PathBuf)>,
    /// A user's name or number: as whom its process runs.
    pub user: String,
}

impl Portal {
    /// Where browsers find it by its name: `https://access.example.org`.
    pub fn origin(&self) -> String {
        origin(&self.name, self.port)
    }

    /// As [`Portal::origin`], where they show certificates.
    pub fn certificate_origin(&self) -> Option<String> {
        Some(origin(&self.name, self.certificate_port?))
    }
}

impl Resolver {
    /// What `[portal]` says; its TCP ports become local services of its ports.
    pub(super) fn portal(&mut self, written: &written::Portal, ports: &mut [Port]) -> Option<Portal> {
        let number = |given: &Option<Located<u64>>| given.as_ref().map(|number| number.value as u16);
        let port = number(&written.port).unwrap_or(HTTPS);
        let redirect_port = number(&written.redirect_port);
        let certificate_port = number(&written.certificate_port);
        if let Some(redirect) =
            written.redirect_port.as_ref().filter(|redirect| redirect.value == u64::from(port))
        {
            let message = "`redirect_port` is the portal's own port";
            self.report.error(redirect.at, message).hint("usually it is 80, or left out");
        }
        if let Some(twice) = written
            .certificate_port
            .as_ref()
            .filter(|_| [Some(port), redirect_port].contains(&certificate_port))
        {
            let message = "`certificate_port` is another port of the portal already";
            self.report.error(twice.at, message).hint("for example 8443");
        }
        let mut ids = Vec::new();
        for name in &written.ports {
            match ports.binary_search_by(|p| p.name.as_str().cmp(&name.value)) {
                Ok(index) => {
                    let local = &mut ports[index].local;
                    let numbers = [Some(port), redirect_port, certificate_port];
                    local.extend(numbers.into_iter().flatten().map(LocalService::Tcp));
                    local.sort();
                    local.dedup();
                    ids.push(PortId(u8::try_from(index).unwrap_or(u8::MAX)));
                }
                Err(_) => self.unknown("port", name, ports.iter().map(|p| p.name.as_str())),
            }
        }
        ids.sort_unstable();
        ids.dedup();
        let name = written.name.as_ref()?;
        let lower = name.value.to_ascii_lowercase();
        if !is_dns_name(&lower) {
            let message = format!("{} is no DNS name", quoted(&name.value));
            self.report.error(name.at, message).hint("for example \"access.example.org\"");
        }
        let user = written.user.as_ref().map_or(NOBODY, |user| &user.value);
        if let Some(at) =
            written.user.as_ref().filter(|_| matches!(user, "root" | "0" | "")).map(|user| user.at)
        {
            let message = "the portal does not run as root: whoever takes it over must be nobody";
            self.report.error(at, message).hint("name an unprivileged user, or leave `user` out");
        }
        let path = |text: &crate::config::schema::Text| PathBuf::from(&text.value);
        let files = written.certificate.as_ref().map(path).zip(written.key.as_ref().map(path));
        let user = user.to_owned();
        Some(Portal { ports: ids, port, redirect_port, certificate_port, name: lower, files, user })
    }
}

/// Letters, digits and hyphens between dots (RFC 1123, section 2.1), and at least one letter in the last label: a
/// browser keeps cookies and passkeys by it.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && last.bytes().any(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    const TEXT: &str = r#"version = 1
[ports.lan]
interface = "eth1"
local = ["tcp/22"]
[ports.wan]
interface = "eth2"
[segments.office]
port = "lan"
networks = ["10.1.0.0/24"]
[portal]
ports = ["lan"]
redirect_port = 80
certificate_port = 8443
name = "Access.example.org"
"#;

    fn error(change: (&str, &str)) -> String {
        assert!(TEXT.contains(change.0));
        model::parse("t.toml", &TEXT.replace(change.0, change.1)).unwrap_err().to_string()
    }

    #[test]
    fn the_portals_ports_become_local_services_of_the_named_ports_only() {
        let model = model::parse("t.toml", TEXT).unwrap();
        let tcp = |ports: &[u16]| ports.iter().copied().map(LocalService::Tcp).collect::<Vec<_>>();
        assert_eq!(model.ports[0].local, tcp(&[22, 80, 443, 8443]));
        assert_eq!(model.ports[1].local, []);
        let portal = model.portal.unwrap();
        assert_eq!((portal.name.as_str(), portal.user.as_str()), ("access.example.org", "nobody"));
        assert_eq!((portal.ports, portal.port, portal.redirect_port), (vec![PortId(0)], 443, Some(80)));
    }

    #[test]
    fn without_the_table_there_is_no_portal() {
        let text = TEXT.split("[portal]").next().unwrap();
        let model = model::parse("t.toml", text).unwrap();
        assert_eq!((model.portal, model.ports[0].local.len()), (None, 1));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_a_hint() {
        for (change, expected) in [
            (("ports = [\"lan\"]", "ports = [\"lam\"]"), "did you mean `lan`?"),
            (("ports = [\"lan\"]\n", ""), "[portal] has no `ports`"),
            (("name = \"Access.example.org\"\n", ""), "for example `name = \"access.example.org\"`"),
            (("Access.example.org", "10.1.0.1"), "`10.1.0.1` is no DNS name"),
            (("Access.example.org", "a_b.example"), "is no DNS name"),
            (("redirect_port = 80", "redirect_port = 443"), "`redirect_port` is the portal's own port"),
            (("redirect_port = 80", "redirect_port = 0"), "from 1 to 65535"),
            (("certificate_port = 8443", "certificate_port = 443"), "another port of the portal already"),
            (("redirect_port = 80", "user = \"root\""), "the portal does not run as root"),
            (("redirect_port = 80", "certificate = \"/c.pem\""), "`certificate` is given and `key` is not"),
            (("redirect_port = 80", "key = \"k.pem\""), "`k.pem` is no absolute path"),
            (("redirect_port = 80", "prot = 443"), "did you mean `port`?"),
        ] {
            let error = error(change);
            assert!(error.contains(expected), "{expected}\n{error}");
        }
    }
}
