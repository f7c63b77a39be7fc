//! What the certificates are worth that clients show at the door.

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::DistinguishedName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use super::{Proven, Record, Visitor, refused};
use crate::agent::statement::words;
use crate::audit::{By, Entry, Kind};
use crate::config::diagnostics::quoted;
use crate::daemon::gateway::{Gateway, lock};
use crate::daemon::log;
use crate::daemon::time::rfc3339;
use crate::identity::certificates::{Certificate, Evidence, Refused, spiffe};
use crate::model::TrustDomain;
use crate::portal::doorman::{NOTHING_SHOWN, RECOGNISED, Said};
use crate::portal::wire::{Answer, Why};
use crate::sessions::{self, Proof};

/// The most names of authorities that clients are told, bytes; with more, they choose by themselves.
const NAMES_BYTES_MAX: usize = 16 * 1024;

/// Somebody who was recognised.
struct Recognised {
    /// As whom.
    who: String,
    answer: Answer,
}

/// Why nobody was.
enum Not {
    /// The certificate proves nothing.
    Refused(Refused),
    /// It does, and there is no session for it all the same.
    Here(Answer),
}

impl From<Refused> for Not {
    fn from(refused: Refused) -> Not {
        Not::Refused(refused)
    }
}

/// Decides what somebody has shown who is connected from this address.
pub fn shown(gateway: &Gateway, peer: IpAddr, evidence: Option<&Evidence>) -> Said {
    let said = Visitor { gateway, address: peer.to_canonical(), cookie: None }.told(evidence);
    let portal = gateway.in_force().model.portal.as_ref().map(|portal| format!("{}/", portal.origin()));
    Said { portal, ..said }
}

impl Visitor<'_> {
    fn told(&self, evidence: Option<&Evidence>) -> Said {
        let Some(evidence) = evidence else {
            let text = "no certificate was shown; with curl, give --cert and --key".to_owned();
            return Said { status: NOTHING_SHOWN, text, ..Said::default() };
        };
        match self.recognise(evidence) {
            Ok(recognised) => self.say(recognised),
            Err(Not::Refused(why)) => Said {
                status: 403,
                text: format!("the certificate proves nothing here: {why}"),
                ..Said::default()
            },
            Err(Not::Here(answer)) => said_no(&answer),
        }
    }
}

fn said_no(answer: &Answer) -> Said {
    let (why, wait) = match answer {
        Answer::Refused { why, retry_after_s } => (*why, *retry_after_s),
        _ => (Why::Failed, None),
    };
    let status = if matches!(why, Why::Busy | Why::Failed | Why::Full) { 503 } else { 403 };
    let wait = wait.map(|s| format!("; not before {s} s")).unwrap_or_default();
    Said { status, text: format!("refused: {}{wait}", words(why)), ..Said::default() }
}

/// The names of the authorities by which clients can be known, in DER.
pub fn authorities(gateway: &Gateway, domains: &[TrustDomain]) -> Vec<Vec<u8>> {
    let mut all = gateway.desk.device_authority().into_iter().collect::<Vec<_>>();
    all.extend(domains.iter().filter_map(|domain| bundle(domain).ok()).flatten());
    let name = |authority: &CertificateDer<'static>| {
        let anchor = webpki::anchor_from_trusted_cert(authority).ok()?;
        Some(DistinguishedName::in_sequence(anchor.subject.as_ref()).as_ref().to_vec())
    };
    let names: Vec<Vec<u8>> = all.iter().filter_map(name).collect();
    let bytes: usize = names.iter().map(Vec::len).sum();
    if bytes > NAMES_BYTES_MAX { Vec::new() } else { names }
}

/// The authorities of a trust domain, as its file has them now: whoever rotates them need not tell.
///
/// # Errors
///
/// The file cannot be read, or is no bundle; in words.
pub fn bundle(domain: &TrustDomain) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(&domain.bundle)?.take(spiffe::BUNDLE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let wrong = |error: String| format!("{}: {error}", domain.bundle.display());
    let bytes = read().map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > spiffe::BUNDLE_BYTES_MAX {
        return Err(wrong(format!("more than {} bytes are not read", spiffe::BUNDLE_BYTES_MAX)));
    }
    spiffe::authorities(&bytes).map_err(wrong)
}

impl super::Desk {
    /// The certificate of the devices' authority.
    fn device_authority(&self) -> Result<CertificateDer<'static>, String> {
        self.with_authority(|authority| {
            CertificateDer::from_pem_slice(authority.certificate().as_bytes())
                .map_err(|error| error.to_string())
        })?
    }
}

