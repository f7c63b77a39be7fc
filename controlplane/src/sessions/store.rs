//! All sessions, and the slots of every policy that asks for them.
//!
//! One lock: whoever changes a session writes the slots of all policies under it, and so does whoever brings in another
//! policy. The packet path never takes it. A policy's slots are here for as long as the policy is: what is no longer
//! asked is forgotten at the next change.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bulkhead_dataplane::identity::{Bearer, Occupant, Slots, TooManySessions};
use bulkhead_dataplane::policy::{Policy, reference};
use bulkhead_dataplane::topology::Mac;
use bulkhead_dataplane::verdict::{Generation, Now, SegmentId};

use super::describe::{Ages, Described, describe};
use super::roll::Roll;
use super::turns::Turns;
use super::{Claims, Device, Origin, Proof, Session, later};
use crate::identity::certificates::spiffe::Id;
use crate::model::{Model, Workload};

/// Digits of an id: Crockford's base 32, in which nothing looks like anything else.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// How long a machine is known of which the policy says who it is: longer than a gateway runs.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Digits of an id, 50 bits of chance: among a million sessions two have the same one in one case of two thousand, and
/// then whoever revokes the one revokes the other too.
const ID_DIGITS: u32 = 10;

/// A session to begin.
#[derive(Clone, Debug)]
pub struct New {
    /// The address.
    pub address: IpAddr,
    /// See [`Session::mac`].
    pub mac: Option<Mac>,
    /// What was proved.
    pub claims: Claims,
    /// How.
    pub proof: Proof,
    /// When it ends.
    pub ends: Now,
}

/// A session has begun.
#[derive(Clone, Debug)]
pub struct Begun {
    /// It.
    pub session: Arc<Session>,
    /// The one whose place it took.
    pub replaced: Option<Arc<Session>>,
}

/// Why a session did not begin; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The address belongs to no segment of the policy in force.
    NoSegment,
    /// There are as many as fit.
    Full,
    /// The policy says who is behind the address (`[[workload]]`).
    Workload,
    /// The policy in force knows no such way to sign in.
    Way,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::NoSegment => "the address belongs to no segment",
            Refused::Workload => "the policy itself says who is there (`[[workload]]`)",
            Refused::Way => "the policy in force knows no such way to sign in",
            Refused::Full => "there are as many sessions as fit (`sessions` in [gateway])",
        })
    }
}

/// Why a session ended when another policy came in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its address belongs to another segment now, or to none.
    Moved,
    /// The new policy's slots have no room for it.
    NoRoom,
    /// The new policy says itself who is behind the address.
    Bound,
    /// It was the earlier policy that said who is behind the address, and the new one says otherwise, or nothing.
    Unbound,
}

/// What another policy has done to sessions.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// Those that it has ended.
    pub ended: Vec<Ended>,
    /// Those of machines of which it says itself who they are, and that are new.
    pub bound: Vec<Arc<Session>>,
}

/// A session that another policy has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// It.
    pub session: Arc<Session>,
    /// Why.
    pub why: Why,
}

/// Which sessions are meant. Everything given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// The one with this id.
    pub id: Option<String>,
    /// Those of this user.
    pub user: Option<String>,
    /// The one of this address.
    pub address: Option<IpAddr>,
}

impl Which {
    /// This one, found by its address, and no other that has come there since.
    pub fn one(session: &Session) -> Which {
        Which { id: Some(session.id.clone()), ..Which::at(session.address) }
    }

    /// All of a user.
    pub fn of_user(user: &str) -> Which {
        Which { user: Some(user.to_owned()), ..Which::default() }
    }

    /// The one of an address.
    pub fn at(address: IpAddr) -> Which {
        Which { address: Some(address), ..Which::default() }
    }

    fn means(&self, session: &Session) -> bool {
        self.id.as_ref().is_none_or(|id| *id == session.id)
            && self.user.as_ref().is_none_or(|user| session.claims.user.as_ref() == Some(user))
            && self.address.is_none_or(|address| address == session.address)
    }
}

