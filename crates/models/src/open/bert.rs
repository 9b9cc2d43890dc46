//! BERT and what is built like it, in the layout of transformers.

use super::OpenError;
use super::settings::Settings;
use crate::text::BertConfig;

/// The `model_type`s of BERT's kin: RoBERTa differs in where positions begin.
pub(super) fn knows(model_type: &str) -> bool {
    ["bert", "roberta", "xlm-roberta"].contains(&model_type)
}

/// `config.json`; `model_type` was read already. Also how many rows of the table of positions come before the first.
pub(super) fn config(mut s: Settings, model_type: &str) -> Result<(BertConfig, usize), OpenError> {
    s.only("position_embedding_type", "absolute".to_owned())?;
    s.only("hidden_act", "gelu".to_owned())?;
    s.only("is_decoder", false)?;
    let first = match model_type {
        "bert" => 0,
        // fairseq counted positions from the padding's on
        _ => s.take::<usize>("pad_token_id")?.unwrap_or(1).saturating_add(1),
    };
    let rows: usize = s.require("max_position_embeddings")?;
    let config = BertConfig {
        vocabulary: s.require("vocab_size")?,
        positions: rows.checked_sub(first).ok_or_else(|| {
            OpenError::malformed(s.path(), format!("{rows} positions, of which the first is {first}"))
        })?,
        token_types: s.take("type_vocab_size")?.unwrap_or(2),
        width: s.require("hidden_size")?,
        layers: s.require("num_hidden_layers")?,
        heads: s.require("num_attention_heads")?,
        mlp: s.require("intermediate_size")?,
        eps: s.take("layer_norm_eps")?.unwrap_or(1e-12),
    };
    Ok((config, first))
}
