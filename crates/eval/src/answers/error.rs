//! What can be wrong with files of questions and answers.

/// Why answers could not be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswersError {
    /// A file, or a line of it, does not look as it should.
    #[error("{file}{}: {why}; expected {expected}", place(*.line))]
    File {
        /// Its name.
        file: String,
        /// The line, counting from 1, where there is one.
        line: Option<usize>,
        /// What is wrong.
        why: String,
        /// How it should look.
        expected: &'static str,
    },
    /// A question is there twice, so that its answer would count twice.
    #[error(
        "{file}: question {id:?} is there twice; give each question file once, and splits whose numbers overlap one at a time"
    )]
    Twice {
        /// The file that held it the second time.
        file: String,
        /// The question.
        id: String,
    },
    /// No answer belongs to any question.
    #[error(
        "none of the {answers} answers belongs to one of the {questions} questions: answers are for {answer:?}, questions are called {question:?}; \
         are these files of the same benchmark and split?"
    )]
    Strangers {
        /// How many answers.
        answers: usize,
        /// How many questions.
        questions: usize,
        /// What the first answer is for.
        answer: String,
        /// What the first question is called.
        question: String,
    },
    /// No benchmark has that name.
    #[error("no benchmark is called {name:?}; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

fn place(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}
