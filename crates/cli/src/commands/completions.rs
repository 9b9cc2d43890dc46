//! `bifocal completions`: what shells need to complete commands and options.

use std::io::Write;

use anyhow::Result;
use clap::Command;
use clap_complete::Shell;

/// Prints the completions of a shell.
///
/// bash: `bifocal completions bash > ~/.local/share/bash-completion/completions/bifocal`. zsh: into a file `_bifocal` in a folder of `$fpath`.
/// fish: `bifocal completions fish > ~/.config/fish/completions/bifocal.fish`.
#[derive(clap::Args)]
pub struct Args {
    /// bash, elvish, fish, powershell or zsh
    shell: Shell,
}

pub fn run(args: Args, mut command: Command) -> Result<()> {
    // written at once: the crate panics when it cannot write, and a reader may go away
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "bifocal", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
