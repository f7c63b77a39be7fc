//! Passkeys: Web Authentication Level 3, verified by `webauthn_rp`.
//!
//! A passkey is of one name, the portal's: its browser shows it nowhere else, and what it signs says where that was. So what
//! is shown cannot be phished. The authenticator has always verified its user, by a PIN or a finger, so that a passkey is two
//! factors by itself.
//!
//! Challenges are made here, and what is [`Expected`] is used up by verifying: nothing that was signed is taken twice. The
//! store keeps public keys only.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use webauthn_rp::bin::{Decode, Encode};
use webauthn_rp::request::auth::{AllowedCredential, AllowedCredentials, AuthenticationVerificationOptions};
use webauthn_rp::request::register::{
    CredProtect, Nickname, PublicKeyCredentialUserEntity, RegistrationVerificationOptions,
    USER_HANDLE_MAX_LEN, UserHandle64, Username,
};
use webauthn_rp::request::{
    AsciiDomain, Credentials, ExtensionInfo, PublicKeyCredentialDescriptor, RpId, UserVerificationRequirement,
};
use webauthn_rp::response::auth::error::AuthCeremonyErr;
use webauthn_rp::response::register::error::RegCeremonyErr;
use webauthn_rp::response::register::{CompressedPubKey, DynamicState, StaticState};
use webauthn_rp::response::{AuthTransports, AuthenticatorAttachment, Backup, CredentialId};
use webauthn_rp::{
    AuthenticatedCredential, DiscoverableAuthentication64, DiscoverableAuthenticationServerState,
    DiscoverableCredentialRequestOptions, NonDiscoverableAuthentication64,
    NonDiscoverableAuthenticationServerState, NonDiscoverableCredentialRequestOptions,
    PublicKeyCredentialCreationOptions, Registration, RegistrationServerState,
};

use super::book::{Book, Broken, User};
use crate::portal::origin;

/// Passkeys of a user.
pub const PASSKEYS_MAX: usize = 16;
/// Characters of what people call one.
const NAME_CHARS_MAX: usize = 64;

/// A passkey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passkey {
    /// The credential's id, base64url.
    pub id: String,
    /// What its user calls it.
    pub name: String,
    /// The public key, as `webauthn_rp` writes it, base64url.
    pub key: String,
    /// The greatest counter that it has shown; 0 of one that does not count, as those in several places.
    pub sign_count: u32,
    /// It may be kept in several places; that never changes.
    pub may_sync: bool,
    /// It is.
    pub is_synced: bool,
    /// How browsers reach it, as `webauthn_rp` writes it.
    pub transports: u8,
    /// The authenticator's kind, 32 hexadecimal digits; all 0 of one that does not say.
    pub aaguid: String,
    /// When it was registered, seconds since 1970.
    pub added_s: u64,
    /// When it was last shown.
    pub used_s: Option<u64>,
}

type Key = CompressedPubKey<[u8; 32], [u8; 32], [u8; 48], Vec<u8>>;

impl Passkey {
    fn credential_id(&self) -> Option<CredentialId<Vec<u8>>> {
        CredentialId::decode(BASE64URL_NOPAD.decode(self.id.as_bytes()).ok()?).ok()
    }

    fn descriptor(&self) -> Option<PublicKeyCredentialDescriptor<Vec<u8>>> {
        let transports =
            AuthTransports::decode(self.transports).or_else(|_| AuthTransports::decode(0)).ok()?;
        Some(PublicKeyCredentialDescriptor { id: self.credential_id()?, transports })
    }

    fn state(&self) -> DynamicState {
        DynamicState {
            user_verified: true,
            backup: match (self.may_sync, self.is_synced) {
                (false, _) => Backup::NotEligible,
                (true, false) => Backup::Eligible,
                (true, true) => Backup::Exists,
            },
            sign_count: self.sign_count,
            authenticator_attachment: AuthenticatorAttachment::None,
        }
    }

    fn key(&self) -> Option<StaticState<Key>> {
        StaticState::decode(&BASE64URL_NOPAD.decode(self.key.as_bytes()).ok()?).ok()
    }

    /// Whether another of the same would have shown this counter (Web Authentication Level 3, section 6.1.1).
    fn is_behind(&self, sign_count: u32) -> bool {
        self.sign_count != 0 && sign_count <= self.sign_count
    }
}

