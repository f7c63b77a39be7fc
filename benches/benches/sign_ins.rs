//! How many sign-ins and other granting acts fit into a second, in about half a minute:
//! `cargo bench -p bulkhead-benches --bench sign_ins`.
//!
//! A granting act waits until its record in the audit log is on the disk. Records of several threads go there together; held
//! beside it, in rounds that alternate, is one after the other. A sign-in is a password (argon2id), a code that is taken
//! once (redb), and a record. All on the disk of the directory for temporary files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead::audit::{By, Entry, Journal, Kind, verify};
use bulkhead::identity::book::{Authenticator, Book, User};
use bulkhead::identity::{password, totp};
use bulkhead::portal::wire::Secret;
use bulkhead::store::Files;
use bulkhead_benches::clock::at;

const THREADS: [usize; 3] = [1, 4, 32];
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(700);
/// Each signs in once: a code is taken once.
const USERS: usize = 400;
const PASSWORD: &str = "correct horse battery staple";

fn main() {
    let directory = Directory::new();
    let journal = Journal::default();
    journal.open(Arc::new(Files), &directory.0).expect("the directory can be written");
    println!("Acts that are recorded a second, medians of {ROUNDS} alternating rounds:\n");
    println!("| threads | one after the other | together | together is × |\n|---:|---:|---:|---:|");
    for threads in THREADS {
        let alone = Mutex::new(());
        let one = || {
            let _turn = alone.lock().expect("nobody panics");
            journal.record(entry()).expect("there is room on the disk");
        };
        let together = || journal.record(entry()).expect("there is room on the disk");
        let (mut before, mut after, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            before.push(rate(threads, one));
            after.push(rate(threads, together));
            ratios.push(after[after.len() - 1] / before[before.len() - 1]);
        }
        println!(
            "| {threads} | {:.0} | {:.0} | {:.1} |",
            at(&mut before, 0.5),
            at(&mut after, 0.5),
            at(&mut ratios, 0.5)
        );
    }
    let verified = verify(&directory.0, &[journal.head()], false).expect("it can be read");
    println!("\n{} records, {} breaks of the chain", verified.records, verified.breaks.len());

    let hash = password::hash(&secret()).expect("it is a password");
    let parameters = hash.split('$').nth(3).expect("a PHC string").to_owned();
    for threads in [1, 2] {
        let passwords = rate(threads, || assert!(password::is_right(&secret(), Some(&hash))));
        println!("Passwords (argon2id, {parameters}) by {threads} thread(s): {passwords:.0} a second");
    }
    let book = Book::open(&directory.0).expect("the directory can be written");
    let keys: Vec<Secret> = (0..USERS).map(|number| add(&book, number, &hash)).collect();
    for (number, threads) in [1, 2, 4].into_iter().enumerate() {
        let keys = &keys[number * USERS / 3..(number + 1) * USERS / 3];
        let (next, began) = (AtomicU64::new(0), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                        sign_in(&book, &journal, key);
                    }
                });
            }
        });
        let a_second = keys.len() as f64 / began.elapsed().as_secs_f64();
        println!("Sign-ins with password and code by {threads} thread(s): {a_second:.0} a second");
    }
}

fn secret() -> Secret {
    Secret::new(PASSWORD.to_owned())
}

fn entry() -> Entry {
    Entry::new(Kind::SessionBegun, By::Gateway).with("id", "0123456789").with("user", "alice")
}

/// Adds a user with this password, and returns the key of the authenticator, by which the user is named.
fn add(book: &Book, number: usize, hash: &str) -> Secret {
    let key = totp::key();
    let user = User {
        name: key.reveal().to_owned(),
        groups: vec![format!("team-{}", number % 40)],
        password: Some(Secret::new(hash.to_owned())),
        totp: Some(Authenticator { key: key.clone(), last_step: 0 }),
        ..User::default()
    };
    book.change(key.reveal(), |_| Ok::<_, ()>((Some(user), ())))
        .expect("it can be written")
        .expect("it is new");
    key
}

/// What the gateway does of a sign-in, but for the session.
fn sign_in(book: &Book, journal: &Journal, key: &Secret) {
    let user = book.user(key.reveal()).expect("it can be read").expect("it was added");
    assert!(password::is_right(&secret(), user.password.as_ref().map(Secret::reveal)));
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
    let code = totp::code(key, now_s).expect("it is a key");
    book.take_code(&user.name, &code, now_s).expect("it can be written").expect("it is fresh");
    journal.record(entry()).expect("there is room on the disk");
}

/// How often so many threads can do it in a second.
fn rate(threads: usize, act: impl Fn() + Sync) -> f64 {
    let (over, count, began) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    act();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(ROUND);
        over.store(true, Ordering::Relaxed);
    });
    count.into_inner() as f64 / began.elapsed().as_secs_f64()
}

/// Removed with what is in it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        let path: &Path = &std::env::temp_dir();
        let path = path.join(format!("bulkhead-sign-ins-{}", std::process::id()));
        std::fs::create_dir(&path).expect("the directory for temporary files can be written");
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
