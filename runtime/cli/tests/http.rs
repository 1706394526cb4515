//! A running job over HTTP: watched, asked for savepoints, compared with another spec, stopped.

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Running, Scratch, Weir, await_condition, files_below};
use tokio::runtime::Runtime;
use weir_api::view::*;
use weir_api::{Address, Client, ClientError, SavepointId};

const TOKEN: &str = "a token of this test";
const WAIT: Duration = Duration::from_secs(30);

fn to(parallelism: u32) -> RescaleRequest {
    RescaleRequest { parallelism, leaving: vec![] }
}

#[test]
fn a_job_is_watched() {
    let scratch = Scratch::new("http-watched");
    let job = write_job(&scratch, "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr");
    let running = run(&scratch, &job, &["-p", "2"]).spawn();
    let asked = Asked::of(&running);
    let shown = asked
        .await_job("runs with two checkpoints", |job| job.phase == JobPhase::Running && job.checkpoints.completed >= 2);
    assert_eq!((shown.name.as_str(), shown.parallelism, shown.workers.len()), ("watched", 2, 1));
    assert_eq!((shown.epoch, shown.attempt, shown.restarts.count), (1, 1, 0));

    let graph = asked.ok(asked.client.graph());
    let hashed = graph.tasks.iter().find(|task| task.inputs.iter().any(|input| input.exchange == ExchangeKind::Hash));
    let hashed = hashed.unwrap_or_else(|| panic!("no exchange by key: {graph:?}"));
    assert_eq!(hashed.inputs[0].key_columns, ["usr"]);
    let subtasks = graph.tasks.iter().map(|task| task.parallelism as usize).sum::<usize>();

    let told = asked.until("every subtask's time is told", || {
        let told = asked.ok(asked.client.subtasks());
        let all = || told.tasks.iter().flat_map(|task| &task.subtasks);
        let is_whole = |time: &TimeShares| (time.busy + time.idle + time.backpressured - 1.0).abs() < 1e-6;
        (all().count() == subtasks && all().all(|one| is_whole(&one.time))).then_some(told)
    });
    let of_task = |name: &str| told.tasks.iter().find(|task| task.task == name).expect("a task of the graph");
    let keyed = of_task(&hashed.task);
    assert!(keyed.subtasks.iter().all(|one| one.operators[0].records_in > 0 && one.bytes_in > 0), "{keyed:?}");
    let hot = &keyed.hot_key_groups;
    assert!(!hot.is_empty() && hot.iter().all(|one| one.share > 0.0 && one.share < 0.5 && one.subtask < 2), "{hot:?}");
    assert!(of_task("clicks").subtasks.iter().all(|one| one.operators[0].records_out > 0 && one.bytes_out > 0));

    let checkpoints = asked.ok(asked.client.checkpoints());
    assert!(checkpoints.percentiles.duration_ms.p50 <= checkpoints.percentiles.duration_ms.max);
    let completed = checkpoints.history.iter().find(|one| one.state == CheckpointState::Completed);
    let detail = asked.ok(asked.client.checkpoint(completed.expect("two have completed").id));
    assert_eq!(detail.subtasks.len(), subtasks, "{detail:?}");
    assert!(detail.subtasks.iter().any(|one| one.task == hashed.task && one.bytes > 0), "{detail:?}");
    let restorable = asked.ok(asked.client.restore_points());
    assert!(restorable.next.is_some_and(|next| next.starts_with("checkpoint ")));
    assert!(restorable.checkpoints.iter().all(|point| point.is_restorable));

    assert_eq!(asked.ok(asked.client.text("/healthz")), "ok\n");
    assert_eq!(asked.ok(asked.client.text("/readyz")), "ok\n");
    let metrics = asked.ok(asked.client.text("/metrics"));
    assert!(metrics.contains("weir_job_phase{job_name=\"watched\",phase=\"Running\"} 1"), "{metrics}");
    assert!(metrics.contains("weir_checkpoints_completed_total{job_name=\"watched\"}"), "{metrics}");
    assert!(
        metrics.contains("weir_operator_records_out_total{job_name=\"watched\",operator=\"clicks\",subtask=\"1\"}")
    );
    assert!(metrics.ends_with("# EOF\n"));
    assert!(asked.ok(asked.client.text("/api/v1/openapi.json")).contains("\"openapi\": \"3.1.0\""));
    assert_eq!(asked.refusal(asked.client.text("/api/v1/nothing")), 404);
    let rescaled = asked.ok(asked.client.rescale(&to(3)));
    let rescaled = asked.until("the rescale ends", || {
        let rescaled = asked.ok(asked.client.rescale_state(rescaled.id, WAIT));
        (rescaled.state != RescaleState::InProgress).then_some(rescaled)
    });
    assert_eq!((rescaled.state, rescaled.parallelism), (RescaleState::Completed, 3), "{rescaled:?}");
    assert_eq!(asked.refusal(asked.client.rescale(&to(1 << 20))), 409);
    asked.await_job("runs with parallelism 3", |job| job.parallelism == 3 && job.phase == JobPhase::Running);
    assert_eq!(asked.ok(asked.client.graph()).tasks[0].parallelism, 3);
    assert_eq!(asked.refusal(asked.client.checkpoint(1 << 60)), 404);

    let status = Weir::new(scratch.path(), ["status".as_ref(), job.as_os_str()]).succeed();
    assert!(status.stdout.contains("Running") && status.stdout.contains("clicks"), "{status}");
    asked.ok(asked.client.cancel());
    running.wait();
}

