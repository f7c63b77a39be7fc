//! What the portal's process and the gateway say to each other, over one pair of Unix sockets that keep messages apart.
//!
//! The portal is in everybody's reach, so it counts as taken over. It relays proofs and shows what it is told; whatever
//! it asks, the gateway decides, and by itself knows for which address: with every question comes the very TCP
//! connection of whoever asks ([`send`] passes its descriptor), and the gateway reads the peer's address from that. A
//! portal without network rights can make no connection whose peer is somebody else.
//!
//! A message is one JSON object of at most [`MESSAGE_BYTES_MAX`] bytes. Answers come in any order; `id` says to what.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::sessions::health::Facts;

/// The longest message: a token of an identity provider that tells a hundred groups has a quarter of it.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A text that nobody may read in a log: a password, a code, a cookie, a token. Wiped when it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Around a text.
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A question of the portal. The connection on which it was asked comes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Comes back with the answer.
    pub id: u64,
    /// The cookie that the browser, or the agent, has shown.
    pub cookie: Option<Secret>,
    /// What is asked.
    pub question: Question,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// Who is it, and what may they reach? Answered with [`Answer::Standing`].
    Standing,
    /// Sign in with a name and a password. Answered with [`Answer::Factor`], [`Answer::Begun`] or [`Answer::Refused`].
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// Show a code of an authenticator app: to finish a sign-in, or, without `attempt`, to step the cookie's session up.
    /// Answered with [`Answer::Begun`] or [`Answer::Refused`].
    Totp {
        /// The sign-in, as [`Answer::Factor`] named it.
        attempt: Option<Secret>,
        /// Six digits.
        code: Secret,
    },
    /// Begin to show a passkey: to finish a sign-in, to step the cookie's session up, or else to sign in with nothing but
    /// the passkey. Answered with [`Answer::Passkey`].
    PasskeyBegin {
        /// The sign-in, as [`Answer::Factor`] named it.
        attempt: Option<Secret>,
        /// Step the session up.
        step_up: bool,
    },
    /// Show a passkey. Answered with [`Answer::Begun`] or [`Answer::Refused`].
    PasskeyFinish {
        /// As [`Answer::Passkey`] named it.
        attempt: Secret,
        /// What `navigator.credentials.get` returned, as JSON.
        response: String,
    },
    /// Begin to register a passkey of the cookie's user, which needs a second factor shown just now unless there is none
    /// yet. Answered with [`Answer::Passkey`].
    PasskeyRegisterBegin,
    /// Register it. Answered with [`Answer::Standing`] or [`Answer::Refused`].
    PasskeyRegisterFinish {
        /// As [`Answer::Passkey`] named it.
        attempt: Secret,
        /// What people call it.
        name: String,
        /// What `navigator.credentials.create` returned, as JSON.
        response: String,
    },
    /// Take a passkey of the cookie's user away, which needs a second factor shown just now, and ends the user's sessions.
    /// Answered with [`Answer::SignedOut`] or [`Answer::Refused`].
    PasskeyRemove {
        /// Its id.
        id: String,
    },
    /// Begin to sign in at an identity provider, in the browser. Answered with [`Answer::Redirect`].
    OidcBegin {
        /// The provider's name in the configuration.
        provider: String,
        /// Ask for a fresh second factor, even if the provider knows the browser.
        step_up: bool,
    },
    /// The identity provider has sent the browser back. Answered with [`Answer::Begun`] or [`Answer::Refused`].
    OidcFinish {
        /// `state`, as it came.
        state: Secret,
        /// `code`, if there is one.
        code: Option<Secret>,
        /// `iss` (RFC 9207), if there is one.
        iss: Option<String>,
        /// `error`, if there is one.
        error: Option<String>,
        /// What [`Answer::Redirect`] gave to be kept in the browser.
        binding: Option<Secret>,
    },
    /// Begin to sign in at an identity provider, at a terminal (RFC 8628). Answered with [`Answer::Device`].
    DeviceBegin {
        /// The provider's name.
        provider: String,
    },
    /// Whether that was done. Answered with [`Answer::Begun`], [`Answer::Wait`] or [`Answer::Refused`].
    DevicePoll {
        /// As [`Answer::Device`] named it.
        attempt: Secret,
    },
    /// End the cookie's session. Answered with [`Answer::SignedOut`].
    SignOut,
    /// A challenge for a statement of a device. Answered with [`Answer::Challenge`].
    Challenge,
    /// Take a device's key for the code that an operator has made. Answered with [`Answer::Enrolled`] or
    /// [`Answer::Refused`].
    DeviceEnroll {
        /// The device's name.
        device: String,
        /// The code.
        code: Secret,
        /// The public key, as a JSON Web Key in JSON.
        key: String,
        /// A compact JWS of type [`ENROLMENT`], signed by the key: an [`Enrolment`].
        token: Secret,
    },
    /// Certify another key of a device, with which programs on it show who they are. Answered with [`Answer::Enrolled`] or
    /// [`Answer::Refused`].
    DeviceCertificate {
        /// The device's name.
        device: String,
        /// A compact JWS of type [`CERTIFICATION`], signed by the device's own key: a [`Certification`].
        token: Secret,
        /// What the other key has signed of the same challenge
        /// ([`possession`](crate::identity::statements::possession)), in base64url.
        proof: String,
    },
    /// A statement that a device's key has signed: that it is there, and its health. Answered with [`Answer::Standing`],
    /// [`Answer::Begun`] or [`Answer::Refused`].
    Statement {
        /// The device's name.
        device: String,
        /// A compact JWS of type [`STATEMENT`]: a [`Statement`].
        token: Secret,
    },
    /// A Security Event Token that a transmitter has pushed (RFC 8935). Answered with [`Answer::Taken`] or
    /// [`Answer::NotTaken`].
    SecurityEvent {
        /// The transmitter's name in the configuration, as the path has it.
        transmitter: String,
        /// The `Authorization` header, if there is one.
        authorization: Option<Secret>,
        /// The body.
        token: Secret,
    },
}

