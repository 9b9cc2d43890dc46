//! Writing: token by token against all at once, and against what transformers writes (scripts/fixtures/generate.py).

mod common;

use bifocal_models::generate::{Beams, GenerateError, Repeats, Sampling, Writer};
use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::{Attention, Llm, LlmCache, LlmNames, TextTower, TokenBatch, TokensError};
use bifocal_models::weights::gguf::Gguf;
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;
use common::{assert_close, fixture, folder};
use serde_json::Value;

fn open(name: &str) -> Llm {
    let gguf = Gguf::open(&fixture(&format!("tiny-{name}.gguf"))).unwrap();
    let llm = Llm::from_gguf(&gguf, Attention::Causal).unwrap();
    llm.with_output(&gguf, LlmNames::Gguf).unwrap()
}

/// The same text in pieces of these sizes and as a whole.
fn in_pieces(model: &Llm, ids: &[u32], pieces: &[usize]) -> Vec<f32> {
    let mut cache = LlmCache::new(model, 1);
    let (mut rows, mut at) = (Vec::new(), 0);
    for &n in pieces {
        let x = model.rows_of(&ids[at..at + n]);
        rows.extend(values(model.extend(x, &[n], &mut cache).unwrap()));
        at += n;
    }
    assert_eq!((at, cache.lengths()), (ids.len(), &[ids.len()][..]));
    rows
}

#[test]
fn token_by_token_is_as_all_at_once() {
    let ids: Vec<u32> = (0..30).map(|i| (i * 17 + 3) % 40).collect();
    // gemma's windows of 6 tokens are full long before the end
    for name in ["llama", "llama3", "qwen2", "qwen3", "gemma3"] {
        let model = open(name);
        let whole = values(model.hidden(&TokenBatch::pack(std::slice::from_ref(&ids))));
        for pieces in [vec![1; 30], vec![30], vec![7, 1, 1, 12, 3, 6], vec![20, 10]] {
            let found = in_pieces(&model, &ids, &pieces);
            assert_close(&found, &whole, 2e-5, &format!("{name} in {} pieces", pieces.len()));
        }
    }
}

#[test]
fn sequences_beside_each_other_do_not_see_each_other() {
    let model = open("gemma3");
    let texts: [Vec<u32>; 3] = [
        vec![3, 1, 4, 1, 5, 9, 2, 6, 5, 3],
        vec![2, 7],
        vec![1, 8, 2, 8, 1, 8, 2],
    ];
    let mut cache = LlmCache::new(&model, 3);
    let first: Vec<u32> = [&texts[0][..4], &texts[1][..1], &texts[2][..6]].concat();
    model.extend(model.rows_of(&first), &[4, 1, 6], &mut cache).unwrap();
    let second: Vec<u32> = [&texts[0][4..], &texts[1][1..], &texts[2][6..]].concat();
    let rows = values(model.extend(model.rows_of(&second), &[6, 1, 1], &mut cache).unwrap());
    let alone = |text: &Vec<u32>, new: usize| {
        let all = values(model.hidden(&TokenBatch::pack(std::slice::from_ref(text))));
        all[all.len() - new * 16..].to_vec()
    };
    let expected = [alone(&texts[0], 6), alone(&texts[1], 1), alone(&texts[2], 1)].concat();
    assert_close(&rows, &expected, 2e-5, "three sequences");
    // and those that are chosen go on from where they were
    let mut chosen = cache.select(&[2, 0, 2]);
    assert_eq!(chosen.lengths(), [7, 10, 7]);
    let rows = values(
        model
            .extend(model.rows_of(&[5, 6, 7]), &[1, 1, 1], &mut chosen)
            .unwrap(),
    );
    let with = |text: &Vec<u32>, id: u32| alone(&text.iter().copied().chain([id]).collect(), 1);
    let expected = [with(&texts[2], 5), with(&texts[0], 6), with(&texts[2], 7)].concat();
    assert_close(&rows, &expected, 2e-5, "chosen sequences");
}

#[test]
fn a_text_goes_on_from_where_it_is_rewound_to() {
    let model = open("qwen3");
    let mut cache = LlmCache::new(&model, 1);
    model.extend(model.rows_of(&[1, 2, 3, 4, 5]), &[5], &mut cache).unwrap();
    model.rewind(&mut cache, 0, 2);
    let rows = values(model.extend(model.rows_of(&[9, 8]), &[2], &mut cache).unwrap());
    let whole = values(model.hidden(&TokenBatch::pack(&[vec![1, 2, 9, 8]])));
    assert_close(&rows, &whole[2 * 24..], 2e-5, "rewound");
}

