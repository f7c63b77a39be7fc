//! Users, groups, postures, schedules, tiers and tests: what can be wrong with them, and what is said of it.

use super::{GOOD, append, edit, lines, says};

/// A rule's further keys, from line 19 on.
fn rule(keys: &str, expected: &[&str]) {
    append(&format!("{keys}\n"), expected);
}

#[test]
fn users_and_groups_are_checked() {
    rule("users = []", &["19:9 this list is empty | name at least one, or leave the key out"]);
    rule(
        "users = {}",
        &[
            "19:9 `users` names nobody | name some: `users = { groups = [\"dba\"] }`, or any authenticated one: `users = \"any\"`",
        ],
    );
    rule("users = { group = [\"a\"] }", &["19:11 unknown key `group` in `users` | did you mean `groups`?"]);
    rule("users = [\"a\", \"any\"]", &["19:15 \"any\" stands alone: it means every authenticated user"]);
    rule(
        "users = \" a\"",
        &["19:9 ` a` cannot name a user | write it without spaces around it, in 1 to 256 characters"],
    );
    rule("users = { groups = \"dab\" }\n[groups.dba]", &["19:20 unknown group `dab` | did you mean `dba`?"]);
    append(
        "[groups.a]\ngroups = [\"b\"]\n[groups.b]\ngroups = [\"c\"]\n[groups.c]\ngroups = [\"b\", \"nowhere\"]\n",
        &[
            "24:11 group `b` contains itself | b → c → b",
            "24:16 unknown group `nowhere` | no [groups.NAME] of this name is in the configuration",
        ],
    );
    append(
        "[groups.a]\nmembers = []\n",
        &["20:11 this list is empty | name at least one, or leave the key out"],
    );
    rule(
        "action = \"pass\"\nusers = \"a\"",
        &[
            "20:9 `users` of a rule that passes | what passes is left to the next tier, whoever asks; say there who may",
        ],
    );
}

#[test]
fn demands_are_checked() {
    rule(
        "require = {}",
        &[
            "19:11 `require` asks for nothing | for example `require = { mfa_max_age = \"8h\" }`, or leave it out",
        ],
    );
    rule(
        "require = { risk_below = 0 }",
        &["19:26 no risk is below 0, so nobody could meet this | from 1 to 100"],
    );
    rule("require = { risk_below = 101 }", &["19:26 `101` is out of range | from 1 to 100"]);
    rule(
        "require = { mfa_max_age = \"0s\" }",
        &["19:27 `0s` is no time at all | a duration must be positive"],
    );
    rule(
        "require = { mfa_max_age = \"500ms\" }",
        &["19:27 `500ms` is no whole number of seconds | for example \"30s\", \"15m\" or \"8h\""],
    );
    rule(
        "require = { mfa = \"phishing\" }",
        &[
            "19:19 `phishing` is no kind of second factor | use \"phishing-resistant\"; how old it may be is said by `mfa_max_age`, and how old it is by `mfa_age`",
        ],
    );
    rule(
        "require = { posture = \"complaint\" }\n[postures.compliant]\na = true",
        &["19:23 unknown posture `complaint` | did you mean `compliant`?"],
    );
    rule(
        "require = { users = \"a\" }",
        &["19:21 `users` of a rule stands beside its `require` | write `users = …` as a key of the rule"],
    );
    rule(
        "require = { risk_bellow = 5 }",
        &["19:13 unknown key `risk_bellow` in `require` | did you mean `risk_below`?"],
    );
    rule(
        "action = \"deny\"\nrequire = { risk_below = 5 }",
        &[
            "20:11 `require` of a rule that lets nothing through | only rules that allow ask for something; to deny all but some, allow those alone",
        ],
    );
    edit(
        "port = \"wan\"",
        "port = \"wan\"\nrequire = { posture = \"p\" }\nrequire_from = 5",
        &[
            "11:23 unknown posture `p` | no [postures.NAME] of this name is in the configuration",
            "12:16 expected a table, found an integer",
        ],
    );
}

#[test]
fn postures_are_checked() {
    append(
        "[postures.p]\nmax_age = \"1m\"\n",
        &["19:11 posture `p` checks nothing | for example `disk_encrypted = true`"],
    );
    append(
        "[postures.p]\na = 5\nos_max_age = \"soon\"\n",
        &[
            "20:5 expected true, false, a string or a list of strings, found an integer",
            "21:14 `soon` is not a duration | write whole numbers with d, h, m, s or ms, the larger first: \"30s\", \"2h4m\", \"250ms\"",
        ],
    );
}

