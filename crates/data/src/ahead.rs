//! Work that runs ahead: one thread makes what another one uses.

use std::sync::mpsc::sync_channel;

/// Results that wait at most, besides the one that is used and the one that is made: of a batch of pictures each has tens of megabytes.
const WAITING: usize = 1;

/// Makes something of each item on a thread of its own, in order, while `take` uses what was made before: files are read and decoded while
/// the model computes. The queue between them is bounded.
///
/// # Errors
/// The first one of `take`, which ends the work.
pub fn ahead<I: Send, T: Send, E>(
    items: impl Iterator<Item = I> + Send,
    make: impl Fn(I) -> T + Send,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    std::thread::scope(|scope| {
        let (send, made) = sync_channel(WAITING);
        scope.spawn(move || {
            for item in items {
                // who takes has ended with an error
                if send.send(make(item)).is_err() {
                    break;
                }
            }
        });
        for one in made {
            take(one)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_of_it_in_order_and_never_far_ahead() {
        let (made, mut taken) = (AtomicUsize::new(0), 0);
        let make = |i: usize| {
            made.fetch_add(1, Ordering::SeqCst);
            i * i
        };
        let done: Result<(), ()> = ahead(0..100, make, |square| {
            assert_eq!(square, taken * taken);
            taken += 1;
            assert!(made.load(Ordering::SeqCst) <= taken + WAITING + 1);
            Ok(())
        });
        assert_eq!((done, taken), (Ok(()), 100));
    }

    #[test]
    fn an_error_ends_endless_work() {
        assert_eq!(ahead(0.., |i: u64| i, |i| if i == 5 { Err(i) } else { Ok(()) }), Err(5));
    }
}
