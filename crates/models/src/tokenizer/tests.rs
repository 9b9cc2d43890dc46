use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::weights::WeightsError;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The reference's tokens: lines, and for each model their ids.
fn reference(text: &str) -> (Vec<String>, BTreeMap<String, Vec<Vec<u32>>>) {
    let mut all: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
    let lines = serde_json::from_value(all.remove("lines").unwrap()).unwrap();
    let models = all
        .into_iter()
        .filter_map(|(name, ids)| Some((name, serde_json::from_value(ids).ok()?)))
        .collect();
    (lines, models)
}

fn small(name: &str) -> Tokenizer {
    let file = if name == "wordpiece" {
        "tokenizer_wordpiece".into()
    } else {
        format!("tokenizer_{name}.gguf")
    };
    Tokenizer::open(&fixtures().join(file)).unwrap()
}

/// Compares every line, one by one, in a batch, and without special tokens.
fn assert_equal(tokenizer: &Tokenizer, lines: &[String], expected: &[Vec<u32>]) {
    assert_eq!(lines.len(), expected.len());
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    let batch = tokenizer.encode_batch(&texts, true).unwrap();
    for ((line, ids), batch) in lines.iter().zip(expected).zip(&batch) {
        let encoding = tokenizer.encode_to(line, true, None).unwrap();
        assert_eq!(&encoding.ids, ids, "{line:?}: {:?}", tokenizer.decode(&encoding.ids));
        assert_eq!((&encoding, encoding.cut), (batch, 0), "{line:?}"); // none of the lines is too long
        let (prefix, suffix) = (tokenizer.prefix().len(), tokenizer.suffix().len());
        let plain = tokenizer.encode(line, false).unwrap().ids;
        assert_eq!(plain, ids[prefix..ids.len() - suffix], "{line:?}");
    }
}

#[test]
fn small_models_of_every_kind_equal_the_reference() {
    let (lines, models) = reference(include_str!("../../tests/fixtures/tokenizers_small.json"));
    assert!(lines.len() > 40 && lines[0].is_empty());
    assert_eq!(models.len(), 6);
    for (name, expected) in models {
        assert_equal(&small(&name), &lines, &expected);
    }
}

#[test]
fn real_models_equal_the_reference() {
    let Some(models) = std::env::var_os("BIFOCAL_MODELS").map(PathBuf::from) else {
        println!("skipped: BIFOCAL_MODELS does not name a folder of encoders");
        return;
    };
    let text = include_str!("../../tests/fixtures/tokenizers_real.json");
    let (lines, expected) = reference(text);
    for name in ["smollm2", "gemma3", "minilm"] {
        assert_equal(&Tokenizer::open(&models.join(name)).unwrap(), &lines, &expected[name]);
    }

    let minilm = Tokenizer::open(&models.join("minilm")).unwrap();
    // not the 128 of tokenizer.json, nor the 512 of tokenizer_config.json
    assert_eq!(minilm.max_length(), Some(256));
    let special = minilm.special();
    assert_eq!(
        (special.cls, special.sep, special.pad, special.bos),
        (Some(101), Some(102), Some(0), None)
    );
    let long = lines.iter().find(|line| line.starts_with("Lorem")).unwrap();
    let cut: Value = serde_json::from_str::<Value>(text).unwrap()["minilm_cut_to_12"].clone();
    let whole = minilm.encode(long, true).unwrap().ids.len();
    let encoding = minilm.encode_to(long, true, Some(12)).unwrap();
    assert_eq!(serde_json::to_value(&encoding.ids).unwrap(), cut);
    assert_eq!(encoding.cut, whole - 12);

    let gemma = Tokenizer::open(&models.join("gemma3")).unwrap();
    assert_eq!(
        (gemma.special().bos, gemma.special().eos, gemma.vocab_size()),
        (Some(2), Some(1), 262_144)
    );
    assert_eq!((gemma.prefix(), gemma.max_length()), (&[2][..], Some(32_768)));
    let smollm = Tokenizer::open(&models.join("smollm2")).unwrap();
    assert_eq!(
        (smollm.special().eos, smollm.prefix().len(), smollm.vocab_size()),
        (Some(2), 0, 49_152)
    );
    for tokenizer in [&gemma, &smollm] {
        let text = "  Zwei Linsen, ein Fokus: 2 lenses — 👓\t!";
        assert_eq!(
            tokenizer.decode(&tokenizer.encode(text, false).unwrap().ids).unwrap(),
            text
        );
    }
}

