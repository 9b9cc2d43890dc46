//! `bifocal serve`: the HTTP service and the web page.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bifocal_models::chat::ChatModel;
use bifocal_models::open::TextOptions;
use bifocal_serve::{AllowedHosts, ApiKey, Config, Event, Limits, Loaded};

use crate::failure::wrong_use;
use crate::model::Compute;
use crate::stop::Stop;
use crate::{finder, model};

/// The variable that holds the API key.
const KEY: &str = "BIFOCAL_API_KEY";

/// Serves embeddings, search and a web page over HTTP.
///
/// Clients of OpenAI's embeddings API work unchanged (`base_url` http://127.0.0.1:8080/v1), those of Jina, infinity, vLLM and Cohere send pictures in
/// their own ways. With a store there are search and, at http://127.0.0.1:8080/, a page to search with. The first Ctrl-C or SIGTERM
/// lets requests finish, the second one ends at once.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub struct Args {
    /// The folder that keeps the store; without one there is no search
    #[arg(long, value_name = "S", group = "what")]
    store: Option<PathBuf>,
    /// The model; with a store, if it is no longer where it was when the store was made
    #[arg(long, value_name = "M", group = "what")]
    model: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
    /// A language model to talk with, at /v1/chat/completions; one of recipes/llava.toml, blip2.toml, flamingo.toml or unified.toml sees pictures
    #[arg(long, value_name = "M")]
    chat: Option<PathBuf>,
    /// Address and port; 0.0.0.0:8080 to be reached from other machines (set an API key then)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// A file with the API key that requests have to show; the variable BIFOCAL_API_KEY does the same
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Names that the service answers to besides this machine's own (behind a proxy, say); asked for on the loopback without a key
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    host: Vec<String>,
    /// Hosts from which pictures named by URL may be fetched: names, *.example.com, or * for any on the public internet
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    allow_image_urls: Vec<String>,
    /// Seconds from a complete request to its answer; what a language model writes ends there
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    deadline: u64,
    /// Inputs that may wait or be embedded at once; more are refused with 429
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    queue: u32,
}

pub fn run(args: Args) -> Result<()> {
    let key = key(args.api_key_file.as_deref())?;
    let hosts = match &args.allow_image_urls[..] {
        [] => None,
        names => Some(AllowedHosts::new(names).map_err(|e| wrong_use(format!("--allow-image-urls: {e}")))?),
    };
    if key.is_none() && !args.listen.ip().is_loopback() {
        eprintln!(
            "everyone who reaches {} can use this service: set {KEY}, or --api-key-file",
            args.listen
        );
    }
    let config = Config {
        listen: args.listen,
        key,
        names: args.host,
        hosts,
        limits: Limits {
            deadline: Duration::from_secs(args.deadline),
            queue_items: args.queue as usize,
            ..Limits::default()
        },
    };
    let stop = Stop::listen()?;
    let (store, model, chat, compute) = (args.store, args.model, args.chat, args.compute);
    let has_store = store.is_some();
    let load = move || {
        let loaded = load(store.as_deref(), model.as_deref(), compute)?;
        let chat = chat.map(|name| talker(&name)).transpose()?;
        Ok(Loaded { chat, ..loaded })
    };
    let tell = move |event| match event {
        Event::Listening(address) => eprintln!("listening on http://{address}/, loading the model"),
        Event::Ready if has_store => eprintln!("ready"),
        Event::Ready => eprintln!("ready, without a store: embeddings and classification only"),
        Event::Draining => eprintln!("ending: requests that have begun are finished"),
    };
    bifocal_serve::run(config, load, move || stop.heard(), tell)?;
    Ok(())
}

/// From a file, or else from the environment.
fn key(file: Option<&Path>) -> Result<Option<ApiKey>> {
    let Some(file) = file else {
        return match std::env::var(KEY) {
            Ok(key) => {
                Ok(Some(ApiKey::new(&key).ok_or_else(|| {
                    wrong_use(format!("{KEY} is empty: unset it, or give a key"))
                })?))
            }
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(error) => Err(wrong_use(format!("{KEY}: {error}"))),
        };
    };
    let text = std::fs::read_to_string(file).with_context(|| format!("reading the API key from {}", file.display()))?;
    let empty = || wrong_use(format!("{} is empty: write a key into it", file.display()));
    Ok(Some(ApiKey::new(&text).ok_or_else(empty)?))
}

fn load(store: Option<&Path>, given: Option<&Path>, compute: Compute) -> Result<Loaded> {
    let Some(dir) = store else {
        let name = given.context("neither a store nor a model was given")?;
        let path = model::find(name)?;
        let model = compute.open(&path, &TextOptions::default())?;
        return Ok(Loaded {
            id: id(name),
            model,
            path,
            store: None,
            chat: None,
        });
    };
    let store = finder::open_reader(dir)?;
    let model = finder::open_model(&*store, dir, given, compute)?;
    let name = given.map_or_else(|| PathBuf::from(&store.model().name), Path::to_owned);
    let path = model::find(&name)?;
    Ok(Loaded {
        id: id(&name),
        model,
        path,
        store: Some(Arc::from(store)),
        chat: None,
    })
}

/// The language model, and its id.
fn talker(name: &Path) -> Result<(ChatModel, String)> {
    Ok((ChatModel::open(&model::find(name)?)?, id(name)))
}

/// The last part of a path, or of a hub's name; what `bifocal train` wrote is called by its run, since all such folders are named `model`.
fn id(name: &Path) -> String {
    let own = name.file_name().filter(|last| *last != "model");
    let last = own.or_else(|| name.parent()?.file_name()).unwrap_or(name.as_os_str());
    last.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_by_what_tells_it_apart() {
        let called = [
            "runs/sail/model",
            "models/gemma3",
            "hf:openai/clip-vit-base-patch32",
            "model",
            "/model",
        ];
        let ids = called.map(|name| id(Path::new(name)));
        assert_eq!(ids, ["sail", "gemma3", "clip-vit-base-patch32", "model", "/model"]);
    }
}
