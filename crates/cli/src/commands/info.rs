//! `bifocal info`: what a model is.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;
use bifocal_nn::Module;
use serde_json::{Value, json};

use crate::model;

/// Tells what a model is: towers, sizes, preprocessing, fingerprint.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle, a folder in Hugging Face or sentence-transformers layout, a .gguf or a .pth file
    #[arg(value_name = "M")]
    model: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let model = model::open(&args.model, &TextOptions::default())?;
    let description = describe(&model)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&description)?);
    } else {
        print_fields(&description, 0);
    }
    Ok(())
}

fn describe(model: &Model) -> Result<Value> {
    let text = model.text().map(|text| {
        json!({
            "name": text.name,
            "parameters": text.tower.num_params(),
            "width": text.tower.dim(),
            "pooling": text.pooling,
            "attention": text.attention,
            "longest_text_in_tokens": text.max_tokens,
            "fingerprint": text.fingerprint,
        })
    });
    let vision = model.vision().map(|vision| {
        json!({
            "name": vision.name,
            "parameters": vision.tower.num_params(),
            "width": vision.tower.dim(),
            "preprocessing": vision.preprocess,
            "fingerprint": vision.fingerprint,
        })
    });
    let bundle = model.manifest().map(|m| {
        json!({
            "method": m.method,
            "image_head": m.image_head,
            "text_head": m.text_head,
            "logit_scale": m.logit_scale,
            "logit_bias": m.logit_bias,
            "licence": m.licence,
        })
    });
    Ok(json!({
        "model": model.name(),
        "embedding_width": model.dim(),
        "fingerprint": model.fingerprint(),
        "bundle": bundle,
        "vision_tower": vision,
        "text_tower": text,
    }))
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
            Value::Null => {}
            Value::String(text) => println!("{indent}{name}: {text}"),
            other => println!("{indent}{name}: {other}"),
        }
    }
}
