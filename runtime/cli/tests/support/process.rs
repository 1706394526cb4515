//! The `weir` process under test.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Far more than anything here takes, on a slow machine in a debug build under load.
const DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Of each output stream, in messages.
const SHOWN_BYTES: usize = 6_000;

static NEXT_LOG: AtomicU64 = AtomicU64::new(0);

/// A command line, before it runs.
pub struct Weir {
    arguments: Vec<OsString>,
    folder: PathBuf,
    variables: Vec<(&'static str, String)>,
    network_namespace: Option<String>,
}

/// A process that runs. Killed when it goes out of scope.
pub struct Running {
    child: Child,
    command: String,
    logs: [PathBuf; 2],
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    command: String,
}

/// The program under test: that of this build, or another one that `WEIR_TEST_BINARY` names.
fn binary() -> OsString {
    std::env::var_os("WEIR_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_weir").into())
}

impl Weir {
    /// `folder` is the current directory of the process and takes its logs.
    pub fn new<I: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = I>) -> Self {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        Weir { arguments, folder: folder.to_path_buf(), variables: vec![], network_namespace: None }
    }

    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Lets the process run in a network namespace of that name.
    pub fn in_network_namespace(mut self, namespace: &str) -> Self {
        self.network_namespace = Some(namespace.to_owned());
        self
    }

    /// Adds arguments.
    pub fn with<I: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = I>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn spawn(self) -> Running {
        let number = NEXT_LOG.fetch_add(1, Ordering::Relaxed);
        let logs = ["stdout", "stderr"].map(|stream| self.folder.join(format!("weir-{number:04}.{stream}")));
        let [stdout, stderr] = [&logs[0], &logs[1]].map(|path| File::create(path).expect("create a log file"));
        let mut command = match &self.network_namespace {
            None => Command::new(binary()),
            // It becomes the program, so that its process id is the program's.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary());
                command
            }
        };
        command
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env("NO_COLOR", "1")
            // As the servers that stand in for AWS take them.
            .env("WEIR_TEST_ACCESS_KEY_ID", "testkey")
            .env("WEIR_TEST_SECRET_ACCESS_KEY", "testsecret")
            // Files rather than pipes: nobody needs to drain them, and they are there after a kill.
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        let shown: Vec<_> = self.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        let variables: String = self.variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        let shown = format!("{variables}weir {}", shown.join(" "));
        let child = command.spawn().expect("start the weir process");
        Running { child, command: shown, logs }
    }

    /// Runs to the end, whatever its exit code.
    pub fn run(self) -> Finished {
        self.spawn().wait()
    }

    /// Kills it after so long, unless it has ended by then.
    pub fn kill_after(self, delay: Duration) -> Finished {
        let mut running = self.spawn();
        running.pass(delay);
        running.kill()
    }

    /// Runs to the end and must succeed.
    #[track_caller]
    pub fn succeed(self) -> Finished {
        let finished = self.run();
        assert!(finished.status.success(), "{finished}");
        finished
    }

    /// Runs to the end and must fail by itself.
    #[track_caller]
    pub fn fail(self) -> Finished {
        let finished = self.run();
        assert!(finished.status.code().is_some_and(|code| code != 0), "expected a failure: {finished}");
        finished
    }
}

/// Sends a signal to a process that the test started, or that one of those did.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: kill(2) takes two numbers.
    unsafe { libc::kill(pid, signal) };
}

/// The processes that one has started, as the system knows them.
pub fn children(pid: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let listed = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    listed.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Whether the process is stopped, as by SIGSTOP.
pub fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; the state comes after it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

impl Running {
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("ask for the exit status").is_some()
    }

    /// None: it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("ask for the exit status")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processes that it started, as the system knows them.
    pub fn children(&self) -> Vec<i32> {
        children(self.id())
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.logs[0])
    }

    pub fn stderr(&self) -> String {
        read(&self.logs[1])
    }

    /// Lets so much time pass, or less if the process ends by itself.
    pub fn pass(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time && !self.has_ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL; the process gets no chance to tidy up. It may have ended before.
    pub fn kill(mut self) -> Finished {
        let _ = self.child.kill();
        self.wait()
    }

    /// SIGTERM or SIGINT, as a user or a pod's kubelet sends it.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill(2) takes two numbers; the child is ours and not yet waited for, so its id is not reused.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "kill({pid}, {signal})");
    }

    /// Until the process ends by itself.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("ask for the exit status") {
                break status;
            }
            if started.elapsed() > DEADLINE {
                let _ = self.child.kill();
                let status = self.child.wait().expect("wait for the killed process");
                panic!("still running after {DEADLINE:?}: {}", self.finished(status));
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        self.finished(status)
    }

    fn finished(&self, status: ExitStatus) -> Finished {
        Finished { status, stdout: self.stdout(), stderr: self.stderr(), command: self.command.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Whether it was killed, rather than finish. That it gave up by itself is an error.
    pub fn was_killed(&self) -> Result<bool, String> {
        match (self.status.signal(), self.status.success()) {
            (Some(_), _) => Ok(true),
            (None, true) => Ok(false),
            (None, false) => Err(format!("a start failed by itself: {self}")),
        }
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "`{}` ended with {}", self.command, self.status)?;
        writeln!(f, "--- stdout\n{}", tail(&self.stdout))?;
        write!(f, "--- stderr\n{}", tail(&self.stderr))
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).expect("read a log of the process")).into_owned()
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(SHOWN_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Looks again and again until there is a value; fails the test, saying `what` was awaited, when it takes too long.
#[track_caller]
pub fn await_condition<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}
