//! Against SentencePiece itself, on tiny models that it trained (scripts/fixtures/sentencepiece_models.py).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.model"))).unwrap()
}

fn expected() -> (Vec<String>, BTreeMap<String, Vec<Vec<u32>>>) {
    let text = fs::read_to_string(folder().join("expected.json")).unwrap();
    let mut all: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let lines = serde_json::from_value(all.remove("lines").unwrap()).unwrap();
    let models = all
        .into_iter()
        .map(|(name, ids)| (name, serde_json::from_value(ids).unwrap()));
    (lines, models.collect())
}

#[test]
fn ids_equal_those_of_sentencepiece() {
    let (lines, models) = expected();
    assert_eq!(models.len(), 4);
    for (name, expected) in models {
        let tokenizer = Tokenizer::open(&folder().join(format!("{name}.model"))).unwrap();
        for (line, ids) in lines.iter().zip(&expected) {
            let found = tokenizer.encode(line, true).unwrap().ids;
            assert_eq!(&found, ids, "{name}: {line:?}: {:?}", tokenizer.decode(&found));
        }
        let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
        let batch = tokenizer.encode_batch(&texts, true).unwrap();
        assert!(
            batch.iter().zip(&expected).all(|(found, ids)| found.ids == *ids),
            "{name}"
        );
    }
}

/// What a folder's settings add around texts; and fairseq's ids, which are one higher.
#[test]
fn a_folder_says_what_comes_around_a_text() {
    let (lines, models) = expected();
    let open = |config: Value| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sentencepiece.bpe.model"), bytes("unigram")).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        Tokenizer::open(dir.path())
    };
    let llama =
        open(json!({"tokenizer_class": "LlamaTokenizer", "add_eos_token": true, "model_max_length": 9})).unwrap();
    let t5 = open(json!({"tokenizer_class": "T5TokenizerFast"})).unwrap();
    let xlmr = open(json!({"tokenizer_class": "XLMRobertaTokenizer"})).unwrap();
    assert_eq!(
        (llama.special().bos, llama.special().eos, llama.max_length()),
        (Some(1), Some(2), Some(9))
    );
    assert_eq!(
        (xlmr.special().bos, xlmr.special().pad, xlmr.special().unk),
        (Some(0), Some(1), Some(3))
    );
    for (line, ids) in lines.iter().zip(&models["unigram"]) {
        let found = llama.encode_to(line, true, None).unwrap().ids;
        assert_eq!(found, [&[1], &ids[..], &[2]].concat());
        assert_eq!(t5.encode(line, true).unwrap().ids, [&ids[..], &[2]].concat());
        let shifted: Vec<u32> = ids.iter().map(|&id| if id == 0 { 3 } else { id + 1 }).collect();
        assert_eq!(
            xlmr.encode(line, true).unwrap().ids,
            [&[0], &shifted[..], &[2]].concat()
        );
    }
    let error = open(json!({"tokenizer_class": "OtherTokenizer"}))
        .unwrap_err()
        .to_string();
    assert!(error.contains("OtherTokenizer"), "{error}");
}

#[test]
fn damaged_models_are_refused() {
    let whole = bytes("unigram");
    let path = Path::new("x.model");
    for end in 0..whole.len().min(600) {
        // what is cut between two fields is still a model, of fewer pieces
        let _ = build(path, &whole[..end], Around::default()).map(|t| t.encode("a cat", true));
    }
    assert!(build(path, &[], Around::default()).is_err());
    assert!(build(path, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], Around::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic(at in 0usize..8000, byte in any::<u8>(), line in ".{0,20}") {
        for name in ["unigram", "bpe-bytes"] {
            let mut bytes = bytes(name);
            let at = bytes.len() - 1 - at % bytes.len();
            bytes[at] = byte;
            if let Ok(tokenizer) = build(Path::new("x.model"), &bytes, Around::default()) {
                let _ = tokenizer.encode(&line, true);
            }
        }
    }
}
