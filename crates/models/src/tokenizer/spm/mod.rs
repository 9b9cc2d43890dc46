//! Tokenizers from SentencePiece's own files (`tokenizer.model`, `spiece.model`, `sentencepiece.bpe.model`).
//!
//! Pieces are found by the crate `tokenizers`; normalisation is ours, since that of the crate goes by grapheme clusters and differs from
//! SentencePiece's on some texts. As in SentencePiece, a control piece that is written out in a text ("`<s>`") is just that text.

mod normalize;
mod proto;

use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::{AddedToken, decoders};

pub(super) use normalize::Normalizer;
use proto::{Algorithm, Kind, Model};

use super::{SpecialTokens, Tokenizer, TokenizerError, guard, merges};

/// How SentencePiece writes a space.
const SPACE: char = '▁';

/// Names of such files.
pub(crate) const NAMES: [&str; 3] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];

/// What a model puts around texts, and how its ids follow from the pieces. The file itself says neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    bos: bool,
    eos: bool,
    /// fairseq's ids: `<s>`, `<pad>`, `</s>`, `<unk>`, then the pieces from the third on, then `<mask>`.
    fairseq: bool,
}

impl Around {
    /// What `tokenizer_config.json` beside the file says.
    ///
    /// # Errors
    /// [`TokenizerError::Unsupported`] for a class of tokenizers whose ways are not known.
    pub(super) fn of(path: &Path, config: &Value) -> Result<Self, TokenizerError> {
        let class = config["tokenizer_class"].as_str().unwrap_or_default();
        let around = |bos, eos, fairseq| Self { bos, eos, fairseq };
        let base = match class.trim_end_matches("Fast") {
            "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer" => around(true, false, false),
            "T5Tokenizer" => around(false, true, false),
            "XLMRobertaTokenizer" => around(true, true, true),
            other => {
                return Err(TokenizerError::unsupported(
                    path,
                    format!("a SentencePiece model of the class \"{other}\""),
                    "put the tokenizer.json of the same model beside it",
                ));
            }
        };
        Ok(Self {
            bos: config["add_bos_token"].as_bool().unwrap_or(base.bos),
            eos: config["add_eos_token"].as_bool().unwrap_or(base.eos),
            ..base
        })
    }
}

/// Builds the tokenizer that the bytes of a model describe.
pub(super) fn build(path: &Path, bytes: &[u8], around: Around) -> Result<Tokenizer, TokenizerError> {
    let malformed = |detail: String| TokenizerError::malformed(path, format!("it is no SentencePiece model: {detail}"));
    let refuse = |what: &str| {
        let advice = "put the tokenizer.json of the same model beside it";
        Err(TokenizerError::unsupported(path, what, advice))
    };
    let model = Model::read(bytes).map_err(malformed)?;
    if let Algorithm::Other(_) = model.algorithm {
        return refuse("a SentencePiece model of words or characters");
    }
    if !model.escape_spaces {
        return refuse("a SentencePiece model that does not write spaces as ▁");
    }
    if model.pieces.iter().any(|piece| piece.kind == Kind::Unused) {
        return refuse("a SentencePiece model with pieces that are switched off");
    }
    let verbatim: Vec<String> = model
        .pieces
        .iter()
        .filter(|piece| piece.kind == Kind::UserDefined)
        .map(|piece| piece.text.clone())
        .collect();
    let normalizer = Normalizer::new(&model, verbatim.clone()).map_err(malformed)?;
    let vocabulary = vocabulary(&model, around).map_err(malformed)?;
    let mut inner = guard(|| pieces(&model, &vocabulary)).map_err(malformed)?;
    let added = verbatim
        .into_iter()
        // spaces are written ▁ before these are looked for
        .map(|piece| AddedToken::from(piece.replace(' ', "▁"), false).normalized(false));
    guard(|| inner.add_tokens(added.collect::<Vec<_>>())).map_err(malformed)?;
    let id = |name: &str, own: i64| -> Option<u32> {
        match around.fairseq {
            true => vocabulary
                .iter()
                .position(|(piece, _)| piece == name)
                .map(|at| at as u32),
            false => u32::try_from(own).ok().filter(|&id| (id as usize) < vocabulary.len()),
        }
    };
    let special = SpecialTokens {
        bos: id("<s>", model.bos),
        eos: id("</s>", model.eos),
        pad: id("<pad>", model.pad),
        unk: model
            .pieces
            .iter()
            .position(|p| p.kind == Kind::Unknown)
            .and_then(|at| {
                let name = &model.pieces[at].text;
                vocabulary
                    .iter()
                    .position(|(piece, _)| piece == name)
                    .map(|at| at as u32)
            }),
        ..SpecialTokens::default()
    };
    let affix = |wanted: bool, id: Option<u32>, role: &str| match (wanted, id) {
        (false, _) => Ok(Vec::new()),
        (true, Some(id)) => Ok(vec![id]),
        (true, None) => Err(malformed(format!("texts need a {role} token, but it names none"))),
    };
    let (prefix, suffix) = (
        affix(around.bos, special.bos, "BOS")?,
        affix(around.eos, special.eos, "EOS")?,
    );
    let mut tokenizer = Tokenizer::new(inner, path, prefix, suffix);
    tokenizer.special = special;
    tokenizer.normalizer = Some(normalizer);
    Ok(tokenizer)
}

