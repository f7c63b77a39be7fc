//! The configuration as written: every table and key, nothing resolved, nothing defaulted.

use std::time::Duration;

use bulkhead_dataplane::connection::{MAX_RATE, MAX_TIMEOUT_MS};
use jiff::Timestamp;
use toml::de::DeTable;

use super::diagnostics::{At, Located, nearest, quoted};
use super::identity::{Asker, Group, Posture, Require, Schedule, Users};
use super::portal::{self, Portal};
use super::read::{Reader, Table, Value};
use super::sign_in::{SignIn, sign_in};
use super::values;

/// A string with its place.
pub type Text = Located<String>;

/// All files together.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `version = 1`.
    pub version: Option<Located<u64>>,
    /// `include = ["policy.d/*.toml"]`.
    pub include: Vec<Text>,
    /// `tiers = ["platform", "security", "app"]`: the first decides first.
    pub tiers: Option<Vec<Text>>,
    /// `[gateway]`.
    pub gateway: Gateway,
    /// `[identity]`.
    pub sign_in: SignIn,
    /// `[ports.NAME]`.
    pub ports: Vec<Port>,
    /// `[segments.NAME]`.
    pub segments: Vec<Segment>,
    /// `[services.NAME]`.
    pub services: Vec<ServiceGroup>,
    /// `[groups.NAME]`.
    pub groups: Vec<Group>,
    /// `[postures.NAME]`.
    pub postures: Vec<Posture>,
    /// `[schedules.NAME]`.
    pub schedules: Vec<Schedule>,
    /// `[portal]`.
    pub portal: Option<Portal>,
    /// `[[rule]]`.
    pub rules: Vec<Rule>,
    /// `[[audit]]`.
    pub audits: Vec<Audit>,
    /// `[[workload]]`.
    pub workloads: Vec<Workload>,
    /// `[[test]]`.
    pub tests: Vec<Test>,
}

/// `[gateway]`: settings of the whole gateway.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    /// `control`: path of the control socket.
    pub control: Option<Text>,
    /// `state`: directory of the policies that were in force.
    pub state: Option<Text>,
    /// `workers`: threads, each with one queue of every port.
    pub workers: Option<Located<u64>>,
    /// `connections`: capacity of the IPv4 connection table.
    pub connections: Option<Located<u64>>,
    /// `connections_v6`: capacity of the IPv6 connection table.
    pub connections_v6: Option<Located<u64>>,
    /// `half_open_percent`: the largest share of the table that may wait for its handshake.
    pub half_open_percent: Option<Located<u64>>,
    /// `half_open_per_source`: how many half-open connections one source may have; 0 for no limit.
    pub half_open_per_source: Option<Located<u64>>,
    /// `fragments`: how many of them may wait for the rest of their datagrams.
    pub fragments: Option<Located<u64>>,
    /// `sessions`: how many addresses may have somebody known behind them.
    pub sessions: Option<Located<u64>>,
    /// `busy_poll`.
    pub busy_poll: Option<Located<bool>>,
    /// `audit`: nothing is refused for want of a rule or a demand; it is logged.
    pub audit: Option<Located<bool>>,
    /// `local`: services of the gateway itself on every port.
    pub local: Vec<Text>,
    /// `[gateway.timeouts]`: name and duration.
    pub timeouts: Vec<(Text, Duration)>,
}

/// `[ports.NAME]`.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: Text,
    /// `interface`.
    pub interface: Option<Text>,
    /// `local`: services of the gateway itself on this port.
    pub local: Vec<Text>,
}

/// `[segments.NAME]`.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its name.
    pub name: Text,
    /// `port` or `ports`.
    pub ports: Vec<Text>,
    /// `networks`.
    pub networks: Vec<Text>,
    /// `quarantine`: it is where addresses in quarantine are.
    pub quarantine: Option<Located<bool>>,
    /// `protect`: how its servers are protected against SYN floods.
    pub protect: Option<Text>,
    /// `permit`: unusual packets that may come from it and go to it.
    pub permit: Vec<Text>,
    /// `require`: what every rule into it asks for besides.
    pub require: Option<Box<Require>>,
    /// `require_from`: what every rule out of it asks for besides.
    pub require_from: Option<Box<Require>>,
    /// `description`.
    pub description: Option<Text>,
}

