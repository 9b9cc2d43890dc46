//! What is put around a text before it is read, and which of the tokens count.

use crate::text::{Family, TextTower};
use crate::tokenizer::{Encoding, Tokenizer, TokenizerError};

/// Which tokens pooling takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pooled {
    #[default]
    All,
    /// All but the first so many: those of the prompt.
    After(usize),
    /// The text's own and what follows it.
    Text,
}

/// What is put around a text: a prompt, or the markup of a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    before: String,
    after: String,
    pooled: Pooled,
}

impl Template {
    /// A prompt before each text; `skipped`: its tokens, counted by themselves and with what the tokenizer begins a text with, are left
    /// out of pooling (sentence-transformers' `include_prompt = false`).
    pub(super) fn prompt(prompt: &str, skipped: bool, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let pooled = match skipped && !prompt.is_empty() {
            true => Pooled::After(tokenizer.encode(prompt, true)?.ids.len() - tokenizer.suffix().len()),
            false => Pooled::All,
        };
        Ok(Self {
            before: prompt.to_owned(),
            after: String::new(),
            pooled,
        })
    }

    /// NV-Embed's: a prompt before each text, which ends with the end-of-text token. As many of the first tokens are left out of pooling as
    /// the prompt has by itself, not counting the one that begins a text; so its own code has it.
    pub(super) fn nv_embed(prompt: &str, tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let eos = tokenizer.special().eos;
        let ended = eos.is_none() || tokenizer.suffix().last().copied() == eos;
        let end = eos.and_then(|eos| tokenizer.id_to_token(eos));
        Ok(Self {
            before: prompt.to_owned(),
            after: if ended { String::new() } else { end.unwrap_or_default() },
            pooled: Pooled::After(tokenizer.encode(prompt, false)?.ids.len()),
        })
    }

    /// LLM2CLIP's: the text as what a user says, of which the text's own tokens and the one that ends it are pooled. Models without chat
    /// markup of these two kinds get none. `instruction` comes before the text within the markup and is not pooled.
    pub(super) fn caption(instruction: &str, tower: &TextTower, tokenizer: &Tokenizer) -> Self {
        let family = match tower {
            TextTower::Llm(llm) => Some(llm.config().family),
            _ => None,
        };
        let knows = |token: &str| tokenizer.token_to_id(token).is_some();
        let (header, end) = match family {
            Some(Family::Llama)
                if knows("<|start_header_id|>") && knows("<|end_header_id|>") && knows("<|eot_id|>") =>
            {
                ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>")
            }
            Some(Family::Qwen2) if knows("<|im_start|>") && knows("<|im_end|>") => ("<|im_start|>user\n", "<|im_end|>"),
            _ => ("", ""),
        };
        Self {
            before: format!("{header}{instruction}"),
            after: end.to_owned(),
            pooled: Pooled::Text,
        }
    }

    /// Tokens of texts, at most as many as the tokenizer allows; what comes after a text is never cut off.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, texts: &[&str]) -> Result<Vec<Encoding>, TokenizerError> {
        if *self == Self::default() {
            return tokenizer.encode_batch(texts, true);
        }
        let whole = |before: &str| -> Vec<String> {
            let own = |text: &&str| match self.pooled {
                // the reference strips what it wraps; the text's beginning is within by then
                Pooled::Text => format!("{before}{}{}", text.trim_end(), self.after),
                _ => format!("{before}{text}{}", self.after),
            };
            texts.iter().map(own).collect()
        };
        let encode = |texts: &[String], special| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            tokenizer.encode_batch(&texts, special)
        };
        let mut all = encode(&whole(&self.before), true)?;
        match self.pooled {
            Pooled::All => {}
            Pooled::After(skip) => all.iter_mut().for_each(|encoding| encoding.skip = skip),
            Pooled::Text => {
                // as many as the text has by itself, counted from the end, but for what the tokenizer puts after every text
                for (encoding, own) in all.iter_mut().zip(encode(&whole(""), false)?) {
                    let (total, own) = (encoding.ids.len() + encoding.cut, own.ids.len() + own.cut);
                    encoding.skip = total.saturating_sub(own + tokenizer.suffix().len());
                }
            }
        }
        let after = tokenizer.encode(&self.after, false)?.ids;
        for encoding in &mut all {
            if encoding.cut > 0 && !after.is_empty() {
                let end = encoding.ids.len().saturating_sub(tokenizer.suffix().len());
                let at = end.saturating_sub(after.len());
                encoding.ids.splice(at..end, after.iter().copied());
                encoding.cut += end - at;
            }
        }
        Ok(all)
    }
}
