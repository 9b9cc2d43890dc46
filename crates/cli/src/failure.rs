//! Exit codes: 0 done, 1 failed, 2 wrong use.

use std::process::ExitCode;

/// The call itself was wrong: another call would succeed with the same files.
#[derive(Debug)]
pub struct WrongUse(String);

impl std::fmt::Display for WrongUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUse {}

/// An error that ends the program with exit code 2.
pub fn wrong_use(message: impl Into<String>) -> anyhow::Error {
    WrongUse(message.into()).into()
}

/// Prints an error and returns its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(print(error))
}

/// Prints an error with its causes on one line each and returns its exit code.
pub fn print(error: &anyhow::Error) -> u8 {
    // A reader that went away (`bifocal search … | head`) is not a failure.
    let closed = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
    if closed {
        return 0;
    }
    eprintln!("error: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // A transparent wrapper repeats its cause's words.
        if !last.contains(&text) {
            eprintln!("  because: {text}");
        }
        last = text;
    }
    if error.chain().any(|cause| cause.is::<WrongUse>()) {
        2
    } else {
        1
    }
}
