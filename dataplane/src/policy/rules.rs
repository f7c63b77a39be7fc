//! Resolved rules: ids only, no names. What the control plane hands to [`compile`](super::compile) and to the
//! [reference evaluator](super::reference).

use std::net::IpAddr;

use ipnet::IpNet;

use super::conditions::{Condition, ConditionId};
use crate::headers::protocol;
use crate::verdict::{PortId, Reason, RuleId, SegmentId};

/// What a rule does with the connections it matches. Within a tier pass beats deny, deny beats reject, reject beats
/// allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Let the connection through.
    Allow,
    /// Drop, and tell the sender: RST for TCP, ICMP administratively prohibited otherwise.
    Reject,
    /// Drop silently.
    #[default]
    Deny,
    /// This tier says nothing of it: the next one decides. After the last tier the default deny does, so passing alone
    /// never lets anything through.
    Pass,
}

/// A segment: where it is and who may speak there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The ports behind which the segment lies. A source address counts only when it enters by one of them.
    pub ports: Vec<PortId>,
    /// Its networks, of either family. The longest match over all segments decides.
    pub networks: Vec<IpNet>,
    /// The floor: what every rule that allows into the segment asks for besides.
    pub floor: Option<ConditionId>,
    /// What every rule that allows out of the segment asks for besides.
    pub floor_out: Option<ConditionId>,
}

/// One protocol with a range of ports, or of ICMP types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// In a rule that allows: TCP, UDP and both kinds of echo request. What the gateway cannot look into (tunnels, IPsec)
    /// has to be named. In a rule that denies or rejects: every protocol there is.
    Any,
    /// TCP destination ports, both ends included.
    Tcp(u16, u16),
    /// UDP destination ports, both ends included.
    Udp(u16, u16),
    /// Every ICMP (IPv4) request type, or echo request alone, which is the only ICMP request that is forwarded.
    IcmpEcho,
    /// ICMPv6 echo request.
    Icmpv6Echo,
    /// Another protocol by its number, see [`protocol::is_opaque`]; it has no ports.
    Protocol(u8),
}

impl Service {
    /// Whether a connection of this protocol to this destination port belongs to the service in a rule of this action.
    /// ICMP and ICMPv6 connections are echo requests; their port (the identifier) does not matter.
    pub fn contains(self, action: Action, protocol: u8, port: u16) -> bool {
        match self {
            Service::Any if action != Action::Allow => true,
            Service::Any => {
                matches!(protocol, protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6)
            }
            Service::Tcp(low, high) => protocol == protocol::TCP && (low..=high).contains(&port),
            Service::Udp(low, high) => protocol == protocol::UDP && (low..=high).contains(&port),
            Service::IcmpEcho => protocol == protocol::ICMP,
            Service::Icmpv6Echo => protocol == protocol::ICMPV6,
            Service::Protocol(number) => protocol == number && protocol::is_opaque(number),
        }
    }
}

/// One rule. Its [`RuleId`] is its index in [`RuleSet::rules`]; among matching rules of the deciding action the
/// lowest id is named, so the control plane numbers rules by name and the order in a file means nothing. The default
/// matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Source segments; empty matches nothing.
    pub from: Vec<SegmentId>,
    /// Destination segments; empty matches nothing.
    pub to: Vec<SegmentId>,
    /// Services; empty matches nothing.
    pub services: Vec<Service>,
    /// What to do.
    pub action: Action,
    /// Tiers decide one after the other, the lowest first: the first in which a rule holds that does not pass. Below
    /// [`MAX_TIERS`].
    pub tier: u8,
    /// What must hold besides. See [`conditions`](super::conditions) for what an unknown identity means.
    pub condition: Option<ConditionId>,
    /// Of a rule that allows: no floor binds it. For segments between which nothing is to be refused.
    pub waives_floors: bool,
}

/// The largest number of tiers.
pub const MAX_TIERS: u8 = 16;

/// A whole policy, resolved. The default is an empty one: nothing crosses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Segments; a [`SegmentId`] is an index here. No two hold the same network.
    pub segments: Vec<Segment>,
    /// Rules; a [`RuleId`] is an index here.
    pub rules: Vec<Rule>,
    /// Conditions; a [`ConditionId`] is an index here.
    pub conditions: Vec<Condition>,
}

