//! Machines of which the policy itself says who they are.

use std::collections::HashMap;
use std::net::IpAddr;

use bulkhead_dataplane::policy::{RuleSet, reference};
use bulkhead_dataplane::topology::Mac;

use super::resolve::Resolver;
use crate::config::diagnostics::{At, quoted};
use crate::config::schema::{Config, Workload as Written};
use crate::config::values;
use crate::identity::certificates::spiffe::Id;

/// A machine that has not to sign in, for the policy says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it is called as a device.
    pub name: String,
    /// At which addresses it is, ascending; none of one that shows who it is.
    pub addresses: Vec<IpAddr>,
    /// What it shows, wherever it is.
    pub spiffe: Option<Id>,
    /// From which MAC address its packets come; `None`: from any.
    pub mac: Option<Mac>,
    /// Its tags.
    pub tags: Vec<String>,
    /// It counts as enrolled.
    pub enrolled: bool,
}

impl Resolver {
    /// The workloads, by name.
    pub(super) fn workloads(&mut self, config: &Config, rules: &RuleSet) -> Vec<Workload> {
        let (mut names, mut owners, mut ids) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut all: Vec<Workload> = config
            .workloads
            .iter()
            .filter_map(|written| self.workload(written, rules, &mut names, &mut owners, &mut ids))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let (count, room) = (owners.len() as u64, config.gateway.sessions.as_ref());
        let room = room.map_or(super::Gateway::default().sessions as u64, |sessions| sessions.value);
        if let Some(first) = config.workloads.first().filter(|_| count > room) {
            let message = format!("workloads have {count} addresses, and there is room for {room} sessions");
            self.report.error(first.at, message).hint("raise `sessions` in [gateway]");
        }
        all
    }

    fn workload<'c>(
        &mut self,
        written: &'c Written,
        rules: &RuleSet,
        names: &mut HashMap<&'c str, At>,
        owners: &mut HashMap<IpAddr, At>,
        ids: &mut HashMap<Id, At>,
    ) -> Option<Workload> {
        let name = written.name.as_ref()?;
        if let Err(wrong) = values::identity(&name.value, "device") {
            self.wrong(name.at, wrong);
        }
        if let Some(first) = names.insert(&name.value, name.at) {
            self.report
                .error(name.at, format!("two workloads are named {}", quoted(&name.value)))
                .hint("one that is at several addresses lists them all: `addresses = [\"10.2.0.5\", \"fd00:2::5\"]`")
                .related(first, "the first one");
        }
        let mut addresses = Vec::new();
        for text in &written.addresses {
            let Ok(address) = text.value.parse::<IpAddr>() else {
                self.report.error(text.at, format!("{} is not an IP address", quoted(&text.value)));
                continue;
            };
            if reference::segment_of(rules, address).is_none() {
                self.report
                    .error(text.at, format!("{address} belongs to no segment"))
                    .hint("add its network to the segment that it lies in");
            }
            if let Some(first) = owners.insert(address, text.at) {
                let message = format!("{address} is a workload already, and nobody is two");
                self.report.error(text.at, message).related(first, "here");
            }
            addresses.push(address);
        }
        addresses.sort_unstable();
        let mac = written
            .mac
            .as_ref()
            .and_then(|text| values::mac(&text.value).map_err(|wrong| self.wrong(text.at, wrong)).ok());
        let spiffe = self.spiffe(written, ids);
        for tag in &written.tags {
            if let Err(wrong) = values::identity(&tag.value, "tag") {
                self.wrong(tag.at, wrong);
            }
        }
        let mut tags: Vec<String> = written.tags.iter().map(|tag| tag.value.clone()).collect();
        tags.sort_unstable();
        tags.dedup();
        let enrolled = written.enrolled.as_ref().is_some_and(|enrolled| enrolled.value);
        Some(Workload { name: name.value.clone(), addresses, spiffe, mac, tags, enrolled })
    }

    /// The SPIFFE ID that a workload shows, of a trust domain of which something is believed.
    fn spiffe(&mut self, written: &Written, ids: &mut HashMap<Id, At>) -> Option<Id> {
        let text = written.spiffe.as_ref()?;
        let id = match Id::parse(&text.value) {
            Ok(id) => id,
            Err(why) => {
                let message = format!("{} is no SPIFFE ID: {why}", quoted(&text.value));
                self.report.error(text.at, message).hint("for example \"spiffe://example.org/billing\"");
                return None;
            }
        };
        for (key, at) in [
            ("addresses", written.addresses.first().map(|address| address.at)),
            ("mac", written.mac.as_ref().map(|mac| mac.at)),
        ] {
            if let Some(at) = at {
                let message = format!("`{key}` of a workload that shows a SPIFFE ID");
                self.report
                    .error(at, message)
                    .hint("it is known wherever it shows it: leave one of the two out");
            }
        }
        if let Some(first) = ids.insert(id.clone(), text.at) {
            let message = format!("{} is a workload already", quoted(id.as_str()));
            self.report.error(text.at, message).related(first, "here");
        }
        Some(id)
    }
}
