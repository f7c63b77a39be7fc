//! What is refused, and what is said about it.

use proptest::prelude::*;

use super::report::{Effect, text};
use super::*;

fn options() -> Options {
    let of = |name: &str, network: &str| (name.to_owned(), vec![network.parse().unwrap()]);
    Options { interfaces: vec![of("lan", "10.0.1.0/24"), of("wan", "0.0.0.0/0")] }
}

fn refused(language: Language, text: &str) -> String {
    import(language, "rules", text, &options()).map(|imported| imported.toml).unwrap_err().to_string()
}

fn forward(rules: &str) -> String {
    format!(
        "table inet t {{\n chain f {{\n  type filter hook forward priority 0; policy drop;\n{rules}\n }}\n}}\n"
    )
}

#[track_caller]
fn assert_told(language: Language, rules: &str, told: &[&str]) {
    let error = refused(language, rules);
    for part in told {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn what_is_not_understood_is_told_with_its_place() {
    for (rules, told) in [
        ("ip sadr 10.0.0.1 accpet", &["rules:4:"][..]),
        ("iifname lan accpet", &["rules:4:13", "`accpet` is neither", "did you mean `accept`?"]),
        ("ip saddr 10.0.0.300 accept", &["rules:4:10", "is not an address"]),
        ("ip saddr fd00::1 accept", &["rules:4:10", "other family"]),
        ("tcp dport htps accept", &["rules:4:11", "did you mean `https`?"]),
        ("tcp dport 9-8 accept", &["rules:4:11", "is not a port"]),
        ("ip saddr @nobody accept", &["unknown set `@nobody`"]),
        ("jump nowhere", &["unknown chain `nowhere`"]),
        ("tcp dport $web accept", &["rules:4:11", "unknown variable `$web`"]),
        ("ip saddr . tcp dport { 10.0.0.1 } accept", &["1 parts are compared with 2"]),
        ("tcp dport { 22 accept", &["expected"]),
        ("tcp dport vmap { 22 } ", &["has no verdict"]),
        ("icmp type ping accept", &["is not a type of ICMP"]),
        ("limit rate 5/fortnight accept", &["is not a rate"]),
        ("\"open", &["quotation mark"]),
    ] {
        assert_told(Language::Nft, &forward(rules), told);
    }
    for (rules, told) in [
        ("pass in on lan form any", &["rules:1:16", "did you mean `from`?"][..]),
        ("pass in from <nobody>", &["rules:1:14", "unknown table `<nobody>`"]),
        ("pass in on $ext", &["unknown macro `$ext`"]),
        ("pass in from www.example.org", &["names of hosts are not looked up"]),
        ("pass from dmz:network", &["add --interface dmz=NETWORK"]),
        ("pass proto tcp to port htps", &["did you mean `https`?"]),
        ("pass on { !lan, wan }", &["matches every interface"]),
        ("pas in all", &["did you mean `pass`?"]),
        ("anchor x quick in {\n pass\n}", &["make its rules quick"]),
        ("include \"other.conf\"", &["is not followed"]),
        ("pass in from { 10.0.0.1", &["expected `}`"]),
        ("pass flags Q/R", &["is not a list of flags"]),
    ] {
        assert_told(Language::Pf, rules, told);
    }
}

#[test]
fn all_errors_come_at_once() {
    let error =
        refused(Language::Nft, &forward("tcp dport a accept\n tcp dport b accept\n tcp dport c accept"));
    assert!(error.ends_with("3 errors"), "{error}");
}

#[test]
fn a_ruleset_that_does_not_say_what_crosses_is_refused() {
    let input = "table inet t {\n chain i {\n type filter hook input priority 0; policy drop;\n }\n}\n";
    assert_told(Language::Nft, input, &["no chain with `hook forward`"]);
    assert_told(Language::Nft, &(forward("accept") + "include \"more.nft\""), &["`include` is not followed"]);
    let none = import(Language::Nft, "rules", &forward("ip saddr 10.0.0.1 accept"), &Options::default());
    assert!(none.unwrap_err().to_string().contains("names no interface"));
    let three = forward("iifname a oifname b accept\n iifname c drop");
    let error = import(Language::Nft, "rules", &three, &Options::default()).unwrap_err().to_string();
    assert!(
        error.contains("--interface a=NETWORK,… --interface b=NETWORK,… --interface c=NETWORK,…"),
        "{error}"
    );
}

#[test]
fn what_grows_without_bound_comes_to_an_end() {
    let circle = "table inet t {\n chain f {\n type filter hook forward priority 0; policy drop;\n jump a\n }\n\
                  chain a {\n jump b\n }\n chain b {\n jump a\n }\n}\n";
    assert_told(Language::Nft, circle, &["in a circle"]);
    // Every chain jumps twice to the next.
    let mut double = forward("jump c0\n jump c0").trim_end_matches("}\n").to_owned();
    for n in 0..12 {
        double += &format!(" chain c{n} {{\n jump c{m}\n jump c{m}\n }}\n", m = n + 1);
    }
    double += " chain c12 {\n tcp dport 1 accept\n }\n}\n";
    // Imported or refused: 8,192 ways lead through it.
    drop(import(Language::Nft, "r", &double, &options()));
    let mut doubling = "define a0 = 10.0.0.1, 10.0.0.2\n".to_owned();
    for n in 0..40 {
        doubling += &format!("define a{} = $a{n}, $a{n}\n", n + 1);
    }
    let rules = forward("ip saddr { $a40 } accept");
    assert_told(Language::Nft, &(doubling + &rules), &["too long when its variables are written out"]);
    let macros: String = (0..40).map(|n| format!("a{} = $a{n} $a{n}\n", n + 1)).collect();
    assert_told(
        Language::Pf,
        &format!("a0 = \"1 2\"\n{macros}pass proto tcp to port {{ $a40 }}"),
        &["too long"],
    );
    let braces = forward(&format!("tcp dport {}1{} accept", "{".repeat(5000), "}".repeat(5000)));
    assert_told(Language::Nft, &braces, &["nested more than"]);
    let sets = |set: &str| format!("ip saddr . ip daddr . tcp dport {set} accept\n").repeat(3);
    let many: Vec<String> =
        (0..20_000).map(|n| format!("10.{}.{}.1 . 10.0.0.1 . 80", n / 256, n % 256)).collect();
    let rules = forward(&sets(&format!("{{ {} }}", many.join(", "))));
    assert_told(Language::Nft, &rules, &["too large when written out"]);
}

fn findings(language: Language, rules: &str) -> Vec<(Effect, String)> {
    let imported = import(language, "rules", rules, &options()).unwrap();
    assert!(text(&imported.findings, &imported.sources).contains("narrower,"));
    imported.findings.into_iter().map(|finding| (finding.effect, finding.message)).collect()
}

#[test]
fn what_cannot_be_expressed_is_told_with_what_follows_from_it() {
    for (rules, effect, told) in [
        ("meta mark 1 accept", Effect::Narrower, "left out"),
        ("meta mark 1 drop\n accept", Effect::Narrower, "all that it might refuse is refused"),
        ("tcp sport 20 accept", Effect::Narrower, "source ports"),
        ("limit rate over 5/second drop\n accept", Effect::Wider, "give the rules"),
        ("tcp dport 22 limit rate 5/minute accept", Effect::Narrower, "less than one in a second"),
        ("icmp type timestamp-request accept", Effect::Note, "never crosses"),
        ("icmp type destination-unreachable accept", Effect::Covered, "follow their connection"),
        ("tcp flags & (fin|syn) == fin|syn drop", Effect::Covered, "flags that no connection begins with"),
        ("queue num 1", Effect::Narrower, "a program decides"),
        ("ip daddr 10.0.1.7 accept", Effect::Wider, "let replies back"),
    ] {
        let found = findings(Language::Nft, &forward(&format!("  iifname lan {rules}")));
        let is_told = |(e, message): &(Effect, String)| *e == effect && message.contains(told);
        assert!(found.iter().any(is_told), "{rules}: {found:?}");
    }
    for (rules, effect, told) in [
        ("pass in on lan proto tcp user 7", Effect::Narrower, "left out"),
        ("block in on lan tagged X\npass", Effect::Narrower, "all that it might refuse"),
        ("table <x> persist\nblock from <x>", Effect::Wider, "at run time"),
        ("pass in on wan proto tcp to port 80 rdr-to 10.0.1.7", Effect::Narrower, "the rule is left out"),
        ("anchor \"relayd/*\"", Effect::Wider, "not known"),
        ("pass keep state (max-src-conn 10)", Effect::Wider, "give the rule `limits`"),
        ("antispoof for lan", Effect::Covered, "spoofed"),
        ("pass no state", Effect::Wider, "without state"),
    ] {
        let found = findings(Language::Pf, &format!("{rules}\n"));
        let is_told = |(e, message): &(Effect, String)| *e == effect && message.contains(told);
        assert!(found.iter().any(is_told), "{rules}: {found:?}");
    }
}

#[test]
fn what_the_gateway_answers_becomes_local() {
    let rules = forward("iifname lan accept").replace(
        " chain f",
        " chain i {\n type filter hook input priority 0; policy drop;\n iif lo accept\n iifname lan tcp dport { 22, 53 } accept\n\
         ip saddr 10.0.1.7 tcp dport 80 accept\n icmp type echo-request accept\n }\n chain f",
    );
    let imported = import(Language::Nft, "rules", &rules, &options()).unwrap();
    assert!(
        imported.toml.contains("local = [\"tcp/22\", \"tcp/53\", \"icmp/echo-request\"]"),
        "{}",
        imported.toml
    );
    assert!(imported.findings.iter().any(|finding| finding.message.contains("will not answer tcp/80")));
    let rules = "block all\npass in on lan proto tcp to self port 22\npass in on wan inet proto icmp icmp-type echoreq\n";
    let toml = import(Language::Pf, "rules", rules, &options()).unwrap().toml;
    assert!(
        toml.contains("local = [\"tcp/22\"]") && toml.contains("local = [\"icmp/echo-request\"]"),
        "{toml}"
    );
}

#[test]
fn rules_show_what_lies_behind_an_interface() {
    let rules = forward(
        "iifname lan ip saddr 10.7.0.0/16 oifname dmz ip daddr { 10.8.0.1, 10.8.0.2 } accept\n\
         iifname office ip saddr != 10.9.0.0/16 drop\n oifname wan accept",
    );
    let toml = import(Language::Nft, "rules", &rules, &Options::default()).unwrap().toml;
    for network in ["\"10.7.0.0/16\"", "\"10.8.0.1/32\", \"10.8.0.2/32\"", "\"10.9.0.0/16\"", "\"0.0.0.0/0\""]
    {
        assert!(toml.contains(network), "{network} is not in\n{toml}");
    }
}

#[test]
fn rules_keep_their_comments_and_places() {
    let rules = forward(
        "iifname lan tcp dport 443 accept comment \"Web, for \\all\"\niifname lan udp dport 53 accept",
    );
    let toml = import(Language::Nft, "rules", &rules, &options()).unwrap().toml;
    assert!(toml.contains("# from rules:4:1\n[[rule]]\nname = \"Web-for-all\""), "{toml}");
    assert!(toml.contains("name = \"lan-to-any\"") && toml.contains("description = "), "{toml}");
}

/// Words that make nearly right rulesets.
const WORDS: [&str; 40] = [
    "table",
    "inet",
    "t",
    "{",
    "}",
    "chain",
    "f",
    "type",
    "filter",
    "hook",
    "forward",
    "priority",
    "0",
    ";",
    "policy",
    "drop",
    "\n",
    "accept",
    "tcp",
    "dport",
    "22",
    "ip",
    "saddr",
    "10.0.0.0/8",
    "vmap",
    ":",
    ",",
    "!=",
    "@s",
    "set",
    "pass",
    "block",
    "in",
    "on",
    "lan",
    "from",
    "any",
    "to",
    "port",
    "quick",
];

proptest! {
    #[test]
    fn nothing_makes_the_import_panic(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..60)) {
        let text = words.join(" ");
        for language in [Language::Nft, Language::Pf] {
            let _ = import(language, "rules", &text, &options());
            let _ = import(language, "rules", &forward(&text), &options());
        }
    }

    #[test]
    fn nor_does_any_text(text in ".{0,80}") {
        for language in [Language::Nft, Language::Pf] {
            let _ = import(language, "rules", &text, &options());
            let _ = import(language, "rules", &forward(&text), &options());
        }
    }
}
