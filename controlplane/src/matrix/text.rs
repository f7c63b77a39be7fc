//! The matrix for a terminal: a letter for each treatment, and what the letters mean.

use super::{Matrix, Treated};

/// Columns of a table before it is cut into several.
const WIDTH: usize = 80;
/// Longest name shown in full.
const NAME: usize = 20;

/// The letters of a treatment: a, b, … z, aa, ab, …
fn letters(number: u32) -> String {
    let last = char::from(b'a' + (number % 26) as u8);
    match (number / 26).checked_sub(1) {
        None => last.to_string(),
        Some(before) => letters(before) + &last.to_string(),
    }
}

/// The services of a treatment, conditions hinted at by a question mark.
pub(super) fn services(treated: &[Treated]) -> String {
    let texts = treated.iter().flat_map(|treated| {
        let mark = if treated.conditional { "?" } else { "" };
        treated.services.iter().map(move |service| format!("{service}{mark}"))
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// The whole text, without a last line break.
pub fn tell(matrix: &Matrix) -> String {
    let (rows, columns) = (matrix.shown(|cell| cell.from), matrix.shown(|cell| cell.to));
    if matrix.cells.is_empty() {
        return "nothing may cross between these segments".to_owned();
    }
    // Letters in the order in which they are read.
    let mut order: Vec<u32> = Vec::new();
    for cell in &matrix.cells {
        if !order.contains(&cell.treatment) {
            order.push(cell.treatment);
        }
    }
    let letter = |treatment: u32| {
        let place = order.iter().position(|known| *known == treatment).unwrap_or_default();
        letters(place as u32)
    };
    let cut = |index: u32| matrix.segments[index as usize].chars().take(NAME).collect::<String>();
    let label = rows.iter().map(|row| cut(*row).chars().count()).max().unwrap_or(0);
    let cell = 1 + letters(order.len() as u32).len().max(columns.len().to_string().len()).max(2);
    let fitting = (WIDTH.saturating_sub(label) / cell).max(1);
    let mut lines = Vec::new();
    for (number, some) in columns.chunks(fitting).enumerate() {
        let numbers = (1 + number * fitting..).take(some.len());
        let head: String = numbers.map(|number| format!("{number:>cell$}")).collect();
        lines.push(format!("{:label$}{head}", ""));
        for row in &rows {
            let cells = some.iter().map(|column| matrix.cell(*row, *column).map_or("·".to_owned(), letter));
            let cells: String = cells.map(|text| format!("{text:>cell$}")).collect();
            lines.push(format!("{:label$}{cells}", cut(*row)));
        }
        lines.push(String::new());
    }
    for (number, column) in columns.iter().enumerate() {
        lines.push(format!("{:>4}  to {}", number + 1, matrix.segments[*column as usize]));
    }
    lines.push(String::new());
    for treatment in &order {
        let services = services(&matrix.treatments[*treatment as usize]);
        lines.push(format!("{:>4}  {services}", letter(*treatment)));
    }
    if matrix.treatments.iter().flatten().any(|treated| treated.conditional) {
        lines.push("   ?  depends on who asks, or when (-o json, --html)".to_owned());
    }
    lines.join("\n")
}
