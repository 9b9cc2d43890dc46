//! A LLaVA in transformers' layout against what transformers computes (scripts/fixtures/llava.py), and which tokens are learnt of a dialogue.

mod common;

use bifocal_models::chat::{ChatModel, Conversation, Dialogue, Role, Sequence, Speech, Style, Template, Turn};
use bifocal_models::connector::splice;
use bifocal_models::generate::{Repeats, Sampling, Writer};
use bifocal_models::tokenizer::Tokenizer;
use bifocal_nn::Tensor;
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;
use common::{Numbers, assert_close, fixture, folder};

const SIDE: usize = 12;

fn ids(numbers: &Numbers, name: &str) -> Vec<u32> {
    numbers.get(name).iter().map(|&id| id as u32).collect()
}

fn open() -> (ChatModel, Numbers) {
    (
        ChatModel::open(&fixture("llava")).unwrap(),
        Numbers::open("llava/expected.safetensors"),
    )
}

fn seen(model: &ChatModel, numbers: &Numbers) -> Vec<Tensor<2>> {
    let eyes = model.eyes.as_ref().unwrap();
    let images = numbers.get("images");
    images
        .chunks_exact(SIDE * SIDE * 3)
        .map(|pixels| eyes.see(pixels).unwrap())
        .collect()
}

#[test]
fn rows_and_logits_equal_those_of_transformers() {
    let (model, numbers) = open();
    let pictures = seen(&model, &numbers);
    let rows: Vec<f32> = pictures.iter().flat_map(|rows| values(rows.clone())).collect();
    assert_close(&rows, &numbers.get("rows"), 2e-5, "rows of pictures");
    let (before, after) = (ids(&numbers, "before"), ids(&numbers, "after"));
    let sequence = Sequence {
        ids: [before.clone(), after].concat(),
        learnt: vec![false; 7],
        image: Some(before.len()),
        mismatch: false,
    };
    let llm = model.llm().unwrap();
    let both = [sequence.clone(), sequence.clone()];
    let (x, tokens) = splice(llm, &both, &[0, 1], Some(Tensor::cat(pictures.clone(), 0)), 9);
    let found = llm.logits(llm.hidden_of_rows(x, &tokens)).unwrap();
    assert_close(&found, &numbers.get("logits"), 2e-4, "logits");
    // the second picture for both
    let (x, tokens) = splice(llm, &both[..1], &[1], Some(Tensor::cat(pictures, 0)), 9);
    let other = llm.logits(llm.hidden_of_rows(x, &tokens)).unwrap();
    assert_close(
        &other,
        &numbers.get("logits")[16 * 40..],
        2e-4,
        "logits of the second picture",
    );
}

#[test]
fn it_writes_about_a_picture_what_transformers_writes() {
    let (model, numbers) = open();
    let mut writer = Writer::new(model.llm().unwrap()).unwrap();
    writer.read(&ids(&numbers, "before")).unwrap();
    writer.read_rows(seen(&model, &numbers).remove(0)).unwrap();
    writer.read(&ids(&numbers, "after")).unwrap();
    let mut write = || {
        writer
            .write(&Sampling::default(), &Repeats::default(), &mut Rng::new(0))
            .unwrap()
    };
    let found: Vec<u32> = (0..8).map(|_| write()).collect();
    assert_eq!(found, ids(&numbers, "greedy"));
}

#[test]
fn a_conversation_reads_nothing_twice() {
    let (model, numbers) = open();
    let pixels = &numbers.get("images")[..SIDE * SIDE * 3];
    let speech = Speech {
        max_tokens: 3,
        ..Speech::default()
    };
    let system = Some("w3 w4".to_owned());
    let mut talk = Conversation::new(&model, Some(pixels), system.clone(), speech).unwrap();
    let first = talk.ask("w5 w6", |_| true).unwrap();
    // w3 w4 <unk>, the picture, w5 w6 <unk>
    assert_eq!(first.read, 3 + 9 + 3, "{first:?}");
    let heard = &mut String::new();
    let second = talk
        .ask("w7", |piece| {
            heard.push_str(piece);
            true
        })
        .unwrap();
    assert!(second.read < 9, "{second:?}");
    assert_eq!(heard.trim(), second.text);
    // the same, all at once
    let mut dialogue = talk.dialogue().clone();
    assert_eq!(dialogue.turns.len(), 4);
    dialogue.turns.pop();
    let sequence = model.sequence(&dialogue).unwrap();
    let mut writer = Writer::new(model.llm().unwrap()).unwrap();
    let at = sequence.image.unwrap();
    writer.read(&sequence.ids[..at]).unwrap();
    writer.read_rows(seen(&model, &numbers).remove(0)).unwrap();
    writer.read(&sequence.ids[at..]).unwrap();
    let stops = model.template.stops(&model.text.tokenizer);
    let mut out = Vec::new();
    while out.len() < 3 {
        let id = writer
            .write(&Sampling::default(), &Repeats::default(), &mut Rng::new(0))
            .unwrap();
        if stops.contains(&id) {
            break;
        }
        out.push(id);
    }
    assert_eq!(model.text.tokenizer.decode(&out).unwrap().trim(), second.text);
    // beams give the same kind of answer
    let beams = Speech { beams: 3, ..speech };
    let mut talk = Conversation::new(&model, Some(pixels), system, beams).unwrap();
    assert!(talk.ask("w5 w6", |_| true).unwrap().written <= 3);
    // a talk that does not fit is refused, and can go on with less
    let long = "w5 ".repeat(80);
    assert!(talk.ask(&long, |_| true).unwrap_err().to_string().contains("64"));
    assert_eq!(talk.dialogue().turns.len(), 2);
    assert!(talk.ask("w7", |_| true).is_ok());
}

