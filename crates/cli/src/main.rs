//! The binary `bifocal`: one file per command in `commands/`, what is printed in `output/`.

mod bulk;
mod commands;
mod continual;
mod evaluating;
mod failure;
mod finder;
mod holdout;
#[cfg(feature = "hub")]
mod hub;
mod indexing;
mod lab;
mod model;
mod output;
mod pictures;
mod ranks;
mod recipe_args;
mod stop;

use std::path::PathBuf;
use std::process::ExitCode;

use bifocal_kernels::allocator::{self, Allocator};
use clap::{CommandFactory, Parser, Subcommand};

/// Activations are large and short-lived; this allocator uses their pages again where the system's would ask for new ones.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Two lenses, one focus: align a vision tower with a language model, and search images with the result.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write what took how long, by layer and operation, to FILE, for https://ui.perfetto.dev
    #[arg(long, global = true, value_name = "FILE", help_heading = "Measuring")]
    trace: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    Embed(commands::embed::Args),
    Classify(commands::classify::Args),
    Index(commands::index::Args),
    Search(commands::search::Args),
    Chat(commands::chat::Args),
    Serve(commands::serve::Args),
    Train(commands::train::Args),
    Tokenize(commands::tokenize::Args),
    Cache(commands::cache::Args),
    Eval(commands::eval::Args),
    Score(commands::score::Args),
    Lab(commands::lab::Args),
    Convert(commands::convert::Args),
    Info(commands::info::Args),
    Doctor(commands::doctor::Args),
    Completions(commands::completions::Args),
    Man(commands::man::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse(); // wrong use ends here with exit code 2
    // a service that waits for its next request gives back what the last ones took
    if matches!(cli.command, Command::Serve(_)) {
        allocator::keep_huge_pages();
    } else {
        allocator::keep_memory();
    }
    let result = output::trace::traced(cli.trace.as_deref(), || match cli.command {
        Command::Embed(args) => commands::embed::run(args),
        Command::Classify(args) => commands::classify::run(args),
        Command::Index(args) => commands::index::run(args),
        Command::Search(args) => commands::search::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Train(args) => commands::train::run(args),
        Command::Tokenize(args) => commands::tokenize::run(args),
        Command::Cache(args) => commands::cache::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Score(args) => commands::score::run(args),
        Command::Lab(args) => commands::lab::run(args),
        Command::Convert(args) => commands::convert::run(args),
        Command::Info(args) => commands::info::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Completions(args) => commands::completions::run(args, Cli::command()),
        Command::Man(args) => commands::man::run(args, Cli::command()),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