/// What people call a passkey, if it can be called so.
pub fn name(text: &str) -> Option<String> {
    let text = text.trim();
    let is_fit = !text.is_empty() && text.chars().count() <= NAME_CHARS_MAX;
    (is_fit && !text.contains(char::is_control)).then(|| text.to_owned())
}

/// What passkeys are of: the portal, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    id: RpId,
    origin: String,
}

/// Why a passkey was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotShown {
    /// What was signed does not hold; how so.
    Wrong(&'static str),
    /// It holds, but the counter has gone backwards: there are two of it. What it is called.
    Cloned(String),
}

/// A passkey that was shown, and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    id: String,
    sign_count: u32,
    is_synced: bool,
}

/// What an authenticator was asked for.
#[derive(Debug)]
pub enum Expected {
    /// A passkey of anybody.
    Anybody(DiscoverableAuthenticationServerState),
    /// One of a user's.
    Of(NonDiscoverableAuthenticationServerState),
}

/// What an authenticator was asked to make, and the handle of whom it is for.
#[derive(Debug)]
pub struct Making {
    state: RegistrationServerState<USER_HANDLE_MAX_LEN>,
    handle: String,
}

impl Party {
    /// The portal of this DNS name, at this TCP port. Nothing if no browser would take the name.
    pub fn new(name: &str, port: u16) -> Option<Party> {
        let id = RpId::Domain(AsciiDomain::try_from(name.to_owned()).ok()?);
        Some(Party { id, origin: origin(name, port) })
    }

    /// Where they are shown, as browsers write it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Asks for a passkey of anybody. Returns the options for the browser too, as JSON.
    pub fn ask_anybody(&self) -> Option<(Expected, String)> {
        let (expected, options) =
            DiscoverableCredentialRequestOptions::passkey(&self.id).start_ceremony().ok()?;
        Some((Expected::Anybody(expected), serde_json::to_string(&options).ok()?))
    }

    /// Asks for one of these passkeys. Nothing if there is none.
    pub fn ask(&self, passkeys: &[Passkey]) -> Option<(Expected, String)> {
        let mut allowed = AllowedCredentials::with_capacity(passkeys.len());
        passkeys.iter().filter_map(Passkey::descriptor).for_each(|one| {
            allowed.push(AllowedCredential::from(one));
        });
        let mut options = NonDiscoverableCredentialRequestOptions::second_factor(&self.id, allowed).ok()?;
        options.options().user_verification = UserVerificationRequirement::Required;
        let (expected, options) = options.start_ceremony().ok()?;
        Some((Expected::Of(expected), serde_json::to_string(&options).ok()?))
    }

    /// Asks for a new passkey of a user, on an authenticator that has none of the user's yet.
    pub fn make(&self, user: &User) -> Option<(Making, String)> {
        let handle = user.handle.as_deref().map_or_else(|| Some(UserHandle64::new()), decoded)?;
        let entity = PublicKeyCredentialUserEntity {
            name: username(&user.name),
            id: &handle,
            display_name: Nickname::try_from(user.name.as_str()).ok(),
        };
        let known = user.passkeys.iter().filter_map(Passkey::descriptor).collect();
        let mut options = PublicKeyCredentialCreationOptions::passkey(&self.id, entity, known);
        // Enforced, browsers refuse every authenticator that does not know the extension; the user is verified anyway.
        options.extensions.cred_protect =
            CredProtect::UserVerificationRequired(ExtensionInfo::AllowDontEnforceValue);
        let (state, options) = options.start_ceremony().ok()?;
        let options = serde_json::to_string(&options).ok()?;
        Some((Making { state, handle: BASE64URL_NOPAD.encode(handle.as_ref()) }, options))
    }
}

fn decoded(handle: &str) -> Option<UserHandle64> {
    let bytes = BASE64URL_NOPAD.decode(handle.as_bytes()).ok()?;
    let Ok(handle) = UserHandle64::decode(bytes.try_into().ok()?);
    Some(handle)
}

/// The name under which authenticators list it. Theirs have no spaces and signs (RFC 8265, section 3.4); ours may.
fn username(name: &str) -> Username<'static> {
    let plain = || name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let fit = Username::try_from(name.to_owned()).or_else(|_| Username::try_from(plain()));
    fit.or_else(|_| Username::try_from("user")).unwrap_or_else(|_| unreachable!("it is a plain word"))
}

