//! What the agent keeps at its own end: one directory, only for its owner.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::client::Portal;
use crate::portal::wire::Secret;
use crate::tokens::sign::Signer;

const KEY: &str = "device.key";
const CERTIFICATE: &str = "device.crt";
const AUTHORITY: &str = "device-ca.crt";
const SETTINGS: &str = "agent.json";
const COOKIE: &str = "session";

/// What is known of the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The portal.
    pub portal: Portal,
    /// What this device is called, if it is enrolled.
    pub device: Option<String>,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// This one, or else `bulkhead` where programs of this user keep their state.
    ///
    /// # Errors
    ///
    /// Nothing says where that is, or it cannot be made.
    pub fn open(directory: Option<PathBuf>) -> Result<Home> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let usual = || {
            let state =
                variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
            Some(state.join("bulkhead"))
        };
        let Some(directory) = directory.or_else(usual) else {
            bail!("neither XDG_STATE_HOME nor HOME is set; say with --state where the agent keeps its key");
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.with_context(|| format!("making {}", directory.display()))?;
        Ok(Home(directory))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file as a whole, or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, beside) = (self.0.join(name), self.0.join(format!(".{name}.{}", std::process::id())));
        let written = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        written().with_context(|| format!("writing {}", path.display()))
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// What was settled at the last enrolment or login.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn settings(&self) -> Result<Option<Settings>> {
        let Some(bytes) = self.read(SETTINGS)? else { return Ok(None) };
        let settings = serde_json::from_slice(&bytes);
        settings.map(Some).with_context(|| format!("reading {}", self.0.join(SETTINGS).display()))
    }

    /// Keeps it.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn settle(&self, settings: &Settings) -> Result<()> {
        self.write(SETTINGS, &serde_json::to_vec_pretty(settings)?)
    }

    /// The device's key, if it has one.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is none.
    pub fn key(&self) -> Result<Option<Signer>> {
        let Some(bytes) = self.read(KEY)? else { return Ok(None) };
        let key = Signer::from_pkcs8(&bytes);
        key.map(Some).with_context(|| format!("reading {}", self.0.join(KEY).display()))
    }

    /// Keeps the key of an enrolled device, and its certificate.
    ///
    /// # Errors
    ///
    /// They cannot be written.
    pub fn keep_device(&self, key: &[u8], certificate: &str, authority: &str) -> Result<()> {
        self.write(CERTIFICATE, certificate.as_bytes())?;
        self.write(AUTHORITY, authority.as_bytes())?;
        self.write(KEY, key)
    }

    /// The cookie of the session that was begun from here.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn cookie(&self) -> Result<Option<Secret>> {
        let Some(bytes) = self.read(COOKIE)? else { return Ok(None) };
        Ok(std::str::from_utf8(&bytes).ok().map(|text| Secret::new(text.trim().to_owned())))
    }

    /// Keeps it, or forgets it.
    ///
    /// # Errors
    ///
    /// It cannot be written or removed.
    pub fn keep_cookie(&self, cookie: Option<&Secret>) -> Result<()> {
        match cookie {
            Some(cookie) => self.write(COOKIE, cookie.reveal().as_bytes()),
            None => match fs::remove_file(self.0.join(COOKIE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).context("forgetting the session")
                }
                _ => Ok(()),
            },
        }
    }
}
