//! Why a picture could not be read.

use std::path::PathBuf;

/// What is wrong with a picture, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file could not be read at all.
    #[error("cannot read {path}: {reason}; check that the file exists and that you may read it")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A sample of text only.
    #[error("the sample has no picture, only text; use a source with pictures here")]
    NoPicture,
    /// Zero bytes.
    #[error("the file is empty (0 bytes); it was probably not copied or downloaded to the end: fetch it again")]
    Empty,
    /// More bytes than the limit allows.
    #[error("the file has {bytes} bytes, more than the limit of {limit}; shrink the picture or raise the limit")]
    TooLarge {
        /// Size of the file in bytes.
        bytes: u64,
        /// Largest size that is accepted.
        limit: u64,
    },
    /// Readable text where a picture was expected.
    #[error(
        "this is no picture: the content looks like text (it begins with {begin:?}), whatever the file is called; \
         a download often saves an error page this way: fetch it again"
    )]
    LooksLikeText {
        /// The first characters.
        begin: String,
    },
    /// A format that is recognised and not supported.
    #[error("{what} is not supported; convert the picture to JPEG or PNG")]
    Unsupported {
        /// The format or the feature of a format.
        what: String,
    },
    /// Nothing that is recognised.
    #[error(
        "this is no picture that can be recognised (it begins with the bytes {begin}); JPEG, PNG, WebP, GIF, BMP and \
         TIFF are read"
    )]
    Unknown {
        /// The first bytes in hexadecimal.
        begin: String,
    },
    /// The picture would need more than the limits allow; nothing was allocated for it.
    #[error("the {format} picture exceeds a limit: {what}; shrink it or raise the limit")]
    Limit {
        /// Format by content.
        format: &'static str,
        /// Which limit, with both numbers.
        what: String,
    },
    /// The data end before the picture does.
    #[error("the {format} picture is cut off: its data end before the picture does; fetch the file again")]
    Truncated {
        /// Format by content.
        format: &'static str,
    },
    /// The data contradict their format.
    #[error("the {format} picture is damaged: {reason}; fetch the file again or remove it")]
    Damaged {
        /// Format by content.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The decoder failed in a way that its author did not foresee.
    #[error(
        "the {format} decoder gave up on this picture ({reason}); the file is probably damaged: fetch it again or \
         remove it"
    )]
    Panicked {
        /// Format by content.
        format: &'static str,
        /// Message of the panic.
        reason: String,
    },
}

impl DecodeError {
    /// A short stable word for the kind of error, to count by.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Io { .. } => "unreadable",
            Self::NoPicture => "no-picture",
            Self::Empty => "empty",
            Self::TooLarge { .. } | Self::Limit { .. } => "over-limit",
            Self::LooksLikeText { .. } => "text",
            Self::Unsupported { .. } => "unsupported",
            Self::Unknown { .. } => "unknown-format",
            Self::Truncated { .. } => "truncated",
            Self::Damaged { .. } | Self::Panicked { .. } => "damaged",
        }
    }
}
