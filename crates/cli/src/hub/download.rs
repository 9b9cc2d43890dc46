//! One file into the cache: resumed, checked, linked.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bifocal_models::hub::HubName;
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::api::{Hash, Hub, HubFile, refusal};
use crate::output::progress::Progress;

/// How often a broken connection is taken up again.
const ATTEMPTS: u32 = 5;

/// Brings one file of a commit into the cache, and links it where the commit has it.
pub fn file(hub: &Hub, name: &HubName, commit: &str, file: &HubFile, folder: &Path, snapshot: &Path) -> Result<()> {
    let blobs = folder.join("blobs");
    let blob = blobs.join(file.hash.text());
    if fs::metadata(&blob).is_ok_and(|found| found.len() == file.bytes) {
        return link(&blob, snapshot, file);
    }
    fs::create_dir_all(&blobs).with_context(|| format!("creating {}", blobs.display()))?;
    let partial = blobs.join(format!("{}.incomplete", file.hash.text()));
    let path = format!("{}/resolve/{commit}/{}", name.repository, escaped(&file.name));
    let at = || format!("{name}: {}", file.name);
    let mut out = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&partial)
        .with_context(|| format!("opening {}", partial.display()))?;
    // another process may be fetching the same file; then it is there afterwards
    out.lock()
        .with_context(|| format!("waiting for {}", partial.display()))?;
    if !fs::metadata(&blob).is_ok_and(|found| found.len() == file.bytes) {
        receive(hub, &path, &mut out, file).with_context(at)?;
        if let Err(error) = check(&mut out, file) {
            // what is wrong would be wrong again
            let _ = fs::remove_file(&partial);
            return Err(error.context(at()));
        }
        out.sync_all().with_context(at)?;
        fs::rename(&partial, &blob).with_context(|| format!("renaming {}", partial.display()))?;
    }
    link(&blob, snapshot, file)
}

/// Reads until the file is as long as it should be.
fn receive(hub: &Hub, path: &str, out: &mut File, file: &HubFile) -> Result<()> {
    let mut progress = Progress::new(&format!("fetching {}", file.name), file.bytes);
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(200 << attempt));
        }
        let mut have = out.seek(SeekFrom::End(0))?;
        if have > file.bytes {
            (have, _) = (0, out.set_len(0)?);
        }
        if have == file.bytes {
            break;
        }
        let mut response = match hub.get(path, have) {
            Ok(response) => response,
            Err(error) => {
                last = error.to_string();
                continue;
            }
        };
        match response.status().as_u16() {
            206 if have > 0 => {
                let range = response.headers().get("content-range").and_then(|v| v.to_str().ok());
                if !range.is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) {
                    out.set_len(0)?;
                    last = "it continued at another place".to_owned();
                    continue;
                }
            }
            // the whole file, whatever was asked for
            200 => {
                out.set_len(0)?;
                have = 0;
            }
            status @ 500.. => {
                last = format!("it answers {status}");
                continue;
            }
            status => bail!("{}", refusal(status)),
        }
        out.seek(SeekFrom::Start(have))?;
        // one byte more than there should be is noticed when the length is checked, and not more is written
        let mut body = response.body_mut().as_reader().take(file.bytes - have + 1);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    out.write_all(&buffer[..n])?;
                    have += n as u64;
                    progress.update(have, "");
                }
                Err(error) => {
                    last = error.to_string();
                    break;
                }
            }
        }
        if have >= file.bytes {
            break;
        }
        if last.is_empty() {
            last = format!("it ended after {have} of {} bytes", file.bytes);
        }
    }
    progress.finish();
    let have = out.metadata()?.len();
    if have < file.bytes {
        bail!(
            "the connection broke {ATTEMPTS} times ({last}); {have} of {} bytes are kept, the same call goes on from there",
            file.bytes
        );
    }
    Ok(())
}

/// Compares length and hash.
fn check(file: &mut File, expected: &HubFile) -> Result<()> {
    let bytes = file.metadata()?.len();
    if bytes != expected.bytes {
        bail!("{bytes} bytes came in place of {}; fetch it again", expected.bytes);
    }
    file.seek(SeekFrom::Start(0))?;
    let found = match &expected.hash {
        Hash::Sha256(_) => digest(Sha256::new(), file)?,
        Hash::Git(_) => digest(Sha1::new().chain_update(format!("blob {bytes}\0")), file)?,
    };
    if found != expected.hash.text() {
        bail!(
            "its content hashes to {found}, the hub says {}; it was damaged on its way, fetch it again",
            expected.hash.text()
        );
    }
    Ok(())
}

fn digest<D: Digest>(mut hasher: D, file: &mut File) -> Result<String> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `snapshots/<commit>/<file>` as a relative link into `blobs/`; a copy where the system has no links.
fn link(blob: &Path, snapshot: &Path, file: &HubFile) -> Result<()> {
    let place = snapshot.join(&file.name);
    if fs::metadata(&place).is_ok_and(|found| found.len() == file.bytes) {
        return Ok(());
    }
    let parent = place.parent().unwrap_or(snapshot);
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let _ = fs::remove_file(&place);
    let depth = Path::new(&file.name)
        .components()
        .filter(|c| matches!(c, Component::Normal(_)))
        .count();
    let mut target: PathBuf = std::iter::repeat_n("..", depth + 1).collect();
    target.extend(["blobs", file.hash.text()]);
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&target, &place);
    #[cfg(not(unix))]
    let made = fs::copy(blob, &place).map(|_| ());
    made.with_context(|| format!("linking {} to {}", place.display(), blob.display()))
}

/// A file's name as part of an address.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/".contains(&b);
    name.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
