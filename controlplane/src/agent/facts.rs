//! What this machine can say of its own health. What cannot be found out is not said, and so is unknown.
//!
//! Such facts are only as true as the machine that says them: they keep out the neglected, not the treacherous.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Result, bail};

use crate::sessions::health::{Fact, Facts};

/// Files that a package manager writes whenever it changes something: dpkg, rpm (in its three forms), pacman, apk.
const PACKAGES: [&str; 6] = [
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages",
    "/var/lib/pacman/local",
    "/lib/apk/db/installed",
];
/// How deep device-mapper's devices may lie on each other.
const LAYERS_MAX: usize = 8;

/// Everything of this machine, and whether these processes run.
pub fn all(processes: &[String]) -> Facts {
    let mut facts = Facts::new();
    let mut say = |name: &str, fact: Option<Fact>| {
        if let Some(fact) = fact {
            facts.insert(name.to_owned(), fact);
        }
    };
    say("disk_encrypted", root_is_encrypted().map(Fact::Flag));
    say("os_patch_age", age_of_packages().map(Fact::Age));
    say("processes", running(processes).map(Fact::Texts));
    say(
        "kernel",
        fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| Fact::Text(text.trim().to_owned())),
    );
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    say("os", release_value(&release, "ID").map(Fact::Text));
    say("os_version", release_value(&release, "VERSION_ID").map(Fact::Text));
    facts
}

/// `NAME=VALUE`: a fact that whoever runs the agent adds. `true`, `false` and numbers are what they look like.
///
/// # Errors
///
/// It is none.
pub fn given(text: &str) -> Result<(String, Fact)> {
    let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        bail!("--fact: {text:?} is no fact; give it as NAME=VALUE");
    };
    let fact = match value {
        "true" => Fact::Flag(true),
        "false" => Fact::Flag(false),
        value => value.parse().map_or_else(|_| Fact::Text(value.to_owned()), Fact::Age),
    };
    Ok((name.to_owned(), fact))
}

fn release_value(release: &str, key: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// Whether the device on which the root file system lies is encrypted by dm-crypt; nothing if that cannot be seen from here,
/// as in a container.
fn root_is_encrypted() -> Option<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The last mount over a place is the one that is seen (proc(5)).
    let device = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ');
        let (device, place) = (fields.nth(2)?, fields.nth(1)?);
        (place == "/").then(|| device.to_owned())
    })?;
    is_encrypted(&Path::new("/sys/dev/block").join(device), LAYERS_MAX)
}

fn is_encrypted(device: &Path, layers: usize) -> Option<bool> {
    // A file system without a device of its own has no directory there.
    let device = device.canonicalize().ok()?;
    let uuid = fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    if uuid.starts_with("CRYPT-") {
        return Some(true);
    }
    let below: Vec<PathBuf> = fs::read_dir(device.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    if below.is_empty() || layers == 0 {
        return Some(false);
    }
    // A volume over several disks is as safe as the least safe of them.
    below.iter().map(|below| is_encrypted(below, layers - 1)).try_fold(true, |all, one| Some(all && one?))
}

/// Since when no package has changed, seconds.
fn age_of_packages() -> Option<u32> {
    let changed = PACKAGES.iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max()?;
    let age = SystemTime::now().duration_since(changed).unwrap_or_default();
    Some(u32::try_from(age.as_secs()).unwrap_or(u32::MAX))
}

/// Which of these run, by the name of the process or of its program.
fn running(wanted: &[String]) -> Option<Vec<String>> {
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // It may be gone by now.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let program = fs::read_link(entry.path().join("exe")).ok();
        let program = program.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
        for name in [Some(name.trim_end().into()), program].into_iter().flatten() {
            if let Some(name) = wanted.get(&*name) {
                found.insert((*name).to_owned());
            }
        }
    }
    Some(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_is_found_and_one_that_does_not_is_not() {
        let me = std::env::current_exe().unwrap();
        let me = me.file_name().unwrap().to_string_lossy().into_owned();
        let found = running(&[me.clone(), "no-such-process".to_owned()]);
        assert_eq!(found, Some(vec![me]));
    }

    #[test]
    fn facts_that_are_given_are_what_they_look_like() {
        assert_eq!(given("screen_lock=true").unwrap(), ("screen_lock".to_owned(), Fact::Flag(true)));
        assert_eq!(given("backup_age=3600").unwrap(), ("backup_age".to_owned(), Fact::Age(3600)));
        assert_eq!(given("site=a=b").unwrap(), ("site".to_owned(), Fact::Text("a=b".to_owned())));
        assert!(given("screen_lock").is_err() && given("=x").is_err());
    }

    #[test]
    fn encryption_is_seen_through_layers() {
        let root = std::env::temp_dir().join(format!("bulkhead-facts-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let device = |name: &str, uuid: Option<&str>, below: &[&str]| {
            let path = root.join(name);
            fs::create_dir_all(path.join("dm")).unwrap();
            fs::create_dir_all(path.join("slaves")).unwrap();
            if let Some(uuid) = uuid {
                fs::write(path.join("dm/uuid"), uuid).unwrap();
            }
            for below in below {
                std::os::unix::fs::symlink(root.join(below), path.join("slaves").join(below)).unwrap();
            }
            path
        };
        device("disk", None, &[]);
        let crypt = device("crypt", Some("CRYPT-LUKS2-1-x"), &["disk"]);
        let volume = device("volume", Some("LVM-x"), &["crypt"]);
        let mixed = device("mixed", Some("LVM-y"), &["crypt", "disk"]);
        assert_eq!(
            [&crypt, &volume, &mixed].map(|path| is_encrypted(path, LAYERS_MAX)),
            [Some(true), Some(true), Some(false)]
        );
        assert_eq!(is_encrypted(&root.join("disk"), LAYERS_MAX), Some(false));
        assert_eq!(is_encrypted(&root.join("none"), LAYERS_MAX), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_release_is_read_with_and_without_quotation_marks() {
        let release = "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='x'\n";
        assert_eq!(release_value(release, "ID").as_deref(), Some("debian"));
        assert_eq!(release_value(release, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(release_value(release, "VERSION"), None);
    }
}
