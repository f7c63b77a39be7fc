//! What must hold besides the packet's addresses and service: who is behind the source, on which device, how recently
//! and strongly verified, and whether it is the time for it.
//!
//! **Knowing less never gains access.** A rule that allows holds only when everything it asks for is known to hold. A
//! rule that denies or rejects certain users holds unless it is known that they are not the ones: logging out opens
//! nothing. A rule that passes decides nothing by itself, but takes away what its tier denies, so it asks for no identity.

use crate::verdict::Reason;

/// A user that some rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub u32);

impl UserId {
    /// A user that no rule names.
    pub const OTHER: UserId = UserId(u32::MAX);
}

/// A group that some rule names: a bit in [`Identity::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// A tag of devices that some rule names: a bit in [`Device::tags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagId(pub u32);

/// A posture that some rule asks for: an index in [`Identity::postures`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PostureId(pub u32);

/// A condition of time (a schedule, a validity): a bit in [`Circumstances::gates`]. When it opens and shuts is the
/// control plane's business; the packet path knows no wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GateId(pub u32);

/// A [`Condition`], as an index in [`RuleSet::conditions`](super::RuleSet::conditions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConditionId(pub u32);

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// The empty set.
    pub const NONE: &'static Bits = &Bits(Vec::new());

    /// Whether the number is in it.
    pub fn contains(&self, bit: u32) -> bool {
        self.0.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// All numbers in it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..64 * self.0.len() as u32).filter(|bit| self.contains(*bit))
    }

    /// Puts the number in. Equal sets stay equal whatever was put in first.
    pub fn insert(&mut self, bit: u32) {
        let word = bit as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (bit % 64);
    }
}

impl FromIterator<u32> for Bits {
    fn from_iter<I: IntoIterator<Item = u32>>(bits: I) -> Bits {
        let mut set = Bits::default();
        bits.into_iter().for_each(|bit| set.insert(bit));
        set
    }
}

/// Any of these users, or of the members of these groups. Both empty: any user at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Users {
    /// Users by name, ascending.
    pub users: Vec<UserId>,
    /// Groups, ascending.
    pub groups: Vec<GroupId>,
}

impl Users {
    fn contains(&self, user: UserId, groups: &Bits) -> bool {
        (self.users.is_empty() && self.groups.is_empty())
            || self.users.contains(&user)
            || self.groups.iter().any(|group| groups.contains(group.0))
    }
}

/// Devices: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Devices {
    /// It must be enrolled: it has shown a certificate of its own.
    pub enrolled: bool,
    /// One of these tags; empty for any device.
    pub tags: Vec<TagId>,
}

/// What a rule or a floor asks for. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Condition {
    /// All of these must be open.
    pub gates: Vec<GateId>,
    /// Who.
    pub users: Option<Users>,
    /// On which device.
    pub devices: Option<Devices>,
    /// The second factor must be one that cannot be phished.
    pub phishing_resistant: bool,
    /// The second factor must have been shown at most so many seconds ago.
    pub mfa_max_age_s: Option<u32>,
    /// All of these postures.
    pub postures: Vec<PostureId>,
    /// The risk must be less.
    pub risk_below: Option<u8>,
}

/// What is known of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// It has shown a certificate of its own.
    pub enrolled: bool,
    /// Tags of [`TagId`].
    pub tags: Bits,
}

/// What is known of a device's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Posture {
    /// No report, an incomplete one, or one that is too old.
    #[default]
    Unknown,
    /// Some check failed.
    Failed,
    /// Every check holds.
    Met,
}

/// What is known of who is behind an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user; `None` when only the device is known.
    pub user: Option<UserId>,
    /// Groups of [`GroupId`].
    pub groups: Bits,
    /// The device, if it is known.
    pub device: Option<Device>,
    /// Seconds since a second factor was shown; `None` when none was.
    pub mfa_age_s: Option<u32>,
    /// Whether that factor cannot be phished.
    pub phishing_resistant: bool,
    /// By [`PostureId`]; what is missing is unknown.
    pub postures: Vec<Posture>,
    /// 0 to 100; `None` when nobody has said.
    pub risk: Option<u8>,
}

/// Who is behind the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Who<'a> {
    /// Nobody has shown who they are.
    #[default]
    Nobody,
    /// Somebody had, and their session has ended.
    Expired,
    /// This is known of them.
    Known(&'a Identity),
}