/// The id of the passkey that was shown, as the store writes it; nothing in what is no answer of an authenticator.
pub fn shown_id(response: &str) -> Option<String> {
    let shown = NonDiscoverableAuthentication64::from_json_relaxed(response.as_bytes()).ok()?;
    Some(BASE64URL_NOPAD.encode(shown.raw_id().as_ref()))
}

impl Expected {
    /// Whether this is what was asked for, shown at the portal, by a passkey of this user, who was verified by it.
    ///
    /// # Errors
    ///
    /// See [`NotShown`].
    pub fn verify(self, party: &Party, response: &str, user: &User) -> Result<Shown, NotShown> {
        const NONE: NotShown = NotShown::Wrong("it is no answer of an authenticator");
        const DAMAGED: NotShown = NotShown::Wrong("the store's record of the passkey is damaged");
        let id = shown_id(response).ok_or(NONE)?;
        let passkey = user.passkeys.iter().find(|passkey| passkey.id == id);
        let passkey = passkey.ok_or(NotShown::Wrong("it is no passkey of the user"))?;
        let handle = user.handle.as_deref().and_then(decoded).ok_or(DAMAGED)?;
        let (id, key) = passkey.credential_id().zip(passkey.key()).ok_or(DAMAGED)?;
        let id: CredentialId<&[u8]> = (&id).into();
        let mut credential =
            AuthenticatedCredential::new(id, &handle, key, passkey.state()).map_err(|_| DAMAGED)?;
        let origins = [party.origin.as_str()];
        let options = AuthenticationVerificationOptions::<&str, &str> {
            allowed_origins: &origins,
            error_on_unsolicited_extensions: false,
            ..AuthenticationVerificationOptions::default()
        };
        let verified = match self {
            Expected::Anybody(state) => {
                let response = DiscoverableAuthentication64::from_json_relaxed(response.as_bytes());
                state.verify(&party.id, &response.map_err(|_| NONE)?, &mut credential, &options)
            }
            Expected::Of(state) => {
                let response = NonDiscoverableAuthentication64::from_json_relaxed(response.as_bytes());
                state.verify(&party.id, &response.map_err(|_| NONE)?, &mut credential, &options)
            }
        };
        match verified {
            Ok(_) => {
                let DynamicState { backup, sign_count, .. } = credential.dynamic_state();
                Ok(Shown { id: passkey.id.clone(), sign_count, is_synced: backup == Backup::Exists })
            }
            Err(AuthCeremonyErr::SignatureCounter) => Err(NotShown::Cloned(passkey.name.clone())),
            Err(error) => Err(NotShown::Wrong(not_shown(&error))),
        }
    }
}

/// Without a word of what was sent.
fn not_shown(error: &AuthCeremonyErr) -> &'static str {
    match error {
        AuthCeremonyErr::Timeout => "it came too late",
        AuthCeremonyErr::AssertionSignature => "it is not signed by the passkey",
        AuthCeremonyErr::OriginMismatch
        | AuthCeremonyErr::CrossOrigin
        | AuthCeremonyErr::TopOriginMismatch => "it was shown to another site",
        AuthCeremonyErr::ChallengeMismatch => "it answers another challenge",
        AuthCeremonyErr::RpIdHashMismatch => "it is a passkey of another name",
        AuthCeremonyErr::UserNotVerified => "the authenticator has not verified its user",
        AuthCeremonyErr::BackupEligible | AuthCeremonyErr::BackupNotEligible => {
            "it is of another kind than when it was registered"
        }
        AuthCeremonyErr::UserHandleMismatch
        | AuthCeremonyErr::CredentialIdMismatch
        | AuthCeremonyErr::NoMatchingAllowedCredential => "it is no passkey of the user",
        _ => "it is no answer of an authenticator",
    }
}

