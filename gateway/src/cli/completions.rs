//! `tagway completions`

use std::io;

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::Cli;
use super::failure::Failure;

/// The arguments of `tagway completions`.
#[derive(Args)]
#[command(after_help = "Example: tagway completions bash > ~/.local/share/bash-completion/completions/tagway")]
pub(super) struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        // Into memory first: what generates it panics where who reads it has gone.
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "tagway", &mut script);
        Ok(io::Write::write_all(&mut io::stdout(), &script)?)
    }
}