fn dialogue(image: bool, turns: &[&str]) -> Dialogue {
    let turn = |(i, text): (usize, &&str)| Turn {
        role: if i % 2 == 0 { Role::User } else { Role::Assistant },
        text: (*text).to_owned(),
    };
    Dialogue {
        system: None,
        image,
        turns: turns.iter().enumerate().map(turn).collect(),
    }
}

/// The tokens that are learnt, in words.
fn learnt(sequence: &Sequence, tokenizer: &Tokenizer) -> String {
    let ids: Vec<u32> = sequence
        .ids
        .iter()
        .zip(&sequence.learnt)
        .filter(|(_, l)| **l)
        .map(|(&id, _)| id)
        .collect();
    tokenizer.decode(&ids).unwrap()
}

#[test]
fn of_llavas_own_templates_answers_and_their_ends_are_learnt() {
    let tokenizer = Tokenizer::open(&fixture("llava")).unwrap();
    let v1 = Template::of(Style::V1);
    let two = dialogue(true, &["w5 w6", "w7 w8", "w9", "w10"]);
    let sequence = Sequence::new(&v1, &tokenizer, &two).unwrap();
    assert!(!sequence.mismatch);
    assert_eq!(learnt(&sequence, &tokenizer), "w7 w8 </s> w10 </s>");
    // the sentence about the two, USER:, and the picture
    let words = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to \
                 the user's questions. USER:";
    let before = words.split(' ').count();
    assert_eq!(sequence.image, Some(tokenizer.prefix().len() + before));
    let after: Vec<u32> = [5, 6, 0, 7, 8, 2, 0, 9, 0, 10, 2].to_vec();
    assert_eq!(sequence.ids[sequence.image.unwrap()..], after);
    let human = Sequence::new(&Template::of(Style::LlavaV1), &tokenizer, &two).unwrap();
    assert_eq!(human.ids.len(), sequence.ids.len());
    let plain = Sequence::new(
        &Template::of(Style::Plain),
        &tokenizer,
        &dialogue(true, &["w3", "w4 w5"]),
    )
    .unwrap();
    assert_eq!(plain.image, Some(tokenizer.prefix().len()));
    assert_eq!(learnt(&plain, &tokenizer), "w4 w5");
    assert!(Sequence::new(&Template::of(Style::Plain), &tokenizer, &two).is_err());
    // a vocabulary without ChatML's tokens
    let error = Sequence::new(&Template::of(Style::ChatMl), &tokenizer, &two)
        .unwrap_err()
        .to_string();
    assert!(error.contains("<|im_start|>"), "{error}");
    // left open for the answer
    let open = Sequence::new(&v1, &tokenizer, &dialogue(false, &["w5"])).unwrap();
    assert!(open.image.is_none() && !open.learnt.contains(&true));
    assert_eq!(open.ids.last(), Some(&0), "ASSISTANT: is no word of this vocabulary");
}

/// What LLaVA's own functions make of dialogues (`scripts/fixtures/llava_masks.py`).
#[test]
fn tokens_and_what_is_learnt_of_them_are_those_of_llavas_code() {
    const IMAGE: i64 = -200;
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixture("sentencepiece/bpe-bytes.model"),
        dir.path().join("tokenizer.model"),
    )
    .unwrap();
    let settings =
        r#"{"tokenizer_class": "LlamaTokenizer", "add_bos_token": true, "bos_token": "<s>", "eos_token": "</s>"}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), settings).unwrap();
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    let text = std::fs::read_to_string(fixture("llava_masks.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let style: Style = serde_json::from_value(case["style"].clone()).unwrap();
        let dialogue = Dialogue::from_json(&case["dialogue"]).unwrap();
        let sequence = Sequence::new(&Template::of(style), &tokenizer, &dialogue).unwrap();
        let mut ids: Vec<i64> = sequence.ids.iter().map(|&id| i64::from(id)).collect();
        let mut learnt = sequence.learnt.clone();
        if let Some(at) = sequence.image {
            ids.insert(at, IMAGE);
            learnt.insert(at, false);
        }
        let expected: Vec<i64> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(ids, expected, "{dialogue:?}");
        let expected: Vec<bool> = serde_json::from_value(case["learnt"].clone()).unwrap();
        assert_eq!(learnt, expected, "{dialogue:?}");
    }
}

#[test]
fn smollm2_reads_its_own_template() {
    let Some(models) = folder("BIFOCAL_MODELS", "SmolLM2's template") else {
        return;
    };
    let model = ChatModel::open(&models.join("smollm2")).unwrap();
    assert_eq!(model.template.style, Style::ChatMl);
    println!("told before: {:?}", model.template.system);
    let sequence = model
        .sequence(&dialogue(false, &["What is 2 + 2?", "It is 4.", "Sure?", "Yes."]))
        .unwrap();
    let tokenizer = &model.text.tokenizer;
    let whole = tokenizer.decode(&sequence.ids).unwrap();
    assert_eq!(learnt(&sequence, tokenizer), "It is 4.<|im_end|>Yes.<|im_end|>");
    assert_eq!(tokenizer.encode(&whole, false).unwrap().ids, sequence.ids, "{whole}");
    let told = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
    assert!(
        whole.starts_with(&format!("<|im_start|>system\n{told}<|im_end|>\n<|im_start|>user\n")),
        "{whole}"
    );
    let mut talk = Conversation::new(
        &model,
        None,
        None,
        Speech {
            max_tokens: 40,
            ..Speech::default()
        },
    )
    .unwrap();
    let answer = talk.ask("What is the capital of France?", |_| true).unwrap();
    println!("{}", answer.text);
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    assert!(
        Conversation::new(&model, Some(&[0.0; 12]), None, Speech::default())
            .unwrap_err()
            .to_string()
            .contains("sees no pictures")
    );
}
