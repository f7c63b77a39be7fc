//! The language as a JSON Schema, for editors: they complete keys, explain them and underline what cannot be.
//!
//! The tables below say in one place what keys there are and what each is for. A test holds them against the reader,
//! key by key. A schema knows shapes only; what names mean and whether they exist is for `check`.

use bulkhead_dataplane::connection::MAX_RATE;
use serde_json::{Map, Value, json};

use super::schema::TIMEOUTS;

/// What a value looks like.
#[derive(Clone, Copy)]
enum Form {
    Text,
    /// Of a port, segment, rule, …
    Name,
    /// `30s`, `2h4m`.
    Duration,
    /// With its offset from UTC.
    Moment,
    Network,
    /// A literal or a name of one.
    Service,
    /// What one test asks for.
    Probe,
    Boolean,
    Integer(u64, u64),
    OneOf(&'static [&'static str]),
    /// A string or a list of strings.
    OneOrMore(&'static Form),
    Either(&'static [Form]),
    Table(&'static Shape),
    /// `[what.NAME]`.
    Named(&'static Shape),
    /// `[[what]]`.
    Tables(&'static Shape),
    /// Durations under the names of time-outs, and these besides.
    Timeouts(&'static [&'static str]),
    /// Any names with a text, a number, a boolean or a list of texts.
    Free(&'static [Key]),
}

/// A key, what its value looks like, and what it is for.
struct Key(&'static str, Form, &'static str);

/// A table: what it is called in messages, the keys it must have, all keys.
struct Shape {
    what: &'static str,
    required: &'static [&'static str],
    keys: &'static [Key],
}

use Form::{
    Boolean, Duration, Either, Free, Integer, Moment, Name, Named, Network, OneOf, OneOrMore, Probe, Service,
    Table, Tables, Text, Timeouts,
};

const STRINGS: Form = OneOrMore(&Text);
const ACTIONS: &[&str] = &["allow", "deny", "reject", "pass"];
const VERDICTS: &[&str] = &["allow", "deny", "reject"];

const ROOT: Shape = Shape {
    what: "the file",
    // `version` too, but not in a file that is included.
    required: &[],
    keys: &[
        Key("version", Integer(1, 1), "Of this format. The main file must have it."),
        Key(
            "include",
            STRINGS,
            "More files, relative to this one; `*` stands for any text in the last part of a path.",
        ),
        Key(
            "tiers",
            OneOrMore(&Name),
            "Tiers of rules, the first to decide first. Default: platform, security, app.",
        ),
        Key("gateway", Table(&GATEWAY), "Settings of the whole gateway."),
        Key("identity", Table(&IDENTITY), "How people may say who they are."),
        Key("ports", Named(&PORT), "The network interfaces that the gateway owns."),
        Key("segments", Named(&SEGMENT), "The zones between which the gateway stands."),
        Key("services", Named(&SERVICE), "Names for sets of protocols and ports."),
        Key(
            "groups",
            Named(&GROUP),
            "Groups of users. Where one is declared, every group that is named must be.",
        ),
        Key("postures", Named(&POSTURE), "What a healthy device is."),
        Key("schedules", Named(&SCHEDULE), "When a rule is in force."),
        Key("portal", Table(&PORTAL), "Where people sign in."),
        Key("rule", Tables(&RULE), "What may cross, and what must not. Rules have no order."),
        Key(
            "audit",
            Tables(&AUDIT),
            "Pairs of segments between which nothing is refused, but what would be is recorded.",
        ),
        Key(
            "workload",
            Tables(&WORKLOAD),
            "Machines of which the policy itself says who they are, as if they had signed in.",
        ),
        Key("test", Tables(&TEST), "What the policy must decide. `check`, `apply` and `reload` run them."),
    ],
};

const GATEWAY: Shape = Shape {
    what: "[gateway]",
    required: &[],
    keys: &[
        Key("mode", OneOf(&["routed"]), "How the gateway stands in the network."),
        Key("control", Text, "Absolute path of the control socket. Default: /run/bulkhead/control.sock."),
        Key(
            "state",
            Text,
            "Absolute path of the directory for generations and counters. Default: /var/lib/bulkhead.",
        ),
        Key("workers", Integer(1, 64), "Threads, each with one queue of every port. Default: 1."),
        Key("connections", Integer(1024, 1 << 27), "How many IPv4 connections are tracked. Default: 262144."),
        Key(
            "connections_v6",
            Integer(1024, 1 << 27),
            "How many IPv6 connections are tracked. Default: 131072.",
        ),
        Key("half_open_percent", Integer(1, 100), "How much of a table may wait for an answer. Default: 25."),
        Key(
            "half_open_per_source",
            Integer(0, 1 << 27),
            "How many connections of one source may wait; 0 for no limit.",
        ),
        Key(
            "fragments",
            Integer(0, 1 << 18),
            "How many IP fragments may wait for the rest. Default: 8192; 0 drops all.",
        ),
        Key(
            "sessions",
            Integer(0, 1 << 20),
            "How many addresses may have somebody known behind them. Default: 16384; 0 knows nobody.",
        ),
        Key(
            "busy_poll",
            Boolean,
            "Whether workers ask the kernel for preferred busy polling. Default: true.",
        ),
        Key("local", OneOrMore(&Service), "What the gateway itself answers, on every port."),
        Key(
            "audit",
            Boolean,
            "Refuse nothing, and record what would be refused. Addresses are still checked.",
        ),
        Key("timeouts", Timeouts(&["fragment"]), "How long idle connections are kept."),
    ],
};

const IDENTITY: Shape = Shape {
    what: "[identity]",
    required: &[],
    keys: &[
        Key("session", Duration, "How long a sign-in lasts. Default: 8h."),
        Key(
            "heartbeat",
            Duration,
            "For how long nothing may be heard of a device before nothing is known of it. Default: 3m.",
        ),
        Key(
            "passwords",
            Boolean,
            "Whether users of the gateway's own store may sign in with a password. Default: true.",
        ),
        Key("providers", Named(&PROVIDER), "Identity providers at which people sign in."),
        Key("trust_domains", Named(&TRUST_DOMAIN), "Trust domains of SPIFFE, whose workloads are believed."),
        Key("transmitters", Named(&TRANSMITTER), "Who tells of users and devices that became unsafe."),
        Key(
            "radius",
            Table(&RADIUS),
            "Switches and access points that tell of whom they have authenticated.",
        ),
    ],
};

const PROVIDER: Shape = Shape {
    what: "an identity provider",
    required: &["issuer", "client_id"],
    keys: &[
        Key("label", Text, "What people call it. Default: its name."),
        Key("issuer", Text, "Its https address, to the letter as `iss` of its tokens."),
        Key("client_id", Text, "As what the gateway is known to it."),
        Key(
            "client_secret_file",
            Text,
            "Absolute path of the gateway's secret there; only root may read it.",
        ),
        Key("scopes", STRINGS, "What is asked for besides openid. Default: email, profile."),
        Key("user", Text, "The claim with the user's name. Default: email, which must be verified."),
        Key("groups", Text, "The claim with the groups, such as `groups` or `realm_access.roles`."),
        Key("ca_file", Text, "Absolute path of the roots to trust instead of Mozilla's (PEM)."),
        Key("max_age", Duration, "How long ago the user may have signed in there."),
        Key("device_code", Boolean, "Whether people may sign in at a terminal. Default: false."),
        Key("step_up_acr", STRINGS, "What a step-up asks for (`acr_values`)."),
        Key("mfa_acr", STRINGS, "Values of `acr` that tell of a second factor."),
        Key(
            "phishing_resistant_acr",
            STRINGS,
            "Values of `acr` that tell of one that cannot be phished, besides `phr` and `phrh`.",
        ),
        Key("phishing_resistant_amr", STRINGS, "Values of `amr` that tell of one that cannot be phished."),
    ],
};

const TRUST_DOMAIN: Shape = Shape {
    what: "a trust domain",
    required: &["bundle"],
    keys: &[Key(
        "bundle",
        Text,
        "Absolute path of its authorities (PEM), read again whenever an SVID is shown.",
    )],
};

const RADIUS: Shape = Shape {
    what: "[identity.radius]",
    required: &["ports", "clients"],
    keys: &[
        Key("ports", OneOrMore(&Name), "The ports of the gateway at which its clients are."),
        Key("port", Integer(1, 65535), "The UDP port. Default: 1813."),
        Key("clients", Named(&RADIUS_CLIENT), "Who may tell."),
    ],
};

const RADIUS_CLIENT: Shape = Shape {
    what: "a client of RADIUS",
    required: &["address", "secret_file"],
    keys: &[
        Key("address", Text, "The address from which it speaks."),
        Key(
            "secret_file",
            Text,
            "Absolute path of the secret that is shared with it; only root may read it.",
        ),
        Key("groups", STRINGS, "Groups of everybody whom it tells of."),
        Key("lasts", Duration, "How long a session lasts unless it is stopped before. Default: 12h."),
    ],
};

const TRANSMITTER: Shape = Shape {
    what: "a transmitter",
    required: &["issuer", "audience"],
    keys: &[
        Key("issuer", Text, "`iss` of its events."),
        Key("audience", Text, "`aud` of events for this gateway."),
        Key("keys", Text, "The https address of its keys."),
        Key("keys_file", Text, "Absolute path of its keys, a JSON Web Key Set."),
        Key("ca_file", Text, "Absolute path of the roots to trust instead of Mozilla's (PEM)."),
        Key("push_token_file", Text, "Absolute path of the token with which it may push."),
        Key("poll", Text, "The https address at which to poll for events."),
        Key("poll_token_file", Text, "Absolute path of the token with which to poll."),
        Key("posture", Name, "The posture that its word on a device's compliance is about."),
    ],
};

const PORT: Shape = Shape {
    what: "a port",
    required: &["interface"],
    keys: &[
        Key("interface", Text, "The network interface, as `ip link` names it."),
        Key(
            "local",
            OneOrMore(&Service),
            "What the gateway itself answers here, to sources of the port's segments.",
        ),
    ],
};

const PORTAL: Shape = Shape {
    what: "[portal]",
    required: &["ports", "name"],
    keys: &[
        Key("ports", OneOrMore(&Name), "At the gateway's own addresses on these ports it listens."),
        Key("port", Integer(1, 65535), "The TCP port. Default: 443."),
        Key("redirect_port", Integer(1, 65535), "A TCP port in the clear that sends browsers to the other."),
        Key(
            "certificate_port",
            Integer(1, 65535),
            "A TCP port at which devices and workloads show certificates. Default: none.",
        ),
        Key("name", Text, "Its DNS name, for the certificate and for passkeys."),
        Key("certificate", Text, "Absolute path of its certificate chain (PEM). Default: one is made."),
        Key("key", Text, "Absolute path of the certificate's key (PEM)."),
        Key("user", Text, "The unprivileged user as whom it runs. Default: nobody."),
    ],
};

const SEGMENT: Shape = Shape {
    what: "a segment",
    required: &[],
    keys: &[
        Key("port", Name, "Behind which port of the gateway it lies."),
        Key("ports", OneOrMore(&Name), "The same, when there are several."),
        Key(
            "networks",
            OneOrMore(&Network),
            "Whose addresses belong to it. The longest match over all segments decides.",
        ),
        Key(
            "require",
            Table(&FLOOR),
            "The floor: what every rule that allows into the segment asks for besides.",
        ),
        Key(
            "require_from",
            Table(&FLOOR),
            "What every rule that allows out of the segment asks for besides.",
        ),
        Key(
            "protect",
            OneOf(&["syn-cookies"]),
            "Clients must show that they are there before anything is kept of them.",
        ),
        Key("permit", STRINGS, "Unusual packets that may come from it and go to it."),
        Key(
            "quarantine",
            Boolean,
            "It is where addresses in quarantine are: without port and networks of its own.",
        ),
        Key("description", Text, "Free text."),
    ],
};

const SERVICE: Shape = Shape {
    what: "a service",
    required: &[],
    keys: &[
        Key(
            "ports",
            OneOrMore(&Service),
            "Literals, such as \"tcp/443\", \"udp/8000-8099\", \"icmp/echo-request\", \"gre\".",
        ),
        Key("services", OneOrMore(&Service), "Names of other services."),
        Key("description", Text, "Free text."),
    ],
};

const GROUP: Shape = Shape {
    what: "a group",
    required: &[],
    keys: &[
        Key("members", STRINGS, "Users."),
        Key("groups", STRINGS, "Groups whose members are members."),
        Key("description", Text, "Free text."),
    ],
};

const POSTURE: Shape = Shape { what: "a posture", required: &[], keys: &[] };
const POSTURE_KEYS: &[Key] = &[
    Key("max_age", Duration, "An older report counts as unknown, and unknown denies."),
    Key("description", Text, "Free text."),
];

const SCHEDULE: Shape = Shape {
    what: "a schedule",
    required: &[],
    keys: &[
        Key("days", STRINGS, "Such as \"mon-fri\", or a list. Default: every day."),
        Key(
            "hours",
            STRINGS,
            "Such as \"08:00-18:00\", or a list; over midnight too. Default: the whole day.",
        ),
        Key("timezone", Text, "Such as \"Europe/Zurich\". Default: UTC."),
        Key("description", Text, "Free text."),
    ],
};

const RULE: Shape = Shape {
    what: "a rule",
    required: &["name", "from", "to", "services"],
    keys: &[
        Key("name", Name, "Its identity in logs, counters and history."),
        Key("from", OneOrMore(&Name), "Segments from which connections are opened, or \"any\"."),
        Key("to", OneOrMore(&Name), "Segments to which they go, or \"any\"."),
        Key("services", OneOrMore(&Service), "Names, literals, or \"any\"."),
        Key(
            "action",
            OneOf(ACTIONS),
            "Default: allow. Deny beats reject, reject beats allow; pass leaves it to the next tier.",
        ),
        Key("tier", Name, "One of `tiers`. Default: the last."),
        Key(
            "users",
            Either(&[STRINGS, Table(&USERS)]),
            "Who: users, members of groups, or \"any\" who has signed in.",
        ),
        Key("require", Table(&REQUIRE), "What must be known to hold besides."),
        Key("schedule", Name, "When it is in force."),
        Key("starts", Moment, "From when on it is in force."),
        Key("expires", Moment, "Until when it is in force."),
        Key(
            "mode",
            OneOf(&["enforce", "audit"]),
            "In audit it decides nothing, and what it would is recorded.",
        ),
        Key("timeouts", Timeouts(&[]), "How long its idle connections are kept."),
        Key("limits", Table(&LIMITS), "What it allows of new connections."),
        Key("owner", Text, "Who answers for it."),
        Key("ticket", Text, "Where it was asked for."),
        Key("description", Text, "Free text."),
    ],
};

const USERS: Shape = Shape {
    what: "`users`",
    required: &[],
    keys: &[
        Key("users", STRINGS, "Any of these users."),
        Key("groups", STRINGS, "Or any member of these groups."),
    ],
};

macro_rules! demands {
    ($($more:expr),*) => {
        Shape {
            what: "`require`",
            required: &[],
            keys: &[
        Key("mfa_max_age", Duration, "How long ago the second factor may have been shown."),
        Key("mfa", OneOf(&["phishing-resistant"]), "Which second factor."),
        Key("posture", OneOrMore(&Name), "Of [postures]: all of them."),
        Key("risk_below", Integer(1, 100), "The risk, 0 to 100, must be less."),
        Key("devices", Table(&DEVICES), "On which device."),
                $($more,)*
            ],
        }
    };
}

const REQUIRE: Shape = demands!();
const FLOOR: Shape = demands!(Key("users", Either(&[STRINGS, Table(&USERS)]), "Who."));

const DEVICES: Shape = Shape {
    what: "`devices`",
    required: &[],
    keys: &[
        Key("tags", STRINGS, "One of these tags."),
        Key("enrolled", Boolean, "It has shown a certificate of its own."),
    ],
};

const LIMITS: Shape = Shape {
    what: "`limits`",
    required: &[],
    keys: &[
        Key("connections", Integer(1, u32::MAX as u64 - 1), "At a time."),
        Key("connections_per_source", Integer(1, u32::MAX as u64 - 1), "At a time, of one source."),
        Key("new_per_second", Integer(1, MAX_RATE as u64), "New ones a second; one second's worth at once."),
        Key("new_per_second_per_source", Integer(1, MAX_RATE as u64), "The same of one source."),
    ],
};

const AUDIT: Shape = Shape {
    what: "an audit",
    required: &["from", "to"],
    keys: &[
        Key("from", OneOrMore(&Name), "Segments, or \"any\"."),
        Key("to", OneOrMore(&Name), "Segments, or \"any\"."),
        Key("description", Text, "Free text."),
    ],
};

const WORKLOAD: Shape = Shape {
    what: "a workload",
    required: &["name"],
    keys: &[
        Key("name", Text, "What it is called as a device, in lists, logs and locks."),
        Key("addresses", STRINGS, "At which addresses it is."),
        Key("spiffe", Text, "Its SPIFFE ID: it is where it shows an X.509-SVID with that."),
        Key("mac", Text, "From which MAC address its packets come. Default: from any."),
        Key("tags", STRINGS, "Its tags, for `devices` in rules."),
        Key("enrolled", Boolean, "It counts as enrolled. Default: false."),
        Key("description", Text, "Free text."),
    ],
};

const TEST: Shape = Shape {
    what: "a test",
    required: &["name", "from", "to", "port", "expect"],
    keys: &[
        Key("name", Text, "What it says of the policy."),
        Key("from", STRINGS, "Segments or addresses."),
        Key("to", STRINGS, "Segments or addresses."),
        Key("port", OneOrMore(&Probe), "One port, such as \"tcp/443\", or \"icmp/echo-request\"."),
        Key("user", Text, "Who is signed in at the source. Default: nobody."),
        Key("groups", STRINGS, "Groups of that user, besides those declared."),
        Key("device", Table(&DEVICES), "What is known of the device."),
        Key(
            "posture",
            Either(&[STRINGS, Free(&[])]),
            "Postures that are met, or each with \"met\", \"failed\" or \"unknown\".",
        ),
        Key("mfa_age", Duration, "Since the second factor was shown. Default: none was."),
        Key("mfa", OneOf(&["phishing-resistant"]), "Which second factor."),
        Key("risk", Integer(0, 100), "Default: unknown."),
        Key("session", OneOf(&["expired"]), "The session has ended."),
        Key("at", Moment, "When. Default: now."),
        Key(
            "expect",
            Either(&[OneOf(VERDICTS), Table(&EXPECT)]),
            "The verdict, or verdict, reason and rule.",
        ),
    ],
};

const EXPECT: Shape = Shape {
    what: "`expect`",
    required: &["verdict"],
    keys: &[
        Key("verdict", OneOf(VERDICTS), "The verdict."),
        Key("reason", Text, "Why it is refused, as `drops` names it."),
        Key("rule", Name, "The rule that decides, or comes nearest."),
    ],
};

/// Letters, digits, `.`, `_`, `-`, a letter or digit first.
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
/// One port or protocol.
const PROBE: &str = "^((tcp|udp)/[0-9]{1,5}|icmp/echo-request|icmpv6/echo-request|gre|esp|ah|ipip|6in4|sctp|proto/[0-9]{1,3})$";
/// A literal, or a name of a service.
const SERVICES: &str = "^((tcp|udp)/[0-9]{1,5}(-[0-9]{1,5})?|icmp/echo-request|icmpv6/echo-request|proto/[0-9]{1,3}|[A-Za-z0-9][A-Za-z0-9._-]{0,63})$";

/// The schema of a configuration file, JSON Schema draft 7, which editors understand best. Lenient where two drafts of
/// reading differ: what it refuses the reader refuses too.
pub fn json_schema() -> Value {
    let mut schema = table(&ROOT);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "Bulkhead configuration".into();
    schema
}

fn table(shape: &Shape) -> Value {
    let properties: Map<String, Value> = shape
        .keys
        .iter()
        .map(|Key(name, form, about)| ((*name).to_owned(), described(value(form), about)))
        .collect();
    json!({
        "type": "object", "properties": properties, "required": shape.required, "additionalProperties": false,
    })
}

fn described(mut value: Value, about: &str) -> Value {
    value["description"] = about.into();
    value
}

fn value(form: &Form) -> Value {
    match form {
        Text => json!({ "type": "string" }),
        Name => json!({ "type": "string", "pattern": NAME }),
        Duration => json!({ "type": "string", "pattern": "^([0-9]+(d|h|m|s|ms))+$" }),
        // Editors see TOML's dates as strings of this format.
        Moment => json!({ "type": "string", "format": "date-time" }),
        Network => json!({ "type": "string", "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$" }),
        Service => json!({ "type": "string", "pattern": SERVICES }),
        Probe => json!({ "type": "string", "pattern": PROBE }),
        Boolean => json!({ "type": "boolean" }),
        Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        OneOf(texts) => json!({ "enum": texts }),
        OneOrMore(form) => {
            let one = value(form);
            json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
        }
        Either(forms) => json!({ "anyOf": forms.iter().map(value).collect::<Vec<_>>() }),
        Table(shape) => table(shape),
        Named(shape) => json!({
            "type": "object", "additionalProperties": named(shape),
        }),
        Tables(shape) => json!({ "type": "array", "items": table(shape) }),
        Timeouts(more) => {
            let one = |name: &&str| ((*name).to_owned(), value(&Duration));
            let properties: Map<String, Value> = TIMEOUTS.iter().chain(*more).map(one).collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
        Free(keys) => free(keys),
    }
}

/// A posture holds checks under names of its own.
fn named(shape: &Shape) -> Value {
    if shape.what == POSTURE.what {
        return free(POSTURE_KEYS);
    }
    let mut table = table(shape);
    if shape.what == SEGMENT.what {
        // The quarantine has none of its own.
        table["anyOf"] = json!([{ "required": ["networks"] }, { "required": ["quarantine"] }]);
    }
    table
}

fn free(keys: &[Key]) -> Value {
    let known: Map<String, Value> = keys
        .iter()
        .map(|Key(name, form, about)| ((*name).to_owned(), described(value(form), about)))
        .collect();
    json!({ "type": "object", "properties": known })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;

    type Keys = BTreeMap<&'static str, BTreeSet<&'static str>>;

    fn collect(form: &Form, all: &mut Keys) {
        match form {
            Table(shape) | Named(shape) | Tables(shape) => {
                all.entry(shape.what).or_default().extend(shape.keys.iter().map(|key| key.0));
                shape.keys.iter().for_each(|key| collect(&key.1, all));
            }
            OneOrMore(form) => collect(form, all),
            Either(forms) => forms.iter().for_each(|form| collect(form, all)),
            _ => {}
        }
    }

    /// Every table there is, with nothing in it or little.
    const EVERY_TABLE: &str = r#"
        version = 1
        identity = { session = 1, providers.p = {}, transmitters.t = {}, trust_domains.t = {}, radius.clients.c = {} }
        gateway.local = "tcp/22"
        ports.p.interface = "eth1"
        segments.s = { require = { users = { users = "u" }, devices = {} } }
        services.v = {}
        groups.g = {}
        schedules.t = {}
        portal = {}
        audit = [{}]
        workload = [{}]
        rule = [{ users = { groups = "g" }, limits = {}, require = {} }]
        test = [{ device = {}, expect = {} }]
    "#;

    #[test]
    fn it_knows_the_keys_that_the_reader_knows_and_no_others() {
        let mut ours = Keys::new();
        collect(&Table(&ROOT), &mut ours);
        ours.remove(POSTURE.what);
        crate::config::read::KNOWN.take();
        assert!(crate::config::parse("every", EVERY_TABLE).is_err());
        assert_eq!(crate::config::read::KNOWN.take(), ours);
    }

    /// As editors see TOML: dates are strings.
    fn to_json(value: toml::Value) -> Value {
        match value {
            toml::Value::Datetime(moment) => moment.to_string().into(),
            toml::Value::Array(items) => items.into_iter().map(to_json).collect(),
            toml::Value::Table(table) => {
                Value::Object(table.into_iter().map(|(key, value)| (key, to_json(value))).collect())
            }
            toml::Value::String(text) => text.into(),
            toml::Value::Integer(number) => number.into(),
            toml::Value::Float(number) => number.into(),
            toml::Value::Boolean(flag) => flag.into(),
        }
    }

    fn errors(text: &str) -> Vec<String> {
        let schema = jsonschema::options().should_validate_formats(true).build(&json_schema()).unwrap();
        let value = to_json(toml::Value::Table(text.parse().unwrap()));
        schema.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    #[test]
    fn it_accepts_every_configuration_there_is() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        let mut seen = 0;
        for entry in std::fs::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let found = errors(&std::fs::read_to_string(&path).unwrap());
                assert_eq!(found, [""; 0], "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen >= 3);
        let readme = include_str!("../../../configs/README.md");
        let whole = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        assert_eq!(errors(whole), [""; 0]);
    }

    #[test]
    fn it_refuses_what_the_reader_refuses() {
        let with = |line: &str| {
            format!("[[rule]]\nname = \"a\"\nfrom = \"a\"\nto = \"b\"\nservices = \"any\"\n{line}\n")
        };
        assert_eq!(errors(&with("")), [""; 0]);
        for line in [
            "acton = \"deny\"",
            "action = \"drop\"",
            "require = { risk_below = 0 }",
            "require = { mfa_max_age = \"soon\" }",
            "limits = { connections = 0 }",
            "expires = \"2027\"",
            "timeouts = { fragment = \"1s\" }",
            "owner = 5",
        ] {
            assert_ne!(errors(&with(line)), [""; 0], "{line}");
        }
        for text in ["[[rule]]\nname = \"a\"", "[segments.a]\nport = \"b\"", "rule = 5"] {
            assert_ne!(errors(text), [""; 0], "{text}");
        }
    }
}
