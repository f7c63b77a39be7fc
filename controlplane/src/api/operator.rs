//! What operators do and see over the control socket, besides policies and sessions.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::audit::Head;

/// The end of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Where the log is.
    pub directory: PathBuf,
    /// The number of the last record; 0 when there is none.
    pub seq: u64,
    /// Its digest, hexadecimal.
    pub hash: String,
    /// Records that wait to be written.
    pub pending: u64,
    /// Why they cannot be, if so.
    pub trouble: Option<String>,
}

impl AuditHead {
    /// The last record.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}
