//! One way to lay out a configuration. Only layout changes: what was written, its order and its comments stay.

use taplo::formatter::{Options, format_syntax};
use taplo::parser::{self, Parse};
use taplo::rowan::WalkEvent;
use taplo::syntax::SyntaxKind;

use super::diagnostics::{At, Diagnostics, Report};

/// Lists that would reach beyond this column are written one entry a line.
const COLUMNS: usize = 100;

/// The text in the common layout; the same text when it has it already. Applying it twice changes nothing more.
///
/// # Errors
///
/// The text is not TOML, as a whole or to the formatter. `name` stands for the file's path in the diagnostics.
pub fn format(name: &str, text: &str) -> Result<String, Diagnostics> {
    let mut report = Report::default();
    let file = report.sources.add(name.to_owned(), text.to_owned());
    // First with the parser of everything else, which bounds how deep brackets nest; the formatter's own does not.
    if super::parse_table(file, text, &mut report).is_none() {
        return Err(report.into_diagnostics());
    }
    let parsed = parser::parse(text);
    for error in &parsed.errors {
        let at = At { file, start: error.range.start().into(), end: error.range.end().into() };
        let message = format!("not in the TOML 1.0 that can be laid out: {}", error.message);
        report.error(at, message);
    }
    if !parsed.errors.is_empty() {
        return Err(report.into_diagnostics());
    }
    let comments = comments(&parsed);
    let mut formatted = lay_out(parsed);
    // Lists that one pass breaks are indented by the next.
    for _ in 0..4 {
        let again = lay_out(parser::parse(&formatted));
        if again == formatted {
            break;
        }
        formatted = again;
    }
    // The formatter is not ours, and what it writes replaces a firewall's policy.
    if !means_the_same(text, &formatted) || self::comments(&parser::parse(&formatted)) != comments {
        let at = At { file, start: 0, end: 0 };
        report.error(
            at,
            "laying the file out would change it, so it stays as it is: a fault, please report it",
        );
        return Err(report.into_diagnostics());
    }
    Ok(formatted)
}

fn lay_out(parsed: Parse) -> String {
    let options = Options {
        align_comments: false,
        array_auto_collapse: false,
        inline_table_expand: false,
        allowed_blank_lines: 1,
        column_width: COLUMNS,
        ..Options::default()
    };
    format_syntax(parsed.into_syntax(), options)
}

/// The comments in their order, without the white space at their ends.
fn comments(parsed: &Parse) -> Vec<String> {
    let tokens = parsed.clone().into_syntax().preorder_with_tokens().filter_map(|event| match event {
        WalkEvent::Enter(element) => element.into_token(),
        WalkEvent::Leave(_) => None,
    });
    let comments = tokens.filter(|token| token.kind() == SyntaxKind::COMMENT);
    comments.map(|comment| comment.text().trim_end().to_owned()).collect()
}

fn means_the_same(before: &str, after: &str) -> bool {
    let values = |text: &str| text.parse::<toml::Table>().ok();
    values(before).is_some_and(|before| values(after).is_some_and(|after| before == after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::format;

    fn laid_out(text: &str) -> String {
        format("test", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn layout_changes_and_nothing_else() {
        let text = "version=1 # first\n\n\n\n\n# of the rule\n[[rule]]\nname='b'\nfrom=[\"a\",\n  \"b\" , # why\n]\n\
                    require={risk_below=50,mfa_max_age=\"1h\"}";
        let expected = "version = 1 # first\n\n# of the rule\n[[rule]]\nname = 'b'\nfrom = [\n  \"a\",\n  \"b\", # why\n]\n\
                        require = { risk_below = 50, mfa_max_age = \"1h\" }\n";
        assert_eq!(laid_out(text), expected);
        assert_eq!(laid_out(expected), expected);
        assert_eq!(laid_out(""), "\n");
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_place() {
        let error = format("f.toml", "a = 1\nb = = 2\n").unwrap_err().to_string();
        assert!(error.contains("f.toml:2:5"), "{error}");
        let deep = format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(format("f.toml", &deep).is_err());
        // TOML 1.1, which the gateway reads and the formatter does not.
        let error = format("f.toml", "a = {\n b = 1 }\n").unwrap_err().to_string();
        assert!(error.contains("TOML 1.0 that can be laid out") && error.contains("f.toml:1:6"), "{error}");
    }

    /// Lines of configurations, with every odd spacing and comment that fits between.
    fn line() -> impl Strategy<Value = String> {
        let space = || prop_oneof![Just(""), Just(" "), Just("\t  ")];
        let scalar = prop_oneof![
            "\"[a-z# =\\[]{0,8}\"".prop_map(String::from),
            "[1-9][0-9]{0,4}".prop_map(String::from),
            Just("2027-01-31T00:00:00Z".to_owned()),
            Just("'''a\n  b'''".to_owned()),
        ];
        let list = (prop::collection::vec(scalar.clone(), 0..30), space(), any::<bool>()).prop_map(
            |(items, space, broken)| {
                let separator = if broken { format!("{space},# c\n{space}") } else { format!(",{space}") };
                format!("[{space}{}{space}]", items.join(&separator))
            },
        );
        let table = scalar.clone().prop_map(|value| format!("{{a={value},b = 2 }}"));
        let value = prop_oneof![scalar, list, table];
        (any::<u32>(), space(), value, space(), prop_oneof![Just(""), Just("# said"), Just("\n\n\n# alone")])
            .prop_map(|(key, before, value, after, comment)| {
                format!("{before}k{key}{before}={after}{value}{after}{comment}\n")
            })
    }

    proptest! {
        #[test]
        fn laying_out_twice_changes_nothing_more_and_no_file_is_refused(
            lines in prop::collection::btree_set(line(), 0..12),
        ) {
            let text: String = lines.into_iter().collect();
            prop_assume!(text.parse::<toml::Table>().is_ok());
            let once = format("test", &text);
            prop_assert!(once.is_ok(), "{}\n{}", text, once.unwrap_err());
            let once = once.unwrap();
            prop_assert_eq!(&format("test", &once).unwrap(), &once);
        }
    }
}
