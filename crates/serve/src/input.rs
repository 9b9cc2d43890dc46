//! What is to be embedded, whatever dialect it was written in.

use bytes::Bytes;

use crate::error::{Answer, ApiError};

/// One input of a tower.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    /// A text, verbatim.
    Text(String),
    /// A text as tokens of the model's own tokenizer, special ones included.
    Tokens(Vec<u32>),
    /// A picture.
    Picture(Picture),
}

/// Where a picture is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Picture {
    /// The file itself.
    Bytes(Bytes),
    /// Somewhere else; fetched before anything else is done, if that is allowed.
    Url(String),
}

impl Item {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Inputs and which of them become one row together.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Inputs {
    pub(crate) items: Vec<Item>,
    /// How many of the items belong to each row, in order.
    pub(crate) rows: Vec<usize>,
    /// Whether texts that are longer than the model reads are refused; otherwise their end is cut off.
    pub(crate) whole: bool,
}

impl Inputs {
    /// Each input has a row of its own.
    pub(crate) fn each(items: Vec<Item>) -> Self {
        let rows = vec![1; items.len()];
        let whole = false;
        Self { items, rows, whole }
    }

    pub(crate) fn texts<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::each(texts.into_iter().map(|text| Item::Text(text.into())).collect())
    }

    /// Adds a row of several inputs.
    pub(crate) fn push(&mut self, items: Vec<Item>) {
        self.rows.push(items.len());
        self.items.extend(items);
    }

    pub(crate) fn pictures(&self) -> usize {
        self.items
            .iter()
            .filter(|item| matches!(item, Item::Picture(_)))
            .count()
    }

    /// Refuses nothing at all, and too much.
    pub(crate) fn check(&self, most: usize) -> Answer<()> {
        if self.rows.is_empty() || self.rows.contains(&0) {
            return Err(ApiError::field(
                "input",
                "there is nothing to embed; give at least one text or picture",
            ));
        }
        if self.items.len() > most {
            let message = format!(
                "{} inputs, at most {most} are taken in one request; send them in parts",
                self.items.len()
            );
            return Err(ApiError::field("input", message));
        }
        Ok(())
    }
}
