//! Which runs make the table.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::Recipe;

use super::cost;
use crate::failure::wrong_use;

/// Folder of the run that all others start from.
pub const BASE: &str = "base";

/// Stands for the base's bundle in [`Row::sets`].
const BASE_BUNDLE: &str = "{base}";

/// A row of the table: a recipe with what is changed of its profile.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// As the table calls it.
    pub name: &'static str,
    /// File in the folder of recipes, without its ending.
    pub recipe: &'static str,
    /// In one line.
    pub what: &'static str,
    /// Laid over the profile.
    pub sets: &'static [&'static str],
}

/// The base CLIP.
const BASE_ROW: Row = Row {
    name: BASE,
    recipe: "lab-base",
    what: "the CLIP that all rows start from, trained here: EfficientNet-Lite0 as it is, MiniLM and both projections learn",
    sets: &[],
};

/// The model with a language model as its text tower that tasks are learnt from, [`super::continual`].
const LLM_BASE_ROW: Row = Row {
    name: "base, SmolLM2",
    recipe: "sharelock",
    what: "the base's vision tower and SmolLM2-135M, both frozen; an MLP on the language model learns",
    sets: &["vision.model={base}"],
};

/// All rows but the base. All of them start from its vision tower; the language model is Gemma 3 270M unless the name says SmolLM2.
pub const ROWS: &[Row] = &[
    Row {
        name: "clip",
        recipe: "clip",
        what: "the base goes on with the same loss",
        sets: &[
            "vision.model={base}",
            "text.model={base}",
            "image_head.pretrained=true",
            "text_head.pretrained=true",
            "loss.scale_pretrained=true",
        ],
    },
    Row {
        name: "siglip",
        recipe: "siglip",
        what: "the base goes on with the sigmoid loss",
        sets: &[
            "vision.model={base}",
            "text.model={base}",
            "image_head.pretrained=true",
            "text_head.pretrained=true",
        ],
    },
    Row {
        name: "lit",
        recipe: "lit",
        what: "LiT as ProCLIP's tables mean it: the base's vision side is locked, an adaptor on the language model learns",
        sets: &[
            "vision.model={base}",
            "image_head.pretrained=true",
            "schedule.epochs=40",
            "embed_dim=384",
            "text.model=models/gemma3",
            "text.pooling=mean",
            "text.attention=causal",
            "text_head={ kind = \"residual\", blocks = 1, ratio = 2, normalize_input = true }",
            "freeze=[{ pattern = \"text.*\", frozen = true }, { pattern = \"image_head.*\", frozen = true }]",
        ],
    },
    Row {
        name: "sharelock",
        recipe: "sharelock",
        what: "both towers are frozen, an MLP on the language model learns",
        sets: &["vision.model={base}", "text.model=models/gemma3"],
    },
    Row {
        name: "sail",
        recipe: "sail",
        what: "both towers are frozen, two gated heads learn",
        sets: &["vision.model={base}", "text.model=models/gemma3"],
    },
    Row {
        name: "flame",
        recipe: "flame",
        what: "the frozen language model answers about facets of captions, the vision side learns",
        sets: &[
            "vision.model={base}",
            "text.model=models/gemma3",
            "text.layer=17",
            "embed_dim=640",
        ],
    },
    Row {
        name: "llm2clip",
        recipe: "llm2clip",
        what: "stage 2 alone: frozen language model as it comes, an adaptor and the vision tower learn",
        sets: &[
            "vision.model={base}",
            "text.model=models/gemma3",
            "stage.caption.skip=true",
        ],
    },
    Row {
        name: "lift",
        recipe: "lift",
        what: "the frozen language model is the space, the vision side learns; InfoNCE",
        sets: &["vision.model={base}", "text.model=models/gemma3", "embed_dim=640"],
    },
    Row {
        name: "lift, cosine",
        recipe: "lift",
        what: "as lift, with the cosine of the pairs alone",
        sets: &[
            "vision.model={base}",
            "text.model=models/gemma3",
            "embed_dim=640",
            "loss.kind=cosine",
        ],
    },
    Row {
        name: "proclip",
        recipe: "proclip",
        what: "both stages",
        sets: &["vision.model={base}", "text.model=models/gemma3"],
    },
    Row {
        name: "proclip, inherit",
        recipe: "proclip",
        what: "stage 1 alone: the adaptor learns to give what the base's text tower gives",
        sets: &[
            "vision.model={base}",
            "text.model=models/gemma3",
            "stage.tune.skip=true",
        ],
    },
    Row {
        name: "llm2clip, SmolLM2",
        recipe: "llm2clip",
        what: "as llm2clip, with SmolLM2-135M as it comes",
        sets: &["vision.model={base}", "stage.caption.skip=true"],
    },
    Row {
        name: "llm2clip, SmolLM2 tuned",
        recipe: "llm2clip",
        what: "both stages: SmolLM2-135M is tuned on captions first",
        sets: &["vision.model={base}"],
    },
];

