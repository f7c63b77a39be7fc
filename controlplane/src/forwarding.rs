//! Whether the kernel itself forwards packets, around the gateway.
//!
//! The gateway is closed by default only while the kernel does not route between its ports. Everything here is about
//! the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the settings of the reader's own network namespace appear.
const ROOT: &str = "/proc/sys/net";

/// A setting that lets the kernel forward, named as `sysctl` knows it.
struct Knob {
    name: String,
    path: PathBuf,
}

/// The settings by which the kernel forwards now, named as `sysctl` knows them, the general ones first; empty when it
/// does not forward.
///
/// For IPv4 each interface has its own switch and `net.ipv4.ip_forward` sets them all; for IPv6
/// `net.ipv6.conf.all.forwarding` decides, or, since Linux 6.17, `force_forwarding` of an interface. The `forwarding`
/// of a single IPv6 interface makes it only behave as a router towards its link; it counts too, for who sets it means
/// to forward. `default` counts because interfaces made later would forward.
pub fn enabled() -> io::Result<Vec<String>> {
    Ok(active(Path::new(ROOT))?.into_iter().map(|knob| knob.name).collect())
}

/// Turns kernel forwarding off; returns the settings that were on. The general settings take their interfaces along.
pub fn disable() -> io::Result<Vec<String>> {
    let before = active(Path::new(ROOT))?;
    for knob in &before {
        match fs::write(&knob.path, "0") {
            // The interface is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("turning off {}: {error}", knob.name)));
            }
            Ok(()) => {}
        }
    }
    let after = enabled()?;
    if !after.is_empty() {
        let message = format!("kernel forwarding was turned on again meanwhile: {}", after.join(", "));
        return Err(io::Error::other(message));
    }
    Ok(before.into_iter().map(|knob| knob.name).collect())
}

