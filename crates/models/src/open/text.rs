//! Text encoders.

use std::path::{Path, PathBuf};

use bifocal_nn::engine::values;

use super::clip::{HuggingFace, OpenClip};
use super::sentence::Sentence;
use super::settings::Settings;
use super::template::Template;
use super::{BERT_PARTS, LLM_PARTS, Layout, OpenError, VISION_PARTS, bert, identity, llm, load, name_of, siglip};
use crate::text::{
    Attention, Bert, ClipText, LatentAttention, Llm, LlmNames, Pooling, TextFamily, TextTower, TokenBatch, TokensError,
};
use crate::tokenizer::{Encoding, Tokenizer};
use crate::weights::gguf::Gguf;

/// Tokens that pass through a tower at once. Matrix products are at full speed long before, and activations still small.
const TOKENS: usize = 4096;

/// Choices where an encoder leaves some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// How token vectors become one; what the encoder was trained with when `None`, the mean for language models that do not say it.
    pub pooling: Option<Pooling>,
    /// What a token sees; what the encoder was trained with when `None`, causal for language models that do not say it.
    pub attention: Option<Attention>,
    /// The layer that is pooled, as [`TextTower::hidden_at`] counts them; later ones are left out. The last when `None`.
    pub layer: Option<usize>,
    /// The name of one of the prompts that come with the encoder (`config_sentence_transformers.json`), put before each text; the default
    /// one when `None`, if there is one.
    pub prompt: Option<String>,
    /// Whether a language model keeps its output layer, with which it can write (see [`Llm::with_output`]).
    pub writes: bool,
}

/// A text tower with its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    /// The tower.
    pub tower: TextTower,
    /// From texts to tokens.
    pub tokenizer: Tokenizer,
    /// What is put around each text.
    pub template: Template,
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
        self.tokenize_in(&self.template, texts)
    }

    /// As [`TextEncoder::tokenize`], with an instruction before each text that is read but, where the pooling allows it, not pooled.
    ///
    /// # Errors
    /// As [`TextEncoder::tokenize`].
    pub fn tokenize_after(&self, instruction: &str, texts: &[&str]) -> Result<Vec<Encoding>, OpenError> {
        let template = match self.pooling {
            Pooling::Caption => Template::caption(instruction, &self.tower, &self.tokenizer),
            _ => Template::prompt(instruction, self.pooling == Pooling::Mean, &self.tokenizer)?,
        };
        self.tokenize_in(&template, texts)
    }

    fn tokenize_in(&self, template: &Template, texts: &[&str]) -> Result<Vec<Encoding>, OpenError> {
        let mut all = template.encode(&self.tokenizer, texts)?;
        for encoding in &mut all {
            self.finish_tokens(encoding);
        }
        Ok(all)
    }

    /// Tokens that the tower can read and pool.
    fn finish_tokens(&self, encoding: &mut Encoding) {
        let special = self.tokenizer.special();
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
        // a text of nothing but what is left out: its last token stands for it
        encoding.skip = encoding.skip.min(encoding.ids.len() - 1);
    }

    /// Tokens that someone else made with this encoder's tokenizer, special ones included: filled up and ended where the tower needs it,
    /// and otherwise as they are.
    ///
    /// # Errors
    /// [`OpenError`] for more of them than the tower reads, and for ids that it does not know.
    pub fn tokens_of(&self, ids: Vec<u32>) -> Result<Encoding, OpenError> {
        if ids.len() > self.max_tokens {
            let (tokens, limit) = (ids.len(), self.max_tokens);
            return Err(TokensError::TooLong { tokens, limit }.into());
        }
        let mut encoding = Encoding { ids, cut: 0, skip: 0 };
        self.finish_tokens(&mut encoding);
        if let Some(length) = self.tower.full_length() {
            let pad = self.tokenizer.pads_with().unwrap_or(0);
            encoding.ids.resize(length, pad);
        }
        self.tower.check(&TokenBatch::of(std::iter::once(&encoding)))?;
        Ok(encoding)
    }

    /// Embeds texts; rows are in the order of the texts and not normalised.
    ///
    /// Texts of similar length share a batch, and a batch holds about 4096 tokens without padding, so that cost follows the number of
    /// tokens. What all texts of a batch begin with passes through a causal language model once ([`TextTower::infer`]).
    ///
    /// # Shapes
    /// → (`[n, dim]` row-major, `dim`).
    ///
    /// # Errors
    /// As [`TextEncoder::tokenize`].
    pub fn embed(&self, texts: &[&str]) -> Result<(Vec<f32>, usize), OpenError> {
        self.embed_tokens(&self.tokenize(texts)?)
    }

    /// As [`TextEncoder::embed`], from tokens that [`TextEncoder::tokenize`] gave.
    ///
    /// # Errors
    /// [`OpenError`] for tokens that the tower cannot read.
    pub fn embed_tokens(&self, texts: &[Encoding]) -> Result<(Vec<f32>, usize), OpenError> {
        let dim = self.tower.dim();
        let mut tokens: Vec<(usize, &Encoding)> = texts.iter().enumerate().collect();
        // longest first, so that a lack of memory shows at once
        tokens.sort_by_key(|(_, text)| std::cmp::Reverse(text.ids.len()));
        let mut out = vec![0.0; texts.len() * dim];
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let mut total = 0;
            let fitting = rest.iter().take_while(|(_, text)| {
                total += text.ids.len();
                total <= TOKENS
            });
            let (batch, left) = rest.split_at(fitting.count().max(1));
            rest = left;
            let packed = TokenBatch::of(batch.iter().map(|&(_, text)| text));
            self.tower.check(&packed)?;
            let rows = values(self.tower.infer(&packed, self.pooling));
            for ((at, _), row) in batch.iter().zip(rows.chunks_exact(dim.max(1))) {
                out[at * dim..(at + 1) * dim].copy_from_slice(row);
            }
        }
        Ok((out, dim))
    }
}

