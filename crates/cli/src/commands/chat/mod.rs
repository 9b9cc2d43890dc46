//! `bifocal chat`: talk with a language model, about a picture or without one; and let one draw.

mod draw;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use bifocal_data::{ImageSource, Limits};
use bifocal_models::chat::{Answer, ChatError, ChatModel, Conversation, Ended, Speech};
use bifocal_models::generate::{Repeats, Sampling};

use crate::failure::wrong_use;
use crate::model;

/// The longest line that is read as a question, in bytes.
const MAX_QUESTION: usize = 1 << 20;

/// Talks with a language model; one that was trained with `recipes/llava.toml`, `recipes/blip2.toml` or `recipes/flamingo.toml` sees pictures, one of
/// `recipes/unified.toml` draws them too.
///
/// Answers appear as they are written. Without `--prompt` it is a dialogue: each line that you type is a question, the end of input (Ctrl-D) ends it. A model
/// that has learnt captions alone (stage `align`) says what it sees and answers no questions. By itself it takes the likeliest token each time, so that the
/// same question has the same answer; codes of pictures are drawn by chance, the same with the same `--seed`.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle of recipes/llava.toml, blip2.toml, flamingo.toml or unified.toml, a LLaVA in Hugging Face layout, a language model (.gguf or its folder), or hf:org/name[@revision]
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// The picture that it is about; with several, each is asked about by itself (needs --prompt, but for a model of captions)
    #[arg(long, value_name = "P")]
    image: Vec<PathBuf>,
    /// Ask this, and end
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Draw what --prompt says into this file (PNG), and end
    #[arg(long, value_name = "FILE", requires = "prompt", conflicts_with_all = ["image", "system", "max_tokens", "beams", "no_repeat"])]
    draw: Option<PathBuf>,
    /// Of --draw: how much more of the prompt is asked for than the model gives by itself (1); it costs a second pass
    #[arg(long, default_value_t = 1.0, value_name = "G", requires = "draw")]
    guidance: f32,
    /// What the model is told before, in place of what its template says
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The most tokens of an answer
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_tokens: usize,
    /// 0 takes the likeliest token; 1 draws tokens as often as they are probable [default: 0, with --draw 1]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw only from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// Draw only from so many of the likeliest tokens; 0: all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Let so many texts grow side by side and take the likeliest (not with a temperature)
    #[arg(long, default_value_t = 1, value_name = "N")]
    beams: usize,
    /// Never write the same run of so many tokens twice; 0: it may
    #[arg(long, default_value_t = 0, value_name = "N")]
    no_repeat: usize,
    /// Of what is drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object an answer
    #[arg(long)]
    json: bool,
}