/// `[services.NAME]`.
#[derive(Clone, Debug)]
pub struct ServiceGroup {
    /// Its name.
    pub name: Text,
    /// `ports` and `services` together: literals, and names of other services.
    pub members: Vec<Text>,
}

/// `[[rule]]`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where its header stands.
    pub at: At,
    /// `name`.
    pub name: Option<Text>,
    /// `from`: segments or "any".
    pub from: Vec<Text>,
    /// `to`: segments or "any".
    pub to: Vec<Text>,
    /// `services`: names or literals.
    pub services: Vec<Text>,
    /// `action`.
    pub action: Option<Text>,
    /// `tier`.
    pub tier: Option<Text>,
    /// `users`.
    pub users: Option<Box<Users>>,
    /// `require`.
    pub require: Option<Box<Require>>,
    /// `mode = "audit"`.
    pub audit: bool,
    /// `starts`.
    pub starts: Option<Located<Timestamp>>,
    /// `expires`.
    pub expires: Option<Located<Timestamp>>,
    /// `schedule`.
    pub schedule: Option<Text>,
    /// `timeouts`: name and duration.
    pub timeouts: Vec<(Text, Duration)>,
    /// `limits`.
    pub limits: Option<Limits>,
    /// `owner`.
    pub owner: Option<Text>,
    /// `ticket`.
    pub ticket: Option<Text>,
    /// `description`.
    pub description: Option<Text>,
}

/// `[[audit]]`: between these segments nothing is refused, only logged.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Where its header stands.
    pub at: At,
    /// `from`: segments or "any".
    pub from: Vec<Text>,
    /// `to`: segments or "any".
    pub to: Vec<Text>,
}

/// `[[workload]]`: a machine of which the policy itself says who it is.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where its header stands.
    pub at: At,
    /// `name`.
    pub name: Option<Text>,
    /// `addresses`.
    pub addresses: Vec<Text>,
    /// `spiffe`: a SPIFFE ID.
    pub spiffe: Option<Text>,
    /// `mac`.
    pub mac: Option<Text>,
    /// `tags`.
    pub tags: Vec<Text>,
    /// `enrolled`.
    pub enrolled: Option<Located<bool>>,
}

/// `limits = { connections = 1000, … }`: what a rule allows of new connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Where it stands.
    pub at: At,
    /// `connections`: at a time.
    pub connections: Option<Located<u64>>,
    /// `connections_per_source`: at a time, of one source.
    pub connections_per_source: Option<Located<u64>>,
    /// `new_per_second`.
    pub new_per_second: Option<Located<u64>>,
    /// `new_per_second_per_source`.
    pub new_per_second_per_source: Option<Located<u64>>,
}

/// `[[test]]`.
#[derive(Clone, Debug)]
pub struct Test {
    /// Where its header stands.
    pub at: At,
    /// `name`.
    pub name: Option<Text>,
    /// `from`: segments or addresses.
    pub from: Vec<Text>,
    /// `to`: segments or addresses.
    pub to: Vec<Text>,
    /// `port`: ports, ICMP requests or protocols.
    pub ports: Vec<Text>,
    /// Who asks, and when.
    pub asker: Box<Asker>,
    /// `expect`.
    pub expect: Option<Expect>,
}

/// `expect = "allow"` or `expect = { verdict = "deny", reason = "no_rule", rule = "NAME" }`.
#[derive(Clone, Debug)]
pub struct Expect {
    /// `verdict`.
    pub verdict: Option<Text>,
    /// `reason`.
    pub reason: Option<Text>,
    /// `rule`.
    pub rule: Option<Text>,
}

/// The names in `[gateway.timeouts]` and in a rule's `timeouts`.
pub const TIMEOUTS: &[&str] = &[
    "tcp_handshake",
    "tcp_established",
    "tcp_closing",
    "tcp_time_wait",
    "tcp_closed",
    "udp_unreplied",
    "udp_replied",
    "icmp",
];
/// The name that stands in `[gateway.timeouts]` besides: until a datagram is whole, it has no rule.
const FRAGMENT_TIMEOUT: &str = "fragment";
/// The longest time-out: 12 days, just under the connection table's own limit.
const TIMEOUT_LIMIT: Duration = Duration::from_secs(12 * 86_400);
const _: () = assert!(TIMEOUT_LIMIT.as_millis() < MAX_TIMEOUT_MS as u128);