/// Opens a text encoder: a language model, BERT, CLIP or SigLIP as a folder in the layout of transformers, sentence-transformers or open_clip;
/// a language model also as a `.gguf` (or a folder with one).
///
/// # Errors
/// [`OpenError`] with what is missing, damaged or not supported.
pub fn open_text(path: &Path, options: &TextOptions) -> Result<TextEncoder, OpenError> {
    match Layout::of(path)? {
        Layout::HuggingFace(kind, settings) if kind == "clip" || kind == "clip_text_model" => {
            let config = HuggingFace::new(settings, &kind)?.text()?;
            let tower = load(path, &VISION_PARTS, |source| ClipText::load(config, source))?;
            let tower = Opened::fixed(TextTower::Clip(tower), Pooling::Eos, Attention::Causal);
            tower.finish(path, options, &["config.json", "tokenizer.json"])
        }
        Layout::HuggingFace(kind, settings) if siglip::is_text(&kind) => {
            let (config, pad) = siglip::text(settings, &kind)?;
            let positions = config.positions;
            let tower = load(path, &VISION_PARTS, |source| ClipText::load(config, source))?;
            let tower = Opened::fixed(TextTower::Clip(tower), Pooling::Last, Attention::Bidirectional);
            let files = ["config.json", "tokenizer.json", "tokenizer_config.json"];
            siglip::padded(
                tower.finish(path, options, &files)?,
                positions,
                pad,
                Tokenizer::lowercased,
            )
        }
        Layout::HuggingFace(kind, settings) => sentence(path, Sentence::read(path)?, &kind, settings, options),
        Layout::OpenClip(settings) => {
            let config = OpenClip::new(settings)?.text()?;
            let (family, positions) = (config.family, config.positions);
            let tower = TextTower::Clip(load(path, &VISION_PARTS, |source| ClipText::load(config, source))?);
            if family == TextFamily::SigLip {
                let tower = Opened::fixed(tower, Pooling::Last, Attention::Bidirectional);
                let files = ["open_clip_config.json", "tokenizer.json", "tokenizer_config.json"];
                return siglip::padded(
                    tower.finish(path, options, &files)?,
                    positions,
                    None,
                    Tokenizer::canonicalized,
                );
            }
            let tower = Opened::fixed(tower, Pooling::Eos, Attention::Causal);
            tower.finish(path, options, &["open_clip_config.json", "tokenizer.json"])
        }
        Layout::Bare => {
            if let Some(file) = only_gguf(path)? {
                let gguf = Gguf::open(&file)?;
                let attention = options.attention.unwrap_or(Attention::Causal);
                let mut llm = Llm::from_gguf(&gguf, attention)?;
                if options.writes {
                    llm = llm.with_output(&gguf, LlmNames::Gguf)?;
                }
                let tower = TextTower::Llm(llm);
                let tower = Opened {
                    free: true,
                    ..Opened::fixed(tower, llm::gguf_pooling(&gguf)?, attention)
                };
                return tower.finish(&file, options, &[]);
            }
            // the transformer of old sentence encoders is in a folder of its own
            if path.join("modules.json").is_file() {
                let around = Sentence::read(path)?;
                if let Layout::HuggingFace(kind, settings) = Layout::of(&around.root)? {
                    return sentence(path, around, &kind, settings, options);
                }
            }
            Err(none(path, "there is neither one .gguf nor a config.json".to_owned()))
        }
    }
}

