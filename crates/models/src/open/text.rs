//! Text encoders.

use std::path::{Path, PathBuf};

use bifocal_nn::engine::values;

use super::clip::{HuggingFace, OpenClip};
use super::{BERT_PARTS, Layout, OpenError, VISION_PARTS, bert, identity, load, name_of, siglip};
use crate::text::{Attention, Bert, ClipText, Llm, Pooling, TextFamily, TextTower, TokenBatch};
use crate::tokenizer::{Encoding, Tokenizer};
use crate::weights::gguf::Gguf;

/// Tokens that pass through a tower at once. Matrix products are at full speed long before, and activations still small.
const TOKENS: usize = 4096;

/// Choices for language models; other encoders were trained with theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// How token vectors become one; what the encoder was trained with when `None`, the mean for language models.
    pub pooling: Option<Pooling>,
    /// What a token sees; what the encoder was trained with when `None`, causal for language models.
    pub attention: Option<Attention>,
}

/// A text tower with its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    /// The tower.
    pub tower: TextTower,
    /// From texts to tokens.
    pub tokenizer: Tokenizer,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// What a token sees.
    pub attention: Attention,
    /// Longer texts are cut to this many tokens.
    pub max_tokens: usize,
    /// Hash of the weights, the tokenizer and of settings that change what it computes.
    pub fingerprint: String,
    /// What to call it.
    pub name: String,
}

impl TextEncoder {
    /// Tokens of texts as the tower wants them, each of at least one and at most [`TextEncoder::max_tokens`].
    ///
    /// With [`Pooling::Eos`] a text ends with the end-of-text token, if need be in place of its last one. A text that has no
    /// tokens at all (an empty line, for tokenizers that add nothing) becomes the token that begins or else ends a text, so
    /// that it has an embedding.
    ///
    /// # Errors
    /// [`OpenError`] when the tokenizer fails, or does not belong to the tower.
    pub fn tokenize(&self, texts: &[&str]) -> Result<Vec<Encoding>, OpenError> {
        let special = self.tokenizer.special();
        let mut all = self.tokenizer.encode_batch(texts, true)?;
        for encoding in &mut all {
            if self.pooling == Pooling::Eos
                && let Some(eos) = special.eos
                && encoding.ids.last() != Some(&eos)
            {
                let room = self.max_tokens.saturating_sub(1);
                encoding.cut += encoding.ids.len().saturating_sub(room);
                encoding.ids.truncate(room);
                encoding.ids.push(eos);
            }
            if encoding.ids.is_empty() {
                encoding.ids.push(special.bos.or(special.eos).unwrap_or(0));
            }
        }
        Ok(all)
    }

    /// Embeds texts; rows are in the order of the texts and not normalised.
    ///
    /// Texts of similar length share a batch, and a batch holds about 4096 tokens without padding, so that cost follows the number of
    /// tokens.
    ///
    /// # Shapes
    /// → (`[n, dim]` row-major, `dim`).
    ///
    /// # Errors
    /// As [`TextEncoder::tokenize`].
    pub fn embed(&self, texts: &[&str]) -> Result<(Vec<f32>, usize), OpenError> {
        let dim = self.tower.dim();
        let mut tokens: Vec<_> = self.tokenize(texts)?.into_iter().map(|e| e.ids).enumerate().collect();
        // longest first, so that a lack of memory shows at once
        tokens.sort_by_key(|(_, ids)| std::cmp::Reverse(ids.len()));
        let mut out = vec![0.0; texts.len() * dim];
        let mut rest = &mut tokens[..];
        while !rest.is_empty() {
            let mut total = 0;
            let fitting = rest.iter().take_while(|(_, ids)| {
                total += ids.len();
                total <= TOKENS
            });
            let (batch, left) = rest.split_at_mut(fitting.count().max(1));
            rest = left;
            let ids: Vec<Vec<u32>> = batch.iter_mut().map(|(_, ids)| std::mem::take(ids)).collect();
            let packed = TokenBatch::pack(&ids);
            self.tower.check(&packed)?;
            let rows = values(self.tower.embed(&packed, self.pooling));
            for ((at, _), row) in batch.iter().zip(rows.chunks_exact(dim.max(1))) {
                out[at * dim..(at + 1) * dim].copy_from_slice(row);
            }
        }
        Ok((out, dim))
    }
}

