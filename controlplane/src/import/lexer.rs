//! Words and signs of a ruleset, with their places. Both languages are cut up here; what differs is said by [`Dialect`].

use crate::config::diagnostics::{At, Report, quoted};

/// The largest ruleset, bytes.
pub const BYTES_LIMIT: u64 = 16 << 20;
/// The most words and signs, those counted that a variable stands for.
pub const TOKENS_LIMIT: usize = 4_000_000;

/// Which language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// nftables: `:` divides, unless it belongs to an address.
    Nft,
    /// pf: `:` belongs to words, as in `em0:network` and `1024:65535`.
    Pf,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Letters, digits and what may stand between them in names, addresses and ranges.
    Word(String),
    /// Text in quotation marks, without them.
    Quoted(String),
    /// `$NAME`.
    Variable(String),
    /// A sign: one character, or two such as `==`.
    Sign(&'static str),
    /// The end of a line, or `;`.
    End,
}

/// A token and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub at: At,
}

const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "<<", ">>", "><", "<>", "{", "}", "(", ")", ",", "=", "<", ">", "&", "|", "^",
    "!", ":", "@", "[", "]",
];

/// Cuts a text into tokens. Errors go to the report, with their places.
pub fn tokens(file: u32, text: &str, dialect: Dialect, report: &mut Report) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let start = at;
        let first = rest.chars().next().unwrap_or_default();
        let place = |end: usize| At { file, start: start as u32, end: end as u32 };
        if tokens.len() >= TOKENS_LIMIT {
            report
                .error(place(at + 1), "the ruleset is too long")
                .hint(format!("{TOKENS_LIMIT} words are the limit"));
            return tokens;
        }
        match first {
            '\n' | ';' => {
                at += 1;
                tokens.push(Token { kind: Kind::End, at: place(at) });
            }
            c if c.is_whitespace() => at += c.len_utf8(),
            '\\' if rest[1..].trim_start_matches([' ', '\t', '\r']).starts_with('\n') => {
                at += rest.find('\n').unwrap_or(0) + 1;
            }
            '#' => at += comment(rest, dialect),
            '"' => match rest[1..].find('"') {
                Some(length) => {
                    at += length + 2;
                    let kind = Kind::Quoted(rest[1..=length].to_owned());
                    tokens.push(Token { kind, at: place(at) });
                }
                None => {
                    report.error(place(at + 1), "this quotation mark has no second one");
                    return tokens;
                }
            },
            '$' => {
                let name = &rest[1..1 + rest[1..].find(|c: char| !is_name(c)).unwrap_or(rest.len() - 1)];
                at += 1 + name.len();
                tokens.push(Token { kind: Kind::Variable(name.to_owned()), at: place(at) });
            }
            c if is_word(c) => {
                let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
                let word = &rest[..word_length(&rest[..length], dialect)];
                at += word.len();
                let kind = if word == ":" { Kind::Sign(":") } else { Kind::Word(word.to_owned()) };
                tokens.push(Token { kind, at: place(at) });
            }
            c => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => {
                    at += sign.len();
                    tokens.push(Token { kind: Kind::Sign(sign), at: place(at) });
                }
                None => {
                    at += c.len_utf8();
                    report.error(place(at), format!("{} does not belong here", quoted(&c.to_string())));
                }
            },
        }
    }
    tokens
}

/// Length of a comment. In pf a `\` at its end continues it in the next line, in nftables it does not.
fn comment(rest: &str, dialect: Dialect) -> usize {
    let mut length = 0;
    for line in rest.split_inclusive('\n') {
        length += line.len();
        if dialect == Dialect::Nft || !line.trim_end().ends_with('\\') {
            // The end of the line is a token of its own.
            return length - usize::from(line.ends_with('\n'));
        }
    }
    length
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_.-/*+:%".contains(c)
}

/// How much of a run of word characters is one word: in nftables a colon belongs to it only inside an address.
fn word_length(run: &str, dialect: Dialect) -> usize {
    if dialect == Dialect::Pf || !run.contains(':') {
        return run.len();
    }
    if run.starts_with(':') && !run.starts_with("::") {
        return 1;
    }
    // The longest beginning that is an address, a network, a range or an Ethernet address.
    let ends = run.char_indices().rev().filter(|(_, c)| *c == ':').map(|(end, _)| end);
    for end in std::iter::once(run.len()).chain(ends) {
        if end > 0 && is_address_text(&run[..end]) {
            return end;
        }
    }
    run.find(':').filter(|at| *at > 0).unwrap_or(1)
}

fn is_address_text(text: &str) -> bool {
    let is_address = |part: &str| {
        let (address, length) = part.split_once('/').unwrap_or((part, "0"));
        length.parse::<u8>().is_ok()
            && address.contains(':')
            && (address.parse::<std::net::Ipv6Addr>().is_ok() || is_ethernet(address))
    };
    match text.split_once('-') {
        Some((low, high)) => is_address(low) && is_address(high),
        None => is_address(text),
    }
}

fn is_ethernet(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6
        && parts.iter().all(|part| (1..=2).contains(&part.len()) && u8::from_str_radix(part, 16).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str, dialect: Dialect) -> Vec<String> {
        let mut report = Report::default();
        let tokens = tokens(0, text, dialect, &mut report);
        assert!(report.is_clean(), "{:?}", report.into_diagnostics());
        let shown = |token: Token| match token.kind {
            Kind::Word(word) => word,
            Kind::Quoted(text) => format!("\"{text}\""),
            Kind::Variable(name) => format!("${name}"),
            Kind::Sign(sign) => sign.to_owned(),
            Kind::End => "END".to_owned(),
        };
        tokens.into_iter().map(shown).collect()
    }

    #[test]
    fn a_colon_divides_unless_it_belongs_to_an_address() {
        assert_eq!(kinds("80:accept", Dialect::Nft), ["80", ":", "accept"]);
        assert_eq!(kinds("fd00::/64:drop", Dialect::Nft), ["fd00::/64", ":", "drop"]);
        assert_eq!(kinds("fd00::1-fd00::9 : drop", Dialect::Nft), ["fd00::1-fd00::9", ":", "drop"]);
        assert_eq!(kinds("::/0,::1", Dialect::Nft), ["::/0", ",", "::1"]);
        assert_eq!(kinds("02:00:00:00:00:01", Dialect::Nft), ["02:00:00:00:00:01"]);
        assert_eq!(kinds("\"lan\":jump x", Dialect::Nft), ["\"lan\"", ":", "jump", "x"]);
        assert_eq!(kinds("em0:network 1:9", Dialect::Pf), ["em0:network", "1:9"]);
    }

    #[test]
    fn comments_ends_and_continued_lines() {
        assert_eq!(kinds("a # b \\\nc", Dialect::Nft), ["a", "END", "c"]);
        assert_eq!(kinds("a # b \\\nc", Dialect::Pf), ["a"]);
        assert_eq!(kinds("a \\\n b;c", Dialect::Nft), ["a", "b", "END", "c"]);
        assert_eq!(kinds("{$lan,!=}", Dialect::Nft), ["{", "$lan", ",", "!=", "}"]);
    }

    #[test]
    fn what_is_no_word_is_an_error_with_its_place() {
        for text in ["a \u{7f} b", "x \"open", "`"] {
            let mut report = Report::default();
            tokens(0, text, Dialect::Nft, &mut report);
            assert_eq!(report.count(), 1, "{text}");
        }
    }
}
