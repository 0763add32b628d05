//! Child processes: started, watched, started again when they die, and ended in order.
//!
//! Promises: a child that dies is started again with a growing delay; each child's output goes to
//! its own log; what an earlier `hotcell up` left running after SIGKILL is ended before anything
//! is started. Refuses: to signal a process that is not the one it noted (pid and start time).

use crate::{
    fail::{Context as _, Fail},
    layout::Layout,
    print,
};
use hotcell_stage::{Shutdown, service::EXIT_CONFIG};
use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, timeout},
};

/// First and longest delay before a dead child is started again, in milliseconds.
const RESTART_MS: (u64, u64) = (100, 5_000);

/// A child that lived this long starts with the first delay again, in seconds.
const SETTLED_SECS: u64 = 10;

/// Time that a child gets between SIGTERM and SIGKILL, in seconds; services drain in less.
const STOP_SECS: u64 = 25;

/// Pause between two looks at a process that ends, in milliseconds.
const LOOK_MS: u64 = 5;

/// The longest sentence that is repeated from a log, in bytes.
const SENTENCE_BYTES_MAX: u64 = 2048;

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Name of its log and pid file.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments: one configuration file.
    pub(crate) args: Vec<String>,
    /// Files of control groups to write its process id to.
    pub(crate) join: Vec<PathBuf>,
    /// Authorities that its HTTP clients trust, when not the system's.
    pub(crate) ca: Option<PathBuf>,
    /// User and group to run as, when not our own.
    pub(crate) user: Option<(u32, u32)>,
    /// Order of stopping: lower first.
    pub(crate) stop_rank: u8,
}

/// All children of an installation.
pub(crate) struct Supervisor {
    layout: Layout,
    ranks: Vec<(u8, Shutdown, JoinSet<()>)>,
}

impl Supervisor {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, ranks: Vec::new() }
    }

    /// Starts a child and watches it until [`Self::stop`].
    pub(crate) fn start(&mut self, spec: Spec) -> Result<(), Fail> {
        let child = spawn(&self.layout, &spec)?;
        let layout = self.layout.clone();
        let index = match self.ranks.iter().position(|(rank, ..)| *rank == spec.stop_rank) {
            Some(index) => index,
            None => {
                self.ranks.push((spec.stop_rank, Shutdown::new(), JoinSet::new()));
                self.ranks.len() - 1
            }
        };
        if let Some((_, shutdown, tasks)) = self.ranks.get_mut(index) {
            tasks.spawn(watch(layout, spec, child, shutdown.clone()));
        }
        Ok(())
    }

    /// Ends all children: workers before services, services before store and broker.
    pub(crate) async fn stop(mut self) {
        self.ranks.sort_by_key(|(rank, ..)| *rank);
        for (_, shutdown, mut tasks) in self.ranks {
            shutdown.begin();
            while tasks.join_next().await.is_some() {}
        }
    }
}

fn spawn(layout: &Layout, spec: &Spec) -> Result<Child, Fail> {
    let doing = format!("cannot start {}", spec.program.display());
    let log = layout.log(&spec.name);
    let log = OpenOptions::new().create(true).append(true).open(log).or_fail(&doing)?;
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(log.try_clone().or_fail(&doing)?)
        .stderr(log)
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(true);
    if let Some(ca) = &spec.ca {
        command.env("SSL_CERT_FILE", ca);
    }
    if let Some((uid, gid)) = spec.user {
        command.uid(uid).gid(gid);
    }
    let child = command.spawn().or_fail(&doing)?;
    if let Some(pid) = child.id() {
        for file in &spec.join {
            fs::write(file, pid.to_string()).or_fail(&doing)?;
        }
        let started = start_time(pid).unwrap_or_default();
        fs::write(layout.run(&format!("{}.pid", spec.name)), format!("{pid} {started}\n"))
            .or_fail(&doing)?;
    }
    Ok(child)
}

async fn watch(layout: Layout, spec: Spec, mut child: Child, shutdown: Shutdown) {
    let (first_ms, longest_ms) = RESTART_MS;
    let mut delay_ms = first_ms;
    loop {
        let since = Instant::now();
        tokio::select! {
            status = child.wait() => {
                let why = status.as_ref().map_or(None, |status| sentence(&layout, &spec, *status));
                let how = status.map_or_else(|error| error.to_string(), describe);
                let why = why.map(|why| format!(" because {why}")).unwrap_or_default();
                print::note(format!("{} ended ({how}){why}; starting it again", spec.name));
            }
            () = shutdown.begun() => {
                end(&mut child).await;
                let _gone = fs::remove_file(layout.run(&format!("{}.pid", spec.name)));
                return;
            }
        }
        if since.elapsed().as_secs() >= SETTLED_SECS {
            delay_ms = first_ms;
        }
        loop {
            shutdown.sleep(Duration::from_millis(delay_ms)).await;
            delay_ms = (delay_ms * 2).min(longest_ms);
            if shutdown.has_begun() {
                return;
            }
            match spawn(&layout, &spec) {
                Ok(again) => {
                    child = again;
                    break;
                }
                Err(fail) => print::note(fail.message),
            }
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// The sentence with which a program refused to start: the last line of its log says what to change.
fn sentence(layout: &Layout, spec: &Spec, status: ExitStatus) -> Option<String> {
    if status.code() != Some(i32::from(EXIT_CONFIG)) {
        return None;
    }
    let mut file = fs::File::open(layout.log(&spec.name)).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(SENTENCE_BYTES_MAX))).ok()?;
    let mut tail = Vec::new();
    file.take(SENTENCE_BYTES_MAX).read_to_end(&mut tail).ok()?;
    Some(String::from_utf8_lossy(&tail).lines().last()?.to_owned())
}

/// SIGTERM, then SIGKILL.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(pid_of) {
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if timeout(Duration::from_secs(STOP_SECS), child.wait()).await.is_err() {
        let _gone = child.kill().await;
    }
}