#[test]
fn savepoints_are_taken_once_for_each_id() {
    let scratch = Scratch::new("http-savepoints");
    let job = write_job(&scratch, "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr");
    let running = run(&scratch, &job, &[]).spawn();
    let asked = Asked::of(&running);
    asked.await_job("runs", |job| job.phase == JobPhase::Running);
    let request = |id: &str| SavepointRequest { id: id_of(id), folder: None };
    // Twice at once, as a client does that hears nothing.
    let before = request("before");
    let both = asked.runtime.block_on(async {
        tokio::join!(asked.client.trigger_savepoint(&before), asked.client.trigger_savepoint(&before))
    });
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    let first = asked.ended("before");
    let address = first.address.clone().unwrap_or_else(|| panic!("it failed: {first:?}"));
    let manifest = scratch.join("checkpoints/savepoints/before/savepoint.json");
    assert!(address.ends_with("/savepoints/before"), "{address}");
    let written = std::fs::read(&manifest).expect("it stands");
    let again = asked.ok(asked.client.trigger_savepoint(&request("before")));
    assert_eq!((again.state, again.address.as_ref()), (SavepointState::Completed, Some(&address)));
    assert_eq!(asked.ok(asked.client.savepoints()).savepoints.len(), 1);
    let stop = StopRequest { savepoint: Some(request("before")) };
    assert_eq!(asked.refusal(asked.client.stop(&stop)), 409, "a stop is another request");
    asked.ok(asked.client.cancel());
    running.wait();

    // Another coordinator, which was never asked: what stands is not written again.
    let running = run(&scratch, &job, &[]).spawn();
    let asked = Asked::of(&running);
    asked.await_job("runs again", |job| job.phase == JobPhase::Running);
    let again = asked.ok(asked.client.trigger_savepoint(&request("before")));
    assert_eq!((again.state, again.address.as_ref()), (SavepointState::Completed, Some(&address)));
    assert_eq!(std::fs::read(&manifest).expect("it stands"), written);
    assert_eq!(asked.refusal(asked.client.stop(&stop)), 409, "the job has gone on since");
    let stop = StopRequest { savepoint: Some(request("last")) };
    let stopping = asked.ok(asked.client.stop(&stop)).savepoint.expect("it was asked for");
    assert!(stopping.stop);
    assert_eq!(asked.ended("last").state, SavepointState::Completed);
    let stopped = running.wait();
    assert!(stopped.status.success() && stopped.stdout.contains("savepoints/last"), "{stopped}");
}

