//! Forms, as browsers send them (WHATWG URL, section 5.1).

use std::borrow::Cow;

use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use super::wire::Secret;

/// The longest name or text of a field, bytes.
const NAME_BYTES_MAX: usize = 1024;
/// The longest value, bytes: what an authenticator says.
const VALUE_BYTES_MAX: usize = 4 * NAME_BYTES_MAX;
/// The most fields.
const FIELDS_MAX: usize = 16;

/// The fields of a form, each once.
#[derive(Debug)]
pub struct Form(Vec<(String, Secret)>);

impl Form {
    /// `None` when it is none, a field comes twice, one is too long, or one is not UTF-8: what was typed would be told from
    /// what comes here by nobody.
    pub fn parse(bytes: &[u8]) -> Option<Form> {
        std::str::from_utf8(bytes).ok()?;
        let mut fields: Vec<(String, Secret)> = Vec::new();
        for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let name = decoded(parts.next().unwrap_or_default())?;
            let value = decoded(parts.next().unwrap_or_default())?;
            let is_double = fields.iter().any(|(known, _)| *known == name);
            if is_double
                || name.len() > NAME_BYTES_MAX
                || value.len() > VALUE_BYTES_MAX
                || fields.len() == FIELDS_MAX
            {
                return None;
            }
            fields.push((name, Secret::new(value)));
        }
        Some(Form(fields))
    }

    /// The value of this field, if there is something in it.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        (!value.reveal().is_empty()).then(|| value.clone())
    }

    /// The same without the space around it, if it is no longer than a text may be.
    pub fn text(&self, name: &str) -> Option<String> {
        let text = self.secret(name)?.reveal().trim().to_owned();
        (!text.is_empty() && text.len() <= NAME_BYTES_MAX).then_some(text)
    }

    /// Six digits, however they are grouped.
    pub fn code(&self, name: &str) -> Option<Secret> {
        let written = self.secret(name)?;
        let code: String = written.reveal().chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        (code.len() <= NAME_BYTES_MAX).then(|| Secret::new(code))
    }
}

fn decoded(written: &[u8]) -> Option<String> {
    let spaced = written.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte });
    let spaced = Zeroizing::new(spaced.collect::<Vec<u8>>());
    percent_decode(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_each_field_once_and_codes_may_be_grouped() {
        let form = Form::parse(b"user=+alice%40example.org+&password=a%2Bb+c&code=123+456").unwrap();
        assert_eq!(form.text("user").unwrap(), "alice@example.org");
        assert_eq!(form.secret("password").unwrap().reveal(), "a+b c", "a password keeps its spaces");
        assert_eq!(form.code("code").unwrap().reveal(), "123456");
        assert!(form.text("nothing").is_none());
        assert!(Form::parse(b"a=1&a=2").is_none());
        assert!(Form::parse(&[0xff]).is_none());
        let many: Vec<String> = (0..17).map(|number| format!("f{number}=1")).collect();
        assert!(Form::parse(many.join("&").as_bytes()).is_none());
        assert!(Form::parse(format!("a={}", "x".repeat(5000)).as_bytes()).is_none());
    }

    #[test]
    fn broken_utf_8_in_escapes_was_taken_for_a_replacement_character() {
        for broken in
            ["password=%ff", "password=a%c3", "password=%c3%28", "%ff=x", "user=a&password=%ed%a0%80"]
        {
            assert!(Form::parse(broken.as_bytes()).is_none(), "{broken}");
        }
        let form = Form::parse("password=%ef%bf%bd%C3%a9é".as_bytes()).unwrap();
        assert_eq!(form.secret("password").unwrap().reveal(), "\u{fffd}éé", "who typed it may have it");
    }
}
