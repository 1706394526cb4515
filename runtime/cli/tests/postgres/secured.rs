//! Passwords and certificates, on ordinary connections and on those that replicate.

use super::start;
use super::support::certificates::authority;
use super::support::postgres::Postgres;
use super::support::{Scratch, Weir, await_condition};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Users by how their passwords are asked for.
const RULES: &str = "hostssl all scram 127.0.0.1/32 scram-sha-256\nhostssl all scram ::1/128 scram-sha-256\n\
                     hostssl all old 127.0.0.1/32 md5\nhostssl all clear 127.0.0.1/32 password\n\
                     hostnossl all scram,old,clear all reject";

fn write_job(scratch: &Scratch, url: &str) -> PathBuf {
    let table = |name: &str| json!({"url": {"value": url}, "table": name});
    let mut sink = table("copied");
    sink["key"] = json!(["id"]);
    let spec = json!({
        "pipeline": {
            "sources": [{"name": "rows", "postgres": table("original"), "schema": [{"name": "id", "type": "BIGINT"}]}],
            "sinks": [{"name": "out", "from": "rows", "delivery": "ExactlyOnce", "postgres": sink}],
        },
        "checkpoint": {"interval": "100ms", "storage": {"uri": scratch.storage_uri("checkpoints")}},
    });
    scratch.write_job("secured", &spec)
}

#[test]
fn passwords_and_certificates() {
    let Some(mut postgres) = Postgres::start() else { return };
    let hour = Duration::from_secs(3600);
    let (trusted, stranger) = (authority(), authority());
    let names = vec!["localhost".to_owned()];
    let own = trusted.issue(names, SystemTime::now() - hour..SystemTime::now() + hour).expect("sign");
    postgres.psql(
        "CREATE ROLE scram SUPERUSER LOGIN PASSWORD 'p@ss'; SET password_encryption = 'md5'; \
         CREATE ROLE old SUPERUSER LOGIN PASSWORD 'p@ss'; CREATE ROLE clear SUPERUSER LOGIN PASSWORD 'p@ss'; \
         CREATE TABLE original (id bigint PRIMARY KEY); ALTER TABLE original REPLICA IDENTITY FULL; \
         CREATE TABLE copied (id bigint PRIMARY KEY); INSERT INTO original VALUES (0)",
    );
    postgres.secure(&own.certificate, &own.key, RULES);
    let scratch = Scratch::new("postgres-secured");
    let ca = scratch.write("ca.crt", trusted.pem());
    let other = scratch.write("other.crt", stranger.pem());
    let url = |user: &str, host: &str, rest: &str| {
        let url = postgres.url().replace("test@127.0.0.1", &format!("{user}@{host}"));
        format!("{url}?{rest}").replace("CA", &ca.display().to_string()).replace("OTHER", &other.display().to_string())
    };

    for (number, url) in [
        url("scram:p%40ss", "localhost", "sslmode=verify-full&sslrootcert=CA"),
        url("old:p%40ss", "127.0.0.1", "sslmode=verify-ca&sslrootcert=CA"),
        url("clear:p%40ss", "127.0.0.1", "sslmode=require"),
        url("scram:p%40ss", "127.0.0.1", "sslmode=prefer"),
        url("test", "127.0.0.1", "sslmode=disable"),
    ]
    .iter()
    .enumerate()
    {
        let job = write_job(&scratch, url);
        let running = start(&scratch, &job, 1, 0).spawn();
        postgres.psql(&format!("INSERT INTO original VALUES ({}) ON CONFLICT DO NOTHING", number + 1));
        await_condition(&format!("the row has come by {url}"), || {
            (postgres.psql("SELECT count(*), max(id) FROM copied") == format!("{0}|{1}", number + 2, number + 1))
                .then_some(())
        });
        running.kill();
    }

    for (url, said) in [
        (url("scram:wrong", "localhost", "sslmode=require"), "password authentication failed"),
        (url("scram", "localhost", "sslmode=require"), "password"),
        (url("scram:p%40ss", "127.0.0.1", "sslmode=verify-full&sslrootcert=CA"), "certificate"),
        (url("scram:p%40ss", "localhost", "sslmode=verify-ca&sslrootcert=OTHER"), "certificate"),
        (url("scram:p%40ss", "127.0.0.1", "sslmode=disable"), "pg_hba.conf rejects"),
    ] {
        let job = write_job(&scratch, &url);
        let refused = Weir::new(scratch.path(), ["plan".as_ref(), job.as_os_str()]).run();
        let text = format!("{}{}", refused.stdout, refused.stderr);
        assert!(text.contains(said) && !text.contains("p@ss") && !text.contains("p%40ss"), "{url}: {refused}");
    }
}
