//! `[portal]`: where people sign in, as written.

use super::diagnostics::{At, Located, quoted};
use super::read::{Reader, Value};
use super::schema::Text;

/// `[portal]`.
#[derive(Clone, Debug)]
pub struct Portal {
    /// Where it stands.
    pub at: At,
    /// `ports`: at the gateway's own addresses on these it listens.
    pub ports: Vec<Text>,
    /// `port`: of TCP.
    pub port: Option<Located<u64>>,
    /// `redirect_port`: of TCP, in the clear; it only sends browsers to the other one.
    pub redirect_port: Option<Located<u64>>,
    /// `certificate_port`: of TCP, where clients show certificates.
    pub certificate_port: Option<Located<u64>>,
    /// `name`: its DNS name.
    pub name: Option<Text>,
    /// `certificate`: a file.
    pub certificate: Option<Text>,
    /// `key`: a file.
    pub key: Option<Text>,
    /// `user`: as whom its process runs.
    pub user: Option<Text>,
}

/// Reads `[portal]`.
pub(super) fn portal(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Option<Portal> {
    let mut table = reader.table(value, "[portal]")?;
    for (key, example) in [("ports", "ports = [\"lan\"]"), ("name", "name = \"access.example.org\"")] {
        if table.take(key).is_none() {
            let message = format!("[portal] has no `{key}`");
            reader.report.error(table.at, message).hint(format!("for example `{example}`"));
        }
    }
    let numbers = 1..u64::from(u16::MAX) + 1;
    let portal = Portal {
        at: table.at,
        ports: reader.strings(table.take("ports")).unwrap_or_default(),
        port: reader.integer(table.take("port"), numbers.clone()),
        redirect_port: reader.integer(table.take("redirect_port"), numbers.clone()),
        certificate_port: reader.integer(table.take("certificate_port"), numbers),
        name: reader.string(table.take("name")),
        certificate: reader.string(table.take("certificate")),
        key: reader.string(table.take("key")),
        user: reader.string(table.take("user")),
    };
    for path in [&portal.certificate, &portal.key].into_iter().flatten() {
        if !path.value.starts_with('/') {
            let message = format!("{} is no absolute path", quoted(&path.value));
            reader.report.error(path.at, message).hint("begin it with `/`");
        }
    }
    let lone = match (&portal.certificate, &portal.key) {
        (Some(path), None) => Some((path, "certificate", "key")),
        (None, Some(path)) => Some((path, "key", "certificate")),
        _ => None,
    };
    if let Some((path, has, lacks)) = lone {
        let message = format!("`{has}` is given and `{lacks}` is not");
        let hint = "give both, or neither: then the gateway makes a certificate of its own";
        reader.report.error(path.at, message).hint(hint);
    }
    reader.finish(table, &["session", "rate", "languages"]);
    Some(portal)
}
