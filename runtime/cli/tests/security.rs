//! Connections between the processes of a job: who is let in, who isn't and is told why, and certificates that change
//! while the job runs.

mod support;

use std::path::{Path, PathBuf};
use support::certificates::{Mount, authority};
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Running, Scratch, Weir, await_condition, session};

const JOB: &str = "traffic";

fn coordinator(scratch: &Scratch, job: &Path, tls: &Mount) -> (Running, String) {
    let running = Weir::new(scratch.path(), ["coordinator".as_ref(), job.as_os_str()])
        .with([
            "-p",
            "2",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "none",
            "--set",
            "spec.restart={fixedDelay: {attempts: 20, delay: 100ms}}",
        ])
        .with(["--tls-dir".as_ref(), tls.path().as_os_str()])
        .spawn();
    let address = await_condition("the coordinator's address", || {
        let said = running.stderr();
        let (_, after) = said.split_once("waiting at ")?;
        after.split_once(' ').map(|(address, _)| address.to_owned())
    });
    (running, address)
}

fn worker(scratch: &Scratch, coordinator: &str, patience: &str) -> Weir {
    Weir::new(scratch.path(), ["worker", "--coordinator", coordinator, "--patience", patience])
        .env("WEIR_LOG", "info,aws_config=error")
}

fn secured(worker: Weir, tls: &Mount) -> Weir {
    worker.with(["--tls-dir".as_ref(), tls.path().as_os_str()])
}

fn mounts(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.join("tls").join(name)
}

#[test]
fn certificates_and_their_ca_are_replaced_under_a_running_job() {
    let scratch = Scratch::new("security-rotation");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
    let (old, new) = (authority(), authority());
    let mount = |name: &str| Mount::new(mounts(&scratch, name), &old, JOB);
    let (of_coordinator, of_first, of_second) = (mount("coordinator"), mount("first"), mount("second"));
    let (coordinator, address) = coordinator(&scratch, &job, &of_coordinator);
    let first = secured(worker(&scratch, &address, "60"), &of_first).spawn();
    let second = secured(worker(&scratch, &address, "60"), &of_second).spawn();
    session::await_checkpoint(&scratch, &job, &coordinator);

    // First whom to believe, then the certificates, then the old CA goes.
    let all = [&of_coordinator, &of_first, &of_second];
    for (signs, trusted) in [(&old, vec![&old, &new]), (&new, vec![&old, &new]), (&new, vec![&new])] {
        all.iter().for_each(|mount| mount.replace(signs, JOB, &trusted));
    }
    let late = Mount::new(mounts(&scratch, "late"), &old, JOB);
    let refused = secured(worker(&scratch, &address, "0"), &late).fail();
    assert!(refused.stderr.contains("it is signed by no CA of our ca.crt"), "{refused}");
    let of_third = Mount::new(mounts(&scratch, "third"), &new, JOB);
    let third = secured(worker(&scratch, &address, "60"), &of_third).spawn();
    await_condition("the worker with new certificates registers", || {
        third.stderr().contains("registered").then_some(())
    });
    let said = coordinator.stderr();
    assert!(!said.contains("a worker is gone"), "the rotation cost a worker: {said}");

    // The connections that replace those of a dead worker are made with the new certificates.
    drop(first);
    for (name, running) in [("coordinator", coordinator), ("second worker", second), ("third worker", third)] {
        let finished = running.wait();
        assert!(finished.status.success(), "{name}: {finished}");
    }
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn who_does_not_belong_to_the_job_is_refused_with_the_reason() {
    let scratch = Scratch::new("security-refused");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let ca = authority();
    let (coordinator, address) = coordinator(&scratch, &job, &Mount::new(mounts(&scratch, "own"), &ca, JOB));
    let coordinator_says = |expected: &str| {
        await_condition(&format!("the coordinator says: {expected}"), || {
            coordinator.stderr().contains(expected).then_some(())
        });
    };

    let of_other_job = Mount::new(mounts(&scratch, "other-job"), &ca, "bills");
    let refused = secured(worker(&scratch, &address, "0"), &of_other_job).fail();
    let expected = "its certificate is of job `traffic.default`, and this process of `bills.default`";
    assert!(refused.stderr.contains(expected), "{refused}");
    coordinator_says("its certificate is of job `bills.default`, and this process of `traffic.default`");

    let of_other_ca = Mount::new(mounts(&scratch, "other-ca"), &authority(), JOB);
    let refused = secured(worker(&scratch, &address, "0"), &of_other_ca).fail();
    assert!(refused.stderr.contains("its certificate is refused: it is signed by no CA of our ca.crt"), "{refused}");
    coordinator_says("it refuses our certificate: it doesn't know the CA that signed it");

    let refused = worker(&scratch, &address, "0").fail();
    assert!(refused.stderr.contains("if the coordinator has --tls-dir, this worker needs it too"), "{refused}");
    coordinator_says("it doesn't speak TLS: start it with --tls-dir");
    assert!(!coordinator.stderr().contains("a worker registered"), "somebody was let in: {}", coordinator.stderr());
}

#[test]
fn nothing_is_open_unless_somebody_says_so() {
    let scratch = Scratch::new("security-open");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let coordinator =
        |options: &[&str]| Weir::new(scratch.path(), ["coordinator".as_ref(), job.as_os_str()]).with(options);
    let refused = coordinator(&["--listen", "0.0.0.0:0"]).fail();
    assert!(refused.stderr.contains("--listen 0.0.0.0:0 is not of this machine only"), "{refused}");
    let refused = worker(&scratch, "weir.example:6123", "0").fail();
    assert!(refused.stderr.contains("--coordinator weir.example:6123 is not of this machine only"), "{refused}");

    let of_other_job = Mount::new(mounts(&scratch, "other-job"), &authority(), "bills");
    let folder = of_other_job.path().display().to_string();
    let refused = coordinator(&["--listen", "127.0.0.1:0", "--tls-dir", &folder]).fail();
    assert!(refused.stderr.contains("traffic.default.streamjobs.weir.internal"), "{refused}");
    assert!(!scratch.join("checkpoints").exists(), "the job was taken over all the same");
    let refused = coordinator(&["--tls-dir", "no-such-folder"]).fail();
    assert!(refused.stderr.contains("no-such-folder/tls.crt"), "{refused}");
}

#[test]
fn run_secures_its_workers_and_leaves_no_key_behind() {
    let scratch = Scratch::new("security-run");
    let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
    let temporary = scratch.join("tmp");
    std::fs::create_dir(&temporary).expect("create");
    let keys = || {
        let listed = std::fs::read_dir(&temporary).expect("list").flatten().map(|entry| entry.path());
        listed.filter(|path| path.join("tls.key").exists()).count()
    };
    let run = Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).with(["--workers", "2", "-p", "2"]);
    let running = run.env("TMPDIR", temporary.display().to_string()).spawn();
    await_condition("the certificates", || (keys() == 1).then_some(()));
    let finished = running.wait();
    assert!(finished.status.success(), "{finished}");
    assert_eq!(keys(), 0, "a key was left behind");
    traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{problem}"));
}
