//! Places at which tests let the process die as if it were killed: `WEIR_FAILPOINT=<name>[:nth]`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

struct Failpoint {
    name: String,
    nth: u32,
    hits: AtomicU32,
}

/// Aborts the process at the nth hit of the place that the environment names; does nothing otherwise.
pub(crate) fn failpoint(name: &str) {
    static CONFIGURED: OnceLock<Option<Failpoint>> = OnceLock::new();
    let Some(failpoint) = CONFIGURED.get_or_init(configured) else { return };
    if failpoint.name == name && failpoint.hits.fetch_add(1, Ordering::SeqCst) + 1 == failpoint.nth {
        std::process::abort();
    }
}

fn configured() -> Option<Failpoint> {
    let text = std::env::var("WEIR_FAILPOINT").ok()?;
    let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
    Some(Failpoint { name: name.to_owned(), nth: nth.parse().unwrap_or(1), hits: AtomicU32::new(0) })
}