/// Reads one file's root table into the configuration.
pub(super) fn root(reader: &mut Reader<'_>, table: &DeTable<'_>, at: At, main: bool, config: &mut Config) {
    let mut root = Table::new(table, "the file", at);
    let version = reader.integer(root.take("version"), 0..u64::MAX);
    if let Some(version) = &version
        && version.value != 1
    {
        let message = format!("version {} is not known", version.value);
        reader.report.error(version.at, message).hint("this version of Bulkhead reads `version = 1`");
    }
    let missing = root_is_missing_version(table);
    if main && missing {
        let at = At { end: at.start, ..at };
        reader.report.error(at, "`version` is missing").hint("begin the file with `version = 1`");
    }
    config.version = config.version.take().or(version);
    let include = root.take("include");
    let gateway_value = root.take("gateway");
    let tiers = root.take("tiers");
    let portal_value = root.take("portal");
    let identity = root.take("identity");
    if main {
        config.tiers = reader.strings(tiers);
        config.include = reader.strings(include).unwrap_or_default();
        config.gateway = gateway(reader, gateway_value);
        config.sign_in = sign_in(reader, identity);
        config.portal = portal::portal(reader, portal_value);
    } else {
        let main_only = [
            (include, "`include`"),
            (gateway_value, "`[gateway]`"),
            (portal_value, "`[portal]`"),
            (identity, "`[identity]`"),
            (tiers, "`tiers`"),
        ];
        for (value, what) in main_only {
            if let Some(value) = value {
                let at = reader.at(value.span());
                let message = format!("{what} does not belong in an included file");
                reader.report.error(at, message).hint("move it to the main file");
            }
        }
    }
    config.ports.extend(ports(reader, root.take("ports")));
    config.segments.extend(segments(reader, root.take("segments")));
    config.services.extend(services(reader, root.take("services")));
    config.groups.extend(reader.groups(root.take("groups")));
    config.postures.extend(reader.postures(root.take("postures")));
    config.schedules.extend(reader.schedules(root.take("schedules")));
    config.rules.extend(rules(reader, root.take("rule")));
    config.audits.extend(audits(reader, root.take("audit")));
    config.workloads.extend(workloads(reader, root.take("workload")));
    config.tests.extend(tests(reader, root.take("test")));
    reader.finish(root, &["floor", "floors", "users", "devices"]);
}

/// A version of the wrong type has been reported already.
fn root_is_missing_version(table: &DeTable<'_>) -> bool {
    table.get("version").is_none()
}

/// Bytes of `sun_path` (unix(7)), its NUL included.
const SOCKET_PATH: usize = 108;
/// Leaves room in PATH_MAX (4096, linux/limits.h) for the names of the files in it.
const STATE_PATH: usize = 3840;

