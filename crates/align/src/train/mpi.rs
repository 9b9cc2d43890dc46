//! Ranks that MPI has started, on one machine or several.
//!
//! Every wait looks at the clock: blocking calls of MPI know no limit, so that only those that return at once are used. The limit ends all ranks,
//! because MPI has no way to take back what was begun.

use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::datatype::{Equivalence, PartitionMut};
use mpi::environment::Universe;
use mpi::request::{Request, Scope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::collective::{RankError, Ranks, Wait};

/// Others come within this time as a rule: the processor is offered to them, but not left.
const EAGER: Duration = Duration::from_millis(50);
/// After that, it sleeps for so long between two looks.
const NAP: Duration = Duration::from_micros(200);

/// Variables that launchers set: Open MPI, those with PMIx (also `srun --mpi=pmix`), MPICH and `srun --mpi=pmi2`.
const LAUNCHERS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE"];

/// All ranks of `mpirun` or `srun`. One that is dropped by a panic takes the others with it.
pub struct Mpi {
    world: SimpleCommunicator,
    rank: usize,
    size: usize,
    /// Where it says why it ends all.
    say: fn(&str),
    /// Ends MPI when it is dropped, after the rest.
    _universe: Universe,
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

impl Mpi {
    /// Joins the others; `None` when no launcher has started this process. `say` gets the message of a rank that has waited too long, which ends
    /// all ranks.
    ///
    /// # Errors
    /// [`RankError::NotStarted`].
    pub fn join(say: fn(&str)) -> Result<Option<Self>, RankError> {
        if !LAUNCHERS.iter().any(|name| std::env::var_os(name).is_some()) {
            return Ok(None);
        }
        let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
            return Err(RankError::NotStarted {
                message: "it was started already in this process",
            });
        };
        let world = universe.world();
        // MPI counts with C's int, never below 0 here
        let count = |n: i32| usize::try_from(n).unwrap_or(0);
        let (rank, size) = (count(world.rank()), count(world.size()));
        Ok(Some(Self {
            world,
            rank,
            size,
            say,
            _universe: universe,
        }))
    }

    /// Ends all ranks with an exit code. Ranks that fail for the same reason need not all say so: rank 0 does.
    pub fn abort(&self, code: u8) -> ! {
        self.world.abort(code.into())
    }

    fn finish<'a, D: ?Sized, S: Scope<'a>>(&self, mut request: Request<'a, D, S>, wait: Wait) {
        let began = Instant::now();
        loop {
            match request.test() {
                Ok(_) => return,
                Err(pending) => request = pending,
            }
            let waited = began.elapsed();
            if waited > wait.limit() {
                let error = RankError::Late {
                    rank: self.rank,
                    size: self.size,
                    seconds: waited.as_secs(),
                };
                (self.say)(&error.to_string());
                self.abort(1);
            }
            if waited < EAGER {
                std::thread::yield_now();
            } else {
                std::thread::sleep(NAP);
            }
        }
    }

    fn gather_any<T: Equivalence + Clone + Default>(&self, own: &[T], wait: Wait) -> Result<Vec<Vec<T>>, RankError> {
        let mut counts = vec![0u64; self.size];
        let count = [own.len() as u64];
        scope(|scope| {
            let request = self.world.immediate_all_gather_into(scope, &count[..], &mut counts[..]);
            self.finish(request, wait);
        });
        let values = counts.iter().map(|&n| n as usize).sum();
        let too_much = |_| RankError::TooMuch { values };
        i32::try_from(values).map_err(too_much)?;
        let counts: Vec<i32> = counts.iter().map(|&n| n as i32).collect();
        let begins: Vec<i32> = counts
            .iter()
            .scan(0, |end, n| {
                *end += n;
                Some(*end - n)
            })
            .collect();
        if values == 0 {
            return Ok(vec![Vec::new(); self.size]);
        }
        // Rust may give an empty slice the address 1, which Open MPI takes for MPI_IN_PLACE
        let none = [T::default()];
        let own = if own.is_empty() { &none[..0] } else { own };
        let mut all = vec![T::default(); values];
        {
            let mut parts = PartitionMut::new(&mut all[..], &counts[..], &begins[..]);
            scope(|scope| {
                let request = self.world.immediate_all_gather_varcount_into(scope, own, &mut parts);
                self.finish(request, wait);
            });
        }
        let part = |(&begin, &count): (&i32, &i32)| all[begin as usize..(begin + count) as usize].to_vec();
        Ok(begins.iter().zip(&counts).map(part).collect())
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // the end of MPI would wait for ranks that wait for this one
        if std::thread::panicking() {
            self.abort(1);
        }
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, own: &[u8], wait: Wait) -> Result<Vec<Vec<u8>>, RankError> {
        self.gather_any(own, wait)
    }

    fn gather_f32(&self, own: &[f32]) -> Result<Vec<Vec<f32>>, RankError> {
        self.gather_any(own, Wait::Step)
    }

    fn exchange(&self, own: &[f32]) -> Result<Vec<f32>, RankError> {
        let mut parts = vec![0.0f32; own.len()];
        if own.is_empty() {
            return Ok(parts);
        }
        scope(|scope| {
            let request = self.world.immediate_all_to_all_into(scope, own, &mut parts[..]);
            self.finish(request, Wait::Step);
        });
        Ok(parts)
    }
}
