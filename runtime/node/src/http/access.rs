//! Who may do what.

use super::problem::{Answer, Failure};
use axum::http::{HeaderMap, Uri, header};
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use weir_api::Access;

/// Longest token, bytes.
const TOKEN_BYTES: u64 = 4096;
/// A shorter one could be guessed.
const MIN_TOKEN_BYTES: usize = 16;

/// The way by which a request came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// The Unix socket, which only the user who runs the job reaches, or with a certificate of the job, whose holder may
    /// be one of its processes.
    Owner,
    Network {
        is_loopback: bool,
        /// By TLS: a browser believes the certificate for no other name than stands in it.
        is_secured: bool,
        open: OpenReads,
    },
}

/// What may be read without a token by others than this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenReads {
    #[default]
    Nothing,
    /// Names and figures, for who collects them of many jobs.
    Metrics,
    All,
}

/// What makes a caller one who may change the job.
pub(super) struct Token {
    file: Option<PathBuf>,
}

impl Token {
    /// Refuses a file that holds no token now, rather than with the first request.
    pub(super) fn of_file(file: Option<PathBuf>) -> Result<Self, String> {
        let token = Token { file };
        token.read()?;
        Ok(token)
    }

    /// None: none is configured. Read for each request: a Secret's file changes while the process runs.
    fn read(&self) -> Result<Option<Vec<u8>>, String> {
        let Some(path) = &self.file else { return Ok(None) };
        let mut bytes = vec![];
        let read = File::open(path).and_then(|file| file.take(TOKEN_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|error| format!("--http-token-file `{}`: {error}", path.display()))?;
        let token = bytes.trim_ascii();
        if token.len() < MIN_TOKEN_BYTES || token.len() as u64 > TOKEN_BYTES {
            return Err(format!(
                "--http-token-file `{}` holds {} bytes; a token has {MIN_TOKEN_BYTES} to {TOKEN_BYTES}",
                path.display(),
                token.len()
            ));
        }
        Ok(Some(token.to_vec()))
    }

    /// Lets the request pass, or says why not and what to do.
    pub(super) fn check(&self, entry: Entry, access: Access, uri: &Uri, headers: &HeaderMap) -> Answer<()> {
        let (is_here, open) = match entry {
            Entry::Owner => return Ok(()),
            Entry::Network { is_loopback, is_secured, open } => {
                // A page in a browser may let its own name point to this machine; it cannot say that it is called so.
                (is_loopback && (is_secured || names_this_machine(uri, headers)), open)
            }
        };
        match access {
            Access::Open => return Ok(()),
            Access::Metrics if open != OpenReads::Nothing => return Ok(()),
            Access::Read if open == OpenReads::All => return Ok(()),
            Access::Read | Access::Metrics if is_here => return Ok(()),
            Access::Read | Access::Metrics | Access::Change => {}
        }
        match self.read() {
            Err(reason) => {
                tracing::error!(%reason, "no token can be compared");
                Err(Failure::unavailable("the token of this API cannot be read; the log says why"))
            }
            Ok(None) => Err(Failure::forbidden(match access {
                Access::Change => {
                    "nothing that changes a job is open to the network by default: start the coordinator with \
                     --http-token-file, and send the token in that file as `Authorization: Bearer`"
                }
                Access::Metrics => {
                    "metrics are open on loopback alone: start the coordinator with --http-open-metrics, or with \
                     --http-token-file, and send the token in that file as `Authorization: Bearer`"
                }
                Access::Read | Access::Open => {
                    "reading is open on loopback alone: start the coordinator with --http-token-file, and send the \
                     token in that file as `Authorization: Bearer`, or with --http-open-reads"
                }
            })),
            Ok(Some(token)) => match bearer(headers) {
                Some(shown) if is_same(shown, &token) => Ok(()),
                Some(_) => Err(Failure::unauthorized("this is not the token that the coordinator knows")),
                None => Err(Failure::unauthorized("send the token as `Authorization: Bearer TOKEN`")),
            },
        }
    }
}

/// Who comes through a proxy that keeps `Authorization` for itself, as the Kubernetes API server's does.
const TOKEN_HEADER: &str = "weir-token";

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let Some(value) = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()) else {
        return headers.get(TOKEN_HEADER).map(|value| value.as_bytes().trim_ascii());
    };
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Takes as long for a token that is nearly right as for any other.
fn is_same(shown: &[u8], token: &[u8]) -> bool {
    let differing = shown.iter().zip(token).fold(0u8, |differing, (a, b)| black_box(differing | (a ^ b)));
    shown.len() == token.len() && differing == 0
}

