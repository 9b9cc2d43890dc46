//! How long the processor may be busy with one picture: sizes are limited before anything is decoded, but a format can ask for much more work a
//! pixel than photographs do.

use std::cell::Cell;
use std::io::{BufRead, Cursor, Error, Read, Result, Seek, SeekFrom};
use std::time::Duration;

use super::DecodeError;

/// Compressed bytes that decoders get at once: what lies between two looks at the clock. A thousand times as many come out at most.
const STEP: usize = 8 << 10;
/// Calls between two looks at the clock, of those that read less.
const CALLS: u32 = 64;

/// The time of one picture, on one thread.
pub(super) struct Budget {
    /// When it ends, by the thread's clock; `None`: never.
    end: Option<Duration>,
    limit: Duration,
    spent: Cell<bool>,
}

impl Budget {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self {
            end: limit.map(|limit| clock().saturating_add(limit)),
            limit: limit.unwrap_or_default(),
            spent: Cell::new(false),
        }
    }

    /// Looks at the clock. What is spent stays so.
    pub(super) fn is_spent(&self) -> bool {
        if self.end.is_some_and(|end| clock() >= end) {
            self.spent.set(true);
        }
        self.spent.get()
    }

    /// Whether a look has found it spent.
    pub(super) fn was_spent(&self) -> bool {
        self.spent.get()
    }

    pub(super) fn error(&self, format: &'static str) -> DecodeError {
        let seconds = self.limit.as_secs_f64();
        DecodeError::Limit {
            format,
            what: format!("decoding it keeps the processor busy for more than {seconds} s"),
        }
    }
}

/// What the processor did for this thread: others that are busy take nothing from a picture's time.
#[cfg(unix)]
fn clock() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // neither can be negative
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(not(unix))]
fn clock() -> Duration {
    static BEGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGIN.get_or_init(std::time::Instant::now).elapsed()
}

/// A file in memory that cannot be read any more once the budget is spent, which ends a decoder of somebody else's.
pub(super) struct Watched<'a> {
    file: Cursor<&'a [u8]>,
    budget: &'a Budget,
    /// Since the last look at the clock.
    bytes: usize,
    calls: u32,
}

impl<'a> Watched<'a> {
    pub(super) fn new(bytes: &'a [u8], budget: &'a Budget) -> Self {
        Self {
            file: Cursor::new(bytes),
            budget,
            bytes: 0,
            calls: 0,
        }
    }

    /// Before `bytes` are given out.
    fn look(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        self.calls += 1;
        if self.bytes >= STEP || self.calls >= CALLS {
            (self.bytes, self.calls) = (0, 0);
            if self.budget.is_spent() {
                return Err(Error::other("the time for this picture is spent"));
            }
        }
        Ok(())
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.look(buf.len().min(STEP))?;
        self.file.read(buf)
    }
}

impl BufRead for Watched<'_> {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        self.look(0)?;
        let rest = self.file.fill_buf()?;
        Ok(&rest[..rest.len().min(STEP)])
    }

    fn consume(&mut self, n: usize) {
        self.bytes += n;
        self.file.consume(n);
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.look(0)?;
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_ends_reading_soon_and_none_never_does() {
        let bytes = vec![7u8; 40 * STEP];
        let mut read = Vec::new();
        let never = Budget::new(None);
        Watched::new(&bytes, &never).read_to_end(&mut read).unwrap();
        assert!(read == bytes && !never.was_spent());
        let none = Budget::new(Some(Duration::ZERO));
        let mut watched = Watched::new(&bytes, &none);
        let mut taken = 0;
        let error = loop {
            match watched.fill_buf() {
                Ok(some) => taken += some.len(),
                Err(error) => break error,
            }
            watched.consume(STEP);
        };
        assert!(taken <= 2 * STEP && none.was_spent(), "{taken}: {error}");
        // also one that reads byte by byte
        let mut watched = Watched::new(&bytes, &none);
        let count = (0..).take_while(|_| watched.read(&mut [0]).is_ok()).count();
        assert!(count <= CALLS as usize, "{count}");
        assert_eq!(none.error("PNG").cause(), "over-limit");
    }
}
