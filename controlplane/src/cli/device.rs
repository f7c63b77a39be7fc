//! `bulkhead device`: devices that are known by keys of their own.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::control::{ControlArgs, Table, or_dash, said, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::device::DeviceAct;
use crate::api::{Reply, Request};

/// Devices that are known by keys of their own: enroll, list and revoke them
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead device enroll laptop-7 --tag laptop\n  \
    bulkhead device list\n  \
    bulkhead device revoke laptop-7")]
pub struct DeviceArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a code with which a device can be enrolled, once, within an hour
    ///
    /// The device makes its own key and keeps it: `bulkhead agent enroll` there, with this code, has the gateway take the
    /// key's public half, and gives the device a certificate for others. Enrolling a device anew replaces its key.
    #[command(after_help = "Examples:\n  bulkhead device enroll laptop-7 --tag laptop --for 365d")]
    Enroll(EnrollArgs),
    /// Show all devices
    #[command(after_help = "Examples:\n  bulkhead device list\n  bulkhead device list -o json")]
    List(ListArgs),
    /// Set the tags of a device; live sessions are judged by them at once
    #[command(after_help = "Examples:\n  bulkhead device tags laptop-7 laptop migration-laptop")]
    Tags(TagsArgs),
    /// Let a device's key count no more: from then on no rule that asks for it lets anything through
    #[command(after_help = "Examples:\n  bulkhead device revoke laptop-7")]
    Revoke(OneArgs),
    /// Revoke a device and forget it
    #[command(after_help = "Examples:\n  bulkhead device remove laptop-7")]
    Remove(OneArgs),
}

#[derive(Args)]
struct EnrollArgs {
    /// What the device is called
    name: String,
    /// A tag of the device; may be given several times
    #[arg(long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// How long the enrolment holds
    #[arg(long = "for", value_name = "DURATION", default_value = "365d")]
    lasts: String,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct ListArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct TagsArgs {
    /// Which
    name: String,
    /// All tags; none takes all away
    tags: Vec<String>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
struct OneArgs {
    /// Which
    name: String,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DeviceArgs {
    pub(super) fn run(self) -> Result<Exit> {
        match self.action {
            Action::Enroll(EnrollArgs { name, tags, lasts, control, output }) => {
                change(&control, output, &name, DeviceAct::Enroll { tags, lasts }, "can be enrolled")
            }
            Action::List(args) => args.run(),
            Action::Tags(TagsArgs { name, tags, control, output }) => {
                change(&control, output, &name, DeviceAct::Tags { tags }, "has other tags")
            }
            Action::Revoke(OneArgs { name, control, output }) => {
                change(&control, output, &name, DeviceAct::Revoke, "counts no more")
            }
            Action::Remove(OneArgs { name, control, output }) => {
                change(&control, output, &name, DeviceAct::Remove, "is removed")
            }
        }
    }
}

fn change(control: &ControlArgs, output: OutputArgs, name: &str, act: DeviceAct, done: &str) -> Result<Exit> {
    let enrolls = matches!(act, DeviceAct::Enroll { .. });
    let request = Request::Device { name: name.to_owned(), act, said: said() };
    let device = match control.ask_one(&request, "writing")? {
        Ok(Reply::Device(device)) => device,
        Ok(reply) => return Err(unexpected(&reply)),
        Err(exit) => return Ok(exit),
    };
    if output.output == Format::Json {
        say_json(&json!(device));
        return Ok(Exit::Ok);
    }
    let sessions =
        if enrolls { String::new() } else { format!("; {} session(s) concerned", device.sessions) };
    say(&format!("{name} {done}{sessions}"));
    if let Some(code) = &device.code {
        let (minutes, code) = (code.lasts_s / 60, code.code.reveal());
        say(&format!(
            "on the device, once, within {minutes} minutes, with the address of the portal there:\n  \
             bulkhead agent enroll --portal https://ADDRESS --device {name} --code {code}"
        ));
    }
    Ok(Exit::Ok)
}

impl ListArgs {
    fn run(self) -> Result<Exit> {
        let devices = self.control.ask_all(&Request::Devices, |reply| match reply {
            Reply::Device(device) => Ok(*device),
            reply => Err(Box::new(reply)),
        })?;
        let devices = match devices {
            Ok(devices) => devices,
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!({ "devices": devices }));
            return Ok(Exit::Ok);
        }
        let mut table = Table::new(&["DEVICE", "STATE", "TAGS", "ENROLLED", "UNTIL", "KEY", ">SESSIONS"]);
        for device in &devices {
            let tags = if device.tags.is_empty() { "-".to_owned() } else { device.tags.join(",") };
            table.row([
                device.name.clone(),
                device.state.clone(),
                tags,
                or_dash(device.enrolled.as_deref()),
                or_dash(device.ends.as_deref()),
                or_dash(device.key.as_deref()),
                device.sessions.to_string(),
            ]);
        }
        say(&format!("{}\n{} device(s)", table.text(), devices.len()));
        Ok(Exit::Ok)
    }
}