/// What is the same for all runs.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Folder with `flickr8k` and what else is evaluated on.
    pub data: PathBuf,
    /// Folder with the recipes.
    pub recipes: PathBuf,
    /// Profile of the recipes.
    pub profile: String,
    /// Where everything goes.
    pub out: PathBuf,
}

/// A run of the lab.
#[derive(Debug)]
pub struct Run {
    /// Its row.
    pub row: &'static Row,
    /// `None`: the base, which has the recipe's own.
    pub seed: Option<u64>,
    /// Where it goes.
    pub folder: PathBuf,
    /// What it trains.
    pub recipe: Recipe,
}

/// All runs in their order: the base, then seed by seed all rows, so that a lab that is stopped has all of them with fewer seeds. Of rows that are
/// not in `only` (if there are any in it) those runs that have ended: they stay in the table.
///
/// # Errors
/// A name in `only` that no row has, a recipe that cannot be read.
pub fn runs(setting: &Setting, seeds: u64, only: &[String]) -> Result<Vec<Run>> {
    if let Some(unknown) = only.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let names: Vec<String> = ROWS.iter().map(|row| format!("{:?}", row.name)).collect();
        return Err(wrong_use(format!(
            "the lab has no row {unknown:?}; it has {}",
            names.join(", ")
        )));
    }
    let mut all = vec![base(setting)?];
    for seed in 1..=seeds {
        for row in ROWS {
            let wanted = only.is_empty() || only.iter().any(|name| row.name == name);
            if wanted || cost::has_ended(&folder(setting, row, Some(seed))) {
                all.push(run(setting, row, Some(seed))?);
            }
        }
    }
    Ok(all)
}

/// The run that all others start from.
pub fn base(setting: &Setting) -> Result<Run> {
    run(setting, &BASE_ROW, None)
}

/// The run that learning task after task with a language model starts from.
pub fn llm_base(setting: &Setting) -> Result<Run> {
    run(setting, &LLM_BASE_ROW, None)
}

/// Where the base's bundle is or will be.
pub fn base_bundle(out: &Path) -> PathBuf {
    out.join(BASE).join("model")
}

fn folder(setting: &Setting, row: &Row, seed: Option<u64>) -> PathBuf {
    let name = row.name.replace(", ", "-").replace(' ', "-");
    match seed {
        None => setting.out.join(name),
        Some(seed) => setting.out.join(format!("{name}-{seed}")),
    }
}

/// Where the data is: profiles say `data/…`, which stands for the folder that the lab is given.
pub fn data_of(path: &str, setting: &Setting) -> String {
    match Path::new(path).strip_prefix("data") {
        Ok(below) => setting.data.join(below).display().to_string(),
        Err(_) => path.to_owned(),
    }
}

/// Lets a recipe find its data in the folder that the lab is given.
pub fn place(recipe: &mut Recipe, setting: &Setting) {
    let stages = recipe.stage.values_mut().map(|stage| &mut stage.data);
    for source in stages.chain([&mut recipe.data]).flat_map(|data| &mut data.sources) {
        source.path = data_of(&source.path, setting);
    }
}

