//! Files of codes: `.npy` (int32, version 1.0) and `.jsonl`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use bifocal_data::atomic::write_atomic;
use serde::{Deserialize, Serialize};

use crate::failure::wrong_use;

/// Bytes of a file of codes, at most.
const MOST: u64 = 4 << 30;

/// A file format, chosen by the name's ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `[pictures, rows, columns]`.
    Npy,
    /// One picture a line.
    Jsonl,
}

impl Format {
    /// # Errors
    /// Another ending than `.npy` or `.jsonl` is wrong use.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("jsonl") => Ok(Self::Jsonl),
            _ => Err(wrong_use(format!(
                "{}: a file of codes ends in .npy or .jsonl, which says what it holds",
                path.display()
            ))),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// Key of the picture.
    image: String,
    /// Rows of codes.
    codes: Vec<Vec<u32>>,
}

/// Codes of pictures of one size.
#[derive(Debug, PartialEq)]
pub struct Codes {
    grid: [usize; 2],
    names: Vec<String>,
    codes: Vec<u32>,
}

impl Codes {
    /// No pictures yet, of so many rows and columns each.
    pub fn new(grid: [usize; 2]) -> Self {
        Self {
            grid,
            names: Vec::new(),
            codes: Vec::new(),
        }
    }

    /// Adds a picture.
    pub fn push(&mut self, name: String, codes: &[u32]) {
        self.names.push(name);
        self.codes.extend_from_slice(codes);
    }

    /// Rows and columns.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.codes.len() / self.area()
    }

    fn area(&self) -> usize {
        (self.grid[0] * self.grid[1]).max(1)
    }

    /// All codes.
    pub fn all(&self) -> impl Iterator<Item = u32> + '_ {
        self.codes.iter().copied()
    }

    /// Those of a picture.
    pub fn of(&self, picture: usize) -> Vec<u32> {
        self.codes[picture * self.area()..(picture + 1) * self.area()].to_vec()
    }

    /// Writes the file, whole or not at all.
    pub fn write(&self, path: &Path, format: Format) -> Result<()> {
        write_atomic(path, |file| match format {
            Format::Npy => self.npy(file),
            Format::Jsonl => self.jsonl(file),
        })
        .with_context(|| format!("writing {}", path.display()))
    }

    fn npy(&self, file: &mut dyn std::io::Write) -> std::io::Result<()> {
        let [h, w] = self.grid;
        let n = self.len();
        let mut header = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': ({n}, {h}, {w}), }}");
        // magic, version and length take 10 bytes; data begins at a multiple of 64; the header ends with a newline
        let padding = 63 - (10 + header.len()) % 64;
        header.extend(std::iter::repeat_n(' ', padding));
        header.push('\n');
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&(header.len() as u16).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        self.codes
            .iter()
            .try_for_each(|code| file.write_all(&code.to_le_bytes()))
    }

    fn jsonl(&self, file: &mut dyn std::io::Write) -> std::io::Result<()> {
        for (name, codes) in self.names.iter().zip(self.codes.chunks_exact(self.area())) {
            let line = Line {
                image: name.clone(),
                codes: codes.chunks_exact(self.grid[1].max(1)).map(<[u32]>::to_vec).collect(),
            };
            serde_json::to_writer(&mut *file, &line)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads a file that [`Codes::write`], or NumPy, has written.
    ///
    /// # Errors
    /// A file of another kind, pictures of different sizes.
    pub fn read(path: &Path) -> Result<Self> {
        let format = Format::of(path)?;
        let size = fs::metadata(path)
            .with_context(|| format!("reading {}", path.display()))?
            .len();
        if size > MOST {
            return Err(wrong_use(format!(
                "{}: {size} bytes are more than {MOST}",
                path.display()
            )));
        }
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let read = match format {
            Format::Npy => parse_npy(&bytes),
            Format::Jsonl => parse_jsonl(&bytes),
        };
        read.map_err(|message| wrong_use(format!("{}: {message}", path.display())))
    }
}

fn parse_npy(bytes: &[u8]) -> Result<Codes, String> {
    let other = || "not an array that NumPy has saved as int32 or int64 of shape (pictures, rows, columns)".to_owned();
    let rest = bytes.strip_prefix(b"\x93NUMPY\x01\x00").ok_or_else(other)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(other)?;
    let (header, data) = rest
        .split_at_checked(usize::from(u16::from_le_bytes(*length)))
        .ok_or_else(other)?;
    let header = std::str::from_utf8(header).map_err(|_| other())?;
    let value = |key: &str| {
        header
            .split_once(key)
            .map(|(_, rest)| rest.trim_start_matches([':', ' ']))
    };
    if !value("'fortran_order'").is_some_and(|v| v.starts_with("False")) {
        return Err(other());
    }
    let shape = value("'shape'")
        .and_then(|v| v.strip_prefix('(')?.split_once(')'))
        .ok_or_else(other)?
        .0;
    let sizes: Result<Vec<usize>, _> = shape
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::parse)
        .collect();
    let Ok([n, h, w]) = <[usize; 3]>::try_from(sizes.map_err(|_| other())?) else {
        return Err(other());
    };
    let width = match value("'descr'") {
        Some(v) if v.starts_with("'<i4'") => 4,
        Some(v) if v.starts_with("'<i8'") => 8,
        _ => return Err(other()),
    };
    let count = h.checked_mul(w).and_then(|area| area.checked_mul(n)).filter(|n| *n > 0);
    let Some(count) = count.filter(|count| count.checked_mul(width) == Some(data.len())) else {
        return Err(format!(
            "({n}, {h}, {w}) numbers of {width} bytes are not the {} bytes that are there",
            data.len()
        ));
    };
    let mut codes = Vec::with_capacity(count);
    for number in data.chunks_exact(width) {
        let mut wide = if number[width - 1] >= 128 { [0xff; 8] } else { [0; 8] };
        wide[..width].copy_from_slice(number);
        let number = i64::from_le_bytes(wide);
        codes.push(u32::try_from(number).map_err(|_| format!("{number} is not a code"))?);
    }
    Ok(Codes {
        grid: [h, w],
        names: Vec::new(),
        codes,
    })
}

