//! Flowers102 and Stanford Cars, whose labels are MATLAB files.

use crate::context::{Context, malformed};
use crate::lists::{file, finish, without};
use crate::mat::{self, Value};
use crate::names::{english, library};
use crate::{Accuracy, BenchmarkError, Task};

pub(crate) fn flowers(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = without(ctx.path(&["flowers-102", "imagelabels.mat"])?, "imagelabels.mat");
    let numbers = |name: &str, variable: &str| {
        let path = file(ctx, &base, name)?;
        match mat::read(&path)?.remove(variable) {
            Some(Value::Numbers(numbers)) => Ok((path, numbers)),
            _ => Err(malformed(&path, None, format!("has no numbers called {variable}"))),
        }
    };
    let (_, labels) = numbers("imagelabels.mat", "labels")?;
    let read = |variable: &str| {
        let (path, ids) = numbers("setid.mat", variable)?;
        let entry = |id: f64| {
            let label = labels.get((id as usize).checked_sub(1)?)?;
            let class = (*label as usize).checked_sub(1).filter(|&c| c < 102)?;
            Some((format!("image_{:05}.jpg", id as usize), class))
        };
        let wrong = |id: &f64| {
            malformed(
                &path,
                None,
                format!("{variable} has {id}, which is no picture with a class from 1 to 102"),
            )
        };
        ids.iter()
            .map(|id| entry(*id).ok_or_else(|| wrong(id)))
            .collect::<Result<Vec<_>, _>>()
    };
    let test = read("tstid")?;
    let train = match ctx.options.train {
        true => Some([read("trnid")?, read("valid")?].concat()),
        false => None,
    };
    let prompts = english(library("en", "flowers"), "flowers");
    finish(
        ctx,
        &[base.join("jpg")],
        test,
        train,
        6_149,
        prompts,
        Accuracy::MeanPerClass,
    )
    .map(|task| {
        (
            task,
            "The 6,149 test pictures; mean over 102 classes; training and validation pictures train.".to_owned(),
        )
    })
}

pub(crate) fn cars(ctx: &mut Context) -> Result<(Task, String), BenchmarkError> {
    let base = without(ctx.path(&["stanford_cars", "devkit"])?, "devkit");
    let meta = file(ctx, &base, "devkit/cars_meta.mat")?;
    let Some(Value::Cells(names)) = mat::read(&meta)?.remove("class_names") else {
        return Err(malformed(&meta, None, "has no cells called class_names"));
    };
    let names: Vec<String> = names.iter().filter_map(|n| Some(n.text()?.to_owned())).collect();
    let read = |places: &[&str], folder: &str| {
        let mut places = places.iter().map(|p| base.join(p));
        let found = places.clone().find(|p| p.is_file());
        let path = found.ok_or_else(|| ctx.absent(&places.next_back().unwrap_or_default().display().to_string()))?;
        let Some(Value::Structs(rows)) = mat::read(&path)?.remove("annotations") else {
            return Err(malformed(&path, None, "has no structure called annotations"));
        };
        let entry = |row: &std::collections::BTreeMap<String, Value>| {
            let class = (row.get("class")?.number()? as usize)
                .checked_sub(1)
                .filter(|&c| c < names.len())?;
            Some((format!("{folder}/{}", row.get("fname")?.text()?), class))
        };
        let wrong = |at: usize| {
            malformed(
                &path,
                Some(at + 1),
                "an annotation without fname, or without a class of cars_meta.mat",
            )
        };
        rows.iter()
            .enumerate()
            .map(|(at, row)| entry(row).ok_or_else(|| wrong(at)))
            .collect::<Result<Vec<_>, _>>()
    };
    let labelled = [
        "cars_test_annos_withlabels.mat",
        "devkit/cars_test_annos_withlabels.mat",
    ];
    let test = read(&labelled, "cars_test")?;
    let train = match ctx.options.train {
        true => Some(read(&["devkit/cars_train_annos.mat"], "cars_train")?),
        false => None,
    };
    finish(
        ctx,
        std::slice::from_ref(&base),
        test,
        train,
        8_041,
        english(names, "cars"),
        Accuracy::Top1,
    )
    .map(|task| {
        (
            task,
            "The 8,041 test pictures, whole, not cut to their boxes.".to_owned(),
        )
    })
}