/// An answer of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// Of the question.
    pub id: u64,
    /// The answer.
    pub answer: Answer,
}

/// What the gateway says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// What is known of whoever is behind the address.
    Standing(Box<Standing>),
    /// The password was right, and a second factor is needed.
    Factor {
        /// Names the sign-in; it lasts five minutes, at this address only.
        attempt: Secret,
        /// The factors that the user has, the strongest first.
        methods: Vec<Method>,
    },
    /// They are signed in, or have stepped up.
    Begun {
        /// The browser's cookie from now on; always a new one.
        cookie: Secret,
        /// What they may reach now.
        standing: Box<Standing>,
    },
    /// Options for `navigator.credentials`, as JSON.
    Passkey {
        /// Names what was begun; it lasts five minutes, at this address only, and serves once.
        attempt: Secret,
        /// `PublicKeyCredentialRequestOptions` or `PublicKeyCredentialCreationOptions` in their JSON form.
        options: String,
    },
    /// The browser is to go there.
    Redirect {
        /// Where.
        url: String,
        /// To be kept in a cookie of the browser, and shown at the end: who did not begin cannot end.
        binding: Secret,
    },
    /// The user is to go to a page and type a code.
    Device {
        /// Names the sign-in.
        attempt: Secret,
        /// The code.
        user_code: String,
        /// The page.
        verification_uri: String,
        /// The page with the code in it.
        verification_uri_complete: Option<String>,
        /// How often to ask, seconds.
        interval_s: u32,
        /// How long it holds, seconds.
        expires_s: u32,
    },
    /// It is not done yet; ask again after so many seconds.
    Wait {
        /// Seconds.
        interval_s: u32,
    },
    /// The session has ended, or there was none.
    SignedOut,
    /// To be signed.
    Challenge {
        /// Random, for one statement from this address.
        nonce: String,
        /// Processes of which a report should say whether they run.
        processes: Vec<String>,
        /// For how long a statement holds, seconds.
        heartbeat_s: u32,
    },
    /// The device is enrolled.
    Enrolled {
        /// Its certificate, in PEM.
        certificate: String,
        /// That of the authority which has signed it, in PEM.
        authority: String,
    },
    /// The security event was taken.
    Taken,
    /// It was not (RFC 8935, section 2.4).
    NotTaken {
        /// `err`.
        err: String,
        /// `description`.
        description: String,
    },
    /// No.
    Refused {
        /// Why, as far as whoever asks may know.
        why: Why,
        /// Not before so many seconds.
        retry_after_s: Option<u32>,
    },
}

