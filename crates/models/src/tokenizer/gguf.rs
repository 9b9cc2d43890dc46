//! Tokenizers from the metadata of a GGUF file.
//!
//! A GGUF file has a vocabulary, merges or scores, and the *name* of a pre-tokenizer; normalisation and pre-tokenisation
//! themselves are known by that name only. Names that are not known are refused: a guess would give other tokens silently.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{self, NormalizerWrapper, Prepend, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, decoders};

use super::{REMEMBERED, SpecialTokens, Tokenizer, TokenizerError, guard, merges};
use crate::weights::TensorSource;
use crate::weights::gguf::{Gguf, GgufValue};

/// Values of `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// How SentencePiece writes a space.
const SPACE: char = '▁';

/// How Llama 3 splits a text (the expression of its `tokenizer.json`).
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen 2 splits a text: as Llama 3, but digits one by one.
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What the metadata say about a tokenizer.
struct Description<'a> {
    path: &'a Path,
    architecture: &'a str,
    pre: &'a str,
    tokens: &'a [String],
    kinds: Vec<i64>,
    merges: Option<&'a [String]>,
    scores: Option<&'a [f64]>,
    /// Whether a space is put before each text; `None` if the file does not say.
    space_prefix: Option<bool>,
    special: SpecialTokens,
}

pub(super) fn build(gguf: &Gguf) -> Result<Tokenizer, TokenizerError> {
    let path = gguf.path();
    let model = gguf.require("tokenizer.ggml.model", GgufValue::as_str)?;
    let description = describe(gguf)?;
    let malformed = |detail: String| TokenizerError::malformed(path, format!("its tokenizer: {detail}"));
    let (mut inner, bos_by_default) = match model {
        "gpt2" => byte_level(&description)?,
        "llama" => (guard(|| sentencepiece(&description)).map_err(malformed)?, true),
        other => {
            return Err(TokenizerError::unsupported(
                path,
                format!("the tokenizer model \"{other}\""),
                "put the tokenizer.json of the original model beside the weights and name the folder",
            ));
        }
    };
    guard(|| add_special_tokens(&mut inner, &description)).map_err(malformed)?;
    let special = description.special;
    let add = |key: &str, default: bool, token: Option<u32>, role: &str| match (
        gguf.optional(key, GgufValue::as_bool)?.unwrap_or(default),
        token,
    ) {
        (false, _) => Ok(Vec::new()),
        (true, Some(id)) => Ok(vec![id]),
        (true, None) => Err(TokenizerError::malformed(
            path,
            format!("texts need a {role} token, but it names none"),
        )),
    };
    let prefix = add("tokenizer.ggml.add_bos_token", bos_by_default, special.bos, "BOS")?;
    let suffix = add("tokenizer.ggml.add_eos_token", false, special.eos, "EOS")?;
    let mut tokenizer = Tokenizer::new(inner, path, prefix, suffix);
    tokenizer.special = special;
    tokenizer.with_max_length(context_length(gguf, description.architecture)?)
}

fn context_length(gguf: &Gguf, architecture: &str) -> Result<Option<usize>, TokenizerError> {
    let length = gguf.optional(&format!("{architecture}.context_length"), GgufValue::as_u64)?;
    Ok(length.and_then(|n| usize::try_from(n).ok()))
}

