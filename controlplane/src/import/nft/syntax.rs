//! A ruleset of nftables as it is written.

use crate::config::At;

/// All tables of a file.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// Tables, in order.
    pub tables: Vec<Table>,
}

/// `table inet filter { … }`.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// `ip`, `ip6`, `inet`, `bridge`, `arp` or `netdev`.
    pub family: String,
    /// Its name.
    pub name: String,
    /// Chains.
    pub chains: Vec<Chain>,
    /// Sets and maps.
    pub sets: Vec<Set>,
}

/// `chain forward { … }`.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where its name stands.
    pub at: At,
    /// `type filter hook forward priority 0;`, if packets begin here.
    pub base: Option<Base>,
    /// `policy drop`, and where.
    pub policy: Option<(String, At)>,
    /// Rules, in order.
    pub rules: Vec<Rule>,
}

/// Where packets enter a base chain.
#[derive(Clone, Debug)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `forward`, `input` and so on.
    pub hook: String,
    /// Lower ones come first.
    pub priority: i64,
    /// Where this stands.
    pub at: At,
}

/// `set NAME { … }` or `map NAME { … }`.
#[derive(Clone, Debug)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub elements: Vec<Element>,
    /// Whether packets put elements in at run time.
    pub is_dynamic: bool,
}

/// One of a set, or of a map.
#[derive(Clone, Debug)]
pub struct Element {
    /// The parts of a concatenation; one for a plain element.
    pub parts: Vec<Atom>,
    /// What a verdict map does with it.
    pub verdict: Option<Verdict>,
    /// What another map makes of it.
    pub is_mapped: bool,
}

/// A word that stands for a value, such as `10.0.0.0/8`, `22`, `1024-65535` or `*`.
#[derive(Clone, Debug)]
pub struct Atom {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub at: At,
}

/// A verdict.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What it is.
    pub kind: VerdictKind,
    /// Where it stands.
    pub at: At,
}

/// What a verdict does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    /// `accept`.
    Accept,
    /// `drop`.
    Drop,
    /// `reject`, with whatever.
    Reject,
    /// `jump NAME`.
    Jump(String),
    /// `goto NAME`.
    Goto(String),
    /// `return`.
    Return,
    /// `continue`.
    Continue,
    /// `queue`: a program decides.
    Queue,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The whole of it.
    pub at: At,
    /// Its parts, in order.
    pub statements: Vec<Statement>,
    /// `comment "…"`.
    pub comment: Option<String>,
}

/// A part of a rule.
#[derive(Clone, Debug)]
pub struct Statement {
    /// What it is.
    pub kind: StatementKind,
    /// Where it stands.
    pub at: At,
}

/// What a part of a rule is.
#[derive(Clone, Debug)]
pub enum StatementKind {
    /// `ip saddr . tcp dport { … }`.
    Match {
        /// What is looked at, in small words: `ip saddr`.
        keys: Vec<String>,
        /// `!=` rather than `==`.
        negated: bool,
        /// What it is compared with.
        value: Value,
    },
    /// `tcp dport vmap { 22 : accept }`.
    Vmap {
        /// What is looked at.
        keys: Vec<String>,
        /// The map.
        value: Value,
    },
    /// What ends the rule.
    Verdict(VerdictKind),
    /// `limit rate 10/second`.
    Limit {
        /// How many packets; `None` if it counts bytes.
        packets: Option<u64>,
        /// Seconds of its unit.
        seconds: u64,
        /// `over`: it matches what is beyond.
        over: bool,
    },
    /// What changes nothing about who may talk to whom: `counter`.
    Silent,
    /// `log`, `notrack`, `flow add`, `meta mark set` and so on: in words.
    Effect(String),
    /// A condition that is not understood: the text.
    Condition(String),
    /// NAT in a rule: the text.
    Nat(String),
}

/// What something is compared with.
#[derive(Clone, Debug)]
pub enum Value {
    /// One value, or a set in braces.
    Elements(Vec<Element>),
    /// Bits, as in `established,related`: any of them, or with `==` exactly these.
    Flags(Vec<Atom>, bool),
    /// `@NAME`.
    Named(Atom),
    /// Bits under a mask, `& (a|b) == c` or `c / a,b`: the mask and what is wanted.
    Masked(Vec<Atom>, Vec<Atom>),
    /// What is not understood.
    Unknown,
}
