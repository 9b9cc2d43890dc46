//! How much each weight matters to a task, as it is handed from run to run (EWC, see [`crate::losses::elastic`]).
//!
//! `importance.safetensors` holds for each parameter that has learnt in some task `importance.NAME` and `center.NAME` (A and c), F32, in the parameter's
//! shape. It is hostile until checked: names and shapes are compared with the towers' before any values are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use bifocal_models::towers::Towers;
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::params::{self, ParamInfo};

use super::checkpoint::tensors;
use super::collective::Ranks;
use super::feed::Feed;
use super::gradient;
use super::setup::Prepared;
use super::{Progress, TrainError};
use crate::losses::Held;
use crate::methods;
use crate::random::{STEP, mix};
use crate::recipe::RecipeError;

/// Name of the file in the folder of a run whose method is `ewc`.
pub const IMPORTANCE_FILE: &str = "importance.safetensors";

const IMPORTANCE: &str = "importance.";
const CENTER: &str = "center.";

/// What a run has measured of one parameter: mean squared gradients, and the weights that it ends with.
pub(super) struct Measured {
    shape: Vec<usize>,
    importance: Vec<f32>,
    at: Vec<f32>,
}

/// Mean over batches of the squared gradients of the task's own loss at the finished weights, of what learns in the stage. The batches are those that
/// would come after the last one. `None` when the run is asked to stop.
pub(super) fn measure(
    prepared: &Prepared,
    towers: Towers,
    feed: &mut Feed,
    progress: &mut dyn Progress,
    ranks: &dyn Ranks,
) -> Result<Option<BTreeMap<String, Measured>>, TrainError> {
    let recipe = &prepared.recipe;
    // the stage that runs is held by former tasks
    let Some((task, _)) = methods::stages(recipe)?
        .into_iter()
        .find(|(s, _)| s.name == prepared.stage.name)
    else {
        unreachable!("the stage that has just run");
    };
    let towers = params::set_trainable(towers, |name| prepared.plan.learns(name));
    let mut measured = BTreeMap::new();
    params::visit(&towers, |info, values| {
        if info.trainable {
            let all = Measured {
                importance: vec![0.0; info.shape.iter().product()],
                shape: info.shape,
                at: values(),
            };
            measured.insert(info.name, all);
        }
    });
    let batches = recipe.elastic.batches;
    let share = 1.0 / batches as f32;
    let (first, step) = (
        prepared.schedule.total() * recipe.data.accumulate as u64,
        prepared.schedule.total(),
    );
    for i in 0..batches {
        if ranks.any(progress.stop())? {
            return Ok(None);
        }
        progress.features("the weights' importance", i as usize, batches as usize);
        let sampled = feed.batch(first + i, step, ranks)?;
        sampled.warnings.iter().for_each(|warning| progress.warning(warning));
        let seed = mix(recipe.seed, STEP, first + i);
        let batch = sampled.batches.first().and_then(Option::as_ref);
        let computed = gradient::compute_as(&recipe.compute, &*task.objective, &towers, batch, seed, ranks)
            .map_err(|source| TrainError::Method { step, source })?;
        let Some(grads) = computed.grads else {
            return Err(broken(&format!("the loss of a batch is {}", computed.loss)));
        };
        for (name, all) in &mut measured {
            let slopes = grads.get(name).unwrap_or_default();
            all.importance
                .iter_mut()
                .zip(slopes.iter())
                .for_each(|(f, g)| *f += g * g * share);
        }
    }
    progress.features("the weights' importance", batches as usize, batches as usize);
    Ok(Some(measured))
}

fn broken(what: &str) -> TrainError {
    TrainError::Features {
        what: "the weights' importance".to_owned(),
        message: format!("{what}; lower optimizer.lr or elastic.weight, and begin anew in another folder"),
    }
}

/// What former tasks need, and what one more does.
pub(super) fn added(mut held: BTreeMap<String, Held>, task: BTreeMap<String, Measured>) -> BTreeMap<String, Held> {
    for (name, task) in task {
        let before = held.remove(&name).unwrap_or_else(|| Held::nothing(task.shape.clone()));
        held.insert(name, before.and(&task.importance, &task.at));
    }
    held
}