/// All that a decision depends on besides the packet.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Who is behind the source.
    pub who: Who<'a>,
    /// Which gates of [`GateId`] are open.
    pub gates: &'a Bits,
}

impl Circumstances<'_> {
    /// Nobody is known, and every gate is shut.
    pub const NONE: Circumstances<'static> = Circumstances { who: Who::Nobody, gates: Bits::NONE };
}

impl Condition {
    /// Whether it asks for anything but the time.
    pub fn asks_for_identity(&self) -> bool {
        *self != Condition { gates: self.gates.clone(), ..Condition::default() }
    }

    /// Whether it asks for anything but the time and the user: for what only makes sense in a rule that allows.
    pub fn asks_for_proof(&self) -> bool {
        *self != Condition { gates: self.gates.clone(), users: self.users.clone(), ..Condition::default() }
    }

    /// Of a rule that denies, rejects or passes: whether it holds whatever the circumstances.
    pub(super) fn always_binds(&self) -> bool {
        self.gates.is_empty() && self.users.as_ref().is_none_or(|users| *users == Users::default())
    }

    /// Whether it is the time for it.
    pub fn is_timely(&self, gates: &Bits) -> bool {
        self.gates.iter().all(|gate| gates.contains(gate.0))
    }

    /// Of a rule that allows: the first of its demands that is not known to be met, in the order of the reasons. `None`
    /// when all are.
    pub fn unmet(&self, circumstances: &Circumstances<'_>) -> Option<Reason> {
        if !self.is_timely(circumstances.gates) {
            return Some(Reason::OutsideSchedule);
        }
        if !self.asks_for_identity() {
            return None;
        }
        let identity = match circumstances.who {
            Who::Nobody => return Some(Reason::NotAuthenticated),
            Who::Expired => return Some(Reason::SessionExpired),
            Who::Known(identity) => identity,
        };
        self.unmet_by(identity)
    }

    fn unmet_by(&self, identity: &Identity) -> Option<Reason> {
        if let Some(users) = &self.users {
            let Some(user) = identity.user else { return Some(Reason::NotAuthenticated) };
            if !users.contains(user, &identity.groups) {
                return Some(Reason::NotInGroup);
            }
        }
        if let Some(devices) = &self.devices {
            let fits = |device: &Device| {
                (device.enrolled || !devices.enrolled)
                    && (devices.tags.is_empty() || devices.tags.iter().any(|tag| device.tags.contains(tag.0)))
            };
            if !identity.device.as_ref().is_some_and(fits) {
                return Some(Reason::DeviceMismatch);
            }
        }
        if self.phishing_resistant || self.mfa_max_age_s.is_some() {
            let Some(age_s) = identity.mfa_age_s else { return Some(Reason::MfaMissing) };
            if self.phishing_resistant && !identity.phishing_resistant {
                return Some(Reason::MfaTooWeak);
            }
            if self.mfa_max_age_s.is_some_and(|limit_s| age_s > limit_s) {
                return Some(Reason::MfaTooOld);
            }
        }
        let posture = |id: &PostureId| identity.postures.get(id.0 as usize).copied().unwrap_or_default();
        if self.postures.iter().any(|id| posture(id) == Posture::Unknown) {
            return Some(Reason::PostureUnknown);
        }
        if self.postures.iter().any(|id| posture(id) == Posture::Failed) {
            return Some(Reason::PostureFailed);
        }
        match (self.risk_below, identity.risk) {
            (Some(_), None) => Some(Reason::RiskUnknown),
            (Some(limit), Some(risk)) if risk >= limit => Some(Reason::RiskTooHigh),
            _ => None,
        }
    }

