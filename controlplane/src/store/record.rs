//! What stands in the store's files.
//!
//! A file is two lines that say what it is and what it must hash to, a line of JSON, and then bytes:
//!
//! ```text
//! bulkhead revision 1
//! <SHA-256 of the third line without its line break, hexadecimal>
//! {"about":{…,"content":"<digest of the texts>"},"files":[{"path":…,"bytes":…},…]}
//! the files' texts, one after the other
//! ```
//!
//! So what is said of a policy can be checked without reading its texts, and there is no byte that may change unnoticed.
//! `current` and `counters` are the same with other first lines and no texts.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// First line of a stored policy.
const REVISION: &str = "bulkhead revision 1";
/// First line of `current`.
const CURRENT: &str = "bulkhead current 1";

/// How a revision came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The gateway started with its file.
    Start,
    /// `bulkhead reload`.
    Reload,
    /// SIGHUP.
    Signal,
    /// `bulkhead apply`.
    Apply,
    /// `bulkhead rollback` to this revision.
    Rollback(u64),
}

impl Cause {
    /// Its name, and the revision that it goes back to.
    pub fn name(self) -> (&'static str, Option<u64>) {
        match self {
            Cause::Start => ("start", None),
            Cause::Reload => ("reload", None),
            Cause::Signal => ("signal", None),
            Cause::Apply => ("apply", None),
            Cause::Rollback(to) => ("rollback", Some(to)),
        }
    }
}

/// What the client says of whoever asked. Nobody has checked it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// `SUDO_USER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// `SSH_CONNECTION`: the client's address and port, and the server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_connection: Option<String>,
    /// The terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<String>,
}

/// Who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// As the kernel says; nothing for a signal.
    pub uid: Option<u32>,
    /// The name of this user here.
    pub user: Option<String>,
    /// What the client says besides.
    #[serde(default)]
    pub said: Said,
}

/// Why, in the operator's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// `--message`.
    pub message: Option<String>,
    /// `--ticket`.
    pub ticket: Option<String>,
}

/// What is known of a revision from its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its number, from 1; never given twice.
    pub revision: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// How it came to be.
    pub cause: Cause,
    /// Who asked.
    pub who: Who,
    /// Why.
    pub note: Note,
    /// The policy's digest: equal for files that mean the same.
    pub digest: String,
    /// [`digest_of`] its texts: equal only for files that are the same to the byte.
    pub content: String,
    /// Rules in it.
    pub rules: u64,
    /// Within so many milliseconds it had to be confirmed; nothing if it was confirmed at once.
    pub confirm_ms: Option<u64>,
}

/// One file of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Where it was.
    pub path: String,
    /// What stood in it.
    pub text: String,
}

/// A file in the line of JSON.
#[derive(Serialize, Deserialize)]
struct FileLine {
    path: String,
    bytes: u64,
}

/// The line of JSON of a revision.
#[derive(Serialize, Deserialize)]
struct RevisionLine {
    about: About,
    files: Vec<FileLine>,
}

/// What became of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When it was confirmed, milliseconds since 1970.
    pub confirmed_ms: Option<u64>,
    /// By whom; by whoever put it in force, if that was at once.
    #[serde(default)]
    pub confirmed_by: Who,
    /// When and why it ended, if it was rolled back.
    pub rolled_back: Option<(u64, String)>,
}

/// A policy in force that waits for its confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Which.
    pub revision: u64,
    /// Until when, milliseconds since 1970. Only told: what counts is a clock that nobody sets, and a policy that was
    /// not confirmed does not outlive the process.
    pub until_ms: u64,
}

/// The gateway's own file as it was when something was last decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its path.
    pub file: String,
    /// [`digest_of`] its texts.
    pub digest: String,
}

/// Everything that changes: one small file, so that every change of it is one rename.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// The last number given.
    pub last: u64,
    /// The revision confirmed last.
    pub confirmed: Option<u64>,
    /// The one that runs instead and is not confirmed yet.
    pub pending: Option<Pending>,
    /// What was decided upon.
    pub seen: Option<Seen>,
    /// What became of the revisions.
    pub marks: BTreeMap<u64, Mark>,
}

/// A revision with its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What is known of it.
    pub about: About,
    /// The main file, then those it includes.
    pub files: Vec<Text>,
}

/// SHA-256, hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// SHA-256 of texts in their order, wherever the files lie.
pub fn digest_of<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    HEXLOWER.encode(&hash.finalize())
}

/// The first three lines.
pub(crate) fn seal(kind: &str, line: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_string(line).expect("keys are strings, and writing to memory cannot fail");
    format!("{kind}\n{}\n{json}\n", sha256(json.as_bytes())).into_bytes()
}

/// What the third line says, if the first three are whole, and what follows them.
pub(crate) fn unseal<'b, T: DeserializeOwned>(kind: &str, bytes: &'b [u8]) -> Result<(T, &'b [u8]), String> {
    let mut lines = bytes.splitn(4, |&byte| byte == b'\n');
    let (Some(first), Some(hash), Some(json), Some(rest)) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err("it ends too early".to_owned());
    };
    if first != kind.as_bytes() {
        return Err(format!("it does not begin with `{kind}`"));
    }
    if hash != sha256(json).as_bytes() {
        return Err("its digest is another than it says".to_owned());
    }
    let line = serde_json::from_slice(json).map_err(|error| format!("it cannot be understood: {error}"))?;
    Ok((line, rest))
}

/// A revision as bytes.
pub fn write_revision(about: &About, files: &[Text]) -> Vec<u8> {
    let lines = files.iter().map(|file| FileLine { path: file.path.clone(), bytes: file.text.len() as u64 });
    let mut bytes = seal(REVISION, &RevisionLine { about: about.clone(), files: lines.collect() });
    files.iter().for_each(|file| bytes.extend_from_slice(file.text.as_bytes()));
    bytes
}

/// What is said of a revision, from the beginning of its file.
pub fn read_about(bytes: &[u8]) -> Result<About, String> {
    unseal::<RevisionLine>(REVISION, bytes).map(|(line, _)| line.about)
}

/// A whole revision.
pub fn read_revision(bytes: &[u8]) -> Result<Stored, String> {
    let (line, mut rest) = unseal::<RevisionLine>(REVISION, bytes)?;
    let mut files = Vec::with_capacity(line.files.len());
    for FileLine { path, bytes } in line.files {
        let length = usize::try_from(bytes).ok().filter(|length| *length <= rest.len());
        let (text, after) = rest.split_at(length.ok_or("its texts are shorter than it says")?);
        let text = std::str::from_utf8(text).map_err(|_| "a text in it is not UTF-8")?.to_owned();
        files.push(Text { path, text });
        rest = after;
    }
    if !rest.is_empty() || files.is_empty() {
        return Err("its texts are longer than it says".to_owned());
    }
    if digest_of(files.iter().map(|file| file.text.as_str())) != line.about.content {
        return Err("the digest of its texts is another than it says".to_owned());
    }
    Ok(Stored { about: line.about, files })
}

/// `current` as bytes.
pub fn write_current(current: &Current) -> Vec<u8> {
    seal(CURRENT, current)
}

/// What `current` says.
pub fn read_current(bytes: &[u8]) -> Result<Current, String> {
    match unseal(CURRENT, bytes)? {
        (current, []) => Ok(current),
        _ => Err("something follows its end".to_owned()),
    }
}
