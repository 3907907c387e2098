//! Work on many partitions by a bounded number of threads that end before the call does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::{panic, thread};

/// Does `work` once for each of `items` with at most `threads` threads; the results stand in the order of the items.
/// The calling thread is one of them; where the operating system gives no more, fewer do it all. A panic of `work` (a caller's
/// callback) goes on in the calling thread once all threads have ended.
pub(super) fn in_parallel<T: Sync, R: Send>(threads: u32, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = usize::try_from(threads).unwrap_or(usize::MAX).min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(item)));
        }
    };
    let mut results: Vec<(usize, R)> = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, run).ok();
        let workers: Vec<_> = (1..threads).map_while(spawn).collect();
        let own = run();
        let ended = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
        own.into_iter().chain(ended.flatten()).collect()
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        for threads in [0, 1, 3, 1000] {
            let items: Vec<usize> = (0..100).collect();
            assert_eq!(in_parallel(threads, &items, |item| item * 2), (0..200).step_by(2).collect::<Vec<_>>());
            assert_eq!(in_parallel(threads, &[], |item: &usize| *item), [0; 0]);
        }
    }

    #[test]
    #[should_panic(expected = "callback")]
    fn a_panic_of_the_work_reaches_the_caller() {
        in_parallel(2, &[1, 2, 3], |item| assert!(*item < 3, "callback"));
    }
}
