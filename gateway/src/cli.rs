//! Commands, one file each. Thin: what they do is the library's, or the gateway's that they call.

mod backup;
mod check;
mod client;
mod completions;
mod delete;
mod doctor;
mod explain;
mod export;
mod failure;
mod get;
mod history;
mod import;
mod list;
mod provision;
mod put;
mod refresh;
mod restore;
mod rollback;
mod serve;
mod status;
mod strategy;
mod token;
mod watch;
mod watchers;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::Failure;

/// A gateway for multi-tenant configuration, and its client.
#[derive(Parser)]
#[command(name = "tagway", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 no such key, 4 a precondition does not hold,
5 not allowed, 6 out of reach or overloaded: try again.";

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Serve),
    /// Read a settings file, load its strategies, and report
    Check(check::Check),
    /// Look for what keeps a gateway from serving here, and say what mends it
    Doctor(doctor::Doctor),
    /// Make what the stores at AWS need
    Provision(provision::Provision),
    /// Mint a token that a gateway in development mode accepts
    Token(token::Token),
    /// Read a key
    Get(get::Get),
    /// Write a key
    Put(put::Put),
    /// Delete a key
    Delete(delete::Delete),
    /// List keys
    List(list::List),
    /// Tell what stands under keys, and each change of it
    Watch(watch::Watch),
    /// List a key's earlier versions
    History(history::History),
    /// Write an earlier version's value again
    Rollback(rollback::Rollback),
    /// Tell which strategy and which store answer for a key
    Explain(explain::Explain),
    /// Write everything of a tenant as JSON lines
    Export(export::Export),
    /// Read JSON lines into a tenant
    Import(import::Import),
    /// Tell how a gateway's parts do
    Status(status::Status),
    /// List, take up, roll back, pin and disable strategies
    Strategy(strategy::Strategy),
    /// List who watches, and what each runs with
    Watchers(watchers::Watchers),
    /// Have a gateway look again at what it keeps near
    Refresh(refresh::Refresh),
    /// Have a gateway copy an embedded store, while it is used
    Backup(backup::Backup),
    /// Make an embedded store of a backup, or check one
    Restore(restore::Restore),
    /// Print a shell's completions
    Completions(completions::Completions),
}

/// The environment's variables. One of ours that is no text is an error; others do not matter.
fn variables() -> Result<Vec<(String, String)>, Failure> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => variables.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with("TAGWAY_") => {
                return Err(Failure::Usage(format!("{name}: its value is not UTF-8")));
            }
            _ => {}
        }
    }
    Ok(variables)
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Provision(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Get(command) => client::block_on(command.run()),
        Command::Put(command) => client::block_on(command.run()),
        Command::Delete(command) => client::block_on(command.run()),
        Command::List(command) => client::block_on(command.run()),
        Command::Watch(command) => client::block_on(command.run()),
        Command::History(command) => client::block_on(command.run()),
        Command::Rollback(command) => client::block_on(command.run()),
        Command::Explain(command) => client::block_on(command.run()),
        Command::Export(command) => client::block_on(command.run()),
        Command::Import(command) => client::block_on(command.run()),
        Command::Status(command) => client::block_on(command.run()),
        Command::Strategy(command) => client::block_on(command.run()),
        Command::Watchers(command) => client::block_on(command.run()),
        Command::Refresh(command) => client::block_on(command.run()),
        Command::Backup(command) => client::block_on(command.run()),
        Command::Restore(command) => command.run(),
        Command::Completions(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                // With stderr gone there is nobody left to tell.
                _ = writeln!(io::stderr(), "tagway: {failure}");
            }
            failure.exit_code()
        }
    }
}