fn gateway(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Gateway {
    let Some(mut table) = reader.table(value, "[gateway]") else { return Gateway::default() };
    if let Some(mode) = reader.string(table.take("mode")) {
        match mode.value.as_str() {
            "routed" => {}
            "bridged" => {
                let message = "`mode = \"bridged\"` is not supported by this version yet";
                reader.report.error(mode.at, message).hint("use \"routed\"");
            }
            other => {
                let message = format!("{} is not a mode", quoted(other));
                reader.report.error(mode.at, message).hint("use \"routed\"");
            }
        }
    }
    let control = reader.string(table.take("control"));
    if let Some(path) = &control
        && !(path.value.starts_with('/') && path.value.len() < SOCKET_PATH)
    {
        let message = format!("{} cannot be the control socket", quoted(&path.value));
        let hint = format!("write an absolute path of fewer than {SOCKET_PATH} bytes");
        reader.report.error(path.at, message).hint(hint);
    }
    let state = reader.string(table.take("state"));
    if let Some(path) = &state
        && !(path.value.starts_with('/') && path.value.len() < STATE_PATH)
    {
        let message = format!("{} cannot be the state directory", quoted(&path.value));
        let hint = format!("write an absolute path of fewer than {STATE_PATH} bytes");
        reader.report.error(path.at, message).hint(hint);
    }
    let gateway = Gateway {
        control,
        state,
        workers: reader.integer(table.take("workers"), 1..65),
        connections: reader.integer(table.take("connections"), 1024..(1 << 27) + 1),
        connections_v6: reader.integer(table.take("connections_v6"), 1024..(1 << 27) + 1),
        half_open_percent: reader.integer(table.take("half_open_percent"), 1..101),
        half_open_per_source: reader.integer(table.take("half_open_per_source"), 0..(1 << 27) + 1),
        fragments: reader.integer(table.take("fragments"), 0..(1 << 18) + 1),
        sessions: reader.integer(table.take("sessions"), 0..(1 << 20) + 1),
        busy_poll: reader.boolean(table.take("busy_poll")),
        audit: reader.boolean(table.take("audit")),
        local: reader.strings(table.take("local")).unwrap_or_default(),
        timeouts: timeouts(reader, table.take("timeouts"), "[gateway.timeouts]", &[FRAGMENT_TIMEOUT]),
    };
    reader.finish(table, &["floors", "require", "identity", "vlans"]);
    gateway
}

/// Those of [`TIMEOUTS`] and `more`.
fn timeouts(
    reader: &mut Reader<'_>,
    value: Option<&Value<'_>>,
    what: &'static str,
    more: &[&'static str],
) -> Vec<(Text, Duration)> {
    let Some(mut table) = reader.table(value, what) else { return Vec::new() };
    let entries: Vec<_> = table.entries().collect();
    let names = [TIMEOUTS, more].concat();
    for name in &names {
        table.take(name);
    }
    let mut list = Vec::new();
    for (key, value) in entries {
        if !names.contains(&key.get_ref().as_ref()) {
            continue;
        }
        let Some(text) = reader.string(Some(value)) else { continue };
        match values::duration(&text.value) {
            Ok(duration) if duration > TIMEOUT_LIMIT => {
                let message = format!("{} is too long for a time-out", quoted(&text.value));
                reader.report.error(text.at, message).hint("12 days are the limit");
            }
            Ok(duration) => {
                let name = Located { value: key.get_ref().to_string(), at: reader.at(key.span()) };
                list.push((name, duration));
            }
            Err(wrong) => {
                reader.report.error(text.at, wrong.message).maybe_hint(wrong.hint);
            }
        }
    }
    reader.finish(table, &[]);
    list
}

fn ports(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<Port> {
    let mut list = Vec::new();
    for (name, mut table) in reader.named(value, "a port") {
        list.push(Port {
            name,
            interface: reader.string(table.take("interface")),
            local: reader.strings(table.take("local")).unwrap_or_default(),
        });
        reader.finish(table, &["vlans", "native_vlan"]);
    }
    list
}

fn segments(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<Segment> {
    let mut list = Vec::new();
    for (name, mut table) in reader.named(value, "a segment") {
        let port = reader.string(table.take("port"));
        let ports = reader.strings(table.take("ports"));
        if let (Some(port), Some(_)) = (&port, &ports) {
            reader
                .report
                .error(port.at, "`port` and `ports` are both given")
                .hint("name all of them in `ports`");
        }
        let networks = reader.strings(table.take("networks"));
        let quarantine = reader.boolean(table.take("quarantine"));
        let is_quarantine = quarantine.as_ref().is_some_and(|quarantine| quarantine.value);
        if let Some(quarantine) = quarantine.as_ref().filter(|_| is_quarantine)
            && (port.is_some() || ports.is_some() || networks.is_some())
        {
            let message = format!(
                "segment {} is the quarantine, and has no port or networks of its own",
                quoted(&name.value)
            );
            let hint = "addresses come into it by `bulkhead quarantine add`; take `port` and `networks` out";
            reader.report.error(quarantine.at, message).hint(hint);
        }
        if !is_quarantine && networks.is_none() && table.take("networks").is_none() {
            let message = format!("segment {} has no `networks`", quoted(&name.value));
            reader
                .report
                .error(name.at, message)
                .hint("say which addresses speak there: `networks = [\"10.1.0.0/24\"]`");
        }
        let has_port = is_quarantine || port.is_some() || ports.is_some();
        if !has_port && table.take("port").is_none() && table.take("ports").is_none() {
            let message = format!("segment {} has no `port`", quoted(&name.value));
            reader
                .report
                .error(name.at, message)
                .hint("say behind which port of the gateway it lies: `port = \"NAME\"`");
        }
        list.push(Segment {
            name,
            ports: ports.unwrap_or_default().into_iter().chain(port).collect(),
            networks: networks.unwrap_or_default(),
            quarantine,
            protect: protect(reader, table.take("protect")),
            permit: reader.strings(table.take("permit")).unwrap_or_default(),
            require: reader.require(table.take("require"), true),
            require_from: reader.require(table.take("require_from"), true),
            description: reader.string(table.take("description")),
        });
        reader.finish(table, &["vlans", "vlan", "floor", "floors", "users", "mode"]);
    }
    list
}

fn protect(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Option<Text> {
    let protect = reader.string(value)?;
    if protect.value != "syn-cookies" {
        let message = format!("{} is no way to protect a segment", quoted(&protect.value));
        reader.report.error(protect.at, message).hint("use \"syn-cookies\", or leave it out");
    }
    Some(protect)
}

fn services(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<ServiceGroup> {
    let mut list = Vec::new();
    for (name, mut table) in reader.named(value, "a service") {
        let ports = reader.strings(table.take("ports"));
        let groups = reader.strings(table.take("services"));
        if table.take("ports").is_none() && table.take("services").is_none() {
            let message = format!("service {} has neither `ports` nor `services`", quoted(&name.value));
            reader.report.error(name.at, message).hint("for example `ports = [\"tcp/443\"]`");
        }
        let members = ports.into_iter().chain(groups).flatten().collect();
        // Text that explains; read to be checked, used by nobody.
        reader.string(table.take("description"));
        list.push(ServiceGroup { name, members });
        reader.finish(table, &["application", "applications", "timeout"]);
    }
    list
}

fn rules(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<Rule> {
    let mut list = Vec::new();
    for mut table in reader.tables(value, "a rule") {
        for key in ["name", "from", "to", "services"] {
            if table.take(key).is_none() {
                reader.report.error(table.at, format!("this rule has no `{key}`"));
            }
        }
        list.push(Rule {
            at: table.at,
            name: reader.string(table.take("name")),
            from: reader.strings(table.take("from")).unwrap_or_default(),
            to: reader.strings(table.take("to")).unwrap_or_default(),
            services: reader.strings(table.take("services")).unwrap_or_default(),
            action: reader.string(table.take("action")),
            tier: reader.string(table.take("tier")),
            users: reader.users(table.take("users")).map(Box::new),
            require: reader.require(table.take("require"), false),
            audit: mode(reader, table.take("mode")),
            starts: reader.moment(table.take("starts")),
            expires: reader.moment(table.take("expires")),
            schedule: reader.string(table.take("schedule")),
            timeouts: timeouts(reader, table.take("timeouts"), "`timeouts`", &[]),
            limits: limits(reader, table.take("limits")),
            owner: reader.string(table.take("owner")),
            ticket: reader.string(table.take("ticket")),
            description: reader.string(table.take("description")),
        });
        reader.finish(table, &["groups", "devices", "floor", "floors", "vlans", "log", "rate"]);
    }
    list
}

/// Whether a rule is only tried.
fn mode(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> bool {
    let Some(mode) = reader.string(value) else { return false };
    if !["enforce", "audit"].contains(&mode.value.as_str()) {
        let hint = nearest(&mode.value, ["enforce", "audit"]);
        reader
            .report
            .error(mode.at, format!("{} is not a mode", quoted(&mode.value)))
            .hint("use \"enforce\" or \"audit\"")
            .maybe_hint(hint);
    }
    mode.value == "audit"
}

fn limits(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Option<Limits> {
    let mut table = reader.table(value, "`limits`")?;
    let at = table.at;
    let before = reader.report.count();
    let connections = 1..u64::from(u32::MAX);
    let rate = 1..u64::from(MAX_RATE) + 1;
    let limits = Limits {
        at,
        connections: reader.integer(table.take("connections"), connections.clone()),
        connections_per_source: reader.integer(table.take("connections_per_source"), connections),
        new_per_second: reader.integer(table.take("new_per_second"), rate.clone()),
        new_per_second_per_source: reader.integer(table.take("new_per_second_per_source"), rate),
    };
    let is_empty = table.entries().next().is_none();
    reader.finish(table, &["bytes_per_second", "packets_per_second"]);
    if is_empty && reader.report.count() == before {
        reader
            .report
            .error(at, "`limits` limits nothing")
            .hint("for example `limits = { connections_per_source = 20 }`, or leave it out");
    }
    Some(limits)
}

fn audits(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<Audit> {
    let mut list = Vec::new();
    for mut table in reader.tables(value, "an audit") {
        for key in ["from", "to"] {
            if table.take(key).is_none() {
                reader.report.error(table.at, format!("this audit has no `{key}`"));
            }
        }
        list.push(Audit {
            at: table.at,
            from: reader.strings(table.take("from")).unwrap_or_default(),
            to: reader.strings(table.take("to")).unwrap_or_default(),
        });
        reader.string(table.take("description"));
        reader.finish(table, &["services", "expires", "users"]);
    }
    list
}

fn workloads(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<Workload> {
    let mut list = Vec::new();
    for mut table in reader.tables(value, "a workload") {
        if table.take("name").is_none() {
            reader.report.error(table.at, "this workload has no `name`");
        }
        if table.take("addresses").is_none() && table.take("spiffe").is_none() {
            let hint = "say where it is, or what it shows: `spiffe = \"spiffe://example.org/billing\"`";
            reader.report.error(table.at, "this workload has no `addresses`").hint(hint);
        }
        list.push(Workload {
            at: table.at,
            name: reader.string(table.take("name")),
            addresses: reader.strings(table.take("addresses")).unwrap_or_default(),
            spiffe: reader.string(table.take("spiffe")),
            mac: reader.string(table.take("mac")),
            tags: reader.strings(table.take("tags")).unwrap_or_default(),
            enrolled: reader.boolean(table.take("enrolled")),
        });
        reader.string(table.take("description"));
        reader.finish(table, &["certificate", "posture", "expires", "user", "groups"]);
    }
    list
}

fn tests(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Vec<Test> {
    let mut list = Vec::new();
    for mut table in reader.tables(value, "a test") {
        for key in ["name", "from", "to", "port", "expect"] {
            if table.take(key).is_none() {
                reader.report.error(table.at, format!("this test has no `{key}`"));
            }
        }
        list.push(Test {
            at: table.at,
            name: reader.string(table.take("name")),
            from: reader.strings(table.take("from")).unwrap_or_default(),
            to: reader.strings(table.take("to")).unwrap_or_default(),
            ports: reader.strings(table.take("port")).unwrap_or_default(),
            expect: expect(reader, table.take("expect")),
            asker: Box::new(reader.asker(&mut table)),
        });
        reader.finish(table, &[]);
    }
    list
}

fn expect(reader: &mut Reader<'_>, value: Option<&Value<'_>>) -> Option<Expect> {
    let value = value?;
    let expect = if value.get_ref().as_str().is_some() {
        Expect { verdict: reader.string(Some(value)), reason: None, rule: None }
    } else {
        let mut table = reader.table(Some(value), "`expect`")?;
        if table.take("verdict").is_none() {
            reader.report.error(table.at, "`expect` has no `verdict`");
        }
        let expect = Expect {
            verdict: reader.string(table.take("verdict")),
            reason: reader.string(table.take("reason")),
            rule: reader.string(table.take("rule")),
        };
        reader.finish(table, &[]);
        expect
    };
    if let Some(verdict) = &expect.verdict
        && !["allow", "deny", "reject"].contains(&verdict.value.as_str())
    {
        let hint = nearest(&verdict.value, ["allow", "deny", "reject"]);
        reader
            .report
            .error(verdict.at, format!("{} is not a verdict", quoted(&verdict.value)))
            .hint("use \"allow\", \"deny\" or \"reject\"")
            .maybe_hint(hint);
    }
    Some(expect)
}
