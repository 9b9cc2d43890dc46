//! A recipe that leaves patches out in training: that it does, and where it could not, that it says so.

mod common;
#[path = "common/ran.rs"]
mod ran;

use std::path::Path;

use bifocal_align::train::{Options, Silent, TrainError, overview, run};
use ran::Ran;

#[test]
fn the_first_step_sees_less_and_the_finished_model_knows_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let ran = |share: f64| {
        let share_set = format!("vision.patch_dropout={share}");
        let sets = [share_set.as_str(), "schedule.steps=2", "optimizer.lr=1e-12"];
        let recipe = common::recipe("clip", &model, &dir.path().join("cache"), &sets);
        let out = dir.path().join(format!("run-{share}"));
        let options = Options {
            out: out.clone(),
            resume: false,
        };
        let bundle = run(&recipe, &options, &mut Silent).unwrap().bundle.unwrap();
        let manifest = std::fs::read_to_string(bundle.join("bifocal.json")).unwrap();
        assert!(!manifest.contains("patch_dropout"), "{manifest}");
        // what held-out pictures and captions have to do with each other, which is measured without
        let evaluated = std::fs::read_to_string(out.join("evaluations.jsonl")).unwrap();
        (Ran::read(&out), evaluated)
    };
    let (whole, half, most) = (ran(0.0), ran(0.5), ran(0.99));
    let first = |of: &(Ran, String)| of.0.losses().next().unwrap();
    assert!((first(&whole) - first(&half)).abs() > 1e-4);
    assert!((first(&half) - first(&most)).abs() > 1e-4);
    // nothing was learnt, so that evaluation sees three times the same model
    assert_eq!(whole.1, half.1);
    assert_eq!(whole.1, most.1);
}

fn refused(dir: &Path, method: &str, sets: &[&str]) -> String {
    let model = common::write_clip(dir);
    let sets: Vec<&str> = ["vision.patch_dropout=0.5"].iter().chain(sets).copied().collect();
    let recipe = common::recipe(method, &model, &dir.join("cache"), &sets);
    match overview(&recipe) {
        Err(TrainError::Recipe(error)) => error.to_string(),
        other => panic!("{method} {sets:?}: {:?}", other.map(|_| "opened")),
    }
}

#[test]
fn where_nothing_would_be_left_out_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // a frozen tower's features are computed once
    for (method, sets) in [
        ("lit", &[][..]),
        ("sail", &[]),
        ("clip", &["freeze=[{ pattern = \"vision.*\", frozen = true }]"]),
    ] {
        let error = refused(dir.path(), method, sets);
        assert!(error.contains("learns in no stage"), "{method}: {error}");
    }
    // convolutions have no patches
    let resnet = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/resnet-open-clip");
    let error = refused(dir.path(), "clip", &[&format!("vision.model={resnet:?}")]);
    assert!(
        error.contains("vision.patch_dropout") && error.contains("name a CLIP"),
        "{error}"
    );
}

#[test]
fn what_contradicts_it_is_refused_when_the_recipe_is_read() {
    let base = "method = \"clip\"\nvision.model = \"a\"\ntext.model = \"b\"\nschedule.steps = 1\ndata.sources = [{ path = \"c\" }]\n";
    let parsed = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        bifocal_align::Recipe::parse(base, Path::new("r.toml"), None, &sets).map_err(|error| error.to_string())
    };
    assert_eq!(parsed(&[]).unwrap().vision.patch_dropout, 0.0);
    assert_eq!(
        parsed(&["vision.patch_dropout=0.75"]).unwrap().vision.patch_dropout,
        0.75
    );
    for share in ["1", "-0.5", "nan"] {
        let error = parsed(&[&format!("vision.patch_dropout={share}")]).unwrap_err();
        assert!(error.contains("vision.patch_dropout"), "{share}: {error}");
    }
    let error = parsed(&["vision.patch_dropout=0.5", "vision.codes={ model = \"d\" }"]).unwrap_err();
    assert!(error.contains("reads codes"), "{error}");
}
