//! What a request may cost, and how many may be there at once. All of it is known before anything is allocated.

use std::time::Duration;

/// Limits of the service; the defaults keep it below about a gigabyte beside the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one request's body: a picture of 20 MB in base64 with room to spare.
    pub body: usize,
    /// Bytes of all bodies that are being read or worked on.
    pub bodies: usize,
    /// Bytes of large answers that are on their way to their clients.
    pub answers: usize,
    /// Requests that are worked on at once; more are refused.
    pub requests: usize,
    /// Open connections; more wait to be accepted.
    pub connections: usize,
    /// Inputs of one request.
    pub inputs: usize,
    /// Inputs of all requests that wait or are embedded.
    pub queue_items: usize,
    /// Tokens of all of them.
    pub queue_tokens: usize,
    /// Pixels of all of them, at the size that the model reads.
    pub queue_pixels: usize,
    /// Questions to a language model that wait or are answered; it answers one at a time.
    pub talks: usize,
    /// Tokens of one answer of a language model.
    pub answer_tokens: usize,
    /// From a complete request to its answer; what a language model writes ends there.
    pub deadline: Duration,
    /// For the head of a request, also while a kept connection is idle.
    pub header_time: Duration,
    /// For the body of a request.
    pub body_time: Duration,
    /// For a client to take its answer, besides a second for each 16 KiB.
    pub answer_time: Duration,
    /// For requests that are being worked on when the service is told to end.
    pub drain: Duration,
    /// Still accepting after that was told, so that a load balancer sees `/readyz` first.
    pub linger: Duration,
    /// Bytes of thumbnails in memory.
    pub thumbnails: usize,
    /// One picture.
    pub picture: bifocal_data::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 << 20,
            bodies: 256 << 20,
            answers: 256 << 20,
            requests: 256,
            connections: 1024,
            inputs: 2048,
            queue_items: 4096,
            queue_tokens: 1 << 20,
            // 256 pictures of 224×224 as f32 are 150 MB
            queue_pixels: 256 * 224 * 224,
            talks: 16,
            answer_tokens: 4096,
            deadline: Duration::from_secs(30),
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            answer_time: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            thumbnails: 64 << 20,
            picture: bifocal_data::Limits {
                time: Some(Duration::from_secs(2)),
                ..bifocal_data::Limits::default()
            },
        }
    }
}
