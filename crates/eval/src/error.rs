//! What can be wrong with the input of an evaluation.

use std::path::PathBuf;

/// Why an evaluation was refused. Nothing is ever scored on input that is in doubt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// There is nothing to evaluate.
    #[error("{what} has no rows: there is nothing to evaluate; check that the data was read")]
    Empty {
        /// Which input.
        what: &'static str,
    },
    /// A matrix does not have the length that its shape asks for.
    #[error(
        "{what} holds {len} numbers, expected {expected} ({shape}); check that both sides come from the same model"
    )]
    Shape {
        /// Which input.
        what: &'static str,
        /// How many numbers it holds.
        len: usize,
        /// How many it should hold.
        expected: usize,
        /// The expected shape in words.
        shape: String,
    },
    /// An embedding holds NaN or an infinity.
    #[error(
        "row {row} of {what} holds a value that is not finite; the model that made it is broken or diverged: embed that input alone to find out"
    )]
    NotFinite {
        /// Which input.
        what: &'static str,
        /// The first such row.
        row: usize,
    },
    /// A row of length zero cannot be normalised.
    #[error(
        "row {row} of {what} has length zero and no direction; the model that made it is broken: embed that input alone to find out"
    )]
    ZeroVector {
        /// Which input.
        what: &'static str,
        /// The first such row.
        row: usize,
    },
    /// An index points outside of what it refers to.
    #[error(
        "{what} {row} refers to number {index}, but there are only {count} (counting from 0); check the list that pairs them"
    )]
    Index {
        /// What holds the index, for example `text`.
        what: &'static str,
        /// Which one of them.
        row: usize,
        /// The index it holds.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A hyper-parameter has no meaning.
    #[error("{what} is {value}: {expected}")]
    Parameter {
        /// Its name.
        what: &'static str,
        /// What was given.
        value: f64,
        /// What would be accepted.
        expected: &'static str,
    },
    /// The normal equations cannot be solved.
    #[error(
        "the ridge system is singular at column {column} with lambda {lambda}: columns depend on each other; give a larger lambda, or let it be chosen"
    )]
    Singular {
        /// The column at which the factorisation stopped.
        column: usize,
        /// The penalty that was not enough.
        lambda: f64,
    },
    /// A prompt template is not usable.
    #[error("template {number} ({text:?}) is not usable: {why}")]
    Template {
        /// Its number, counting from 1.
        number: usize,
        /// Its text, shortened.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A template set of that name is not known and no file of that name exists.
    #[error(
        "no template set is called {name:?} and no such file exists; known sets: {known}; or give a file with one template a line, each with {{}} where the class name goes"
    )]
    UnknownTemplates {
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A template file could not be used as a whole.
    #[error("template file {path}: {why}")]
    TemplateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Checks that `data` is `[rows, dim]` and finite.
pub(crate) fn check_matrix(what: &'static str, data: &[f32], rows: usize, dim: usize) -> Result<(), EvalError> {
    let expected = rows.saturating_mul(dim);
    if data.len() != expected || dim == 0 {
        return Err(EvalError::Shape {
            what,
            len: data.len(),
            expected,
            shape: format!("{rows} rows of {dim}"),
        });
    }
    if let Some(at) = data.iter().position(|v| !v.is_finite()) {
        return Err(EvalError::NotFinite { what, row: at / dim });
    }
    Ok(())
}

/// The number of rows of a matrix whose width is `dim`, checked to be at least one and whole.
pub(crate) fn rows_of(what: &'static str, data: &[f32], dim: usize) -> Result<usize, EvalError> {
    if data.is_empty() {
        return Err(EvalError::Empty { what });
    }
    let rows = data.len().checked_div(dim).unwrap_or(0);
    check_matrix(what, data, rows, dim)?;
    Ok(rows)
}