#[test]
fn savepoints_are_removed() {
    let scratch = Scratch::new("http-removed");
    let job = write_job(&scratch, "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr");
    let running = run(&scratch, &job, &[]).spawn();
    let asked = Asked::of(&running);
    // A savepoint of nothing has no files.
    asked.await_job("has a checkpoint with state", |job| {
        job.checkpoints.last_completed.as_ref().is_some_and(|last| last.full_bytes > 0)
    });
    // Words of the API's own paths are ids like any others.
    let [_, gone] = ["keep", "remove"].map(|id| {
        asked.ok(asked.client.trigger_savepoint(&SavepointRequest { id: id_of(id), folder: None }));
        let ended = asked.ended(id);
        assert_eq!((ended.state, ended.id.to_string().as_str()), (SavepointState::Completed, id));
        ended.address.expect("it stands")
    });
    let folder = |id: &str| scratch.join(format!("checkpoints/savepoints/{id}"));
    let foreign = folder("keep").join("notes.txt");
    std::fs::write(&foreign, "mine").expect("a file beside it");
    std::fs::write(folder("remove").join("notes.txt"), "mine").expect("a file beside it");

    let removed = asked.ok(asked.client.remove_savepoint(&gone));
    assert!(removed.objects >= 2, "files and manifest: {removed:?}");
    let left: Vec<_> =
        files_below(&folder("remove")).iter().filter_map(|path| path.file_name()).map(|name| name.to_owned()).collect();
    assert_eq!(left, ["notes.txt"], "what the manifest names, and nothing else");
    assert_eq!(asked.ok(asked.client.remove_savepoint(&gone)).objects, 0, "asked again it is a success");
    assert!(folder("keep").join("savepoint.json").is_file() && foreign.is_file());
    assert_eq!(asked.refusal(asked.client.remove_savepoint("keep")), 400, "no address");
    asked.ok(asked.client.cancel());
    running.wait();
}

#[test]
fn savepoints_that_are_needed_are_not_removed() {
    let scratch = Scratch::new("http-needed");
    let sql = "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr";
    let running = run(&scratch, &write_job(&scratch, sql), &[]).spawn();
    let asked = Asked::of(&running);
    asked.await_job("has a checkpoint", |job| job.checkpoints.completed > 0);
    let [first, second] = ["first", "second"].map(|id| {
        asked.ok(asked.client.trigger_savepoint(&SavepointRequest { id: id_of(id), folder: None }));
        asked.ended(id).address.expect("it stands")
    });
    asked.ok(asked.client.cancel());
    running.wait();

    // Another job, which completes no checkpoint.
    let other = write_job_as(&scratch, "other", sql, "1h");
    let running = run(&scratch, &other, &["--from", &first]).spawn();
    let asked = Asked::of(&running);
    asked.await_job("runs", |job| job.phase == JobPhase::Running);
    assert_eq!(asked.refusal(asked.client.remove_savepoint(&first)), 409, "it would start from it");
    assert_eq!(asked.refusal(asked.client.remove_savepoint(&second)), 409, "it is another job's");
    for id in ["first", "second"] {
        assert!(scratch.join(format!("checkpoints/savepoints/{id}/savepoint.json")).is_file(), "{id}");
    }
    asked.ok(asked.client.cancel());
    running.wait();
}

