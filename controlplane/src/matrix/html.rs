//! The matrix as one page: nothing is loaded from elsewhere, and nothing in a name can become markup.

use serde_json::json;

use super::Matrix;

/// The most cells of a page: beyond, a browser takes too long.
pub const MAX_CELLS: usize = 40_000;

const PAGE: &str = include_str!("page.html");

/// The page; `None` when the table would have more than [`MAX_CELLS`] cells.
pub fn page(matrix: &Matrix) -> Option<String> {
    let (rows, columns) = (matrix.shown(|cell| cell.from), matrix.shown(|cell| cell.to));
    if rows.len() * columns.len() > MAX_CELLS {
        return None;
    }
    let data = json!({ "matrix": matrix, "rows": rows, "columns": columns });
    // In a script element only `<` can end it or begin a comment; in JSON it is the same written so.
    let data = data.to_string().replace('<', "\\u003c");
    Some(PAGE.replacen("@DATA@", &data, 1))
}
