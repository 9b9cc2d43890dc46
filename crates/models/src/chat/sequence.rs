//! A written dialogue as tokens.

use super::template::{Part, Template};
use super::{ChatError, Dialogue};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens of a dialogue, where its picture goes, and what is learnt of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Tokens.
    pub ids: Vec<u32>,
    /// One a token: whether the model learns to write it.
    pub learnt: Vec<bool>,
    /// The picture's rows come before this token.
    pub image: Option<usize>,
    /// Whether the tokens of a turn could not be told from those around it, so that nothing is learnt (LLaVA masks such a sample as a whole).
    pub mismatch: bool,
}

impl Sequence {
    /// Writes a dialogue with a template and takes it apart into tokens; those that the tokenizer puts before a text come first.
    ///
    /// What is learnt: answers and what ends them, as LLaVA's `preprocess` functions do it; not what begins the text, is told to the model, is asked, or names
    /// the speaker.
    ///
    /// # Errors
    /// [`ChatError::Template`] when the style cannot write it or the vocabulary lacks its tokens, [`ChatError::Tokenizer`].
    pub fn new(template: &Template, tokenizer: &Tokenizer, dialogue: &Dialogue) -> Result<Self, ChatError> {
        let mut sequence = Self::default();
        sequence.push(tokenizer.prefix(), false);
        for part in template.parts(dialogue)? {
            match part {
                Part::Image => sequence.image = Some(sequence.ids.len()),
                Part::Text(text, learnt) => sequence.text(tokenizer, &text, learnt)?,
                Part::Token(token, learnt) => match tokenizer.token_to_id(token) {
                    Some(id) => sequence.push(&[id], learnt),
                    None => return Err(missing(token)),
                },
                Part::End => match tokenizer.special().eos {
                    Some(id) => sequence.push(&[id], true),
                    None => return Err(missing("for the end of a text")),
                },
            }
        }
        if sequence.mismatch {
            sequence.learnt.fill(false);
        }
        Ok(sequence)
    }

    fn text(&mut self, tokenizer: &Tokenizer, text: &str, learnt: Option<usize>) -> Result<(), TokenizerError> {
        // lengths are the caller's business: a picture's rows count too
        let tokens = |text: &str| Ok::<_, TokenizerError>(tokenizer.encode_to(text, false, None)?.ids);
        let all = tokens(text)?;
        match learnt {
            None => self.push(&all, false),
            Some(0) => self.push(&all, true),
            Some(at) => {
                let before = tokens(text.get(..at).unwrap_or(text))?;
                match all.strip_prefix(before.as_slice()) {
                    Some(rest) => {
                        self.push(&before, false);
                        self.push(rest, true);
                    }
                    None => {
                        self.mismatch = true;
                        self.push(&all, false);
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, ids: &[u32], learnt: bool) {
        self.ids.extend_from_slice(ids);
        self.learnt.resize(self.ids.len(), learnt);
    }

    /// Rows with a picture of so many.
    pub fn rows(&self, picture: usize) -> usize {
        self.ids.len() + self.image.map_or(0, |_| picture)
    }

    /// Cuts what comes after so many rows, those of a picture counted: what LLaVA does once a picture is in its place. A picture that would be cut itself is
    /// left out.
    pub fn cut(&mut self, rows: usize, picture: usize) {
        if self.rows(picture) <= rows {
            return;
        }
        let keep = match self.image {
            Some(at) if at + picture <= rows => rows - picture,
            Some(at) => {
                self.image = None;
                at.min(rows)
            }
            None => rows,
        };
        self.ids.truncate(keep);
        self.learnt.truncate(keep);
    }

    /// Rows of the model's last vectors and the token that each is to foretell: those before learnt tokens. A token without a row before it is not learnt.
    ///
    /// # Shapes
    /// → pairs (row, token), rows counted with a picture of `picture` rows.
    pub fn targets(&self, picture: usize) -> Vec<(usize, u32)> {
        let place = |token: usize| match self.image {
            Some(at) if token >= at => token + picture,
            _ => token,
        };
        let learnt = self.learnt.iter().enumerate().filter(|(_, learnt)| **learnt);
        learnt
            .filter_map(|(i, _)| Some((place(i).checked_sub(1)?, self.ids[i])))
            .collect()
    }
}

fn missing(token: &str) -> ChatError {
    ChatError::Template {
        what: format!("the model's vocabulary has no token {token}"),
        advice: "choose the template that the model was trained with",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(n: usize, image: Option<usize>, learnt: &[usize]) -> Sequence {
        Sequence {
            ids: (0..n as u32).map(|id| 100 + id).collect(),
            learnt: (0..n).map(|i| learnt.contains(&i)).collect(),
            image,
            mismatch: false,
        }
    }

    #[test]
    fn targets_are_foretold_by_the_row_before() {
        let s = sequence(5, Some(2), &[0, 2, 4]);
        // rows: 0 1 | picture 2 3 4 | 5 6 7
        assert_eq!(s.targets(3), [(4, 102), (6, 104)]);
        assert_eq!(sequence(3, None, &[1, 2]).targets(3), [(0, 101), (1, 102)]);
        assert_eq!(sequence(2, Some(0), &[0, 1]).targets(4), [(3, 100), (4, 101)]);
    }

    #[test]
    fn cutting_counts_the_picture() {
        for (rows, picture, image, expected) in [
            (8, 3, Some(2), (5, Some(2))),
            (7, 3, Some(2), (4, Some(2))),
            (5, 3, Some(2), (2, Some(2))),
            (4, 3, Some(2), (2, None)),
            (1, 3, Some(2), (1, None)),
            (3, 3, None, (3, None)),
        ] {
            let mut s = sequence(5, image, &[4]);
            s.cut(rows, picture);
            assert_eq!((s.ids.len(), s.image), expected, "{rows} {image:?}");
            assert_eq!(s.ids.len(), s.learnt.len());
            assert!(s.rows(picture) <= rows);
        }
    }
}