impl Making {
    /// The new passkey, if this is what was asked for, made at the portal by an authenticator that has verified its user.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn verify(
        self,
        party: &Party,
        response: &str,
        name: String,
        now_s: u64,
    ) -> Result<Made, &'static str> {
        const NONE: &str = "it is no answer of an authenticator";
        let response = Registration::from_json_relaxed(response.as_bytes()).map_err(|_| NONE)?;
        let origins = [party.origin.as_str()];
        let options = RegistrationVerificationOptions::<&str, &str> {
            allowed_origins: &origins,
            error_on_unsolicited_extensions: false,
            ..RegistrationVerificationOptions::default()
        };
        let made = self.state.verify(&party.id, &response, &options).map_err(|error| not_made(&error))?;
        let (Ok(key), Ok(transports)) = (made.static_state().encode(), made.transports().encode());
        let DynamicState { backup, sign_count, .. } = made.dynamic_state();
        let passkey = Passkey {
            id: BASE64URL_NOPAD.encode(made.id().as_ref()),
            name,
            key: BASE64URL_NOPAD.encode(&key),
            sign_count,
            may_sync: backup != Backup::NotEligible,
            is_synced: backup == Backup::Exists,
            transports,
            aaguid: HEXLOWER.encode(made.metadata().aaguid.data()),
            added_s: now_s,
            used_s: None,
        };
        Ok(Made { passkey, handle: self.handle })
    }
}

fn not_made(error: &RegCeremonyErr) -> &'static str {
    match error {
        RegCeremonyErr::Timeout => "it came too late",
        RegCeremonyErr::OriginMismatch | RegCeremonyErr::CrossOrigin | RegCeremonyErr::TopOriginMismatch => {
            "it was made for another site"
        }
        RegCeremonyErr::ChallengeMismatch => "it answers another challenge",
        RegCeremonyErr::RpIdHashMismatch => "it is a passkey of another name",
        RegCeremonyErr::UserNotPresent | RegCeremonyErr::UserNotVerified => {
            "the authenticator has not verified its user"
        }
        _ => "it is no answer of an authenticator",
    }
}

/// A passkey that is not in the store yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// It.
    pub passkey: Passkey,
    handle: String,
}

/// Why a passkey was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// There are as many as a user may have, or it is registered already.
    Full,
    /// The user is gone, or another one of that name.
    Gone,
}

impl Book {
    /// Adds a passkey to a user.
    ///
    /// # Errors
    ///
    /// The outer one: the file cannot be read or written. The inner one: see [`NotAdded`].
    pub fn add_passkey(&self, name: &str, made: Made) -> Result<Result<(), NotAdded>, Broken> {
        if self.owner(&made.passkey.id)?.is_some() {
            return Ok(Err(NotAdded::Full));
        }
        self.change(name, |before| {
            let mut user = before.filter(|user| !user.disabled).ok_or(NotAdded::Gone)?;
            if user.handle.as_ref().is_some_and(|handle| *handle != made.handle) {
                return Err(NotAdded::Gone);
            }
            if user.passkeys.len() >= PASSKEYS_MAX {
                return Err(NotAdded::Full);
            }
            user.handle = Some(made.handle);
            user.passkeys.push(made.passkey);
            Ok((Some(user), ()))
        })
    }

    /// Takes a passkey away from a user, and gives it back; nothing when the user has none with this id.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub fn remove_passkey(&self, name: &str, id: &str) -> Result<Option<Passkey>, Broken> {
        let removed = self.change(name, |before| {
            let mut user = before.ok_or(())?;
            let at = user.passkeys.iter().position(|passkey| passkey.id == id).ok_or(())?;
            let passkey = user.passkeys.remove(at);
            Ok::<_, ()>((Some(user), passkey))
        });
        removed.map(Result::ok)
    }

    /// Takes in that a passkey was shown, and gives back the user as he is now. When it returns `Ok(Ok)`, the counter is on
    /// the disk.
    ///
    /// # Errors
    ///
    /// The outer one: the file cannot be read or written. The inner one: see [`NotShown`].
    pub fn take_passkey(
        &self,
        name: &str,
        shown: &Shown,
        now_s: u64,
    ) -> Result<Result<User, NotShown>, Broken> {
        self.change(name, |before| {
            const GONE: NotShown = NotShown::Wrong("it is no passkey of the user any more");
            let mut user = before.ok_or(GONE)?;
            if user.disabled {
                return Err(NotShown::Wrong("disabled"));
            }
            let passkey = user.passkeys.iter_mut().find(|passkey| passkey.id == shown.id).ok_or(GONE)?;
            // Of two at once with one counter only one is taken.
            if passkey.is_behind(shown.sign_count) {
                return Err(NotShown::Cloned(passkey.name.clone()));
            }
            passkey.sign_count = shown.sign_count;
            passkey.is_synced = shown.is_synced;
            passkey.used_s = Some(now_s);
            Ok((Some(user.clone()), user))
        })
    }
}

#[cfg(test)]
mod tests;
