//! Drawing with a TokLIP and a language model of random weights.

mod common;

use bifocal_data::Preprocess;
use bifocal_models::chat::{ChatModel, Conversation, Dialogue, Eyes, Sequence, Speech, Style, Template};
use bifocal_models::connector::{self, Tap, splice};
use bifocal_models::generate::Sampling;
use bifocal_models::open::{TextOptions, VisionEncoder, open_text};
use bifocal_models::unified::{Brush, Canvas, Drawing, after_its_text, after_nothing, draw, look_width, looks};
use bifocal_models::vision::{VisionTower, Vit, VitConfig, VitFamily};
use bifocal_models::weights::{open, strict};
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;
use bifocal_nn::params;
use common::{assert_close, fixture};

/// Codes of a picture of the tower, on a side.
const GRID: usize = 6;

/// A TokLIP of random weights on a codebook of 64, and a language model of random weights, 24 wide, that reads 64 tokens.
fn model() -> ChatModel {
    let stack = StackConfig {
        eps: 1e-6,
        ..StackConfig::new(24, 2, 3, 40, Gelu::Tanh)
    };
    let config = VitConfig {
        family: VitFamily::TokLip,
        antialias: true,
        ..VitConfig::clip(2 * GRID, 2, 24, stack)
    };
    let source = open(&fixture("toklip/model.pt")).unwrap();
    let tower = strict(&*source, &["visual.trunk.patch_embed."], |source| {
        Vit::load(config, source)
    })
    .unwrap();
    let options = TextOptions {
        writes: true,
        ..TextOptions::default()
    };
    let text = open_text(&fixture("tiny-qwen3.gguf"), &options).unwrap();
    let mut rng = Rng::new(5);
    let look = look_width(&tower).unwrap();
    let drawing = Drawing::new(24, tower.codec().unwrap().codes().unwrap(), &mut rng);
    // numbers for codes that differ, so that a mistake shows
    let drawing = params::load(drawing, |_, shape| {
        Ok::<_, ()>(Some((0..shape.iter().product()).map(|_| 0.5 * rng.normal()).collect()))
    });
    ChatModel {
        name: "tiny".to_owned(),
        fingerprint: String::new(),
        eyes: Some(Eyes {
            vision: VisionEncoder {
                tower: VisionTower::Vit(tower),
                preprocess: Preprocess::siglip(2 * GRID as u32),
                fingerprint: String::new(),
                name: "tiny".to_owned(),
            },
            tap: Tap::default(),
            connector: connector::config("linear", 24).unwrap().build(look, &mut rng).unwrap(),
            drawing: Some(drawing.unwrap_or_else(|_| panic!("every parameter has numbers"))),
        }),
        text,
        template: Template::of(Style::Plain),
    }
}

/// Numbers for each code of a picture, all at once.
fn whole(model: &ChatModel, text: &Sequence, codes: &[u32]) -> Vec<f32> {
    let eyes = model.eyes.as_ref().unwrap();
    let (drawing, tower) = (
        eyes.drawing.as_ref().unwrap(),
        eyes.vision.tower.token_encoder().unwrap(),
    );
    let rows = eyes.connector.forward(looks(tower, &codes.into()).unwrap(), false);
    let rows = drawing.unfinished(rows, codes.len());
    let llm = model.llm().unwrap();
    let (x, tokens) = splice(llm, std::slice::from_ref(text), &[0], Some(rows), codes.len());
    let hidden = llm.hidden_of_rows(x, &tokens);
    let [t, width] = hidden.dims();
    values(drawing.logits(hidden.slice([t - codes.len()..t, 0..width])))
}

