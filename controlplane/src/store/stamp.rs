//! Whether files of others have been replaced, without reading them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What of files tells that they have been replaced: inode, time and length of each; nothing of one that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<Option<(u64, i64, i64, u64)>>);

impl Stamp {
    /// How these files are now.
    pub fn of<'p>(files: impl IntoIterator<Item = &'p Path>) -> Stamp {
        let of = |path: &Path| {
            let about = fs::metadata(path).ok()?;
            Some((about.ino(), about.mtime(), about.mtime_nsec(), about.len()))
        };
        Stamp(files.into_iter().map(of).collect())
    }
}
