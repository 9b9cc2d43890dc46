//! SentencePiece's normalisation: replacements of a compiled table, and what becomes of spaces.

use std::sync::Arc;

use super::SPACE;
use super::proto::Model;

/// Normalises texts as SentencePiece does before it looks for pieces.
#[derive(Clone, Debug)]
pub(crate) struct Normalizer {
    charsmap: Option<Arc<Charsmap>>,
    space_first: bool,
    single_spaces: bool,
    space_as_suffix: bool,
    /// Pieces that are taken as they stand wherever they occur, longest first.
    verbatim: Arc<[String]>,
}

impl Normalizer {
    pub(super) fn new(model: &Model, mut verbatim: Vec<String>) -> Result<Self, String> {
        verbatim.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
        Ok(Self {
            charsmap: match model.charsmap.is_empty() {
                true => None,
                false => Some(Arc::new(Charsmap::read(&model.charsmap)?)),
            },
            space_first: model.space_first,
            single_spaces: model.single_spaces,
            space_as_suffix: model.space_as_suffix,
            verbatim: verbatim.into(),
        })
    }

    /// What stands at the beginning of a text in place of how many of its bytes; `text` is not empty.
    fn prefix<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some(piece) = self.verbatim.iter().find(|piece| text.starts_with(piece.as_str())) {
            return (&text[..piece.len()], piece.len());
        }
        let found = self.charsmap.as_ref().and_then(|map| map.longest(text));
        found.unwrap_or_else(|| {
            let len = text.chars().next().map_or(text.len(), char::len_utf8);
            (&text[..len], len)
        })
    }

    /// The text in which pieces are looked for.
    pub(crate) fn normalize(&self, text: &str) -> String {
        let mut rest = text;
        if self.single_spaces {
            while !rest.is_empty() {
                let (replaced, len) = self.prefix(rest);
                if replaced != " " {
                    break;
                }
                rest = &rest[len..];
            }
        }
        let mut out = String::with_capacity(text.len() * 2);
        if rest.is_empty() {
            return out;
        }
        if self.space_first && !self.space_as_suffix {
            out.push(SPACE);
        }
        let mut after_space = self.single_spaces;
        while !rest.is_empty() {
            let (mut replaced, len) = self.prefix(rest);
            if after_space {
                replaced = replaced.trim_start_matches(' ');
            }
            for c in replaced.chars() {
                out.push(if c == ' ' { SPACE } else { c });
            }
            if !replaced.is_empty() {
                after_space = self.single_spaces && replaced.ends_with(' ');
            }
            rest = &rest[len..];
        }
        if self.single_spaces {
            out.truncate(out.trim_end_matches(SPACE).len());
        }
        if self.space_first && self.space_as_suffix {
            out.push(SPACE);
        }
        out
    }
}

/// The compiled table: a double-array trie (Aoe 1989, as the library darts-clone lays it out) whose values are positions in a block of texts
/// that each end in a zero byte.
#[derive(Debug)]
struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let (size, rest) = bytes
            .split_first_chunk::<4>()
            .ok_or("its table of replacements is cut off")?;
        let size = u32::from_le_bytes(*size) as usize;
        let (trie, texts) = rest
            .split_at_checked(size)
            .filter(|_| size > 0 && size.is_multiple_of(4))
            .ok_or("its table of replacements is cut off")?;
        Ok(Self {
            units: trie
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&unit| u32::from_le_bytes(unit))
                .collect(),
            texts: String::from_utf8(texts.to_vec()).map_err(|e| format!("its replacements are not UTF-8 ({e})"))?,
        })
    }

    /// The replacement of the longest beginning of a text that has one, and that beginning's length.
    fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (i, &byte) in text.as_bytes().iter().enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at) else {
                break;
            };
            // a label has the highest bit only where it is no label but a value
            if unit & ((1 << 31) | 0xff) != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = *self.units.get(at)? & !(1 << 31);
                let replacement = self.texts.get(value as usize..)?;
                // within a text it ends between characters; a damaged table may say otherwise
                if text.is_char_boundary(i + 1) {
                    found = Some((replacement.split('\0').next().unwrap_or_default(), i + 1));
                }
            }
        }
        found
    }
}