/// The run of a row by its name; the base has one seed.
///
/// # Errors
/// No such row, a recipe that cannot be read.
pub fn named(setting: &Setting, name: &str, seed: u64) -> Result<Run> {
    if name == BASE {
        return base(setting);
    }
    let row = ROWS.iter().find(|row| row.name == name);
    run(
        setting,
        row.with_context(|| format!("the lab has no row {name:?}"))?,
        Some(seed),
    )
}

fn run(setting: &Setting, row: &'static Row, seed: Option<u64>) -> Result<Run> {
    let path = setting.recipes.join(format!("{}.toml", row.recipe));
    let base = base_bundle(&setting.out).display().to_string();
    let mut sets: Vec<String> = row.sets.iter().map(|set| set.replace(BASE_BUNDLE, &base)).collect();
    sets.extend(seed.map(|seed| format!("seed={seed}")));
    // the lab measures the bundle; a look at the held-out pictures beside that is time for nothing
    sets.push("run.evaluate_on=0".to_owned());
    let read = |sets: &[String]| {
        Recipe::load(&path, Some(&setting.profile), sets).with_context(|| format!("row {:?} of the lab", row.name))
    };
    let mut recipe = read(&sets)?;
    place(&mut recipe, setting);
    Ok(Run {
        row,
        seed,
        folder: folder(setting, row, seed),
        recipe,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting {
            data: "elsewhere".into(),
            recipes: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes"),
            profile: "lab".to_owned(),
            out: "runs/lab".into(),
        }
    }

    #[test]
    fn every_row_is_a_recipe_that_starts_from_the_base() {
        let all = runs(&setting(), 1, &[]).unwrap();
        assert_eq!(all.len(), 1 + ROWS.len());
        assert_eq!(all[0].row.name, BASE);
        for run in &all[1..] {
            assert_eq!(run.recipe.vision.model, "runs/lab/base/model", "{}", run.row.name);
        }
        for run in &all[1..] {
            for stage in run.recipe.running() {
                let sources = run.recipe.of_stage(stage).data.sources;
                let [source] = sources.as_slice() else {
                    panic!("{}: {sources:?}", run.row.name)
                };
                assert_eq!((source.path.as_str(), source.holdout), ("elsewhere/flickr8k", 200.0));
            }
        }
        let methods: std::collections::BTreeSet<&str> = all.iter().map(|run| run.recipe.method.as_str()).collect();
        // learning task after task is another question, a model that talks is asked other questions, and codes have a table of their own
        let elsewhere = [
            "cclip", "ewc", "zscl", "llava", "blip2", "flamingo", "toklip", "unified",
        ];
        let missing = |name: &&str| !methods.contains(name) && !elsewhere.contains(name);
        let missing: Vec<&str> = bifocal_align::methods::METHODS
            .iter()
            .map(|m| m.name)
            .filter(missing)
            .collect();
        assert!(missing.is_empty(), "not in the lab: {missing:?}");
    }

    #[test]
    fn the_vision_towers_that_learn_see_equally_many_pictures() {
        let all = runs(&setting(), 1, &[]).unwrap();
        let frozen = ["lit", "sharelock", "sail", "proclip, inherit"];
        for run in all[1..].iter().filter(|run| !frozen.contains(&run.row.name)) {
            let last = run.recipe.running().pop().unwrap();
            let recipe = run.recipe.of_stage(last);
            let clip = &all[1].recipe;
            assert_eq!(recipe.data.batch, clip.data.batch, "{}", run.row.name);
            assert_eq!(recipe.schedule.epochs, clip.schedule.epochs, "{}", run.row.name);
            assert_eq!(recipe.schedule.steps, None, "{}", run.row.name);
        }
    }

    #[test]
    fn seed_by_seed_over_all_rows() {
        let only = ["sail".to_owned(), "lift, cosine".to_owned()];
        let all = runs(&setting(), 2, &only).unwrap();
        let names: Vec<String> = all.iter().map(|run| run.folder.display().to_string()).collect();
        let folders = ["base", "sail-1", "lift-cosine-1", "sail-2", "lift-cosine-2"];
        assert_eq!(names, folders.map(|folder| format!("runs/lab/{folder}")));
        assert_eq!(all[3].recipe.seed, 2);
        let error = runs(&setting(), 1, &["sial".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("\"sail\""), "{error}");
    }
}
