//! What can be wrong with a recipe.

use std::path::PathBuf;

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("recipe {path}: {source}", path = path.display())]
    Read {
        /// The recipe.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The text is not TOML, or a key or value in it does not fit.
    #[error("{path}:{line}: {message}", path = path.display())]
    Parse {
        /// The recipe.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// A `--set` does not fit.
    #[error("--set {set}: {message}")]
    Set {
        /// As given.
        set: String,
        /// What is wrong.
        message: String,
    },
    /// The profile is not in the file.
    #[error("{path} has no profile {name:?}; it has: {known}", path = path.display())]
    Profile {
        /// The recipe.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// Which there are.
        known: String,
    },
    /// No such method.
    #[error("method {name:?} is not known; methods are: {known}")]
    Method {
        /// What the recipe says.
        name: String,
        /// Which there are.
        known: String,
    },
    /// A value is out of range or contradicts another.
    #[error("recipe: {key}: {message}")]
    Value {
        /// Dotted key.
        key: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
}
