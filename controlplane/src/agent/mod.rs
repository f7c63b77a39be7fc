//! The agent: what a user and a device run at their own end to say who they are to a portal.
//!
//! It needs no privilege and is trusted with none. The device's key is made here and never leaves [`home`]; the portal is known
//! by its certificate's fingerprint or by an authority; what the gateway believes is what the key has signed for a challenge
//! of its own.

pub mod certificate;
pub mod client;
pub mod facts;
pub mod home;
pub mod statement;
pub mod svid;
