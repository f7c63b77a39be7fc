//! The command line: one file a verb.
//!
//! A new verb is a file with an `Args` that has `run`, a variant of [`Verb`] and a line in [`Verb::run`].

mod agent;
mod apply;
mod audit;
mod bench;
mod check;
mod claims;
mod confirm;
mod connections;
mod control;
mod demo;
mod device;
mod diff;
mod doorman;
mod drops;
mod events;
mod explain;
mod files;
mod fmt;
mod history;
mod import;
mod junit;
mod learn;
mod lock;
mod login;
mod matrix;
mod plan;
mod portal;
mod reload;
mod replay;
mod rollback;
mod rules;
mod run;
mod schema;
mod session;
mod shadow;
mod show;
mod status;
mod stop;
mod user;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, and all is well.
    Ok = 0,
    /// 1: could not be done, or the input is wrong.
    Error = 1,
    /// 2: done, and there are differences.
    Differences = 2,
    /// 3: done, and tests of the policy failed.
    TestsFailed = 3,
}

impl Exit {
    /// The one of this code.
    pub fn of(code: u8) -> Exit {
        match code {
            0 => Exit::Ok,
            2 => Exit::Differences,
            3 => Exit::TestsFailed,
            _ => Exit::Error,
        }
    }
}

#[derive(Parser)]
#[command(
    name = "bulkhead",
    version,
    about = "A zero-trust segmentation gateway: packets cross between segments only where the policy says so",
    after_help = "Exit codes: 0 ok, 1 error, 2 differences, 3 tests of the policy failed\n\n\
        Examples:\n  \
        bulkhead check configs/minimal.toml\n  \
        bulkhead explain --config configs/minimal.toml --from office --to servers --port tcp/443"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::RunArgs),
    Plan(plan::PlanArgs),
    Portal(portal::PortalArgs),
    Doorman(doorman::DoormanArgs),
    Matrix(matrix::MatrixArgs),
    Reload(reload::ReloadArgs),
    Apply(apply::ApplyArgs),
    Confirm(confirm::ConfirmArgs),
    Rollback(rollback::RollbackArgs),
    History(history::HistoryArgs),
    Show(show::ShowArgs),
    Diff(diff::DiffArgs),
    Status(status::StatusArgs),
    Connections(connections::ConnectionsArgs),
    Session(session::SessionArgs),
    User(user::UserArgs),
    Device(device::DeviceArgs),
    Login(login::LoginArgs),
    Whoami(login::WhoamiArgs),
    Logout(login::LogoutArgs),
    Agent(agent::AgentArgs),
    Lock(lock::LockArgs),
    Unlock(lock::UnlockArgs),
    Locks(lock::LocksArgs),
    Quarantine(lock::QuarantineArgs),
    Rules(rules::RulesArgs),
    Drops(drops::DropsArgs),
    Events(events::EventsArgs),
    Stop(stop::StopArgs),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Fmt(fmt::FmtArgs),
    Replay(replay::ReplayArgs),
    Import(import::ImportArgs),
    Schema(schema::SchemaArgs),
    Shadow(shadow::ShadowArgs),
    Audit(audit::AuditArgs),
    Learn(learn::LearnArgs),
    Demo(demo::DemoArgs),
    Bench(bench::BenchArgs),
}

impl Verb {
    fn run(self) -> anyhow::Result<Exit> {
        match self {
            Verb::Run(args) => args.run(),
            Verb::Plan(args) => args.run(),
            Verb::Portal(args) => args.run(),
            Verb::Doorman(args) => args.run(),
            Verb::Matrix(args) => args.run(),
            Verb::Reload(args) => args.run(),
            Verb::Apply(args) => args.run(),
            Verb::Confirm(args) => args.run(),
            Verb::Rollback(args) => args.run(),
            Verb::History(args) => args.run(),
            Verb::Show(args) => args.run(),
            Verb::Diff(args) => args.run(),
            Verb::Status(args) => args.run(),
            Verb::Connections(args) => args.run(),
            Verb::Session(args) => args.run(),
            Verb::User(args) => args.run(),
            Verb::Device(args) => args.run(),
            Verb::Login(args) => args.run(),
            Verb::Whoami(args) => args.run(),
            Verb::Logout(args) => args.run(),
            Verb::Agent(args) => args.run(),
            Verb::Lock(args) => args.run(),
            Verb::Unlock(args) => args.run(),
            Verb::Locks(args) => args.run(),
            Verb::Quarantine(args) => args.run(),
            Verb::Rules(args) => args.run(),
            Verb::Drops(args) => args.run(),
            Verb::Events(args) => args.run(),
            Verb::Stop(args) => args.run(),
            Verb::Check(args) => args.run(),
            Verb::Explain(args) => args.run(),
            Verb::Fmt(args) => args.run(),
            Verb::Replay(args) => args.run(),
            Verb::Import(args) => args.run(),
            Verb::Schema(args) => args.run(),
            Verb::Shadow(args) => args.run(),
            Verb::Audit(args) => args.run(),
            Verb::Learn(args) => args.run(),
            Verb::Demo(args) => args.run(),
            Verb::Bench(args) => args.run(),
        }
    }
}

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `-o`: shared by the verbs that list something.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// Form of the output
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Whatever it does, it may hold keys and passwords: no core dump has them, and only root looks into its memory.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        complain(&format!("error: hiding the memory of this process: {error}"));
        return ExitCode::FAILURE;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // clap's own code for a usage error is 2, which means differences here.
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match cli.verb.run() {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line to standard output. A reader that went away (`| head`) is no error.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line to standard error.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a value as JSON.
pub fn say_json(value: &serde_json::Value) {
    say(&format!("{value:#}"));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
