//! What each benchmark asks with, as LLaVA 1.5's evaluation does. The picture comes before the text.

/// The instruction for short answers.
pub const SHORT: &str = "Answer the question using a single word or phrase.";
/// The instruction in MME's own questions.
pub const YES_OR_NO: &str = "Please answer yes or no.";
/// The instruction for one of several options.
pub const LETTER: &str = "Answer with the option's letter from the given choices directly.";
/// The same in Chinese.
pub const LETTER_CN: &str = "请直接回答选项字母。";
/// What captions are asked for with.
pub const CAPTION: &str = "Provide a one-sentence caption for the provided image.";

/// The language of MMBench's instruction; the questions of MMBench-CN are Chinese as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `mmbench`.
    English,
    /// `mmbench-cn`.
    Chinese,
}

/// VQAv2, GQA, POPE: the question and the instruction for short answers.
#[must_use]
pub fn short(question: &str) -> String {
    format!("{question}\n{SHORT}")
}

/// TextVQA: with what a reader of text found in the picture, which LLaVA gives its models; no list without such words.
#[must_use]
pub fn text_vqa(question: &str, found: &[&str]) -> String {
    if found.is_empty() {
        return short(question);
    }
    format!("{question}\nReference OCR token: {}\n{SHORT}", found.join(", "))
}

/// MME: the question without its own instruction, and the one for short answers.
#[must_use]
pub fn mme(question: &str) -> String {
    short(question.replace(YES_OR_NO, "").trim())
}

/// MMBench: hint, question, options with letters, instruction. `round` rotates the options: the first one shown is number `round`.
#[must_use]
pub fn mmbench(hint: Option<&str>, question: &str, options: &[&str], round: usize, language: Language) -> String {
    let mut text = hint.map(|hint| format!("{hint}\n")).unwrap_or_default();
    text.push_str(question);
    let rotated = options
        .iter()
        .cycle()
        .skip(round % options.len().max(1))
        .take(options.len());
    lettered(rotated.copied(), &mut text);
    text.push('\n');
    text.push_str(match language {
        Language::English => LETTER,
        Language::Chinese => LETTER_CN,
    });
    text
}

/// ScienceQA: context where there is one, question, options with letters, instruction.
#[must_use]
pub fn science(hint: &str, question: &str, options: &[&str]) -> String {
    let mut text = if hint.is_empty() {
        String::new()
    } else {
        format!("Context: {hint}\n")
    };
    text.push_str(question);
    lettered(options.iter().copied(), &mut text);
    format!("{text}\n{LETTER}")
}

fn lettered<'a>(options: impl Iterator<Item = &'a str>, text: &mut String) {
    for (letter, option) in ('A'..='Z').zip(options) {
        text.push_str(&format!("\n{letter}. {option}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_rotate_the_options_and_not_the_letters() {
        let options = ["cat", "dog", "bird"];
        let expected = "look\nwhat?\nA. bird\nB. cat\nC. dog\n请直接回答选项字母。";
        assert_eq!(mmbench(Some("look"), "what?", &options, 2, Language::Chinese), expected);
        assert_eq!(
            mmbench(None, "what?", &[], 1, Language::English),
            format!("what?\n{LETTER}")
        );
    }

    #[test]
    fn instructions_replace_each_other() {
        assert_eq!(mme("Is it? Please answer yes or no."), format!("Is it?\n{SHORT}"));
        assert_eq!(
            text_vqa("what?", &["A", "b"]),
            format!("what?\nReference OCR token: A, b\n{SHORT}")
        );
        assert_eq!(science("", "which?", &["x"]), format!("which?\nA. x\n{LETTER}"));
    }
}