/// Has the kernel believe neither router advertisements nor redirects that come by this interface, nor IPv4 sources
/// that do not lie behind it.
///
/// Neighbour discovery goes to the kernel, and one that does not forward takes itself for a host: any neighbour could
/// give it, and so the gateway, a route. IPv4 redirects do not reach the kernel.
///
/// Local services are answered by the kernel: without the strict reverse-path filter (RFC 3704, section 2.2) a ping to
/// the gateway in the name of a host behind another port would have its contents delivered there, past every rule.
/// The kernel takes the larger of this setting and `all`, so `net.ipv4.conf.all.rp_filter=2` makes it loose again.
/// IPv6 has no such setting. The steering program checks both families' sources by the policy; this is a second belt.
pub fn distrust(interface: &str) -> io::Result<()> {
    for (family, setting, value) in
        [("ipv4", "rp_filter", "1"), ("ipv6", "accept_ra", "0"), ("ipv6", "accept_redirects", "0")]
    {
        match fs::write(Path::new(ROOT).join(family).join("conf").join(interface).join(setting), value) {
            // Without IPv6 there is no such setting; a missing interface is told elsewhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let name = format!("net.{family}.conf.{}.{setting}", interface.replace('.', "/"));
                return Err(io::Error::new(error.kind(), format!("setting {name} to {value}: {error}")));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The command that turns these settings off. Those of single interfaces are left out where a general one takes them
/// along.
pub fn command(enabled: &[String]) -> String {
    let general = |name: &str| enabled.iter().any(|other| other == name);
    let covered = |name: &str| {
        let single = |family: &str| name.starts_with(family) && name.ends_with(".forwarding");
        (general("net.ipv4.ip_forward") && single("net.ipv4.conf."))
            || (general("net.ipv6.conf.all.forwarding")
                && name != "net.ipv6.conf.all.forwarding"
                && single("net.ipv6.conf."))
    };
    let settings = enabled.iter().filter(|name| !covered(name)).map(|name| format!(" {name}=0"));
    format!("sysctl -w{}", settings.collect::<String>())
}

fn active(root: &Path) -> io::Result<Vec<Knob>> {
    let mut active = Vec::new();
    let mut check = |name: String, path: PathBuf| -> io::Result<()> {
        if is_on(&path)? {
            active.push(Knob { name, path });
        }
        Ok(())
    };
    check("net.ipv4.ip_forward".to_owned(), root.join("ipv4/ip_forward"))?;
    for (family, settings) in [("ipv4", &["forwarding"][..]), ("ipv6", &["forwarding", "force_forwarding"])] {
        let conf = root.join(family).join("conf");
        for interface in interfaces(&conf)? {
            for setting in settings {
                // sysctl swaps dots and slashes in a part that has dots itself, such as eth0.10.
                let part = interface.replace('.', "/");
                let name = format!("net.{family}.conf.{part}.{setting}");
                check(name, conf.join(&interface).join(setting))?;
            }
        }
    }
    Ok(active)
}

/// The directory's interfaces, `all` first, because writing to it takes the others along. Empty where the kernel
/// lacks the family.
fn interfaces(conf: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(conf) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable_by(|a, b| (a != "all", a).cmp(&(b != "all", b)));
    Ok(names)
}

/// A setting that does not exist, for a kernel too old or an interface just gone, is off. One that cannot be read is
/// an error: not knowing must not count as closed.
fn is_on(path: &Path) -> io::Result<bool> {
    match fs::read_to_string(path) {
        Ok(value) => Ok(value.trim() != "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("reading {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{self, Namespace, VethOptions};

    #[test]
    fn a_distrusted_interface_takes_neither_routes_nor_foreign_sources_from_its_neighbours() {
        if !lab::available() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let space = Namespace::new("distrust").unwrap();
        Namespace::veth((&space, "a.1"), (&space, "b"), &VethOptions::default()).unwrap();
        for setting in ["accept_ra", "accept_redirects"] {
            for interface in ["a.1", "b"] {
                space.set_sysctl(&format!("net/ipv6/conf/{interface}/{setting}"), "1").unwrap();
            }
        }
        for interface in ["a.1", "b"] {
            space.set_sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0").unwrap();
        }
        space.run(|| distrust("a.1")).unwrap();
        assert_eq!(space.sysctl("net/ipv4/conf/a.1/rp_filter").unwrap(), "1");
        assert_eq!(space.sysctl("net/ipv4/conf/b/rp_filter").unwrap(), "0");
        for setting in ["accept_ra", "accept_redirects"] {
            assert_eq!(space.sysctl(&format!("net/ipv6/conf/a.1/{setting}")).unwrap(), "0");
            assert_eq!(space.sysctl(&format!("net/ipv6/conf/b/{setting}")).unwrap(), "1");
        }
        space.run(|| distrust("nowhere")).unwrap();
    }

    #[test]
    fn every_way_to_make_the_kernel_forward_is_found_and_turned_off() {
        if !lab::available() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let space = Namespace::new("forwarding").unwrap();
        Namespace::veth((&space, "a.1"), (&space, "b"), &VethOptions::default()).unwrap();
        let none: Vec<String> = Vec::new();
        assert_eq!(space.run(enabled).unwrap(), none);
        assert_eq!(space.run(disable).unwrap(), none);
        let mut settings = vec![
            ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
            ("net/ipv4/conf/a.1/forwarding", "net.ipv4.conf.a/1.forwarding"),
            ("net/ipv4/conf/default/forwarding", "net.ipv4.conf.default.forwarding"),
            ("net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
            ("net/ipv6/conf/b/forwarding", "net.ipv6.conf.b.forwarding"),
        ];
        if space.sysctl("net/ipv6/conf/b/force_forwarding").is_ok() {
            settings.push(("net/ipv6/conf/b/force_forwarding", "net.ipv6.conf.b.force_forwarding"));
        }
        for (path, name) in settings {
            space.set_sysctl(path, "1").unwrap();
            let found = space.run(enabled).unwrap();
            assert!(found.iter().any(|found| found == name), "{name}: {found:?}");
            assert_eq!(space.run(disable).unwrap(), found);
            assert_eq!(space.run(enabled).unwrap(), none);
            assert_eq!(space.sysctl(path).unwrap(), "0");
        }
    }

    #[test]
    fn the_command_names_only_what_no_general_setting_takes_along() {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let all = names(&[
            "net.ipv4.ip_forward",
            "net.ipv4.conf.eth0.forwarding",
            "net.ipv6.conf.eth0.forwarding",
            "net.ipv6.conf.eth0.force_forwarding",
        ]);
        assert_eq!(
            command(&all),
            "sysctl -w net.ipv4.ip_forward=0 net.ipv6.conf.eth0.forwarding=0 net.ipv6.conf.eth0.force_forwarding=0"
        );
        let general = names(&["net.ipv6.conf.all.forwarding", "net.ipv6.conf.lo.forwarding"]);
        assert_eq!(command(&general), "sysctl -w net.ipv6.conf.all.forwarding=0");
    }

    #[test]
    fn a_setting_that_cannot_be_read_is_an_error_and_not_off() {
        assert!(!is_on(Path::new("/proc/sys/net/ipv4/no_such_setting")).unwrap());
        assert!(is_on(Path::new("/proc/sys/net/ipv4")).is_err());
    }
}
