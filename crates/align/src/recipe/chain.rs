//! Recipes of several tasks that are learnt one after another.
//!
//! `continual.tasks` names them in order; `[task.NAME]` says what one of them does otherwise than the rest of the recipe, its data above all.
//! Each task is a recipe of its own.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{Recipe, RecipeError, layers};

/// `[continual]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContinualSpec {
    /// What is learnt, in this order; each has a `[task.NAME]`.
    pub tasks: Vec<String>,
    /// Tasks whose held-out pictures are looked for after each; empty: those that are learnt.
    pub tests: Vec<String>,
    /// Benchmarks of no task, as `bifocal eval` takes them (`zero-shot=FOLDER`): what the model could do before and may forget.
    pub keeps: Vec<String>,
    /// Of each former task's training pictures so many (below 1: this share) are learnt again with every later task; 0: none.
    pub replay: f64,
}

/// A task and the recipe that it is trained by.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name in the recipe.
    pub name: String,
    /// Starts from what `vision` and `text` of the whole recipe name, until somebody puts the bundle of the task before there.
    pub recipe: Recipe,
}

/// A recipe of several tasks.
#[derive(Clone, Debug)]
pub struct Chain {
    /// In order.
    pub tasks: Vec<Task>,
    /// Whose held-out pictures are looked for.
    pub tests: Vec<Task>,
    /// Benchmarks of no task.
    pub keeps: Vec<String>,
    /// What all this was read from, profile and changes included: a recipe itself.
    pub source: String,
}

impl Chain {
    /// Reads a recipe as [`Recipe::load`] does; `None` when it is not one of several tasks.
    ///
    /// # Errors
    /// As [`Recipe::load`], for each task; a task without a table.
    pub fn load(path: &Path, profile: Option<&str>, sets: &[String]) -> Result<Option<Self>, RecipeError> {
        Self::parse(&layers::file(path)?, path, profile, sets)
    }

    /// As [`Chain::load`], from text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Chain::load`].
    pub fn parse(text: &str, path: &Path, profile: Option<&str>, sets: &[String]) -> Result<Option<Self>, RecipeError> {
        let mut table = layers::laid(text, path, profile, sets)?;
        let source = table.to_string();
        let spec = table.remove("continual").unwrap_or(Value::Table(Table::new()));
        let spec = ContinualSpec::deserialize(spec).map_err(|error| layers::unlike(path, error.message()))?;
        let Some(Value::Table(overlays)) = table.remove("task").filter(|_| !spec.tasks.is_empty()) else {
            let value = |message: &str| RecipeError::Value {
                key: "continual.tasks",
                message: message.to_owned(),
            };
            return match spec.tasks.first() {
                None if spec == ContinualSpec::default() => Ok(None),
                None => Err(value("there are none; name what is learnt, in order")),
                Some(first) => Err(value(&format!("there is no [task.{first}]"))),
            };
        };
        let task = |name: &String| {
            let known = || overlays.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let overlay = overlays
                .get(name)
                .and_then(Value::as_table)
                .ok_or_else(|| RecipeError::Value {
                    key: "continual.tasks",
                    message: format!("there is no [task.{name}]; there are: {}", known()),
                })?;
            let mut table = table.clone();
            layers::merge(&mut table, overlay.clone());
            let recipe = layers::whole(table, path)?;
            recipe.check()?;
            Ok(Task {
                name: name.clone(),
                recipe,
            })
        };
        let all = |names: &[String]| names.iter().map(task).collect::<Result<Vec<_>, RecipeError>>();
        let mut tasks = all(&spec.tasks)?;
        check_names(&tasks)?;
        let tests = match spec.tests.is_empty() {
            true => tasks.clone(),
            false => all(&spec.tests)?,
        };
        check_names(&tests)?;
        replay(&mut tasks, spec.replay)?;
        Ok(Some(Self {
            tasks,
            tests,
            keeps: spec.keeps,
            source,
        }))
    }
}

/// Names become folders.
fn check_names(tasks: &[Task]) -> Result<(), RecipeError> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    for (i, task) in tasks.iter().enumerate() {
        let name = &task.name;
        let twice = tasks[..i].iter().any(|before| before.name == *name);
        if twice || name.is_empty() || !name.chars().all(fits) {
            return Err(RecipeError::Value {
                key: "continual.tasks",
                message: format!("{name:?} names no folder of its own: use letters, digits, - and _, each name once"),
            });
        }
    }
    Ok(())
}

/// Adds to each task some of what the tasks before it are learnt from.
fn replay(tasks: &mut [Task], share: f64) -> Result<(), RecipeError> {
    if !(0.0..=1e9).contains(&share) {
        return Err(RecipeError::Value {
            key: "continual.replay",
            message: format!("{share} is neither a share nor a number of pictures"),
        });
    }
    if share == 0.0 {
        return Ok(());
    }
    let mut former = Vec::new();
    for task in tasks {
        let own = &mut task.recipe.data.sources;
        let kept: Vec<_> = own.clone();
        own.extend(former.iter().cloned());
        former.extend(kept.into_iter().map(|mut source| {
            source.take = share;
            source
        }));
    }
    Ok(())
}
