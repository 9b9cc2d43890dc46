//! Tokenizers as Hugging Face folders hold them: `tokenizer.json`, and beside it which token plays which role and how long a text may be.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{REMEMBERED, SpecialTokens, Tokenizer, TokenizerError, guard, spm};
use crate::weights::gguf::Gguf;

/// The largest `tokenizer.json`; that of a vocabulary of 262,144 has 33 MB.
const MAX_TOKENIZER: u64 = 256 << 20;
/// The largest configuration beside it (it repeats the added tokens: thousands in some models).
const MAX_CONFIG: u64 = 16 << 20;
/// transformers writes a length of 10^30 for "no limit"; no model reads a billion tokens.
const NO_LIMIT: f64 = 1e9;

pub(super) fn open(path: &Path) -> Result<Tokenizer, TokenizerError> {
    if !path.is_dir() {
        return open_file(path);
    }
    let json = path.join("tokenizer.json");
    if json.is_file() {
        return open_folder(path, &json);
    }
    if let Some(model) = spm::NAMES
        .iter()
        .map(|name| path.join(name))
        .find(|file| file.is_file())
    {
        let config = read_config(path.join("tokenizer_config.json"))?;
        let around = spm::Around::of(&model, &config)?;
        let tokenizer = spm::build(&model, &read_limited(&model, MAX_TOKENIZER)?, around)?;
        return longest(tokenizer, path, &config);
    }
    let io = |source| TokenizerError::Io {
        path: path.to_owned(),
        source,
    };
    let mut gguf = Vec::new();
    for entry in path.read_dir().map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            gguf.push(file);
        }
    }
    match gguf.as_slice() {
        [one] => Tokenizer::from_gguf(&Gguf::open(one)?),
        _ => Err(TokenizerError::unsupported(
            path,
            format!("a folder without tokenizer.json and with {} .gguf files", gguf.len()),
            "fetch the model's tokenizer.json into it, or name one .gguf file",
        )),
    }
}

fn open_file(path: &Path) -> Result<Tokenizer, TokenizerError> {
    let mut head = [0; 4];
    let io = |source| TokenizerError::Io {
        path: path.to_owned(),
        source,
    };
    let read = std::io::Read::read(&mut std::fs::File::open(path).map_err(io)?, &mut head).map_err(io)?;
    if &head[..read] == b"GGUF" {
        return Tokenizer::from_gguf(&Gguf::open(path)?);
    }
    let bytes = read_limited(path, MAX_TOKENIZER)?;
    // a model of SentencePiece begins with the first field, a piece
    if head[..read].first() == Some(&0x0a) && path.extension().is_some_and(|e| e == "model") {
        return spm::build(path, &bytes, spm::Around::default());
    }
    from_json(path, &bytes)
}

fn open_folder(folder: &Path, json: &Path) -> Result<Tokenizer, TokenizerError> {
    let mut tokenizer = from_json(json, &read_limited(json, MAX_TOKENIZER)?)?;
    let config = read_config(folder.join("tokenizer_config.json"))?;
    let map = read_config(folder.join("special_tokens_map.json"))?;
    let id = |role: &str| {
        // a role is given as a text, or as an object with the text in "content"
        let text = |config: &Value| {
            let value = &config[role];
            value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
        };
        text(&config)
            .or_else(|| text(&map))
            .and_then(|token| tokenizer.token_to_id(&token))
    };
    tokenizer.special = SpecialTokens {
        bos: id("bos_token"),
        eos: id("eos_token"),
        unk: id("unk_token"),
        pad: id("pad_token"),
        cls: id("cls_token"),
        sep: id("sep_token"),
        mask: id("mask_token"),
    };
    longest(tokenizer, folder, &config)
}

/// Sets the longest length.
fn longest(tokenizer: Tokenizer, folder: &Path, config: &Value) -> Result<Tokenizer, TokenizerError> {
    let sentence = read_config(folder.join("sentence_bert_config.json"))?;
    // what sentence-transformers would use comes first, then what transformers would use; a truncation in tokenizer.json is only
    // what the tokenizer was last used with
    let length = |value: &Value| {
        value
            .as_f64()
            .filter(|&n| (1.0..NO_LIMIT).contains(&n))
            .map(|n| n as usize)
    };
    let max_length = length(&sentence["max_seq_length"]).or_else(|| length(&config["model_max_length"]));
    match max_length {
        Some(_) => tokenizer.with_max_length(max_length),
        None => Ok(tokenizer),
    }
}

pub(super) fn from_json(path: &Path, json: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let malformed = |detail: String| TokenizerError::malformed(path, format!("it is no tokenizer.json: {detail}"));
    let mut inner = guard(|| tokenizers::Tokenizer::from_bytes(json)).map_err(malformed)?;
    let mut model = inner.get_model().clone();
    model.resize_cache(if has_words(&inner) { REMEMBERED } else { 0 });
    inner.with_model(model);
    let max_length = inner.get_truncation().map(|t| t.max_length);
    inner.with_padding(None);
    // (switching truncation off cannot fail, but the signature says that it might)
    inner.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
    let (prefix, suffix) = guard(|| affixes(&inner)).map_err(malformed)?;
    Tokenizer::new(inner, path, prefix, suffix).with_max_length(max_length)
}

/// Whether a text is taken apart into words before the model sees it.
fn has_words(inner: &tokenizers::Tokenizer) -> bool {
    let encoded = guard(|| inner.encode("a b c", false));
    encoded.is_ok_and(|text| text.get_word_ids().iter().flatten().any(|&word| word > 0))
}

/// What the post-processor puts around a text, seen on a text of one letter.
fn affixes(inner: &tokenizers::Tokenizer) -> tokenizers::Result<(Vec<u32>, Vec<u32>)> {
    const PROBE: &str = "a";
    let body = inner.encode_fast(PROBE, false)?;
    let whole = inner.encode_fast(PROBE, true)?;
    let (body, whole) = (body.get_ids(), whole.get_ids());
    // the mask of special tokens says less than the tokens themselves: some post-processors leave it empty
    let at = (0..=whole.len().saturating_sub(body.len())).find(|&at| whole[at..].starts_with(body));
    match at {
        Some(at) if !body.is_empty() => Ok((whole[..at].to_vec(), whole[at + body.len()..].to_vec())),
        _ => Err("its post-processor changes the tokens of a text".into()),
    }
}

fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, TokenizerError> {
    let io = |source| TokenizerError::Io {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > limit {
        return Err(TokenizerError::TooLarge {
            path: path.to_owned(),
            size,
            limit,
        });
    }
    std::fs::read(path).map_err(io)
}

/// A configuration file that may be absent.
fn read_config(path: PathBuf) -> Result<Value, TokenizerError> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    let text = read_limited(&path, MAX_CONFIG)?;
    serde_json::from_slice(&text).map_err(|e| TokenizerError::malformed(&path, e.to_string()))
}
