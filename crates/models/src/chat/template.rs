//! How a dialogue is written for a model: what stands around its turns.

use serde::{Deserialize, Serialize};

use super::ChatError;
use super::dialogue::{Dialogue, Role};
use crate::tokenizer::Tokenizer;
use crate::weights::gguf::{Gguf, GgufValue};

/// Conventions of writing dialogues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// The picture and what is said about it, up to the end of the line: LLaVA's first stage, which has no questions.
    Plain,
    /// Vicuna's, LLaVA 1.5's: `USER: … ASSISTANT: …</s>` after a sentence about the two.
    V1,
    /// LLaVA 1.0's: as `v1` with a human in that sentence.
    LlavaV1,
    /// `<|im_start|>user … <|im_end|>`: SmolLM2, Qwen and many others.
    #[default]
    #[serde(rename = "chatml")]
    ChatMl,
    /// `<start_of_turn>user … <end_of_turn>`: Gemma.
    Gemma,
}

/// A style with what a model is told before a dialogue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The conventions.
    pub style: Style,
    /// Before the first turn, where the dialogue has nothing of its own; `None`: what the style has (a sentence, or nothing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

/// A piece of a written dialogue.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// The rows of the picture.
    Image,
    /// Text, of which is learnt what begins at this byte.
    Text(String, Option<usize>),
    /// A token by its name in the vocabulary, and whether it is learnt.
    Token(&'static str, bool),
    /// The token that ends texts, which is learnt.
    End,
}

impl Template {
    /// A style by itself.
    pub fn of(style: Style) -> Self {
        Self { style, system: None }
    }

    /// The template of a language model: by the tokens that its vocabulary has for turns, and Vicuna's where it has none.
    pub fn of_tokenizer(tokenizer: &Tokenizer) -> Self {
        let has = |token: &str| tokenizer.token_to_id(token).is_some();
        Self::of(if has(IM_START) && has(IM_END) {
            Style::ChatMl
        } else if has(TURN_START) && has(TURN_END) {
            Style::Gemma
        } else {
            Style::V1
        })
    }

    /// As [`Template::of_tokenizer`], with what the file's own template tells a model of whom nothing else is said: the text between ChatML's marks of a
    /// system turn. The template itself, a program, is not run.
    pub fn of_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Self {
        let mut template = Self::of_tokenizer(tokenizer);
        let program = gguf
            .optional("tokenizer.chat_template", GgufValue::as_str)
            .ok()
            .flatten();
        if let (Style::ChatMl, Some(program)) = (template.style, program) {
            template.system = told(program);
        }
        template
    }

    /// What the model is told before the first turn; empty: nothing.
    fn told<'a>(&'a self, dialogue: &'a Dialogue) -> &'a str {
        let own = dialogue.system.as_deref().or(self.system.as_deref());
        own.unwrap_or(match self.style {
            Style::V1 => {
                "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the \
                 user's questions."
            }
            Style::LlavaV1 => {
                "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the \
                 human's questions."
            }
            Style::Plain | Style::ChatMl | Style::Gemma => "",
        })
    }

    /// Whether an answer ends with its line.
    pub fn ends_with_line(&self) -> bool {
        self.style == Style::Plain
    }

