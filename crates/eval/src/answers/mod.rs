//! Answers of vision-language models, judged by the rules of the benchmarks they answer.
//!
//! A file a family: questions in the benchmark's official files, answers as LLaVA's scripts write them. Everything here is a function of texts in memory; which
//! files they come from is the command line's business. `docs/answers.md` says for each benchmark which files it
//! reads, its rule, and what the rule was checked against.
//!
//! Questions without an answer count as wrong, everywhere; the [`Report`] says how many there are. The originals stop at such a file, or score what is left.

mod error;
mod join;
mod read;
mod report;

pub mod bleu;
pub mod captions;
pub mod cider;
pub mod gqa;
pub mod mmbench;
pub mod mme;
pub mod normalise;
pub mod pope;
pub mod prompts;
pub mod ptb;
pub mod science;
pub mod vqa;

pub use error::AnswersError;
pub use read::{Answer, Source, answers};
pub use report::{Column, Counts, Report, Row, Unit};

/// A benchmark that answers can be scored on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Benchmark {
    /// POPE.
    Pope,
    /// GQA.
    Gqa,
    /// VQAv2.
    Vqav2,
    /// TextVQA.
    TextVqa,
    /// MME.
    Mme,
    /// MMBench, English.
    MmBench,
    /// MMBench, Chinese.
    MmBenchCn,
    /// ScienceQA.
    ScienceQa,
    /// COCO, Flickr and other captions.
    Captions,
}

impl Benchmark {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Pope,
        Self::Gqa,
        Self::Vqav2,
        Self::TextVqa,
        Self::Mme,
        Self::MmBench,
        Self::MmBenchCn,
        Self::ScienceQa,
        Self::Captions,
    ];

    /// What it is called on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pope => "pope",
            Self::Gqa => "gqa",
            Self::Vqav2 => "vqav2",
            Self::TextVqa => "textvqa",
            Self::Mme => "mme",
            Self::MmBench => "mmbench",
            Self::MmBenchCn => "mmbench-cn",
            Self::ScienceQa => "scienceqa",
            Self::Captions => "captions",
        }
    }

    /// The benchmark of that name.
    ///
    /// # Errors
    /// An unknown name, with those that are known.
    pub fn named(name: &str) -> Result<Self, AnswersError> {
        Self::ALL
            .into_iter()
            .find(|b| b.name() == name)
            .ok_or_else(|| AnswersError::Unknown {
                name: name.to_owned(),
                known: Self::ALL.map(Self::name).join(", "),
            })
    }
}

/// Scores a file of answers with a benchmark's files of questions.
///
/// # Errors
/// Files that do not look as the benchmark's do, questions that are there twice, answers of which none belongs to a question.
pub fn score(benchmark: Benchmark, questions: &[Source], file: &Source) -> Result<Report, AnswersError> {
    let answers = answers(file)?;
    match benchmark {
        Benchmark::Pope => pope::score(questions, &answers),
        Benchmark::Gqa => gqa::score(questions, &answers),
        Benchmark::Vqav2 => vqa::score_vqav2(questions, &answers),
        Benchmark::TextVqa => vqa::score_textvqa(questions, &answers),
        Benchmark::Mme => mme::score(questions, &answers),
        Benchmark::MmBench | Benchmark::MmBenchCn => mmbench::score(questions, &answers, benchmark.name()),
        Benchmark::ScienceQa => science::score(questions, &answers),
        Benchmark::Captions => captions::score(questions, &answers),
    }
}
