//! One command in several processes, which `mpirun` or `srun` has started.

use anyhow::Result;
use bifocal_align::train::collective::{Alone, Ranks};

/// Runs a command among the ranks of this run, or alone. A rank that fails, by an error or a panic, ends all of them.
pub fn among(run: impl FnOnce(&dyn Ranks) -> Result<()>) -> Result<()> {
    #[cfg(feature = "mpi")]
    if let Some(mpi) = bifocal_align::train::mpi::Mpi::join(|message| eprintln!("error: {message}"))? {
        return together(&mpi, run);
    }
    #[cfg(not(feature = "mpi"))]
    if let Some(name) = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"].iter().find(|name| {
        let size = std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok());
        size.is_some_and(|n| n > 1)
    }) {
        return Err(crate::failure::wrong_use(format!(
            "this bifocal was built without MPI, but {name} says that it is one of several processes; build it with `cargo build --release \
             --features mpi`, or start it without mpirun"
        )));
    }
    run(&Alone)
}

#[cfg(feature = "mpi")]
fn together(mpi: &bifocal_align::train::mpi::Mpi, run: impl FnOnce(&dyn Ranks) -> Result<()>) -> Result<()> {
    use bifocal_align::train::collective::Wait;

    let ranks: &dyn Ranks = mpi;
    let done = run(ranks).and_then(|()| Ok(ranks.barrier(Wait::Work)?));
    if let Err(error) = done {
        // what is wrong with the call or the files is wrong at all ranks: rank 0 says it first and ends the others
        if !ranks.first() {
            std::thread::sleep(std::time::Duration::from_secs(1));
            eprintln!("rank {} of {}:", ranks.rank(), ranks.size());
        }
        mpi.abort(crate::failure::print(&error));
    }
    Ok(())
}

/// What a rank shows: rank 0 speaks for all.
///
/// # Errors
/// When the system does not let the program listen for signals.
pub fn console(ranks: &dyn Ranks) -> Result<crate::output::training::Console> {
    crate::output::training::Console::new(ranks.first())
}
