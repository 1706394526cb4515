//! A broker with listeners of TLS and SASL: jobs through each of their ways in, and what `weir plan` says where there is none.

use crate::broker::OwnBroker;
use crate::support::certificates::authority;
use crate::support::{Finished, Scratch, Weir};
use crate::{Run, Start};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOUR: Duration = Duration::from_secs(3600);
const PASSWORD: &str = "alice-secret";
const CLIENT_SECRET: &str = "s3cret+/= %";
/// SASL within TLS, the same with tokens of an issuer, TLS with certificates on both ends, and SASL in the open.
const LISTENERS: &str = "SECURE ISSUED MUTUAL OPEN";
const CONNECTORS: [&str; 3] = ["sources[0]", "sinks[0]", "sinks[1]"];

/// How a connector gets in.
struct Entry {
    listener: &'static str,
    properties: Value,
}

struct Secured {
    own: OwnBroker,
    ports: BTreeMap<String, u16>,
    issuer: Issuer,
    scratch: Scratch,
}

/// Gives tokens to who has a secret. Killed when it goes out of scope.
struct Issuer {
    process: Child,
    port: u16,
}

#[test]
fn jobs_through_tls_and_sasl() {
    let Some(secured) = Secured::start("kafka-secured") else { return };
    let ways = [
        [secured.bearer(), secured.scram("SECURE", "SCRAM-SHA-512", PASSWORD), secured.mutual()],
        [secured.plain("alice", PASSWORD), secured.scram("SECURE", "SCRAM-SHA-256", PASSWORD), secured.open(PASSWORD)],
        [secured.issued("alice", CLIENT_SECRET), secured.issued("alice", CLIENT_SECRET), secured.bearer()],
    ];
    for (number, ways) in ways.iter().enumerate() {
        let run = Run::new(&secured.own.broker, &format!("kafka-secured-{number}"), &json!({}));
        let entries: Vec<(&str, &Entry)> = CONNECTORS.into_iter().zip(ways).collect();
        secured.with(run.plan(), &entries).succeed();
        let start = run.start(&Start::of(2));
        secured.with(start, &entries).succeed();
        run.verify().unwrap();
    }
    let run = Run::new(&secured.own.broker, "kafka-refused", &json!({}));
    let strange = authority().pem();
    let tls = |listener, properties| Entry { listener, properties };
    let refused = [
        (secured.plain("alice", "guessed"), "SaslAuthenticationFailed", "Correct sasl.username and sasl.password"),
        (secured.scram("SECURE", "SCRAM-SHA-512", "guessed"), "SaslAuthenticationFailed", "Correct sasl.username"),
        (secured.open("guessed"), "SaslAuthenticationFailed", "Correct sasl.username"),
        (secured.plain("mallory", PASSWORD), "TopicAuthorizationFailed", "READ for a source"),
        (
            secured.issued("alice", "guessed"),
            "invalid_client nobody has this id and secret",
            "correct sasl.oauthbearer.client.credentials.client.id",
        ),
        (secured.issued("mallory", "mallory"), "TopicAuthorizationFailed", "READ for a source"),
        (
            secured.issued_with(json!({"https.ca.location": null, "https.ca.pem": strange})),
            "token endpoint",
            "name the authority of its certificate in https.ca.location",
        ),
        (
            tls("MUTUAL", json!({"security.protocol": "SSL", "ssl.ca.pem": strange})),
            "signed by an authority that is not known here",
            "ssl.ca.location",
        ),
        (tls("MUTUAL", secured.certified_by_authority()), "this client's certificate", "ssl.certificate.location"),
        (tls("SECURE", json!({})), "answers with TLS", "set security.protocol to SSL or SASL_SSL"),
        (
            tls("PLAINTEXT", secured.certified_by_authority()),
            "closed the connection",
            "is the listener one for this security.protocol?",
        ),
        (
            tls("OPEN", login("SASL_PLAINTEXT", "PLAIN", "alice", PASSWORD)),
            "does not take SASL PLAIN",
            "it takes SCRAM-SHA-512",
        ),
    ];
    for (entry, said, remedy) in refused {
        let failed = secured.with(run.plan(), &[(CONNECTORS[0], &entry)]).fail();
        assert_says(&failed, &[said, remedy]);
    }
    let elsewhere = format!("spec.pipeline.sources[0].kafka.bootstrapServers=127.0.0.1:{}", secured.ports["SECURE"]);
    let failed =
        secured.with(run.plan(), &[(CONNECTORS[0], &secured.plain("alice", PASSWORD))]).with(["--set", &elsewhere]);
    assert_says(&failed.fail(), &["its certificate is not for this name", "advertised.listeners"]);
    // The same when a job runs: nothing is gained by another try.
    for entry in [secured.plain("alice", "guessed"), secured.plain("mallory", PASSWORD)] {
        let run =
            Run::with_restarts(&secured.own.broker, "kafka-stranger", &json!({}), &json!({"exponentialDelay": {}}));
        let start = run.start(&Start::of(2));
        let failed = secured.with(start, &[(CONNECTORS[1], &entry)]).fail();
        assert_says(&failed, &["copies-out", "no restart can help"]);
    }
}

