//! The REST API over TLS: whom a client believes, whom the job does, and certificates that change meanwhile.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::certificates::{Mount, authority};
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Running, Scratch, Weir, await_condition};
use weir_node::tls::JobIdentity;

const JOB: &str = "traffic";
const TOKEN: &str = "a token of this test";

#[test]
fn the_jobs_certificates_secure_its_rest_api() {
    let scratch = Scratch::new("https");
    let [ca, other_ca] = [authority(), authority()];
    let mount = |name: &str, ca, job| Mount::new(scratch.join("tls").join(name), ca, job);
    let own = mount("own", &ca, JOB);
    let asked = Asked::of(&scratch, &own);
    let [of_the_job, of_another_job, of_another_ca] =
        [mount("peer", &ca, JOB), mount("bills", &ca, "bills"), mount("foreign", &other_ca, JOB)];

    // Who reads on this machine, whose certificate the client believes.
    let read = asked.answer("GET", "/api/v1/job", &own, &[]);
    assert!(read.starts_with("200 ") && read.contains("\"name\":\"traffic\""), "{read}");
    let refused = asked.answer("GET", "/api/v1/job", &of_another_ca, &[]);
    assert!(refused.starts_with("TLS: ") && refused.contains("certificate verify failed"), "{refused}");
    let refused = asked.answer_of("bills", "GET", "/api/v1/job", &own, &[]);
    assert!(refused.starts_with("TLS: ") && refused.contains("match"), "{refused}");
    let refused = asked.answer("GET", "/api/v1/job", &own, &["--tls12"]);
    assert!(refused.starts_with("TLS: "), "{refused}");
    assert!(asked.plain().contains("this port speaks HTTPS"), "{}", asked.plain());

    // Changes are for who shows the token, or a certificate of this job.
    let rescale = |options: &[&str]| asked.answer("POST", "/api/v1/rescale", &own, options);
    assert!(rescale(&[]).starts_with("401 "), "{}", rescale(&[]));
    assert!(rescale(&["--token", "another token of a test"]).starts_with("401 "));
    // Past who may ask: there is nothing in the request.
    assert!(rescale(&["--token", TOKEN]).starts_with("400 "), "{}", rescale(&["--token", TOKEN]));
    let with = |mount: &Mount| rescale(&["--certificate", &mount.path().display().to_string()]);
    assert!(with(&of_the_job).starts_with("400 "), "{}", with(&of_the_job));
    assert!(with(&of_another_job).starts_with("401 "), "{}", with(&of_another_job));
    assert!(with(&of_another_ca).starts_with("TLS: "), "{}", with(&of_another_ca));

    // As people ask.
    let name = JobIdentity::new(JOB, None).dns_name();
    let ca_file = own.path().join("ca.crt").display().to_string();
    let status = asked.weir("status", &["--certificate-authority", &ca_file, "--tls-server-name", &name]).succeed();
    assert!(status.stdout.contains(JOB), "{status}");
    let refused = asked.weir("status", &[]).fail();
    assert!(refused.stderr.contains("--certificate-authority"), "{refused}");
    let refused = asked.weir("status", &["--certificate-authority", &ca_file]).fail();
    assert!(refused.stderr.contains("is not asked: invalid peer certificate"), "{refused}");
    for wrong in [&of_another_job, &of_another_ca] {
        let refused = asked.weir("cancel", &["--tls-dir", &wrong.path().display().to_string()]).fail();
        assert!(refused.stderr.contains("is not asked: invalid peer certificate"), "{refused}");
    }

    // Another CA, without a restart: who has only the old one does not believe the job any more.
    own.replace(&other_ca, JOB, &[&other_ca]);
    let refused = asked.answer("GET", "/api/v1/job", &of_the_job, &[]);
    assert!(refused.starts_with("TLS: ") && refused.contains("certificate verify failed"), "{refused}");
    assert!(asked.answer("GET", "/api/v1/job", &own, &[]).starts_with("200 "));
    let cancel = |mount: &Mount| asked.weir("cancel", &["--tls-dir", &mount.path().display().to_string()]);
    cancel(&of_the_job).fail();
    cancel(&of_another_ca).succeed();
    let Asked { coordinator, .. } = asked;
    assert!(coordinator.wait().stdout.contains("cancelled"));
}

#[test]
fn a_certificate_of_another_job_is_not_served() {
    let scratch = Scratch::new("https-refused");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let bills = Mount::new(scratch.join("tls"), &authority(), "bills");
    let run = Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).with(["--http", "127.0.0.1:0"]);
    let refused = run.with(["--http-tls-dir".as_ref(), bills.path().as_os_str()]).fail();
    assert!(refused.stderr.contains("the certificate for HTTPS is of job `bills.default`"), "{refused}");
}

/// A coordinator that waits for workers.
struct Asked<'a> {
    scratch: &'a Scratch,
    coordinator: Running,
    url: String,
}

impl<'a> Asked<'a> {
    fn of(scratch: &'a Scratch, tls: &Mount) -> Self {
        let job = traffic::write(scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
        let token = scratch.join("token");
        scratch.write("token", TOKEN);
        let coordinator = Weir::new(scratch.path(), ["coordinator".as_ref(), job.as_os_str()])
            .with(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--http-token-file"])
            .with([token.as_os_str(), "--tls-dir".as_ref(), tls.path().as_os_str()])
            .spawn();
        let url = await_condition("the address of its HTTPS", || {
            let said = coordinator.stderr();
            let url = said.split_once("HTTP at ")?.1.split_once('\n')?.0;
            Some(url.to_owned())
        });
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        Asked { scratch, coordinator, url }
    }

    /// Of a client that believes the CAs of this folder, and expects a certificate of the job.
    fn answer(&self, method: &str, path: &str, believes: &Mount, options: &[&str]) -> String {
        self.answer_of(JOB, method, path, believes, options)
    }

    fn answer_of(&self, job: &str, method: &str, path: &str, believes: &Mount, options: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/https.py");
        let name = JobIdentity::new(job, None).dns_name();
        let mut python = Command::new(python());
        python.arg(script).args([method, &format!("{}{path}", self.url)]).arg(believes.path().join("ca.crt"));
        let output = python.arg(name).args(options).output().expect("run Python");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// To who speaks HTTP without TLS.
    fn plain(&self) -> String {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("https://")).expect("connect");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("write");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("read");
        said
    }

    fn weir(&self, command: &str, options: &[&str]) -> Weir {
        Weir::new(self.scratch.path(), [command, "--url", &self.url]).with(options)
    }
}

fn python() -> PathBuf {
    std::env::var_os("WEIR_ORACLE_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}
