//! Following folders: they are listed again and again. That works on every file system, also those of the network, which tell
//! nobody what changed on the other side; a listing costs one `stat` a picture.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::listing::{Listing, Root};
use super::{Indexer, Pass};
use crate::stop::Stop;

/// How often the wish to stop is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Brings the store up to date every `interval` until Ctrl-C or SIGTERM; says only what changed since `listing`.
pub fn watch(indexer: &Indexer, name: &Path, roots: &[Root], listing: Listing, interval: Duration) -> Result<()> {
    let stop = Stop::listen()?;
    eprintln!(
        "watching {} every {} s; Ctrl-C ends it",
        roots
            .iter()
            .map(|r| r.path.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
        interval.as_secs()
    );
    let mut digest = listing.digest();
    drop(listing);
    let mut told = String::new();
    loop {
        let mut waited = Duration::ZERO;
        while waited < interval {
            if stop.heard() {
                return Ok(());
            }
            std::thread::sleep(TICK);
            waited += TICK;
        }
        // A folder that is away for a while (a disk that is not mounted) is no reason to empty the store, nor to end.
        let listing = match Listing::read(roots, false) {
            Ok(listing) => listing,
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    eprintln!("cannot list: {text}; trying again");
                    told = text;
                }
                continue;
            }
        };
        told.clear();
        let before = std::mem::replace(&mut digest, listing.digest());
        let what = Pass {
            retry: false,
            refresh: before != digest,
        };
        let summary = indexer.pass(roots, &listing, what)?;
        if summary.is_news() {
            indexer.store.flush()?;
            println!("{}: {summary}", name.display());
        }
    }
}