fn names_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    // HTTP/2 has it in the address.
    let host = match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(|authority| authority.as_str()),
    };
    let Some(host) = host else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::Problem;

    const LOOPBACK: Entry = Entry::Network { is_loopback: true, is_secured: false, open: OpenReads::Nothing };
    const SECURED: Entry = Entry::Network { is_loopback: true, is_secured: true, open: OpenReads::Nothing };
    const ANY: Entry = Entry::Network { is_loopback: false, is_secured: true, open: OpenReads::Nothing };
    const MEASURED: Entry = Entry::Network { is_loopback: false, is_secured: false, open: OpenReads::Metrics };
    const OPEN: Entry = Entry::Network { is_loopback: false, is_secured: false, open: OpenReads::All };

    fn status(token: &Token, entry: Entry, access: Access, authorization: &str, host: &str) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if !authorization.is_empty() {
            headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        }
        match token.check(entry, access, &Uri::from_static("/"), &headers) {
            Ok(()) => 200,
            Err(Failure(Problem { status, .. })) => status,
        }
    }

    #[test]
    fn nothing_that_changes_a_job_is_open_by_default() {
        let none = Token::of_file(None).unwrap();
        for entry in [LOOPBACK, SECURED, ANY, MEASURED, OPEN] {
            assert_eq!(status(&none, entry, Access::Change, "", "localhost:1"), 403);
            assert_eq!(status(&none, entry, Access::Change, "Bearer x", "localhost:1"), 403);
            assert_eq!(status(&none, entry, Access::Open, "", "example.org"), 200);
        }
        assert_eq!(status(&none, Entry::Owner, Access::Change, "", "localhost"), 200);
        assert_eq!(status(&none, LOOPBACK, Access::Read, "", "127.0.0.1:8081"), 200);
        assert_eq!(status(&none, LOOPBACK, Access::Read, "", "[::1]:8081"), 200);
        assert_eq!(status(&none, LOOPBACK, Access::Read, "", "attacker.example:8081"), 403);
        assert_eq!(status(&none, SECURED, Access::Read, "", "orders.default.streamjobs.weir.internal"), 200);
        assert_eq!(status(&none, ANY, Access::Read, "", "localhost"), 403);
        assert_eq!(status(&none, OPEN, Access::Read, "", "job.example"), 200);
        let metrics = |entry| status(&none, entry, Access::Metrics, "", "job.example");
        assert_eq!([LOOPBACK, ANY, MEASURED, OPEN].map(metrics), [403, 403, 200, 200]);
        assert_eq!(status(&none, LOOPBACK, Access::Metrics, "", "localhost:8081"), 200);
        assert_eq!(status(&none, MEASURED, Access::Read, "", "job.example"), 403);
    }

    #[test]
    fn the_token_opens_and_is_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        assert!(Token::of_file(Some(file.clone())).is_err(), "a file that is not there");
        write("short\n");
        assert!(Token::of_file(Some(file.clone())).is_err(), "a token that could be guessed");
        write("0123456789abcdef\n");
        let token = Token::of_file(Some(file.clone())).unwrap();
        let change = |authorization: &str| status(&token, ANY, Access::Change, authorization, "job");
        assert_eq!(change("Bearer 0123456789abcdef"), 200);
        assert_eq!(change("bearer 0123456789abcdef"), 200);
        assert_eq!(change(""), 401);
        let by_header = |shown: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TOKEN_HEADER, shown.parse().unwrap());
            token.check(ANY, Access::Change, &Uri::from_static("/"), &headers).is_ok()
        };
        assert!(by_header("0123456789abcdef") && !by_header("0123456789abcdeX") && !by_header(""));
        assert_eq!(change("Bearer 0123456789abcdeX"), 401);
        assert_eq!(change("Bearer 0123456789abcde"), 401);
        assert_eq!(change("Bearer 0123456789abcdef0"), 401);
        assert_eq!(change("Basic 0123456789abcdef"), 401);
        assert_eq!(status(&token, ANY, Access::Read, "", "job"), 401);
        write("fedcba9876543210\n");
        assert_eq!(change("Bearer 0123456789abcdef"), 401);
        assert_eq!(change("Bearer fedcba9876543210"), 200);
        write("");
        assert_eq!(change("Bearer "), 503);
    }
}