    /// Of a rule that denies or rejects: whether it holds, which it does unless it is known not to.
    pub fn binds(&self, circumstances: &Circumstances<'_>) -> bool {
        let spares = |users: &Users| match circumstances.who {
            Who::Known(Identity { user: Some(user), groups, .. }) => !users.contains(*user, groups),
            _ => false,
        };
        self.is_timely(circumstances.gates) && !self.users.as_ref().is_some_and(spares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks_everything() -> Condition {
        Condition {
            gates: vec![GateId(70)],
            users: Some(Users { users: vec![UserId(3)], groups: vec![GroupId(1)] }),
            devices: Some(Devices { enrolled: true, tags: vec![TagId(0), TagId(2)] }),
            phishing_resistant: true,
            mfa_max_age_s: Some(3600),
            postures: vec![PostureId(1)],
            risk_below: Some(50),
        }
    }

    fn has_everything() -> Identity {
        Identity {
            user: Some(UserId::OTHER),
            groups: Bits::from_iter([1]),
            device: Some(Device { enrolled: true, tags: Bits::from_iter([2]) }),
            mfa_age_s: Some(3600),
            phishing_resistant: true,
            postures: vec![Posture::Unknown, Posture::Met],
            risk: Some(49),
        }
    }

    #[test]
    fn each_demand_has_its_reason_and_the_first_unmet_one_is_told() {
        let condition = asks_everything();
        let gates = Bits::from_iter([70]);
        let mut identity = has_everything();
        let unmet = |identity: &Identity| {
            condition.unmet(&Circumstances { who: Who::Known(identity), gates: &gates })
        };
        assert_eq!(unmet(&identity), None);
        // From the last demand to the first: each new lack hides those before it.
        type Lack = (Reason, fn(&mut Identity));
        let lacks: [Lack; 11] = [
            (Reason::RiskTooHigh, |i| i.risk = Some(50)),
            (Reason::RiskUnknown, |i| i.risk = None),
            (Reason::PostureFailed, |i| i.postures[1] = Posture::Failed),
            (Reason::PostureUnknown, |i| i.postures.clear()),
            (Reason::MfaTooOld, |i| i.mfa_age_s = Some(3601)),
            (Reason::MfaTooWeak, |i| i.phishing_resistant = false),
            (Reason::MfaMissing, |i| i.mfa_age_s = None),
            (Reason::DeviceMismatch, |i| i.device.as_mut().unwrap().tags = Bits::from_iter([1])),
            (Reason::DeviceMismatch, |i| i.device = None),
            (Reason::NotInGroup, |i| i.groups = Bits::default()),
            (Reason::NotAuthenticated, |i| i.user = None),
        ];
        let mut last = Reason::RiskTooHigh;
        for (reason, lack) in lacks {
            lack(&mut identity);
            assert_eq!(unmet(&identity), Some(reason));
            assert!(reason <= last, "{reason} is told before {last}, so it stands before it");
            last = reason;
        }
        let nobody = |who, gates| condition.unmet(&Circumstances { who, gates });
        assert_eq!(nobody(Who::Expired, &gates), Some(Reason::SessionExpired));
        assert_eq!(nobody(Who::Nobody, &gates), Some(Reason::NotAuthenticated));
        assert_eq!(nobody(Who::Known(&has_everything()), Bits::NONE), Some(Reason::OutsideSchedule));
    }

    #[test]
    fn who_is_unknown_is_denied_what_is_denied_to_some() {
        let condition = Condition {
            users: Some(Users { users: vec![], groups: vec![GroupId(9)] }),
            gates: vec![GateId(0)],
            ..Condition::default()
        };
        let open = Bits::from_iter([0]);
        let binds = |who, gates| condition.binds(&Circumstances { who, gates });
        let member = Identity { user: Some(UserId(1)), groups: Bits::from_iter([9]), ..Identity::default() };
        let other = Identity { user: Some(UserId(1)), ..Identity::default() };
        let device = Identity { device: Some(Device::default()), ..Identity::default() };
        assert!(binds(Who::Nobody, &open) && binds(Who::Expired, &open));
        assert!(binds(Who::Known(&member), &open) && binds(Who::Known(&device), &open));
        assert!(!binds(Who::Known(&other), &open));
        assert!(!binds(Who::Known(&member), Bits::NONE), "it is not the time for it");
    }

    #[test]
    fn no_users_named_means_any_user_but_nobody_unknown() {
        let condition = Condition { users: Some(Users::default()), ..Condition::default() };
        let gates = Bits::NONE;
        let user = Identity { user: Some(UserId::OTHER), ..Identity::default() };
        assert_eq!(condition.unmet(&Circumstances { who: Who::Known(&user), gates }), None);
        assert_eq!(condition.unmet(&Circumstances::NONE), Some(Reason::NotAuthenticated));
        assert_eq!(Condition::default().unmet(&Circumstances::NONE), None);
    }
}