/// A pinned checkpoint outlives retention; its own job and another one begin with it, and need nothing of it afterwards.
#[test]
fn checkpoints_are_pinned_and_begun_with() {
    let scratch = Scratch::new("http-pinned");
    let sql = "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr";
    let job = write_job(&scratch, sql);
    let running = run(&scratch, &job, &[]).spawn();
    let asked = Asked::of(&running);
    let pin = |checkpoint, is_pinned| PinRequest { checkpoint, is_pinned };
    assert_eq!(asked.refusal(asked.client.pin_checkpoint(&pin(1 << 40, true))), 409, "there is no such checkpoint");
    // On a slow machine retention may be quicker than who asks.
    let id = asked.until("a checkpoint with state is pinned", || {
        let last = asked.ok(asked.client.job()).checkpoints.last_completed.filter(|last| last.full_bytes > 0)?;
        let pinned = asked.runtime.block_on(asked.client.pin_checkpoint(&pin(last.id, true))).ok()?;
        pinned.is_pinned.then_some(pinned.checkpoint)
    });
    assert!(asked.ok(asked.client.pin_checkpoint(&pin(id, true))).is_pinned, "asked again it is a success");
    let points = asked.until("retention has let go of those after it", || {
        let points = asked.ok(asked.client.restore_points()).checkpoints;
        let is_over = points.iter().any(|point| point.id > id + 1) && !points.iter().any(|point| point.id == id + 1);
        is_over.then_some(points)
    });
    let kept: Vec<_> =
        points.iter().filter(|point| point.is_pinned).map(|point| (point.id, point.is_restorable)).collect();
    assert_eq!(kept, [(id, true)]);
    asked.ok(asked.client.cancel());
    running.wait();

    let folder = scratch.join("checkpoints/watched");
    let address = format!("file://{}/chk-{id}", folder.display());
    let other = write_job_as(&scratch, "other", sql, "200ms");
    let begun_with = |job: &Path, from: &str, copy: &str| {
        let running = run(&scratch, job, &["--from", from]).spawn();
        let asked = Asked::of(&running);
        let shown = asked.await_job("runs with a checkpoint of its own", |job| {
            job.phase == JobPhase::Running && job.checkpoints.completed > 0
        });
        let from = shown.restored_from.expect("it began with something");
        assert!(from.ends_with(copy), "{from}");
        asked.ok(asked.client.cancel());
        running.wait();
    };
    begun_with(&job, &id.to_string(), &format!("/savepoints/watched-of-watched-{id}"));
    begun_with(&other, &address, &format!("/savepoints/other-of-watched-{id}"));
    let missing = format!("file://{}/chk-{}", folder.display(), 1_u64 << 40);
    let refused = run(&scratch, &other, &["--from", &missing]).spawn().wait();
    assert!(!refused.status.success() && refused.stderr.contains("there is no checkpoint"), "{refused}");

    // Unpinned it goes when everything is swept, and the one that began with it goes on without any of it.
    let running = run(&scratch, &job, &[]).spawn();
    let asked = Asked::of(&running);
    asked.await_job("runs", |job| job.phase == JobPhase::Running);
    assert!(!asked.ok(asked.client.pin_checkpoint(&pin(id, false))).is_pinned);
    assert!(asked.ok(asked.client.restore_points()).checkpoints.iter().all(|point| point.id != id));
    asked.ok(asked.client.cancel());
    running.wait();
    std::fs::remove_dir_all(&folder).expect("all that the first job had");
    let running = run(&scratch, &other, &[]).spawn();
    let asked = Asked::of(&running);
    let shown = asked.await_job("goes on", |job| job.phase == JobPhase::Running && job.checkpoints.completed > 0);
    assert!(shown.restored_from.is_some_and(|from| from.starts_with("checkpoint ")), "from its own");
    asked.ok(asked.client.cancel());
    running.wait();
}

#[test]
fn a_new_spec_is_compared_with_the_running_state() {
    let scratch = Scratch::new("http-plan");
    let sql = "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr";
    let job = write_job(&scratch, sql);
    let running = run(&scratch, &job, &[]).spawn();
    let asked = Asked::of(&running);
    asked.await_job("has a checkpoint", |job| job.checkpoints.completed > 0);
    let spec = std::fs::read_to_string(&job).expect("it was written");
    let plan = |from: &str, to: &str| {
        assert!(spec.contains(from), "{spec}");
        asked.ok(asked.client.plan(&spec.replace(from, to)))
    };
    let same = plan(sql, sql);
    assert!(same.fits && same.effect == PlanEffect::Nothing && same.changes.is_empty(), "{same:?}");
    assert!(same.states.iter().all(|state| state.fit == StateFit::Kept) && !same.states.is_empty(), "{same:?}");
    let other_key = plan(sql, "SELECT cents, COUNT(*) AS n FROM clicks GROUP BY cents, usr");
    assert!(!other_key.fits && !other_key.refusals.is_empty(), "{other_key:?}");
    assert_eq!((other_key.effect, other_key.changes.len()), (PlanEffect::Restart, 1), "{other_key:?}");
    let renamed = plan("\"totals\"", "\"sums\"");
    assert!(!renamed.fits && renamed.refusals.iter().any(|refusal| refusal.contains("totals")), "{renamed:?}");
    let wrong = plan("FROM clicks GROUP", "FROM nowhere GROUP");
    assert!(!wrong.fits && wrong.mistakes.iter().any(|mistake| mistake.reason.contains("nowhere")), "{wrong:?}");
    let elsewhere = plan("/checkpoints\"", "/others\"");
    assert!(!elsewhere.fits && elsewhere.refusals.iter().any(|refusal| refusal.contains("/others")), "{elsewhere:?}");
    assert_eq!(asked.refusal(asked.client.plan(&spec.replace("\"watched\"", "\"another\""))), 409);
    // `weir plan` compares with the same log, from its own process.
    let planned = Weir::new(scratch.path(), ["plan".as_ref(), job.as_os_str()]).succeed();
    assert!(planned.stdout.contains("would start from checkpoint"), "{planned}");
    asked.ok(asked.client.cancel());
    running.wait();
}