/// Opens a text encoder: a language model as a `.gguf` (or a folder with one), BERT, CLIP or SigLIP as a folder in the layout of
/// transformers, sentence-transformers or open_clip.
///
/// # Errors
/// [`OpenError`] with what is missing, damaged or not supported.
pub fn open_text(path: &Path, options: &TextOptions) -> Result<TextEncoder, OpenError> {
    let none = |found: String| OpenError::NoEncoder {
        path: path.to_owned(),
        side: "text",
        found,
        advice: "a language model (.gguf), or the folder of a BERT, CLIP or SigLIP with its config.json or open_clip_config.json",
    };
    match Layout::of(path)? {
        Layout::HuggingFace(kind, settings) if kind == "bert" => {
            let config = bert::config(settings)?;
            let tower = load(path, &BERT_PARTS, |source| Bert::load(config, source))?;
            let default = bert::pooling(path)?;
            let files = ["config.json", "tokenizer.json", "1_Pooling/config.json"];
            finish(
                path,
                TextTower::Bert(tower),
                default,
                Attention::Bidirectional,
                options,
                &files,
            )
        }
        Layout::HuggingFace(kind, settings) if kind == "clip" || kind == "clip_text_model" => {
            let config = HuggingFace::new(settings, &kind)?.text()?;
            let tower = load(path, &VISION_PARTS, |source| ClipText::load(config, source))?;
            let files = ["config.json", "tokenizer.json"];
            finish(
                path,
                TextTower::Clip(tower),
                Pooling::Eos,
                Attention::Causal,
                options,
                &files,
            )
        }
        Layout::HuggingFace(kind, settings) if siglip::is_text(&kind) => {
            let (config, pad) = siglip::text(settings, &kind)?;
            let positions = config.positions;
            let tower = TextTower::Clip(load(path, &VISION_PARTS, |source| ClipText::load(config, source))?);
            let files = ["config.json", "tokenizer.json", "tokenizer_config.json"];
            let encoder = finish(path, tower, Pooling::Last, Attention::Bidirectional, options, &files)?;
            siglip::padded(encoder, positions, pad, Tokenizer::lowercased)
        }
        Layout::HuggingFace(kind, _) => Err(none(format!("its config.json describes a \"{kind}\""))),
        Layout::OpenClip(settings) => {
            let config = OpenClip::new(settings)?.text()?;
            let (family, positions) = (config.family, config.positions);
            let tower = load(path, &VISION_PARTS, |source| ClipText::load(config, source))?;
            let files = ["open_clip_config.json", "tokenizer.json"];
            if family == TextFamily::SigLip {
                let tower = TextTower::Clip(tower);
                let files = [&files[..], &["tokenizer_config.json"]].concat();
                let encoder = finish(path, tower, Pooling::Last, Attention::Bidirectional, options, &files)?;
                return siglip::padded(encoder, positions, None, Tokenizer::canonicalized);
            }
            finish(
                path,
                TextTower::Clip(tower),
                Pooling::Eos,
                Attention::Causal,
                options,
                &files,
            )
        }
        Layout::Bare => {
            let Some(file) = only_gguf(path)? else {
                return Err(none("there is neither one .gguf nor a config.json".to_owned()));
            };
            let gguf = Gguf::open(&file)?;
            let attention = options.attention.unwrap_or(Attention::Causal);
            let tower = TextTower::Llm(Llm::load(&gguf, attention)?);
            finish(&file, tower, Pooling::Mean, attention, options, &[])
        }
    }
}

fn finish(
    path: &Path,
    tower: TextTower,
    pooling: Pooling,
    attention: Attention,
    options: &TextOptions,
    settings: &[&str],
) -> Result<TextEncoder, OpenError> {
    if options.attention.is_some_and(|wanted| wanted != attention) {
        let what = format!(
            "{:?} attention for this encoder",
            options.attention.unwrap_or(attention)
        );
        return Err(OpenError::unsupported(
            path,
            what.to_lowercase(),
            "leave the choice of attention to language models",
        ));
    }
    let limit = tower.max_tokens();
    let tokenizer = Tokenizer::open(path)?;
    let max_tokens = tokenizer.max_length().map_or(limit, |length| length.min(limit));
    Ok(TextEncoder {
        tower,
        tokenizer: tokenizer.with_max_length(Some(max_tokens))?,
        pooling: options.pooling.unwrap_or(pooling),
        attention,
        max_tokens,
        fingerprint: identity(path, settings)?,
        name: name_of(path),
    })
}

/// The file itself if it is a GGUF, or the only one in a folder.
fn only_gguf(path: &Path) -> Result<Option<PathBuf>, OpenError> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if path.is_file() {
        return Ok(is_gguf(path).then(|| path.to_owned()));
    }
    let io = |error| OpenError::io(path, error);
    let mut found = Vec::new();
    for entry in path.read_dir().map_err(io)? {
        let file = entry.map_err(io)?.path();
        if is_gguf(&file) {
            found.push(file);
        }
    }
    Ok(match found.len() {
        1 => found.pop(),
        _ => None,
    })
}