#[test]
fn special_tokens_and_lengths_come_from_the_model() {
    let wordpiece = small("wordpiece");
    assert_eq!(
        (wordpiece.prefix(), wordpiece.suffix(), wordpiece.max_length()),
        (&[2][..], &[3][..], Some(256))
    );
    let special = wordpiece.special();
    assert_eq!(
        (special.pad, special.unk, special.cls, special.sep),
        (Some(0), Some(1), Some(2), Some(3))
    );
    let gemma = small("gemma");
    assert_eq!(
        (gemma.special().bos, gemma.prefix(), gemma.suffix().len()),
        (Some(2), &[2][..], 0)
    );
    // llama.cpp adds BOS to these unless the file says otherwise
    assert_eq!(
        (small("llama").prefix(), small("llama3").prefix()),
        (&[1][..], &[1][..])
    );
    assert!(small("smollm").prefix().is_empty());
    assert_eq!(small("smollm").token_to_id("<|im_end|>"), Some(2));
    assert_eq!(small("smollm").id_to_token(0).as_deref(), Some("<|endoftext|>"));
}

#[test]
fn truncation_keeps_the_last_special_token_and_counts() {
    let tokenizer = small("wordpiece").with_max_length(Some(5)).unwrap();
    let whole = tokenizer.encode_to("the cat sat on the mat", true, None).unwrap();
    assert_eq!(whole.cut, 0);
    let cut = tokenizer.encode("the cat sat on the mat", true).unwrap();
    assert_eq!(cut.ids, [&whole.ids[..4], &[3]].concat());
    assert_eq!(cut.cut, whole.ids.len() - 5);
    assert_eq!(
        tokenizer.encode("the cat sat on the mat", false).unwrap().ids,
        whole.ids[1..6]
    );
    assert_eq!(
        tokenizer.encode_batch(&["", "the cat sat on the mat"], true).unwrap()[1],
        cut
    );
    // no room for any text, and not even for the special tokens
    assert_eq!(tokenizer.encode_to("cat", true, Some(2)).unwrap().ids, [2, 3]);
    let error = tokenizer.encode_to("cat", true, Some(1)).unwrap_err();
    assert!(
        matches!(
            error,
            TokenizerError::MaxLength {
                max_length: 1,
                special: 2
            }
        ),
        "{error}"
    );
    assert!(tokenizer.with_max_length(Some(1)).is_err());
}

#[test]
fn long_runs_take_linear_time_and_stay_complete() {
    // regular expressions with look-ahead could give up, and BPE could be quadratic
    for name in ["smollm", "llama3", "qwen2", "gemma", "llama"] {
        let tokenizer = small(name);
        for run in [" ", "\t ", "a", "é", "1", "!", "\u{3000}"] {
            let text = format!("x{}y", run.repeat(20_000));
            let ids = tokenizer.encode_to(&text, false, None).unwrap().ids;
            assert_eq!(tokenizer.decode(&ids).unwrap().trim(), text, "{name} {run:?}");
        }
    }
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| Tokenizer::open(path).unwrap_err().to_string();
    assert!(message(folder.path()).contains("without tokenizer.json"));
    assert!(message(&folder.path().join("nothing")).contains("check that the path exists"));
    let json = folder.path().join("tokenizer.json");
    for content in ["", "{}", "[1]", r#"{"version":"1.0","model":{"type":"Magic"}}"#] {
        std::fs::write(&json, content).unwrap();
        assert!(message(folder.path()).contains("no tokenizer.json"), "{content}");
        assert!(message(&json).contains("no tokenizer.json"), "{content}");
    }
}

/// A GGUF file of metadata only: texts, lists of texts, numbers.
fn gguf(entries: &[(&str, Entry)]) -> Result<Tokenizer, TokenizerError> {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let mut bytes = [
        b"GGUF\x03\0\0\0".as_slice(),
        &[0; 8],
        &(entries.len() as u64).to_le_bytes(),
    ]
    .concat();
    for (key, entry) in entries {
        bytes.extend(text(key));
        match entry {
            Entry::Text(value) => bytes.extend([&8u32.to_le_bytes()[..], &text(value)].concat()),
            Entry::Number(value) => bytes.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Entry::Texts(values) => {
                bytes.extend(
                    [
                        &9u32.to_le_bytes()[..],
                        &8u32.to_le_bytes(),
                        &(values.len() as u64).to_le_bytes(),
                    ]
                    .concat(),
                );
                bytes.extend(values.iter().flat_map(|v| text(v)));
            }
            Entry::Scores(values) => {
                bytes.extend(
                    [
                        &9u32.to_le_bytes()[..],
                        &6u32.to_le_bytes(),
                        &(values.len() as u64).to_le_bytes(),
                    ]
                    .concat(),
                );
                bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            }
        }
    }
    Tokenizer::from_gguf(&Gguf::from_bytes(Path::new("x.gguf"), bytes)?)
}

