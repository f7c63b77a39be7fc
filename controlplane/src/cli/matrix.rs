//! `bulkhead matrix [FILE]`: who may open connections to whom?

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, unexpected};
use super::{Exit, Format, OutputArgs, complain, files, say, say_json};
use crate::api::{Reply, Request};
use crate::config::diagnostics::nearest;
use crate::matrix::{Matrix, dot, html, text};
use crate::model;

/// Show which segments may open connections to which, and for what
///
/// Of the policy in force, or of a file. In the table a letter stands for a set of services; a question mark behind a
/// service says that it depends on who asks, or when.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead matrix bulkhead.toml\n  \
    bulkhead matrix --from office --html matrix.html bulkhead.toml\n  \
    bulkhead matrix --dot | dot -Tsvg > matrix.svg\n  \
    bulkhead matrix -o json | jq '.cells | length'")]
pub struct MatrixArgs {
    /// The configuration; the one in force without
    #[arg(value_name = "FILE", conflicts_with = "control")]
    file: Option<PathBuf>,
    /// Only connections from this segment; may be given several times
    #[arg(long, value_name = "SEGMENT")]
    from: Vec<String>,
    /// Only connections to this segment; may be given several times
    #[arg(long, value_name = "SEGMENT")]
    to: Vec<String>,
    /// Write a graph for Graphviz
    #[arg(long, conflicts_with = "html")]
    dot: bool,
    /// Write a page to this file: it can be searched and clicked, and needs nothing else
    #[arg(long, value_name = "PAGE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl MatrixArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let matrix = match &self.file {
            Some(file) => match model::load(file) {
                Ok(model) => Matrix::of(&model)?,
                Err(errors) => {
                    complain(&errors.to_string());
                    return Ok(Exit::Error);
                }
            },
            None => match self.control.ask_one(&Request::Matrix, "asking")? {
                Ok(Reply::Matrix(matrix)) => *matrix,
                Ok(reply) => return Err(unexpected(&reply)),
                Err(exit) => return Ok(exit),
            },
        };
        let mut named = self.from.iter().chain(&self.to);
        if let Some(name) = named.find(|name| !matrix.segments.contains(name)) {
            let hint = nearest(name, matrix.segments.iter().map(String::as_str));
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            bail!("there is no segment `{}`{hint}", name.escape_debug());
        }
        let matrix = matrix.narrowed(&self.from, &self.to);
        match (&self.html, self.output.output) {
            (Some(file), _) => write_page(&matrix, file)?,
            (None, _) if self.dot => say(&dot::graph(&matrix)),
            (None, Format::Json) => say_json(&json!(matrix)),
            (None, Format::Text) => say(&text::tell(&matrix)),
        }
        Ok(Exit::Ok)
    }
}

fn write_page(matrix: &Matrix, file: &Path) -> anyhow::Result<()> {
    let Some(page) = html::page(matrix) else {
        bail!("a page can hold {} pairs of segments; choose some with --from and --to", html::MAX_CELLS);
    };
    files::replace(file, page.as_bytes()).with_context(|| format!("cannot write {}", file.display()))
}
