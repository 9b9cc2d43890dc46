//! Mistakes that people make, and what is said about them.

mod common;

use std::fs;
use std::path::Path;

use bifocal_models::convert::{Layout, convert};
use bifocal_models::doctor::{Severity, examine};
use common::{complete, fixture, folder};
use serde_json::Value;

const HF: &str = "clip-hugging-face";

/// The texts of one severity, one a line.
fn told(path: &Path, severity: Severity) -> String {
    let findings = examine(path).into_iter().filter(|f| f.severity == severity);
    findings.map(|f| f.text).collect::<Vec<_>>().join("\n")
}

fn edit(path: &Path, pointer: &str, value: Value) {
    let mut settings: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    settings.pointer_mut(parent).unwrap()[key] = value;
    fs::write(path, settings.to_string()).unwrap();
}

#[test]
fn a_model_that_talks_is_asked_for_a_word() {
    let path = fixture("llava");
    assert_eq!(told(&path, Severity::Problem), "");
    assert!(told(&path, Severity::Good).contains("it talks about pictures"));
}

#[test]
fn a_sound_model_has_no_problems() {
    for name in [HF, "clip-open-clip-quick"] {
        let model = complete(name);
        assert_eq!(told(model.path(), Severity::Problem), "", "{name}");
        let good = told(model.path(), Severity::Good);
        assert!(
            good.contains("alone and in a batch") && good.contains("weights are numbers"),
            "{good}"
        );
    }
}

#[test]
fn numbers_that_are_none_are_named() {
    let model = complete(HF);
    let file = model.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let problems = told(model.path(), Severity::Problem);
    assert!(
        problems.contains("not finite") && problems.contains("(1 of "),
        "{problems}"
    );
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let model = complete(HF);
    let config = model.path().join("config.json");
    edit(&config, "/_name_or_path", "openai/clip-vit-base-patch32".into());
    assert_eq!(told(model.path(), Severity::Problem), "");
    edit(&config, "/vision_config/hidden_act", "gelu".into());
    let problems = told(model.path(), Severity::Problem);
    assert!(
        problems.contains("openai") && problems.contains("quick_gelu"),
        "{problems}"
    );
    fs::remove_file(model.path().join("preprocessor_config.json")).unwrap();
    assert!(told(model.path(), Severity::Note).contains("preprocessor_config.json"));
    // one token more than there are rows
    edit(&model.path().join("tokenizer.json"), "/model/vocab/surplus", 49.into());
    let problems = told(model.path(), Severity::Problem);
    assert!(problems.contains("50 ids, the tower has 49 rows"), "{problems}");
    fs::write(config, "{}").unwrap();
    assert!(told(model.path(), Severity::Problem).contains("model_type"));
}

#[test]
fn a_bundle_that_computes_something_else_is_noticed() {
    let model = complete(HF);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("bundle");
    convert(model.path(), &to, Layout::Bundle).unwrap();
    assert_eq!(told(&to, Severity::Problem), "");
    assert!(told(&to, Severity::Good).contains("texts: the embeddings are as when the bundle was written"));
    // the reference of another model, listed as it should be
    let other = complete("clip-open-clip-erf");
    let others = dir.path().join("other");
    convert(other.path(), &others, Layout::Bundle).unwrap();
    let file = "reference.safetensors";
    fs::copy(others.join(file), to.join(file)).unwrap();
    assert!(told(&to, Severity::Problem).contains("its hash is another"));
    let listed: Value = serde_json::from_slice(&fs::read(others.join("bifocal.json")).unwrap()).unwrap();
    edit(
        &to.join("bifocal.json"),
        &format!("/files/{file}"),
        listed["files"][file].clone(),
    );
    let problems = told(&to, Severity::Problem);
    assert!(
        problems.contains("images: embeddings differ") && problems.contains("texts: embeddings differ"),
        "{problems}"
    );
}

#[test]
fn real_encoders_are_well() {
    let Some(models) = folder("BIFOCAL_MODELS", "the doctor of real encoders") else {
        return;
    };
    for name in ["efficientnet-lite0", "minilm", "smollm2"] {
        assert_eq!(told(&models.join(name), Severity::Problem), "", "{name}");
    }
}