#[test]
fn times_are_checked() {
    rule(
        "expires = 2027-01-31",
        &[
            "19:11 `2027-01-31` is not one moment | with its offset from UTC: `2027-01-31T00:00:00Z` or `2027-01-31T00:00:00+01:00`",
        ],
    );
    rule(
        "expires = 2027-01-31T08:00:00",
        &[
            "19:11 `2027-01-31T08:00:00` is not one moment | with its offset from UTC: `2027-01-31T08:00:00Z` or `2027-01-31T08:00:00+01:00`",
        ],
    );
    rule(
        "expires = \"2027-01-31T08:00:00Z\"",
        &[
            "19:11 expected a date and a time, found a string | without quotation marks: `2027-01-31T00:00:00Z`",
        ],
    );
    rule(
        "starts = 2027-01-31T00:00:00Z\nexpires = 2027-01-31T00:00:00Z",
        &["20:11 this rule expires before it starts | 19:10 it starts here"],
    );
    rule(
        "schedule = \"ofice\"\n[schedules.office]\nhours = \"08:00-18:00\"",
        &["19:12 unknown schedule `ofice` | did you mean `office`?"],
    );
    // From a Monday to the Friday after it.
    rule(
        "schedule = \"s\"\nstarts = 2026-11-30T00:00:00Z\nexpires = 2026-12-04T00:00:00Z\n[schedules.s]\ndays = \"fri-sun\"",
        &["19:12 this schedule never opens between `starts` and `expires` | 20:10 it starts here"],
    );
}

#[test]
fn schedules_are_checked() {
    let schedule = |keys: &str, expected: &[&str]| append(&format!("[schedules.s]\n{keys}\n"), expected);
    schedule(
        "timezone = \"UTC\"",
        &[
            "19:12 schedule `s` has neither `days` nor `hours` | for example `days = [\"mon-fri\"]` and `hours = \"08:00-18:00\"`",
        ],
    );
    schedule(
        "days = [\"mon\", \"monday\", \"mon-fry\"]",
        &[
            "20:16 `monday` is no day | write \"mon\", or \"mon-fri\" for all between",
            "20:26 `mon-fry` is no day | write \"mon\", or \"mon-fri\" for all between",
        ],
    );
    for hours in ["8-18", "08:00", "08:00-25:00", "8:00-18:00", "24:00-08:00", "08:60-09:00", "08:00-24:01"] {
        schedule(
            &format!("hours = \"{hours}\""),
            &[&format!(
                "20:9 `{hours}` is no range of hours | write \"08:00-18:00\", or \"22:00-06:00\" over midnight"
            )],
        );
    }
    schedule(
        "hours = \"08:00-08:00\"",
        &["20:9 `08:00-08:00` is never open | the whole day is \"00:00-24:00\""],
    );
    schedule(
        "hours = \"08:00-18:00\"\ntimezone = \"Europe/Zürich\"",
        &["21:12 unknown timezone `Europe/Zürich` | did you mean `Europe/Zurich`?"],
    );
    // Kinds have their own names.
    let text = "[schedules.s]\ndays = \"mon\"\n[services.s]\nports = \"tcp/1\"\n[postures.s]\na = true\n[groups.s]\n";
    crate::model::parse("t.toml", &format!("{GOOD}{text}")).unwrap();
}

#[test]
fn tiers_are_checked() {
    let tiers = |tiers: &str, expected: &[&str]| {
        edit("version = 1\n", &format!("version = 1\ntiers = {tiers}\n"), expected)
    };
    tiers("[\"a\", \"b\", \"a\"]", &["2:20 two tiers are named `a` | 2:10 the first one"]);
    tiers("[]", &["2:9 this list is empty | name at least one, or leave the key out"]);
    let many: Vec<String> = (0..17).map(|n| format!("\"t{n}\"")).collect();
    tiers(&format!("[{}]", many.join(",")), &["2:96 more than 16 tiers"]);
    rule("tier = \"platfrom\"", &["19:8 unknown tier `platfrom` | did you mean `platform`?"]);
    rule("tier = \"x\"", &["19:8 unknown tier `x` | `tiers` are platform, security, app"]);
    rule("action = \"pas\"", &["19:10 `pas` is not an action | did you mean `pass`?"]);
    rule("mode = \"audti\"", &["19:8 `audti` is not a mode | did you mean `audit`?"]);
}

#[test]
fn what_a_test_says_of_who_asks_is_checked() {
    let test = |keys: &str, expected: &[&str]| {
        append(
            &format!(
                "[[test]]\nname = \"t\"\nfrom = \"web\"\nto = \"db\"\nport = \"tcp/443\"\nexpect = \"allow\"\n{keys}\n"
            ),
            expected,
        );
    };
    test("groups = [\"a\"]", &["25:10 `groups` of nobody | say whose: `user = \"alice\"`"]);
    test(
        "session = \"gone\"",
        &[
            "25:11 `gone` is no state of a session | use \"expired\"; whoever names a user has a valid session otherwise",
        ],
    );
    test(
        "user = \"a\"\nposture = { p = \"faild\" }\n[postures.p]\na = true",
        &["26:17 `faild` is no state of a posture | did you mean `failed`?"],
    );
    test(
        "user = \"a\"\nposture = \"q\"",
        &["26:11 unknown posture `q` | no [postures.NAME] of this name is in the configuration"],
    );
    test("user = \"a\"\nrisk = 101", &["26:8 `101` is out of range | from 0 to 100"]);
    test(
        "risk = 10",
        &[
            "19:1 this test says something of nobody | say who asks: `user = \"alice\"`, or at least from which device: `device = { enrolled = true }`",
        ],
    );
    test(
        "at = 2026-12-01",
        &[
            "25:6 `2026-12-01` is not one moment | with its offset from UTC: `2026-12-01T00:00:00Z` or `2026-12-01T00:00:00+01:00`",
        ],
    );
    test(
        "user = \"a\"\ngroups = \"dbb\"\n[groups.dba]",
        &["26:10 unknown group `dbb` | did you mean `dba`?"],
    );
    test("user = \"a\"\nmfaage = \"1h\"", &["26:1 unknown key `mfaage` in a test | did you mean `mfa_age`?"]);
}

