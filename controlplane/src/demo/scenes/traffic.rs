//! What the policy allows and what it does not, by ordinary sockets.

use anyhow::Result;

use crate::demo::probe::Service::{Ping, Tcp, Udp};
use crate::demo::stage::Stage;

/// Plays it.
pub fn play(stage: &mut Stage<'_>) -> Result<()> {
    stage.scene("What the policy allows");
    stage.attempt("clients", "web", "web page", Tcp(443))?;
    stage.attempt("clients", "web", "name look-up", Udp(53))?;
    stage.attempt("clients", "web", "ping", Ping)?;
    stage.attempt("web", "db", "database", Tcp(5432))?;

    stage.scene("What it does not, though somebody listens");
    stage.attempt("clients", "web", "login", Tcp(22))?;
    stage.attempt("clients", "web", "SNMP", Udp(161))?;
    stage.attempt("clients", "db", "database", Tcp(5432))?;
    stage.attempt("clients", "db", "name look-up", Udp(53))?;
    stage.attempt("clients", "db", "ping", Ping)?;
    stage.attempt("web", "clients", "web page", Tcp(443))?;
    stage.attempt("web", "db", "ping", Ping)?;
    stage.attempt("db", "clients", "web page", Tcp(443))?;
    stage.attempt("db", "web", "ping", Ping)
}
