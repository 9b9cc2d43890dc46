//! Recipes: layers, mistakes with their place, and the files that come with the project.

use std::path::{Path, PathBuf};

use bifocal_align::Recipe;
use bifocal_align::methods::METHODS;
use bifocal_align::recipe::{Chain, Device, HeadKind, LossKind};
#[cfg(not(any(feature = "gpu", feature = "cuda", feature = "rocm")))]
use bifocal_align::train::{Options, Silent, overview, run};

const BASE: &str = r#"
method = "sail"
vision = { model = "v" }
text = { model = "t" }

[optimizer]
lr = 1e-3

[schedule]
steps = 10

[[data.sources]]
path = "photos"

[profile.smoke]
schedule = { steps = 2 }
"#;

fn parse(text: &str, profile: Option<&str>, sets: &[&str]) -> Result<Recipe, String> {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse(text, Path::new("r.toml"), profile, &sets).map_err(|e| e.to_string())
}

#[test]
fn training_does_not_multiply_eight_bits() {
    let with = |precision: &str| parse(BASE, None, &[&format!("compute.precision=\"{precision}\"")]);
    assert!(with("f32").is_ok() && with("bf16").is_ok());
    let message = with("int8").unwrap_err();
    assert!(message.contains("is for inference"), "{message}");
    let message = with("bf61").unwrap_err();
    assert!(message.contains("did you mean \"bf16\""), "{message}");
}

#[test]
fn layers_lie_over_each_other() {
    let recipe = parse(BASE, None, &[]).unwrap();
    // the method's own defaults
    assert_eq!(recipe.image_head.kind, HeadKind::Glu);
    assert_eq!(recipe.loss.kind, LossKind::Sigmoid);
    assert_eq!(recipe.optimizer.betas, [0.9, 0.99]);
    // the file
    assert_eq!((recipe.optimizer.lr, recipe.schedule.steps), (1e-3, Some(10)));
    // a profile changes what it says and nothing else
    let smoke = parse(BASE, Some("smoke"), &[]).unwrap();
    assert_eq!(
        (smoke.optimizer.lr, smoke.schedule.steps, smoke.schedule.warmup),
        (1e-3, Some(2), 0.1)
    );
    // and what is set by hand comes last
    let sets = [
        "schedule.steps=5",
        "loss.kind=infonce",
        "data.sources.0.path = \"elsewhere\"",
        "optimizer.betas=[0.8, 0.9]",
    ];
    let set = parse(BASE, Some("smoke"), &sets).unwrap();
    assert_eq!((set.schedule.steps, set.loss.kind), (Some(5), LossKind::Infonce));
    assert_eq!(
        (set.data.sources[0].path.as_str(), set.optimizer.betas),
        ("elsewhere", [0.8, 0.9])
    );
}

#[test]
fn a_resolved_recipe_repeats_itself() {
    for method in METHODS {
        let recipe = parse(
            BASE,
            None,
            &[
                &format!("method={}", method.name),
                "text.pooling=cls",
                "qformer.trunk=b",
            ],
        )
        .unwrap();
        let again = parse(&recipe.to_toml(), None, &[]).unwrap();
        assert_eq!(recipe, again);
        assert!(recipe.differences(&again).is_empty());
        let other = parse(
            BASE,
            None,
            &[
                &format!("method={}", method.name),
                "qformer.trunk=b",
                "optimizer.lr=0.25",
                "run.keep=9",
            ],
        )
        .unwrap();
        let mut differences = other.differences(&recipe);
        // a stage has what the recipe says for all of them
        differences.retain(|d| !(d.starts_with("stage.") && d.ends_with(".optimizer.lr: 0.25 here, 0.001 there")));
        assert_eq!(differences[0], "optimizer.lr: 0.25 here, 0.001 there");
        assert!(differences[1].starts_with("text.pooling: ") && differences[1].ends_with("\"cls\" there"));
        assert_eq!(differences.len(), 2, "{differences:?}");
    }
}

#[test]
fn what_a_graphics_card_cannot_do_is_refused() {
    let on_gpu = |set: &str| parse(BASE, None, &["compute.device=gpu", set]);
    // that a run will need a card does not keep anyone from reading its recipe
    assert_eq!(on_gpu("compute.micro_batch=4").unwrap().compute.device, Device::Gpu);
    let error = on_gpu("compute.precision=bf16").unwrap_err();
    assert!(error.contains("compute.precision") && error.contains("f32"), "{error}");
    let error = on_gpu("compute.recompute=true").unwrap_err();
    assert!(error.contains("compute.recompute"), "{error}");
    let error = parse(BASE, None, &["compute.device=tpu"]).unwrap_err();
    assert!(error.contains("tpu") && error.contains("gpu"), "{error}");
}

#[cfg(not(any(feature = "gpu", feature = "cuda", feature = "rocm")))]
#[test]
fn a_build_without_the_feature_says_which_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = parse(BASE, None, &["compute.device=gpu"]).unwrap();
    let options = Options {
        out: dir.path().join("run"),
        resume: false,
    };
    for error in [
        overview(&recipe).map(|_| ()).unwrap_err(),
        run(&recipe, &options, &mut Silent).map(|_| ()).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(
            error.contains("compute.device") && error.contains("--features gpu") && error.contains("docs/gpu.md"),
            "{error}"
        );
    }
    assert!(!options.out.exists(), "nothing was begun");
}

