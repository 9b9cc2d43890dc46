//! Several processes on one run: what each tells the others.
//!
//! All of a run's decisions are made of what every rank knows, so that each rank makes the same ones. Two operations do the work:
//! [`Ranks::gather`] and [`Ranks::exchange`]; the others are made of them, with sums in the order of ranks, so that the
//! same ranks give the same bits.

use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

use crate::recipe::Recipe;

/// Values that are summed in one exchange, so that buffers stay below 16 MiB for each rank.
const SUMMED: usize = 4 << 20;

/// How long a rank waits for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// What all ranks do at the same pace: 30 minutes.
    Step,
    /// Work of unknown length, such as features of a corpus or the writing of a model: a day.
    Work,
}

impl Wait {
    /// The limit.
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Step => 30 * 60,
            Self::Work => 24 * 3600,
        })
    }
}

/// Why ranks cannot go on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// Others did not come in time.
    #[error(
        "rank {rank} of {size} has waited {seconds} s for the others, which is the limit; look for the rank that hangs in the logs of the \
         machines, then go on with --resume"
    )]
    Late {
        /// Who waited.
        rank: usize,
        /// Of how many.
        size: usize,
        /// How long.
        seconds: u64,
    },
    /// Another rank has ended.
    #[error("rank {rank} stops because another rank has ended; that one's message says why")]
    Ended {
        /// Who found out.
        rank: usize,
    },
    /// What must be equal everywhere is not.
    #[error("{what} of rank {other} is not that of rank 0: {advice}")]
    Differs {
        /// Which.
        what: &'static str,
        /// Where.
        other: usize,
        /// What to do.
        advice: &'static str,
    },
    /// What another rank sent cannot be read.
    #[error("rank {other} sent {what} that cannot be read; start the same version of bifocal on all machines")]
    Garbled {
        /// What it was to be.
        what: &'static str,
        /// Whose.
        other: usize,
    },
    /// More than MPI can count.
    #[error("{values} values are more than MPI passes at once (2³¹ − 1); lower data.batch")]
    TooMuch {
        /// From all ranks together.
        values: usize,
    },
    /// No MPI.
    #[error("MPI did not start: {message}; start bifocal with mpirun or srun --mpi=pmix")]
    NotStarted {
        /// Why.
        message: &'static str,
    },
}

/// The processes of a run. Every rank makes the same calls in the same order.
pub trait Ranks: Debug {
    /// Which one this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Bytes of every rank, in the order of ranks, to all.
    ///
    /// # Errors
    /// [`RankError`] when the others do not come.
    fn gather(&self, own: &[u8], wait: Wait) -> Result<Vec<Vec<u8>>, RankError>;

    /// Numbers of every rank, in the order of ranks, to all; ranks may have different amounts.
    ///
    /// # Errors
    /// [`RankError`] when the others do not come, or for too many numbers.
    fn gather_f32(&self, own: &[f32]) -> Result<Vec<Vec<f32>>, RankError>;

    /// Of `size` equal parts of everybody's numbers, the part of this rank: those of rank 0 first.
    ///
    /// # Errors
    /// [`RankError`] when the others do not come.
    fn exchange(&self, own: &[f32]) -> Result<Vec<f32>, RankError>;
}

impl dyn Ranks + '_ {
    /// Whether this rank writes and shows what all have done.
    pub fn first(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's part of `n` things, beside those of its neighbours; parts differ by at most one.
    pub fn share(&self, n: usize) -> Range<usize> {
        let at = |rank: usize| n * rank / self.size();
        at(self.rank())..at(self.rank() + 1)
    }

    /// Waits until all are here.
    ///
    /// # Errors
    /// [`RankError`] when the others do not come.
    pub fn barrier(&self, wait: Wait) -> Result<(), RankError> {
        self.gather(&[], wait).map(|_| ())
    }

    /// Whether it is so at any rank.
    ///
    /// # Errors
    /// [`RankError`] when the others do not come.
    pub fn any(&self, own: bool) -> Result<bool, RankError> {
        let all = self.gather(&[u8::from(own)], Wait::Step)?;
        Ok(all.iter().any(|one| one.first() == Some(&1)))
    }

    /// Makes sure that something is the same everywhere.
    ///
    /// # Errors
    /// [`RankError::Differs`] with the first rank that has something else than rank 0.
    pub fn agree(&self, what: &'static str, advice: &'static str, own: &[u8]) -> Result<(), RankError> {
        let all = self.gather(blake3::hash(own).as_bytes(), Wait::Work)?;
        match all.iter().position(|one| Some(one) != all.first()) {
            None => Ok(()),
            Some(other) => Err(RankError::Differs { what, other, advice }),
        }
    }

    /// Makes sure that all ranks have started the same.
    pub(crate) fn agree_on_recipe(&self, recipe: &Recipe) -> Result<(), RankError> {
        let advice = "start all ranks with the same recipe, options and file";
        self.agree("the recipe", advice, recipe.to_toml().as_bytes())
    }

    /// Each rank's message to all, in the order of ranks; `what` it is, for errors.
    ///
    /// # Errors
    /// [`RankError`] when the others do not come, or talk in another way.
    pub fn tell<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        own: &T,
        wait: Wait,
    ) -> Result<Vec<T>, RankError> {
        let garbled = |other| RankError::Garbled { what, other };
        let own = serde_json::to_vec(own).map_err(|_| garbled(self.rank()))?;
        let all = self.gather(&own, wait)?;
        let read = |(other, bytes): (usize, &Vec<u8>)| serde_json::from_slice(bytes).map_err(|_| garbled(other));
        all.iter().enumerate().map(read).collect()
    }

    /// The sum over all ranks, which have equally many numbers; added in the order of ranks. Each number passes twice, however many ranks
    /// there are: a rank adds up its part and passes the sums on.
    ///
    /// # Errors
    /// [`RankError`] when the others do not come.
    pub fn sum(&self, values: &mut [f32]) -> Result<(), RankError> {
        let size = self.size();
        if size == 1 {
            return Ok(());
        }
        for chunk in values.chunks_mut(SUMMED) {
            let part = chunk.len().div_ceil(size);
            let mut padded = chunk.to_vec();
            padded.resize(part * size, 0.0);
            let parts = self.exchange(&padded)?;
            let (sum, others) = parts.split_at(part);
            let mut sum = sum.to_vec();
            for other in others.chunks_exact(part) {
                sum.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
            }
            let sums = self.gather_f32(&sum)?.concat();
            chunk.copy_from_slice(sums.get(..chunk.len()).ok_or(RankError::Garbled {
                what: "sums",
                other: self.rank(),
            })?);
        }
        Ok(())
    }
}

/// One process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, own: &[u8], _wait: Wait) -> Result<Vec<Vec<u8>>, RankError> {
        Ok(vec![own.to_vec()])
    }

    fn gather_f32(&self, own: &[f32]) -> Result<Vec<Vec<f32>>, RankError> {
        Ok(vec![own.to_vec()])
    }

    fn exchange(&self, own: &[f32]) -> Result<Vec<f32>, RankError> {
        Ok(own.to_vec())
    }
}
