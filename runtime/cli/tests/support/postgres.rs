//! A PostgreSQL server of a test's own, on loopback, from the system's package.

use super::await_condition;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Debian's package keeps each version's programs in a folder of its own.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Of the operating system; the server refuses to run as root.
const UNPRIVILEGED: &str = "postgres";
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Ends, and leaves nothing behind, when it goes out of scope.
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// User and group that it runs as, where we are root.
    user: Option<(u32, u32)>,
    server: Option<Child>,
}

impl Postgres {
    /// None, said on standard error: there is no PostgreSQL on this machine.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!(
                "skipped: PostgreSQL is not here (Debian, Ubuntu: apt-get install postgresql-15; `cargo xtask test` does it)"
            );
            return None;
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not in the build's folder: that may be in a home which other users can't enter.
        let folder = std::env::temp_dir().join(format!("weir-postgres-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("create the server's folder");
        // SAFETY: it only asks.
        let user = (unsafe { libc::geteuid() } == 0).then(|| (id("-u"), id("-g")));
        if let Some((user, group)) = user {
            chown(&folder, Some(user), Some(group)).expect("hand over the server's folder");
        }
        let mut postgres = Postgres { programs, folder, port: free_port(), user, server: None };
        let initialised = postgres
            .program("initdb")
            .args(["-A", "trust", "-U", "test", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(postgres.data())
            .output()
            .expect("run initdb");
        assert!(initialised.status.success(), "initdb: {}", String::from_utf8_lossy(&initialised.stderr));
        postgres.run();
        postgres.psql("SELECT 1");
        Some(postgres)
    }

    pub fn url(&self) -> String {
        self.url_by(self.port)
    }

    /// By another port, from which somebody passes on to the server.
    pub fn url_by(&self, port: u16) -> String {
        format!("postgres://test@127.0.0.1:{port}/postgres")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// For threads beside the test's own.
    pub fn client(&self) -> Client {
        Client { psql: self.programs.join("psql"), url: self.url() }
    }

    /// What an independent client reads: rows as lines, columns separated by `|`.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        let output = self.psql_output(sql);
        assert!(output.status.success(), "psql: {}\n{sql}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("psql writes UTF-8").trim().to_owned()
    }

    fn psql_output(&self, sql: &str) -> std::process::Output {
        self.client().output(sql)
    }

    /// Ends as in a crash, and comes back: what wasn't on disk is lost.
    pub fn crash(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        // An immediate shutdown: no checkpoint, no goodbye; recovery from the log at the next start.
        super::signal(server.id() as i32, libc::SIGQUIT);
        server.wait().expect("wait for the server");
        self.run();
    }

    /// Nothing of it runs until `thaw`; connections stay, and the system takes what is sent to them.
    pub fn freeze(&self) {
        let server = self.server.as_ref().expect("the server runs");
        // It first, so that it starts no more.
        super::signal(server.id() as i32, libc::SIGSTOP);
        super::children(server.id()).into_iter().for_each(|pid| super::signal(pid, libc::SIGSTOP));
    }

    pub fn thaw(&self) {
        let server = self.server.as_ref().expect("the server runs");
        super::children(server.id()).into_iter().for_each(|pid| super::signal(pid, libc::SIGCONT));
        super::signal(server.id() as i32, libc::SIGCONT);
    }

    /// Speaks TLS with this certificate from now on. `lines` of who may connect how stand before those of the start.
    pub fn secure(&mut self, certificate: &str, key: &str, lines: &str) {
        let data = self.data();
        let rules = std::fs::read_to_string(data.join("pg_hba.conf")).expect("read who may connect");
        let settings = std::fs::read_to_string(data.join("postgresql.conf")).expect("read the settings");
        for (name, text) in [
            ("server.crt", certificate.to_owned()),
            ("server.key", key.to_owned()),
            ("pg_hba.conf", format!("{lines}\n{rules}")),
            ("postgresql.conf", format!("{settings}\nssl = on\n")),
        ] {
            let path = data.join(name);
            std::fs::write(&path, text).expect("write a file of the server's");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
                .expect("keep the file to the server");
            if let Some((user, group)) = self.user {
                chown(&path, Some(user), Some(group)).expect("hand over a file");
            }
        }
        self.crash();
    }

    fn run(&mut self) {
        let log = self.folder.join("log");
        let log = || std::fs::File::options().create(true).append(true).open(&log).expect("open the server's log");
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-k"]).arg(&self.folder);
        for setting in [
            "listen_addresses=127.0.0.1",
            "max_prepared_transactions=64",
            "wal_level=logical",
            "max_connections=200",
            "shared_buffers=64MB",
        ] {
            command.args(["-c", setting]);
        }
        let server = command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().expect("start PostgreSQL");
        self.server = Some(server);
        await_condition("PostgreSQL answers", || {
            let server = self.server.as_mut().expect("started above");
            let ended = server.try_wait().expect("look after the server");
            assert!(
                ended.is_none(),
                "PostgreSQL ended: {}",
                std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
            );
            self.psql_output("SELECT 1").status.success().then_some(())
        });
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = match self.user {
            None => Command::new(program),
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
                command.arg(program);
                command
            }
        };
        command.current_dir(&self.folder).env("LC_ALL", "C");
        command
    }
}

/// Of a server that may be away.
pub struct Client {
    psql: PathBuf,
    url: String,
}

impl Client {
    /// What psql says against it.
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        let output = self.output(sql);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn output(&self, sql: &str) -> std::process::Output {
        Command::new(&self.psql)
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url])
            .output()
            .expect("run psql")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            super::signal(server.id() as i32, libc::SIGQUIT);
            let _ = server.wait();
        }
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The folder of the newest version's.
fn programs() -> Option<PathBuf> {
    let installed = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let versions = installed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let newest = versions.max().map(|version| Path::new(VERSIONS).join(version.to_string()).join("bin"))?;
    newest.join("postgres").is_file().then_some(newest)
}

fn id(which: &str) -> u32 {
    let output = Command::new("id").args([which, UNPRIVILEGED]).output().expect("run id");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.parse().unwrap_or_else(|_| panic!("there is no user `{UNPRIVILEGED}`, which the server would run as"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("find a free port").port()
}
