//! VQAv2 (Goyal et al. 2017) and TextVQA (Singh et al. 2019): ten people answered each question.
//!
//! An answer's score is the mean over the ten ways to leave one person out of min(1, n / 3), n being how many of the other nine gave this answer. The two differ in
//! what is done to answers before they are compared ([`normalise`]), and VQAv2 does it only where the ten do not all agree.

use serde::Deserialize;

use super::error::AnswersError;
use super::join::{join, key};
use super::normalise;
use super::read::{Answer, Id, Source};
use super::report::{Report, Unit, groups, mean};

const VQAV2_RULE: &str = "mean over the leave-one-out sets of min(1, same answers / 3); \"accuracy\": answers normalised as LLaVA submits them; \"as given\": handed to VQA's evaluation as they are";
const VQAV2: &str = r#"the annotations as in v2_mscoco_val2014_annotations.json, like {"annotations": [{"question_id": 1, "question_type": "is the", "answer_type": "yes/no", "answers": [{"answer": "yes", "answer_id": 1}]}]}"#;
const TEXTVQA_RULE: &str = "mean over the leave-one-out sets of min(1, same answers / 3), both sides normalised";
const TEXTVQA: &str = r#"the annotations as in TextVQA_0.5.1_val.json, like {"data": [{"question_id": 34602, "image_id": "003a8ae2ef43b901", "question": "what is it?", "answers": ["nokia"]}]}"#;

#[derive(Deserialize)]
struct Annotations {
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: Id,
    #[serde(default)]
    question_type: String,
    #[serde(default)]
    answer_type: String,
    answers: Vec<Person>,
}

#[derive(Deserialize)]
struct Person {
    answer: String,
}

#[derive(Deserialize)]
struct Data {
    data: Vec<TextQuestion>,
}

#[derive(Deserialize)]
struct TextQuestion {
    question_id: Id,
    image_id: Id,
    question: String,
    #[serde(default)]
    answers: Vec<String>,
}

/// The mean over all ways to leave one person out of min(1, n / 3).
#[must_use]
pub fn soft(answer: &str, people: &[String]) -> f64 {
    let same = people.iter().filter(|&other| other == answer).count();
    let of = |left_out: &String| {
        let n = same - usize::from(left_out == answer);
        (n as f64 / 3.0).min(1.0)
    };
    mean(&people.iter().map(of).collect::<Vec<_>>()).unwrap_or(0.0)
}

/// VQAv2's score of one answer.
#[must_use]
pub fn vqav2_answer(answer: &str, people: &[String]) -> f64 {
    let mut people: Vec<String> = people.iter().map(|p| normalise::stripped(p)).collect();
    let mut answer = normalise::stripped(answer);
    if people.windows(2).any(|pair| pair[0] != pair[1]) {
        people.iter_mut().for_each(|p| *p = normalise::vqa(p));
        answer = normalise::vqa(&answer);
    }
    soft(&answer, &people)
}

/// TextVQA's score of one answer.
#[must_use]
pub fn textvqa_answer(answer: &str, people: &[String]) -> f64 {
    let people: Vec<String> = people.iter().map(|p| normalise::eval_ai(p)).collect();
    soft(&normalise::eval_ai(answer), &people)
}

/// Scores answers to VQAv2; `questions`: the file of annotations.
///
/// # Errors
/// Files that look otherwise, questions without human answers.
pub fn score_vqav2(questions: &[Source], answers: &[Answer]) -> Result<Report, AnswersError> {
    let mut asked = Vec::new();
    for source in questions {
        let file: Annotations = source.json(VQAV2)?;
        for question in file.annotations {
            if question.answers.is_empty() {
                return Err(source.wrong(
                    None,
                    format!("nobody answered question {:?}", question.question_id.0),
                    VQAV2,
                ));
            }
            asked.push((source.name, question));
        }
    }
    if asked.is_empty() {
        let first = questions.first().copied().unwrap_or(Source::new("the questions", ""));
        return Err(first.wrong(None, "it holds no annotations", VQAV2));
    }
    let joined = join(
        asked.iter().map(|(file, q)| (q.question_id.0.clone(), *file)),
        answers.iter().map(|a| (a.id.clone(), a.text.as_str())),
    )?;
    let judge = |(_, q): &(&str, Annotation), text: &Option<&str>| {
        let people: Vec<String> = q.answers.iter().map(|p| p.answer.clone()).collect();
        match text {
            Some(text) => (
                vqav2_answer(&normalise::eval_ai(text), &people),
                vqav2_answer(text, &people),
            ),
            None => (0.0, 0.0),
        }
    };
    let (normal, given): (Vec<f64>, Vec<f64>) = asked.iter().zip(&joined.texts).map(|(q, text)| judge(q, text)).unzip();
    let mut report = Report::new(
        "vqav2",
        VQAV2_RULE,
        joined.counts,
        Unit::Fraction,
        &["accuracy", "as given"],
    );
    report.push("all", asked.len(), vec![mean(&normal), mean(&given)]);
    for (what, name) in [("answers: ", 0), ("questions: ", 1)] {
        let names = || {
            asked.iter().map(|(_, q)| {
                if name == 0 {
                    q.answer_type.as_str()
                } else {
                    q.question_type.as_str()
                }
            })
        };
        let mut parts: Vec<_> = groups(names().zip(normal.iter().copied()))
            .into_iter()
            .zip(groups(names().zip(given.iter().copied())))
            .filter(|((name, _), _)| !name.is_empty())
            .collect();
        parts.sort_unstable_by(|a, b| a.0.0.cmp(b.0.0));
        for ((name, normal), (_, given)) in parts {
            report.push(format!("{what}{name}"), normal.len(), vec![mean(&normal), mean(&given)]);
        }
    }
    Ok(report)
}

