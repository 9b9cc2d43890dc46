//! Sentence encoders against sentence-transformers, on tiny folders that it saved (scripts/fixtures/sentence.py).

mod common;

use std::fs;
use std::path::Path;

use bifocal_models::open::{TextEncoder, TextOptions, open_text};
use bifocal_models::text::{Attention, Pooling};
use common::{Numbers, assert_close, edited, fixture, worst_cosine};
use serde_json::{Value, json};

fn lines() -> Vec<String> {
    serde_json::from_str(&fs::read_to_string(fixture("sentence/lines.json")).unwrap()).unwrap()
}

fn open(name: &str, prompt: Option<&str>) -> TextEncoder {
    let options = TextOptions {
        prompt: prompt.map(str::to_owned),
        ..TextOptions::default()
    };
    open_text(&fixture(&format!("sentence/{name}")), &options).unwrap()
}

fn embed(encoder: &TextEncoder, unit: bool) -> Vec<f32> {
    let lines = lines();
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (mut rows, dim) = encoder.embed(&texts).unwrap();
    for (row, text) in rows.chunks_exact_mut(dim).zip(&texts) {
        assert_close(&encoder.embed(&[*text]).unwrap().0, row, 1e-5, "alone and together");
        if unit {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= length);
        }
    }
    rows
}

/// `unit`: whether the reference ends with a scaling to unit length, which is left to whoever embeds.
fn check(name: &str, pooling: Pooling, attention: Attention, prompts: &[Option<&str>], unit: bool) {
    let numbers = Numbers::open(&format!("sentence/{name}/expected.safetensors"));
    for &prompt in prompts {
        let encoder = open(name, prompt);
        assert_eq!((encoder.pooling, encoder.attention), (pooling, attention), "{name}");
        let (found, expected) = (embed(&encoder, unit), numbers.get(prompt.unwrap_or("none")));
        assert_close(&found, &expected, 2e-4, &format!("{name} {prompt:?}"));
        assert!(worst_cosine(&found, &expected, encoder.tower.dim()) > 0.9999);
    }
}

#[test]
fn embeddings_equal_those_of_sentence_transformers() {
    use Attention::{Bidirectional, Causal};
    let prompts = [None, Some("query"), Some("passage")];
    check("e5", Pooling::Mean, Bidirectional, &prompts, true);
    check("labse", Pooling::Cls, Bidirectional, &[None], true);
    check(
        "instructor",
        Pooling::Mean,
        Bidirectional,
        &[None, Some("query")],
        false,
    );
    check("maximum", Pooling::Max, Bidirectional, &[None], false);
    check(
        "embedding-gemma",
        Pooling::Mean,
        Bidirectional,
        &[None, Some("query")],
        true,
    );
    let prompts = [None, Some("query"), Some("document")];
    check("qwen3-embedding", Pooling::Last, Causal, &prompts, true);
}

#[test]
fn a_text_that_is_cut_keeps_its_end_and_says_how_much_is_missing() {
    for (name, longest) in [("e5", 24), ("qwen3-embedding", 24), ("maximum", 16)] {
        let encoder = open(name, None);
        let lines = lines();
        let encoding = encoder.tokenize(&[lines.last().unwrap()]).unwrap().remove(0);
        let special = encoder.tokenizer.special();
        assert_eq!(
            (encoding.ids.len(), encoding.ids.last().copied()),
            (longest, special.eos),
            "{name}"
        );
        let whole = encoder.tokenizer.encode_to(lines.last().unwrap(), true, None).unwrap();
        let prompt = if name == "e5" {
            encoder.tokenizer.encode("query: ", false).unwrap().ids.len()
        } else {
            0
        };
        assert!(encoding.cut > 0);
        assert!(
            (encoding.cut + longest).abs_diff(whole.ids.len() + prompt) <= 1,
            "{name}: {}",
            encoding.cut
        );
    }
}

#[test]
fn a_prompt_makes_another_encoder() {
    let (plain, query) = (open("instructor", None), open("instructor", Some("query")));
    assert_ne!(plain.fingerprint, query.fingerprint);
    assert_eq!(
        open("e5", None).fingerprint,
        open("e5", Some("query")).fingerprint,
        "the default one"
    );
    let options = TextOptions {
        prompt: Some("title".to_owned()),
        ..TextOptions::default()
    };
    let error = open_text(&fixture("sentence/e5"), &options).unwrap_err().to_string();
    assert!(error.contains("passage, query"), "{error}");
}

