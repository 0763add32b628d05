//! The thread of one slot that starts its launchers.
//!
//! A move between version 1 groups waits for the kernel's other processors, four milliseconds and more for each cell.
//! A child is born into the groups of the thread that starts it, at no cost: so one thread moves once, and starts all.
//! Promises: what it starts is in its groups from the first instruction. Refuses to do anything but start programs.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use rustix::thread::gettid;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// One at a time: a slot runs one cell.
const WAITING_MAX: usize = 1;

#[derive(Debug)]
struct Job {
    command: Box<Command>,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// The thread; it ends when this is dropped, and with it the group's last member.
#[derive(Debug)]
pub(super) struct Spawner {
    jobs: Option<SyncSender<Job>>,
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
        let (jobs, todo) = sync_channel(WAITING_MAX);
        let (tell, joined) = sync_channel(1);
        let files: Vec<PathBuf> = groups.iter().map(|group| group.join("tasks")).collect();
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            // 0 is whoever writes: cgroup-v1(7).
            let join = files.iter().try_for_each(|file| fs::write(file, "0"));
            let works = join.is_ok();
            let told = tell.send(join.map(|()| gettid().as_raw_nonzero().get()));
            if works && told.is_ok() {
                work(&todo);
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
    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, started) = oneshot::channel();
        let job = Job { command: Box::new(command), runtime: Handle::current(), answer };
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.try_send(job).map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

fn work(todo: &Receiver<Job>) {
    while let Ok(Job { mut command, runtime, answer }) = todo.recv() {
        let child = {
            let _inside = runtime.enter();
            command.spawn()
        };
        // Nobody waits any more: the launcher's control socket is closed, and it ends by itself.
        drop(answer.send(child));
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
