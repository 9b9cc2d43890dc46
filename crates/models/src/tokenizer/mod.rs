//! Text to tokens, exactly as the reference implementation of each model does it.
//!
//! The algorithms (BPE, WordPiece, normalisation) are those of the crate `tokenizers`; what is ours is to set them up from what
//! a model brings along: a `tokenizer.json` with its configuration, a SentencePiece model, or the vocabulary inside a GGUF file.
//!
//! Texts are taken verbatim: nothing is trimmed, an empty text is a text. As in the reference, a special token that is *written out* in a text
//! ("`<eos>`") becomes that token.

mod error;
mod folder;
mod gguf;
mod merges;
mod spm;
mod words;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

pub use error::TokenizerError;
pub(crate) use spm::NAMES as SENTENCE_PIECE;

use crate::weights::gguf::Gguf;
use words::Words;

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids, special ones included if they were asked for.
    pub ids: Vec<u32>,
    /// How many tokens at the end of the text were cut off to keep the longest length; 0 if the text is complete.
    pub cut: usize,
    /// How many tokens at the beginning pooling leaves out; a tokenizer by itself leaves out none.
    pub skip: usize,
}

/// Ids of the tokens that have a role; `None` where a model has no such token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)] // the names are the field's own
pub struct SpecialTokens {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    pub cls: Option<u32>,
    pub sep: Option<u32>,
    pub mask: Option<u32>,
}

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Where it came from, for messages.
    path: PathBuf,
    /// What the model puts before and after each text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    special: SpecialTokens,
    max_length: Option<usize>,
    /// The length that every text is filled up to, and what fills it.
    padding: Option<(usize, u32)>,
    /// What is done to a text before anything else.
    clean: Option<fn(&str) -> String>,
    vocab_size: usize,
    /// What texts pass before the crate's own steps.
    normalizer: Option<spm::Normalizer>,
    /// Tokens of single words, where a text's are those of its words.
    words: Option<Words>,
}

/// Words that each thread remembers with their tokens. The crate's 10,000 may be texts of 255 bytes, which take 8 KB each and stay until the thread
/// ends. Where texts are not taken apart into words, each of them is one, and none is remembered: that would help nobody.
const REMEMBERED: usize = 1024;

impl Tokenizer {
    fn new(inner: tokenizers::Tokenizer, path: &Path, prefix: Vec<u32>, suffix: Vec<u32>) -> Self {
        // counted once: the crate builds a new table of the vocabulary each time
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let (special, max_length) = (SpecialTokens::default(), None);
        Self {
            words: Words::of(&inner),
            inner,
            path: path.to_owned(),
            prefix,
            suffix,
            special,
            max_length,
            padding: None,
            clean: None,
            vocab_size,
            normalizer: None,
        }
    }

    /// Opens the tokenizer of a model: a folder with `tokenizer.json` or a SentencePiece model, such a file itself, or a `.gguf` file (also
    /// as the only one in a folder). To a text, a SentencePiece model by itself adds nothing; in a folder, what `tokenizer_config.json`
    /// says or the tokenizer's class is known to add.
    ///
    /// # Errors
    /// [`TokenizerError`] if there is none, if it is damaged, or of a kind that is not known.
    pub fn open(path: &Path) -> Result<Self, TokenizerError> {
        folder::open(path)
    }

