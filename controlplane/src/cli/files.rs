//! Files that a command writes for somebody.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::Path;

/// Writes a file as a whole or not at all: on an error what was there is as it was. The owner, group and permissions of
/// a file that is there already stay; of a link, what it names changes. A pipe or a device takes the bytes as they come.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A link to what is not there yet is no place to write to.
    let before = match fs::symlink_metadata(path) {
        Ok(_) => Some(fs::metadata(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let Some(before) = before else { return put(path, bytes, None) };
    if !before.is_file() {
        return File::options().write(true).open(path)?.write_all(bytes);
    }
    put(&fs::canonicalize(path)?, bytes, Some(&before))
}

/// Puts a new file in the place of one that had, or of none.
fn put(path: &Path, bytes: &[u8], before: Option<&Metadata>) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Err(io::Error::other("it has no name")) };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // Nobody reads it who may not read what it replaces.
    let mode = if before.is_some() { 0o600 } else { 0o666 };
    let mut new = File::options().write(true).create_new(true).mode(mode).open(&unfinished)?;
    let written = (|| {
        new.write_all(bytes)?;
        if let Some(before) = before {
            chown(&unfinished, Some(before.uid()), Some(before.gid()))?;
            new.set_permissions(before.permissions())?;
        }
        new.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory that goes with the test.
    struct Directory(std::path::PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("bulkhead-files-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Directory(path)
        }

        fn entries(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_keeps_its_permissions_and_a_link_its_name() {
        let directory = Directory::new("keeps");
        let (file, link) = (directory.0.join("policy.toml"), directory.0.join("link"));
        replace(&file, b"one").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        replace(&link, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(directory.entries(), 2, "nothing unfinished stays");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_leaves_nothing() {
        let directory = Directory::new("refused");
        let link = directory.0.join("link");
        symlink(directory.0.join("nowhere"), &link).unwrap();
        assert!(replace(&link, b"text").is_err());
        assert!(replace(&directory.0.join("missing/file"), b"text").is_err());
        assert!(replace(&directory.0, b"text").is_err());
        assert_eq!(directory.entries(), 1);
    }

    #[test]
    fn a_device_is_written_to_and_stays() {
        replace(Path::new("/dev/null"), b"text").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
