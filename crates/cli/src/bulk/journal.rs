//! The unfinished part: each batch is added to a file as soon as it is embedded. What a kill left half-written at its end is cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::input::{Failed, Known};

/// Bytes before a frame: its length, and the beginning of its BLAKE3.
const HEAD: usize = 16;
/// A frame that claims more was not written here.
const MAX_FRAME: u64 = 1 << 32;

/// One batch.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    pub good: Vec<Known>,
    pub bad: Vec<Failed>,
    /// `[good.len(), dim]`.
    #[serde(skip)]
    pub rows: Vec<f32>,
}

/// A file of frames.
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens or begins the file, and gives the batches that are in it.
    pub fn open(path: &Path, dim: usize) -> io::Result<(Self, Vec<Frame>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let (frames, sound) = sound(&mut file, dim)?;
        file.set_len(sound)?;
        let mut journal = Self { file };
        io::Seek::seek(&mut journal.file, io::SeekFrom::Start(sound))?;
        Ok((journal, frames))
    }

    /// The batches in a file that another process may be writing.
    pub fn read(path: &Path, dim: usize) -> io::Result<Vec<Frame>> {
        Ok(sound(&mut File::open(path)?, dim)?.0)
    }

    /// Adds a batch.
    pub fn add(&mut self, frame: &Frame) -> io::Result<()> {
        let text = serde_json::to_vec(frame)?;
        let mut body = (text.len() as u64).to_le_bytes().to_vec();
        body.extend(text);
        body.extend(frame.rows.iter().flat_map(|v| v.to_le_bytes()));
        let mut bytes = (body.len() as u64).to_le_bytes().to_vec();
        bytes.extend(&blake3::hash(&body).as_bytes()[..8]);
        bytes.extend(body);
        self.file.write_all(&bytes)
    }
}

/// All frames up to the first that is not whole, and where that begins.
fn sound(file: &mut File, dim: usize) -> io::Result<(Vec<Frame>, u64)> {
    let size = file.metadata()?.len();
    let (mut frames, mut end) = (Vec::new(), 0);
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    while let Some((frame, bytes)) = next(&mut reader, size - end, dim)? {
        frames.push(frame);
        end += bytes;
    }
    Ok((frames, end))
}

/// The next frame and its size; `None` where nothing sound follows.
fn next(reader: &mut impl Read, left: u64, dim: usize) -> io::Result<Option<(Frame, u64)>> {
    if left < HEAD as u64 {
        return Ok(None);
    }
    let mut head = [0; HEAD];
    reader.read_exact(&mut head)?;
    let length = u64::from_le_bytes(head.first_chunk::<8>().copied().unwrap_or_default());
    if length > left - HEAD as u64 || length > MAX_FRAME {
        return Ok(None);
    }
    let mut body = vec![0; length as usize];
    reader.read_exact(&mut body)?;
    if blake3::hash(&body).as_bytes()[..8] != head[8..] {
        return Ok(None);
    }
    Ok(parse(&body, dim).map(|frame| (frame, HEAD as u64 + length)))
}

fn parse(body: &[u8], dim: usize) -> Option<Frame> {
    let (text, rest) = body.split_first_chunk::<8>()?;
    let (text, rows) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*text)).ok()?)?;
    let mut frame: Frame = serde_json::from_slice(text).ok()?;
    let (rows, odd) = rows.as_chunks::<4>();
    frame.rows = rows.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (odd.is_empty() && frame.rows.len() == frame.good.len() * dim).then_some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(index: usize) -> Frame {
        Frame {
            good: vec![Known {
                index,
                key: "a".to_owned(),
                ..Known::default()
            }],
            bad: Vec::new(),
            rows: vec![index as f32, 0.5],
        }
    }

    #[test]
    fn whatever_a_kill_or_a_disk_leaves_the_sound_beginning_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, frames) = Journal::open(&path, 2).unwrap();
        assert_eq!(frames, []);
        for i in 0..3 {
            journal.add(&frame(i)).unwrap();
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let one = whole.len() / 3;
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, frames) = Journal::open(&path, 2).unwrap();
            assert_eq!(frames.len(), cut / one, "cut at {cut}");
            journal.add(&frame(9)).unwrap();
            let (_, frames) = Journal::open(&path, 2).unwrap();
            assert_eq!(frames.last(), Some(&frame(9)), "cut at {cut}");
        }
        for at in 0..one {
            let mut damaged = whole.clone();
            damaged[one + at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(Journal::open(&path, 2).unwrap().1, [frame(0)], "damaged at {at}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Journal::open(&path, 3).unwrap().1, []);
    }
}
