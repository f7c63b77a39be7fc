//! What rules, floors and tests say of users, devices and times, as written.

use std::time::Duration;

use jiff::Timestamp;

use super::diagnostics::{At, Located, quoted};
use super::read::{Reader, Table, Value};
use super::schema::Text;
use super::values::{self, Wrong};

/// `users = "alice"`, `["alice", "bob"]`, `"any"`, or `{ users = […], groups = […] }`.
#[derive(Clone, Debug)]
pub struct Users {
    /// Where it stands.
    pub at: At,
    /// Users by name; "any" stands alone.
    pub users: Vec<Text>,
    /// Groups.
    pub groups: Vec<Text>,
}

/// `devices = { tags = […], enrolled = true }`.
#[derive(Clone, Debug)]
pub struct Devices {
    /// Where it stands.
    pub at: At,
    /// `enrolled`.
    pub enrolled: bool,
    /// `tags`.
    pub tags: Vec<Text>,
}

/// `require = { … }` of a rule or a floor.
#[derive(Clone, Debug)]
pub struct Require {
    /// Where it stands.
    pub at: At,
    /// `users`, of a floor; a rule has a key of its own.
    pub users: Option<Users>,
    /// `devices`.
    pub devices: Option<Devices>,
    /// `mfa = "phishing-resistant"`.
    pub phishing_resistant: bool,
    /// `mfa_max_age`, seconds.
    pub mfa_max_age_s: Option<u32>,
    /// `posture`: names.
    pub postures: Vec<Text>,
    /// `risk_below`, 1 to 100.
    pub risk_below: Option<u8>,
}

/// `[groups.NAME]`.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: Text,
    /// `members`: users.
    pub members: Vec<Text>,
    /// `groups`: their members are this group's too.
    pub groups: Vec<Text>,
    /// `description`.
    pub description: Option<Text>,
}

/// What a posture says of one property of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It must be so.
    Flag(bool),
    /// It may be so old: of a key that ends in `max_age`.
    MaxAge(Duration),
    /// It must be this.
    Text(String),
    /// All of these must be there: `processes = ["falcond"]`.
    Texts(Vec<String>),
}

/// `[postures.NAME]`.
#[derive(Clone, Debug)]
pub struct Posture {
    /// Its name.
    pub name: Text,
    /// `max_age`: an older report counts as unknown.
    pub max_age: Option<Duration>,
    /// All other keys.
    pub checks: Vec<(Text, Check)>,
    /// `description`.
    pub description: Option<Text>,
}

/// `[schedules.NAME]`.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its name.
    pub name: Text,
    /// `days`: "mon" or "mon-fri"; empty for every day.
    pub days: Vec<Text>,
    /// `hours`: "08:00-18:00"; empty for the whole day.
    pub hours: Vec<Text>,
    /// `timezone`.
    pub timezone: Option<Text>,
    /// `description`.
    pub description: Option<Text>,
}

/// How a test's device stands to a posture.
pub type PostureState = Located<bulkhead_dataplane::policy::conditions::Posture>;

/// What a test says of who asks, and when.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// `user`.
    pub user: Option<Text>,
    /// `groups`: what the identity provider says; declared members are in their groups anyway.
    pub groups: Vec<Text>,
    /// `device`.
    pub device: Option<Devices>,
    /// `posture`.
    pub postures: Vec<(Text, PostureState)>,
    /// `mfa_age`, seconds.
    pub mfa_age_s: Option<u32>,
    /// `mfa = "phishing-resistant"`.
    pub phishing_resistant: bool,
    /// `risk`, 0 to 100.
    pub risk: Option<u8>,
    /// `session = "expired"`.
    pub expired: bool,
    /// `at`: the moment of the check where it is left out.
    pub at: Option<Located<Timestamp>>,
}

