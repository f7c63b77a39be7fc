//! JSON, and tokens that somebody has signed, read by the letter of the RFCs and without haste: what the invariants of other
//! targets hold the real readers against.

use serde_json::{Map, Value};

/// How deep JSON may be nested.
const DEPTH: usize = 127;
/// The longest token, bytes.
const TOKEN_BYTES: usize = 32 * 1024;

/// RFC 8259, and no name twice in an object.
pub fn json(bytes: &[u8]) -> Option<Value> {
    let mut reader = Reader { text: std::str::from_utf8(bytes).ok()?.chars().collect(), place: 0 };
    let value = reader.value(0)?;
    reader.space();
    (reader.place == reader.text.len()).then_some(value)
}

/// What a token says: a header and claims that the key of this `kid` has signed as this `typ`; none is that of ID tokens.
pub fn opened(header: &[u8], claims: &[u8], kid: &str, typ: Option<&str>) -> Option<Map<String, Value>> {
    let encoded = |bytes: &[u8]| (bytes.len() * 4).div_ceil(3);
    if encoded(header) + 1 + encoded(claims) + 1 + encoded(&[0; 64]) > TOKEN_BYTES {
        return None;
    }
    let Some(Value::Object(header)) = json(header) else { return None };
    // RFC 7515, section 4.1.11; and what brings a key, or encrypts.
    if ["crit", "jwk", "jku", "x5u", "x5c", "enc", "zip"].iter().any(|name| header.contains_key(*name)) {
        return None;
    }
    let text = |name: &str| match header.get(name) {
        None => Some(None),
        Some(Value::String(text)) => Some(Some(text.as_str())),
        Some(_) => None,
    };
    if !["EdDSA", "Ed25519"].contains(&text("alg")??) || text("kid")?.is_some_and(|named| named != kid) {
        return None;
    }
    // RFC 7515, section 4.1.9: a media type, whose `application/` may be left out.
    let written = text("typ")?.map(str::to_ascii_lowercase);
    let wanted = typ.unwrap_or("jwt");
    let is_it = |written: &String| *written == wanted || *written == format!("application/{wanted}");
    if !written.as_ref().map_or(typ.is_none(), is_it) {
        return None;
    }
    match json(claims)? {
        Value::Object(claims) => Some(claims),
        _ => None,
    }
}

struct Reader {
    text: Vec<char>,
    place: usize,
}

impl Reader {
    fn next(&mut self) -> Option<char> {
        let next = self.text.get(self.place).copied()?;
        self.place += 1;
        Some(next)
    }

    /// Whether this comes next; then it is passed.
    fn passes(&mut self, what: char) -> bool {
        let is_it = self.text.get(self.place) == Some(&what);
        self.place += usize::from(is_it);
        is_it
    }

    fn space(&mut self) {
        while [' ', '\t', '\n', '\r'].into_iter().any(|space| self.passes(space)) {}
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.space();
        match self.next()? {
            '"' => self.text().map(Value::String),
            '{' if depth < DEPTH => self.object(depth + 1).map(Value::Object),
            '[' if depth < DEPTH => self.list(depth + 1).map(Value::Array),
            't' => self.word("rue").then_some(Value::Bool(true)),
            'f' => self.word("alse").then_some(Value::Bool(false)),
            'n' => self.word("ull").then_some(Value::Null),
            first => self.number(first),
        }
    }

    fn word(&mut self, rest: &str) -> bool {
        rest.chars().all(|letter| self.passes(letter))
    }

    fn object(&mut self, depth: usize) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        self.space();
        if self.passes('}') {
            return Some(map);
        }
        loop {
            self.space();
            let name = if self.passes('"') { self.text()? } else { return None };
            self.space();
            let value = if self.passes(':') { self.value(depth)? } else { return None };
            if map.insert(name, value).is_some() {
                return None;
            }
            self.space();
            match self.next()? {
                ',' => {}
                '}' => return Some(map),
                _ => return None,
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Vec<Value>> {
        let mut list = Vec::new();
        self.space();
        if self.passes(']') {
            return Some(list);
        }
        loop {
            list.push(self.value(depth)?);
            self.space();
            match self.next()? {
                ',' => {}
                ']' => return Some(list),
                _ => return None,
            }
        }
    }

    /// Section 7, after the first quotation mark.
    fn text(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let letter = match self.next()? {
                '"' => return Some(text),
                '\\' => match self.next()? {
                    plain @ ('"' | '\\' | '/') => plain,
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => self.unit()?,
                    _ => return None,
                },
                '\0'..='\u{1f}' => return None,
                plain => plain,
            };
            text.push(letter);
        }
    }

    /// What UTF-16 has in one unit, or in two.
    fn unit(&mut self) -> Option<char> {
        let mut units = vec![self.four_digits()?];
        if (0xd800..0xdc00).contains(&units[0]) {
            if !self.word("\\u") {
                return None;
            }
            units.push(self.four_digits()?);
        }
        let mut letters = char::decode_utf16(units);
        let letter = letters.next()?.ok()?;
        letters.next().is_none().then_some(letter)
    }

    fn four_digits(&mut self) -> Option<u16> {
        let digit = |reader: &mut Reader| reader.next()?.to_digit(16);
        (0..4).try_fold(0, |unit, _| Some(unit * 16 + digit(self)? as u16))
    }

    /// Section 6. What a decimal number is in binary is not in question here.
    fn number(&mut self, first: char) -> Option<Value> {
        let begin = self.place - 1;
        let first = if first == '-' { self.next()? } else { first };
        match first {
            '0' => {}
            '1'..='9' => drop(self.digits()),
            _ => return None,
        }
        if self.passes('.') && self.digits() == 0 {
            return None;
        }
        if self.passes('e') || self.passes('E') {
            let _sign = self.passes('+') || self.passes('-');
            if self.digits() == 0 {
                return None;
            }
        }
        let written: String = self.text[begin..self.place].iter().collect();
        serde_json::from_str(&written).ok().map(Value::Number)
    }

    fn digits(&mut self) -> usize {
        let begin = self.place;
        while self.text.get(self.place).is_some_and(char::is_ascii_digit) {
            self.place += 1;
        }
        self.place - begin
    }
}
