//! Text out of tokens as they come.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Joins tokens to text and gives what is new of it; a character whose bytes are spread over several tokens comes when it is whole.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// The first token that is still decoded again: a text that grows is not decoded from its beginning each time.
    from: usize,
    /// Bytes of the text from there that were given.
    given: usize,
    text: String,
}

/// Tokens before new ones that a tokenizer looks at to join them.
const CONTEXT: usize = 16;
/// What stands for bytes that are no character.
const UNFINISHED: char = '\u{fffd}';

impl<'a> TextStream<'a> {
    /// Nothing yet.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            ids: Vec::new(),
            from: 0,
            given: 0,
            text: String::new(),
        }
    }

    /// Adds a token; what it adds to the text.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let whole = self.tokenizer.decode(&self.ids[self.from..])?;
        if whole.ends_with(UNFINISHED) {
            return Ok(String::new());
        }
        let new = whole.get(self.given..).unwrap_or_default().to_owned();
        self.given = whole.len();
        self.text.push_str(&new);
        if self.ids.len() - self.from > 2 * CONTEXT {
            let from = self.ids.len() - CONTEXT;
            let rest = self.tokenizer.decode(&self.ids[from..])?;
            // only where the text goes on as it would from the beginning
            if self.text.ends_with(&rest) && !rest.starts_with(UNFINISHED) {
                (self.from, self.given) = (from, rest.len());
            }
        }
        Ok(new)
    }

    /// All that was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tokens so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}
