//! The thread of one slot that starts its launchers, and waits where the kernel makes the supervisor wait.
//!
//! A move between version 1 groups waits for the kernel's other processors, four milliseconds and more for each cell.
//! A child is born into the groups of the thread that starts it, at no cost: so one thread moves once, and starts all.
//! Promises: what it starts is in its groups from the first instruction. Refuses to do two
//! things at once.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

use rustix::thread::gettid;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// One at a time: a slot runs one cell.
const WAITING_MAX: usize = 1;

type Job = Box<dyn FnOnce() + Send>;

/// The thread; it ends when this is dropped, and with it the group's last member.
#[derive(Debug)]
pub(super) struct Spawner {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's id, the only one that a group may hold between cells.
    pub(super) thread_id: i32,
}

impl Spawner {
    /// A thread in these groups.
    ///
    /// # Errors
    /// When there can be no thread, or it may not join a group.
    pub(super) fn start(name: &str, groups: &[PathBuf]) -> io::Result<Self> {
        let (jobs, mut todo) = mpsc::channel::<Job>(WAITING_MAX);
        let (tell, joined) = sync_channel(1);
        let files: Vec<PathBuf> = groups.iter().map(|group| group.join("tasks")).collect();
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            // 0 is whoever writes: cgroup-v1(7).
            let join = files.iter().try_for_each(|file| fs::write(file, "0"));
            let works = join.is_ok();
            let told = tell.send(join.map(|()| gettid().as_raw_nonzero().get()));
            while works
                && told.is_ok()
                && let Some(job) = todo.blocking_recv()
            {
                job();
            }
        })?;
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let thread_id = joined.recv().map_err(gone)??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), thread_id })
    }

    /// Starts a program from the thread.
    ///
    /// # Errors
    /// What starting it said.
    pub(super) async fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let runtime = Handle::current();
        let start = move || {
            let _inside = runtime.enter();
            command.spawn()
        };
        self.run(start).await?
    }

    /// Does something in the thread.
    ///
    /// # Errors
    /// When the thread is gone.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (answer, done) = oneshot::channel();
        // Nobody waits any more: a launcher's control socket is closed then, and it ends by itself.
        let job: Job = Box::new(move || drop(answer.send(work())));
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has left its groups too.
            drop(thread.join());
        }
    }
}
