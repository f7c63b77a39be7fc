//! The provider's process.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use bulkhead::identity::oidc::settings::Settings;
use bulkhead::lab::Namespace;
use bulkhead::tokens::claims::Trusted;

use crate::browser::Browser;

/// Where browsers come back to.
pub const BACK: &str = "https://access.example/oidc/callback";

/// A provider that runs until it is dropped.
pub struct Provider {
    pub issuer: String,
    port: u16,
    directory: PathBuf,
    modules: PathBuf,
    in_userinfo: bool,
    child: Child,
}

fn skip(why: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    // Past the test runner's capture.
    let _ = writeln!(std::io::stderr(), "SKIP {name}: {why}");
}

fn modules() -> Option<PathBuf> {
    let named = std::env::var_os("BULKHEAD_NODE_MODULES").map(PathBuf::from);
    let cached = || {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(cache.join("bulkhead/node_modules"))
    };
    named.or_else(cached).filter(|directory| directory.join("oidc-provider").is_dir())
}

impl Provider {
    /// Starts one whose key has this id; nothing when it cannot run here.
    pub fn start(kid: &str, in_userinfo: bool) -> Option<Provider> {
        Provider::start_in(None, kid, in_userinfo, BACK)
    }

    /// As [`Provider::start`], on the loopback of a namespace, for a portal that browsers come back to there.
    pub fn start_in(
        namespace: Option<&Namespace>,
        kid: &str,
        in_userinfo: bool,
        back: &str,
    ) -> Option<Provider> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(modules) = modules() else {
            skip("the npm package oidc-provider is not installed (.ci/run does that)");
            return None;
        };
        if Command::new("node").arg("--version").output().is_err() {
            skip("node is not installed");
            return None;
        }
        let name = format!("bulkhead-idp-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(directory.join("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        // Free now, and nobody else here binds ports of this range in order.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let start = || run(&modules, &directory, port, kid, in_userinfo, back);
        let child = namespace.map_or_else(start, |namespace| namespace.run(start));
        let issuer = format!("https://localhost:{port}");
        let provider = Provider { issuer, port, directory, modules, in_userinfo, child };
        provider.write_secret("a secret: with + and %");
        Some(provider)
    }

    /// The same one with another key.
    pub fn restart(mut self, kid: &str) -> Provider {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = run(&self.modules, &self.directory, self.port, kid, self.in_userinfo, BACK);
        self
    }

    /// What a gateway would be told of it.
    pub fn settings(&self) -> Settings {
        Settings {
            name: "corp".to_owned(),
            label: "Corporate".to_owned(),
            issuer: self.issuer.clone(),
            client_id: "bulkhead".to_owned(),
            client_secret_file: Some(self.directory.join("secret")),
            scopes: ["openid", "email", "groups"].map(str::to_owned).to_vec(),
            user: "email".to_owned(),
            groups: Some("realm_access.roles".to_owned()),
            ca_file: Some(self.directory.join("ca.pem")),
            max_age_s: Some(3600),
            step_up_acr: vec!["phr".to_owned()],
            device_code: true,
            trusted: Trusted::default(),
        }
    }

    pub fn write_secret(&self, secret: &str) {
        let path = self.directory.join("secret");
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Somebody who signs in there as this user with this password.
    pub fn browser(&self, login: &str, password: &str) -> Browser {
        Browser::new(&self.directory.join("ca.pem"), login, password)
    }
}

fn run(modules: &Path, directory: &Path, port: u16, kid: &str, in_userinfo: bool, back: &str) -> Child {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oidc/provider.mjs");
    let mut child = Command::new("node")
        .arg(script)
        .arg(modules)
        .arg(port.to_string())
        .args([directory.join("ca.pem"), directory.join("key.pem")])
        .args([back, kid])
        .env("CLAIMS_IN", if in_userinfo { "userinfo" } else { "token" })
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    while line.trim_end() != "ready" {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the provider did not start");
    }
    child
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
