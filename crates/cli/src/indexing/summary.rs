//! What a pass did, in numbers.

use std::collections::BTreeMap;

/// What a pass did.
#[derive(Debug, Default, serde::Serialize)]
pub struct Summary {
    pub added: usize,
    pub changed: usize,
    pub moved: usize,
    pub deleted: usize,
    pub unchanged: usize,
    /// Unchanged pictures whose captions or labels are others than before.
    pub refreshed: usize,
    /// Pictures that are left out, those of earlier passes among them.
    pub failed: usize,
    /// How many of these have failed before, have not changed, and were not tried again.
    pub remembered: usize,
    /// Those that are left out, by cause.
    pub causes: BTreeMap<String, usize>,
    pub items: u64,
}

impl Summary {
    /// Whether the store is another one than before.
    pub fn is_news(&self) -> bool {
        let failed = self.failed - self.remembered.min(self.failed);
        self.added + self.changed + self.moved + self.deleted + self.refreshed + failed > 0
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} added, {} changed, {} moved, {} deleted, {} unchanged, ",
            self.added, self.changed, self.moved, self.deleted, self.unchanged
        )?;
        if self.refreshed > 0 {
            write!(f, "{} with new captions or labels, ", self.refreshed)?;
        }
        write!(f, "{} left out", self.failed)?;
        if self.failed > 0 {
            write!(f, " ({})", by_cause(&self.causes))?;
        }
        write!(f, "; {} items", self.items)
    }
}

/// `3 truncated, 1 text`, the most frequent first.
pub fn by_cause(causes: &BTreeMap<String, usize>) -> String {
    let mut causes: Vec<_> = causes.iter().collect();
    causes.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    let words: Vec<String> = causes.iter().map(|(cause, n)| format!("{n} {cause}")).collect();
    words.join(", ")
}