#[test]
fn mistakes_are_told_with_their_place_and_what_was_meant() {
    let replaced = |from: &str, to: &str| parse(&BASE.replace(from, to), None, &[]).unwrap_err();
    for (from, to, expected) in [
        (
            "lr = 1e-3",
            "lrr = 1e-3",
            "r.toml:7: there is no key \"lrr\"; did you mean \"lr\"?",
        ),
        (
            "[optimizer]",
            "[optimiser]",
            "r.toml:6: there is no key \"optimiser\"; did you mean \"optimizer\"?",
        ),
        (
            "path = \"photos\"",
            "paths = \"photos\"",
            "r.toml:13: there is no key \"paths\"; did you mean \"path\"?",
        ),
        // in a profile that is not used as well
        (
            "{ steps = 2 }",
            "{ stepps = 2 }",
            "r.toml:16: there is no key \"stepps\"; did you mean \"steps\"?",
        ),
        (
            "lr = 1e-3",
            "lr = \"fast\"",
            "r.toml:7: invalid type: string \"fast\", expected f64",
        ),
        ("lr = 1e-3", "lr = ", "r.toml:7: "),
        (
            "method = \"sail\"",
            "method = \"snail\"",
            "method \"snail\" is not known; methods are: clip, siglip, lit, sharelock, sail",
        ),
        ("lr = 1e-3", "lr = -1.0", "optimizer.lr: -1 is outside"),
        ("steps = 10", "kind = \"cosine\"", "how long is the run"),
        ("[[data.sources]]\npath = \"photos\"", "", "nothing to learn from"),
    ] {
        let error = replaced(from, to);
        assert!(error.contains(expected), "{to}: {error}");
    }
    for (set, expected) in [
        (
            "optimizer.lrr=1",
            "--set optimizer.lrr=1: there is no key \"lrr\"; did you mean \"lr\"?",
        ),
        (
            "loss.kind=sigmod",
            "there is no value \"sigmod\"; did you mean \"sigmoid\"?",
        ),
        ("optimizer", "write key=value"),
        ("data.sources.7.path=x", "not a position in a list of 1"),
        ("optimizer.lr.x=1", "lr is a value"),
        ("seed.x=1", "invalid type: map, expected u64"),
    ] {
        let error = parse(BASE, None, &[set]).unwrap_err();
        assert!(error.contains(expected), "{set}: {error}");
    }
    let error = parse(BASE, Some("smok"), &[]).unwrap_err();
    assert!(error.contains("no profile \"smok\"; it has: smoke"), "{error}");
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    for text in [
        "",
        "\0",
        "method",
        "[",
        "profile = 3",
        "[profile]\nx = 1",
        "[profile.a.profile.b]\nseed = 1",
        "freeze = [{}]",
        "💥 = 1",
    ] {
        assert!(parse(text, None, &[]).is_err(), "{text:?}");
        assert!(parse(text, Some("a"), &["a.b=1"]).is_err(), "{text:?}");
    }
}

#[test]
fn the_projects_recipes_hold_in_every_profile() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    for method in METHODS {
        let file = files.iter().find(|f| f.file_stem().is_some_and(|s| s == method.name));
        let file = file.unwrap_or_else(|| panic!("{} has no recipe", method.name));
        for profile in [None, Some("smoke"), Some("paper")] {
            let recipe = Recipe::load(file, profile, &[]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(recipe.method, method.name);
        }
    }
}

#[test]
fn the_recipe_of_several_tasks_holds_in_every_profile() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/continual.toml");
    let tasks = |profile, sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let chain = Chain::load(&file, profile, &sets).unwrap_or_else(|e| panic!("{profile:?}: {e}"));
        chain.expect("several tasks")
    };
    for (profile, count) in [(None, 2), (Some("smoke"), 2), (Some("lab"), 5), (Some("paper"), 8)] {
        let chain = tasks(profile, &[]);
        assert_eq!((chain.tasks.len(), chain.tests.len()), (count, count), "{profile:?}");
        assert!(
            chain.tasks.iter().all(|task| task.recipe.method == "cclip"),
            "{profile:?}"
        );
    }
    // what was read is a recipe that is read the same
    let lab = tasks(Some("lab"), &["seed=3"]);
    let again = Chain::parse(&lab.source, &file, None, &[])
        .unwrap()
        .expect("several tasks");
    assert_eq!(again.tasks, lab.tasks);
    assert_eq!(again.tasks[0].recipe.seed, 3);
    assert!(
        Chain::load(&file.with_file_name("clip.toml"), None, &[])
            .unwrap()
            .is_none()
    );
}

#[test]
fn replay_adds_a_part_of_all_former_tasks() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/continual.toml");
    let sets = ["continual.replay=16".to_owned()];
    let chain = Chain::load(&file, Some("lab"), &sets).unwrap().expect("several tasks");
    let takes: Vec<Vec<f64>> = chain
        .tasks
        .iter()
        .map(|task| task.recipe.data.sources.iter().map(|source| source.take).collect())
        .collect();
    assert_eq!(takes[0], [160.0]);
    assert_eq!(takes[2], [160.0, 16.0, 16.0]);
    assert_eq!(takes[4], [160.0, 16.0, 16.0, 16.0, 16.0]);
    // what is measured is each task's own
    assert!(chain.tests.iter().all(|test| test.recipe.data.sources.len() == 1));
}