/// `typ` of what a device signs to be enrolled.
pub const ENROLMENT: &str = "bulkhead-enrolment+jwt";
/// `typ` of what a device signs to say that it is there.
pub const STATEMENT: &str = "bulkhead-statement+jwt";

/// `typ` of what a device signs to have another key of its own certified.
pub const CERTIFICATION: &str = "bulkhead-certification+jwt";

/// What a device signs to have another key of its own certified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certification {
    /// Its name.
    pub device: String,
    /// As [`Answer::Challenge`] gave it.
    pub nonce: String,
    /// The other key: a point on P-256, not compressed (SEC 1, section 2.3.3), in base64url.
    pub key: String,
}

/// What a device signs to be enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// Its name.
    pub device: String,
    /// As [`Answer::Challenge`] gave it.
    pub nonce: String,
}

/// What a device signs to say that it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Its name.
    pub device: String,
    /// As [`Answer::Challenge`] gave it.
    pub nonce: String,
    /// Its health.
    pub facts: Facts,
}

/// A second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// WebAuthn.
    Passkey,
    /// A code of an authenticator app (RFC 6238).
    Totp,
}

/// Why not, without a word that would help to guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The name, the password, the code or the key is wrong, or the user may not sign in.
    Wrong,
    /// Too many wrong ones, of this user or from this address.
    TooMany,
    /// The sign-in is over, or began elsewhere.
    Stale,
    /// There is no session that this cookie opens at this address.
    NotSignedIn,
    /// A second factor has to be shown first, just now: a passkey if the user has one; without any, the password.
    NotFresh,
    /// There is a limit of passkeys for a user, or this one is registered already.
    NotAdded,
    /// The user or the address is locked.
    Locked,
    /// Two users have signed in from this address, which nothing tells apart.
    Shared,
    /// The address belongs to no segment, or packets cannot come from it.
    NoSegment,
    /// There are as many sessions as fit.
    Full,
    /// Something asked for is not configured.
    Unknown,
    /// The identity provider said no, or said nothing that holds.
    Provider,
    /// The gateway is busy.
    Busy,
    /// Something failed; the gateway's log says what.
    Failed,
}

/// What is known of whoever is behind an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The address.
    pub address: String,
    /// Its segment.
    pub segment: Option<String>,
    /// The session that the cookie opens.
    pub session: Option<Known>,
    /// The address has a session, and the cookie does not open it.
    pub is_taken: bool,
    /// Users may sign in with a password.
    pub passwords: bool,
    /// Where users may sign in with a passkey, as browsers write it: `https://access.example.org`. Nowhere else, for a
    /// passkey is of one name.
    pub passkeys: Option<String>,
    /// Where devices show certificates, as browsers write it: `https://access.example.org:8443`.
    pub certificates: Option<String>,
    /// Identity providers.
    pub providers: Vec<Provider>,
    /// What the rules say of the address's segment, for this session.
    pub reach: Vec<Reach>,
    /// There is more than `reach` says.
    pub is_partial: bool,
}

/// An identity provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: String,
    /// What people call it.
    pub label: String,
}

/// A session, for whom it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its id.
    pub id: String,
    /// The user; `None` when only the device is known.
    pub user: Option<String>,
    /// The user's groups.
    pub groups: Vec<String>,
    /// What the device is called.
    pub device: Option<String>,
    /// How it was proved.
    pub proof: String,
    /// The second factor's age, seconds, if one was shown.
    pub mfa_age_s: Option<u32>,
    /// It cannot be phished.
    pub phishing_resistant: bool,
    /// Second factors with which it can be stepped up here.
    pub methods: Vec<Method>,
    /// The user's passkeys, if it is a user who can have some here.
    pub passkeys: Option<Vec<Passkey>>,
    /// They may be changed now: see [`Why::NotFresh`].
    pub is_fresh: bool,
    /// The identity provider at which it can be stepped up.
    pub provider: Option<String>,
    /// Postures and how the device stands to them: `met`, `failed`, `unknown`.
    pub postures: Vec<(String, String)>,
    /// Until it ends, seconds.
    pub left_s: u64,
}