/// Pieces and scores in the order of their ids.
///
/// SentencePiece finds only normal pieces in a text, the crate all of them: the others get scores with which they are never the best way to
/// read a text. (One is, where a text spells out its name in characters that the vocabulary lacks: `<0xFF>` where it has no F.)
fn vocabulary(model: &Model, around: Around) -> Result<Vec<(String, f64)>, String> {
    let normal = model.pieces.iter().filter(|piece| piece.kind == Kind::Normal);
    let never = normal.map(|piece| f64::from(piece.score)).fold(0.0, f64::min) - 1e4;
    let own = model.pieces.iter().map(|piece| match piece.kind {
        Kind::Normal | Kind::UserDefined => (piece.text.clone(), f64::from(piece.score)),
        _ => (piece.text.clone(), never),
    });
    if !around.fairseq {
        return Ok(own.collect());
    }
    let first: Vec<&str> = model.pieces.iter().take(3).map(|piece| piece.text.as_str()).collect();
    if first != ["<unk>", "<s>", "</s>"] {
        return Err(format!("its first pieces are {first:?}"));
    }
    let named = |name: &str| (name.to_owned(), never);
    let before = ["<s>", "<pad>", "</s>", "<unk>"].map(named);
    Ok(before.into_iter().chain(own.skip(3)).chain([named("<mask>")]).collect())
}

fn pieces(model: &Model, vocabulary: &[(String, f64)]) -> tokenizers::Result<tokenizers::Tokenizer> {
    let unknown = model.pieces.iter().find(|piece| piece.kind == Kind::Unknown);
    let unknown = unknown.ok_or("it has no piece for what is unknown")?.text.clone();
    let mut inner = match model.algorithm {
        Algorithm::Bpe => {
            // merges make normal pieces only; those of the other kinds are names
            let normal: Vec<(String, f64)> = model
                .pieces
                .iter()
                .filter(|piece| piece.kind == Kind::Normal)
                .map(|piece| (piece.text.clone(), f64::from(piece.score)))
                .collect();
            let names: Vec<String> = normal.iter().map(|(name, _)| name.clone()).collect();
            let merges = merges::derive(&names, |i| normal[i].1);
            let ids: Vocab = vocabulary
                .iter()
                .enumerate()
                .map(|(id, (piece, _))| (piece.clone(), id as u32))
                .collect();
            let bpe = BPE::builder()
                .vocab_and_merges(ids, merges)
                .fuse_unk(true)
                .byte_fallback(model.byte_fallback)
                .cache_capacity(0)
                .unk_token(unknown);
            tokenizers::Tokenizer::new(bpe.build()?)
        }
        _ => {
            let at = vocabulary.iter().position(|(piece, _)| *piece == unknown);
            let mut unigram = Unigram::from(vocabulary.to_vec(), at, model.byte_fallback)?;
            unigram.resize_cache(0);
            tokenizers::Tokenizer::new(unigram)
        }
    };
    let mut steps = vec![
        decoders::DecoderWrapper::Replace(tokenizers::normalizers::Replace::new(SPACE.to_string(), " ")?),
        decoders::DecoderWrapper::ByteFallback(decoders::byte_fallback::ByteFallback::new()),
        decoders::DecoderWrapper::Fuse(decoders::fuse::Fuse::new()),
    ];
    if model.space_first {
        steps.push(decoders::DecoderWrapper::Strip(decoders::strip::Strip::new(' ', 1, 0)));
    }
    inner.with_decoder(Some(decoders::sequence::Sequence::new(steps)));
    Ok(inner)
}

#[cfg(test)]
mod tests;
