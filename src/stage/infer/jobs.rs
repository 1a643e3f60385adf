//! Complete batches on their way to the workers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// A queue whose next job goes to the worker that ran last of those that wait: its memory is
/// nearest. A channel behind a lock would go round all workers, and wake two of them for every job.
pub(super) struct Jobs<T> {
    state: Mutex<State<T>>,
    /// One for each worker.
    wake: Vec<Condvar>,
}

struct State<T> {
    jobs: VecDeque<T>,
    /// Workers that wait; the one that ran last comes last.
    idle: Vec<usize>,
    /// Workers that have not ended.
    workers: usize,
    closed: bool,
}

/// Where jobs are put; workers end when this is gone and nothing is left.
pub(super) struct Offers<T>(Arc<Jobs<T>>);

/// Where one worker takes them.
pub(super) struct Worker<T> {
    index: usize,
    jobs: Arc<Jobs<T>>,
}

/// The two ends, for `workers` workers.
pub(super) fn jobs<T>(workers: usize) -> (Offers<T>, Vec<Worker<T>>) {
    let jobs = Arc::new(Jobs {
        state: Mutex::new(State {
            jobs: VecDeque::new(),
            idle: Vec::with_capacity(workers),
            workers,
            closed: false,
        }),
        wake: (0..workers).map(|_| Condvar::new()).collect(),
    });
    let ends = (0..workers).map(|index| Worker {
        index,
        jobs: Arc::clone(&jobs),
    });
    (Offers(Arc::clone(&jobs)), ends.collect())
}

impl<T> Jobs<T> {
    /// A worker that panics does so outside of this lock, so what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<T> Offers<T> {
    /// Hands on a job.
    ///
    /// # Errors
    /// The job, if all workers have ended.
    pub(super) fn send(&self, job: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if state.workers == 0 {
            return Err(job);
        }
        state.jobs.push_back(job);
        if let Some(worker) = state.idle.pop() {
            self.0.wake[worker].notify_one();
        }
        Ok(())
    }
}

impl<T> Offers<T> {
    /// Workers that wait and have been given nothing.
    pub(super) fn idle(&self) -> usize {
        self.0.lock().idle.len()
    }
}

impl<T> Drop for Offers<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.iter().for_each(Condvar::notify_one);
    }
}

impl<T> Worker<T> {
    /// Its number.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Says that this worker waits, so that it is given what there is before it sleeps; `false` if
    /// a job is there already.
    pub(super) fn announce(&self) -> bool {
        let mut state = self.jobs.lock();
        if !state.jobs.is_empty() || state.closed {
            return false;
        }
        if !state.idle.contains(&self.index) {
            state.idle.push(self.index);
        }
        true
    }

    /// Waits for a job; `None` when there will be none any more.
    pub(super) fn next(&self) -> Option<T> {
        let mut state = self.jobs.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.idle.retain(|w| *w != self.index);
                return Some(job);
            }
            if state.closed {
                return None;
            }
            // A job may have gone to a worker that was quicker.
            if !state.idle.contains(&self.index) {
                state.idle.push(self.index);
            }
            let waited = self.jobs.wake[self.index].wait(state);
            state = waited.unwrap_or_else(|e| e.into_inner());
        }
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        let mut state = self.jobs.lock();
        state.workers -= 1;
        state.idle.retain(|w| *w != self.index);
        if state.workers == 0 {
            // Nobody answers these any more: who waits for them must hear of it.
            state.jobs.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    /// Waits until so many workers wait.
    fn idle<T>(offers: &Offers<T>, count: usize) {
        while offers.0.lock().idle.len() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn the_worker_that_ran_last_runs_next() {
        let (offers, workers) = jobs(3);
        let (done, ran) = mpsc::channel();
        thread::scope(|scope| {
            for worker in workers {
                let done = done.clone();
                scope.spawn(move || {
                    while let Some(job) = worker.next() {
                        done.send((worker.index(), job)).unwrap();
                    }
                });
            }
            idle(&offers, 3);
            offers.send(0).unwrap();
            let (first, _) = ran.recv().unwrap();
            for job in 1..20 {
                idle(&offers, 3);
                offers.send(job).unwrap();
                assert_eq!(ran.recv().unwrap(), (first, job));
            }
            drop(offers);
        });
    }

    #[test]
    fn every_job_is_run_once_and_also_those_that_were_left_at_the_end() {
        let (offers, workers) = jobs(4);
        let (done, ran) = mpsc::channel();
        for job in 0..10_000 {
            offers.send(job).unwrap();
        }
        let threads: Vec<_> = workers
            .into_iter()
            .map(|worker| {
                let done = done.clone();
                thread::spawn(move || {
                    while let Some(job) = worker.next() {
                        done.send(job).unwrap();
                    }
                })
            })
            .collect();
        for job in 10_000..20_000 {
            offers.send(job).unwrap();
        }
        drop((offers, done));
        threads.into_iter().for_each(|t| t.join().unwrap());
        let mut all: Vec<i32> = ran.iter().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..20_000));
    }

    #[test]
    fn jobs_that_nobody_can_run_are_refused_or_dropped() {
        let (offers, mut workers) = jobs(2);
        let (reply, answer) = mpsc::channel::<()>();
        offers.send(reply.clone()).unwrap();
        workers.pop();
        offers.send(reply.clone()).unwrap();
        workers.pop();
        assert!(offers.send(reply).is_err());
        assert!(answer.recv().is_err(), "the senders in the queue are gone");
    }
}
