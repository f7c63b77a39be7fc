//! What the gateway says by itself. Whoever started it may have closed its standard output or error: no reason to end.

use std::io::Write;

/// A line on standard output.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line on standard error.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
