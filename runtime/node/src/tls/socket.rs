//! What each connection between processes asks of its socket.

use socket2::{SockRef, TcpKeepalive};
use std::io::Result;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a peer's kernel may leave what was sent without an answer. A link that is cut says nothing by itself: data
/// connections have no heartbeats, and the kernel alone would try for a quarter of an hour. As long as the silence after
/// which coordinator and workers take each other for lost.
const UNANSWERED: Duration = Duration::from_secs(10);
/// A connection that nothing goes over is asked after this time, and then again.
const IDLE: Duration = Duration::from_secs(4);
const ASK_AGAIN: Duration = Duration::from_secs(2);
const QUESTIONS: u32 = 3;

/// Small messages go at once, and a peer that is out of reach ends the connection. A process that is only paused or
/// slow is none: its kernel answers.
pub(super) fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let asking = TcpKeepalive::new().with_time(IDLE).with_interval(ASK_AGAIN).with_retries(QUESTIONS);
    socket.set_tcp_keepalive(&asking)?;
    // Elsewhere it is the system's own patience that ends it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(UNANSWERED))?;
    Ok(())
}