#[test]
fn what_cannot_be_written_is_refused() {
    let model = open("llama");
    let mut cache = LlmCache::new(&model, 1);
    let most = model.config().context;
    let refused = model.extend(model.rows_of(&vec![1; most + 1]), &[most + 1], &mut cache);
    assert_eq!(
        refused.err(),
        Some(TokensError::TooLong {
            tokens: most + 1,
            limit: most
        })
    );
    assert_eq!(cache.lengths(), [0]);
    let mut both = model.clone();
    both.set_attention(Attention::Bidirectional);
    assert_eq!(
        both.extend(both.rows_of(&[1]), &[1], &mut cache).err(),
        Some(TokensError::LooksAhead)
    );
    let gguf = Gguf::open(&fixture("tiny-llama.gguf")).unwrap();
    let mute = Llm::from_gguf(&gguf, Attention::Causal).unwrap();
    assert_eq!(Writer::new(&mute).err(), Some(GenerateError::NoOutput));
    let mut writer = Writer::new(&model).unwrap();
    let mut write = || writer.write(&Sampling::default(), &Repeats::default(), &mut Rng::new(0));
    assert_eq!(write(), Err(GenerateError::Nothing));
    let vocabulary = model.config().vocabulary;
    let unknown = TokensError::UnknownId { id: 40, vocabulary };
    assert_eq!(writer.read(&[40]), Err(GenerateError::Tokens(unknown)));
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("generate.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

fn written(model: &Llm, prompt: &[u32], repeats: &Repeats, stop: u32) -> Vec<u32> {
    let mut writer = Writer::new(model).unwrap();
    writer.read(prompt).unwrap();
    let mut out = Vec::new();
    while out.len() < 20 && out.last() != Some(&stop) {
        let id = writer.write(&Sampling::default(), repeats, &mut Rng::new(0)).unwrap();
        out.push(id);
    }
    out
}

#[test]
fn it_writes_what_transformers_writes() {
    let (model, expected) = (open("writer"), expected());
    let stop = expected["stop"].as_u64().unwrap() as u32;
    for case in expected["cases"].as_array().unwrap() {
        let prompt = ids(&case["prompt"]);
        let numbers: Vec<f32> = case["logits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap() as f32)
            .collect();
        let mut writer = Writer::new(&model).unwrap();
        writer.read(&prompt).unwrap();
        assert_close(writer.logits().unwrap(), &numbers, 5e-5, "logits");
        let with = |penalty, no_ngram| Repeats { penalty, no_ngram };
        for (key, repeats) in [
            ("greedy", Repeats::default()),
            ("greedy_penalty", with(1.7, 0)),
            ("greedy_no_ngram", with(1.0, 2)),
        ] {
            assert_eq!(written(&model, &prompt, &repeats, stop), ids(&case[key]), "{key}");
        }
        for (key, beams, length_penalty, repeats) in [
            ("beam", 4, 1.0, Repeats::default()),
            ("beam_long", 3, 2.0, with(1.0, 3)),
        ] {
            let beams = Beams {
                beams,
                length_penalty,
                max_tokens: 20,
            };
            let mut writer = Writer::new(&model).unwrap();
            writer.read(&prompt).unwrap();
            let found = writer.write_beams(&beams, &repeats, &[stop]).unwrap();
            assert_eq!(found, ids(&case[key]), "{key}");
            assert_eq!(writer.len(), prompt.len() + found.len());
        }
        for wanted in case["candidates"].as_array().unwrap() {
            let number = |key: &str| wanted[key].as_f64().unwrap() as f32;
            let sampling = Sampling {
                temperature: number("temperature"),
                top_k: wanted["top_k"].as_u64().unwrap() as usize,
                top_p: number("top_p"),
            };
            let found = sampling.candidates(&numbers);
            let of = wanted["of"].as_array().unwrap();
            assert_eq!(found.len(), of.len(), "{sampling:?}");
            for ((id, p), wanted) in found.iter().zip(of) {
                assert_eq!(u64::from(*id), wanted[0].as_u64().unwrap());
                assert!((f64::from(*p) - wanted[1].as_f64().unwrap()).abs() < 1e-5);
            }
        }
    }
}

/// The token table serves as output layer where a file has none.
#[test]
fn a_tied_output_layer_is_the_table() {
    let model = open("llama");
    let hidden = model.hidden(&TokenBatch::pack(&[vec![4, 2]]));
    let rows = values(model.rows_of(&(0..40).collect::<Vec<u32>>()));
    let h = values(hidden.clone());
    let expected: Vec<f32> = h
        .chunks(24)
        .flat_map(|h| {
            rows.chunks(24)
                .map(|w| h.iter().zip(w).map(|(a, b)| a * b).sum::<f32>())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_close(&model.logits(hidden).unwrap(), &expected, 1e-5, "logits");
}

#[test]
fn smollm2_writes_token_by_token_what_it_reads_as_a_whole() {
    let Some(models) = folder("BIFOCAL_MODELS", "SmolLM2 writes") else {
        return;
    };
    let options = TextOptions {
        writes: true,
        ..TextOptions::default()
    };
    let encoder = open_text(&models.join("smollm2"), &options).unwrap();
    let TextTower::Llm(model) = &encoder.tower else {
        panic!("a language model")
    };
    let prompt = "The capital of France is";
    let read = encoder.tokenizer.encode(prompt, true).unwrap().ids;
    let out = written(model, &read, &Repeats::default(), 2);
    let text = encoder.tokenizer.decode(&out).unwrap();
    println!("{prompt}{text}");
    assert!(text.contains("Paris"), "{text}");
    let whole: Vec<u32> = read.iter().chain(&out).copied().collect();
    let all = values(model.hidden(&TokenBatch::pack(std::slice::from_ref(&whole))));
    let pieces = in_pieces(model, &whole, &[vec![read.len()], vec![1; out.len()]].concat());
    let size = all.iter().fold(0.0f32, |top, v| top.max(v.abs()));
    assert_close(&pieces, &all, 1e-4 * size.max(1.0), "SmolLM2");
    let logits = model
        .logits(model.hidden(&TokenBatch::pack(&[whole[..whole.len() - 1].to_vec()])))
        .unwrap();
    let line = &logits[logits.len() - model.config().vocabulary..];
    assert_eq!(bifocal_models::generate::sampling::likeliest(line), out.last().copied());
}
