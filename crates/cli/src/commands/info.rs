//! `bifocal info`: what a model is.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_models::inspect::{Hashing, inspect};
use serde_json::Value;

use crate::model;

/// Tells what a model is: towers, sizes, preprocessing, pooling, how its weights are stored, fingerprint.
///
/// Settings and the headers of files are read, tensors are not: the answer does not take longer for a larger model. Weights of more than 1 GiB
/// are not hashed unless asked for.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle, a folder in Hugging Face, sentence-transformers or open_clip layout, a file of weights, or hf:org/name[@revision]
    #[arg(value_name = "M")]
    model: PathBuf,
    /// Hash the weights however large they are
    #[arg(long)]
    fingerprint: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let path = model::find(&args.model)?;
    let hashing = if args.fingerprint { Hashing::All } else { Hashing::Small };
    let description = serde_json::to_value(inspect(&path, hashing)?)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&description)?);
    } else {
        print_fields(&description, 0);
    }
    Ok(())
}

/// Nested fields as indented lines; what is absent is not shown.
fn print_fields(value: &Value, depth: usize) {
    let Some(fields) = value.as_object() else { return };
    for (name, value) in fields {
        let name = name.replace('_', " ");
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(_) => {
                println!("{indent}{name}");
                print_fields(value, depth + 1);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    println!("{indent}{name}");
                    print_fields(item, depth + 1);
                }
            }
            Value::Null => {}
            Value::String(text) => println!("{indent}{name}: {text}"),
            other => println!("{indent}{name}: {other}"),
        }
    }
}
