//! What asks a run to stop: Ctrl-C, and the signal that schedulers send before time is up.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Is set by the first SIGINT or SIGTERM; the second one ends the process as it would without this. Where the system has no such signals, it is never set.
pub fn stop() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // in the order of their registration: the first time, the flag is not yet set
        let registered =
            flag::register_conditional_default(signal, stop.clone()).and_then(|_| flag::register(signal, stop.clone()));
        if let Err(error) = registered {
            eprintln!("warning: signal {signal} will end the run without a checkpoint: {error}");
        }
    }
    stop
}
