//! Threads that wait for each other awake, for stretches of many short operations.
//!
//! To wake a thread of the pool takes longer than the product of one row that it would share. In a [`stretch`] the pool's other threads look for work without going to
//! sleep, and find it within a fraction of a microsecond.
use rayon::prelude::*;
use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::available_parallelism;

/// Threads at most: what short operations are bound by, memory, has enough of these.
const MOST: usize = 16;
/// How often a thread looks before it lets others run.
const LOOKS: usize = 4096;

/// A task that is called with each number once.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

struct Team {
    /// Odd while there is a task.
    epoch: AtomicUsize,
    task: Cell<Option<Task<'static>>>,
    count: AtomicUsize,
    next: AtomicUsize,
    /// Helpers that may look at the task.
    inside: AtomicUsize,
    /// A helper has panicked, and left undone what the leader would read.
    failed: AtomicBool,
    over: AtomicBool,
}

// SAFETY: `task` is written by the thread that leads, and only while no helper is inside; the others are atomics.
unsafe impl Sync for Team {}

thread_local! {
    static LED: Cell<*const Team> = const { Cell::new(std::ptr::null()) };
}

/// Runs `f`, in which products are shared with threads that wait awake: for the few milliseconds that a row takes through a model. What `f` shares with the pool in other
/// ways is meanwhile done by this thread. Outside of the pool, and where there is one thread, it is `f` and nothing else.
pub fn stretch<R>(f: impl FnOnce() -> R) -> R {
    // who waits awake on a processor that another needs holds it up
    static PROCESSORS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));
    let threads = rayon::current_num_threads().min(*PROCESSORS).min(MOST);
    if threads <= 1 || rayon::current_thread_index().is_none() || !LED.get().is_null() {
        return f();
    }
    let team = Team {
        epoch: AtomicUsize::new(0),
        task: Cell::new(None),
        count: AtomicUsize::new(0),
        next: AtomicUsize::new(0),
        inside: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        over: AtomicBool::new(false),
    };
    rayon::in_place_scope(|scope| {
        let team = &team;
        for _ in 1..threads {
            scope.spawn(move |_| team.help());
        }
        // also when `f` panics: nobody waits for what does not come
        struct Over<'a>(&'a Team);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                LED.set(std::ptr::null());
                self.0.over.store(true, Ordering::SeqCst);
            }
        }
        let _over = Over(team);
        LED.set(team);
        f()
    })
}

/// Runs `count` tasks on so many threads, or on this one alone: on the team that this thread leads, or else on the pool.
pub(crate) fn each(count: usize, threads: usize, run: impl Fn(usize) + Sync + Send) {
    if threads == 1 || count <= 1 {
        (0..count).for_each(run);
    } else if !share(count, &run) {
        (0..count).into_par_iter().with_max_len(1).for_each(run);
    }
}

/// Whether this thread leads a team, so that even short tasks are worth sharing.
pub(crate) fn is_led() -> bool {
    !LED.get().is_null()
}

/// Shares a task with the team that this thread leads; false without one.
fn share(count: usize, task: &(dyn Fn(usize) + Sync)) -> bool {
    // what the task shares in turn is not for the same team
    let team = LED.replace(std::ptr::null());
    if team.is_null() {
        return false;
    }
    struct Restore(*const Team);
    impl Drop for Restore {
        fn drop(&mut self) {
            LED.set(self.0);
        }
    }
    let _restore = Restore(team);
    // SAFETY: `stretch` keeps the team until after the address is taken away.
    unsafe { &*team }.lead(count, task);
    true
}

