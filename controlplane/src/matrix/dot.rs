//! The matrix for Graphviz.

use std::fmt::Write;

use super::{Matrix, text};

/// A string as Graphviz quotes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " "))
}

/// A directed graph: segments, and an edge for each pair between which something may cross.
pub fn graph(matrix: &Matrix) -> String {
    let mut out = String::from("digraph bulkhead {\n  rankdir=LR;\n  node [shape=box];\n");
    let write = "writing to a string cannot fail";
    for segment in &matrix.segments {
        writeln!(out, "  {};", quoted(segment)).expect(write);
    }
    for cell in &matrix.cells {
        let treated = &matrix.treatments[cell.treatment as usize];
        let style = if treated.iter().all(|treated| treated.conditional) { ", style=dashed" } else { "" };
        let ends = [cell.from, cell.to].map(|index| quoted(&matrix.segments[index as usize]));
        let label = quoted(&text::services(treated));
        writeln!(out, "  {} -> {} [label={label}{style}];", ends[0], ends[1]).expect(write);
    }
    out + "}"
}