#[test]
fn code_by_code_is_the_same_as_all_at_once() {
    let model = model();
    let text = "a red train";
    let read = model.sequence(&Dialogue::pair(true, "", text)).unwrap();
    for guidance in [1.0, 0.0, 2.5] {
        let brush = Brush {
            guidance,
            ..Brush::default()
        };
        let drawn = draw(&model, text, &brush, |_| true).unwrap().unwrap();
        assert_eq!((drawn.codes.len(), drawn.grid), (GRID * GRID, GRID));
        let with = whole(&model, &after_its_text(&read), &drawn.codes);
        let without = whole(&model, &after_nothing(&read), &drawn.codes);
        let expected: Vec<f32> = with.iter().zip(&without).map(|(c, u)| u + guidance * (c - u)).collect();
        let mut canvas = Canvas::new(&model, text, guidance).unwrap();
        let mut found = Vec::new();
        for &code in &drawn.codes {
            found.extend_from_slice(canvas.logits());
            canvas.put(code).unwrap();
        }
        assert_close(&found, &expected, 2e-4, "code by code");
        assert_eq!(canvas.left(), 0);
        let error = canvas.put(0).unwrap_err().to_string();
        assert!(error.contains("37 codes"), "{error}");
        // the text and the codes before do matter
        let spread = with
            .iter()
            .zip(&without)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(spread > 0.01, "{spread}");
    }
}

#[test]
fn the_same_seed_draws_the_same_picture() {
    let model = model();
    let with = |seed, top_k, temperature| {
        let brush = Brush {
            sampling: Sampling {
                temperature,
                top_k,
                top_p: 1.0,
            },
            guidance: 1.0,
            seed,
        };
        draw(&model, "a cat", &brush, |_| true).unwrap().unwrap().codes
    };
    assert_eq!(with(1, 0, 1.0), with(1, 0, 1.0));
    assert_ne!(with(1, 0, 1.0), with(2, 0, 1.0));
    // of one candidate there is no choice
    assert_eq!(with(1, 1, 1.0), with(2, 0, 0.0));
    assert!(with(3, 0, 1.0).iter().all(|&code| code < 64));
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let model = model();
    let refused = |text: &str, brush: Brush| draw(&model, text, &brush, |_| true).unwrap_err().to_string();
    // 64 tokens, 36 of which are the picture's
    let error = refused(&"x".repeat(40), Brush::default());
    assert!(error.contains("the model reads 64"), "{error}");
    for guidance in [-1.0, f32::NAN, 1e9] {
        let brush = Brush {
            guidance,
            ..Brush::default()
        };
        assert!(refused("a", brush).contains("guidance"));
    }
    let mut blind = self::model();
    blind.eyes.as_mut().unwrap().drawing = None;
    let error = draw(&blind, "a", &Brush::default(), |_| true).unwrap_err().to_string();
    assert!(error.contains("recipes/unified.toml"), "{error}");
    // given up after three codes
    let mut seen = 0;
    let given_up = draw(&model, "a", &Brush::default(), |codes| {
        seen = codes;
        codes < 3
    });
    assert_eq!((given_up.unwrap(), seen), (None, 3));
}

#[test]
fn a_picture_is_read_between_its_marks() {
    let model = model();
    let eyes = model.eyes.as_ref().unwrap();
    let pixels: Vec<f32> = (0..eyes.vision.preprocess.values())
        .map(|i| (i as f32 * 0.3).sin())
        .collect();
    let rows = eyes.see(&pixels).unwrap();
    assert_eq!(rows.dims(), [GRID * GRID + 2, 24]);
    assert_eq!(eyes.rows(), GRID * GRID + 2);
    let (rows, begin) = (values(rows), values(eyes.drawing.as_ref().unwrap().begin()));
    assert_eq!(rows[..24], begin);
    assert_ne!(rows[rows.len() - 24..], begin);
    let speech = Speech {
        max_tokens: 5,
        ..Speech::default()
    };
    let mut talk = Conversation::new(&model, Some(&pixels), None, speech).unwrap();
    assert_eq!(talk.ask("", |_| true).unwrap().read, GRID * GRID + 2);
}