#[test]
fn nobody_changes_a_job_without_the_token() {
    let scratch = Scratch::new("http-access");
    let job = write_job(&scratch, "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr");
    let running = Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).with(["--http", "127.0.0.1:0"]).spawn();
    let asked = Asked::of(&running);
    asked.await_job("runs", |job| job.phase == JobPhase::Running);
    assert_eq!(asked.refusal(asked.client.cancel()), 403, "no token is configured");
    // Whoever may enter the user's own folder may do all.
    let savepoint = Weir::new(scratch.path(), ["savepoint".as_ref(), job.as_os_str()]).with(["--name", "mine"]);
    assert!(savepoint.succeed().stdout.contains("savepoints/mine"));
    let cancelled = Weir::new(scratch.path(), ["cancel".as_ref(), job.as_os_str()]).succeed();
    running.wait();
    assert!(cancelled.stdout.contains("watched"), "{cancelled}");
    let gone = Weir::new(scratch.path(), ["status".as_ref(), job.as_os_str()]).fail();
    assert!(gone.stderr.contains("doesn't answer"), "{gone}");

    let running = run(&scratch, &job, &[]).spawn();
    let asked = Asked::of(&running);
    let stranger = Client::new(asked.client.address().clone());
    let wrong = stranger.clone().with_token("another token than that");
    assert_eq!(asked.refusal(stranger.cancel()), 401);
    assert_eq!(asked.refusal(wrong.cancel()), 401);
    assert!(asked.runtime.block_on(stranger.job()).is_ok(), "reading is open on loopback");
    scratch.write("token", "another token than that\n");
    assert_eq!(asked.refusal(asked.client.cancel()), 401, "the token has changed");
    asked.ok(wrong.cancel());
    running.wait();
}

#[test]
fn restarts_are_counted_with_their_reason() {
    let scratch = Scratch::new("http-restarts");
    let job = write_job(&scratch, "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr");
    let running = run(&scratch, &job, &["-p", "2", "--workers", "2"]).spawn();
    let asked = Asked::of(&running);
    let shown = asked.await_job("has a checkpoint", |job| job.checkpoints.completed > 0);
    assert_eq!(shown.workers.iter().map(|worker| worker.slots_in_use).collect::<Vec<_>>(), [1, 1]);
    // What other processes counted comes with their reports.
    asked.until("the workers' counters come", || {
        let told = asked.ok(asked.client.subtasks());
        let mut all = told.tasks.iter().flat_map(|task| &task.subtasks);
        all.all(|one| one.time.busy + one.time.idle > 0.0 && one.worker.is_some()).then_some(())
    });
    let tasks = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.id()));
    let worker: i32 = tasks.ok().and_then(|pids| pids.split_whitespace().next()?.parse().ok()).expect("a worker");
    // SAFETY: kill(2) takes two numbers. The process is a child of one that we started.
    unsafe { libc::kill(worker, libc::SIGKILL) };
    let shown = asked.await_job("has been restarted", |job| job.restarts.count > 0 && job.phase == JobPhase::Running);
    let counted: u64 = shown.restarts.reasons.iter().map(|reason| reason.count).sum();
    assert_eq!(counted, shown.restarts.count, "{shown:?}");
    assert!(shown.restarts.last_failure.is_some() && shown.restarts.last_at_ms.is_some(), "{shown:?}");
    assert!(asked.ok(asked.client.text("/metrics")).contains("weir_job_restarts_total{job_name=\"watched\"} "));
    asked.ok(asked.client.cancel());
    running.wait();
}

