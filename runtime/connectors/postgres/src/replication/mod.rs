//! Logical replication: a connection in the server's replication mode, the messages of `pgoutput`, and the thread that
//! reads them ahead and tells the server what it need not keep.

mod feed;
mod lsn;
mod messages;
mod session;

pub(crate) use feed::{Beginning, Event, Feed, FeedSettings, News, drop_slot};
pub(crate) use lsn::Lsn;
pub(crate) use messages::{Change, Message, Relation, Value};
pub(crate) use session::SETTINGS;
