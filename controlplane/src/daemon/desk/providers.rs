//! Signing in at an identity provider, and what transmitters of security events push: the desk's side.

use std::time::{Instant, SystemTime};

use super::{Proven, Visitor, refused};
use crate::daemon::{log, signals};
use crate::identity::oidc::{At, Back, NotIn, Poll, SignedIn};
use crate::identity::unix_s;
use crate::model::Model;
use crate::portal::wire::{Answer, Secret, Why};
use crate::sessions::Proof;

/// Where browsers come back to, as the portal serves it.
const BACK: &str = "/oidc/callback";

/// This moment.
pub fn at() -> At {
    let unix_s = i64::try_from(unix_s(SystemTime::now())).unwrap_or(i64::MAX);
    At { instant: Instant::now(), unix_s }
}

/// Where browsers come back to. Without a portal there is no provider either.
fn redirect(model: &Model) -> Option<String> {
    Some(model.portal.as_ref()?.origin() + BACK)
}

impl Visitor<'_> {
    pub(super) fn oidc_begin(&self, name: &str, step_up: bool) -> Answer {
        if let Err(no) = self.may_begin() {
            return no;
        }
        if step_up && self.session().is_none() {
            return refused(Why::NotSignedIn);
        }
        let model = self.gateway.in_force().model;
        let Some(redirect) = redirect(&model) else { return refused(Why::Unknown) };
        let all = &model.sign_in.providers;
        match self.desk().providers.begin(all, name, step_up, &redirect, self.address, at()) {
            Ok(to) => Answer::Redirect { url: to.url, binding: to.binding },
            Err(why) => self.not_in(name, why),
        }
    }

    pub(super) fn oidc_finish(&self, back: &Back) -> Answer {
        if let Err(no) = self.may_begin() {
            return no;
        }
        let model = self.gateway.in_force().model;
        let Some(redirect) = redirect(&model) else { return refused(Why::Unknown) };
        let all = &model.sign_in.providers;
        match self.desk().providers.finish(all, back, &redirect, self.address, at()) {
            Ok(signed_in) if signed_in.step_up => self.step_up_by_provider(signed_in),
            Ok(signed_in) => self.begin(proven(signed_in)),
            Err(why) => self.not_in("an identity provider", why),
        }
    }

    pub(super) fn device_begin(&self, name: &str) -> Answer {
        if let Err(no) = self.may_begin() {
            return no;
        }
        let model = self.gateway.in_force().model;
        let begun = self.desk().providers.device_begin(&model.sign_in.providers, name, self.address, at());
        match begun {
            Ok((attempt, told, interval_s)) => Answer::Device {
                attempt,
                user_code: told.user_code,
                verification_uri: told.verification_uri,
                verification_uri_complete: told.verification_uri_complete,
                interval_s,
                expires_s: told.expires_s,
            },
            Err(why) => self.not_in(name, why),
        }
    }

    pub(super) fn device_poll(&self, attempt: &Secret) -> Answer {
        let model = self.gateway.in_force().model;
        let polled = self.desk().providers.device_poll(&model.sign_in.providers, attempt, self.address, at());
        match polled {
            Ok(Poll::Wait(interval_s)) => Answer::Wait { interval_s },
            Ok(Poll::Done(signed_in)) => self.begin(proven(*signed_in)),
            Err(why) => self.not_in("an identity provider", why),
        }
    }

    /// Of the cookie's session only, and only by whom it is of.
    fn step_up_by_provider(&self, signed_in: SignedIn) -> Answer {
        let Some(session) = self.session() else { return refused(Why::NotSignedIn) };
        let is_same = session.claims.user.as_deref() == Some(signed_in.user.as_str())
            && session.claims.origin.as_ref().is_some_and(|origin| {
                origin.issuer == signed_in.origin.issuer && origin.subject == signed_in.origin.subject
            });
        if !is_same {
            self.tell_refused(None, "the step-up is somebody else's than the session");
            return refused(Why::Wrong);
        }
        match signed_in.factor {
            Some((_, phishing_resistant)) => self.step_up(&session, phishing_resistant),
            None => {
                self.tell_refused(
                    Some(&signed_in.user),
                    "the provider tells of no second factor (`acr`, `amr`)",
                );
                refused(Why::Provider)
            }
        }
    }

    fn not_in(&self, name: &str, why: NotIn) -> Answer {
        match &why {
            NotIn::Unknown => refused(Why::Unknown),
            NotIn::Stale => refused(Why::Stale),
            NotIn::Busy => refused(Why::Busy),
            NotIn::Provider(told) => {
                self.tell_refused(None, &format!("{name}: {told}"));
                refused(Why::Provider)
            }
            NotIn::Failed(told) => {
                self.gateway.alarm(format!("nobody can sign in at {name}: {told}"));
                refused(Why::Failed)
            }
        }
    }

    /// What a transmitter has pushed.
    pub(super) fn security_event(
        &self,
        name: &str,
        authorization: Option<&Secret>,
        token: &Secret,
    ) -> Answer {
        let model = self.gateway.in_force().model;
        let all = &model.sign_in.transmitters;
        let told = self.desk().signals.pushed(all, name, authorization, token.reveal(), at());
        match told {
            Ok(told) => match signals::apply(self.gateway, name, &told) {
                Ok(()) => Answer::Taken,
                Err(why) => {
                    self.gateway
                        .alarm(format!("an event of {name} could not be carried out: {}", why.message));
                    refused(Why::Failed)
                }
            },
            Err(why) => {
                log::say(&format!("security event refused, pushed from {} for {name}: {why}", self.address));
                Answer::NotTaken { err: why.err.to_owned(), description: why.description }
            }
        }
    }
}

fn proven(signed_in: SignedIn) -> Proven {
    let SignedIn { user, groups, factor, origin, .. } = signed_in;
    Proven { user: Some(user), groups, factor, origin: Some(origin), ..Proven::by(Proof::Provider) }
}