/// The slots of a policy.
struct View {
    model: Arc<Model>,
    ages: Ages,
    /// The policy holds them.
    slots: Weak<Slots>,
    /// Their number among those of all policies.
    number: u64,
    turns: Arc<Mutex<Turns>>,
}

impl View {
    fn segment(&self, address: IpAddr) -> Option<&str> {
        let segment = reference::segment_of(&self.model.rules, address)?;
        self.model.segment_name(segment)
    }

    fn describe(&self, session: &Session, now: Now) -> Described {
        describe(&self.model.identities, &self.ages, session, now)
    }

    /// Writes a session that is of this policy's segment. Returns when it has to be described again.
    fn write(&self, slots: &Slots, session: &Arc<Session>, now: Now) -> Result<Option<Now>, TooManySessions> {
        let Described { stages, again } = self.describe(session, now);
        slots.set(Occupant { address: session.address, mac: session.mac, stages })?;
        if let Some(bearer) = slots.bearer(session.address) {
            lock(&self.turns).note(self.number, bearer.turn(), session.clone());
        }
        Ok(again)
    }
}

#[derive(Default)]
struct State {
    held: Roll,
    views: Vec<View>,
    /// In force, or about to be.
    model: Option<Arc<Model>>,
    /// Ended by the clock, and not told of yet.
    expired: Vec<Arc<Session>>,
    /// Ids given out.
    ids: u64,
    /// Slots made.
    view_numbers: u64,
    turns: Arc<Mutex<Turns>>,
}

impl State {
    /// Those that are meant, by address; of an address or a user without a look at all others.
    fn meant(&self, which: &Which) -> Vec<Arc<Session>> {
        let is_meant = |session: &&Arc<Session>| which.means(session);
        let mut meant: Vec<Arc<Session>> = match (which.address, &which.user) {
            (Some(address), _) => self
                .held
                .get(address)
                .map(|held| &held.session)
                .filter(is_meant)
                .cloned()
                .into_iter()
                .collect(),
            (None, Some(user)) => self.held.of_user(user).filter(is_meant).cloned().collect(),
            (None, None) => self.held.sessions().filter(is_meant).cloned().collect(),
        };
        meant.sort_unstable_by_key(|session| session.address);
        meant
    }

    /// The policies that are in use still.
    fn views(&mut self) -> Vec<(Arc<Slots>, &View)> {
        self.views.retain(|view| view.slots.strong_count() > 0);
        self.views.iter().filter_map(|view| Some((view.slots.upgrade()?, view))).collect()
    }

    fn end(&mut self, address: IpAddr) -> Option<Arc<Session>> {
        self.remove(address, Slots::end)
    }

    fn end_all(&mut self, wanted: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        self.remove_all(wanted, Slots::end)
    }

    fn remove(&mut self, address: IpAddr, from: impl Fn(&Slots, IpAddr) -> bool) -> Option<Arc<Session>> {
        let session = self.held.remove(address)?;
        for (slots, _) in self.views() {
            // Where its segment has another name it is not.
            from(&slots, address);
        }
        Some(session)
    }

    fn remove_all(
        &mut self,
        wanted: impl Fn(&Session) -> bool,
        from: impl Fn(&Slots, IpAddr) -> bool,
    ) -> Vec<Arc<Session>> {
        let wanted = self.held.sessions().filter(|session| wanted(session));
        let addresses: Vec<IpAddr> = wanted.map(|session| session.address).collect();
        let mut removed: Vec<_> =
            addresses.into_iter().filter_map(|address| self.remove(address, &from)).collect();
        removed.sort_unstable_by_key(|session| session.address);
        removed
    }

