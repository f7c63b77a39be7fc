//! `bulkhead import nft|pf FILE`: a ruleset of another firewall as a policy.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::{Exit, Format, complain, files};
use crate::config::values;
use crate::import::{BYTES_LIMIT, Language, Options, import, report};

/// Turn a ruleset of nftables or pf into a policy
///
/// Writes a configuration that decides as the ruleset does, and lists what could not be expressed, what the ruleset
/// does not say, and what the gateway does by itself. What cannot be expressed is refused rather than let through.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 the policy decides as the ruleset, 1 error, 2 not everything could be expressed\n\n\
    Examples:\n  \
    nft list ruleset > rules.nft && bulkhead import nft rules.nft -o bulkhead.toml\n  \
    bulkhead import nft rules.nft --interface eth1=10.1.0.0/24,fd00:1::/64 --interface eth0=0.0.0.0/0,::/0\n  \
    bulkhead import pf /etc/pf.conf --interface em1=192.168.1.0/24\n  \
    bulkhead import nft rules.nft --report json -o bulkhead.toml 2> report.json"
)]
pub struct ImportArgs {
    #[command(subcommand)]
    language: From,
}

#[derive(Subcommand)]
enum From {
    /// What `nft list ruleset` prints, or a file that `nft -f` reads
    Nft(FileArgs),
    /// A pf.conf of OpenBSD or FreeBSD, or what `pfctl -sr` prints
    Pf(FileArgs),
}

#[derive(Args)]
struct FileArgs {
    /// The ruleset
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to write the policy instead of standard output
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Networks behind an interface, where the ruleset does not say it
    #[arg(long = "interface", value_name = "NAME=NETWORK,…")]
    interfaces: Vec<String>,
    /// Form of the report on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    report: Format,
}

impl ImportArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self.language {
            From::Nft(args) => args.run(Language::Nft),
            From::Pf(args) => args.run(Language::Pf),
        }
    }
}

impl FileArgs {
    fn run(self, language: Language) -> anyhow::Result<Exit> {
        let interfaces = self.interfaces.iter().map(|text| interface(text)).collect::<anyhow::Result<_>>()?;
        let text = read(&self.file)?;
        let name = self.file.display().to_string();
        let imported = match import(language, &name, &text, &Options { interfaces }) {
            Ok(imported) => imported,
            Err(errors) => {
                match self.report {
                    Format::Text => complain(&errors.to_string()),
                    Format::Json => {
                        let json = serde_json::json!({ "errors": errors.to_json(), "error_count": errors.list().len() });
                        complain(&format!("{json:#}"));
                    }
                }
                return Ok(Exit::Error);
            }
        };
        match &self.output {
            Some(path) => files::replace(path, imported.toml.as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?,
            None => {
                let _ = std::io::stdout().write_all(imported.toml.as_bytes());
            }
        }
        match self.report {
            Format::Text => complain(&report::text(&imported.findings, &imported.sources)),
            Format::Json => {
                complain(&format!("{:#}", report::to_json(&imported.findings, &imported.sources)));
            }
        }
        let is_exact = !imported.findings.iter().any(|finding| finding.effect.is_difference());
        Ok(if is_exact { Exit::Ok } else { Exit::Differences })
    }
}

/// `eth1=10.1.0.0/24,fd00:1::/64`.
fn interface(text: &str) -> anyhow::Result<(String, Vec<IpNet>)> {
    let Some((name, networks)) = text.split_once('=') else {
        bail!("--interface {text}: write NAME=NETWORK,NETWORK such as eth1=10.1.0.0/24");
    };
    let wrong = |wrong: values::Wrong| anyhow::anyhow!("--interface {text}: {wrong}");
    values::interface(name).map_err(wrong)?;
    let networks = networks.split(',').map(|network| values::network(network.trim()).map_err(wrong));
    Ok((name.to_owned(), networks.collect::<anyhow::Result<_>>()?))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(BYTES_LIMIT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > BYTES_LIMIT {
        bail!("{} is too large: a ruleset may have {} MiB", path.display(), BYTES_LIMIT >> 20);
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8 text", path.display()))
}