/// The files of sentence-transformers before version 5: a switch for each pooling, the transformer in a folder of its own.
#[test]
fn older_layouts_mean_the_same() {
    let switches = edited("sentence/e5", "1_Pooling/config.json", |config| {
        *config = json!({"word_embedding_dimension": 24, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true,
            "pooling_mode_max_tokens": false, "pooling_mode_mean_sqrt_len_tokens": false});
    });
    let expected = Numbers::open("sentence/e5/expected.safetensors").get("none");
    let found = open_text(switches.path(), &TextOptions::default()).unwrap();
    assert_close(&embed(&found, true), &expected, 2e-4, "switches");
    let apart = edited("sentence/e5", "modules.json", |modules| {
        modules[0]["path"] = json!("0_Transformer")
    });
    let inner = apart.path().join("0_Transformer");
    fs::create_dir(&inner).unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::rename(apart.path().join(file), inner.join(file)).unwrap();
    }
    let length = json!({"max_seq_length": 24, "do_lower_case": false});
    fs::write(inner.join("sentence_bert_config.json"), length.to_string()).unwrap();
    let found = open_text(apart.path(), &TextOptions::default()).unwrap();
    assert_close(&embed(&found, true), &expected, 2e-4, "apart");
}

fn refused(name: &str, file: &str, change: impl FnOnce(&mut Value)) -> String {
    let dir = edited(&format!("sentence/{name}"), file, change);
    opened(dir.path())
}

fn opened(path: &Path) -> String {
    match open_text(path, &TextOptions::default()) {
        Ok(_) => panic!("it was opened: {:?}", fs::read_to_string(path.join("config.json"))),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_would_change_the_numbers_is_refused() {
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change, &str); 13] = [
        (
            "e5",
            "1_Pooling/config.json",
            |c| c["pooling_mode"] = json!(["mean", "cls"]),
            "more than one pooling",
        ),
        (
            "e5",
            "1_Pooling/config.json",
            |c| c["pooling_mode"] = json!("weightedmean"),
            "weightedmean",
        ),
        ("e5", "1_Pooling/config.json", |c| c["other"] = json!(1), "other"),
        ("e5", "modules.json", |c| c[1]["type"] = json!("x.CNN"), "CNN"),
        ("e5", "modules.json", |c| c[1]["path"] = json!("../.."), "leads out"),
        (
            "labse",
            "modules.json",
            |c| c.as_array_mut().unwrap().swap(2, 3),
            "scales its embeddings last",
        ),
        (
            "labse",
            "2_Dense/config.json",
            |c| c["activation_function"] = json!("torch.nn.ReLU"),
            "ReLU",
        ),
        (
            "labse",
            "2_Dense/config.json",
            |c| c["use_residual"] = json!(true),
            "use_residual",
        ),
        (
            "labse",
            "2_Dense/config.json",
            |c| c["in_features"] = json!(25),
            "linear.weight",
        ),
        (
            "e5",
            "sentence_bert_config.json",
            |c| c["do_lower_case"] = json!(true),
            "do_lower_case",
        ),
        (
            "e5",
            "sentence_bert_config.json",
            |c| c["modality_config"]["text"]["method_output_name"] = json!("pooler_output"),
            "pooler_output",
        ),
        (
            "e5",
            "config.json",
            |c| c["max_position_embeddings"] = json!(41),
            "position_embeddings",
        ),
        (
            "e5",
            "config.json",
            |c| c["pad_token_id"] = json!(usize::MAX),
            "positions",
        ),
    ];
    for (name, file, change, expected) in cases {
        let error = refused(name, file, change);
        assert!(error.contains(expected), "{name} {file}: {error}");
    }
    // two layers that do not follow each other
    let error = refused("instructor", "modules.json", |modules| {
        modules.as_array_mut().unwrap().swap(2, 3)
    });
    assert!(error.contains("40"), "{error}");
}