    /// Writes a session to all policies, or to none. Returns when it has to be described again.
    fn write(&mut self, session: &Arc<Session>, now: Now) -> Result<Option<Now>, TooManySessions> {
        let before = self.held.get(session.address).map(|held| held.session.clone());
        let views = self.views();
        let mine =
            |session: &Session, view: &View| view.segment(session.address) == Some(session.segment.as_str());
        let mut next: Option<Now> = None;
        for (index, (slots, view)) in views.iter().enumerate() {
            // What was behind the address before is not, also where this one does not belong.
            let written = if mine(session, view) {
                view.write(slots, session, now)
            } else {
                slots.end(session.address);
                Ok(None)
            };
            match written {
                Ok(again) => next = next.into_iter().chain(again).min(),
                Err(full) => {
                    for (slots, view) in &views[..index] {
                        slots.end(session.address);
                        if let Some(before) = before.as_ref().filter(|before| mine(before, view)) {
                            // In the place that it has just left.
                            view.write(slots, before, now)?;
                        }
                    }
                    return Err(full);
                }
            }
        }
        Ok(next)
    }

    /// Gives a policy slots with all sessions that belong to it. Returns those for which there was no room.
    fn attach(&mut self, model: &Arc<Model>, policy: &mut Policy, capacity: usize, now: Now) -> Vec<IpAddr> {
        if !model.rules.conditions.iter().any(|condition| condition.asks_for_identity()) {
            policy.set_identities(Arc::default());
            return Vec::new();
        }
        let slots = Arc::new(Slots::new(capacity));
        self.view_numbers += 1;
        let view = View {
            model: model.clone(),
            ages: Ages::of(model),
            slots: Arc::downgrade(&slots),
            number: self.view_numbers,
            turns: self.turns.clone(),
        };
        let (mut without_room, mut described) = (Vec::new(), Vec::new());
        for session in self.held.sessions() {
            let address = session.address;
            if segment_name(model, policy.destination_segment(address)) != Some(session.segment.as_str()) {
                continue;
            }
            match view.write(&slots, session, now) {
                Ok(None) => {}
                Ok(Some(again)) => described.push((address, again)),
                Err(TooManySessions) => without_room.push(address),
            }
        }
        for (address, again) in described {
            let known = self.held.get(address).and_then(|held| held.again);
            self.held.describe_again(address, known.into_iter().chain([again]).min());
        }
        self.views.push(view);
        policy.set_identities(slots);
        without_room
    }

    /// Has the machines of a model, and no others, held as what it says of them. Writes no slots.
    fn rebind(
        &mut self,
        model: &Model,
        now: Now,
        admits: &dyn Fn(&Claims, IpAddr) -> bool,
        chance: &RandomState,
    ) -> Placed {
        let mut placed = Placed::default();
        let mut wanted: HashMap<IpAddr, (Claims, Option<Mac>)> = HashMap::new();
        for workload in &model.workloads {
            let (name, enrolled) = (Some(workload.name.clone()), workload.enrolled);
            let device = Some(Device { name, enrolled, tags: workload.tags.clone(), ..Device::default() });
            let claims = Claims { device, ..Claims::default() };
            let admitted = workload.addresses.iter().filter(|address| admits(&claims, **address));
            wanted.extend(admitted.map(|address| (*address, (claims.clone(), workload.mac))));
        }
        let segment = |address| segment_name(model, reference::segment_of(&model.rules, address));
        for session in self.held.sessions() {
            let said = wanted.get(&session.address);
            let is_static = session.proof == Proof::Static;
            let is_same = said.is_some_and(|(claims, mac)| (&session.claims, &session.mac) == (claims, mac))
                && segment(session.address) == Some(session.segment.as_str());
            let why = match (is_static, said) {
                (true, _) if is_same => None,
                (true, _) => Some(Why::Unbound),
                (false, Some(_)) => Some(Why::Bound),
                // It has to show its document again, or they have to sign in another way.
                (false, None) if !stands(model, session) => Some(Why::Unbound),
                (false, None) => None,
            };
            placed.ended.extend(why.map(|why| Ended { session: session.clone(), why }));
        }
        for ended in &placed.ended {
            self.held.remove(ended.session.address);
        }
        for (address, (claims, mac)) in wanted {
            let Some(segment) = segment(address).filter(|_| self.held.get(address).is_none()) else {
                continue;
            };
            let id = self.id(chance);
            let (segment, proof, ends) = (segment.to_owned(), Proof::Static, later(now, FOR_EVER));
            let session = Arc::new(Session { id, address, segment, mac, claims, proof, begun: now, ends });
            self.held.insert(session.clone(), None);
            placed.bound.push(session);
        }
        placed.bound.sort_unstable_by_key(|session| session.address);
        placed
    }

