//! The tests of a policy as JUnit XML, which build servers read.

use std::fmt::Write;

use crate::config::Diagnostics;
use crate::model::{Model, TestResult};

/// One `<testcase>`: its name, its file and line, and what went wrong.
struct Case<'c> {
    name: &'c str,
    file: &'c str,
    line: usize,
    /// The element and the text of a failure (`failure`, `error`).
    wrong: Option<(&'static str, &'c str)>,
}

/// The results of a file's tests, which took so many seconds.
pub fn of_tests(file: &str, model: &Model, results: &[TestResult<'_>], seconds: f64) -> String {
    let cases: Vec<Case<'_>> = results
        .iter()
        .map(|result| {
            let (file, line, _) = model.sources.position(result.test.at);
            let wrong = result.failure.as_deref().map(|failure| ("failure", failure));
            Case { name: &result.test.name, file, line, wrong }
        })
        .collect();
    document(file, &cases, seconds)
}

/// A configuration whose tests could not be run: one case for each error.
pub fn of_errors(file: &str, errors: &Diagnostics) -> String {
    let sources = errors.sources();
    let cases: Vec<Case<'_>> = errors
        .list()
        .iter()
        .map(|error| {
            let (file, line) = error.at.map_or((file, 1), |at| {
                let (file, line, _) = sources.position(at);
                (file, line)
            });
            Case { name: "configuration", file, line, wrong: Some(("error", &error.message)) }
        })
        .collect();
    document(file, &cases, 0.0)
}

/// A configuration that cannot be compiled.
pub fn of_error(file: &str, message: &str) -> String {
    document(file, &[Case { name: "configuration", file, line: 1, wrong: Some(("error", message)) }], 0.0)
}

fn document(suite: &str, cases: &[Case<'_>], seconds: f64) -> String {
    let count =
        |kind| cases.iter().filter(|case| case.wrong.is_some_and(|(element, _)| element == kind)).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{seconds:.3}\"",
        cases.len(),
        count("failure"),
        count("error")
    );
    let suite = escaped(suite);
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  <testsuite name=\"{suite}\" {counts}>\n"
    );
    for Case { name, file, line, wrong } in cases {
        // Writing to a string cannot fail.
        let _ = write!(
            xml,
            "    <testcase name=\"{}\" classname=\"{suite}\" file=\"{}\" line=\"{line}\" time=\"0.000\"",
            escaped(name),
            escaped(file)
        );
        match wrong {
            None => xml += "/>\n",
            Some((element, text)) => {
                let text = escaped(text);
                let _ = write!(
                    xml,
                    ">\n      <{element} message=\"{text}\" type=\"policy\">{}:{line}: {text}</{element}>\n    </testcase>\n",
                    escaped(file)
                );
            }
        }
    }
    xml + "  </testsuite>\n</testsuites>\n"
}

/// The text within XML 1.0: markup escaped, line breaks kept within attributes, and in place of what XML cannot hold
/// the replacement character.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&apos;",
            '\t' => escaped += "&#9;",
            '\n' => escaped += "&#10;",
            '\r' => escaped += "&#13;",
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_escaped_or_replaced() {
        assert_eq!(escaped("a<b> & \"c\"\n\u{1}'é"), "a&lt;b&gt; &amp; &quot;c&quot;&#10;\u{fffd}&apos;é");
    }

    #[test]
    fn a_suite_counts_its_failures_and_names_file_and_line() {
        let cases = [
            Case { name: "good", file: "a&b.toml", line: 3, wrong: None },
            Case { name: "bad", file: "a&b.toml", line: 9, wrong: Some(("failure", "got <deny>")) },
        ];
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites tests=\"2\" failures=\"1\" errors=\"0\" time=\"0.250\">
  <testsuite name=\"a&amp;b.toml\" tests=\"2\" failures=\"1\" errors=\"0\" time=\"0.250\">
    <testcase name=\"good\" classname=\"a&amp;b.toml\" file=\"a&amp;b.toml\" line=\"3\" time=\"0.000\"/>
    <testcase name=\"bad\" classname=\"a&amp;b.toml\" file=\"a&amp;b.toml\" line=\"9\" time=\"0.000\">
      <failure message=\"got &lt;deny&gt;\" type=\"policy\">a&amp;b.toml:9: got &lt;deny&gt;</failure>
    </testcase>
  </testsuite>
</testsuites>
";
        assert_eq!(document("a&b.toml", &cases, 0.25), expected);
    }
}