impl Visitor<'_> {
    fn recognise(&self, evidence: &Evidence) -> Result<Recognised, Not> {
        self.may_begin().map_err(Not::Here)?;
        let certificate = Certificate::shown(evidence).map_err(|why| self.tell_certificate(None, why))?;
        let recognised =
            if certificate.is_svid() { self.workload(&certificate) } else { self.device(&certificate) };
        match recognised {
            Err(Not::Refused(why)) => Err(self.tell_certificate(Some(&certificate), why)),
            other => other,
        }
    }

    /// Logs and tells that a certificate was worth nothing. Names in it are repeated only where its key has signed for them.
    fn tell_certificate(&self, certificate: Option<&Certificate>, why: Refused) -> Not {
        // Names in it are whatever somebody has written.
        let words = why.to_string().escape_debug().to_string();
        let serial = certificate.map(|certificate| certificate.serial.clone());
        let of = serial.as_ref().map(|serial| format!(" {}", quoted(serial))).unwrap_or_default();
        log::say(&format!("certificate{of} refused at {}: {words}", self.address));
        let by = By::User { user: None, address: self.address };
        let entry = Entry::new(Kind::SignInRefused, by).with("certificate", serial.clone());
        self.gateway.refused(entry.with("why", why.to_string()));
        self.gateway.hub.told(json!({
            "ts": rfc3339(SystemTime::now()), "kind": "sign_in", "change": "refused",
            "address": self.address.to_string(), "certificate": serial, "why": why.to_string(),
        }));
        Not::Refused(why)
    }

    /// An enrolled device.
    fn device(&self, certificate: &Certificate) -> Result<Recognised, Not> {
        let now = SystemTime::now();
        let broken = |why: String| Not::Here(self.broken(&why));
        let name = certificate.device_name()?;
        let device = self.desk().book().and_then(|book| book.device(name)).map_err(broken)?;
        let authority = self.desk().device_authority().map_err(broken)?;
        let device = certificate.is_of(device, &authority, now)?;
        lock(&self.desk().handshakes).take(certificate)?;
        let ends = UNIX_EPOCH + Duration::from_secs(device.ends_s());
        let limit = Duration::from_secs(self.gateway.in_force().model.sign_in.session_s.into());
        let left = certificate.left(now).min(ends.duration_since(now).unwrap_or_default()).min(limit);
        let at = self.gateway.engine.now();
        let who = format!("device {}", device.name);
        let (name, record) = (device.name.clone(), Record::of_device(&device));
        let device = sessions::Device {
            name: Some(device.name),
            enrolled: true,
            tags: device.tags,
            credential: Some(format!("certificate {}", certificate.serial)),
            until: Some(sessions::later(at, left)),
        };
        let session = self.gateway.sessions.of(self.address, at).filter(|session| self.is_on(session, &name));
        let answer = match session {
            Some(session) if !self.is_to_begin_anew(&session, left) => {
                self.heard(&session, device, None, &record)
            }
            _ => {
                let (device, lasts, record) = (Some((device, None)), Some(left), Some(record));
                self.begin(Proven { device, lasts, record, ..Proven::by(Proof::Device) })
            }
        };
        Ok(Recognised { who, answer })
    }

    /// A workload, by its SVID.
    fn workload(&self, certificate: &Certificate) -> Result<Recognised, Not> {
        let now = SystemTime::now();
        let model = self.gateway.in_force().model;
        let id = certificate.spiffe_id()?;
        let domain = model.sign_in.trust_domains.iter().find(|domain| domain.name == id.trust_domain());
        let domain = domain.ok_or_else(|| Refused::TrustDomain(id.trust_domain().to_owned()))?;
        let bundle = bundle(domain).map_err(|why| self.without_bundle(domain, &why))?;
        let id = certificate.is_svid_by(&bundle, now)?;
        let workload = model.workloads.iter().find(|workload| workload.spiffe.as_ref() == Some(&id));
        let workload = workload.ok_or_else(|| Refused::Workload(id.to_string()))?;
        lock(&self.desk().handshakes).take(certificate)?;
        let device = sessions::Device {
            name: Some(workload.name.clone()),
            enrolled: workload.enrolled,
            tags: workload.tags.clone(),
            credential: Some(id.to_string()),
            // Also when somebody signs in there, whose session lasts longer.
            until: Some(sessions::later(self.gateway.engine.now(), certificate.left(now))),
        };
        let lasts = Some(certificate.left(now));
        let device = Some((device, None));
        let answer = self.begin(Proven { device, lasts, ..Proven::by(Proof::Spiffe) });
        Ok(Recognised { who: format!("workload {} ({id})", workload.name), answer })
    }

    /// Once, and not for each who comes.
    fn without_bundle(&self, domain: &TrustDomain, why: &str) -> Not {
        let trouble = format!("no SVID of {} can be verified: {why}", domain.name);
        let mut told = lock(&self.desk().without_bundle);
        if told.as_ref() != Some(&trouble) {
            self.gateway.alarm(trouble.clone());
            *told = Some(trouble);
        }
        Not::Here(refused(Why::Failed))
    }

    fn say(&self, recognised: Recognised) -> Said {
        let Recognised { who, answer } = recognised;
        let cookie = match answer {
            Answer::Begun { cookie, .. } => Some(cookie),
            Answer::Standing(_) => None,
            no => return said_no(&no),
        };
        let gateway = self.gateway;
        let Some(session) = gateway.sessions.of(self.address, gateway.engine.now()) else {
            return said_no(&refused(Why::NotSignedIn));
        };
        let until = session.claims.device.as_ref().and_then(|device| device.until);
        let until = until.map_or(session.ends, |until| until.min(session.ends));
        let left_s = until.0.saturating_sub(gateway.engine.now().0) / 1_000_000_000;
        let until = rfc3339(gateway.engine.wall(until));
        let text = format!("{who} is known at {} ({}) until {until}", self.address, session.segment);
        Said { status: RECOGNISED, cookie, left_s: Some(left_s), text, ..Said::default() }
    }
}
