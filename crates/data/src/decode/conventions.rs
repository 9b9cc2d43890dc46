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
    /// Decodes a JPEG at a half, a quarter or an eighth of its size, as long as its shorter side keeps at least this many pixels: quicker, and not the reference's pixels.
    /// Without it, always whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce_to: Option<u32>,
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
    /// The reference libraries' way.
    #[must_use]
    pub const fn pillow() -> Self {
        Self {
            orientation: Turning::Ignored,
            transparency: Transparency::Dropped,
            deep_grey: DeepGrey::Clipped,
            reduce_to: None,
        }
    }

    /// A part of [`Preprocess::fingerprint`](crate::Preprocess::fingerprint), as it was before pictures could be reduced when they are not.
    pub(crate) fn fingerprint(&self) -> String {
        let Self {
            orientation,
            transparency,
            deep_grey,
            reduce_to,
        } = self;
        let reduced = reduce_to.map_or_else(String::new, |least| format!(", reduce_to: {least}"));
        format!(
            " files=Conventions {{ orientation: {orientation:?}, transparency: {transparency:?}, deep_grey: {deep_grey:?}{reduced} }}"
        )
    }

    /// Whether these are Bifocal's own.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
