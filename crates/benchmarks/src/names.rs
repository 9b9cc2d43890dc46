//! What classes are called. The names of ImageNet, Caltech101 and Flowers102 come with the program (`data/class_names.json` says whose they
//! are); those of the other sets are in their own files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::context::{Context, json, malformed};
use crate::{BenchmarkError, Prompts, Templates};

/// Classes of ImageNet-1k.
pub(crate) const IMAGENET: usize = 1000;

/// Their wnids, sorted, one a line: the line is the class.
pub(crate) const WNIDS: &str = include_str!("../data/imagenet_wnids.txt");

/// Languages whose names of ImageNet's classes are part of the program, and their templates.
const LANGUAGES: [(&str, &str); 5] = [
    ("en", "imagenet"),
    ("ar", "imagenet-ar"),
    ("it", "imagenet-it"),
    ("ja", "imagenet-ja"),
    ("zh", "imagenet-zh"),
];

type Sets = BTreeMap<String, Vec<String>>;

#[derive(Deserialize)]
struct Library {
    #[serde(flatten)]
    languages: BTreeMap<String, Sets>,
    #[serde(rename = "source")]
    _source: String,
}

/// The names of a set that come with the program; none if there are none.
pub(crate) fn library(language: &str, set: &str) -> Vec<String> {
    // the file is part of the program and a test reads all of it
    serde_json::from_str::<Library>(include_str!("../data/class_names.json"))
        .ok()
        .and_then(|mut l| l.languages.get_mut(language)?.remove(set))
        .unwrap_or_default()
}

/// English names with the templates of the set.
pub(crate) fn english(names: Vec<String>, templates: &'static str) -> Vec<Prompts> {
    vec![Prompts {
        language: "en".to_owned(),
        classes: (0..names.len()).collect(),
        names,
        templates: Templates::Named(templates),
    }]
}

/// Checks that only English was asked for.
pub(crate) fn english_only(ctx: &Context) -> Result<(), BenchmarkError> {
    match ctx.options.languages.iter().find(|l| l.as_str() != "en") {
        None => Ok(()),
        Some(other) => Err(unknown(ctx, other, "en")),
    }
}

pub(crate) fn unknown(ctx: &Context, language: &str, known: &str) -> BenchmarkError {
    BenchmarkError::Language {
        suite: ctx.suite.name,
        language: language.to_owned(),
        known: known.to_owned(),
    }
}

/// Names and templates of some of ImageNet's classes in each language that was asked for. Class k of the task is `classes[k]` of the 1000.
pub(crate) fn imagenet_prompts(ctx: &Context, classes: &[usize]) -> Result<Vec<Prompts>, BenchmarkError> {
    let asked = match ctx.options.languages.as_slice() {
        [] => vec!["en".to_owned()],
        some => some.to_vec(),
    };
    let one = |asked: &String| {
        // CLIP_benchmark's codes are those of countries
        let language = match asked.as_str() {
            "cn" => "zh",
            "jp" => "ja",
            other => other,
        };
        let found = LANGUAGES.iter().find(|(l, _)| *l == language);
        let (_, templates) = found.ok_or_else(|| unknown(ctx, asked, &LANGUAGES.map(|(l, _)| l).join(", ")))?;
        let names = library(language, "imagenet1k");
        Ok(Prompts {
            language: language.to_owned(),
            classes: (0..classes.len()).collect(),
            names: classes.iter().filter_map(|&c| names.get(c).cloned()).collect(),
            templates: Templates::Named(templates),
        })
    };
    asked.iter().map(one).collect()
}

/// Names and templates of Babel-ImageNet, from the files of CLIP_benchmark.
pub(crate) fn babel_prompts(ctx: &mut Context) -> Result<Vec<Prompts>, BenchmarkError> {
    let folder: PathBuf = ctx.options.class_names.clone().unwrap_or_else(|| ctx.root.to_owned());
    let names = folder.join("babel_imagenet.json");
    let templates = folder.join("nllb_dist13b_prompts.json");
    if let Some(absent) = [&names, &templates].into_iter().find(|p| !p.is_file()) {
        return Err(ctx.absent(&format!("{} (of CLIP_benchmark's package)", absent.display())));
    }
    let mut named: BTreeMap<String, (Vec<usize>, Vec<String>)> = json(&names)?;
    let mut sentences: BTreeMap<String, Vec<String>> = json(&templates)?;
    let all = match ctx.options.languages.as_slice() {
        [] => named.keys().cloned().collect(),
        some => some.iter().map(|l| l.to_uppercase()).collect::<Vec<_>>(),
    };
    let known = named.keys().cloned().collect::<Vec<_>>().join(", ").to_lowercase();
    let mut prompts = Vec::new();
    for key in all {
        let language = key.to_lowercase();
        let (classes, words) = named.remove(&key).ok_or_else(|| unknown(ctx, &language, &known))?;
        let ascending = classes.is_sorted_by(|a, b| a < b) && classes.last().is_some_and(|&c| c < IMAGENET);
        if !ascending || classes.len() != words.len() {
            let reason = format!("{key} has no list of ascending classes below 1000 with a name each");
            return Err(malformed(&names, None, reason));
        }
        match sentences.remove(&key).filter(|texts| !texts.is_empty()) {
            Some(texts) => prompts.push(Prompts {
                language,
                classes,
                names: words,
                templates: Templates::Given {
                    name: format!("Babel-ImageNet, {key}"),
                    texts,
                },
            }),
            None => ctx.skip(&language, "there are names but no templates"),
        }
    }
    if prompts.is_empty() {
        return Err(malformed(&templates, None, "has no templates for any of the languages"));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_whole() {
        assert_eq!(WNIDS.lines().count(), IMAGENET);
        assert!(WNIDS.lines().collect::<Vec<_>>().is_sorted_by(|a, b| a < b));
        for (language, _) in LANGUAGES {
            let names = library(language, "imagenet1k");
            assert_eq!(names.len(), IMAGENET, "{language}");
            assert!(names.iter().all(|n| !n.trim().is_empty()), "{language}");
        }
        assert_eq!(library("en", "imagenet1k")[10], "brambling");
        assert_eq!(library("en", "caltech101").len(), 102);
        assert_eq!(library("en", "flowers").len(), 102);
        assert!(library("en", "other").is_empty());
    }
}
