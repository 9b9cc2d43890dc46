//! Which files of a repository Bifocal reads.

use anyhow::{Result, bail};

use super::api::HubFile;

/// Settings and tokenizers.
const SMALL: [&str; 19] = [
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "bifocal.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
];

/// Weights, the better ones first; of those with an index also the shards.
const WEIGHTS: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
];

/// Settings first and weights last, so that a download that was killed does not look complete.
pub fn needed(files: &[HubFile]) -> Result<Vec<&HubFile>> {
    let bundle = files.iter().any(|file| file.name == "bifocal.json");
    // the settings of sentence-transformers' modules: 1_Pooling/config.json
    let module = |name: &str| {
        let digit = name.starts_with(|c: char| c.is_ascii_digit());
        digit && name.ends_with("/config.json") && name.matches('/').count() == 1
    };
    let inside = |name: &str| {
        ["vision/", "text/", "towers/"]
            .iter()
            .any(|side| name.starts_with(side))
    };
    let mut chosen: Vec<&HubFile> = files
        .iter()
        .filter(|file| SMALL.contains(&file.name.as_str()) || module(&file.name) || (bundle && inside(&file.name)))
        .collect();
    chosen.extend(weights(files, bundle)?);
    Ok(chosen)
}

fn weights(files: &[HubFile], bundle: bool) -> Result<Vec<&HubFile>> {
    let top: Vec<&HubFile> = files.iter().filter(|file| !file.name.contains('/')).collect();
    let ending = |end: &str| -> Vec<&HubFile> { top.iter().copied().filter(|f| f.name.ends_with(end)).collect() };
    if bundle {
        return Ok(ending(".safetensors"));
    }
    for known in WEIGHTS {
        let Some(&file) = top.iter().find(|file| file.name == known) else {
            continue;
        };
        let mut found = Vec::new();
        if let Some(of_shards) = known.strip_suffix(".index.json") {
            let (stem, end) = of_shards.rsplit_once('.').unwrap_or((of_shards, ""));
            let shard = |name: &str| name.starts_with(&format!("{stem}-")) && name.ends_with(&format!(".{end}"));
            found.extend(top.iter().copied().filter(|file| shard(&file.name)));
        }
        found.push(file);
        return Ok(found);
    }
    for end in [".safetensors", ".gguf", ".pth", ".pt", ".bin"] {
        let found = ending(end);
        match found.as_slice() {
            [] => {}
            [_] => return Ok(found),
            several => {
                let names: Vec<&str> = several.iter().map(|file| file.name.as_str()).collect();
                bail!(
                    "the repository has several models ({}); fetch one of them with another program and give its path",
                    names.join(", ")
                );
            }
        }
    }
    bail!("the repository has no weights that Bifocal reads: safetensors, GGUF, or a file of torch.save")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Result<Vec<String>, String> {
        let files: Vec<HubFile> = names.iter().map(|name| HubFile::named(name)).collect();
        let chosen = needed(&files).map_err(|e| e.to_string())?;
        Ok(chosen.into_iter().map(|file| file.name.clone()).collect())
    }

    #[test]
    fn only_what_is_needed_and_safetensors_over_bin() {
        let all = [
            "README.md",
            "pytorch_model.bin",
            "model.safetensors",
            "flax_model.msgpack",
            "onnx/model.onnx",
            "config.json",
            "1_Pooling/config.json",
            "tokenizer.json",
        ];
        let expected = [
            "config.json",
            "1_Pooling/config.json",
            "tokenizer.json",
            "model.safetensors",
        ];
        assert_eq!(chosen(&all).unwrap(), expected);
        let shards = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ];
        assert_eq!(chosen(&shards).unwrap(), shards);
        assert_eq!(chosen(&["a.gguf", "README.md"]).unwrap(), ["a.gguf"]);
        assert!(chosen(&["a.gguf", "b.gguf"]).unwrap_err().contains("a.gguf, b.gguf"));
        assert!(chosen(&["README.md", "model.onnx"]).unwrap_err().contains("no weights"));
        let bundle = [
            "bifocal.json",
            "heads.safetensors",
            "vision.safetensors",
            "towers/config.json",
            "notes.txt",
        ];
        let expected = [
            "bifocal.json",
            "towers/config.json",
            "heads.safetensors",
            "vision.safetensors",
        ];
        assert_eq!(chosen(&bundle).unwrap(), expected);
    }
}
