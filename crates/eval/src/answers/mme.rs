//! MME (Fu et al. 2023): two yes/no questions about each picture, in 14 tasks.
//!
//! acc is the share of questions that are right, acc+ the share of pictures with both right, each in percent; a task's score is their sum (200 at most),
//! perception the sum of ten tasks, cognition of four. An answer is *yes* if its first four characters hold `yes` in any case, else *no* if they hold `no`, else
//! neither, which is wrong.

use super::error::AnswersError;
use super::join::{join, key};
use super::prompts;
use super::read::{Answer, Source};
use super::report::{Report, Unit};

const RULE: &str = "acc: questions right, acc+: pictures with both right, in percent; score: their sum";
const EXPECTED: &str = "a file for each task, named as existence.txt, with two lines for each picture: its name, the question and Yes or No, separated by tabs, as in Your_Results of the official eval_tool";

/// The tasks of perception.
pub const PERCEPTION: [&str; 10] = [
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
];
/// The tasks of cognition.
pub const COGNITION: [&str; 4] = [
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
];

struct Question<'a> {
    file: &'a str,
    task: &'static str,
    picture: &'a str,
    key: String,
    yes: bool,
}

/// What an answer says, if it says one of both.
#[must_use]
pub fn says_yes(answer: &str) -> Option<bool> {
    let start: String = answer.to_lowercase().chars().take(4).collect();
    if start.contains("yes") {
        Some(true)
    } else {
        start.contains("no").then_some(false)
    }
}

/// Scores answers. `questions`: a file for each task; the sums are over the tasks that are there. Answers have the id `task/picture` and the prompt, which tells
/// the two questions of a picture apart.
///
/// # Errors
/// Files of other tasks, lines that look otherwise, pictures without exactly two questions, answers without a prompt.
pub fn score(questions: &[Source], answers: &[Answer]) -> Result<Report, AnswersError> {
    let mut asked = Vec::new();
    for source in questions {
        read(source, &mut asked)?;
    }
    let keys = asked.iter().map(|q| (q.key.clone(), q.file));
    let mut prompted = Vec::with_capacity(answers.len());
    for answer in answers {
        let prompt = answer.prompt.as_deref().ok_or_else(|| AnswersError::File {
            file: "the answers".to_owned(),
            line: None,
            why: format!("the answer for {:?} has no prompt, so that it could be for either question", answer.id),
            expected: r#"answers like {"question_id": "existence/000000006040.jpg", "prompt": "Is there a cat in the image?", "text": "Yes"}"#,
        })?;
        let (task, picture) = answer.id.split_once('/').unwrap_or(("", &answer.id));
        prompted.push((question_key(task, picture, prompt), answer.text.as_str()));
    }
    let joined = join(keys, prompted.into_iter())?;
    let right: Vec<bool> = asked
        .iter()
        .zip(&joined.texts)
        .map(|(q, text)| text.and_then(says_yes) == Some(q.yes))
        .collect();
    let mut tasks = Vec::new();
    for task in PERCEPTION.iter().chain(&COGNITION) {
        let of_task: Vec<bool> = asked
            .iter()
            .zip(&right)
            .filter(|(q, _)| q.task == *task)
            .map(|(_, &right)| right)
            .collect();
        if of_task.is_empty() {
            continue;
        }
        let one = of_task.iter().filter(|right| **right).count();
        let both = of_task.chunks(2).filter(|pair| pair.iter().all(|right| *right)).count();
        let acc = one as f64 / of_task.len() as f64 * 100.0;
        let plus = both as f64 / (of_task.len() / 2) as f64 * 100.0;
        tasks.push((*task, of_task.len(), acc, plus));
    }
    let mut report = Report::new("mme", RULE, joined.counts, Unit::Points, &["acc", "acc+", "score"]);
    for (name, list) in [("perception", &PERCEPTION[..]), ("cognition", &COGNITION[..])] {
        let mut there = tasks.iter().filter(|(task, ..)| list.contains(task)).peekable();
        if there.peek().is_some() {
            let (items, count, sum) = there.fold((0, 0, 0.0), |(items, count, sum), t| {
                (items + t.1, count + 1, sum + (t.2 + t.3))
            });
            let name = if count == list.len() {
                name.to_owned()
            } else {
                format!("{name} ({count} of {} tasks)", list.len())
            };
            report.push(name, items, vec![None, None, Some(sum)]);
        }
    }
    for (task, items, acc, plus) in tasks {
        report.push(task, items, vec![Some(acc), Some(plus), Some(acc + plus)]);
    }
    Ok(report)
}

fn read<'a>(source: &Source<'a>, asked: &mut Vec<Question<'a>>) -> Result<(), AnswersError> {
    let mut tasks = PERCEPTION.iter().chain(&COGNITION);
    let task = *tasks
        .find(|task| task.eq_ignore_ascii_case(source.stem()))
        .ok_or_else(|| source.wrong(None, "its name is not a task of MME", EXPECTED))?;
    let begins = asked.len();
    for (at, line) in source
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let wrong = |why: String| source.wrong(Some(at + 1), why, EXPECTED);
        let fields: Vec<&str> = line.split('\t').collect();
        let [picture, question, truth] = fields[..] else {
            return Err(wrong(format!("{} fields", fields.len())));
        };
        let yes = match truth.trim().to_lowercase().as_str() {
            "yes" => true,
            "no" => false,
            _ => return Err(wrong(format!("the answer is {truth:?}"))),
        };
        if (asked.len() - begins) % 2 == 1 && asked.last().is_some_and(|q: &Question| q.picture != picture) {
            return Err(wrong("a picture before this line has one question, not two".to_owned()));
        }
        asked.push(Question {
            file: source.name,
            task,
            picture,
            key: question_key(task, picture, question),
            yes,
        });
    }
    match (asked.len() - begins) % 2 {
        0 if asked.len() > begins => Ok(()),
        0 => Err(source.wrong(None, "it holds no questions", EXPECTED)),
        _ => Err(source.wrong(None, "its last picture has one question, not two", EXPECTED)),
    }
}

/// What finds a question whatever a prompt puts around it: the instructions of MME and of LLaVA are left out, and how many blanks there are. Names of pictures
/// are compared without their ending, and without folders between task and name.
fn question_key(task: &str, picture: &str, question: &str) -> String {
    let bare = question.replace(prompts::SHORT, "").replace(prompts::YES_OR_NO, "");
    let words: Vec<&str> = bare.split_whitespace().collect();
    let name = picture.rsplit('/').next().unwrap_or(picture);
    let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    key(&[task, name, &words.join(" ")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_characters_decide() {
        assert_eq!(says_yes("Yes, it is"), Some(true));
        assert_eq!(says_yes(" YES"), Some(true));
        assert_eq!(says_yes("No."), Some(false));
        // inside of a word, and too late
        assert_eq!(says_yes("not sure"), Some(false));
        assert_eq!(says_yes("knot"), Some(false));
        assert_eq!(says_yes("The answer is yes"), None);
        assert_eq!(says_yes("  yes"), None);
    }

    #[test]
    fn prompts_find_their_question() {
        let official = question_key("count", "images/a.jpg", "Is it one? Please answer yes or no.");
        assert_eq!(
            official,
            question_key(
                "count",
                "a.png",
                "Is it  one?\nAnswer the question using a single word or phrase."
            )
        );
        assert_ne!(official, question_key("count", "a.jpg", "Is it two?"));
    }
}
