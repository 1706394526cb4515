//! Connections that are made, and those that are refused: by whom, and with which words.

use super::*;
use crate::tls::certificates::Tls;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HOUR: Duration = Duration::from_secs(3600);

fn valid() -> std::ops::Range<SystemTime> {
    SystemTime::now() - HOUR..SystemTime::now() + HOUR
}

fn authority() -> Authority {
    Authority::new(valid()).expect("a CA")
}

fn names(job: &str) -> Vec<String> {
    vec![JobIdentity::new(job, None).dns_name()]
}

/// The files of a process of `job`.
fn write(folder: &Path, authority: &Authority, job: &str, trusted: &[&Authority]) {
    let issued = authority.issue(names(job), valid()).expect("a certificate");
    write_files(folder, &issued, trusted);
}

fn write_files(folder: &Path, issued: &Issued, trusted: &[&Authority]) {
    let bundle: String = trusted.iter().map(|authority| authority.pem()).collect();
    for (name, text) in [("tls.crt", &issued.certificate), ("tls.key", &issued.key), ("ca.crt", &bundle)] {
        std::fs::write(folder.join(name), text).expect("write a file");
    }
}

fn process(authority: &Authority, job: &str) -> (TempDir, Security) {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), authority, job, &[authority]);
    let security = Security::Tls(Arc::new(Tls::of_folder(folder.path()).expect("certificates")));
    (folder, security)
}

/// What each side says: `connecting`, `listening`.
async fn meet(connecting: &Security, listening: &Security) -> [Result<Connection, String>; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let connect = async {
        let stream = TcpStream::connect(address).await.expect("connect");
        let mut connection = connecting.connect(stream).await.map_err(|refusal| refusal.to_string())?;
        // With TLS 1.3 what the other side has against us comes after our own handshake.
        connection.write_all(b"?").await.map_err(|error| explain(&error))?;
        let mut answer = [0];
        connection.read_exact(&mut answer).await.map_err(|error| explain(&error))?;
        Ok(connection)
    };
    let accept = async {
        let (stream, _) = listener.accept().await.expect("accept");
        let mut connection = listening.accept(stream).await.map_err(|refusal| refusal.to_string())?;
        connection.read_exact(&mut [0]).await.map_err(|error| explain(&error))?;
        connection.write_all(b"!").await.map_err(|error| explain(&error))?;
        Ok(connection)
    };
    let (connecting, listening) = tokio::join!(connect, accept);
    [connecting, listening]
}

#[track_caller]
fn says(said: &Result<Connection, String>, expected: &str) {
    let said = said.as_ref().err().map_or("it connected", String::as_str);
    assert!(said.contains(expected), "`{said}` instead of `{expected}`");
}

#[tokio::test]
async fn processes_of_one_job_meet() {
    let authority = authority();
    let (_first, one) = process(&authority, "orders");
    let (_second, other) = process(&authority, "orders");
    for side in meet(&one, &other).await {
        let side = side.expect("a connection");
        assert_eq!(side.identity(), Some(&JobIdentity::new("orders", Some("default"))));
    }
}

#[tokio::test]
async fn another_job_is_refused_by_both() {
    let authority = authority();
    let (_first, orders) = process(&authority, "orders");
    let (_second, bills) = process(&authority, "bills");
    let [connecting, listening] = meet(&bills, &orders).await;
    says(&connecting, "its certificate is of job `orders.default`, and this process of `bills.default`");
    says(&listening, "its certificate is of job `bills.default`, and this process of `orders.default`");
}

#[tokio::test]
async fn a_foreign_ca_is_refused() {
    let (_first, one) = process(&authority(), "orders");
    let (_second, other) = process(&authority(), "orders");
    let [connecting, listening] = meet(&one, &other).await;
    says(&connecting, "its certificate is refused: it is signed by no CA of our ca.crt");
    says(&listening, "it refuses our certificate: it doesn't know the CA that signed it");
}

#[tokio::test]
async fn who_connects_learns_that_its_certificate_is_refused() {
    let (new, old) = (authority(), authority());
    let (_first, listening) = process(&new, "orders");
    // Believes both, and is itself still signed by the one that the listening side has dropped.
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &old, "orders", &[&new, &old]);
    let connecting = Security::Tls(Arc::new(Tls::of_folder(folder.path()).expect("certificates")));
    let [connecting, listening] = meet(&connecting, &listening).await;
    says(&connecting, "it refuses our certificate: it doesn't know the CA that signed it (see its ca.crt)");
    says(&listening, "its certificate is refused: it is signed by no CA of our ca.crt");
}

