//! The queue before the model: inputs of many requests become one batch.
//!
//! One thread runs the model. It takes what waits, up to a budget of tokens or pictures, one input of each request in turn. Where small requests
//! wait together with large ones, every second batch is theirs alone: a search beside a request of two thousand texts takes as long as the batch that is being
//! embedded and its own, and the large request goes on at least half of the time. What waits is bounded (by items, tokens and pixels):
//! room is reserved before work is done for a request, and a request that is dropped gives its place back at once.

mod room;
mod worker;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bifocal_models::tokenizer::Encoding;
use tokio::sync::oneshot;

use crate::error::ApiError;

pub(crate) use room::{Cost, Room};
pub(crate) use worker::work;

/// Tokens of one batch; matrix products are at full speed before, and everyone waits for a batch that has begun.
const BATCH_TOKENS: usize = 1024;
/// Texts of one batch.
const BATCH_TEXTS: usize = 64;
/// Pictures of one batch.
const BATCH_PICTURES: usize = 16;

/// A request that waits for so few inputs may overtake: a search with its texts and pictures.
const SMALL: usize = 4;

/// The tower that an input goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tower {
    Text,
    Vision,
}

impl Tower {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Vision => "vision",
        }
    }
}

/// One input as the model reads it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    /// A text.
    Tokens(Encoding),
    /// `[size, size, 3]`.
    Pixels(Vec<f32>),
}

impl Work {
    pub(crate) fn tower(&self) -> Tower {
        match self {
            Self::Tokens(_) => Tower::Text,
            Self::Pixels(_) => Tower::Vision,
        }
    }

    /// What it takes of a batch's budget and of the queue's room, apart from its place.
    fn size(&self) -> usize {
        match self {
            Self::Tokens(encoding) => encoding.ids.len(),
            Self::Pixels(values) => values.len() / 3,
        }
    }
}

/// Rows with the lengths that the model gives, in the order of the inputs.
type Rows = Result<Vec<Vec<f32>>, ApiError>;

/// A request whose inputs wait or are embedded.
struct Ticket {
    id: u64,
    since: Instant,
    waiting: VecDeque<(usize, Work)>,
}

/// Where the rows of a request are collected.
struct Open {
    id: u64,
    rows: Vec<Option<Vec<f32>>>,
    left: usize,
    answer: oneshot::Sender<Rows>,
}

/// An input that is being embedded.
pub(crate) struct Job {
    ticket: u64,
    index: usize,
    since: Instant,
    work: Work,
}

#[derive(Default)]
struct State {
    /// Requests with inputs that wait, the next in turn first.
    tickets: VecDeque<Ticket>,
    /// Requests that are not answered yet.
    open: Vec<Open>,
    next: u64,
    /// Whether the last batch went past large requests.
    overtook: bool,
    closed: bool,
}

/// See the module.
pub(crate) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    room: Arc<Room>,
}

impl Ticket {
    fn is_small(&self) -> bool {
        self.waiting.len() <= SMALL
    }
}

impl Queue {
    pub(crate) fn new(room: Arc<Room>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            room,
        })
    }

    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Plain data is as good after a panic as before.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inputs that wait for a batch.
    pub(crate) fn depth(&self) -> usize {
        self.state().tickets.iter().map(|ticket| ticket.waiting.len()).sum()
    }

    /// Has inputs embedded. Dropping the future takes those back that still wait.
    ///
    /// # Shapes
    /// One row of `dim` for each input, in order.
    pub(crate) async fn embed(self: &Arc<Self>, inputs: Vec<Work>) -> Rows {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, rows) = oneshot::channel();
        let id = {
            let mut state = self.state();
            if state.closed {
                return Err(ApiError::unavailable("shutting_down", "the service is shutting down"));
            }
            let id = state.next;
            state.next += 1;
            state.open.push(Open {
                id,
                rows: vec![None; inputs.len()],
                left: inputs.len(),
                answer,
            });
            state.tickets.push_back(Ticket {
                id,
                since: Instant::now(),
                waiting: inputs.into_iter().enumerate().collect(),
            });
            id
        };
        self.arrived.notify_one();
        let _leave = Leave { queue: self, id };
        rows.await.unwrap_or_else(|_| Err(ApiError::lost()))
    }

    /// Ends the worker once nothing waits.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
    }

    fn leave(&self, id: u64) {
        let mut state = self.state();
        state.open.retain(|open| open.id != id);
        state.tickets.retain(|ticket| ticket.id != id);
    }

    /// Waits for inputs and takes a batch of one tower; `None` when the queue was closed and is empty.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut state = self.state();
        loop {
            if !state.tickets.is_empty() {
                return Some(state.take());
            }
            if state.closed {
                return None;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the row of an input to its request, or fails the request.
    fn deliver(&self, job: &Job, row: Result<Vec<f32>, ApiError>) {
        let mut state = self.state();
        let Some(at) = state.open.iter().position(|open| open.id == job.ticket) else {
            return; // the client is gone
        };
        match row {
            Ok(row) => {
                let open = &mut state.open[at];
                open.rows[job.index] = Some(row);
                open.left -= 1;
                if open.left == 0 {
                    let open = state.open.swap_remove(at);
                    // nobody listens when the client went away just now
                    let _ = open.answer.send(Ok(open.rows.into_iter().flatten().collect()));
                }
            }
            Err(error) => {
                let open = state.open.swap_remove(at);
                state.tickets.retain(|ticket| ticket.id != open.id);
                let _ = open.answer.send(Err(error));
            }
        }
    }
}

impl State {
    /// One input of each request in turn, all for the tower of the first, until a batch is full; only of small requests, if there are both kinds
    /// and the last batch was of all.
    fn take(&mut self) -> Vec<Job> {
        let small = self.tickets.iter().filter(|ticket| ticket.is_small()).count();
        self.overtook = !self.overtook && 0 < small && small < self.tickets.len();
        let overtakes = self.overtook;
        let first = self.tickets.iter().find(|ticket| !overtakes || ticket.is_small());
        let tower = first.and_then(|t| t.waiting.front()).map(|(_, w)| w.tower());
        let (mut batch, mut tokens) = (Vec::new(), 0);
        let most = match tower {
            Some(Tower::Vision) => BATCH_PICTURES,
            _ => BATCH_TEXTS,
        };
        let mut passed = 0; // requests in a row that had nothing that fits
        while passed < self.tickets.len() && batch.len() < most {
            let Some(mut ticket) = self.tickets.pop_front() else {
                break;
            };
            let may = !overtakes || ticket.is_small();
            let fits = ticket.waiting.front().is_some_and(|(_, work)| {
                let room = tower == Some(Tower::Vision) || tokens + work.size() <= BATCH_TOKENS;
                may && Some(work.tower()) == tower && (room || batch.is_empty())
            });
            match ticket.waiting.pop_front() {
                Some((index, work)) if fits => {
                    tokens += work.size();
                    batch.push(Job {
                        ticket: ticket.id,
                        index,
                        since: ticket.since,
                        work,
                    });
                    passed = 0;
                }
                Some(later) => {
                    ticket.waiting.push_front(later);
                    passed += 1;
                }
                None => {}
            }
            if !ticket.waiting.is_empty() {
                self.tickets.push_back(ticket);
            }
        }
        batch
    }
}

/// Takes a request out of the queue when it is answered or its client is gone.
struct Leave<'a> {
    queue: &'a Queue,
    id: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.queue.leave(self.id);
    }
}

#[cfg(test)]
mod tests;
