//! GQA (Hudson and Manning 2019): exact match on the balanced questions.
//!
//! Answers are put in lower case and freed of periods at their end, as LLaVA hands them to the official evaluation, which compares without further ado.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::AnswersError;
use super::join::join;
use super::read::{Answer, Source};
use super::report::{Report, Unit, groups, mean};

const RULE: &str = "exact match in lower case, without periods at the end; balanced questions only";
const EXPECTED: &str = r#"an object of questions as in testdev_balanced_questions.json, like {"05515938": {"question": "What is it?", "answer": "dog", "isBalanced": true, "types": {"structural": "query", "semantic": "obj"}}}"#;

#[derive(Deserialize)]
struct Question {
    answer: String,
    #[serde(rename = "isBalanced", default = "yes")]
    balanced: bool,
    types: Types,
}

#[derive(Deserialize)]
struct Types {
    structural: String,
    semantic: String,
}

fn yes() -> bool {
    true
}

/// Whether an answer is the right one.
#[must_use]
pub fn right(answer: &str, truth: &str) -> bool {
    answer.trim_end_matches('.').to_lowercase() == truth
}

/// Scores answers; `questions`: `testdev_balanced_questions.json` or another split's.
///
/// # Errors
/// Files that look otherwise.
pub fn score(questions: &[Source], answers: &[Answer]) -> Result<Report, AnswersError> {
    let mut asked = Vec::new();
    for source in questions {
        let file: BTreeMap<String, Question> = source.json(EXPECTED)?;
        asked.extend(
            file.into_iter()
                .filter(|(_, q)| q.balanced)
                .map(|(id, q)| (id, q, source.name)),
        );
    }
    if asked.is_empty() {
        let first = questions.first().copied().unwrap_or(Source::new("the questions", ""));
        return Err(first.wrong(None, "it holds no balanced questions", EXPECTED));
    }
    let joined = join(
        asked.iter().map(|(id, _, file)| (id.clone(), *file)),
        answers.iter().map(|a| (a.id.clone(), a.text.as_str())),
    )?;
    let scores: Vec<f64> = asked
        .iter()
        .zip(&joined.texts)
        .map(|((_, q, _), text)| f64::from(u8::from(text.is_some_and(|t| right(t, &q.answer)))))
        .collect();
    let mut report = Report::new("gqa", RULE, joined.counts, Unit::Fraction, &["accuracy"]);
    report.push("all", scores.len(), vec![mean(&scores)]);
    let kind = |q: &Question| {
        if q.types.structural == "query" {
            "open"
        } else {
            "binary"
        }
    };
    let mut rows = |prefix: &str, name: &dyn Fn(&Question) -> String| {
        let names: Vec<String> = asked.iter().map(|(_, q, _)| name(q)).collect();
        let mut parts = groups(names.iter().map(String::as_str).zip(scores.iter().copied()));
        parts.sort_unstable_by(|a, b| a.0.cmp(b.0));
        for (name, scores) in parts {
            report.push(format!("{prefix}{name}"), scores.len(), vec![mean(&scores)]);
        }
    };
    rows("", &|q| kind(q).to_owned());
    rows("structural: ", &|q| q.types.structural.clone());
    rows("semantic: ", &|q| q.types.semantic.clone());
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::right;

    #[test]
    fn only_periods_at_the_end_and_case_are_forgiven() {
        assert!(right("Dog.", "dog") && right("YES..", "yes"));
        assert!(!right("dog. ", "dog") && !right(" dog", "dog") && !right("a dog", "dog") && !right("", "dog"));
    }
}