impl Args {
    fn speech(&self) -> Speech {
        Speech {
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(0.0),
                top_k: self.top_k,
                top_p: self.top_p,
            },
            repeats: Repeats {
                penalty: 1.0,
                no_ngram: self.no_repeat,
            },
            beams: self.beams,
            max_tokens: self.max_tokens,
            seed: self.seed,
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    if args.beams > 1 && args.speech().sampling.temperature > 0.0 {
        return Err(wrong_use(
            "--beams looks for the likeliest text and draws nothing: leave --temperature out",
        ));
    }
    if args.max_tokens == 0 || !(1..=64).contains(&args.beams) {
        return Err(wrong_use("--max-tokens must be 1 or more, and --beams 1 to 64"));
    }
    if let Err(error) = args.speech().sampling.check() {
        return Err(wrong_use(error.to_string()));
    }
    let model = ChatModel::open(&model::find(&args.model)?)?;
    if let (Some(out), Some(prompt)) = (&args.draw, &args.prompt) {
        return draw::draw(&args, &model, out, prompt);
    }
    let describes = model.template.ends_with_line();
    if describes && args.image.is_empty() {
        let draws = model.eyes.as_ref().is_some_and(|eyes| eyes.drawing.is_some());
        return Err(wrong_use(match draws {
            true => {
                "this model says what is in a picture (--image P) and draws (--draw FILE.png --prompt TEXT), nothing else"
            }
            false => "this model has learnt to say what is in a picture, nothing else: give --image P",
        }));
    }
    if args.image.len() > 1 && args.prompt.is_none() && !describes {
        return Err(wrong_use(
            "several pictures are asked about one by one: give --prompt TEXT",
        ));
    }
    if args.image.is_empty() {
        return talk(&args, &model, None);
    }
    for path in &args.image {
        talk(&args, &model, Some(path))?;
    }
    Ok(())
}

/// The picture as the model's eyes want it.
fn pixels(model: &ChatModel, path: &Path) -> Result<Vec<f32>> {
    let Some(eyes) = &model.eyes else {
        let name = model.name.clone();
        return Err(wrong_use(ChatError::Blind { name }.to_string()));
    };
    let preprocess = &eyes.vision.preprocess;
    let picture = ImageSource::File(path.to_owned()).open(&Limits::default(), preprocess.conventions);
    let picture = picture.with_context(|| format!("the picture {}", path.display()))?;
    Ok(preprocess.apply(&picture)?)
}

/// One talk.
fn talk(args: &Args, model: &ChatModel, image: Option<&Path>) -> Result<()> {
    let pixels = image.map(|path| pixels(model, path)).transpose()?;
    let mut talk = Conversation::new(model, pixels.as_deref(), args.system.clone(), args.speech())?;
    if let Some(question) = &args.prompt {
        return say(args, &mut talk, image, question);
    }
    if model.template.ends_with_line() {
        return say(args, &mut talk, image, "");
    }
    let terminal = std::io::stdin().is_terminal() && !args.json;
    let mut input = std::io::stdin().lock();
    loop {
        if terminal {
            eprint!("> ");
        }
        let mut line = String::new();
        let read = std::io::Read::take(&mut input, MAX_QUESTION as u64).read_line(&mut line)?;
        if read == 0 {
            return Ok(());
        }
        if !line.trim().is_empty() {
            say(args, &mut talk, image, line.trim())?;
        }
    }
}

/// A question and its answer.
fn say(args: &Args, talk: &mut Conversation, image: Option<&Path>, question: &str) -> Result<()> {
    let clock = Instant::now();
    let (mut first, mut lost, mut begun) = (None, None, false);
    let answer = talk.ask(question, |piece| {
        first.get_or_insert_with(|| clock.elapsed().as_secs_f64());
        if args.json {
            return true;
        }
        // what stands before the first word is no part of the answer
        let piece = if begun { piece } else { piece.trim_start() };
        begun |= !piece.is_empty();
        let mut out = std::io::stdout().lock();
        let written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        lost = written.err();
        lost.is_none()
    })?;
    if let Some(error) = lost {
        return Err(error.into());
    }
    if !args.json {
        println!();
        return Ok(());
    }
    let line = record(args, image, question, &answer, clock.elapsed().as_secs_f64(), first);
    println!("{line}");
    Ok(())
}

fn record(
    args: &Args,
    image: Option<&Path>,
    question: &str,
    answer: &Answer,
    seconds: f64,
    first: Option<f64>,
) -> serde_json::Value {
    let mut record = serde_json::json!({
        "model": args.model.display().to_string(),
        "question": question,
        "answer": answer.text,
        "ended": match answer.ended { Ended::Stop => "stop", Ended::Length => "length" },
        "tokens": { "read": answer.read, "written": answer.written },
        "seconds": seconds,
    });
    if let Some(image) = image {
        record["image"] = image.display().to_string().into();
    }
    // the first token comes with what is read; those after it show the pace
    if let Some(first) = first.filter(|_| answer.written > 1 && args.beams == 1) {
        record["tokens_per_second"] = ((answer.written - 1) as f64 / (seconds - first).max(1e-9)).into();
    }
    record
}
