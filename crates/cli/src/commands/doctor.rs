//! `bifocal doctor`: what is wrong with a model.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_models::doctor::{Severity, examine};

use crate::model;

/// Checks a model end to end; says what is wrong and what to do.
///
/// Settings, every weight, the tokenizer, embeddings of built-in pictures and texts, and for a bundle whether it computes what it did when it was
/// written. The exit code is 1 if anything is wrong.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle, a folder in Hugging Face, sentence-transformers or open_clip layout, a file of weights, or hf:org/name[@revision]
    #[arg(value_name = "M")]
    model: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let findings = examine(&model::find(&args.model)?);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = match finding.severity {
                Severity::Good => "ok     ",
                Severity::Note => "note   ",
                Severity::Problem => "PROBLEM",
            };
            println!("{mark}  {}", finding.text);
        }
    }
    let problems = findings.iter().filter(|f| f.severity == Severity::Problem).count();
    if problems > 0 {
        anyhow::bail!("{}: {problems} problems", args.model.display());
    }
    Ok(())
}
