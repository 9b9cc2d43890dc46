//! Fetching `hf:org/name` into the cache of the hub's own client.
//!
//! Variables as that client reads them: `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`. A download that was killed goes
//! on where it was, contents are checked against the hashes that the hub gives, and a commit that is complete is not asked for again.

mod api;
mod choose;
mod download;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bifocal_models::hub::{HubCache, HubName};

use api::{Answer, Hub};

/// The folder with a model's files; what is missing is fetched.
pub fn fetch(name: &HubName) -> Result<PathBuf> {
    let cache = HubCache::of_environment().context("there is no folder for downloads; set HF_HUB_CACHE or HOME")?;
    let cached = cache.snapshot(name);
    if offline() {
        return cached.with_context(|| {
            format!(
                "{name} is not in {} and HF_HUB_OFFLINE forbids fetching it; unset it once, or copy the model there",
                cache.folder(name).display()
            )
        });
    }
    let hub = Hub::of_environment();
    let model = match hub.model(name)? {
        Answer::Model(model) => model,
        Answer::Unreachable(error) => match cached {
            Some(cached) => {
                eprintln!("{name}: the hub cannot be reached ({error}); using what was fetched before");
                return Ok(cached);
            }
            None => {
                bail!("{name} cannot be fetched: {error}; check the connection and HF_ENDPOINT, or give a local folder")
            }
        },
    };
    let files = choose::needed(&model.files).with_context(|| name.to_string())?;
    let folder = cache.folder(name);
    let snapshot = folder.join("snapshots").join(&model.commit);
    for file in files {
        download::file(&hub, name, &model.commit, file, &folder, &snapshot)?;
    }
    // last, so that a branch never leads to half a model
    write_ref(&folder, name, &model.commit)?;
    Ok(snapshot)
}

fn write_ref(folder: &Path, name: &HubName, commit: &str) -> Result<()> {
    let path = folder.join("refs").join(&name.revision);
    if name.revision == commit || std::fs::read_to_string(&path).is_ok_and(|known| known == commit) {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(folder);
    std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    bifocal_data::atomic::write_atomic(&path, |file| std::io::Write::write_all(file, commit.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

fn offline() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}
