//! Where the bytes of a picture are, and one way to get them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::archive::Archive;
use super::made::{Planes, Region, bmp};
#[cfg(feature = "parquet")]
use super::parquet::Cell;
use crate::cache::ItemKey;
use crate::decode::{Conventions, DecodeError, Limits, decode_with, read_limited};
use crate::transform::{Rect, resize};
use crate::{Filter, RgbImage};

/// Where a picture is. Copies are cheap, and share the open file of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageSource {
    /// A file of its own.
    File(PathBuf),
    /// A member of a tar archive.
    Member(Member),
    /// Raw pixels in a larger file.
    Planes(Planes),
    /// A part of a picture.
    Region(Arc<Region>),
    /// A cell of a parquet file.
    #[cfg(feature = "parquet")]
    Cell(Cell),
    /// Nowhere: the sample is text only.
    None,
}

/// A range of bytes in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    pub(super) archive: Arc<Archive>,
    pub(super) name: Box<str>,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What is known of a picture without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Bytes; of a row of a table, which does not tell, those of the whole table.
    pub size: u64,
    /// When the file that holds it was modified, nanoseconds since 1970 (negative before).
    pub modified_ns: i64,
}

impl ImageSource {
    /// A part of a picture; what lies outside of it is black.
    #[must_use]
    pub fn region(of: Self, rect: Rect) -> Self {
        Self::Region(Arc::new(Region { of, rect }))
    }

    /// The file, when the picture has one of its own.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }

    /// The file that its bytes are in: its own, an archive, or a table.
    #[must_use]
    pub fn container(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Member(member) | Self::Planes(Planes { member, .. }) => Some(member.archive.path()),
            Self::Region(region) => region.of.container(),
            #[cfg(feature = "parquet")]
            Self::Cell(cell) => Some(cell.file()),
            Self::None => None,
        }
    }

    /// What tells a picture from another one in its place without reading it; `None` when its file is gone.
    #[must_use]
    pub fn facts(&self) -> Option<Facts> {
        let meta = std::fs::metadata(self.container()?).ok()?;
        let modified_ns = match meta.modified().ok()?.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).ok()?,
            Err(before) => -i64::try_from(before.duration().as_nanos()).ok()?,
        };
        let size = match self {
            Self::Member(member) | Self::Planes(Planes { member, .. }) => member.length,
            _ => meta.len(),
        };
        Some(Facts { size, modified_ns })
    }

    /// Whether there is no picture.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The encoded picture. Archives are read by position, from any number of threads at once.
    ///
    /// # Errors
    /// [`DecodeError::Io`], [`DecodeError::TooLarge`] before anything is allocated, [`DecodeError::NoPicture`].
    pub fn read(&self, limits: &Limits) -> Result<Vec<u8>, DecodeError> {
        match self {
            Self::File(path) => read_limited(path, limits),
            Self::Member(member) => member.read(limits),
            Self::Planes(_) | Self::Region(_) => bmp(&self.open(limits, Conventions::default())?),
            #[cfg(feature = "parquet")]
            Self::Cell(cell) => cell.read(limits),
            Self::None => Err(DecodeError::NoPicture),
        }
    }

    /// Reads and decodes the picture.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`decode_with`].
    pub fn open(&self, limits: &Limits, conventions: Conventions) -> Result<RgbImage, DecodeError> {
        match self {
            Self::Planes(planes) => planes.open(limits),
            Self::Region(region) => region.open(limits, conventions),
            _ => decode_with(&self.read(limits)?, limits, conventions),
        }
    }

    /// The picture in small, as PNG: its longer side has `side` pixels, or fewer when it is smaller.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn thumbnail(&self, limits: &Limits, side: u32) -> Result<Vec<u8>, DecodeError> {
        let image = self.open(limits, Conventions::default())?;
        let longer = image.width().max(image.height());
        let scaled = |length: u32| match longer > side {
            true => (u64::from(length) * u64::from(side) / u64::from(longer)).max(1) as u32,
            false => length,
        };
        let (width, height) = (scaled(image.width()), scaled(image.height()));
        let small = resize(&image, width, height, Filter::Bilinear).unwrap_or(image);
        small.png()
    }

    /// The key of the bytes: the same picture has the same key as a file, in an archive and in a table. Files have no limit here, since
    /// they are not held in memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn key(&self, limits: &Limits) -> Result<ItemKey, DecodeError> {
        match self {
            Self::File(path) => ItemKey::of_file(path).map_err(|e| DecodeError::Io {
                path: path.clone(),
                reason: e.to_string(),
            }),
            _ => Ok(ItemKey::of_bytes(&self.read(limits)?)),
        }
    }
}

impl RgbImage {
    /// The picture as a PNG file.
    ///
    /// # Errors
    /// [`DecodeError::Unsupported`] for a picture that is too large for the format.
    pub fn png(&self) -> Result<Vec<u8>, DecodeError> {
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(self.data(), self.width(), self.height(), ExtendedColorType::Rgb8)
            .map_err(|e| DecodeError::Unsupported {
                what: format!("writing a PNG file ({e})"),
            })?;
        Ok(png)
    }
}

impl Member {
    pub(super) fn read(&self, limits: &Limits) -> Result<Vec<u8>, DecodeError> {
        let length = usize::try_from(self.length)
            .ok()
            .filter(|_| self.length <= limits.bytes);
        let Some(length) = length else {
            return Err(DecodeError::TooLarge {
                bytes: self.length,
                limit: limits.bytes,
            });
        };
        self.archive.read(self.offset, length).map_err(|e| DecodeError::Io {
            path: self.archive.path().to_owned(),
            reason: e.to_string(),
        })
    }
}

impl From<PathBuf> for ImageSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for ImageSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

/// For messages: the path; `archive.tar: member`; `photo.jpg, 20×30 at 5, 6`; `table.parquet: row 7`.
impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Member(member) | Self::Planes(Planes { member, .. }) => {
                write!(f, "{}: {}", member.archive.path().display(), member.name)
            }
            Self::Region(region) => {
                let Rect { x, y, width, height } = region.rect;
                write!(f, "{}, {width}×{height} at {x}, {y}", region.of)
            }
            #[cfg(feature = "parquet")]
            Self::Cell(cell) => cell.fmt(f),
            Self::None => f.write_str("no picture"),
        }
    }
}
