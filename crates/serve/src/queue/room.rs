//! How much waits: bounded by items, tokens and pixels.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Answer, ApiError};
use crate::limits::Limits;

/// What inputs take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) items: usize,
    pub(crate) tokens: usize,
    pub(crate) pixels: usize,
}

/// What is taken, of how much there is.
#[derive(Debug)]
pub(crate) struct Room {
    most: Cost,
    used: Mutex<Cost>,
}

impl Room {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            most: Cost {
                items: limits.queue_items,
                tokens: limits.queue_tokens,
                pixels: limits.queue_pixels,
            },
            used: Mutex::default(),
        })
    }

    pub(crate) fn used(&self) -> Cost {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room until the guard is dropped.
    ///
    /// # Errors
    /// 429 when there is not enough now, 422 when there never is.
    pub(crate) fn reserve(self: &Arc<Self>, cost: Cost) -> Answer<Taken> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = [
            ("inputs", "queue_items", used.items, cost.items, self.most.items),
            ("tokens", "queue_tokens", used.tokens, cost.tokens, self.most.tokens),
            ("pixels", "queue_pixels", used.pixels, cost.pixels, self.most.pixels),
        ];
        for (what, code, used, cost, most) in parts {
            if cost > most {
                let message =
                    format!("the request has {cost} {what}, at most {most} are taken at a time; send it in parts");
                return Err(ApiError::field("input", message));
            }
            if used.saturating_add(cost) > most {
                return Err(ApiError::full(code, &format!("too many {what} wait already")));
            }
        }
        used.items += cost.items;
        used.tokens += cost.tokens;
        used.pixels += cost.pixels;
        Ok(Taken {
            room: self.clone(),
            cost,
        })
    }
}

/// Room that is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    cost: Cost,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut used = self.room.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.items -= self.cost.items;
        used.tokens -= self.cost.tokens;
        used.pixels -= self.cost.pixels;
    }
}
