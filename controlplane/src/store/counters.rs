//! What every rule did, over all runs of the gateway: the file `counters` of the state directory.
//!
//! Only the gateway that holds the directory writes it, whole and as the other files: it is the one before or the new one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, replace};
use super::record::{seal, unseal};

/// First line of the file.
const KIND: &str = "bulkhead counters 1";
/// 2^20 rules, the most that a policy may have, and 2^16 that are gone, of at most 300 bytes each: 319 MiB.
const BYTES_MAX: u64 = 512 << 20;

/// What one rule did, whatever its number was. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// Packets decided.
    #[serde(skip_serializing_if = "is_zero")]
    pub packets: u64,
    /// The same in bytes of IP packet.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// Connections opened under it.
    #[serde(skip_serializing_if = "is_zero")]
    pub connections: u64,
    /// When it last decided a packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit_ms: Option<u64>,
    /// When a policy in force first had it.
    pub first_ms: u64,
    /// Since when every policy in force has had it. That the gateway did not run is no interruption: nothing crossed.
    pub since_ms: u64,
    /// When the policies in force ceased to have it; nothing while they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What all rules did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Since when there are counts, milliseconds since 1970.
    pub since_ms: u64,
    /// Whether the gateway wrote this when it stopped, so that nothing is missing.
    pub ended: bool,
    /// How often it ended otherwise.
    pub gaps: u64,
    /// When it started after the last such end, milliseconds since 1970.
    pub last_gap_ms: Option<u64>,
    /// What no rule decided.
    pub default_deny: Counted,
    /// The rest, by name.
    pub rules: BTreeMap<String, Counted>,
}

/// The file.
pub struct CounterFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// The digest of what was last written.
    written: Option<Vec<u8>>,
}

impl CounterFile {
    pub(super) fn of(disk: Arc<dyn Disk>, directory: &Path) -> CounterFile {
        CounterFile { disk, path: directory.join("counters"), written: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was last written there; nothing if that never happened.
    ///
    /// # Errors
    ///
    /// It is damaged or cannot be read, in words.
    pub fn read(&self) -> Result<Option<Counters>, String> {
        let bytes = match self.disk.read(&self.path, BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("it cannot be read: {error}")),
        };
        match unseal(KIND, &bytes)? {
            (counters, []) => Ok(Some(counters)),
            _ => Err("something follows its end".to_owned()),
        }
    }

    /// Writes this instead, unless it stands there already. Returns how many bytes were written.
    ///
    /// # Errors
    ///
    /// It may not last; what lasts is this or what was there before.
    pub fn write(&mut self, counters: &Counters) -> io::Result<u64> {
        let bytes = seal(KIND, counters);
        let digest = bytes.split(|byte| *byte == b'\n').nth(1).map(<[u8]>::to_vec);
        if digest == self.written {
            return Ok(0);
        }
        if bytes.len() as u64 > BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {BYTES_MAX} bytes")));
        }
        self.written = None;
        replace(&*self.disk, &self.path, &bytes)?;
        self.written = digest;
        Ok(bytes.len() as u64)
    }
}
