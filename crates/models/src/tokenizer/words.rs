//! Texts between whose words no token lies: each word is tokenised once and remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// Words that are remembered; when there are more, all are forgotten.
const REMEMBERED: usize = 1 << 16;
/// The longest of them, in bytes: with their tokens all take some 10 MB at most.
const LONGEST: usize = 32;

type Known = HashMap<Box<str>, Box<[u32]>>;

/// Tokens of words, for texts of printable ASCII. Words are what lies between spaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Words(Arc<Mutex<Known>>);

impl Words {
    /// `None` where tokens of a word may depend on what is beside it, or spaces be part of tokens: for others than CLIP's and BERT's ways to take a text apart, which drop spaces
    /// before anything else looks at them.
    pub fn of(tokenizer: &tokenizers::Tokenizer) -> Option<Self> {
        let split = serde_json::to_value(tokenizer.get_pre_tokenizer()?).ok()?;
        let normalizer = serde_json::to_value(tokenizer.get_normalizer()?).ok()?;
        let added = tokenizer.get_added_tokens_decoder();
        let apart = is_bert(&split, &normalizer) || is_clip(&split, &normalizer);
        let whole = added.values().all(|token| !token.content.contains(char::is_whitespace));
        (apart && whole).then(Self::default)
    }

    /// Tokens of a text; `None` where it has other characters. `encode` gives those of a word.
    pub fn encode<E>(&self, text: &str, encode: impl Fn(&str) -> Result<Vec<u32>, E>) -> Option<Result<Vec<u32>, E>> {
        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return None;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if let Some(found) = known.get(word) {
                ids.extend_from_slice(found);
                continue;
            }
            let found = match encode(word) {
                Ok(found) => found,
                Err(error) => return Some(Err(error)),
            };
            ids.extend_from_slice(&found);
            if word.len() <= LONGEST {
                if known.len() == REMEMBERED {
                    known.clear();
                }
                known.insert(word.into(), found.into());
            }
        }
        Some(Ok(ids))
    }
}

fn is_bert(split: &Value, normalizer: &Value) -> bool {
    split["type"] == "BertPreTokenizer" && normalizer["type"] == "BertNormalizer"
}

/// Matches of an expression that no space is part of, in lower case or not, then bytes.
fn is_clip(split: &Value, normalizer: &Value) -> bool {
    const PATTERN: &str =
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    const STEPS: [&str; 3] = ["NFC", "Replace", "Lowercase"];
    let [first, bytes] = &split["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice) else {
        return false;
    };
    let steps = normalizer["normalizers"].as_array().map_or(&[][..], Vec::as_slice);
    let spaces = |step: &Value| step["pattern"]["Regex"] == r"\s+" && step["content"] == " ";
    first["type"] == "Split"
        && first["pattern"]["Regex"] == PATTERN
        && first["behavior"] == "Removed"
        && first["invert"] == true
        && bytes["type"] == "ByteLevel"
        && bytes["add_prefix_space"] == false
        && steps.iter().map(|step| &step["type"]).eq(STEPS)
        && spaces(&steps[1])
}