fn assert_says(failed: &Finished, parts: &[&str]) {
    for part in parts {
        assert!(failed.stderr.contains(part), "no word of {part}: {failed}");
    }
}

impl Run {
    fn plan(&self) -> Weir {
        Weir::new(self.scratch.path(), ["plan".as_ref(), self.job.as_os_str()])
    }
}

impl Secured {
    fn start(name: &str) -> Option<Secured> {
        let scratch = Scratch::new(name);
        let authority = authority();
        let valid = SystemTime::now() - HOUR..SystemTime::now() + HOUR;
        let server = authority.issue(vec!["localhost".to_owned()], valid.clone()).expect("sign");
        let client = authority.issue(vec!["client".to_owned()], valid).expect("sign");
        scratch.write("ca.pem", authority.pem());
        let store = scratch.write("broker.pem", format!("{}{}", server.key, server.certificate));
        scratch.write("client.crt", &client.certificate);
        scratch.write("client.key", &client.key);
        let users: Vec<String> =
            ["256", "512"].map(|bits| format!("SCRAM-SHA-{bits}=[name=alice,password={PASSWORD}]")).into();
        let format: Vec<&str> = users.iter().flat_map(|user| ["--add-scram", user]).collect();
        let issuer = Issuer::start(&scratch, &server.certificate, &server.key);
        let mut ports = BTreeMap::new();
        let own = OwnBroker::start_with(scratch.path(), LISTENERS, &format, |given| {
            ports.clone_from(given);
            settings(&store, &scratch.join("ca.pem"), &scratch.join("jwks.json"))
        })?;
        Some(Secured { own, ports, issuer, scratch })
    }

    /// The command, with connectors that enter so.
    fn with(&self, weir: Weir, entries: &[(&str, &Entry)]) -> Weir {
        let settings = entries.iter().flat_map(|(connector, Entry { listener, properties })| {
            let mut properties = properties.clone();
            if *connector == CONNECTORS[0]
                && let Some(properties) = properties.as_object_mut()
            {
                // As the source has them anyhow.
                properties.insert("fetch.max.bytes".into(), json!("16384"));
                properties.insert("max.partition.fetch.bytes".into(), json!("16384"));
            }
            let kafka = format!("spec.pipeline.{connector}.kafka");
            let address = format!("{kafka}.bootstrapServers=localhost:{}", self.ports[*listener]);
            ["--set".to_owned(), address, "--set".to_owned(), format!("{kafka}.properties={properties}")]
        });
        weir.with(settings.collect::<Vec<_>>())
    }

    fn file(&self, name: &str) -> String {
        self.scratch.join(name).display().to_string()
    }

    fn certified_by_authority(&self) -> Value {
        json!({"security.protocol": "SSL", "ssl.ca.location": self.file("ca.pem")})
    }

    fn mutual(&self) -> Entry {
        let properties = json!({
            "security.protocol": "SSL", "ssl.ca.location": self.file("ca.pem"),
            "ssl.certificate.location": self.file("client.crt"), "ssl.key.location": self.file("client.key"),
        });
        Entry { listener: "MUTUAL", properties }
    }

    fn within_tls(&self, listener: &'static str, mut properties: Value) -> Entry {
        properties["ssl.ca.location"] = json!(self.file("ca.pem"));
        Entry { listener, properties }
    }

    fn plain(&self, username: &str, password: &str) -> Entry {
        self.within_tls("SECURE", login("SASL_SSL", "PLAIN", username, password))
    }

    fn scram(&self, listener: &'static str, mechanism: &str, password: &str) -> Entry {
        self.within_tls(listener, login("SASL_SSL", mechanism, "alice", password))
    }

    fn issued(&self, client: &str, secret: &str) -> Entry {
        self.issued_with(json!({
            "sasl.oauthbearer.client.credentials.client.id": client,
            "sasl.oauthbearer.client.credentials.client.secret": secret,
        }))
    }