    /// Builds the tokenizer that a GGUF file describes in its metadata.
    ///
    /// # Errors
    /// [`TokenizerError`] if the metadata are incomplete or describe a kind that is not known.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        gguf::build(gguf)
    }

    /// Reads the text of a `tokenizer.json`; `path` is what messages call it. Roles of special tokens are not part of that file, so
    /// [`Tokenizer::special`] is empty; padding is switched off, and a truncation in the file sets the longest length.
    ///
    /// # Errors
    /// [`TokenizerError::Malformed`] if it is no such text.
    pub fn from_json(path: &Path, json: &[u8]) -> Result<Self, TokenizerError> {
        folder::from_json(path, json)
    }

    /// Encodes one text; `add_special` adds what the model's own tokenizer adds ([CLS] … [SEP], or BOS; nothing for some models).
    /// Beyond [`Tokenizer::max_length`], tokens at the end of the text are cut off; special tokens never are.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] if the vocabulary is too incomplete for the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoding, TokenizerError> {
        self.encode_to(text, add_special, self.max_length)
    }

    /// As [`Tokenizer::encode`] with a longest length for this text, in place of the tokenizer's own.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and [`TokenizerError::MaxLength`] if the special tokens alone are longer.
    pub fn encode_to(
        &self,
        text: &str,
        add_special: bool,
        max_length: Option<usize>,
    ) -> Result<Encoding, TokenizerError> {
        let text = self.normalized(text);
        let body = match self.by_words(&text) {
            Some(body) => body,
            None => self.whole(&text),
        };
        self.finish(&body.map_err(|detail| self.failed(detail))?, add_special, max_length)
    }

    fn whole(&self, text: &str) -> Result<Vec<u32>, String> {
        guard(|| Ok(self.inner.encode_fast(text, false)?.get_ids().to_vec()))
    }

    /// Word by word, where that is the same.
    fn by_words(&self, text: &str) -> Option<Result<Vec<u32>, String>> {
        self.words.as_ref()?.encode(text, |word| self.whole(word))
    }

    /// Encodes many texts on all processors; the results are in the order of the texts.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], for the first text that fails.
    pub fn encode_batch(&self, texts: &[&str], add_special: bool) -> Result<Vec<Encoding>, TokenizerError> {
        let texts = texts.iter().map(|text| self.normalized(text));
        let mut whole = Vec::new();
        let by_words: Vec<_> = texts
            .map(|text| {
                let body = self.by_words(&text);
                if body.is_none() {
                    whole.push(text);
                }
                body
            })
            .collect();
        let failed = |detail| self.failed(detail);
        let bodies = guard(|| self.inner.encode_batch_fast(whole, false)).map_err(failed)?;
        let mut bodies = bodies.iter();
        by_words
            .into_iter()
            .map(|body| match body {
                Some(body) => self.finish(&body.map_err(failed)?, add_special, self.max_length),
                None => {
                    let ids = bodies.next().map_or(&[][..], |body| body.get_ids());
                    self.finish(ids, add_special, self.max_length)
                }
            })
            .collect()
    }

    fn normalized<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = self.clean.map_or(Cow::Borrowed(text), |clean| clean(text).into());
        match &self.normalizer {
            Some(normalizer) => normalizer.normalize(&text).into(),
            None => text,
        }
    }

    fn finish(&self, body: &[u32], add_special: bool, max_length: Option<usize>) -> Result<Encoding, TokenizerError> {
        let (prefix, suffix) = if add_special {
            (&self.prefix[..], &self.suffix[..])
        } else {
            (&[][..], &[][..])
        };
        let room = room(max_length, prefix.len() + suffix.len())?;
        let kept = &body[..body.len().min(room)];
        let mut ids = [prefix, kept, suffix].concat();
        if let Some((length, pad)) = self.padding {
            ids.resize(ids.len().max(length), pad);
        }
        Ok(Encoding {
            ids,
            cut: body.len() - kept.len(),
            skip: 0,
        })
    }

    /// The text of some tokens, special ones included: for people to look at. It need not equal the text that was encoded.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] if the tokenizer cannot join them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        guard(|| self.inner.decode(ids, false)).map_err(|detail| self.failed(detail))
    }

    /// Tokens with a role.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// The tokens that the model puts before each text.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The tokens that the model puts after each text.
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    /// The largest number of tokens of a text, special ones included; `None` if there is no limit.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Sets the largest number of tokens of a text.
    ///
    /// # Errors
    /// [`TokenizerError::MaxLength`] if the special tokens alone are longer.
    pub fn with_max_length(mut self, max_length: Option<usize>) -> Result<Self, TokenizerError> {
        room(max_length, self.prefix.len() + self.suffix.len())?;
        self.max_length = max_length;
        Ok(self)
    }

    /// Makes every text exactly so long: longer ones are cut, shorter ones filled up at their end. For towers that were trained on texts of
    /// one length and see what fills them.
    ///
    /// # Errors
    /// As [`Tokenizer::with_max_length`].
    pub fn padded(self, length: usize, pad: u32) -> Result<Self, TokenizerError> {
        let mut padded = self.with_max_length(Some(length))?;
        padded.padding = Some((length, pad));
        Ok(padded)
    }

    /// The token that fills texts up, when something does.
    pub(crate) fn pads_with(&self) -> Option<u32> {
        self.padding.map(|(_, pad)| pad)
    }

    /// Writes texts in lower case before anything else is done to them.
    pub fn lowercased(mut self) -> Self {
        self.clean = Some(str::to_lowercase);
        self
    }

    /// Cleans texts as open_clip does for SigLIP, before anything else is done to them: underscores are spaces, ASCII punctuation goes,
    /// everything in lower case, one space between words.
    pub fn canonicalized(mut self) -> Self {
        self.clean = Some(|text| {
            let kept: String = text
                .chars()
                .map(|c| if c == '_' { ' ' } else { c })
                .filter(|c| !c.is_ascii_punctuation())
                .collect();
            let words = kept.to_lowercase();
            words.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        self
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the largest token id; the table of embeddings must have at least so many rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token, as the vocabulary writes it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How the vocabulary writes a token.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    fn failed(&self, detail: String) -> TokenizerError {
        TokenizerError::Failed {
            path: self.path.clone(),
            detail,
        }
    }
}

/// How many tokens of a text may stay beside its special ones.
fn room(max_length: Option<usize>, special: usize) -> Result<usize, TokenizerError> {
    match max_length {
        None => Ok(usize::MAX),
        Some(max_length) => max_length
            .checked_sub(special)
            .ok_or(TokenizerError::MaxLength { max_length, special }),
    }
}

/// Calls into the crate `tokenizers`, whose components take what a `tokenizer.json` says at its word and panic where it
/// contradicts itself: such a panic is an error of the file, not the end of the program.
fn guard<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!(
                "its parts contradict each other ({})",
                message.unwrap_or("no details")
            ))
        }
    }
}

#[cfg(test)]
mod tests;