fn pid_of(pid: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Start time of a process in clock ticks since boot: with the pid it names one process for ever.
/// `None` when there is none, or only its entry until somebody reads how it ended.
/// Source: proc_pid_stat(5), fields 3 and 22; fields are counted after the last `)` of the name.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    Some(fields.nth(18)?.to_owned())
}

/// Ends what an earlier run left behind, and returns when it is gone: what it held, ports and the
/// locks of its files, is free then.
pub(crate) async fn end_leftovers(layout: &Layout) -> Result<usize, Fail> {
    let (mut ended, mut notes) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(layout.run("")).or_fail("the run folder")? {
        let path = entry.or_fail("the run folder")?.path();
        if path.extension().is_none_or(|extension| extension != "pid") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut words = text.split_whitespace().map(str::to_owned);
        let noted = words.next().and_then(|pid| pid.parse::<u32>().ok()).zip(words.next());
        if let Some((number, started)) = noted
            && start_time(number).as_ref() == Some(&started)
            && let Some(pid) = pid_of(number)
        {
            // Each child leads a group of its own, with what it started.
            let _gone = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            ended.push((number, started));
        }
        notes.push(path);
    }
    let until = Instant::now() + Duration::from_secs(STOP_SECS);
    while let Some((pid, _)) =
        ended.iter().find(|(pid, started)| start_time(*pid).as_ref() == Some(started))
    {
        if Instant::now() > until {
            return Err(Fail::failed(format!(
                "process {pid} of an earlier run does not end: end it, then start again"
            )));
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
    }
    for path in notes {
        fs::remove_file(&path).or_fail("the run folder")?;
    }
    Ok(ended.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};

    /// A worker that does not start for want of a layer or a group says so to whoever ran `up`.
    #[tokio::test]
    async fn a_program_that_refuses_to_start_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let check = async |script: &str, expect: Option<&str>| {
            let spec = Spec {
                name: "refuser".to_owned(),
                program: "/bin/sh".into(),
                args: vec!["-c".to_owned(), script.to_owned()],
                join: Vec::new(),
                ca: None,
                user: None,
                stop_rank: 0,
            };
            let status = spawn(&layout, &spec).unwrap().wait().await.unwrap();
            assert_eq!(sentence(&layout, &spec, status).as_deref(), expect, "{script}");
        };
        check("exit 64", None).await;
        check("echo starting; echo enable Landlock >&2; exit 64", Some("enable Landlock")).await;
        check("echo a secret of a crash; exit 1", None).await;
    }

    /// What is noted is ended with what it started, and is gone afterwards; what is not, is not.
    #[tokio::test]
    async fn leftovers_are_gone_when_the_next_start_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let file = dir.path().join("port");
        let script = format!(
            "import os, socket, subprocess\ns = socket.create_server(('127.0.0.1', 0))\n\
             open('{path}.new', 'w').write(str(s.getsockname()[1]))\n\
             os.rename('{path}.new', '{path}')\nsubprocess.run(['sleep', '1000'])",
            path = file.display()
        );
        let spec = Spec {
            name: "left".to_owned(),
            program: "/usr/bin/python3".into(),
            args: vec!["-c".to_owned(), script],
            join: Vec::new(),
            ca: None,
            user: None,
            stop_rank: 0,
        };
        let mut left = spawn(&layout, &spec).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let port = loop {
            if let Ok(port) = fs::read_to_string(&file) {
                break SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().unwrap()));
            }
            assert!(Instant::now() < until, "the leftover does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        TcpStream::connect(port).unwrap();
        let group = left.id().unwrap().to_string();
        // Another process with a note that is not its own.
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(layout.run("other.pid"), format!("{} 1\n", other.id().unwrap())).unwrap();
        assert_eq!(end_leftovers(&layout).await.unwrap(), 1);
        // Who is gone holds no port; whether somebody else took it meanwhile says nothing.
        let alive = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            (fields[2] == group && fields[0] != "Z").then_some(stat.clone())
        });
        assert_eq!(alive.collect::<Vec<_>>(), Vec::<String>::new());
        assert!(other.try_wait().unwrap().is_none(), "a process that was not ours was ended");
        assert!(!layout.run("left.pid").exists() && !layout.run("other.pid").exists());
        other.kill().await.unwrap();
        left.wait().await.unwrap();
    }
}