fn none(path: &Path, found: String) -> OpenError {
    OpenError::NoEncoder {
        path: path.to_owned(),
        side: "text",
        found,
        advice: "a language model (.gguf), or the folder of a language model, a BERT, CLIP or SigLIP with its config.json or open_clip_config.json",
    }
}

/// The language model of a model that also sees, which was loaded already, with the tokenizer of the folder.
pub(super) fn of_language_model(llm: Llm, path: &Path) -> Result<TextEncoder, OpenError> {
    let attention = Attention::Causal;
    let opened = Opened::fixed(TextTower::Llm(llm), Pooling::Last, attention);
    opened.finish(path, &TextOptions::default(), &["config.json", "tokenizer.json"])
}

/// An encoder with what sentence-transformers may have put around it.
fn sentence(
    path: &Path,
    around: Sentence,
    kind: &str,
    mut settings: Settings,
    options: &TextOptions,
) -> Result<TextEncoder, OpenError> {
    let root = around.root.clone();
    let mut opened = if bert::knows(kind) {
        let (config, first) = bert::config(settings, kind)?;
        let tower = load(&root, &BERT_PARTS, |source| Bert::load_after(first, config, source))?;
        Opened::fixed(TextTower::Bert(tower), Pooling::Mean, Attention::Bidirectional)
    } else if llm::family(kind).is_some() {
        let latent = match kind {
            "nvembed" => Some(llm::latent(&mut settings)?),
            _ => None,
        };
        let (config, attention) = llm::config(settings, kind, options.attention)?;
        let attention = options.attention.unwrap_or(attention);
        let ends = latent.is_some();
        let width = config.width;
        if let Some(latent) = latent.as_ref().filter(|latent| latent.width != width) {
            let problem = format!("latents of width {} for tokens of {width}", latent.width);
            return Err(OpenError::malformed(path, problem));
        }
        let llm = load(&root, &LLM_PARTS, |source| {
            let names = LlmNames::hugging_face(source)?;
            let mut llm = Llm::load(config, source, names, attention)?;
            if options.writes {
                llm = llm.with_output(source, names)?;
            }
            Ok(match &latent {
                Some(latent) => llm.with_latent(LatentAttention::load(latent, source, "latent_attention_model.")?),
                None => llm,
            })
        })?;
        Opened {
            free: true,
            ends,
            ..Opened::fixed(TextTower::Llm(llm), Pooling::Mean, attention)
        }
    } else {
        return Err(none(path, format!("its config.json describes a \"{kind}\"")));
    };
    opened.around = around;
    if root == path {
        let pooling = opened.around.pooling_file.clone();
        return opened.finish(path, options, &["config.json", "tokenizer.json", &pooling]);
    }
    let pooling = identity_of(&path.join(&opened.around.pooling_file))?;
    opened.around.hashes.extend(pooling);
    let encoder = opened.finish(&root, options, &["config.json", "tokenizer.json"])?;
    Ok(TextEncoder {
        name: name_of(path),
        ..encoder
    })
}

