//! Ranks that are threads of the test.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bifocal_align::train::collective::{RankError, Ranks, Wait};

/// Longer than anything here takes, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Meeting {
    brought: Vec<Option<Vec<u8>>>,
    /// How often all have met, and what they brought the last time.
    met: u64,
    last: Arc<Vec<Vec<u8>>>,
    /// Somebody has left.
    over: bool,
}

/// A rank of [`threads`].
#[derive(Debug)]
struct Member {
    rank: usize,
    size: usize,
    room: Arc<(Mutex<Meeting>, Condvar)>,
}

impl Member {
    fn meet(&self, own: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>, RankError> {
        let (meeting, changed) = &*self.room;
        let mut meeting = meeting.lock().unwrap();
        let turn = meeting.met;
        meeting.brought[self.rank] = Some(own);
        if meeting.brought.iter().all(Option::is_some) {
            let all = meeting.brought.iter_mut().map(|one| one.take().unwrap()).collect();
            meeting.last = Arc::new(all);
            meeting.met += 1;
            changed.notify_all();
            return Ok(meeting.last.clone());
        }
        let waits = |m: &mut Meeting| m.met == turn && !m.over;
        let (meeting, timeout) = changed.wait_timeout_while(meeting, LIMIT, waits).unwrap();
        assert!(!timeout.timed_out(), "rank {} waits for ever", self.rank);
        match meeting.met == turn {
            true => Err(RankError::Ended { rank: self.rank }),
            false => Ok(meeting.last.clone()),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // also when the thread that holds it has panicked
        let mut meeting = self.room.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        meeting.over = true;
        self.room.1.notify_all();
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let quads = bytes.as_chunks::<4>().0.iter();
    quads.map(|b| f32::from_le_bytes(*b)).collect()
}

impl Ranks for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, own: &[u8], _wait: Wait) -> Result<Vec<Vec<u8>>, RankError> {
        Ok(self.meet(own.to_vec())?.to_vec())
    }

    fn gather_f32(&self, own: &[f32]) -> Result<Vec<Vec<f32>>, RankError> {
        Ok(self.meet(bytes(own))?.iter().map(|one| floats(one)).collect())
    }

    fn exchange(&self, own: &[f32]) -> Result<Vec<f32>, RankError> {
        let part = own.len() / self.size;
        let all = self.meet(bytes(own))?;
        let parts = all
            .iter()
            .map(|one| floats(one)[part * self.rank..part * (self.rank + 1)].to_vec());
        Ok(parts.flatten().collect())
    }
}

/// Runs the same at each of `n` ranks and gives what they return.
pub fn threads<T: Send>(n: usize, run: impl Fn(&dyn Ranks) -> T + Sync) -> Vec<T> {
    let meeting = Meeting {
        brought: vec![None; n],
        ..Meeting::default()
    };
    let room = Arc::new((Mutex::new(meeting), Condvar::new()));
    std::thread::scope(|scope| {
        let start = |rank| {
            let member = Member {
                rank,
                size: n,
                room: room.clone(),
            };
            let run = &run;
            scope.spawn(move || run(&member))
        };
        let all: Vec<_> = (0..n).map(start).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}