    /// With other settings; null: without one.
    fn issued_with(&self, other: Value) -> Entry {
        let mut properties = json!({
            "security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.token.endpoint.url": format!("https://localhost:{}/token", self.issuer.port),
            "sasl.oauthbearer.client.credentials.client.id": "alice",
            "sasl.oauthbearer.client.credentials.client.secret": CLIENT_SECRET,
            "sasl.oauthbearer.header.urlencode": "true", "sasl.oauthbearer.scope": "kafka",
            "sasl.oauthbearer.extensions": "logicalCluster=lkc-1, identityPoolId=pool-2",
            "https.ca.location": self.file("ca.pem"),
        });
        let Value::Object(other) = other else { panic!("settings are an object") };
        let settings = properties.as_object_mut().expect("an object");
        settings.extend(other);
        settings.retain(|_, value| !value.is_null());
        self.within_tls("ISSUED", properties)
    }

    fn open(&self, password: &str) -> Entry {
        Entry { listener: "OPEN", properties: login("SASL_PLAINTEXT", "SCRAM-SHA-512", "alice", password) }
    }

    /// A token that is not signed, as a broker without an issuer of tokens takes it.
    fn bearer(&self) -> Entry {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let claims = json!({"sub": "alice", "iat": now, "exp": now + 3600});
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let token = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims));
        self.scratch.write("token", token);
        let file = self.file("token");
        let properties = json!({
            "security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.token.file": file,
        });
        self.within_tls("SECURE", properties)
    }
}

impl Issuer {
    fn start(scratch: &Scratch, certificate: &str, key: &str) -> Self {
        let python = std::env::var("WEIR_ORACLE_PYTHON").expect("WEIR_ORACLE_PYTHON is set by `cargo xtask test`");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/issuer.py");
        let files = [("issuer.crt", certificate), ("issuer.key", key)];
        let [certificate, key] = files.map(|(name, text)| scratch.write(name, text));
        let mut command = Command::new(python);
        command.arg(script).args([scratch.path(), &certificate, &key]).stdout(Stdio::piped());
        let mut process = command.spawn().expect("start Python");
        let mut said = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut said).expect("the issuer says its port");
        Issuer { process, port: said.trim().parse().expect("a port") }
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn login(protocol: &str, mechanism: &str, username: &str, password: &str) -> Value {
    json!({
        "security.protocol": protocol, "sasl.mechanism": mechanism,
        "sasl.username": username, "sasl.password": password,
    })
}

/// Of the broker. Who comes by the listener without security may do everything; so may alice, and the client of the
/// certificate.
fn settings(store: &Path, trusted: &Path, issued: &Path) -> Vec<(String, String)> {
    let jaas = |mechanism: &str, class: &str, more: &str| {
        let name = format!("listener.name.secure.{mechanism}.sasl.jaas.config");
        (name, format!("org.apache.kafka.common.security.{class} required {more};"))
    };
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let scram = jaas("scram-sha-512", "scram.ScramLoginModule", "");
    vec![
        set(
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,ISSUED:SASL_SSL,MUTUAL:SSL,OPEN:SASL_PLAINTEXT",
        ),
        set("inter.broker.listener.name", "PLAINTEXT"),
        set("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        set("super.users", "User:ANONYMOUS;User:alice;User:CN=weir"),
        set("ssl.keystore.type", "PEM"),
        set("ssl.keystore.location", &store.display().to_string()),
        set("ssl.truststore.type", "PEM"),
        set("ssl.truststore.location", &trusted.display().to_string()),
        set("listener.name.mutual.ssl.client.auth", "required"),
        set("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"),
        set("listener.name.open.sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        // A connection has to give way to a new one while a job runs.
        set("connections.max.reauth.ms", "2000"),
        jaas("plain", "plain.PlainLoginModule", &format!("user_alice=\"{PASSWORD}\" user_mallory=\"{PASSWORD}\"")),
        jaas("scram-sha-256", "scram.ScramLoginModule", ""),
        ("listener.name.open.scram-sha-512.sasl.jaas.config".to_owned(), scram.1.clone()),
        scram,
        set("listener.name.issued.sasl.enabled.mechanisms", "OAUTHBEARER"),
        set(
            "listener.name.issued.oauthbearer.sasl.jaas.config",
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
        ),
        set(
            "listener.name.issued.oauthbearer.sasl.server.callback.handler.class",
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
        ),
        set("listener.name.issued.sasl.oauthbearer.jwks.endpoint.url", &format!("file://{}", issued.display())),
        set("listener.name.issued.sasl.oauthbearer.expected.audience", "kafka"),
        set("listener.name.issued.sasl.oauthbearer.expected.issuer", "https://issuer.test"),
        jaas("oauthbearer", "oauthbearer.OAuthBearerLoginModule", "unsecuredLoginStringClaim_sub=\"broker\""),
    ]
}