    /// Tokens that end an answer.
    pub fn stops(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let named = [IM_END, TURN_END, "<|endoftext|>", "</s>", "<eos>"];
        let special = tokenizer.special();
        let named = named.into_iter().filter_map(|token| tokenizer.token_to_id(token));
        let mut all: Vec<u32> = named.chain(special.eos).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The pieces of a dialogue. One that ends with the user's turn is left open for the answer.
    pub(super) fn parts(&self, dialogue: &Dialogue) -> Result<Vec<Part>, ChatError> {
        let mut parts = Vec::new();
        if dialogue.turns.first().is_some_and(|turn| turn.role == Role::Assistant) {
            return Err(ChatError::Template {
                what: "the dialogue begins with an answer".to_owned(),
                advice: "begin it with a question",
            });
        }
        match self.style {
            Style::Plain => plain(dialogue, &mut parts)?,
            Style::V1 | Style::LlavaV1 => vicuna(dialogue, self.told(dialogue), &mut parts),
            Style::ChatMl => marked(dialogue, self.told(dialogue), &CHATML, &mut parts),
            Style::Gemma => marked(dialogue, self.told(dialogue), &GEMMA, &mut parts),
        }
        Ok(parts)
    }
}

const IM_START: &str = "<|im_start|>";
const IM_END: &str = "<|im_end|>";
const TURN_START: &str = "<start_of_turn>";
const TURN_END: &str = "<end_of_turn>";

/// A style whose turns are between two tokens.
struct Marks {
    start: &'static str,
    end: &'static str,
    assistant: &'static str,
    /// Who tells the model something before; where nobody does, it stands before the first question.
    system: Option<&'static str>,
}

const CHATML: Marks = Marks {
    start: IM_START,
    end: IM_END,
    assistant: "assistant",
    system: Some("system"),
};
const GEMMA: Marks = Marks {
    start: TURN_START,
    end: TURN_END,
    assistant: "model",
    system: None,
};

/// What ChatML's program says in a system turn of its own.
fn told(program: &str) -> Option<String> {
    let opening = ["<|im_start|>system\\n", "<|im_start|>system\n"];
    let mut found = opening.iter().filter_map(|mark| program.split_once(mark));
    let text = found.next()?.1.split_once(IM_END)?.0;
    // a variable of the program is no text
    let plain = !text.contains(['{', '}', '\'', '"', '+']) && !text.trim().is_empty();
    plain.then(|| text.replace("\\n", "\n"))
}

fn plain(dialogue: &Dialogue, parts: &mut Vec<Part>) -> Result<(), ChatError> {
    if dialogue.image {
        parts.push(Part::Image);
    }
    let answers = dialogue.turns.iter().filter(|turn| turn.role == Role::Assistant);
    let mut answers = answers.map(|turn| &turn.text);
    match (answers.next(), answers.next()) {
        (Some(answer), None) => parts.push(Part::Text(format!("{answer}\n"), Some(0))),
        (None, _) => {}
        (Some(_), Some(_)) => {
            return Err(ChatError::Template {
                what: "this model says one thing about a picture and answers no questions".to_owned(),
                advice: "train it further with dialogues (stage tune of recipes/llava.toml), or begin anew with another picture",
            });
        }
    }
    Ok(())
}

fn vicuna(dialogue: &Dialogue, told: &str, parts: &mut Vec<Part>) {
    let mut before = match told {
        "" => String::new(),
        told => format!("{told} "),
    };
    for (i, turn) in dialogue.turns.iter().enumerate() {
        let text = turn.text.trim();
        match turn.role {
            Role::User => {
                before.push_str("USER: ");
                if dialogue.image && i == 0 {
                    parts.push(Part::Text(std::mem::take(&mut before), None));
                    parts.push(Part::Image);
                    before.push('\n');
                }
                before.push_str(text);
                before.push_str(" ASSISTANT:");
            }
            Role::Assistant => {
                let learnt = before.len();
                parts.push(Part::Text(
                    format!("{} {text}", std::mem::take(&mut before)),
                    Some(learnt),
                ));
                parts.push(Part::End);
            }
        }
    }
    if !before.is_empty() {
        parts.push(Part::Text(before, None));
    }
}

fn marked(dialogue: &Dialogue, told: &str, marks: &Marks, parts: &mut Vec<Part>) {
    let text = |text: String| Part::Text(text, None);
    let mut before_question = String::new();
    match (told, marks.system) {
        ("", _) => {}
        (told, Some(system)) => parts.extend([
            Part::Token(marks.start, false),
            text(format!("{system}\n{told}")),
            Part::Token(marks.end, false),
            text("\n".to_owned()),
        ]),
        (told, None) => before_question = format!("{told}\n\n"),
    }
    for (i, turn) in dialogue.turns.iter().enumerate() {
        parts.push(Part::Token(marks.start, false));
        let said = turn.text.trim();
        match turn.role {
            Role::User => {
                let before = std::mem::take(&mut before_question);
                if dialogue.image && i == 0 {
                    parts.extend([text(format!("user\n{before}")), Part::Image, text(format!("\n{said}"))]);
                } else {
                    parts.push(text(format!("user\n{before}{said}")));
                }
                parts.push(Part::Token(marks.end, false));
            }
            Role::Assistant => {
                let name = format!("{}\n", marks.assistant);
                let learnt = name.len();
                parts.extend([Part::Text(name + said, Some(learnt)), Part::Token(marks.end, true)]);
            }
        }
        parts.push(text("\n".to_owned()));
    }
    if dialogue.turns.last().is_some_and(|turn| turn.role == Role::User) {
        parts.extend([Part::Token(marks.start, false), text(format!("{}\n", marks.assistant))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_tells_is_found_and_its_variables_are_not() {
        let smol = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are kind.<|im_end|>\\n' }}{% endif %}";
        assert_eq!(told(smol).as_deref(), Some("You are kind."));
        let qwen = "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}";
        assert_eq!(told(qwen), None);
        assert_eq!(told("nothing"), None);
    }
}
