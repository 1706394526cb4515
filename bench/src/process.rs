//! Processes under measurement: what they have used, and their end.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after a signal that asks it to.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// A started process. Dropped, it is killed.
pub struct Process(Child);

/// What processes have used since their start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub resident_bytes: u64,
}

impl Process {
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        end_with_parent(command);
        Ok(Process(command.spawn().with_context(|| format!("cannot start `{program}`"))?))
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn usage(&self) -> Result<Usage> {
        usage(self.id())
    }

    pub fn kill(mut self) {
        self.end_now();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(mut self) -> Result<()> {
        // SAFETY: a signal to a child that has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.id() as libc::pid_t, libc::SIGTERM) };
        let deadline = Instant::now() + END_TIMEOUT;
        while self.0.try_wait().context("cannot wait for a process")?.is_none() {
            if Instant::now() > deadline {
                bail!("process {} still runs {} s after SIGTERM", self.id(), END_TIMEOUT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn end_now(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs it to its end, and returns what it printed. What it complained of goes into the error.
pub fn output_of(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{program}`"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("`{program}` failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.end_now();
        }
    }
}

/// A benchmark that is interrupted leaves nothing running behind.
#[cfg(target_os = "linux")]
fn end_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec this is one system call, and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut Command) {}

/// The processes that it has started and that have not ended; none if it is gone itself.
pub fn children(process: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return vec![] };
    let of_thread =
        |thread: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(thread.ok()?.path().join("children")).ok();
    let lists: Vec<String> = threads.filter_map(of_thread).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|id| id.parse().ok()).collect()
}

pub fn usage(process: u32) -> Result<Usage> {
    let folder = Path::new("/proc").join(process.to_string());
    let read = |name: &str| {
        std::fs::read_to_string(folder.join(name))
            .with_context(|| format!("process {process} is gone, or this is no Linux: cannot read its `{name}`"))
    };
    let stat = read("stat")?;
    // The name in the second field may contain anything; fields are counted from behind its closing bracket.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let number = |index: usize| -> Result<u64> {
        let field = fields.get(index).with_context(|| format!("/proc/{process}/stat is cut short"))?;
        field.parse().with_context(|| format!("/proc/{process}/stat holds `{field}` where a number should be"))
    };
    // utime and stime, the 14th and 15th of all fields.
    let ticks = number(11)? + number(12)?;
    // SAFETY: a query without arguments in memory.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    let status = read("status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    let kib: u64 = resident.trim().trim_end_matches("kB").trim().parse().context("VmRSS is not a number")?;
    Ok(Usage { cpu: Duration::from_millis(ticks * 1000 / ticks_per_second), resident_bytes: kib << 10 })
}

impl std::ops::Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage { cpu: self.cpu + other.cpu, resident_bytes: self.resident_bytes + other.resident_bytes }
    }
}
