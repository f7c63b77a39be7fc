//! The file operations of the store, each a step after which the machine may stop.
//!
//! They are behind a trait so that a test can stop after every one of them and look at what is left. How they are put
//! together is the store's affair alone, and the same in the tests.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NOFOLLOW;
use nix::unistd::geteuid;

/// End of the names of files that are being written.
pub const UNFINISHED: &str = ".tmp";

/// What the store does with files.
pub trait Disk: Send + Sync {
    /// Makes a directory that only we may use, and those above it; one that is there must be ours.
    fn make_directory(&self, directory: &Path) -> io::Result<()>;
    /// The names of a directory's files, with their sizes in bytes.
    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>>;
    /// The first bytes of a file, at most so many.
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>>;
    /// Makes a file that only we may read, or empties the one that is there, and writes to it. None of it need last.
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Adds to the end of a file that only we may read, or makes it. None of it need last.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file to its first so many bytes, if it is longer. That need not last. One that is not there has none.
    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Returns when the file's contents last.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name, at once and instead of the file that had it. That need not last.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns when the directory's names last.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Removes a file. That need not last.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// Makes a file's contents be these, whenever the machine stops: these or those before.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let written = disk
        .create(&unfinished, bytes)
        .and_then(|()| disk.sync(&unfinished))
        .and_then(|()| disk.rename(&unfinished, path));
    if let Err(error) = written {
        let _ = disk.remove(&unfinished);
        return Err(error);
    }
    disk.sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Disk for Files {
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let found = fs::symlink_metadata(directory)?;
        if !found.is_dir() || found.uid() != geteuid().as_raw() {
            let why = format!("it is not a directory of uid {}", geteuid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // What is no file of ours has no name of ours either.
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type()?.is_file()
            {
                names.push((name, entry.metadata()?.len()));
            }
        }
        Ok(names)
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path)?;
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(O_NOFOLLOW);
        options.open(path)?.write_all(bytes)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW);
        options.open(path)?.write_all(bytes)
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = match OpenOptions::new().write(true).custom_flags(O_NOFOLLOW).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        if file.metadata()?.len() > bytes { file.set_len(bytes) } else { Ok(()) }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}