/// A passkey, for whom it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passkey {
    /// Its id: base64url.
    pub id: String,
    /// What its user calls it.
    pub name: String,
    /// When it was registered, seconds ago.
    pub added_s: u64,
    /// When it was last shown, seconds ago.
    pub used_s: Option<u64>,
    /// It is kept where several devices have it.
    pub is_synced: bool,
}

/// What a rule says of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// The destination's segment.
    pub to: String,
    /// Its description.
    pub description: Option<String>,
    /// Services, as the rule writes them.
    pub services: Vec<String>,
    /// The rule.
    pub rule: String,
    /// Why not; `None` when it is allowed.
    pub refusal: Option<Refusal>,
    /// Until a deadline of the session changes that, seconds.
    pub left_s: Option<u64>,
}

/// Why something is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The reason's name: `mfa_too_old`.
    pub reason: String,
    /// What it means.
    pub help: String,
    /// What can be done about it here.
    pub remedy: Option<Remedy>,
}

/// What can be done about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Sign in.
    SignIn,
    /// Show a second factor again.
    StepUp,
    /// Show one that cannot be phished.
    Passkey,
}

/// Sends a message, and a descriptor with it.
///
/// # Errors
///
/// It is too long, the socket is full ([`io::ErrorKind::WouldBlock`]), or the other end is gone.
pub fn send(socket: impl AsFd, message: &impl Serialize, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = Zeroizing::new(serde_json::to_vec(message)?);
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = with.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message and the descriptor that came with it; `None` when the other end is gone. More than one descriptor
/// never comes in: the kernel drops those for which there is no room.
///
/// # Errors
///
/// There is none yet ([`io::ErrorKind::WouldBlock`]), or it is not a message ([`io::ErrorKind::InvalidData`]): then the
/// other end is not to be believed any more.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = Zeroizing::new(vec![0; MESSAGE_BYTES_MAX]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if received.bytes == 0 {
        return Ok(None);
    }
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(invalid("the message is too long"));
    }
    // What serde_json says of it may repeat a part of it.
    let message = serde_json::from_slice(&bytes[..received.bytes]).map_err(|_| invalid("not a message"))?;
    Ok(Some((message, descriptor)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn asked(question: Question) -> Asked {
        Asked { id: 7, cookie: Some(Secret::new("c".to_owned())), question }
    }

    #[test]
    fn a_question_brings_the_very_connection() {
        let (portal, gateway) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        let question =
            asked(Question::Password { user: "a".to_owned(), password: Secret::new("b".to_owned()) });
        send(&portal, &question, Some(accepted.as_fd())).unwrap();
        let (came, connection) = receive::<Asked>(&gateway).unwrap().unwrap();
        assert_eq!(came, question);
        assert_eq!(TcpStream::from(connection.unwrap()).peer_addr().unwrap(), peer);
        assert_eq!(peer, client.local_addr().unwrap());
        drop(portal);
        assert!(receive::<Asked>(&gateway).unwrap().is_none(), "the other end is gone");
    }

    #[test]
    fn what_is_no_message_is_told_as_such_and_not_repeated() {
        let (portal, gateway) = pair();
        for bytes in [&b"{"[..], b"{\"id\":1,\"cookie\":null,\"question\":{\"ask\":\"s3cret\"}}", &[0xff; 9]]
        {
            rustix::net::send(&portal, bytes, SendFlags::empty()).unwrap();
            let error = receive::<Asked>(&gateway).unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (io::ErrorKind::InvalidData, "not a message")
            );
        }
        let long = asked(Question::Totp { attempt: None, code: Secret::new("x".repeat(MESSAGE_BYTES_MAX)) });
        assert_eq!(send(&portal, &long, None).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_secret_is_not_in_what_is_printed() {
        let question =
            Question::Password { user: "alice".to_owned(), password: Secret::new("s3cret".to_owned()) };
        let printed = format!("{question:?}");
        assert!(printed.contains("alice") && !printed.contains("s3cret"), "{printed}");
    }
}
