//! Benchmarks in their official layouts: folders and files as their authors publish them become one of four shapes.
//!
//! No model, no metric and no picture is touched here. What a number means depends on which pictures, which captions, which class names and
//! which prompts were used, so each benchmark carries a sentence that says so ([`Benchmark::protocol`]) and that goes beside its numbers.
//! A data set that is incomplete is an error that says what is missing, unless [`Options::partial`] asks for what is there.

mod aro;
mod cifar;
mod context;
mod error;
mod imagenet;
mod karpathy;
mod languages;
mod lists;
mod long;
mod mat;
mod matlab;
mod names;
mod objectnet;
mod own;
mod pairs;
mod suites;
mod texts;

use std::path::{Path, PathBuf};

pub use error::BenchmarkError;
pub use suites::{Kind, Suite, list, suite};

use bifocal_data::source::{ImageSource, Skipped};

/// A data set that is ready to be evaluated on.
#[derive(Debug, Clone, PartialEq)]
pub struct Benchmark {
    /// Name of the suite, as in [`list`].
    pub name: String,
    /// One or two sentences for beside each number: which part of the data, how many captions, which names, what counts as right.
    pub protocol: String,
    /// What is asked.
    pub task: Task,
    /// Rows and files that could not be used; only with [`Options::partial`] or in folders of the user's own.
    pub skipped: Vec<Skipped>,
}

/// What is asked of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Pictures are named.
    Classification(Classification),
    /// Captions find pictures and pictures captions.
    Retrieval(Retrieval),
    /// A picture's own text against others that are close to it.
    Composition(Composition),
    /// Texts alone.
    Texts(TextTask),
}

/// Pictures with one class each.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// The test pictures.
    pub images: Vec<ImageSource>,
    /// The class of each, below [`classes`](Self::classes).
    pub labels: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
    /// Names and templates, one entry for each language that was asked for; at least one.
    pub prompts: Vec<Prompts>,
    /// Which of the accuracies the literature gives for this set.
    pub headline: Accuracy,
    /// The training pictures and their classes, for a linear probe and nearest neighbours, where the set has them and [`Options::train`] asks for them.
    pub train: Option<(Vec<ImageSource>, Vec<usize>)>,
}

/// What the classes are called in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompts {
    /// Language code, for example `en`.
    pub language: String,
    /// The classes that have a name, ascending. Where some have none (Babel-ImageNet), pictures of the others are left out and the choice is
    /// among these alone.
    pub classes: Vec<usize>,
    /// The name of each of them.
    pub names: Vec<String>,
    /// Sentences for the names.
    pub templates: Templates,
}

/// Sentences that names are put into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Templates {
    /// A named set of `bifocal_eval::TemplateSet`.
    Named(&'static str),
    /// Sentences that came with the data, with `{c}` or `{}` in the place of the name.
    Given {
        /// What a report calls them.
        name: String,
        /// At least one.
        texts: Vec<String>,
    },
}

/// An accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accuracy {
    /// The fraction of pictures whose first class is right.
    Top1,
    /// That fraction for each class, averaged over the classes.
    MeanPerClass,
}

/// Pictures and their captions.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieval {
    /// The pictures.
    pub images: Vec<ImageSource>,
    /// The captions, one entry for each language.
    pub languages: Vec<Captions>,
}

/// The captions of a language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captions {
    /// Language code.
    pub language: String,
    /// Each caption and the index of the picture that it describes, in the order of the pictures.
    pub captions: Vec<(String, usize)>,
}

/// Pictures and texts that differ in little.
#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    /// The pictures.
    pub images: Vec<ImageSource>,
    /// Items by category, in the official order.
    pub groups: Vec<Group>,
}

/// Items that get one score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What it is called, for example `swap_obj`.
    pub name: String,
    /// The larger group whose score is the mean of its members', if there is one: `swap`.
    pub part_of: Option<String>,
    /// What counts as right.
    pub rule: Rule,
    /// The items.
    pub items: Vec<Item>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Indices of its pictures: two for [`Rule::Winoground`] and [`Rule::Mmvp`], else one.
    pub images: Vec<usize>,
    /// Its texts. The right one is the first; for pairs, text k belongs to picture k.
    pub texts: Vec<String>,
}

/// What counts as right; s(i, t) is the score of picture i with text t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// SugarCrepe, and ARO's relations and attributes: the first text scores **strictly** higher than all others; chance 1/number of texts.
    Strict,
    /// ARO's orders: no other text scores higher than the first (argmax, where the first of equals wins); chance 1/number of texts.
    FirstOfEqual,
    /// Winoground: text score s(0,0) > s(0,1) and s(1,1) > s(1,0); picture score s(0,0) > s(1,0) and s(1,1) > s(0,1); group score both; all
    /// strictly. Chance 1/4, 1/4, 1/6.
    Winoground,
    /// MMVP-VLM: text 0 is right when s(0,0) > s(1,0), text 1 when s(0,1) <= s(1,1) (the reference predicts the first picture when its
    /// probability is above one half and the second otherwise); a pair counts when both are right. Chance 1/4.
    Mmvp,
}

/// Questions without pictures.
#[derive(Debug, Clone, PartialEq)]
pub enum TextTask {
    /// Sentences that mean the same find each other.
    CaptionPairs(Vec<CaptionPairs>),
    /// Pairs of sentences and how similar people find them, in order; a higher score is more similar. Judged by rank correlation.
    Similarity(Vec<(String, String, f64)>),
}

/// Row k of one side belongs to row k of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptionPairs {
    /// What is paired: `en`, or `en-de` when the sides are different languages.
    pub name: String,
    /// The queries.
    pub queries: Vec<String>,
    /// What is searched.
    pub candidates: Vec<String>,
}

/// What to read of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Languages of class names or captions; none: English for class names, all that there are for captions.
    pub languages: Vec<String>,
    /// At most so many captions for each picture, the first ones. None: as the suite's protocol says.
    pub captions: Option<usize>,
    /// Whether the training pictures are wanted too, for a linear probe and nearest neighbours.
    pub train: bool,
    /// Whether a set may be incomplete. The protocol then says how much of it there is.
    pub partial: bool,
    /// Folder with class names and templates of CLIP_benchmark (`<lang>_classnames.json`, `babel_imagenet.json`,
    /// `nllb_dist13b_prompts.json`); needed for Babel-ImageNet only.
    pub class_names: Option<PathBuf>,
}

/// Opens a benchmark. No picture is read.
///
/// # Errors
/// [`BenchmarkError`]: an unknown name, or a folder in which something is missing or cannot be understood. It says what, where, and how the
/// folder should look.
pub fn open(name: &str, root: &Path, options: &Options) -> Result<Benchmark, BenchmarkError> {
    let suite = suite(name).ok_or_else(|| BenchmarkError::UnknownSuite { name: name.to_owned() })?;
    suite.open(root, options)
}
