//! Where libraries differ about what a picture shows.

use serde::{Deserialize, Serialize};

/// How a file's pixels are read where Bifocal and the reference libraries differ. The default is Bifocal's way, which shows what a viewer
/// shows; [`Conventions::pillow`] gives the numbers of pipelines that open a file and call Pillow's `convert("RGB")`, as open_clip's and
/// timm's data sets do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conventions {
    /// Turning by the camera's orientation.
    pub orientation: Turning,
    /// Transparent pixels.
    pub transparency: Transparency,
    /// Grey of 16 bits. Colours of 16 bits give their high byte in both worlds.
    pub deep_grey: DeepGrey,
}

/// Whether the orientation that a camera wrote is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turning {
    /// It is: the picture is upright.
    #[default]
    Applied,
    /// It is not; a TIFF is turned all the same, since Pillow turns it while reading.
    Ignored,
}

/// What is seen through transparent pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transparency {
    /// White paper.
    #[default]
    OnWhite,
    /// The colour that the file keeps under the transparency, often black.
    Dropped,
}

/// How grey of 16 bits becomes 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeepGrey {
    /// By its high byte.
    #[default]
    HighByte,
    /// Values above 255 become 255: most of a photo turns white. This is what Pillow does with its mode `I;16`.
    Clipped,
}

impl Conventions {
    /// The reference libraries' way in all three points.
    #[must_use]
    pub const fn pillow() -> Self {
        Self {
            orientation: Turning::Ignored,
            transparency: Transparency::Dropped,
            deep_grey: DeepGrey::Clipped,
        }
    }

    /// Whether these are Bifocal's own.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