fn describe(gguf: &Gguf) -> Result<Description<'_>, TokenizerError> {
    let path = gguf.path();
    let tokens = gguf.require("tokenizer.ggml.tokens", GgufValue::as_strings)?;
    if tokens.is_empty() {
        return Err(TokenizerError::malformed(path, "its vocabulary is empty"));
    }
    let kinds = gguf
        .optional("tokenizer.ggml.token_type", GgufValue::as_integers)?
        .unwrap_or_default();
    let scores = gguf.optional("tokenizer.ggml.scores", GgufValue::as_floats)?;
    for (what, count) in [
        ("types", (!kinds.is_empty()).then_some(kinds.len())),
        ("scores", scores.map(<[f64]>::len)),
    ] {
        if count.is_some_and(|count| count != tokens.len()) {
            let detail = format!(
                "its vocabulary has {} tokens, but another number of {what}",
                tokens.len()
            );
            return Err(TokenizerError::malformed(path, detail));
        }
    }
    let id = |role: &str| -> Result<Option<u32>, TokenizerError> {
        let key = format!("tokenizer.ggml.{role}_token_id");
        match gguf.optional(&key, GgufValue::as_u64)? {
            None => Ok(None),
            Some(id) => match u32::try_from(id) {
                Ok(small) if (small as usize) < tokens.len() => Ok(Some(small)),
                _ => Err(TokenizerError::malformed(
                    path,
                    format!("{key} is {id}, but the vocabulary has {} tokens", tokens.len()),
                )),
            },
        }
    };
    Ok(Description {
        path,
        architecture: gguf.require("general.architecture", GgufValue::as_str)?,
        pre: gguf
            .optional("tokenizer.ggml.pre", GgufValue::as_str)?
            .unwrap_or("default"),
        tokens,
        kinds,
        merges: gguf.optional("tokenizer.ggml.merges", GgufValue::as_strings)?,
        scores,
        space_prefix: gguf.optional("tokenizer.ggml.add_space_prefix", GgufValue::as_bool)?,
        special: SpecialTokens {
            bos: id("bos")?,
            eos: id("eos")?,
            unk: id("unknown")?,
            pad: id("padding")?,
            cls: id("cls")?,
            // sic: the key was misspelt in the format's first years
            sep: id("seperator")?.or(id("separator")?),
            mask: id("mask")?,
        },
    })
}

/// BPE on bytes, as GPT-2 has it, with the pre-tokenizer that the file names. Also says whether BOS is added if the file
/// does not mention it.
fn byte_level(description: &Description<'_>) -> Result<(tokenizers::Tokenizer, bool), TokenizerError> {
    let digits = || PreTokenizerWrapper::Digits(Digits::new(true));
    let bytes = |use_regex| PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, use_regex));
    let split = |expression: &str| {
        let pattern = SplitPattern::Regex(expression.to_owned());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(PreTokenizerWrapper::Split)
    };
    let malformed = |detail: String| TokenizerError::malformed(description.path, format!("its tokenizer: {detail}"));
    let failed = |e: tokenizers::Error| malformed(e.to_string());
    let (steps, whole_words_first, normalizer, bos) = match description.pre {
        "gpt-2" => (vec![bytes(true)], false, None, false),
        // digits one by one *before* words are split: "a  1" is a|▁▁|1. (transformers' own conversion from GGUF leaves the digits
        // out; the tokenizer.json of the model and llama.cpp have them.)
        "smollm" => (vec![digits(), bytes(true)], false, None, false),
        "llama3" | "llama-v3" | "llama-bpe" => (
            vec![split(LLAMA3_SPLIT).map_err(failed)?, bytes(false)],
            true,
            None,
            true,
        ),
        "qwen2" => {
            let nfc = NormalizerWrapper::NFC(normalizers::unicode::NFC);
            (
                vec![split(QWEN2_SPLIT).map_err(failed)?, bytes(false)],
                false,
                Some(nfc),
                false,
            )
        }
        other => {
            return Err(TokenizerError::unsupported(
                description.path,
                format!("the pre-tokenizer \"{other}\""),
                "put the tokenizer.json of the original model beside the weights and name the folder",
            ));
        }
    };
    let listed = description.merges.ok_or_else(|| malformed("it has no merges".into()))?;
    let merges = listed.iter().map(|line| match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
        _ => Err(malformed(format!("the merge {line:?} does not consist of two tokens"))),
    });
    let merges = merges.collect::<Result<Vec<_>, _>>()?;
    let model = guard(|| {
        BPE::builder()
            .vocab_and_merges(vocabulary(description.tokens), merges)
            .ignore_merges(whole_words_first)
            .cache_capacity(REMEMBERED)
            .build()
    });
    let mut inner = tokenizers::Tokenizer::new(model.map_err(malformed)?);
    inner.with_normalizer(normalizer).map_err(failed)?;
    inner.with_pre_tokenizer(Some(Sequence::new(steps)));
    inner.with_decoder(Some(ByteLevel::new(false, true, true)));
    Ok((inner, bos))
}

