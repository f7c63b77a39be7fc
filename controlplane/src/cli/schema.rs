//! `bulkhead schema`: the language, for editors.

use clap::Args;

use super::{Exit, say_json};
use crate::config::json_schema::json_schema;

/// Print the JSON Schema of configurations, with which editors complete and check them
///
/// Editors that read TOML with schemas (Even Better TOML, taplo, JetBrains) take it by a comment in the first line of
/// a configuration: `#:schema ./bulkhead.schema.json`.
#[derive(Args)]
#[command(after_help = "Example:\n  bulkhead schema > /etc/bulkhead/bulkhead.schema.json")]
pub struct SchemaArgs {}

impl SchemaArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        say_json(&json_schema());
        Ok(Exit::Ok)
    }
}