/// As a file.
pub(super) fn encode(held: &BTreeMap<String, Held>) -> Result<Vec<u8>, TrainError> {
    let mut all = Vec::with_capacity(2 * held.len());
    for (name, held) in held {
        for (prefix, vector) in [(IMPORTANCE, &held.importance), (CENTER, &held.center)] {
            let numbers = values(vector.clone());
            if !numbers.iter().all(|v| v.is_finite()) {
                return Err(broken(&format!("that of {name} is not finite")));
            }
            all.push((format!("{prefix}{name}"), held.shape.clone(), numbers));
        }
    }
    let all = all
        .iter()
        .map(|(name, shape, numbers)| (name.clone(), shape.clone(), numbers.as_slice()));
    tensors(all).map_err(|message| broken(&message))
}

/// A hash of a former run's file, and what it says about parameters; all of it has to fit them. Nothing for an empty path.
pub(super) fn former(path: &str, params: &[ParamInfo]) -> Result<(String, BTreeMap<String, Held>), TrainError> {
    if path.is_empty() {
        return Ok((String::new(), BTreeMap::new()));
    }
    let fail = |message: String| {
        TrainError::Recipe(RecipeError::Value {
            key: "elastic.former",
            message: format!("{path}: {message}"),
        })
    };
    let path = Path::new(path);
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(|_| ()))
        .map_err(|error| {
            fail(format!(
                "{error}; name the {IMPORTANCE_FILE} of the run before, or leave it empty"
            ))
        })?;
    let source = SafeTensors::open(path).map_err(|error| fail(error.to_string()))?;
    let mut held = BTreeMap::new();
    for name in source.names() {
        let (prefix, of) = [IMPORTANCE, CENTER]
            .into_iter()
            .find_map(|prefix| Some((prefix, name.strip_prefix(prefix)?)))
            .ok_or_else(|| {
                fail(format!(
                    "{name:?} is no importance; name the {IMPORTANCE_FILE} that a run of ewc has left"
                ))
            })?;
        let other = if prefix == IMPORTANCE { CENTER } else { IMPORTANCE };
        let param = params.iter().find(|p| p.name == of);
        let param =
            param.ok_or_else(|| fail(format!("{of:?} is no parameter of this run; the model is another one")))?;
        for tensor in [name.clone(), format!("{other}{of}")] {
            let shape = source
                .shape(&tensor)
                .ok_or_else(|| fail(format!("it has no {tensor:?}")))?;
            if shape != param.shape {
                let expected = &param.shape;
                return Err(fail(format!(
                    "{tensor} is {shape:?}, and the parameter is {expected:?}; the model is another one"
                )));
            }
        }
        if prefix == CENTER {
            continue;
        }
        let load = |prefix: &str, may: fn(f32) -> bool| {
            let name = format!("{prefix}{of}");
            let data = source.load(&name).map_err(|error| fail(error.to_string()))?.data;
            match data.iter().all(|&v| may(v)) {
                true => Ok(tensor(data.clone(), [data.len()])),
                false => Err(fail(format!("{name} has values that none can have; it is damaged"))),
            }
        };
        let one = Held {
            shape: param.shape.clone(),
            importance: load(IMPORTANCE, |v| v.is_finite() && v >= 0.0)?,
            center: load(CENTER, f32::is_finite)?,
        };
        held.insert(of.to_owned(), one);
    }
    Ok((hasher.finalize().to_hex().to_string(), held))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(name: &str, shape: &[usize]) -> ParamInfo {
        ParamInfo {
            name: name.to_owned(),
            shape: shape.to_vec(),
            trainable: true,
        }
    }

    fn file(all: &[(&str, Vec<usize>, Vec<f32>)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let all = all
            .iter()
            .map(|(name, shape, data)| ((*name).to_owned(), shape.clone(), data.as_slice()));
        std::fs::write(file.path(), tensors(all).expect("tensors")).expect("write");
        file
    }

    fn error(bytes: &tempfile::NamedTempFile, params: &[ParamInfo]) -> String {
        let path = bytes.path().display().to_string();
        former(&path, params).expect_err("it does not fit").to_string()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let params = [param("vision.a", &[2, 3]), param("text.b", &[1]), param("new", &[4])];
        let held = |shape: &[usize], from: f32| {
            let n = shape.iter().product::<usize>();
            let numbers = |by: f32| (0..n).map(|i| by + i as f32 / 7.0).collect::<Vec<f32>>();
            Held::nothing(shape.to_vec()).and(&numbers(from), &numbers(-from))
        };
        let all = BTreeMap::from([
            ("vision.a".to_owned(), held(&[2, 3], 0.5)),
            ("text.b".to_owned(), held(&[1], 2.0)),
        ]);
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), encode(&all).expect("finite")).expect("write");
        let (hash, read) = former(&file.path().display().to_string(), &params).expect("it fits");
        assert_eq!(hash.len(), 64);
        assert!(read.keys().eq(all.keys()));
        for (name, one) in &all {
            let found = &read[name];
            assert_eq!(found.shape, one.shape);
            assert_eq!(values(found.importance.clone()), values(one.importance.clone()));
            assert_eq!(values(found.center.clone()), values(one.center.clone()));
        }
        assert!(former("", &params).expect("nothing").1.is_empty());
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let params = [param("vision.a", &[2])];
        let both = |a: Vec<f32>, c: Vec<f32>| {
            file(&[
                ("importance.vision.a", vec![a.len()], a),
                ("center.vision.a", vec![c.len()], c),
            ])
        };
        let cases = [
            (
                both(vec![1.0; 3], vec![0.0; 2]),
                "importance.vision.a is [3], and the parameter is [2]",
            ),
            (both(vec![1.0; 2], vec![0.0; 3]), "center.vision.a is [3]"),
            (both(vec![-1.0, 1.0], vec![0.0; 2]), "importance.vision.a has values"),
            (
                both(vec![f32::NAN, 1.0], vec![0.0; 2]),
                "importance.vision.a has values",
            ),
            (
                both(vec![1.0; 2], vec![f32::INFINITY, 0.0]),
                "center.vision.a has values",
            ),
            (
                file(&[("importance.vision.a", vec![2], vec![1.0; 2])]),
                "it has no \"center.vision.a\"",
            ),
            (
                file(&[("center.vision.a", vec![2], vec![1.0; 2])]),
                "it has no \"importance.vision.a\"",
            ),
            (
                file(&[("vision.a", vec![2], vec![1.0; 2])]),
                "\"vision.a\" is no importance",
            ),
            (
                file(&[("center.b", vec![1], vec![1.0]), ("importance.b", vec![1], vec![1.0])]),
                "\"b\" is no parameter of this run",
            ),
        ];
        for (bytes, expected) in &cases {
            let error = error(bytes, &params);
            assert!(
                error.contains("elastic.former") && error.contains(expected),
                "{error}: {expected}"
            );
        }
        let missing = former("/nowhere/importance.safetensors", &params).expect_err("there is none");
        assert!(missing.to_string().contains("leave it empty"), "{missing}");
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let params = [param("vision.a", &[2])];
        let whole = file(&[
            ("importance.vision.a", vec![2], vec![1.0; 2]),
            ("center.vision.a", vec![2], vec![0.5; 2]),
        ]);
        let bytes = std::fs::read(whole.path()).expect("read");
        for cut in 0..bytes.len() {
            std::fs::write(whole.path(), &bytes[..cut]).expect("write");
            error(&whole, &params);
        }
        for (at, bit) in (0..bytes.len()).flat_map(|at| [(at, 1u8), (at, 128)]) {
            let mut bytes = bytes.clone();
            bytes[at] ^= bit;
            std::fs::write(whole.path(), bytes).expect("write");
            // a flipped bit of a number may still be a number
            let _ = former(&whole.path().display().to_string(), &params);
        }
    }
}