/// SentencePiece's BPE: spaces are written "▁", characters that are not in the vocabulary are written as their bytes.
fn sentencepiece(description: &Description<'_>) -> tokenizers::Result<tokenizers::Tokenizer> {
    let gemma = description.architecture.starts_with("gemma");
    // llama.cpp stores runs of spaces as such, while they are looked up as runs of "▁"
    let respell = |token: &String| match token.chars().all(|c| c == ' ') && !token.is_empty() {
        true => SPACE.to_string().repeat(token.len()),
        false => token.clone(),
    };
    let pieces: Vec<String> = description.tokens.iter().map(respell).collect();
    let merges = match (description.merges, description.scores) {
        (Some(listed), _) => listed
            .iter()
            .map(|line| line.split_once(' ').map(|(l, r)| (l.to_owned(), r.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or("a merge does not consist of two tokens")?,
        // Gemma's user-defined pieces have meaningless scores, but its vocabulary is in the order of training
        _ if gemma => merges::derive(&pieces, |position| -(position as f64)),
        (None, Some(scores)) => merges::derive(&pieces, |position| scores[position]),
        (None, None) => return Err("it has neither merges nor scores".into()),
    };
    let mut model = BPE::builder()
        .vocab_and_merges(vocabulary(&pieces), merges)
        .fuse_unk(true)
        .byte_fallback(true)
        .cache_capacity(0);
    if let Some(unknown) = description.special.unk {
        // ids were checked against the vocabulary
        model = model.unk_token(pieces[unknown as usize].clone());
    }
    let mut inner = tokenizers::Tokenizer::new(model.build()?);
    let spaces = NormalizerWrapper::Replace(Replace::new(" ", SPACE.to_string())?);
    let prefixed = description.space_prefix.unwrap_or(!gemma);
    inner.with_normalizer(Some(match prefixed {
        false => spaces,
        true => {
            let prepend = NormalizerWrapper::Prepend(Prepend::new(SPACE.to_string()));
            NormalizerWrapper::Sequence(normalizers::Sequence::new(vec![prepend, spaces]))
        }
    }))?;
    let mut steps = vec![
        decoders::DecoderWrapper::Replace(Replace::new(SPACE.to_string(), " ")?),
        decoders::DecoderWrapper::ByteFallback(decoders::byte_fallback::ByteFallback::new()),
        decoders::DecoderWrapper::Fuse(decoders::fuse::Fuse::new()),
    ];
    if prefixed {
        steps.push(decoders::DecoderWrapper::Strip(decoders::strip::Strip::new(' ', 1, 0)));
    }
    inner.with_decoder(Some(decoders::sequence::Sequence::new(steps)));
    Ok(inner)
}

fn vocabulary(tokens: &[String]) -> Vocab {
    // the number of tokens is limited by the header of the file, far below 2^32
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), id as u32))
        .collect()
}

/// Tokens that stay whole wherever they are written in a text.
fn add_special_tokens(inner: &mut tokenizers::Tokenizer, description: &Description<'_>) -> tokenizers::Result<()> {
    for (kind, special) in [(CONTROL, true), (USER_DEFINED, false)] {
        let tokens = description.tokens.iter().zip(&description.kinds);
        let added: Vec<AddedToken> = tokens
            // a respelt run of spaces is not in the vocabulary under its own name; merges find it
            .filter(|(token, k)| **k == kind && !token.is_empty() && inner.token_to_id(token).is_some())
            .map(|(token, _)| AddedToken::from(token.as_str(), special).normalized(false))
            .collect();
        if special {
            inner.add_special_tokens(added)?
        } else {
            inner.add_tokens(added)?
        };
    }
    Ok(())
}