impl Reader<'_> {
    /// A duration of whole seconds.
    pub(super) fn seconds(&mut self, value: Option<&Value<'_>>) -> Option<u32> {
        let text = self.string(value)?;
        self.valid(text.at, values::seconds(&text.value))
    }

    /// The value, unless something is wrong with it, which is reported.
    fn valid<T>(&mut self, at: At, result: Result<T, Wrong>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.report.error(at, wrong.message).maybe_hint(wrong.hint);
                None
            }
        }
    }

    /// A moment: a date and a time with their offset from UTC.
    pub(super) fn moment(&mut self, value: Option<&Value<'_>>) -> Option<Located<Timestamp>> {
        let value = value?;
        let at = self.at(value.span());
        let Some(written) = value.get_ref().as_datetime() else {
            let quotes = if value.get_ref().is_str() { "without quotation marks" } else { "for example" };
            let hint = format!("{quotes}: `2027-01-31T00:00:00Z`");
            self.mismatch(value, "a date and a time").hint(hint);
            return None;
        };
        if written.date.is_none() || written.time.is_none() || written.offset.is_none() {
            let day = written.date.map_or_else(|| "2027-01-31".to_owned(), |date| date.to_string());
            let time = written.time.map_or_else(|| "00:00:00".to_owned(), |time| time.to_string());
            let hint = format!("with its offset from UTC: `{day}T{time}Z` or `{day}T{time}+01:00`");
            self.report.error(at, format!("{} is not one moment", quoted(&written.to_string()))).hint(hint);
            return None;
        }
        match written.to_string().parse() {
            Ok(moment) => Some(Located { value: moment, at }),
            Err(_) => {
                let message = format!("{} is no moment in time", quoted(&written.to_string()));
                self.report.error(at, message).hint("for example `2027-01-31T00:00:00Z`");
                None
            }
        }
    }

    /// A user, a group or a tag: what an identity provider calls it, so nearly anything.
    pub(super) fn identities(&mut self, value: Option<&Value<'_>>, what: &str) -> Vec<Text> {
        let names = self.strings(value).unwrap_or_default();
        for name in &names {
            if let Err(wrong) = values::identity(&name.value, what) {
                self.report.error(name.at, wrong.message).maybe_hint(wrong.hint);
            }
        }
        names
    }

    pub(super) fn users(&mut self, value: Option<&Value<'_>>) -> Option<Users> {
        let at = self.at(value?.span());
        if value?.get_ref().as_table().is_none() {
            let users = self.strings(value)?;
            for name in users.iter().filter(|name| name.value != "any") {
                if let Err(wrong) = values::identity(&name.value, "user") {
                    self.report.error(name.at, wrong.message).maybe_hint(wrong.hint);
                }
            }
            if users.len() > 1
                && let Some(any) = users.iter().find(|name| name.value == "any")
            {
                self.report.error(any.at, "\"any\" stands alone: it means every authenticated user");
            }
            return Some(Users { at, users, groups: Vec::new() });
        }
        let mut table = self.table(value, "`users`")?;
        let users = self.identities(table.take("users"), "user");
        let groups = self.identities(table.take("groups"), "group");
        let is_empty = table.entries().next().is_none();
        self.finish(table, &[]);
        if is_empty {
            let hint =
                "name some: `users = { groups = [\"dba\"] }`, or any authenticated one: `users = \"any\"`";
            self.report.error(at, "`users` names nobody").hint(hint);
        }
        Some(Users { at, users, groups })
    }

    pub(super) fn devices(&mut self, value: Option<&Value<'_>>) -> Option<Devices> {
        let mut table = self.table(value, "`devices`")?;
        let at = table.at;
        let devices = Devices {
            at,
            enrolled: self.boolean(table.take("enrolled")).is_some_and(|enrolled| enrolled.value),
            tags: self.identities(table.take("tags"), "tag"),
        };
        self.finish(table, &["serial", "name", "os"]);
        Some(devices)
    }

    fn mfa(&mut self, value: Option<&Value<'_>>) -> bool {
        let Some(mfa) = self.string(value) else { return false };
        self.valid(mfa.at, values::second_factor(&mfa.value));
        true
    }

    fn risk_below(&mut self, value: Option<&Value<'_>>) -> Option<u8> {
        let value = value?;
        if value.get_ref().as_integer().is_some_and(|risk| risk.as_str() == "0") {
            let at = self.at(value.span());
            self.report.error(at, "no risk is below 0, so nobody could meet this").hint("from 1 to 100");
            return None;
        }
        self.integer(Some(value), 1..101).map(|risk| risk.value as u8)
    }

    /// The demands of a rule, or of a floor, which may say who as well.
    pub(super) fn require(&mut self, value: Option<&Value<'_>>, floor: bool) -> Option<Box<Require>> {
        let mut table = self.table(value, "`require`")?;
        let at = table.at;
        let before = self.report.count();
        let users = table.take("users");
        if let (Some(users), false) = (users, floor) {
            let at = self.at(users.span());
            let hint = "write `users = …` as a key of the rule";
            self.report.error(at, "`users` of a rule stands beside its `require`").hint(hint);
        }
        let require = Require {
            at,
            users: if floor { self.users(users) } else { None },
            devices: self.devices(table.take("devices")),
            phishing_resistant: self.mfa(table.take("mfa")),
            mfa_max_age_s: self.seconds(table.take("mfa_max_age")),
            postures: self.strings(table.take("posture")).unwrap_or_default(),
            risk_below: self.risk_below(table.take("risk_below")),
        };
        let asks = require.users.is_some()
            || require.devices.as_ref().is_some_and(|d| d.enrolled || !d.tags.is_empty())
            || require.phishing_resistant
            || require.mfa_max_age_s.is_some()
            || !require.postures.is_empty()
            || require.risk_below.is_some();
        self.finish(table, &["location", "acr"]);
        if !asks && self.report.count() == before {
            self.report
                .error(at, "`require` asks for nothing")
                .hint("for example `require = { mfa_max_age = \"8h\" }`, or leave it out");
        }
        Some(Box::new(require))
    }

    pub(super) fn asker(&mut self, table: &mut Table<'_, '_>) -> Asker {
        let user = self.string(table.take("user"));
        if let Some(name) = &user
            && let Err(wrong) = values::identity(&name.value, "user")
        {
            self.report.error(name.at, wrong.message).maybe_hint(wrong.hint);
        }
        let groups = table.take("groups");
        if let (None, Some(groups)) = (&user, groups) {
            let at = self.at(groups.span());
            self.report.error(at, "`groups` of nobody").hint("say whose: `user = \"alice\"`");
        }
        let session = self.string(table.take("session"));
        if let Some(session) = &session {
            self.valid(session.at, values::session(&session.value));
        }
        let phishing_resistant = self.mfa(table.take("mfa"));
        let mfa_age = table.take("mfa_age");
        // A factor without an age was shown just now.
        let mfa_age_s = self.seconds(mfa_age).or((phishing_resistant && mfa_age.is_none()).then_some(0));
        Asker {
            user,
            groups: self.identities(groups, "group"),
            device: self.devices(table.take("device")),
            postures: self.posture_states(table.take("posture")),
            mfa_age_s,
            phishing_resistant,
            risk: self.integer(table.take("risk"), 0..101).map(|risk| risk.value as u8),
            expired: session.is_some(),
            at: self.moment(table.take("at")),
        }
    }

    /// `posture = "compliant"`, a list of postures that are met, or `{ compliant = "failed" }`.
    fn posture_states(&mut self, value: Option<&Value<'_>>) -> Vec<(Text, PostureState)> {
        use bulkhead_dataplane::policy::conditions::Posture;
        let Some(value) = value else { return Vec::new() };
        if value.get_ref().as_table().is_none() {
            let names = self.strings(Some(value)).unwrap_or_default();
            let met = |name: Text| {
                let at = name.at;
                (name, Located { value: Posture::Met, at })
            };
            return names.into_iter().map(met).collect();
        }
        let mut states = Vec::new();
        let Some(table) = self.table(Some(value), "`posture`") else { return states };
        for (key, value) in table.entries() {
            let name = Located { value: key.get_ref().to_string(), at: self.at(key.span()) };
            let Some(state) = self.string(Some(value)) else { continue };
            let Some(posture) = self.valid(state.at, values::posture_state(&state.value)) else { continue };
            states.push((name, Located { value: posture, at: state.at }));
        }
        states
    }

    pub(super) fn groups(&mut self, value: Option<&Value<'_>>) -> Vec<Group> {
        let mut list = Vec::new();
        for (name, mut table) in self.named(value, "a group") {
            if let Err(wrong) = values::identity(&name.value, "group") {
                self.report.error(name.at, wrong.message).maybe_hint(wrong.hint);
            }
            list.push(Group {
                name,
                members: self.identities(table.take("members"), "user"),
                groups: self.identities(table.take("groups"), "group"),
                description: self.string(table.take("description")),
            });
            self.finish(table, &[]);
        }
        list
    }

    pub(super) fn postures(&mut self, value: Option<&Value<'_>>) -> Vec<Posture> {
        let mut list = Vec::new();
        for (name, mut table) in self.named(value, "a posture") {
            let before = self.report.count();
            let max_age = self.seconds(table.take("max_age"));
            let description = self.string(table.take("description"));
            let entries: Vec<_> = table.entries().collect();
            let mut checks = Vec::new();
            for (key, value) in entries {
                let key = Located { value: key.get_ref().to_string(), at: self.at(key.span()) };
                if ["max_age", "description"].contains(&key.value.as_str()) {
                    continue;
                }
                if let Err(wrong) = values::name(&key.value) {
                    self.report.error(key.at, wrong.message).maybe_hint(wrong.hint);
                }
                checks.extend(self.check(&key.value, value).map(|check| (key, check)));
            }
            if checks.is_empty() && self.report.count() == before {
                self.report
                    .error(name.at, format!("posture {} checks nothing", quoted(&name.value)))
                    .hint("for example `disk_encrypted = true`");
            }
            let max_age = max_age.map(|age_s| Duration::from_secs(age_s.into()));
            list.push(Posture { name, max_age, checks, description });
        }
        list
    }

    fn check(&mut self, key: &str, value: &Value<'_>) -> Option<Check> {
        if key.ends_with("max_age") {
            return self.seconds(Some(value)).map(|age_s| Check::MaxAge(Duration::from_secs(age_s.into())));
        }
        if let Some(flag) = value.get_ref().as_bool() {
            return Some(Check::Flag(flag));
        }
        if value.get_ref().is_str() {
            return self.string(Some(value)).map(|text| Check::Text(text.value));
        }
        if value.get_ref().as_array().is_some() {
            let texts = self.strings(Some(value))?;
            return Some(Check::Texts(texts.into_iter().map(|text| text.value).collect()));
        }
        self.mismatch(value, "true, false, a string or a list of strings");
        None
    }

    pub(super) fn schedules(&mut self, value: Option<&Value<'_>>) -> Vec<Schedule> {
        let mut list = Vec::new();
        for (name, mut table) in self.named(value, "a schedule") {
            if table.take("days").is_none() && table.take("hours").is_none() {
                self.report
                    .error(
                        name.at,
                        format!("schedule {} has neither `days` nor `hours`", quoted(&name.value)),
                    )
                    .hint("for example `days = [\"mon-fri\"]` and `hours = \"08:00-18:00\"`");
            }
            list.push(Schedule {
                name,
                days: self.strings(table.take("days")).unwrap_or_default(),
                hours: self.strings(table.take("hours")).unwrap_or_default(),
                timezone: self.string(table.take("timezone")),
                description: self.string(table.take("description")),
            });
            self.finish(table, &["except", "holidays"]);
        }
        list
    }
}
