//! A picture and its caption in the order of drawing.

use crate::chat::Sequence;

/// The picture after the text that it is drawn from. `read` has it before its caption ([`crate::chat::Style::Plain`]); of the text nothing is learnt.
#[must_use]
pub fn after_its_text(read: &Sequence) -> Sequence {
    let ids = read.ids.clone();
    Sequence {
        learnt: vec![false; ids.len()],
        image: Some(ids.len()),
        ids,
        mismatch: false,
    }
}

/// The same without its text, for guidance without a classifier (Ho and Salimans 2022, arXiv 2207.12598): what the tokenizer puts before any text is left.
#[must_use]
pub fn after_nothing(read: &Sequence) -> Sequence {
    let at = read.image.unwrap_or(0);
    after_its_text(&Sequence {
        ids: read.ids[..at].to_vec(),
        ..Sequence::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_any_text_stays() {
        let read = Sequence {
            ids: vec![1, 7, 8, 9],
            learnt: vec![false, true, true, true],
            image: Some(1),
            mismatch: false,
        };
        let drawn = after_its_text(&read);
        assert_eq!((drawn.ids.as_slice(), drawn.image), (&[1, 7, 8, 9][..], Some(4)));
        assert!(drawn.targets(5).is_empty());
        let bare = after_nothing(&read);
        assert_eq!((bare.ids.as_slice(), bare.image), (&[1][..], Some(1)));
        assert_eq!(bare.learnt.len(), 1);
    }
}