enum Entry {
    Text(&'static str),
    Number(u32),
    Texts(&'static [&'static str]),
    Scores(&'static [f32]),
}

#[test]
fn incomplete_and_contradictory_metadata_are_named() {
    use Entry::{Number, Scores, Text, Texts};
    let arch = ("general.architecture", Text("llama"));
    let gpt2 = || ("tokenizer.ggml.model", Text("gpt2"));
    let llama = || ("tokenizer.ggml.model", Text("llama"));
    let pre = || ("tokenizer.ggml.pre", Text("smollm"));
    let tokens = || ("tokenizer.ggml.tokens", Texts(&["a", "b", "ab"]));
    let message = |entries: Vec<(&'static str, Entry)>| match gguf(&entries) {
        Ok(_) => "built".to_owned(),
        Err(e) => e.to_string(),
    };
    let arch2 = || ("general.architecture", Text("llama"));
    assert!(message(vec![arch]).contains("\"tokenizer.ggml.model\" is missing"));
    assert!(message(vec![arch2(), gpt2()]).contains("\"tokenizer.ggml.tokens\" is missing"));
    assert!(message(vec![arch2(), gpt2(), tokens()]).contains("pre-tokenizer \"default\""));
    assert!(message(vec![arch2(), gpt2(), pre(), tokens()]).contains("no merges"));
    let merges = |list| ("tokenizer.ggml.merges", Texts(list));
    assert_eq!(
        message(vec![arch2(), gpt2(), pre(), tokens(), merges(&["a b"])]),
        "built"
    );
    assert!(message(vec![arch2(), gpt2(), pre(), tokens(), merges(&["ab"])]).contains("\"ab\" does not consist"));
    assert!(message(vec![arch2(), gpt2(), pre(), tokens(), merges(&["a c"])]).contains("its tokenizer"));
    let bos = |id| ("tokenizer.ggml.bos_token_id", Number(id));
    assert!(message(vec![arch2(), gpt2(), pre(), tokens(), merges(&["a b"]), bos(3)]).contains("is 3, but"));
    assert!(message(vec![arch2(), llama(), tokens()]).contains("neither merges nor scores"));
    let scores = |list| ("tokenizer.ggml.scores", Scores(list));
    assert!(message(vec![arch2(), llama(), tokens(), scores(&[0.0])]).contains("another number of scores"));
    assert!(message(vec![arch2(), llama(), tokens(), scores(&[0.0; 3])]).contains("names none"));
    assert_eq!(
        message(vec![arch2(), llama(), tokens(), scores(&[0.0; 3]), bos(0)]),
        "built"
    );
    assert!(message(vec![arch2(), ("tokenizer.ggml.model", Text("t5")), tokens()]).contains("model \"t5\""));
    assert!(matches!(
        gguf(&[]),
        Err(TokenizerError::Weights(WeightsError::Metadata { .. }))
    ));
}

#[test]
fn merges_are_ordered_by_value_then_by_the_longer_left_part() {
    let pieces: Vec<String> = ["a", "b", "c", "ab", "bc", "abc", "a"].map(String::from).to_vec();
    let pairs = |value: fn(usize) -> f64| {
        merges::derive(&pieces, value)
            .iter()
            .map(|(l, r)| format!("{l}+{r}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(pairs(|i| -(i as f64)), ["a+b", "b+c", "ab+c", "a+bc"]);
    assert_eq!(pairs(|i| i as f64), ["ab+c", "a+bc", "b+c", "a+b"]);
    assert_eq!(pairs(|_| f64::NAN), ["ab+c", "a+bc", "a+b", "b+c"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_encodes_in_every_kind(text in "\\PC{0,40}|[ \\t\\r\\n\u{0}-\u{1f}a-c1é▁😀]{0,60}") {
        thread_local! {
            static ALL: Vec<Tokenizer> =
                ["smollm", "llama3", "qwen2", "gemma", "llama", "wordpiece"].map(small).to_vec();
        }
        ALL.with(|all| {
            for tokenizer in all {
                let encoding = tokenizer.encode(&text, true).unwrap();
                assert!(encoding.ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                tokenizer.decode(&encoding.ids).unwrap();
            }
            // bytes know every text, and forget nothing
            let (smollm, text) = (&all[0], text.replace("<|", ""));
            let ids = smollm.encode_to(&text, false, None).unwrap().ids;
            assert_eq!(smollm.decode(&ids).unwrap(), text);
        });
    }

    #[test]
    fn word_by_word_is_as_the_whole(
        texts in prop::collection::vec("[ -~]{0,40}|((the|cat|'s|<\\|endoftext\\|>|\\[MASK\\]|##s|3\\.14|!)( |)){0,12}|[ a-cé\\t]{0,9}", 1..5)
    ) {
        thread_local! {
            static BOTH: [Tokenizer; 2] =
                ["tokenizer_clip", "tokenizer_wordpiece"].map(|name| Tokenizer::open(&fixtures().join(name)).unwrap());
        }
        BOTH.with(|both| {
            for tokenizer in both {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let batch = tokenizer.encode_batch(&texts, false).unwrap();
                for (text, found) in texts.iter().zip(batch) {
                    let whole = tokenizer.whole(text).unwrap();
                    let ascii = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
                    assert_eq!(tokenizer.by_words(text), ascii.then(|| Ok(whole.clone())));
                    assert!(whole.starts_with(&found.ids) && whole.len() == found.ids.len() + found.cut);
                }
            }
        });
    }

    #[test]
    fn a_mutated_tokenizer_json_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)
    ) {
        let mut json = include_bytes!("../../tests/fixtures/tokenizer_wordpiece/tokenizer.json").to_vec();
        for (at, byte) in changes {
            let at = at.index(json.len());
            json[at] = byte;
        }
        if let Ok(tokenizer) = Tokenizer::from_json(Path::new("mutated"), &json) {
            let _ = tokenizer.encode("the cat [MASK] 猫 123", true);
            let _ = tokenizer.decode(&[0, 7, 100_000]);
        }
    }

    #[test]
    fn a_mutated_gguf_tokenizer_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5), sentencepiece: bool
    ) {
        let mut bytes = if sentencepiece {
            include_bytes!("../../tests/fixtures/tokenizer_gemma.gguf").to_vec()
        } else {
            include_bytes!("../../tests/fixtures/tokenizer_smollm.gguf").to_vec()
        };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let built = Gguf::from_bytes(Path::new("mutated"), bytes).map_err(TokenizerError::from);
        if let Ok(tokenizer) = built.and_then(|gguf| Tokenizer::from_gguf(&gguf)) {
            let _ = tokenizer.encode("the cat <eos>  猫 123", true);
            let _ = tokenizer.decode(&[0, 7, 100_000]);
        }
    }
}

#[test]
fn words_are_not_taken_apart_where_spaces_are_part_of_tokens() {
    for name in ["smollm", "llama3", "qwen2", "gemma", "llama"] {
        assert!(small(name).words.is_none(), "{name}");
    }
}

/// CLIP's merges as far as the lines need them (scripts/fixtures/clip_tokenizer.py).
#[test]
fn clip_splits_as_open_clip_does() {
    let clip = Tokenizer::open(&fixtures().join("tokenizer_clip")).unwrap();
    let (lines, expected) = reference(include_str!("../../tests/fixtures/tokenizer_clip/expected.json"));
    assert_equal(&clip, &lines, &expected["clip"]);
    assert_eq!(clip.max_length(), Some(77));
    // vectors that were computed from the published file by other means
    for (line, ids) in [
        ("a photo of a cat", &[49406, 320, 1125, 539, 320, 2368, 49407][..]),
        ("You should've done this", &[49406, 592, 1535, 1200, 1700, 589, 49407]),
        (
            "the cat's 3.14 — test...",
            &[49406, 518, 2368, 568, 274, 269, 272, 275, 2005, 1628, 678, 49407],
        ),
        (
            "Café №42, naïve!",
            &[49406, 15304, 8604, 500, 275, 273, 267, 1097, 35689, 563, 256, 49407],
        ),
        (
            "2024年の猫 🐱",
            &[
                49406, 273, 271, 273, 275, 38780, 112, 21575, 163, 234, 360, 22979, 49407,
            ],
        ),
    ] {
        assert_eq!(clip.encode(line, true).unwrap().ids, ids, "{line}");
    }
    let long = "a cat ".repeat(60);
    let cut = clip.encode(&long, true).unwrap();
    assert_eq!((cut.ids.len(), cut.ids[76], cut.cut), (77, 49407, 45));
}
