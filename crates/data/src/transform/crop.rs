//! Where a centre crop begins. Libraries differ by one pixel when the margin is odd.

use serde::{Deserialize, Serialize};

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// What happens to half a pixel of margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CropRounding {
    /// Halves go to the even neighbour, as Python's `round` does: torchvision and open_clip.
    #[default]
    HalfEven,
    /// Halves go down: the slow image processors of transformers.
    Floor,
}

/// Margin before a window of `inner` in the middle of `outer` ≥ `inner`; 0 when the window is not smaller.
#[must_use]
pub fn center_offset(outer: u32, inner: u32, rounding: CropRounding) -> u32 {
    let margin = outer.saturating_sub(inner);
    let half = margin / 2;
    match rounding {
        CropRounding::Floor => half,
        CropRounding::HalfEven => half + (margin & 1 & half),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_to_the_even_neighbour() {
        // (margin, Python's round(margin / 2), margin // 2)
        for (margin, even, floor) in [
            (0, 0, 0),
            (1, 0, 0),
            (2, 1, 1),
            (3, 2, 1),
            (4, 2, 2),
            (5, 2, 2),
            (7, 4, 3),
            (75, 38, 37),
        ] {
            assert_eq!(center_offset(224 + margin, 224, CropRounding::HalfEven), even);
            assert_eq!(center_offset(224 + margin, 224, CropRounding::Floor), floor);
        }
        assert_eq!(center_offset(3, 9, CropRounding::HalfEven), 0);
    }
}