#[tokio::test]
async fn without_tls_there_is_no_way_in() {
    let (_folder, secured) = process(&authority(), "orders");
    let [connecting, listening] = meet(&Security::Open, &secured).await;
    assert!(connecting.is_err());
    says(&listening, "it doesn't speak TLS: start it with --tls-dir");

    // An HTTP/2 server begins with its settings.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("connect");
    let (mut open, _) = listener.accept().await.expect("accept");
    open.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("write");
    let connecting = secured.connect(stream).await.map_err(|refusal| refusal.to_string());
    says(&connecting, "it doesn't speak TLS: start it with --tls-dir");
}

/// Of a client that is no process of ours: with this certificate, or none.
async fn strange_client(listening: &Security, trusted: &Authority, own: Option<&Issued>) -> Result<Connection, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).expect("PEM")).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(Issued { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a certificate")
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let connect = async {
        let name = ServerName::try_from(JobIdentity::new("orders", None).dns_name()).expect("a name");
        let stream = TcpStream::connect(address).await.expect("connect");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.expect("its own handshake");
        stream.read_exact(&mut [0]).await.ok();
    };
    let accept = async {
        let (stream, _) = listener.accept().await.expect("accept");
        listening.accept(stream).await.map_err(|refusal| refusal.to_string())
    };
    tokio::join!(connect, accept).1
}

#[tokio::test]
async fn a_missing_or_expired_certificate_is_refused() {
    let authority = authority();
    let (_folder, listening) = process(&authority, "orders");
    says(&strange_client(&listening, &authority, None).await, "it shows no certificate");
    let expired = authority.issue(names("orders"), SystemTime::now() - 2 * HOUR..SystemTime::now() - HOUR);
    let expired = expired.expect("a certificate");
    let refused = strange_client(&listening, &authority, Some(&expired)).await;
    says(&refused, "its certificate is refused: it has expired on ");
    let nameless = authority.issue(vec!["orders.default.svc".to_owned()], valid()).expect("a certificate");
    let refused = strange_client(&listening, &authority, Some(&nameless)).await;
    says(&refused, "it names no job: among its DNS names (orders.default.svc) there is none");
}

#[test]
fn what_is_wrong_with_the_files_is_said_at_the_start() {
    let authority = authority();
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |expected: &str| {
        let error = Tls::of_folder(folder.path()).expect_err(expected).to_string();
        assert!(error.contains(expected), "`{error}` instead of `{expected}`");
    };
    refused("tls.crt: No such file");
    let past = authority.issue(names("orders"), SystemTime::now() - 2 * HOUR..SystemTime::now() - HOUR);
    write_files(folder.path(), &past.expect("a certificate"), &[&authority]);
    refused("tls.crt: it has expired on ");
    let future = authority.issue(names("orders"), SystemTime::now() + HOUR..SystemTime::now() + 2 * HOUR);
    write_files(folder.path(), &future.expect("a certificate"), &[&authority]);
    refused("tls.crt: it isn't valid before ");
    let two = authority.issue([names("orders"), names("bills")].concat(), valid()).expect("a certificate");
    write_files(folder.path(), &two, &[&authority]);
    refused("tls.crt: it is of two jobs, `orders.default` and `bills.default`");
    write(folder.path(), &authority, "orders", &[&self::authority()]);
    refused("tls.crt: it is signed by no CA of our ca.crt");
    let other = authority.issue(names("orders"), valid()).expect("a certificate");
    std::fs::write(folder.path().join("tls.key"), other.key).expect("write");
    refused("tls.key: it isn't the key of the certificate in tls.crt");
    std::fs::write(folder.path().join("tls.key"), "nothing").expect("write");
    refused("tls.key: there is no private key in PEM form in it");
    write(folder.path(), &authority, "orders", &[]);
    refused("ca.crt: there is no certificate in PEM form in it");
}

#[tokio::test]
async fn certificates_rotate() {
    let (old, new) = (authority(), authority());
    let (first, one) = process(&old, "orders");
    let (second, other) = process(&old, "orders");
    let [connecting, listening] = meet(&one, &other).await;
    let (mut connecting, mut listening) = (connecting.expect("before"), listening.expect("before"));
    let [first, second] = [first.path(), second.path()];
    // The bundle first, then the certificates, then the old CA goes: at no time is anybody refused.
    let steps: [(&Path, &Authority, &[&Authority]); 6] = [
        (first, &old, &[&old, &new]),
        (second, &old, &[&old, &new]),
        (first, &new, &[&old, &new]),
        (second, &new, &[&old, &new]),
        (first, &new, &[&new]),
        (second, &new, &[&new]),
    ];
    for (folder, signs, trusted) in steps {
        write(folder, signs, "orders", trusted);
        for side in meet(&one, &other).await {
            side.expect("a connection during the rotation");
        }
    }
    // The connection that was there before goes on.
    connecting.write_all(b"still").await.expect("write");
    let mut still = [0; 5];
    listening.read_exact(&mut still).await.expect("read");
    // Whoever has not followed is out.
    let (_third, late) = process(&old, "orders");
    says(&meet(&late, &one).await[0], "it is signed by no CA of our ca.crt");
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing() {
    let authority = authority();
    let (first, one) = process(&authority, "orders");
    let (_second, other) = process(&authority, "orders");
    write(first.path(), &authority, "bills", &[&authority]);
    assert!(meet(&one, &other).await.iter().all(Result::is_ok), "the job's identity stays");
    std::fs::write(first.path().join("tls.key"), "half a ke").expect("write");
    assert!(meet(&one, &other).await.iter().all(Result::is_ok));
    std::fs::remove_file(first.path().join("tls.crt")).expect("remove");
    assert!(meet(&one, &other).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_mounted_secret_moves_all_at_once() {
    let (old, new) = (authority(), authority());
    let folder = tempfile::tempdir().expect("a folder");
    let mount = folder.path();
    for (version, authority) in [("..1", &old), ("..2", &new)] {
        std::fs::create_dir(mount.join(version)).expect("create");
        write(&mount.join(version), authority, "orders", &[authority]);
    }
    std::os::unix::fs::symlink("..1", mount.join("..data")).expect("link");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), mount.join(name)).expect("link");
    }
    let mounted = Security::Tls(Arc::new(Tls::of_folder(mount).expect("certificates")));
    let (_of_old, with_old) = process(&old, "orders");
    let (_of_new, with_new) = process(&new, "orders");
    assert!(meet(&mounted, &with_old).await.iter().all(Result::is_ok));
    std::os::unix::fs::symlink("..2", mount.join("..data_tmp")).expect("link");
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("move the link");
    assert!(meet(&mounted, &with_new).await.iter().all(Result::is_ok));
    assert!(meet(&mounted, &with_old).await.iter().all(Result::is_err));
}

#[tokio::test]
async fn http_takes_clients_without_a_certificate_and_tells_them_apart() {
    let authority = authority();
    let (_folder, security) = process(&authority, "orders");
    let mut listener =
        Listener::bind("127.0.0.1:0".parse().expect("an address"), security.clone(), Clients::Anybody).expect("a port");
    let address = listener.address();
    let known = async {
        let stream = TcpStream::connect(address).await.expect("connect");
        security.connect(stream).await.expect("a connection")
    };
    let (_open, accepted) = tokio::join!(known, listener.next());
    let (connection, _) = accepted.expect("a connection");
    assert_eq!(connection.identity(), Some(&JobIdentity::new("orders", None)));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a CA");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let unknown = async {
        let name = ServerName::try_from(JobIdentity::new("orders", None).dns_name()).expect("a name");
        let stream = TcpStream::connect(address).await.expect("connect");
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a connection")
    };
    let (_open, accepted) = tokio::join!(unknown, listener.next());
    assert_eq!(accepted.expect("a connection").0.identity(), None);
}

#[test]
fn own_certificates_are_for_this_user_alone_and_renewed() {
    use std::os::unix::fs::PermissionsExt;
    let mut own = OwnCertificates::issue(JobIdentity::new("orders", None)).expect("certificates");
    let folder = own.folder().to_path_buf();
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    let tls = Tls::of_folder(&folder).expect("certificates that can be used");
    assert_eq!(tls.identity().to_string(), "orders.default");
    let before = std::fs::read_to_string(folder.join("ca.crt")).expect("read");
    own.renew_if_due().expect("nothing to do");
    assert_eq!(std::fs::read_to_string(folder.join("ca.crt")).expect("read"), before);
    own.renew().expect("new ones");
    let after = std::fs::read_to_string(folder.join("ca.crt")).expect("read");
    assert!(after.ends_with(&before) && after.len() > before.len(), "both CAs for a while");
    drop(own);
    assert!(!folder.exists());
}
