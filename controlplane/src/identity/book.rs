//! The gateway's own users, on disk: one file in the state directory, only for its owner.
//!
//! Every change is one transaction that is on the disk when it returns: a code that was taken is taken for ever, whatever
//! happens to the process. The keys of authenticators are kept as they are, because a code cannot be checked otherwise; whoever
//! reads the file can make codes, as whoever reads the gateway's memory can.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::passkeys::Passkey;
use super::{Shadow, totp};
use crate::portal::wire::Secret;

/// Its name in the state directory.
const FILE: &str = "identity.redb";
/// A table of records in JSON, by name.
pub(super) type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// By name, a [`User`] as JSON.
const USERS: Table = TableDefinition::new("users");
/// By a passkey's id, the name of the user whose it is, in UTF-8.
const PASSKEYS: Table = TableDefinition::new("passkeys");
/// The most users.
pub const USERS_MAX: u64 = 1_000_000;
/// Groups of a user.
pub const GROUPS_MAX: usize = 256;

/// Wrong codes in a row that cost no wait. Whoever types codes has shown the password.
const FREE_CODES: u32 = 5;
/// The first wait after these; it doubles.
const CODE_WAIT_MIN: Duration = Duration::from_secs(30);
/// The longest: of a million codes three are right at a time, so guessing on takes 19 years on average.
const CODE_WAIT_MAX: Duration = Duration::from_secs(3600);

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name.
    pub name: String,
    /// Groups that the store tells.
    pub groups: Vec<String>,
    /// The password's hash; `None` cannot sign in with one.
    pub password: Option<Secret>,
    /// The authenticator app, if there is one.
    pub totp: Option<Authenticator>,
    /// May not sign in.
    pub disabled: bool,
    /// When it was added, seconds since 1970.
    pub added_s: u64,
    /// When the password was set.
    pub password_s: u64,
    /// Wrong codes in a row.
    #[serde(default)]
    pub wrong_codes: u32,
    /// When the last of them came.
    #[serde(default)]
    pub wrong_code_s: u64,
    /// What authenticators know the user by, base64url: random, and made with the first passkey.
    #[serde(default)]
    pub handle: Option<String>,
    /// Its passkeys.
    #[serde(default)]
    pub passkeys: Vec<Passkey>,
}

/// An authenticator app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authenticator {
    /// Its key, in base32.
    pub key: Secret,
    /// The step of the last code that was taken; 0 before the first.
    pub last_step: u64,
}

impl User {
    fn passkey_ids(&self) -> Vec<String> {
        self.passkeys.iter().map(|passkey| passkey.id.clone()).collect()
    }

    /// What stands for all of a user that a sign-in goes by: another one as soon as somebody has changed something of it.
    pub fn mark(&self) -> Shadow {
        let app = self.totp.as_ref().map(|totp| &totp.key);
        let since = (self.added_s, self.password_s, self.disabled);
        Shadow::of_record(&(&self.name, &self.groups, &self.password, app, self.passkey_ids(), since))
    }

    /// How long before the next code is looked at. A clock that was put back makes nobody wait longer than the wait itself.
    pub fn code_wait(&self, now_s: u64) -> Duration {
        let Some(over) = self.wrong_codes.checked_sub(FREE_CODES) else { return Duration::ZERO };
        let wait = CODE_WAIT_MIN.saturating_mul(1 << over.min(20)).min(CODE_WAIT_MAX);
        wait.saturating_sub(Duration::from_secs(now_s.saturating_sub(self.wrong_code_s)))
    }
}

/// Why a code was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It is wrong, or was used before.
    Wrong,
    /// It was not looked at; how long to wait.
    Wait(Duration),
    /// There is no such user any more, or without an authenticator.
    None,
}

/// The store.
pub struct Book {
    database: Database,
    path: PathBuf,
}

/// What went wrong with the file, and where it lies.
pub type Broken = String;

impl Book {
    /// Opens the store of a state directory, or makes it.
    ///
    /// # Errors
    ///
    /// It cannot be opened or written, or it is damaged.
    pub fn open(directory: &Path) -> Result<Book, Broken> {
        let path = directory.join(FILE);
        let broken = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        // Before redb makes it: nobody else reads it for a moment.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(nix::libc::O_NOFOLLOW).open(&path).map_err(|error| broken(&error))?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(|error| broken(&error))?;
        let is_new = file.metadata().map_err(|error| broken(&error))?.len() == 0;
        let database = redb::backends::FileBackend::new(file)
            .and_then(|file| redb::Builder::new().create_with_backend(file))
            .map_err(|error| broken(&error))?;
        let book = Book { database, path: path.clone() };
        let tables = [USERS, PASSKEYS, super::devices::DEVICES];
        tables.into_iter().try_for_each(|table| book.write(table, |_| Ok(())))?;
        if is_new {
            sync_directory(directory).map_err(|error| broken(&error))?;
        }
        Ok(book)
    }

