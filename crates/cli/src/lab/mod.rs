//! The lab: every method on the same small real data, several seeds each, one table.

pub mod continual;
pub mod cost;
pub mod judge;
pub mod plan;
pub mod table;
pub mod talk;
