//! Sentence encoders in the layout of transformers and sentence-transformers.

use std::path::Path;

use super::OpenError;
use super::settings::Settings;
use crate::text::{BertConfig, Pooling};

/// `config.json`; `model_type` was read already.
pub(super) fn config(mut s: Settings) -> Result<BertConfig, OpenError> {
    s.only("position_embedding_type", "absolute".to_owned())?;
    s.only("hidden_act", "gelu".to_owned())?;
    s.only("is_decoder", false)?;
    Ok(BertConfig {
        vocabulary: s.require("vocab_size")?,
        positions: s.require("max_position_embeddings")?,
        token_types: s.take("type_vocab_size")?.unwrap_or(2),
        width: s.require("hidden_size")?,
        layers: s.require("num_hidden_layers")?,
        heads: s.require("num_attention_heads")?,
        mlp: s.require("intermediate_size")?,
        eps: s.take("layer_norm_eps")?.unwrap_or(1e-12),
    })
}

/// What sentence-transformers does with token vectors; the mean when it says nothing.
pub(super) fn pooling(folder: &Path) -> Result<Pooling, OpenError> {
    refuse_modules(folder)?;
    let path = folder.join("1_Pooling/config.json");
    let Some(mut s) = Settings::read(&path)? else {
        return Ok(Pooling::Mean);
    };
    let mut is = |mode: &str| Ok::<_, OpenError>(s.take(&format!("pooling_mode_{mode}"))?.unwrap_or(false));
    let (mean, cls, last) = (is("mean_tokens")?, is("cls_token")?, is("lasttoken")?);
    s.refuse_rest(&[
        "word_embedding_dimension",
        "embedding_dimension",
        "include_prompt",
        "pooling_mode",
    ])?;
    match (mean, cls, last) {
        (true, false, false) | (false, false, false) => Ok(Pooling::Mean),
        (false, true, false) => Ok(Pooling::Cls),
        (false, false, true) => Ok(Pooling::Last),
        _ => Err(OpenError::unsupported(
            &path,
            "more than one pooling at once",
            "leave one of them",
        )),
    }
}

/// Modules after pooling other than normalisation would change every embedding.
fn refuse_modules(folder: &Path) -> Result<(), OpenError> {
    let path = folder.join("modules.json");
    let Some(bytes) = super::settings::bytes(&path)? else {
        return Ok(());
    };
    let modules: Vec<serde_json::Value> =
        serde_json::from_slice(&bytes).map_err(|error| OpenError::malformed(&path, error))?;
    let kinds = modules.iter().map(|module| module["type"].as_str().unwrap_or_default());
    let known = ["Transformer", "Pooling", "Normalize"];
    match kinds
        .into_iter()
        .find(|kind| !known.contains(&kind.rsplit('.').next().unwrap_or_default()))
    {
        Some(kind) => {
            let advice = "take a model of transformer and pooling only";
            Err(OpenError::unsupported(&path, format!("the module \"{kind}\""), advice))
        }
        None => Ok(()),
    }
}