#[test]
fn names_that_repeat_over_files_or_tables_are_told() {
    // TOML itself refuses a table that is written twice in one file.
    says(&format!("{GOOD}[groups.a]\n[groups.a]\n"), &["20:9 not valid TOML: duplicate key"]);
}

#[test]
fn keys_that_are_known_are_listed_once() {
    rule(
        "colour = 1",
        &[
            "19:1 unknown key `colour` in a rule | known here: name, from, to, services, action, tier, users, require, mode, starts, expires, schedule, timeouts, limits, owner, ticket, description",
        ],
    );
}

/// Asserts what a configuration in which nothing is wrong is warned of.
fn warns(text: &str, expected: &[&str]) {
    let model = crate::model::parse("t.toml", text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(lines(&model.warnings), expected, "{text}");
}

#[test]
fn names_that_no_rule_uses_are_warned_of() {
    let text = "[services.inner]\nports = \"tcp/1\"\n[services.outer]\nservices = \"inner\"\n\
                [groups.a]\n[groups.b]\n[postures.p]\nok = true\n[schedules.s]\ndays = \"mon\"\n";
    let hint = "name it in a rule, or take it out";
    warns(GOOD, &[]);
    warns(
        &format!("{GOOD}{text}"),
        &[
            &format!("21:11 no rule uses service `outer` | {hint}"),
            &format!("23:9 no rule uses group `a` | {hint}"),
            &format!("24:9 no rule uses group `b` | {hint}"),
            &format!("25:11 no rule uses posture `p` | {hint}"),
            &format!("27:12 no rule uses schedule `s` | {hint}"),
        ],
    );
    let used = "services = [\"https\", \"outer\"]\nusers = { groups = \"a\" }\nrequire = { posture = \"p\" }\nschedule = \"s\"";
    let text = GOOD.replace("services = [\"https\"]", used)
        + &text.replace("[groups.a]", "[groups.a]\ngroups = \"b\"");
    warns(&text, &[]);
    let shown =
        crate::model::parse("gate.toml", &format!("{GOOD}[services.x]\nports = \"tcp/1\"\n")).unwrap();
    let expected = "\
warning: no rule uses service `x`
  --> gate.toml:19:11
   |
19 | [services.x]
   |           ^
   |
   = help: name it in a rule, or take it out

1 warning";
    assert_eq!(shown.warnings.to_string(), expected);
}

#[test]
fn ten_thousand_brackets_or_dots_end_in_an_error_and_not_in_a_crash() {
    let deep = [
        format!("a = {}", "[".repeat(10_000)),
        format!("a = {}1{}", "[".repeat(10_000), "]".repeat(10_000)),
        format!("a = {}", "{ a = ".repeat(10_000)),
        format!("a = {}1{}", "{ a = ".repeat(10_000), " }".repeat(10_000)),
        format!("{}a = 1", "a.".repeat(10_000)),
        format!("[{}a]", "a.".repeat(10_000)),
        format!("[[{}a]]", "a.".repeat(10_000)),
    ];
    for text in deep {
        let errors = crate::model::parse("t.toml", &format!("version = 1\n{text}\n")).unwrap_err();
        let (_, line, _) = errors.sources().position(errors.list()[0].at.unwrap());
        assert_eq!(line, 2, "{errors}");
        assert!(errors.to_string().len() < 20_000);
    }
}

#[test]
fn audits_are_checked() {
    append("[[audit]]\nfrom = \"web\"\n", &["19:1 this audit has no `to`"]);
    append(
        "[[audit]]\nfrom = \"wbe\"\nto = \"db\"\n[[audit]]\nfrom = [\"db\", \"web\"]\nto = \"any\"\n[[audit]]\nfrom = [\"web\", \"db\"]\nto = \"any\"\n",
        &["20:8 unknown segment `wbe` | did you mean `web`?", "25:1 this is in audit already | 22:1 here"],
    );
    append("[gateway]\naudit = \"yes\"\n", &["20:9 expected true or false, found a string"]);
}
