//! Whom an event concerns (RFC 9493, SSF 1.0 section 3).

use serde_json::{Map, Value};

use crate::sessions::{Claims, Session};

/// The longest identifier, bytes.
const ID_BYTES_MAX: usize = 512;

/// Whom an event concerns. Everything that is there must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    user: Option<Name>,
    session: Option<Name>,
    device: Option<Name>,
    group: Option<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    /// `email`.
    Email(String),
    /// `iss_sub`.
    At { issuer: String, subject: String },
    /// `opaque`: what the transmitter calls it.
    Opaque { issuer: String, id: String },
}

impl Subject {
    /// Reads a subject identifier from a transmitter that is this issuer. A simple one is a user; but an opaque one may
    /// be a session as well.
    pub fn read(subject: &Value, issuer: &str) -> Option<Subject> {
        let subject = subject.as_object()?;
        // Drafts said `subject_type`, and nothing where there are several.
        let is_complex = subject.get("format").is_none_or(|format| format == "complex");
        if !is_complex {
            return Some(Subject { user: Some(Name::read(subject, issuer)?), ..Subject::default() });
        }
        let member = |key: &str| match subject.get(key) {
            // One that is there and not understood must not make it everybody's.
            Some(member) => Name::read(member.as_object()?, issuer).map(Some),
            None => Some(None),
        };
        let read = Subject {
            user: member("user")?,
            session: member("session")?,
            device: member("device")?,
            group: member("group")?,
        };
        // A tenant or a unit is nothing that sessions here have: such members count as true of all (SSF 1.0, section 8.1.3.1).
        (read != Subject::default()).then_some(read)
    }

    /// Whether it is this session's.
    pub fn means(&self, session: &Session) -> bool {
        self.is_of(&session.claims)
    }

    /// Whether it is that of whoever has these claims.
    pub fn is_of(&self, claims: &Claims) -> bool {
        self.group.as_ref().is_none_or(|name| name.is_group_of(claims))
            && self.user.as_ref().is_none_or(|name| name.is_user_of(claims))
            && self.session.as_ref().is_none_or(|name| name.is_session(claims))
            && self.device.as_ref().is_none_or(|name| name.is_device_of(claims))
    }

    /// A name under which it can be found: one of [`Subject::names_of`] of everybody whom it means.
    pub fn name(&self) -> String {
        let names = [&self.user, &self.session, &self.device, &self.group];
        names.into_iter().flatten().next().map(Name::text).unwrap_or_default().to_lowercase()
    }

    /// The names under which a subject is found that means whoever has these claims.
    pub fn names_of(claims: &Claims) -> Vec<String> {
        let origin = claims.origin.as_ref();
        let device = claims.device.as_ref().and_then(|device| device.name.as_ref());
        let names = claims.user.iter().chain(origin.map(|origin| &origin.subject));
        let names = names.chain(origin.and_then(|origin| origin.session.as_ref())).chain(device);
        names.chain(&claims.groups).map(|name| name.to_lowercase()).collect()
    }
}

impl Name {
    fn read(subject: &Map<String, Value>, issuer: &str) -> Option<Name> {
        let text = |key: &str| {
            let text = subject.get(key)?.as_str()?;
            (!text.is_empty() && text.len() <= ID_BYTES_MAX).then(|| text.to_owned())
        };
        match subject.get("format")?.as_str()? {
            "email" => Some(Name::Email(text("email")?)),
            "iss_sub" => Some(Name::At { issuer: text("iss")?, subject: text("sub")? }),
            "opaque" => Some(Name::Opaque { issuer: issuer.to_owned(), id: text("id")? }),
            _ => None,
        }
    }

    /// What it is called, whoever calls it so.
    fn text(&self) -> &str {
        match self {
            Name::Email(text) | Name::At { subject: text, .. } | Name::Opaque { id: text, .. } => text,
        }
    }

    fn is_user_of(&self, claims: &Claims) -> bool {
        let origin = claims.origin.as_ref();
        match self {
            // Its form is not the same everywhere; rather one session too many.
            Name::Email(email) => claims.user.as_ref().is_some_and(|user| user.eq_ignore_ascii_case(email)),
            Name::At { issuer, subject } => {
                origin.is_some_and(|origin| origin.issuer == *issuer && origin.subject == *subject)
            }
            Name::Opaque { issuer, id } => {
                self.is_session(claims)
                    || origin.is_some_and(|origin| origin.issuer == *issuer && origin.subject == *id)
            }
        }
    }

    /// Who calls it so, and how.
    fn at(&self) -> Option<(&String, &String)> {
        match self {
            Name::Email(_) => None,
            Name::At { issuer, subject } => Some((issuer, subject)),
            Name::Opaque { issuer, id } => Some((issuer, id)),
        }
    }

    fn is_session(&self, claims: &Claims) -> bool {
        let (Some((issuer, id)), Some(origin)) = (self.at(), &claims.origin) else { return false };
        origin.issuer == *issuer && origin.session.as_ref() == Some(id)
    }

    /// Of the groups that the same issuer has told.
    fn is_group_of(&self, claims: &Claims) -> bool {
        let (Some((issuer, name)), Some(origin)) = (self.at(), &claims.origin) else { return false };
        origin.issuer == *issuer && claims.groups.contains(name)
    }

    fn is_device_of(&self, claims: &Claims) -> bool {
        let (Some((_, name)), Some(device)) = (self.at(), &claims.device) else { return false };
        device.name.as_ref() == Some(name)
    }
}
