//! The queue with a made-up model: a row is `[1, what the input holds]`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bifocal_models::bundle::BundleError;

use super::worker::Embedder;
use super::*;
use crate::limits::Limits;
use crate::metrics::Metrics;

/// Rows of two values; the texts of a token 13 fail, those of a token 14 panic.
#[derive(Default)]
struct MadeUp {
    batches: Mutex<Vec<(Tower, usize)>>,
    slow: Duration,
    calls: AtomicUsize,
}

impl MadeUp {
    fn note(&self, tower: Tower, n: usize) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.batches.lock().unwrap().push((tower, n));
        std::thread::sleep(self.slow);
    }
}

impl Embedder for MadeUp {
    fn texts(&self, texts: &[Encoding]) -> Result<Vec<f32>, BundleError> {
        self.note(Tower::Text, texts.len());
        if texts.iter().any(|text| text.ids[0] == 13) {
            return Err(BundleError::Widths("thirteen".to_owned()));
        }
        assert!(texts.iter().all(|text| text.ids[0] != 14), "fourteen");
        Ok(texts.iter().flat_map(|text| [1.0, text.ids[0] as f32]).collect())
    }

    fn pictures(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>, BundleError> {
        self.note(Tower::Vision, n);
        Ok(pixels.chunks_exact(3).flat_map(|pixel| [1.0, pixel[0]]).collect())
    }

    fn dim(&self) -> usize {
        2
    }
}

fn text(id: u32, length: usize) -> Work {
    Work::Tokens(Encoding {
        ids: vec![id; length],
        cut: 0,
        skip: 0,
    })
}

fn picture(value: f32) -> Work {
    Work::Pixels(vec![value; 3])
}

fn queue() -> Arc<Queue> {
    Queue::new(Room::new(&Limits::default()))
}

/// Runs the worker over what `fill` puts into the queue before it starts.
async fn worked<T>(queue: &Arc<Queue>, model: Arc<MadeUp>, futures: T) -> T::Output
where
    T: Future,
{
    let jobs = queue.clone();
    let worker = std::thread::spawn(move || work(&jobs, &*model, &Metrics::new()));
    let output = futures.await;
    queue.close();
    worker.join().unwrap();
    output
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

/// Fills the queue with one request and takes a batch as the worker would.
fn fill(queue: &Arc<Queue>, inputs: Vec<Work>) -> std::pin::Pin<Box<dyn Future<Output = Rows>>> {
    let queue = queue.clone();
    let mut future: std::pin::Pin<Box<dyn Future<Output = Rows>>> = Box::pin(async move { queue.embed(inputs).await });
    // the first poll is what puts it into the queue
    let waker = std::task::Waker::noop();
    assert!(
        future
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
            .is_pending()
    );
    future
}

fn taken(queue: &Queue) -> Vec<(u64, usize)> {
    let batch = queue.state().take();
    batch.iter().map(|job| (job.ticket, job.index)).collect()
}

#[test]
fn many_requests_become_one_batch_and_each_gets_its_rows() {
    let (queue, model) = (queue(), Arc::new(MadeUp::default()));
    let requests: Vec<_> = (0..20u32)
        .map(|i| fill(&queue, vec![text(i + 20, 1), text(i + 120, 2), picture(i as f32)]))
        .collect();
    assert_eq!(queue.depth(), 60);
    let answers = async {
        let mut all = Vec::new();
        for request in requests {
            all.push(request.await.unwrap());
        }
        all
    };
    let answers = runtime().block_on(worked(&queue, model.clone(), answers));
    for (i, rows) in answers.iter().enumerate() {
        let i = i as f32;
        assert_eq!(*rows, [[1.0, i + 20.0], [1.0, i + 120.0], [1.0, i]]);
    }
    let batches = model.batches.lock().unwrap().clone();
    assert_eq!(batches.iter().map(|b| b.1).sum::<usize>(), 60);
    assert_eq!(batches[0], (Tower::Text, 40));
    assert!(batches.len() <= 4, "{batches:?}");
}

#[test]
fn requests_take_turns_and_the_budget_of_tokens_is_kept() {
    let (queue, quarter) = (queue(), BATCH_TOKENS / 4);
    let _many = fill(&queue, (0..12).map(|_| text(1, quarter)).collect());
    let _also = fill(&queue, (0..10).map(|_| text(2, quarter)).collect());
    assert_eq!(taken(&queue), [(0, 0), (1, 0), (0, 1), (1, 1)]);
    assert_eq!(taken(&queue), [(0, 2), (1, 2), (0, 3), (1, 3)]);
    assert_eq!(taken(&queue), [(0, 4), (1, 4), (0, 5), (1, 5)]);
    // what is left of a request is small in the end, and goes first
    assert_eq!(taken(&queue), [(1, 6), (1, 7), (1, 8), (1, 9)]);
    assert_eq!(taken(&queue), [(0, 6), (0, 7), (0, 8), (0, 9)]);
    // one that is larger than the budget goes alone
    let _long = fill(&queue, vec![text(3, 3 * BATCH_TOKENS), text(3, 1)]);
    assert_eq!(taken(&queue), [(0, 10), (0, 11)]);
    assert_eq!(taken(&queue), [(2, 0)]);
    assert_eq!(taken(&queue), [(2, 1)]);
    assert!(taken(&queue).is_empty());
}

#[test]
fn small_requests_overtake_large_ones_every_second_time() {
    let queue = queue();
    let _bulk = fill(&queue, vec![text(1, 10); 500]);
    let _more = fill(&queue, vec![text(2, 10); 500]);
    let all = BATCH_TEXTS.min(BATCH_TOKENS / 10);
    assert_eq!(taken(&queue).len(), all);
    let searches: Vec<_> = (0..SMALL as u32 + 1)
        .map(|i| fill(&queue, vec![text(i, 10), picture(0.0)]))
        .collect();
    let batch = taken(&queue);
    assert_eq!(batch.iter().map(|job| job.0).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    // then all in turn, the pictures after them, and so on: nobody waits for ever
    assert_eq!(taken(&queue).len(), all);
    assert_eq!(taken(&queue), [(2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]);
    drop(searches);
    assert_eq!((taken(&queue).len(), taken(&queue).len()), (all, all));
}

#[test]
fn a_batch_is_of_one_tower_and_pictures_are_counted() {
    let queue = queue();
    let _mixed = fill(&queue, (0..3).flat_map(|_| [picture(0.0), text(1, 1)]).collect());
    let _pictures = fill(&queue, (0..40).map(|_| picture(0.0)).collect());
    let _texts = fill(&queue, vec![text(1, 1); 300]);
    for expected in [BATCH_PICTURES, BATCH_TEXTS] {
        let batch = queue.state().take();
        assert_eq!(batch.len(), expected);
        assert!(batch.iter().all(|job| job.work.tower() == batch[0].work.tower()));
    }
    let mut left = 0;
    while !taken(&queue).is_empty() {
        left += 1;
    }
    assert!(queue.depth() == 0 && left <= 10, "{left}");
}

#[test]
fn an_input_that_fails_or_panics_fails_its_own_request_only() {
    let (queue, model) = (queue(), Arc::new(MadeUp::default()));
    let good = fill(&queue, vec![text(1, 1), text(2, 1)]);
    let bad = fill(&queue, vec![text(3, 1), text(13, 1), text(4, 1)]);
    let worse = fill(&queue, vec![text(14, 1)]);
    let all = async { (good.await, bad.await, worse.await) };
    let (good, bad, worse) = runtime().block_on(worked(&queue, model, all));
    assert_eq!(good.unwrap(), [[1.0, 1.0], [1.0, 2.0]]);
    assert_eq!(bad.unwrap_err().status.as_u16(), 500);
    assert_eq!(worse.unwrap_err().status.as_u16(), 500);
}

#[test]
fn a_client_that_leaves_gives_its_place_back_at_once() {
    let (queue, room) = {
        let room = Room::new(&Limits {
            queue_items: 10,
            ..Limits::default()
        });
        (Queue::new(room.clone()), room)
    };
    let cost = Cost {
        items: 8,
        ..Cost::default()
    };
    let taken_room = room.reserve(cost).unwrap();
    let request = fill(&queue, vec![text(1, 1); 8]);
    assert_eq!((queue.depth(), room.used().items), (8, 8));
    assert_eq!(room.reserve(cost).unwrap_err().status.as_u16(), 429);
    drop((request, taken_room));
    assert_eq!((queue.depth(), room.used().items), (0, 0));
    assert!(room.reserve(cost).is_ok());
    let never = Cost {
        items: 11,
        ..Cost::default()
    };
    assert_eq!(room.reserve(never).unwrap_err().status.as_u16(), 422);
}

#[test]
fn clients_that_leave_while_their_inputs_are_embedded_do_no_harm() {
    let (queue, model) = (
        queue(),
        Arc::new(MadeUp {
            slow: Duration::from_millis(30),
            ..MadeUp::default()
        }),
    );
    let answer = async {
        let leaving = queue.embed(vec![text(5, 1); 600]);
        assert!(tokio::time::timeout(Duration::from_millis(10), leaving).await.is_err());
        queue.embed(vec![text(6, 1)]).await
    };
    let rows = runtime().block_on(worked(&queue, model.clone(), answer));
    assert_eq!(rows.unwrap(), [[1.0, 6.0]]);
    assert!(
        model.calls.load(Ordering::SeqCst) <= 2,
        "what nobody waits for was embedded"
    );
}

#[test]
fn a_closed_queue_finishes_what_it_has_and_takes_no_more() {
    let (queue, model) = (queue(), Arc::new(MadeUp::default()));
    let begun = fill(&queue, vec![text(7, 1)]);
    queue.close();
    let answers = async { (begun.await, queue.embed(vec![text(8, 1)]).await) };
    let (begun, late) = runtime().block_on(worked(&queue, model, answers));
    assert_eq!(begun.unwrap(), [[1.0, 7.0]]);
    assert_eq!(late.unwrap_err().status.as_u16(), 503);
}