impl Team {
    fn lead(&self, count: usize, task: Task) {
        // SAFETY: only the lifetime changes; the task is taken away below, before it ends, and nobody is inside then.
        self.task
            .set(Some(unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) }));
        self.count.store(count, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        struct Close<'a>(&'a Team);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.epoch.fetch_add(1, Ordering::SeqCst);
                let mut looks = 0;
                // a helper that came in before is counted; one that comes in now sees that it is closed
                while self.0.inside.load(Ordering::SeqCst) > 0 {
                    pause(&mut looks);
                }
                self.0.task.set(None);
            }
        }
        let close = Close(self);
        self.work(task);
        drop(close);
        assert!(
            !self.failed.load(Ordering::SeqCst),
            "a thread that shared the work has panicked"
        );
    }

    fn work(&self, task: Task) {
        let count = self.count.load(Ordering::Relaxed);
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            task(i);
        }
    }

    fn help(&self) {
        let (mut done, mut looks) = (0, 0);
        while !self.over.load(Ordering::SeqCst) {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch == done || epoch.is_multiple_of(2) {
                pause(&mut looks);
                continue;
            }
            struct Inside<'a>(&'a Team);
            impl Drop for Inside<'_> {
                fn drop(&mut self) {
                    if std::thread::panicking() {
                        self.0.failed.store(true, Ordering::SeqCst);
                    }
                    self.0.inside.fetch_sub(1, Ordering::SeqCst);
                }
            }
            self.inside.fetch_add(1, Ordering::SeqCst);
            let _inside = Inside(self);
            if self.epoch.load(Ordering::SeqCst) == epoch {
                // SAFETY: the task is there until nobody is inside, and who leads has written it before the epoch that was read.
                if let Some(task) = self.task.get() {
                    self.work(task);
                }
                (done, looks) = (epoch, 0);
            }
        }
    }
}

/// Waits a moment, and now and then lets others run.
fn pause(looks: &mut usize) {
    *looks += 1;
    if looks.is_multiple_of(LOOKS) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::AssertUnwindSafe;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn every_number_is_done_once() {
        for threads in [1, 2, 3, 5] {
            pool(threads).install(|| {
                stretch(|| {
                    for round in 0..3000 {
                        let count = round % 23;
                        let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                        let shared = share(count, &|i| {
                            done[i].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(shared || threads.min(available_parallelism().map_or(1, usize::from)) == 1);
                        assert!(!shared || done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                    }
                });
                assert!(!share(1, &|_| ()), "it is over");
            });
        }
    }

    #[test]
    fn without_a_stretch_nothing_is_shared() {
        assert!(!share(4, &|_| panic!("nobody asked")));
        assert!(!stretch(|| share(4, &|_| panic!("outside of the pool"))));
    }

    #[test]
    fn a_task_may_share_and_stretches_may_nest() {
        pool(3).install(|| {
            stretch(|| {
                let led = is_led();
                let inner = share(4, &|_| assert!(!share(2, &|_| panic!("not with the same team"))));
                assert_eq!(inner, led);
                stretch(|| assert_eq!(share(1, &|_| ()), led));
                assert_eq!(share(1, &|_| ()), led);
            });
        });
    }

    #[test]
    fn nobody_goes_on_where_a_helper_has_panicked() {
        let after = AtomicBool::new(false);
        let failed = std::panic::catch_unwind(AssertUnwindSafe(|| {
            pool(2).install(|| {
                stretch(|| {
                    let leader = std::thread::current().id();
                    // the leader waits for a helper to begin, where there is one
                    let begun = AtomicBool::new(!is_led());
                    each(2, 2, |_| {
                        if std::thread::current().id() != leader || begun.load(Ordering::SeqCst) {
                            begun.store(true, Ordering::SeqCst);
                            panic!("on purpose");
                        }
                        while !begun.load(Ordering::SeqCst) {
                            std::hint::spin_loop();
                        }
                    });
                    after.store(true, Ordering::SeqCst);
                })
            })
        }));
        assert!(failed.is_err() && !after.load(Ordering::SeqCst));
    }

    #[test]
    fn a_panic_ends_the_stretch() {
        let pool = pool(2);
        for within in [false, true] {
            let failed = std::panic::catch_unwind(AssertUnwindSafe(|| {
                pool.install(|| {
                    stretch(|| {
                        if within {
                            each(64, 2, |i| assert!(i < 40, "on purpose"));
                        } else {
                            panic!("on purpose");
                        }
                    })
                })
            }));
            assert!(failed.is_err());
            pool.install(|| stretch(|| each(8, 2, |_| ())));
        }
    }
}
