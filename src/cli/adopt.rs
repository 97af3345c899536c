//! `replctl adopt`: a group that somebody else started is found and remembered.

use std::path::PathBuf;

use replctl::event::Event;
use replctl::group::{self, Adoption, Group};
use replctl::topology::{Address, Login};
use serde_json::json;

use super::context::Context;
use super::status::Status;
use super::{ExitCode, Failure};
use crate::ui::table;

/// `replctl adopt NAME --master HOST:PORT`
#[derive(Debug, clap::Args)]
pub struct AdoptArgs {
    /// The name that the group gets
    name: String,

    /// Where its master listens; all replicas are found from there
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    master: Address,

    /// The user to log in as, with a password [default: the default user]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// The file whose first line is the password of all nodes [default: REPLCTL_PASSWORD, else none]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Show what is found, and remember nothing
    #[arg(long)]
    dry_run: bool,
}

/// The password, where no file is named: an argument could be read by everybody.
const PASSWORD_VARIABLE: &str = "REPLCTL_PASSWORD";

fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|wrong| format!("it {wrong}"))
}

impl AdoptArgs {
    /// Finds the group, remembers it, and shows it. A replica that cannot be reached is named, and makes it incomplete.
    pub fn run(&self, context: &Context<'_>) -> anyhow::Result<ExitCode> {
        let dir = context.state()?.group(&self.name)?;
        let login = self.login()?;
        let discover = || context.block_on(async { Ok(group::discover(&self.name, &self.master, &login).await?) });
        if self.dry_run {
            let adoption = discover()?;
            match context.printer.is_json() {
                true => context.printer.object(&json!({ "plan": adoption })),
                false => show(&adoption, context),
            }
            return Ok(code(&adoption));
        }
        let adoption = discover()?;
        let lock = dir.lock("adopt")?;
        let others: Vec<Group> = context.state()?.groups()?.into_iter().map(Group::open).collect::<Result<_, _>>()?;
        let group = group::adopt(dir, &lock, &adoption, &others)?;
        let dir = group.dir.clone();
        let status = context.record(
            &dir,
            |event| context.narrate(event),
            async |recorder| {
                recorder.record(Event::Began { command: "adopt".to_owned() })?;
                let (view, _) = group::observe(&group).await?;
                recorder.record(Event::Finished { command: "adopt".to_owned(), error: None })?;
                Ok(Status::new(group, view))
            },
        )?;
        warn(&adoption, context);
        if context.printer.is_json() {
            context.printer.object(&adoption);
            return Ok(code(&adoption));
        }
        status.show(context)?;
        Ok(code(&adoption))
    }

    fn login(&self) -> anyhow::Result<Login> {
        let password = match &self.password_file {
            Some(path) => Some(group::read_password(path).map_err(|error| {
                Failure::new(ExitCode::Usage, format_args!("the password file {}: {error}", path.display()))
            })?),
            None => std::env::var(PASSWORD_VARIABLE).ok().filter(|password| !password.is_empty()),
        };
        if self.user.is_some() && password.is_none() {
            let failure = Failure::new(ExitCode::Usage, "a user needs a password");
            return Err(failure.hint("--password-file FILE, or REPLCTL_PASSWORD").into());
        }
        Ok(Login { user: self.user.clone(), password })
    }
}

fn code(adoption: &Adoption) -> ExitCode {
    if adoption.unreachable().is_empty() { ExitCode::Done } else { ExitCode::Incomplete }
}

fn show(adoption: &Adoption, context: &Context<'_>) {
    let rows = adoption.nodes.iter().map(|found| {
        let role = found.upstream.as_ref().map_or_else(|| "master".to_owned(), |above| format!("replica of {above}"));
        let state = found.unreachable.as_ref().map_or_else(|| "answers".to_owned(), |why| format!("no: {why}"));
        vec![found.node.clone(), role, found.address.to_string(), state]
    });
    context.printer.data(table::plain(&["node", "role", "address", "state"], rows));
    warn(adoption, context);
}

fn warn(adoption: &Adoption, context: &Context<'_>) {
    for found in &adoption.nodes {
        if let Some(why) = &found.unreachable {
            context
                .printer
                .warning(format_args!("{} ({}) cannot be reached from here: {why}", found.node, found.address));
        }
    }
    if !adoption.without_masterauth.is_empty() {
        context.printer.warning(format_args!(
            "{} could not follow another master, which would ask for a password: CONFIG SET masterauth there",
            group::listed(&adoption.without_masterauth)
        ));
    }
}