fn parse_jsonl(bytes: &[u8]) -> Result<Codes, String> {
    let mut all: Option<Codes> = None;
    for (i, line) in bytes
        .split(|b| *b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        let line: Line = serde_json::from_slice(line).map_err(|e| format!("line {}: {e}", i + 1))?;
        let grid = [line.codes.len(), line.codes.first().map_or(0, Vec::len)];
        let all = all.get_or_insert_with(|| Codes::new(grid));
        if grid != all.grid || line.codes.iter().any(|row| row.len() != grid[1]) || grid[0] * grid[1] == 0 {
            let [h, w] = all.grid;
            return Err(format!(
                "line {}: not {h} rows of {w} codes, as the first picture has",
                i + 1
            ));
        }
        all.push(line.image, &line.codes.concat());
    }
    all.ok_or_else(|| "no codes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes() -> Codes {
        let mut all = Codes::new([2, 3]);
        all.push("a.jpg".into(), &[0, 1, 2, 3, 4, 5]);
        all.push("b \"c\".jpg".into(), &[9, 8, 7, 6, 70_000, 4]);
        all
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["codes.npy", "codes.jsonl"] {
            let path = dir.path().join(name);
            codes().write(&path, Format::of(&path).unwrap()).unwrap();
            let read = Codes::read(&path).unwrap();
            assert_eq!((read.grid(), read.len(), read.of(1)), ([2, 3], 2, codes().of(1)));
            assert_eq!(read.all().collect::<Vec<_>>(), codes().codes);
        }
        assert!(Format::of(Path::new("codes.txt")).is_err());
        assert!(Codes::read(&dir.path().join("absent.npy")).is_err());
    }

    #[test]
    fn files_of_other_kinds_are_refused() {
        let mut bytes = Vec::new();
        codes().npy(&mut bytes).unwrap();
        assert_eq!(bytes.len() % 64, 2 * 6 * 4);
        assert!(parse_npy(&bytes).is_ok());
        for cut in 0..bytes.len() {
            assert!(parse_npy(&bytes[..cut]).is_err(), "{cut}");
        }
        let text = String::from_utf8_lossy(&bytes[..80]).into_owned();
        assert!(text.contains("(2, 2, 3)"), "{text}");
        let mut negative = bytes.clone();
        negative[bytes.len() - 1] = 0xff;
        assert!(parse_npy(&negative).unwrap_err().contains("not a code"));
        for wrong in [
            "{\"image\": \"a\", \"codes\": [[1, 2], [3]]}",
            "{\"image\": \"a\", \"codes\": []}",
            "{\"image\": \"a\", \"codes\": [[1]]}\n{\"image\": \"b\", \"codes\": [[1, 2]]}",
            "{\"image\": \"a\", \"codes\": [[-1]]}",
            "",
        ] {
            assert!(parse_jsonl(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