/// Scores answers to TextVQA; `questions`: the file of annotations. Answers are found by `question_id`, or, as LLaVA writes them, by the picture's id and the
/// question in the prompt.
///
/// # Errors
/// Files that look otherwise, questions without human answers (the test split has none).
pub fn score_textvqa(questions: &[Source], answers: &[Answer]) -> Result<Report, AnswersError> {
    let mut asked = Vec::new();
    for source in questions {
        let file: Data = source.json(TEXTVQA)?;
        for question in file.data {
            if question.answers.is_empty() {
                return Err(source.wrong(
                    None,
                    format!("nobody answered question {:?}", question.question_id.0),
                    TEXTVQA,
                ));
            }
            asked.push((source.name, question));
        }
    }
    if asked.is_empty() {
        let first = questions.first().copied().unwrap_or(Source::new("the questions", ""));
        return Err(first.wrong(None, "it holds no questions", TEXTVQA));
    }
    let numbers: std::collections::HashSet<&str> = asked.iter().map(|(_, q)| q.question_id.0.as_str()).collect();
    let by_number = answers.iter().any(|a| numbers.contains(a.id.as_str()));
    let of_question = |q: &TextQuestion| {
        if by_number {
            q.question_id.0.clone()
        } else {
            key(&[&q.image_id.0, &q.question.to_lowercase()])
        }
    };
    let of_answer = |a: &Answer| match (&a.prompt, by_number) {
        (Some(prompt), false) => key(&[&a.id, &question_in(prompt)]),
        _ => a.id.clone(),
    };
    let joined = join(
        asked.iter().map(|(file, q)| (of_question(q), *file)),
        answers.iter().map(|a| (of_answer(a), a.text.as_str())),
    )?;
    let scores: Vec<f64> = asked
        .iter()
        .zip(&joined.texts)
        .map(|((_, q), text)| text.map_or(0.0, |text| textvqa_answer(text, &q.answers)))
        .collect();
    let mut report = Report::new("textvqa", TEXTVQA_RULE, joined.counts, Unit::Fraction, &["accuracy"]);
    report.push("all", scores.len(), vec![mean(&scores)]);
    Ok(report)
}

/// The question that a prompt asks, in lower case: its first line, or the second where the first one lists what was read in the picture.
fn question_in(prompt: &str) -> String {
    if let Some((_, rest)) = prompt
        .strip_prefix("OCR tokens: ")
        .and_then(|p| p.split_once("Question: "))
    {
        return rest
            .split_once(" Short answer:")
            .map_or(rest, |(question, _)| question)
            .to_lowercase();
    }
    let mut lines = prompt.split('\n');
    let first = lines.next().unwrap_or("");
    let first = if first.starts_with("Reference OCR token:") {
        lines.next().unwrap_or("")
    } else {
        first
    };
    first.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn people(groups: &[(&str, usize)]) -> Vec<String> {
        groups
            .iter()
            .flat_map(|&(answer, n)| vec![answer.to_owned(); n])
            .collect()
    }

    #[test]
    fn one_of_ten_is_left_out_in_turn() {
        // three of ten: seven sets hold all three of them, three sets two
        assert!((soft("a", &people(&[("a", 3), ("b", 7)])) - (7.0 + 3.0 * 2.0 / 3.0) / 10.0).abs() < 1e-15);
        assert_eq!(soft("a", &people(&[("a", 4), ("b", 6)])), 1.0);
        assert_eq!(soft("c", &people(&[("a", 4), ("b", 6)])), 0.0);
    }

    #[test]
    fn where_all_agree_vqav2_does_not_normalise() {
        assert_eq!(vqav2_answer("Yes", &people(&[("yes", 10)])), 0.0);
        assert_eq!(vqav2_answer("Yes", &people(&[("yes", 9), ("no", 1)])), 1.0);
        assert_eq!(textvqa_answer("The Yes!", &people(&[("yes", 10)])), 1.0);
    }

    #[test]
    fn prompts_give_their_question() {
        for prompt in [
            "What IS it?\nReference OCR token: A, b\nAnswer.",
            "Reference OCR token: A\nWhat is it?\nAnswer.",
            "what is it?\nAnswer.",
        ] {
            assert_eq!(question_in(prompt), "what is it?");
        }
        assert_eq!(
            question_in("OCR tokens: x y. Question: What is it? Short answer:"),
            "what is it?"
        );
    }
}
