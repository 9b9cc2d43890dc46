//! Ctrl-C and SIGTERM: the first one asks for an end in good order, the second one ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_default};

/// Whether the user, or the system that runs the program, wants it to end. Once dropped, signals end the program as they do without it.
#[derive(Debug)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system does not let a program listen.
    pub fn listen() -> Result<Self> {
        let heard = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // in this order: the signal that is the first to be heard does not end the program
            register_conditional_default(signal, heard.clone())
                .and_then(|_| register(signal, heard.clone()))
                .context("cannot listen for Ctrl-C and SIGTERM")?;
        }
        Ok(Self(heard))
    }

    /// Whether a signal came.
    pub fn heard(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
