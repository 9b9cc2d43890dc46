//! `bifocal search`: pictures by text, by picture, by both, or by another picture of the store; near duplicates.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_search::duplicates::{Group, duplicates};
use bifocal_search::query::parse;
use bifocal_search::{Filter, Found, SearchOptions};

use crate::failure::wrong_use;
use crate::finder::{self, Question};
use crate::model::Compute;
use crate::output::progress::Progress;

/// Cosine from which two pictures are taken for the same when nothing else is asked.
const DUPLICATE: f32 = 0.95;

/// Finds pictures in a store.
///
/// The query is a text in any language that the model's text tower reads, a picture, or both. `+` and `-` between spaces join several:
/// "red car - truck" leads away from trucks, "2:beach + sunset" counts the beach twice; quotes around a term protect what stands in them.
///
/// Scores are cosines: comparable within one model and query, not between models. What is typical for the query stands below the results:
/// a result far above it is a find, results close to it are only the best of what is there.
#[derive(clap::Args)]
pub struct Args {
    /// What to look for: "a dog on the beach", "red car - truck", "2:beach + sunset"
    #[arg(value_name = "QUERY")]
    query: Option<String>,
    /// A picture to look for, as often as wanted; 0.5:PATH weighs it, --image=-1:PATH leads away from it
    #[arg(long, value_name = "PATH")]
    image: Vec<String>,
    /// More like this item of the store, which itself is left out
    #[arg(long, value_name = "KEY")]
    like: Vec<String>,
    /// Groups of pictures that are nearly the same, instead of a query
    #[arg(long, conflicts_with_all = ["query", "image", "like"])]
    duplicates: bool,
    /// The folder that keeps the store, or postgres://user@host/database?store=name
    #[arg(long, value_name = "S")]
    store: PathBuf,
    /// The model, if it is no longer where it was when the store was made
    #[arg(long, value_name = "M")]
    model: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
    /// How many results at most; with --duplicates, how many groups [default: 10, or all groups]
    #[arg(short)]
    k: Option<usize>,
    /// Leave out results with a lower score; with --duplicates, the least cosine of a pair [default: 0.95]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    min_score: Option<f32>,
    /// Only items that satisfy it, such as 'ext = jpg and size > 2MB and date >= 2024 and path ~ "holiday/**"'
    ///
    /// Columns: path, name, ext, size, date (of modification, UTC), and own ones (width, height, label, captions.en, …).
    /// = != < <= > >=; in (a, b); like "%dog%"; ~ "2024/*" (** also goes into folders); exists label; and, or, not, parentheses.
    #[arg(long = "where", value_name = "EXPR")]
    filter: Option<String>,
    /// Compare with all vectors, also where an index of a large store finds nearly the same sooner
    #[arg(long)]
    exact: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let filter = args.filter.as_deref().map(parse_filter).transpose()?;
    if args.duplicates {
        return run_duplicates(&args, filter.as_ref());
    }
    let mut question = Question {
        images: args.image.iter().map(|image| finder::weighted_path(image)).collect(),
        ..Question::default()
    };
    if let Some(query) = &args.query {
        question.texts = parse(query).map_err(|e| wrong_use(e.to_string()))?;
    }
    if args.query.is_none() && args.image.is_empty() && args.like.is_empty() {
        return Err(wrong_use(
            "nothing to look for: give a text, --image PATH, both, --like KEY, or --duplicates",
        ));
    }
    let store = finder::open_reader(&args.store)?;
    let model = question
        .needs_model()
        .then(|| finder::open_model(&*store, &args.store, args.model.as_deref(), args.compute))
        .transpose()?;
    let like = args.like.iter().map(|given| finder::key(&*store, given));
    question.like = like.collect::<Result<_>>()?;
    let options = SearchOptions {
        k: args.k.unwrap_or(10),
        min_score: args.min_score,
        filter,
        without: question.like.clone(),
        exact: args.exact,
    };
    let found = store.search(&question.vector(&*store, model.as_ref())?, &options)?;
    show(&args, &found, store.count()?);
    Ok(())
}

/// The filter of `--where`.
pub fn parse_filter(text: &str) -> Result<Filter> {
    text.parse()
        .map_err(|e: bifocal_search::FilterError| wrong_use(format!("--where: {e}")))
}

fn show(args: &Args, found: &Found, items: u64) {
    if args.json {
        let object = serde_json::json!({
            "query": args.query,
            "images": args.image,
            "like": args.like,
            "items": items,
            "matched": found.matched,
            "scores": found.scores,
            "hits": found.hits,
        });
        println!("{object}");
        return;
    }
    if found.hits.is_empty() {
        let why = if found.matched == 0 && items > 0 {
            "none satisfies --where".to_owned()
        } else {
            "a lower --min-score shows more".to_owned()
        };
        println!("nothing found among {items} items; {why}");
    }
    for (i, hit) in found.hits.iter().enumerate() {
        println!("{:>3}  {:.3}  {}", i + 1, hit.score, shown(&hit.key));
    }
    if let (Some(first), Some(scores)) = (found.hits.first(), &found.scores)
        && scores.is_telling()
    {
        eprintln!(
            "typical for this query: {:.3} ± {:.3} ({} items); the first result lies {:.1} deviations above",
            scores.mean,
            scores.deviation,
            scores.count,
            scores.deviations(first.score)
        );
    }
}

fn run_duplicates(args: &Args, filter: Option<&Filter>) -> Result<()> {
    let store = finder::open_reader(&args.store)?;
    let mut progress = Progress::new("comparing", store.count()?);
    let min_score = args.min_score.unwrap_or(DUPLICATE);
    let mut groups = duplicates(&*store, min_score, filter, &mut |done, _| {
        progress.update(done as u64, "")
    })?;
    progress.finish();
    let all = groups.len();
    groups.truncate(args.k.unwrap_or(usize::MAX));
    show_groups(args, &groups, all, min_score);
    Ok(())
}

fn show_groups(args: &Args, groups: &[Group], all: usize, min_score: f32) {
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "min_score": min_score, "groups": groups, "groups_in_all": all })
        );
        return;
    }
    if groups.is_empty() {
        println!("no two items have a cosine of {min_score} or more; a lower --min-score shows more");
    }
    for (i, group) in groups.iter().enumerate() {
        println!("{}group {} of {all}", if i > 0 { "\n" } else { "" }, i + 1);
        for member in &group.members {
            println!("     {:.3}  {}", member.score, shown(&member.key));
        }
    }
}

/// The path relative to the current folder where it lies below it.
fn shown(key: &str) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| {
        std::path::Path::new(key)
            .strip_prefix(here)
            .ok()
            .map(|p| p.display().to_string())
    });
    relative.unwrap_or_else(|| key.to_owned())
}