    pub(super) fn broken(&self, error: impl Into<redb::Error>) -> Broken {
        format!("{}: {}", self.path.display(), error.into())
    }

    pub(super) fn read<T>(
        &self,
        table: Table,
        act: impl FnOnce(&redb::ReadOnlyTable<&str, &[u8]>) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let transaction = self.database.begin_read().map_err(|error| self.broken(error))?;
        act(&transaction.open_table(table).map_err(|error| self.broken(error))?)
    }

    /// On the disk when it returns `Ok`; else nothing of it is.
    fn transact<T>(
        &self,
        act: impl FnOnce(&redb::WriteTransaction) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let transaction = self.database.begin_write().map_err(|error| self.broken(error))?;
        let done = act(&transaction)?;
        transaction.commit().map_err(|error| self.broken(error))?;
        Ok(done)
    }

    /// As [`Book::transact`], in one table.
    fn write<T>(
        &self,
        table: Table,
        act: impl FnOnce(&mut redb::Table<'_, &str, &[u8]>) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        self.transact(|transaction| {
            act(&mut transaction.open_table(table).map_err(|error| self.broken(error))?)
        })
    }

    pub(super) fn parse<T: DeserializeOwned>(
        &self,
        what: &str,
        name: &str,
        bytes: &[u8],
    ) -> Result<T, Broken> {
        // What serde_json says may repeat a part of it.
        serde_json::from_slice(bytes).map_err(|error| {
            format!("{}: {what} {name:?} is damaged (byte {})", self.path.display(), error.column())
        })
    }

    /// A user.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn user(&self, name: &str) -> Result<Option<User>, Broken> {
        self.read(USERS, |table| {
            let bytes = table.get(name).map_err(|error| self.broken(error))?;
            bytes.map(|bytes| self.parse("user", name, bytes.value())).transpose()
        })
    }

    /// All users, by name.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn users(&self) -> Result<Vec<User>, Broken> {
        self.read(USERS, |table| {
            let users = table.iter().map_err(|error| self.broken(error))?;
            let user = |entry: Result<_, redb::StorageError>| {
                let (name, bytes): (redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>) =
                    entry.map_err(|error| self.broken(error))?;
                self.parse("user", name.value(), bytes.value())
            };
            users.map(user).collect()
        })
    }

    /// How many users there are.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn count(&self) -> Result<u64, Broken> {
        self.read(USERS, |table| table.len().map_err(|error| self.broken(error)))
    }

    /// Whether there is one. Says so too when the file cannot be read: then there may be.
    pub fn is_used(&self) -> bool {
        self.read(USERS, |table| Ok(table.first().map_err(|error| self.broken(error))?.is_some()))
            .unwrap_or(true)
    }

    /// Changes a user, adds one (`None` before) or takes one away (`None` after). On the disk when it returns; an error of
    /// `change` changes nothing.
    ///
    /// # Errors
    ///
    /// The outer one: the file cannot be read or written. The inner one: that of `change`.
    pub fn change<T, E>(
        &self,
        name: &str,
        change: impl FnOnce(Option<User>) -> Result<(Option<User>, T), E>,
    ) -> Result<Result<T, E>, Broken> {
        self.transact(|transaction| {
            let mut had = Vec::new();
            let mut has = Vec::new();
            let changed = {
                let mut users = transaction.open_table(USERS).map_err(|error| self.broken(error))?;
                self.change_in(&mut users, "user", name, |before: Option<User>| {
                    had = before.as_ref().map(User::passkey_ids).unwrap_or_default();
                    let (after, told) = change(before)?;
                    has = after.as_ref().map(User::passkey_ids).unwrap_or_default();
                    Ok((after, told))
                })?
            };
            if changed.is_ok() && had != has {
                self.index(transaction, name, &had, &has)?;
            }
            Ok(changed)
        })
    }

    /// Whose a passkey is.
    fn index(
        &self,
        transaction: &redb::WriteTransaction,
        name: &str,
        had: &[String],
        has: &[String],
    ) -> Result<(), Broken> {
        let mut index = transaction.open_table(PASSKEYS).map_err(|error| self.broken(error))?;
        for id in had.iter().filter(|id| !has.contains(id)) {
            index.remove(id.as_str()).map_err(|error| self.broken(error))?;
        }
        for id in has.iter().filter(|id| !had.contains(id)) {
            let other = index.insert(id.as_str(), name.as_bytes()).map_err(|error| self.broken(error))?;
            if other.is_some() {
                return Err(format!("a passkey of user {name:?} is another user's already"));
            }
        }
        Ok(())
    }

    /// The user who has a passkey with this id.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn owner(&self, id: &str) -> Result<Option<User>, Broken> {
        let name = self.read(PASSKEYS, |index| {
            let name = index.get(id).map_err(|error| self.broken(error))?;
            Ok(name.map(|name| String::from_utf8_lossy(name.value()).into_owned()))
        })?;
        let user = name.map(|name| self.user(&name)).transpose()?.flatten();
        Ok(user.filter(|user| user.passkeys.iter().any(|passkey| passkey.id == id)))
    }

    /// As [`Book::change`], of any kind of record.
    pub(super) fn change_record<R: Serialize + DeserializeOwned + Clone + PartialEq, T, E>(
        &self,
        table: Table,
        what: &str,
        name: &str,
        change: impl FnOnce(Option<R>) -> Result<(Option<R>, T), E>,
    ) -> Result<Result<T, E>, Broken> {
        self.write(table, |table| self.change_in(table, what, name, change))
    }

    fn change_in<R: Serialize + DeserializeOwned + Clone + PartialEq, T, E>(
        &self,
        table: &mut redb::Table<'_, &str, &[u8]>,
        what: &str,
        name: &str,
        change: impl FnOnce(Option<R>) -> Result<(Option<R>, T), E>,
    ) -> Result<Result<T, E>, Broken> {
        let before = table.get(name).map_err(|error| self.broken(error))?;
        let before = before.map(|bytes| self.parse(what, name, bytes.value())).transpose()?;
        let (after, told) = match change(before.clone()) {
            Ok(done) => done,
            Err(error) => return Ok(Err(error)),
        };
        if after != before {
            match after {
                Some(record) => {
                    let bytes = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
                    let bytes = zeroize::Zeroizing::new(bytes);
                    table.insert(name, bytes.as_slice()).map_err(|error| self.broken(error))?;
                }
                None => drop(table.remove(name).map_err(|error| self.broken(error))?),
            }
        }
        Ok(Ok(told))
    }

    /// Takes a user's code in: each is taken once, and of those before it none any more. When it returns `Ok(Ok)`, that is
    /// on the disk. Wrong ones are counted there too, so that a restart makes guessing no cheaper.
    ///
    /// # Errors
    ///
    /// The outer one: the file cannot be read or written, and the code was not taken. The inner one: see [`NotTaken`].
    pub fn take_code(&self, name: &str, code: &str, now_s: u64) -> Result<Result<(), NotTaken>, Broken> {
        // Most guesses end here, without a write.
        let waits =
            |user: &User| Some(user.code_wait(now_s)).filter(|wait| !wait.is_zero()).map(NotTaken::Wait);
        if let Some(wait) = self.user(name)?.as_ref().and_then(waits) {
            return Ok(Err(wait));
        }
        let change = |before: Option<User>| {
            let Some(mut user) = before else { return Err(NotTaken::None) };
            if let Some(wait) = waits(&user) {
                return Err(wait);
            }
            let Some(totp) = &mut user.totp else { return Err(NotTaken::None) };
            let step = totp::step_of(&totp.key, code, now_s).filter(|step| *step > totp.last_step);
            match step {
                Some(step) => {
                    totp.last_step = step;
                    user.wrong_codes = 0;
                }
                None => {
                    user.wrong_codes = user.wrong_codes.saturating_add(1);
                    user.wrong_code_s = now_s;
                }
            }
            Ok((Some(user), step.map(|_| ()).ok_or(NotTaken::Wrong)))
        };
        self.change(name, change).map(|taken| taken.and_then(|taken| taken))
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::identity::password;

    pub struct Directory(pub PathBuf);

    impl Directory {
        pub fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("bulkhead-book-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).unwrap();
            Directory(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn add(book: &Book, name: &str) -> Secret {
        let key = totp::key();
        let totp = Some(Authenticator { key: key.clone(), last_step: 0 });
        let user = User { name: name.to_owned(), totp, ..User::default() };
        book.change(name, |_| Ok::<_, ()>((Some(user), ()))).unwrap().unwrap();
        key
    }

    const NOW: u64 = 1_700_000_010;

    #[test]
    fn users_survive_and_nobody_else_reads_them() {
        let directory = Directory::new("survive");
        let book = Book::open(&directory.0).unwrap();
        assert!(!book.is_used() && book.users().unwrap().is_empty());
        let key = add(&book, "alice");
        add(&book, "bob");
        assert_eq!(book.change("carol", |_| Err::<(Option<User>, ()), _>("no")).unwrap(), Err("no"));
        drop(book);
        let mode = std::fs::metadata(directory.0.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let book = Book::open(&directory.0).unwrap();
        let names: Vec<String> = book.users().unwrap().into_iter().map(|user| user.name).collect();
        assert_eq!(names, ["alice", "bob"]);
        assert_eq!(book.user("alice").unwrap().unwrap().totp.unwrap().key, key);
        book.change("alice", |_| Ok::<_, ()>((None, ()))).unwrap().unwrap();
        assert_eq!((book.user("alice").unwrap(), book.is_used()), (None, true));
    }

    #[test]
    fn a_file_that_is_no_store_is_told_with_its_place() {
        let directory = Directory::new("damaged");
        std::fs::write(directory.0.join(FILE), "not a store").unwrap();
        let why = Book::open(&directory.0).err().unwrap();
        assert!(why.contains("identity.redb"), "{why}");
    }

    #[test]
    fn c5_a_code_is_taken_once_also_after_a_restart() {
        let directory = Directory::new("replay");
        let book = Book::open(&directory.0).unwrap();
        let key = add(&book, "alice");
        let code = |at| totp::code(&key, at).unwrap();
        assert_eq!(book.take_code("alice", &code(NOW), NOW), Ok(Ok(())));
        assert_eq!(
            book.take_code("alice", &code(NOW), NOW),
            Ok(Err(NotTaken::Wrong)),
            "replayed in its step"
        );
        assert_eq!(
            book.take_code("alice", &code(NOW - 30), NOW),
            Ok(Err(NotTaken::Wrong)),
            "older than the last"
        );
        drop(book);
        let book = Book::open(&directory.0).unwrap();
        assert_eq!(book.take_code("alice", &code(NOW), NOW), Ok(Err(NotTaken::Wrong)), "after a restart");
        for steps in [-2, 2] {
            let shown = code(NOW.saturating_add_signed(30 * steps));
            assert_eq!(book.take_code("alice", &shown, NOW), Ok(Err(NotTaken::Wrong)), "{steps} steps off");
        }
        assert_eq!(book.take_code("alice", &code(NOW + 30), NOW + 30), Ok(Ok(())));
        assert_eq!(book.take_code("bob", &code(NOW), NOW), Ok(Err(NotTaken::None)));
    }

    #[test]
    fn c5_a_million_guesses_are_not_looked_at() {
        let directory = Directory::new("guesses");
        let mut book = Book::open(&directory.0).unwrap();
        let key = add(&book, "alice");
        let (mut looked_at, mut now, mut right) = (0, NOW, [0; 3]);
        for guess in 0..1_000_000_u32 {
            // Two hundred a second, for more than an hour; a restart now and then.
            now += u64::from(guess % 200 == 0);
            if guess % 250_000 == 249_999 {
                drop(book);
                book = Book::open(&directory.0).unwrap();
            }
            // What is right at the moment nobody guesses here.
            if guess % 200 == 0 {
                right = [now - 30, now, now + 30].map(|at| totp::code(&key, at).unwrap().parse().unwrap());
            }
            if right.contains(&guess) {
                continue;
            }
            match book.take_code("alice", &format!("{guess:06}"), now).unwrap() {
                Err(NotTaken::Wrong) => looked_at += 1,
                Err(NotTaken::Wait(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!((FREE_CODES..20).contains(&looked_at), "{looked_at}");
        let right = totp::code(&key, now).unwrap();
        assert!(
            matches!(book.take_code("alice", &right, now), Ok(Err(NotTaken::Wait(_)))),
            "not even the right one"
        );
        now += CODE_WAIT_MAX.as_secs();
        assert_eq!(book.take_code("alice", &totp::code(&key, now).unwrap(), now), Ok(Ok(())));
        assert_eq!(book.user("alice").unwrap().unwrap().wrong_codes, 0);
    }

    #[test]
    fn a_clock_that_was_put_back_makes_nobody_wait_longer() {
        let user = User { wrong_codes: FREE_CODES, wrong_code_s: NOW, ..User::default() };
        assert_eq!(user.code_wait(NOW - 86_400), CODE_WAIT_MIN);
        assert_eq!(user.code_wait(NOW + 30), Duration::ZERO);
    }

    #[test]
    fn c13_neither_the_key_nor_the_hash_is_printed() {
        let key = totp::key();
        let password = Secret::new(password::hash(&Secret::new("correct horse".to_owned())).unwrap());
        let user = User {
            password: Some(password.clone()),
            totp: Some(Authenticator { key: key.clone(), last_step: 0 }),
            ..User::default()
        };
        let printed = format!("{user:?}");
        assert!(!printed.contains(key.reveal()) && !printed.contains(password.reveal()), "{printed}");
    }
}
