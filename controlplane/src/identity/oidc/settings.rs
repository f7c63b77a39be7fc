//! What the operator says of an identity provider.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::portal::wire::Secret;
use crate::tokens::claims::Trusted;

/// The longest secret in a file, bytes.
const SECRET_BYTES_MAX: u64 = 4096;

/// `[identity.providers.NAME]`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Its name in the configuration.
    pub name: String,
    /// What people call it.
    pub label: String,
    /// `iss`.
    pub issuer: String,
    /// As what we are known to it.
    pub client_id: String,
    /// Where our secret is; a public client has none.
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// The claim with the user's name.
    pub user: String,
    /// The claim with the groups, as [`groups`](crate::tokens::claims::groups) takes it.
    pub groups: Option<String>,
    /// Roots to trust instead of Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// How long ago the user may have signed in at the provider, seconds.
    pub max_age_s: Option<u32>,
    /// What to ask for at a step-up (`acr_values`).
    pub step_up_acr: Vec<String>,
    /// People may sign in at a terminal.
    pub device_code: bool,
    /// What its words are trusted to mean.
    pub trusted: Trusted,
}

/// Why a secret cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSecret(String);

impl fmt::Display for NoSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a secret: the first line of a file that nobody but its owner can change, that others cannot read, and that
/// belongs to root or to us.
///
/// # Errors
///
/// It cannot be read, or others can; what to do.
pub fn read_secret(path: &Path) -> Result<Secret, NoSecret> {
    let told = |why: &dyn fmt::Display| NoSecret(format!("{}: {why}", path.display()));
    let open = |path: &Path| -> std::io::Result<File> {
        OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)
    };
    let file = open(path).map_err(|error| told(&error))?;
    let found = file.metadata().map_err(|error| told(&error))?;
    if !found.is_file() {
        return Err(told(&"it is no file"));
    }
    if found.mode() & 0o037 != 0 {
        return Err(told(&"others can read or change it; `chmod 600` it"));
    }
    if found.uid() != 0 && found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(told(&"it belongs to somebody else; `chown root` it"));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(SECRET_BYTES_MAX).read_to_string(&mut text).map_err(|error| told(&error))?;
    let secret = text.lines().next().unwrap_or_default().trim();
    if secret.is_empty() || secret.chars().any(char::is_control) {
        return Err(told(&"there is no secret on its first line"));
    }
    Ok(Secret::new(secret.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_secret_is_only_its_owners() {
        let directory = std::env::temp_dir().join(format!("bulkhead-secret-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("secret");
        let write = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_secret(&path).map(|secret| secret.reveal().to_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(write("s3cret\nmore\n", 0o600), Ok("s3cret".to_owned()));
        assert_eq!(write(" s3cret \r\n", 0o440), Ok("s3cret".to_owned()));
        for mode in [0o644, 0o660, 0o604, 0o602] {
            let error = write("s3cret", mode).unwrap_err();
            assert!(error.contains("chmod 600") && !error.contains("s3cret"), "{error}");
        }
        for empty in ["", "\n", "  \ns3cret"] {
            assert!(write(empty, 0o600).unwrap_err().contains("no secret on its first line"));
        }
        let link = directory.join("link");
        symlink(&path, &link).unwrap();
        assert!(read_secret(&link).is_err() && read_secret(&directory).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
