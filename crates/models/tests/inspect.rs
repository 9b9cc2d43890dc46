//! What a model is, told without reading its tensors.

mod common;

use std::path::Path;

use bifocal_models::inspect::{Hashing, inspect};
use bifocal_models::text::Pooling;
use bifocal_models::{bundle, convert, weights};
use common::{complete, fixture, folder};

#[test]
fn towers_and_sizes_are_told() {
    for name in ["clip-hugging-face", "clip-open-clip-erf"] {
        let found = inspect(&fixture(name), Hashing::Small).unwrap();
        let (vision, text) = (found.vision_tower.unwrap(), found.text_tower.unwrap());
        assert_eq!(found.embedding_width, Some(10));
        assert_eq!((vision.facts.image_size, vision.facts.patch), (Some(20), Some(5)));
        assert_eq!(vision.preprocessing.unwrap().mean, [0.5, 0.4, 0.3]);
        assert_eq!(
            (text.facts.longest_text_in_tokens, text.facts.vocabulary),
            (Some(11), Some(49))
        );
        assert_eq!(text.facts.pooling, Some(Pooling::Eos));
        // all but the scale of similarities
        assert_eq!(vision.parameters + text.parameters + 1, found.weights[0].parameters);
        assert_eq!(found.weights[0].stored_as["F32"], found.weights[0].parameters);
        let fingerprint = weights::fingerprint(&fixture(name)).unwrap();
        assert_eq!(found.weights[0].fingerprint.as_ref(), Some(&fingerprint));
    }
    let bert = inspect(&fixture("tiny-bert"), Hashing::Small).unwrap();
    assert_eq!(bert.kind, "transformers bert");
    assert_eq!(bert.text_tower.unwrap().facts.pooling, Some(Pooling::Mean));
    let llm = inspect(&fixture("tiny-llama.gguf"), Hashing::Small).unwrap();
    assert_eq!(llm.kind, "GGUF llama");
    assert!(llm.text_tower.unwrap().facts.longest_text_in_tokens.is_some());
    let bare = inspect(&fixture("small.pt"), Hashing::Small).unwrap();
    assert_eq!((bare.kind.as_str(), bare.weights[0].tensors), ("weights", 2));
}

#[test]
fn a_bundle_tells_of_its_towers() {
    let original = complete("clip-hugging-face");
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("bundle");
    convert::convert(original.path(), &to, convert::Layout::Bundle).unwrap();
    let found = inspect(&to, Hashing::Small).unwrap();
    let model = bundle::Model::load(&to).unwrap();
    assert_eq!(found.fingerprint.as_deref(), Some(model.fingerprint()));
    assert_eq!(found.vision_tower.unwrap().facts.patch, Some(5));
    assert_eq!(found.text_tower.unwrap().facts.pooling, Some(Pooling::Eos));
    // the file with both towers once, and the heads
    assert_eq!(found.weights.len(), 2);
}

/// Two shards of five gigabytes that take no room on the disk.
fn sparse(dir: &Path) {
    let numbers = 5u64 << 28;
    for (file, tensor) in [("a.safetensors", "first"), ("b.safetensors", "second")] {
        let header = format!(
            r#"{{"{tensor}":{{"dtype":"F32","shape":[{numbers}],"data_offsets":[0,{}]}}}}"#,
            4 * numbers
        );
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        std::fs::write(dir.join(file), &bytes).unwrap();
        let file = std::fs::File::options().write(true).open(dir.join(file)).unwrap();
        file.set_len(bytes.len() as u64 + 4 * numbers).unwrap();
    }
    let map = r#"{"weight_map": {"first": "a.safetensors", "second": "b.safetensors"}}"#;
    std::fs::write(dir.join("model.safetensors.index.json"), map).unwrap();
    let config = r#"{"model_type": "llama", "hidden_size": 4096, "max_position_embeddings": 8192}"#;
    std::fs::write(dir.join("config.json"), config).unwrap();
}

#[test]
fn a_large_model_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    sparse(dir.path());
    let start = std::time::Instant::now();
    let found = inspect(dir.path(), Hashing::Small).unwrap();
    println!("10 GiB in {:?}", start.elapsed());
    assert_eq!(found.kind, "transformers llama");
    assert_eq!((found.weights[0].tensors, found.weights[0].parameters), (2, 5 << 29));
    assert_eq!(found.weights[0].fingerprint, None);
    assert_eq!(found.text_tower.unwrap().facts.longest_text_in_tokens, Some(8192));
}

#[test]
fn real_encoders() {
    let Some(models) = folder("BIFOCAL_MODELS", "real encoders") else {
        return;
    };
    for (name, kind, parameters) in [
        ("efficientnet-lite0", "weights", None),
        ("minilm", "transformers bert", Some(22_713_216)),
        ("smollm2", "GGUF llama", Some(134_515_008)),
        ("gemma3", "GGUF gemma3", None),
    ] {
        let found = inspect(&models.join(name), Hashing::Small).unwrap();
        assert_eq!(found.kind, kind);
        let tower = found.text_tower.or(found.vision_tower).unwrap();
        println!("{name}: {tower:?}");
        if let Some(parameters) = parameters {
            assert_eq!(tower.parameters, parameters, "{name}");
        }
    }
}