/// Of the coordinator and of its workers alike.
#[test]
fn logs_for_machines_say_what_they_are_about() {
    let scratch = Scratch::new("http-logs");
    let job = write_job(&scratch, "SELECT usr, COUNT(*) AS n FROM clicks GROUP BY usr");
    let running = run(&scratch, &job, &["--workers", "1", "--quiet", "--log-format", "json"]).spawn();
    let asked = Asked::of(&running);
    asked.await_job("has a checkpoint", |job| job.checkpoints.completed > 0);
    asked.ok(asked.client.cancel());
    let ended = running.wait();
    let lines: Vec<Value> = ended.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let about = |message: &str| {
        let found = lines.iter().find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("nobody says `{message}`: {ended}"))
    };
    let completed = about("checkpoint completed");
    assert_eq!(
        (&completed["job"], &completed["epoch"], &completed["attempt"]),
        (&json!("watched"), &json!(1), &json!(1))
    );
    assert!(completed["checkpoint"].is_u64() && completed["level"] == "INFO", "{completed}");
    assert_eq!(about("registered")["job"], "watched", "of the worker");
}

/// A job that runs until it is stopped.
fn write_job(scratch: &Scratch, sql: &str) -> PathBuf {
    write_job_as(scratch, "watched", sql, "200ms")
}

fn write_job_as(scratch: &Scratch, name: &str, sql: &str, interval: &str) -> PathBuf {
    scratch.write("token", format!("{TOKEN}\n"));
    let columns = json!([
        {"name": "usr", "sequence": {"cardinality": 1000, "order": "Mixed"}},
        {"name": "cents", "random": {"min": 1, "max": 5000}},
    ]);
    let spec: Value = json!({
        "pipeline": {
            "sources": [{
                "name": "clicks",
                "generator": {"rowsPerSecond": 20_000, "columns": columns},
                "schema": [{"name": "usr", "type": "BIGINT"}, {"name": "cents", "type": "BIGINT"}],
            }],
            "transforms": [{"name": "totals", "sql": sql}],
            "sinks": [{"name": "out", "from": "totals", "blackhole": {}}],
        },
        "checkpoint": {"interval": interval, "storage": {"uri": scratch.storage_uri("checkpoints")}},
        "restart": {"fixedDelay": {"attempts": 20, "delay": "100ms"}},
    });
    scratch.write_job(name, &spec)
}

fn run(scratch: &Scratch, job: &Path, options: &[&str]) -> Weir {
    let run = Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).with(options);
    run.with(["--http", "127.0.0.1:0", "--http-token-file"]).with([scratch.join("token")])
}

fn id_of(text: &str) -> SavepointId {
    SavepointId::try_from(text.to_owned()).expect("an id")
}

struct Asked<'a> {
    running: &'a Running,
    client: Client,
    runtime: Runtime,
}

impl<'a> Asked<'a> {
    /// The job says on standard error where it is reached.
    fn of(running: &'a Running) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = await_condition("the address of its HTTP", || {
            let said = running.stderr();
            let after = said.split_once("HTTP at ")?.1.split_once('\n')?.0;
            Some(after.to_owned())
        });
        let client = Client::new(Address::of_url(&url).expect("an address")).with_token(TOKEN);
        Asked { running, client, runtime }
    }

    #[track_caller]
    fn ok<T>(&self, asked: impl Future<Output = Result<T, ClientError>>) -> T {
        let answered = self.runtime.block_on(asked);
        answered.unwrap_or_else(|error| panic!("{error:?}\n{}", self.running.stderr()))
    }

    /// The status with which it is refused.
    #[track_caller]
    fn refusal<T>(&self, asked: impl Future<Output = Result<T, ClientError>>) -> u16 {
        match self.runtime.block_on(asked) {
            Err(ClientError::Refused(problem)) => {
                assert!(problem.detail.len() > 10, "{problem:?}");
                problem.status
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("it was carried out"),
        }
    }

    fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        await_condition(what, look)
    }

    fn await_job(&self, what: &str, is_so: impl Fn(&JobView) -> bool) -> JobView {
        self.until(&format!("the job {what}"), || Some(self.ok(self.client.job())).filter(&is_so))
    }

    fn ended(&self, id: &str) -> SavepointView {
        self.until(&format!("the savepoint {id} ends"), || {
            let savepoint = self.ok(self.client.savepoint(&id_of(id), WAIT));
            (savepoint.state != SavepointState::InProgress).then_some(savepoint)
        })
    }
}
