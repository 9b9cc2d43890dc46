//! `bifocal eval`: models × benchmarks. `plan` says which benchmarks, `run` measures what is missing, `measure` one model on one
//! benchmark, `results` keeps it with its protocol, `export` and `report` show it, `compare` says whether two models differ.

pub mod compare;
mod examples;
mod export;
mod features;
mod list;
mod measure;
pub mod plan;
mod report;
mod results;
pub mod run;
mod tally;
pub mod watch;

pub use export::{markdown, put};
pub use features::Features;
pub use list::list;
pub use measure::measure;
pub use report::{STYLE, Scale, heat};
pub use results::{Kind, Metric};