impl RuleSet {
    /// The condition of this number.
    ///
    /// # Panics
    ///
    /// When there is none; compiling refuses such a rule set.
    pub fn condition(&self, id: ConditionId) -> &Condition {
        &self.conditions[id.0 as usize]
    }

    /// The networks behind a port (`true`), and those inside them that lie elsewhere (`false`): a longest match over
    /// these finds `true` for exactly the sources that may enter by the port. Ascending.
    pub fn sources(&self, port: PortId) -> Vec<(IpNet, bool)> {
        let mut networks: Vec<(IpNet, bool)> = Vec::new();
        for segment in &self.segments {
            let is_here = segment.ports.contains(&port);
            networks.extend(segment.networks.iter().map(|network| (network.trunc(), is_here)));
        }
        // A network comes before those inside it, and networks never overlap in part: what lies inside any of the
        // port's lies inside the last outermost one.
        networks.sort_unstable();
        let mut outermost: Option<IpNet> = None;
        networks.retain(|(network, is_here)| {
            let is_inside = outermost.is_some_and(|around| around.contains(network));
            if *is_here && !is_inside {
                outermost = Some(*network);
            }
            *is_here || is_inside
        });
        networks
    }
}

/// The question put to a policy: may this originator open this connection?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The port by which the first packet came in.
    pub ingress: PortId,
    /// The originator's address; of the same family as `destination`.
    pub source: IpAddr,
    /// The responder's address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port (TCP and UDP).
    pub destination_port: u16,
}

impl Query {
    /// Whether both addresses are of one family.
    pub fn is_of_one_family(&self) -> bool {
        self.source.is_ipv4() == self.destination.is_ipv4()
    }

    /// Whether the protocol exists in the family of the destination: ICMP is IPv4's, ICMPv6 is IPv6's. Without
    /// this, allowing one family's ICMP would allow the other's packets that carry its protocol number.
    pub fn protocol_fits_family(&self) -> bool {
        match self.protocol {
            protocol::ICMP => self.destination.is_ipv4(),
            protocol::ICMPV6 => self.destination.is_ipv6(),
            _ => true,
        }
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// `None` allows; otherwise why not: spoofed source, no destination segment, no rule (or, of a protocol that has to
    /// be named to be allowed, protocol unsupported), denied, rejected, or the demand that a rule which would allow it
    /// makes in vain.
    pub refusal: Option<Reason>,
    /// The deciding rule; of several that would allow it but for a demand the one that came nearest: whose unmet demand
    /// stands last among the reasons. [`RuleId::NONE`] when none matched.
    pub rule: RuleId,
}

impl Decision {
    /// A refusal that no rule decided.
    pub(super) const fn refused(reason: Reason) -> Decision {
        Decision { refusal: Some(reason), rule: RuleId::NONE }
    }

    /// No rule matches.
    pub(super) const fn unmatched(protocol: u8) -> Decision {
        Decision::refused(match protocol {
            protocol::TCP | protocol::UDP | protocol::ICMP | protocol::ICMPV6 => Reason::NoRule,
            _ => Reason::ProtocolUnsupported,
        })
    }

    /// What a rule of this action decides.
    pub(super) const fn by(rule: RuleId, action: Action) -> Decision {
        let refusal = match action {
            Action::Allow => None,
            Action::Reject => Some(Reason::RuleRejected),
            Action::Deny => Some(Reason::RuleDenied),
            Action::Pass => Some(Reason::NoRule),
        };
        Decision { refusal, rule }
    }

    /// The rule would allow it, but for this demand.
    pub(super) const fn unmet(rule: RuleId, reason: Reason) -> Decision {
        Decision { refusal: Some(reason), rule }
    }

    /// The rule that decided: none where one only came nearest, for then the default deny did.
    pub fn decided_by(&self) -> RuleId {
        match self.refusal {
            None | Some(Reason::RuleDenied | Reason::RuleRejected) => self.rule,
            Some(_) => RuleId::NONE,
        }
    }

    /// Whether the connection is allowed.
    pub fn allows(&self) -> bool {
        self.refusal.is_none()
    }
}
