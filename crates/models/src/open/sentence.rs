//! What sentence-transformers does around a transformer: pooling, layers after it, prompts.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::OpenError;
use super::settings::{self, Settings};
use crate::text::{Dense, DenseActivation, DenseConfig, Pooling};
use crate::weights;

/// What the files of sentence-transformers say; without them, what transformers does.
#[derive(Debug, Default)]
pub(super) struct Sentence {
    /// Where the transformer is: the folder itself, in new models.
    pub root: PathBuf,
    /// `None` when the files do not say it.
    pub pooling: Option<Pooling>,
    /// Whether the tokens of a prompt are left out of pooling.
    pub skips_prompt: bool,
    /// Layers after pooling.
    pub dense: Vec<Dense>,
    /// Name → what is put before a text.
    pub prompts: BTreeMap<String, String>,
    /// The prompt of texts for which none is chosen.
    pub default_prompt: Option<String>,
    /// The file of pooling's settings, seen from the folder.
    pub pooling_file: String,
    /// Hashes of other files that change what is computed.
    pub hashes: Vec<String>,
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Sentence {
    /// Reads what is in a folder.
    pub fn read(folder: &Path) -> Result<Self, OpenError> {
        let mut sentence = Self {
            root: folder.to_owned(),
            pooling_file: "1_Pooling/config.json".to_owned(),
            ..Self::default()
        };
        let path = folder.join("modules.json");
        let mut normalized = false;
        for module in modules(&path)? {
            let refuse = |advice| {
                Err(OpenError::unsupported(
                    &path,
                    format!("the module \"{}\"", module.kind),
                    advice,
                ))
            };
            let plain = Path::new(&module.path)
                .components()
                .all(|c| matches!(c, Component::Normal(_)));
            if !plain {
                return Err(OpenError::malformed(
                    &path,
                    format!("\"{}\" leads out of the folder", module.path),
                ));
            }
            if normalized {
                return refuse("take a model that scales its embeddings last");
            }
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => sentence.root = folder.join(&module.path),
                "Pooling" => sentence.pooling_file = format!("{}/config.json", module.path),
                "Dense" => sentence.add_dense(&folder.join(&module.path))?,
                // whoever embeds scales rows to unit length, or says that they should stay as they are
                "Normalize" => normalized = true,
                _ => return refuse("take a model of transformer, pooling and dense layers only"),
            }
        }
        sentence.read_pooling(&folder.join(&sentence.pooling_file))?;
        sentence.read_prompts(&folder.join("config_sentence_transformers.json"))?;
        let transformer = sentence.root.join("sentence_bert_config.json");
        if let Some(mut s) = Settings::read(&transformer)? {
            s.only("do_lower_case", false)?;
            let output = s.take::<Value>("modality_config")?;
            let output = output.as_ref().and_then(|o| o["text"]["method_output_name"].as_str());
            if let Some(other) = output.filter(|&name| name != "last_hidden_state") {
                let advice = "take a model that pools the last hidden state";
                return Err(OpenError::unsupported(
                    s.path(),
                    format!("the output \"{other}\""),
                    advice,
                ));
            }
        }
        Ok(sentence)
    }

    fn read_pooling(&mut self, path: &Path) -> Result<(), OpenError> {
        let Some(mut s) = Settings::read(path)? else {
            return Ok(());
        };
        let several = || OpenError::unsupported(path, "more than one pooling at once", "leave one of them");
        // since version 5 one word, or a list of them; before, a switch for each
        let mut chosen: Vec<Pooling> = match s.take::<Value>("pooling_mode")? {
            None => Vec::new(),
            Some(Value::String(word)) => vec![pooling(path, &word)?],
            Some(Value::Array(words)) => {
                let word = |word: &Value| pooling(path, word.as_str().unwrap_or_default());
                words.iter().map(word).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(OpenError::malformed(path, "\"pooling_mode\" is no word")),
        };
        for (key, kind) in [
            ("pooling_mode_mean_tokens", Pooling::Mean),
            ("pooling_mode_cls_token", Pooling::Cls),
            ("pooling_mode_lasttoken", Pooling::Last),
            ("pooling_mode_max_tokens", Pooling::Max),
        ] {
            if s.take(key)?.unwrap_or(false) && !chosen.contains(&kind) {
                chosen.push(kind);
            }
        }
        self.skips_prompt = s.take("include_prompt")? == Some(false);
        s.refuse_rest(&["word_embedding_dimension", "embedding_dimension"])?;
        match chosen.as_slice() {
            [] => self.pooling = Some(Pooling::Mean),
            [one] => self.pooling = Some(*one),
            _ => return Err(several()),
        }
        Ok(())
    }

    fn add_dense(&mut self, folder: &Path) -> Result<(), OpenError> {
        let path = folder.join("config.json");
        let Some(mut s) = Settings::read(&path)? else {
            return Err(OpenError::malformed(&path, "it is missing"));
        };
        let activation: String = s.require("activation_function")?;
        let config = DenseConfig {
            input: s.require("in_features")?,
            output: s.require("out_features")?,
            bias: s.take("bias")?.unwrap_or(true),
            activation: match activation.rsplit('.').next().unwrap_or_default() {
                "Identity" => DenseActivation::Identity,
                "Tanh" => DenseActivation::Tanh,
                _ => {
                    let what = format!("\"activation_function\": \"{activation}\"");
                    return Err(OpenError::unsupported(
                        &path,
                        what,
                        "take a model with Identity or Tanh",
                    ));
                }
            },
        };
        s.only("module_input_name", "sentence_embedding".to_owned())?;
        s.only("module_output_name", "sentence_embedding".to_owned())?;
        s.refuse_rest(&[])?;
        if self.dense.last().is_some_and(|last| last.output() != config.input) {
            return Err(OpenError::malformed(&path, format!("{} values come in", config.input)));
        }
        let source = weights::open(folder)?;
        self.dense.push(Dense::load(&config, &*source, "linear")?);
        self.hashes.push(weights::fingerprint(folder)?);
        self.hashes.push(activation);
        Ok(())
    }

    fn read_prompts(&mut self, path: &Path) -> Result<(), OpenError> {
        if let Some(mut s) = Settings::read(path)? {
            self.prompts = s.take("prompts")?.unwrap_or_default();
            let default: Option<String> = s.take("default_prompt_name")?;
            self.default_prompt = match default {
                Some(name) => Some(self.prompt(path, &name)?),
                None => None,
            };
        }
        Ok(())
    }

    /// The prompt of a name.
    pub fn prompt(&self, path: &Path, name: &str) -> Result<String, OpenError> {
        self.prompts.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.prompts.keys().map(String::as_str).collect();
            let what = format!("the prompt \"{name}\" (known: {})", known.join(", "));
            OpenError::unsupported(path, what, "name one of config_sentence_transformers.json")
        })
    }
}

/// The modules in their order; none without the file.
fn modules(path: &Path) -> Result<Vec<Module>, OpenError> {
    match settings::bytes(path)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| OpenError::malformed(path, error)),
        None => Ok(Vec::new()),
    }
}

fn pooling(path: &Path, word: &str) -> Result<Pooling, OpenError> {
    Ok(match word {
        "mean" => Pooling::Mean,
        "cls" => Pooling::Cls,
        "lasttoken" => Pooling::Last,
        "max" => Pooling::Max,
        _ => {
            let what = format!("\"pooling_mode\": \"{word}\"");
            return Err(OpenError::unsupported(
                path,
                what,
                "take a model with mean, cls, lasttoken or max",
            ));
        }
    })
}
