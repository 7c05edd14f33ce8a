//! Threads for requests that may wait: a query, a commit, a read of `live` or `events`. The session's threads are
//! as many as CPUs and must always be free for the files.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use vexfs_core::metrics::{Metrics, stack};

/// Threads at most. Readers of `live` and `events` hold one each for up to a second at a time; more of them than this
/// take turns.
const THREADS_MAX: usize = 16;
/// A thread with nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    /// Never longer than the number of processes that wait for an answer.
    queue: VecDeque<Job>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    running: usize,
    closed: bool,
}

impl Executor {
    pub(super) fn new(metrics: Arc<Metrics>) -> Executor {
        Executor {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                work: Condvar::new(),
                metrics,
            }),
        }
    }

    /// Runs a job on a thread that waits for one, on a new thread, or when one of [`THREADS_MAX`] gets free. A job
    /// that cannot be run is dropped, which answers its request with EIO.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.queue.push_back(Box::new(job));
        self.shared.metrics.control_queue.set(state.queue.len() as u64);
        if state.idle >= state.queue.len() {
            self.shared.work.notify_one();
            return;
        }
        if state.running == THREADS_MAX {
            return;
        }
        state.threads.retain(|t| !t.is_finished());
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            stack::serves_control();
            shared.work();
        });
        match thread {
            Ok(thread) => {
                state.running += 1;
                state.threads.push(thread);
                self.shared.metrics.control_threads.add_one();
            }
            Err(e) => {
                tracing::warn!("cannot start a thread: {e}");
                if state.running == 0 {
                    state.queue.clear();
                }
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                self.metrics.control_queue.set(state.queue.len() as u64);
                drop(state);
                job();
                state = self.state.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let timeout = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if timeout && state.queue.is_empty() {
                break;
            }
        }
        state.running -= 1;
        self.metrics.control_threads.take_one();
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let threads = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.work.notify_all();
        for thread in threads {
            // A job's panic is caught in the job.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_waiting_job_holds_up_no_other_until_the_threads_run_out() {
        let metrics = Arc::new(Metrics::new());
        let executor = Executor::new(metrics.clone());
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (done, results) = mpsc::channel();
        for _ in 0..THREADS_MAX - 1 {
            let (gate, done) = (gate.clone(), done.clone());
            executor.run(move || {
                let _ = gate.lock().recv();
                done.send("waited").unwrap();
            });
        }
        for _ in 0..100 {
            let done = done.clone();
            executor.run(move || done.send("quick").unwrap());
        }
        for _ in 0..100 {
            assert_eq!(results.recv_timeout(Duration::from_secs(20)), Ok("quick"));
        }
        assert!(metrics.control_threads.get() <= THREADS_MAX as u64);
        drop(release);
        for _ in 0..THREADS_MAX - 1 {
            assert_eq!(results.recv_timeout(Duration::from_secs(20)), Ok("waited"));
        }
        drop(executor);
        assert_eq!(metrics.control_threads.get(), 0, "threads are joined");
    }
}
