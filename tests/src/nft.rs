//! The gateway that others would build: the kernel forwards, and nftables follows connections.

use std::io::Write;
use std::process::{Command, Stdio};

use bulkhead::lab::{Lab, Zone};

use crate::is_skipped;
use crate::peer::Peer;

/// Whether the calling test can have no such gateway here; says so on the terminal, past the test runner's capture.
pub fn is_missing() -> bool {
    if is_skipped() {
        return true;
    }
    let mut nft = Command::new("nft");
    let nft = nft.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if nft.status().is_ok_and(|status| status.success()) {
        return false;
    }
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "SKIP {}: nft is not installed", thread.name().unwrap_or("a test"));
    true
}

/// A kernel between zones that forwards what its ruleset lets through, and a peer in each zone. Addresses, also those
/// of Ethernet, are the same as those of a [`crate::scene::Scene`] of the same zones, so both take the same frames.
pub struct Kernel {
    lab: Lab,
    zones: Vec<Zone>,
    peers: Vec<Peer>,
}

impl Kernel {
    /// A ruleset as it is usually written: invalid dropped, established and related accepted, of new connections
    /// those of `rules`, and nothing else. Each rule is an nftables expression that ends before its verdict. Settings
    /// are the kernel's defaults, but for the source check by routes, which is off.
    ///
    /// # Panics
    /// Panics when it cannot be had; see [`is_missing`].
    pub fn start(zones: Vec<Zone>, rules: &[&str]) -> Kernel {
        let rules: String = rules.iter().map(|rule| format!("  ct state new {rule} accept\n")).collect();
        let ruleset = format!(
            "table inet gateway {{\n chain forward {{\n  type filter hook forward priority filter; policy drop;\n  \
             ct state invalid drop\n  ct state established,related accept\n{rules} }}\n}}\n"
        );
        Kernel::with_ruleset(zones, &ruleset)
    }

    /// As [`Kernel::start`], with any ruleset.
    ///
    /// # Panics
    /// Panics when it cannot be had; see [`is_missing`].
    pub fn with_ruleset(zones: Vec<Zone>, ruleset: &str) -> Kernel {
        let lab = Lab::new(&zones).expect("a laboratory");
        let peers = zones.iter().map(|zone| Peer::new(&lab, zone)).collect();
        let kernel = Kernel { lab, zones, peers };
        kernel.nft(ruleset);
        kernel.lab.set_kernel_forwarding(true).expect("the kernel forwards");
        kernel
    }

    /// The laboratory, for more routes and neighbours.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    fn nft(&self, script: &str) {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.lab.gateway.run(|| command.spawn()).expect("nft starts");
        let mut input = child.stdin.take().expect("it was piped");
        input.write_all(script.as_bytes()).expect("nft reads the ruleset");
        drop(input);
        let output = child.wait_with_output().expect("it can be waited for");
        assert!(output.status.success(), "{}in\n{script}", String::from_utf8_lossy(&output.stderr));
    }

    /// Whether a connection may begin in its middle (`nf_conntrack_tcp_loose`), as it may by default.
    pub fn set_loose(&self, loose: bool) {
        let value = if loose { "1" } else { "0" };
        self.lab.gateway.set_sysctl("net.netfilter.nf_conntrack_tcp_loose", value).expect("it is set");
    }

    /// The raw machine in a zone.
    ///
    /// # Panics
    /// Panics when there is no such zone.
    pub fn peer(&self, zone: &str) -> &Peer {
        let index = self.zones.iter().position(|z| z.name == zone).expect("a zone of this name");
        &self.peers[index]
    }
}
