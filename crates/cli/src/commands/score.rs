//! `bifocal score`: what a vision-language model answered, by the rules of a benchmark.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bifocal_eval::answers::{Benchmark, Source, score};

use crate::failure::wrong_use;

/// Files of annotations of the largest benchmarks have some hundred MB, tables with pictures inside more.
const LARGEST: u64 = 4 << 30;

/// Scores answers of a vision-language model with a benchmark's official rules.
///
/// Answers are JSON lines as LLaVA's scripts write them, {"question_id": 7, "text": "a dog"}, one for each question; result lists of COCO, VQA and GQA are read as
/// they are. A question without an answer counts as wrong, of two answers to one question the last one counts, and answers to other questions are left out; all three are
/// counted and said. docs/answers.md has the rules.
///
/// What --questions expects:
///
/// pope: coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json, or one of them; with several also the list that was asked
/// (llava_pope_test.jsonl), unless answers say their split ("category").
///
/// gqa: testdev_balanced_questions.json.
///
/// vqav2: v2_mscoco_val2014_annotations.json.
///
/// textvqa: TextVQA_0.5.1_val.json; answers have question_id, or the picture's id and "prompt".
///
/// mme: the folder Your_Results of MME's eval_tool, or files of it such as existence.txt; answers have "question_id": "existence/a.jpg" and "prompt".
///
/// mmbench, mmbench-cn: mmbench_dev_20230712.tsv, mmbench_dev_cn_20231003.tsv; answers in rounds have "round_id".
///
/// scienceqa: problems.json, also with pid_splits.json.
///
/// captions: captions_val2014.json, or captions.jsonl with rows of image and captions; answers have the picture as question_id or image_id.
#[derive(clap::Args)]
pub struct Args {
    /// pope, gqa, vqav2, textvqa, mme, mmbench, mmbench-cn, scienceqa or captions
    #[arg(value_name = "BENCHMARK")]
    benchmark: String,
    /// The benchmark's own files; a folder stands for the files in it
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    questions: Vec<PathBuf>,
    /// What the model answered
    #[arg(long, value_name = "FILE")]
    answers: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let benchmark = Benchmark::named(&args.benchmark).map_err(|e| wrong_use(e.to_string()))?;
    let mut paths = Vec::new();
    for path in &args.questions {
        if path.is_dir() {
            paths.extend(files_in(path, benchmark, &args.answers)?);
        } else {
            paths.push(path.clone());
        }
    }
    let questions: Vec<(String, String)> = paths.iter().map(|path| read(path)).collect::<Result<_>>()?;
    let sources: Vec<Source> = questions.iter().map(|(name, text)| Source::new(name, text)).collect();
    let (name, text) = read(&args.answers)?;
    let report = score(benchmark, &sources, &Source::new(&name, &text))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.to_text());
    }
    Ok(())
}

/// The files of a folder that may hold a benchmark's questions, by name; answers that lie among them are none.
fn files_in(folder: &Path, benchmark: Benchmark, answers: &Path) -> Result<Vec<PathBuf>> {
    let kinds: &[&str] = match benchmark {
        Benchmark::Mme => &["txt"],
        Benchmark::MmBench | Benchmark::MmBenchCn => &["tsv"],
        _ => &["json", "jsonl"],
    };
    let answers = answers.canonicalize().ok();
    let entries = fs::read_dir(folder).with_context(|| format!("{}: the folder cannot be read", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("{}: the folder cannot be read", folder.display()))?
            .path();
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        let questions = path.is_file() && (answers.is_none() || path.canonicalize().ok() != answers);
        if questions && kinds.contains(&kind) {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{}: no file in it ends in .{}", folder.display(), kinds.join(" or ."));
    }
    files.sort();
    Ok(files)
}

/// A file's name without folders, and its text.
fn read(path: &Path) -> Result<(String, String)> {
    let size = fs::metadata(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?
        .len();
    if size > LARGEST {
        bail!(
            "{}: {size} bytes; files of questions or answers have at most {LARGEST}",
            path.display()
        );
    }
    let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        anyhow::anyhow!(
            "{}: byte {} is not UTF-8; is it a text file?",
            path.display(),
            e.utf8_error().valid_up_to()
        )
    })?;
    let name = path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    Ok((name, text))
}