    /// The session that begins with this.
    fn intended(&self, id: String, new: New, now: Now) -> Result<Session, Refused> {
        let model = self.model.as_ref().ok_or(Refused::NoSegment)?;
        let segment = reference::segment_of(&model.rules, new.address);
        let segment = segment_name(model, segment).ok_or(Refused::NoSegment)?.to_owned();
        if self.held.get(new.address).is_some_and(|held| held.session.proof == Proof::Static) {
            return Err(Refused::Workload);
        }
        let New { address, mac, claims, proof, ends } = new;
        let session = Session { id, address, segment, mac, claims, proof, begun: now, ends };
        // It was proved by the policy of before, perhaps.
        if stands(model, &session) { Ok(session) } else { Err(Refused::Way) }
    }

    fn id(&mut self, chance: &RandomState) -> String {
        self.ids += 1;
        let bits = chance.hash_one(self.ids);
        let digit = |place| char::from(DIGITS[(bits >> (5 * place)) as usize & 31]);
        (0..ID_DIGITS).map(digit).collect()
    }

    /// Forgets those that have ended by the clock.
    fn expire(&mut self, now: Now) {
        let due = self.held.due(now).into_iter();
        let over = due.filter(|address| self.held.get(*address).is_some_and(|held| held.session.ends <= now));
        let mut over: Vec<IpAddr> = over.collect();
        over.sort_unstable();
        for address in over {
            let expired = self.remove(address, |slots, address| slots.forget(address, now));
            self.expired.extend(expired);
        }
    }
}

