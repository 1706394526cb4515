//! Places at which tests let the process die as if it were killed, or stop as if it were paused:
//! `WEIR_FAILPOINT=<name>[:nth[:stop]]`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

struct Failpoint {
    name: String,
    nth: u32,
    /// Until somebody lets it go on (SIGCONT), rather than die.
    stops: bool,
    hits: AtomicU32,
}

/// Ends or stops the process at the nth hit of the place that the environment names; else does nothing.
pub(crate) fn failpoint(name: &str) {
    static CONFIGURED: OnceLock<Option<Failpoint>> = OnceLock::new();
    let Some(failpoint) = CONFIGURED.get_or_init(configured) else { return };
    if failpoint.name == name && failpoint.hits.fetch_add(1, Ordering::SeqCst) + 1 == failpoint.nth {
        if failpoint.stops {
            // SAFETY: raise(3) takes a number. The whole process stops within the call, and goes on from here.
            unsafe { libc::raise(libc::SIGSTOP) };
        } else {
            std::process::abort();
        }
    }
}

fn configured() -> Option<Failpoint> {
    let text = std::env::var("WEIR_FAILPOINT").ok()?;
    let mut parts = text.split(':');
    let name = parts.next()?.to_owned();
    let nth = parts.next().and_then(|nth| nth.parse().ok()).unwrap_or(1);
    Some(Failpoint { name, nth, stops: parts.next() == Some("stop"), hits: AtomicU32::new(0) })
}