/// The hash of a settings file, if there is one.
fn identity_of(path: &Path) -> Result<Option<String>, OpenError> {
    Ok(super::settings::bytes(path)?.map(|bytes| blake3::hash(&bytes).to_hex().to_string()))
}

/// A tower, and what it was trained with.
struct Opened {
    tower: TextTower,
    pooling: Pooling,
    attention: Attention,
    /// Whether what a token sees may be chosen.
    free: bool,
    /// Whether texts and prompts are treated as NV-Embed does it.
    ends: bool,
    around: Sentence,
}

impl Opened {
    fn fixed(tower: TextTower, pooling: Pooling, attention: Attention) -> Self {
        Self {
            tower,
            pooling,
            attention,
            free: false,
            ends: false,
            around: Sentence::default(),
        }
    }

    /// The encoder of a folder or file `path`; `settings` are the files there that belong to what it is.
    fn finish(self, path: &Path, options: &TextOptions, settings: &[&str]) -> Result<TextEncoder, OpenError> {
        let Self {
            mut tower,
            attention,
            mut around,
            ..
        } = self;
        if let Some(wanted) = options.attention.filter(|&wanted| !self.free && wanted != attention) {
            return Err(OpenError::unsupported(
                path,
                format!("{wanted:?} attention for this encoder").to_lowercase(),
                "leave the choice of attention to language models",
            ));
        }
        let pooling = options.pooling.or(around.pooling).unwrap_or(self.pooling);
        let limit = tower.max_tokens();
        let tokenizer = Tokenizer::open(path)?;
        let max_tokens = tokenizer.max_length().map_or(limit, |length| length.min(limit));
        let tokenizer = tokenizer.with_max_length(Some(max_tokens))?;
        let prompt = match &options.prompt {
            Some(name) => Some(around.prompt(path, name)?),
            None => around.default_prompt.clone(),
        };
        let prompt = prompt.unwrap_or_default();
        let template = match pooling {
            Pooling::Caption => Template::caption(&prompt, &tower, &tokenizer),
            _ if self.ends => Template::nv_embed(&prompt, &tokenizer)?,
            _ => Template::prompt(&prompt, around.skips_prompt, &tokenizer)?,
        };
        // what is not in the files that are hashed anyway
        let mut chosen = std::mem::take(&mut around.hashes);
        if !prompt.is_empty() {
            chosen.push(format!("prompt {prompt}"));
        }
        let dense = std::mem::take(&mut around.dense);
        tower
            .set_dense(dense)
            .map_err(|problem| OpenError::malformed(path, problem))?;
        if let Some(layer) = options.layer {
            let layers = tower.layers();
            if !tower.cut_at(layer) {
                let what = format!("layer {layer} of a text tower with {layers}");
                let advice = "leave out the layer, or take one of a language model or BERT that it has";
                return Err(OpenError::unsupported(path, what, advice));
            }
            chosen.push(format!("layer {layer}"));
        }
        let mut fingerprint = identity(path, settings)?;
        if !chosen.is_empty() {
            fingerprint = blake3::hash(format!("{fingerprint} {}", chosen.join(" ")).as_bytes())
                .to_hex()
                .to_string();
        }
        Ok(TextEncoder {
            tower,
            tokenizer,
            template,
            pooling,
            attention,
            max_tokens,
            fingerprint,
            name: name_of(path),
        })
    }
}

/// The file itself if it is a GGUF, or the only one in a folder.
pub(crate) fn only_gguf(path: &Path) -> Result<Option<PathBuf>, OpenError> {
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