/// Whether the model believes in the way by which a session was proved: in the gateway's own users, in the identity provider,
/// and of a workload, that it says what it said when that showed its SPIFFE ID.
fn stands(model: &Model, session: &Session) -> bool {
    let Claims { device, origin, .. } = &session.claims;
    let device = match session.proof {
        Proof::Password | Proof::Passkey => return model.sign_in.passwords,
        Proof::Provider => {
            let is_same = |origin: &Origin| {
                let mut providers = model.sign_in.providers.iter();
                providers.any(|known| (&known.name, &known.issuer) == (&origin.provider, &origin.issuer))
            };
            return origin.as_ref().is_some_and(is_same);
        }
        Proof::Spiffe => device.as_ref(),
        Proof::Operator | Proof::Radius | Proof::Device | Proof::Static => None,
    };
    let Some(device) = device else { return true };
    let is_same = |workload: &Workload| {
        workload.spiffe.as_ref().map(Id::as_str) == device.credential.as_deref()
            && Some(&workload.name) == device.name.as_ref()
            && (&workload.tags, workload.enrolled) == (&device.tags, device.enrolled)
    };
    model.workloads.iter().any(is_same)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn segment_name(model: &Model, segment: Option<SegmentId>) -> Option<&str> {
    model.segment_name(segment?)
}

/// All sessions.
pub struct Sessions {
    capacity: usize,
    chance: RandomState,
    state: Mutex<State>,
}

impl Sessions {
    /// Room for so many.
    pub fn new(capacity: usize) -> Sessions {
        Sessions { capacity, chance: RandomState::new(), state: Mutex::default() }
    }

    /// How many fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many there are, those included that have ended by the clock and are not forgotten yet.
    pub fn len(&self) -> usize {
        self.state().held.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What this protects is whole whenever the lock is free, whatever panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the sessions to the policy that is about to be in force, compiled from this model. Ends those whose
    /// address belongs to another segment there; also for the policies in use until then.
    pub fn put_in_force(&self, model: &Arc<Model>, policy: &mut Policy, now: Now) -> Vec<Ended> {
        self.place(model, policy, now, &|_, _| true).ended
    }

    /// As [`Sessions::put_in_force`], of the policy's own machines only with those that may be known. What is theirs holds for
    /// the new policy from its first packet on, and for the policies in use until then as long as they are asked.
    pub fn place(
        &self,
        model: &Arc<Model>,
        policy: &mut Policy,
        now: Now,
        admits: &dyn Fn(&Claims, IpAddr) -> bool,
    ) -> Placed {
        let mut state = self.state();
        let mut placed = state.rebind(model, now, admits, &self.chance);
        let moved = state.end_all(|session| {
            segment_name(model, policy.destination_segment(session.address)) != Some(session.segment.as_str())
        });
        placed.ended.extend(moved.into_iter().map(|session| Ended { session, why: Why::Moved }));
        // What the policy says itself comes before what others have said.
        let excess = state.held.len().saturating_sub(self.capacity);
        let others = state.held.sessions().filter(|session| session.proof != Proof::Static);
        let mut no_room: Vec<IpAddr> = others.map(|session| session.address).take(excess).collect();
        no_room.extend(state.attach(model, policy, self.capacity, now));
        for address in no_room {
            placed.ended.extend(state.end(address).map(|session| Ended { session, why: Why::NoRoom }));
        }
        state.model = Some(model.clone());
        placed
    }

    /// Begins the sessions of the machines of the policy in force that have none and may be known: when what kept one out is
    /// over. As with [`Sessions::begin`], only a settled engine judges every packet by them.
    pub fn bind(&self, now: Now, admits: &dyn Fn(&Claims, IpAddr) -> bool) -> Vec<Arc<Session>> {
        let mut state = self.state();
        let Some(model) = state.model.clone() else { return Vec::new() };
        let bound = state.rebind(&model, now, admits, &self.chance).bound;
        for session in &bound {
            // What does not fit is not there; it was told when the policy came in force.
            if let Ok(again) = state.write(session, now) {
                state.held.describe_again(session.address, again);
            }
        }
        bound
    }

    /// Gives the sessions to a policy that decides nothing, compiled from this model. It does not know those whose
    /// address belongs to another segment there.
    pub fn attach(&self, model: &Arc<Model>, policy: &mut Policy, now: Now) {
        let _ = self.state().attach(model, policy, self.capacity, now);
    }

    /// A name for a session to come.
    pub fn fresh_id(&self) -> String {
        self.state().id(&self.chance)
    }

    /// The session as it would begin now, as far as can be told before.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn intended(&self, id: &str, new: &New, now: Now) -> Result<Session, Refused> {
        let mut state = self.state();
        if state.held.len() >= self.capacity {
            state.expire(now);
        }
        if state.held.len() >= self.capacity && state.held.get(new.address).is_none() {
            return Err(Refused::Full);
        }
        state.intended(id.to_owned(), new.clone(), now)
    }

    /// Begins a session, in place of the one that the address has. Policies know it when this returns; that no packet is
    /// judged by what was before, only [`Engine::settle`](bulkhead_dataplane::engine::Engine::settle) tells.
    ///
    /// # Errors
    ///
    /// See [`Refused`]; nothing has changed.
    pub fn begin(&self, new: New, now: Now) -> Result<Begun, Refused> {
        self.begin_as(self.fresh_id(), new, now)
    }

    /// As [`Sessions::begin`], under a name of [`Sessions::fresh_id`].
    ///
    /// # Errors
    ///
    /// As of [`Sessions::begin`].
    pub fn begin_as(&self, id: String, new: New, now: Now) -> Result<Begun, Refused> {
        let mut state = self.state();
        let session = state.intended(id, new, now)?;
        let address = session.address;
        if state.held.len() >= self.capacity {
            state.expire(now);
        }
        if state.held.len() >= self.capacity && state.held.get(address).is_none() {
            return Err(Refused::Full);
        }
        let session = Arc::new(session);
        let again = state.write(&session, now).map_err(|TooManySessions| Refused::Full)?;
        let before = state.held.insert(session.clone(), again);
        let (replaced, over) = before.into_iter().partition::<Vec<_>, _>(|before| before.ends > now);
        state.expired.extend(over);
        Ok(Begun { session, replaced: replaced.into_iter().next() })
    }

    /// Changes what is known of the session of an address, if it is the one with this id and has not ended: `change` says
    /// what its claims are from now on. Returns it as it is then. As with [`Sessions::begin`], only a settled engine judges no
    /// packet by what was known before.
    pub fn amend(
        &self,
        address: IpAddr,
        id: &str,
        now: Now,
        change: impl FnOnce(&mut Claims),
    ) -> Option<Arc<Session>> {
        let mut state = self.state();
        let held = state.held.get(address)?;
        if held.session.id != id || held.session.ends <= now {
            return None;
        }
        let mut session = Session::clone(&held.session);
        change(&mut session.claims);
        let session = Arc::new(session);
        // It has its places already.
        let again = state.write(&session, now).unwrap_or_default();
        state.held.insert(session.clone(), again);
        Some(session)
    }

    /// Ends sessions, and returns them by address. As with [`Sessions::begin`], only a settled engine judges no packet by
    /// them.
    pub fn end(&self, which: &Which) -> Vec<Arc<Session>> {
        let mut state = self.state();
        let meant = state.meant(which);
        meant.into_iter().filter_map(|session| state.end(session.address)).collect()
    }

    /// As [`Sessions::end`], those for which this says so.
    pub fn end_where(&self, is_meant: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        self.state().end_all(is_meant)
    }

    /// Those meant that have not ended, by address.
    pub fn list(&self, which: &Which, now: Now) -> Vec<Arc<Session>> {
        let mut list = self.state().meant(which);
        list.retain(|session| session.ends > now);
        list
    }

    /// A generation is about to ask this policy's slots.
    pub fn serves(&self, generation: Generation, policy: &Policy) {
        let state = self.state();
        let slots = Arc::as_ptr(policy.identities());
        if let Some(view) = state.views.iter().find(|view| view.slots.as_ptr() == slots) {
            lock(&state.turns).serves(generation, view.number);
        }
    }

    /// By whose session a generation has decided something of this address, if that is known still.
    pub fn whose(&self, generation: Generation, bearer: Bearer, address: IpAddr) -> Option<Arc<Session>> {
        if bearer == Bearer::NONE {
            return None;
        }
        let state = self.state();
        let turns = lock(&state.turns);
        let number = turns.asked(generation)?;
        // One that has lasted for long is remembered where it is held.
        let held = || {
            let view = state.views.iter().find(|view| view.number == number)?;
            let is_current = view.slots.upgrade()?.bearer(address)?.turn() == bearer.turn();
            state.held.get(address).filter(|_| is_current).map(|held| held.session.clone())
        };
        turns.whose(number, bearer.turn()).or_else(held)
    }

    /// The session of an address, if it has not ended.
    pub fn of(&self, address: IpAddr, now: Now) -> Option<Arc<Session>> {
        let state = self.state();
        let held = state.held.get(address)?;
        (held.session.ends > now).then(|| held.session.clone())
    }

    /// Forgets the sessions that have ended by the clock, and returns them by address; describes again those that have to
    /// be. Cheap when nothing is due: to be called all the time.
    pub fn follow(&self, now: Now) -> Vec<Arc<Session>> {
        let mut state = self.state();
        if state.held.is_quiet(now) {
            return std::mem::take(&mut state.expired);
        }
        state.expire(now);
        for address in state.held.due(now) {
            let Some(session) = state.held.get(address).map(|held| held.session.clone()) else { continue };
            // It has its places already.
            let again = state.write(&session, now).unwrap_or_default();
            state.held.describe_again(address, again);
        }
        std::mem::take(&mut state.expired)
    }
}
