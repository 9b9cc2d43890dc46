//! `bifocal man`: manual pages.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;

/// Prints the manual page, or writes one for each command.
///
/// `bifocal man | man -l -` shows it; `bifocal man --out ~/.local/share/man/man1` puts bifocal.1, bifocal-search.1 and the others where `man` finds them.
#[derive(clap::Args)]
pub struct Args {
    /// A folder for the pages of all commands
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: Args, command: Command) -> Result<()> {
    // subcommands get the version and their full names here
    let mut command = command;
    command.build();
    let Some(dir) = args.out else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        std::io::stdout().write_all(&page)?;
        return Ok(());
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let all = command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
        .cloned();
    for sub in all.collect::<Vec<_>>() {
        let name = format!("bifocal-{}", sub.get_name());
        write(&dir, &name, sub.display_name(name.clone()))?;
    }
    write(&dir, "bifocal", command)
}

fn write(dir: &std::path::Path, name: &str, command: Command) -> Result<()> {
    let mut page = Vec::new();
    Man::new(command).title(name.to_owned()).render(&mut page)?;
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))
}
