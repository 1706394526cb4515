//! The thread beside a reader of changes. It makes the slot's snapshot, reads the stream ahead of the reader, and tells
//! the server every few seconds that we are there and how much it may forget; also while the reader has no time for it,
//! or the server would take us for gone.

use super::session::{Received, Session};
use super::{Lsn, Message};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weir_connectors::api::ConnectorError;
use weir_postgres_client::{ConnectionUrl, while_doing};

/// Messages that the reader gets at once.
const MAX_PIECE_MESSAGES: usize = 4096;
/// Pieces that wait for the reader.
const MAX_PIECES: usize = 8;
/// Between two looks at what the reader wants, and whether it is gone.
const LOOK: Duration = Duration::from_millis(100);
/// While the reader has no room.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Between two reports to the server, whose `wal_sender_timeout` is a minute unless somebody changed it.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// The server answers each report; after this long without a word the attempt fails.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// The server may not yet know that a process before this one is dead.
const SLOT_PATIENCE: Duration = Duration::from_secs(15);
const SLOT_RETRY: Duration = Duration::from_millis(100);

pub(crate) struct FeedSettings {
    pub(crate) url: Arc<ConnectionUrl>,
    /// The step's name, for the thread, the log and the server's administrators.
    pub(crate) source: String,
    pub(crate) slot: String,
    pub(crate) publication: String,
}

/// Where a feed begins.
pub(crate) enum Beginning {
    /// Makes the slot, and a snapshot of what was there before its first change.
    NewSlot,
    /// The slot is there; makes a snapshot at a later position, by a slot for the time being.
    Snapshot { temporary_slot: String },
    /// Changes from there on.
    Changes(Lsn),
}

/// What the thread tells its reader, in the order in which it came about.
pub(crate) enum News {
    /// A snapshot that holds what was committed before `at`, to be imported by its name.
    Snapshot {
        at: Lsn,
        name: String,
    },
    Piece(Vec<Event>),
    Failed(ConnectorError),
}

pub(crate) enum Event {
    Message(Message),
    /// All that was committed before has been said.
    UpTo(Lsn),
}

impl News {
    fn is_empty_piece(&self) -> bool {
        matches!(self, News::Piece(events) if events.is_empty())
    }
}

enum Command {
    SnapshotImported,
    Start(Lsn),
}

pub(crate) struct Feed {
    news: Receiver<News>,
    commands: Sender<Command>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// For who keeps a server after the job: nobody else drops a slot.
pub(crate) fn drop_slot(slot: &str) -> String {
    format!("SELECT pg_drop_replication_slot('{}')", slot.replace('\'', "''"))
}

#[derive(Default)]
struct Shared {
    /// What a completed checkpoint holds; the server may forget what was before.
    flushed: AtomicU64,
    /// Where the server's log ended when it last said so.
    log_end: AtomicU64,
    is_over: AtomicBool,
}

impl Feed {
    pub(crate) fn start(settings: FeedSettings, beginning: Beginning) -> Result<Self, ConnectorError> {
        let (to_reader, news) = sync_channel(MAX_PIECES);
        let (commands, from_reader) = channel();
        let shared = Arc::new(Shared::default());
        let name = format!("postgres {}", settings.source);
        let worker = Worker { settings, to_reader, from_reader, shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run(beginning));
        let thread = thread.map_err(|error| ConnectorError::Transient(format!("cannot start a thread: {error}")))?;
        Ok(Feed { news, commands, shared, thread: Some(thread) })
    }

    /// What there is now, or within `wait`.
    pub(crate) fn next(&self, wait: Duration) -> Option<News> {
        self.news.recv_timeout(wait).ok()
    }

    /// The snapshot has been imported, and need not be kept for others.
    pub(crate) fn snapshot_imported(&self) {
        // A thread that has ended has said why.
        self.commands.send(Command::SnapshotImported).ok();
    }

    pub(crate) fn start_changes(&self, from: Lsn) {
        self.commands.send(Command::Start(from)).ok();
    }

    /// A completed checkpoint holds what was committed before.
    pub(crate) fn flushed(&self, lsn: Lsn) {
        self.shared.flushed.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// Bytes of the server's log that it keeps for us. None: it hasn't said where its log ends.
    pub(crate) fn behind_bytes(&self) -> Option<u64> {
        let (end, flushed) = (self.shared.log_end.load(Ordering::Acquire), self.shared.flushed.load(Ordering::Acquire));
        (end > 0 && flushed > 0).then(|| end.saturating_sub(flushed))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Worker {
    settings: FeedSettings,
    to_reader: SyncSender<News>,
    from_reader: Receiver<Command>,
    shared: Arc<Shared>,
}

enum End {
    /// The reader is gone.
    Gone,
    Failed(ConnectorError),
}

impl From<ConnectorError> for End {
    fn from(error: ConnectorError) -> Self {
        End::Failed(error)
    }
}

impl Worker {
    fn run(self, beginning: Beginning) {
        let ended = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.replicate(beginning)),
            Err(error) => Err(End::Failed(ConnectorError::Transient(format!("cannot start a runtime: {error}")))),
        };
        if let Err(End::Failed(error)) = ended {
            let mut news = News::Failed(error);
            while !self.shared.is_over.load(Ordering::Acquire) {
                match self.to_reader.try_send(news) {
                    Err(TrySendError::Full(back)) => news = back,
                    Ok(()) | Err(TrySendError::Disconnected(_)) => return,
                }
                std::thread::sleep(FULL_PAUSE);
            }
        }
    }

    async fn replicate(&self, beginning: Beginning) -> Result<(), End> {
        let purpose = format!("weir {}", self.settings.source);
        let mut session = self.unless_over(Session::open(&self.settings.url, &purpose)).await?;
        let from = match beginning {
            Beginning::Changes(from) => from,
            Beginning::NewSlot => self.snapshot(&mut session, &self.settings.slot, false).await?,
            Beginning::Snapshot { temporary_slot } => self.snapshot(&mut session, &temporary_slot, true).await?,
        };
        self.start(&mut session, from).await?;
        self.stream(&mut session).await
    }

    /// Exports one, keeps it until the reader has imported it, and waits for what the reader wants from then on.
    async fn snapshot(&self, session: &mut Session, slot: &str, temporary: bool) -> Result<Lsn, End> {
        // The server waits for the end of all transactions that run: that may take long, whatever they are.
        let created = self.unless_over(session.create_slot(slot, temporary)).await.map_err(|end| match end {
            End::Failed(error) => End::Failed(while_doing(format!("making the replication slot `{slot}`"))(error)),
            gone => gone,
        })?;
        if !temporary {
            tracing::info!(
                slot,
                "made the replication slot, for which the server keeps its log from now on; drop it when the job is gone for \
                 good: {}",
                drop_slot(slot)
            );
        }
        self.tell(News::Snapshot { at: created.consistent, name: created.snapshot }).await?;
        loop {
            match self.from_reader.try_recv() {
                Ok(Command::SnapshotImported) => {
                    // Any command ends the export, which would hold up vacuum for longer than the reader does.
                    let command = match temporary {
                        true => format!("DROP_REPLICATION_SLOT {}", crate::table::quoted(slot)),
                        false => "IDENTIFY_SYSTEM".to_owned(),
                    };
                    self.unless_over(session.query(&command)).await?;
                }
                Ok(Command::Start(from)) => return Ok(from),
                Err(TryRecvError::Disconnected) => return Err(End::Gone),
                Err(TryRecvError::Empty) => {
                    self.check()?;
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    async fn start(&self, session: &mut Session, from: Lsn) -> Result<(), End> {
        let FeedSettings { slot, publication, .. } = &self.settings;
        let began = Instant::now();
        loop {
            match self.unless_over(session.start(slot, from, publication)).await {
                Ok(()) => return Ok(()),
                Err(End::Failed(error)) => {
                    let is_in_use = error.to_string().contains("(SQLSTATE 55006)");
                    if !is_in_use || began.elapsed() > SLOT_PATIENCE {
                        return Err(while_doing(format!("reading the replication slot `{slot}`"))(error).into());
                    }
                }
                Err(gone) => return Err(gone),
            }
            tokio::time::sleep(SLOT_RETRY).await;
            let purpose = format!("weir {}", self.settings.source);
            *session = self.unless_over(Session::open(&self.settings.url, &purpose)).await?;
        }
    }

    async fn stream(&self, session: &mut Session) -> Result<(), End> {
        let mut reported = (Lsn::default(), Instant::now());
        let mut heard = Instant::now();
        let mut waiting = News::Piece(Vec::new());
        loop {
            self.check()?;
            // What came is given on as soon as there is room; until then nothing more is read.
            let is_full = match waiting.is_empty_piece() {
                true => false,
                false => match self.to_reader.try_send(std::mem::replace(&mut waiting, News::Piece(Vec::new()))) {
                    Ok(()) => false,
                    Err(TrySendError::Disconnected(_)) => return Err(End::Gone),
                    Err(TrySendError::Full(back)) => {
                        waiting = back;
                        true
                    }
                },
            };
            let mut wants_reply = false;
            if is_full {
                heard = Instant::now();
                tokio::time::sleep(FULL_PAUSE).await;
            } else {
                let mut piece = self.piece(session, &mut wants_reply)?;
                if piece.is_empty() && !wants_reply {
                    match tokio::time::timeout(LOOK, session.fill()).await {
                        Ok(filled) => {
                            filled?;
                            heard = Instant::now();
                            piece = self.piece(session, &mut wants_reply)?;
                        }
                        Err(_) if heard.elapsed() > MAX_SILENCE => {
                            let reason = format!("the server has said nothing for {MAX_SILENCE:?}");
                            return Err(ConnectorError::Transient(reason).into());
                        }
                        Err(_) => {}
                    }
                }
                waiting = News::Piece(piece);
            }
            let flushed = Lsn(self.shared.flushed.load(Ordering::Acquire));
            let is_due = reported.1.elapsed() > REPORT_INTERVAL;
            if wants_reply || is_due || flushed > reported.0 {
                self.unless_over(session.tell(flushed, is_due)).await?;
                reported = (flushed, Instant::now());
            }
        }
    }

    /// What has come whole.
    fn piece(&self, session: &mut Session, asked: &mut bool) -> Result<Vec<Event>, ConnectorError> {
        let mut events = Vec::new();
        while events.len() < MAX_PIECE_MESSAGES {
            match session.received()? {
                None => break,
                Some(Received::Data { log_end, message }) => {
                    self.shared.log_end.fetch_max(log_end.0, Ordering::AcqRel);
                    events.push(Event::Message(Message::parse(message)?));
                }
                Some(Received::KeepAlive { log_end, wants_reply }) => {
                    self.shared.log_end.fetch_max(log_end.0, Ordering::AcqRel);
                    *asked |= wants_reply;
                    events.push(Event::UpTo(log_end));
                }
            }
        }
        Ok(events)
    }

    /// Waits for room.
    async fn tell(&self, mut news: News) -> Result<(), End> {
        loop {
            self.check()?;
            match self.to_reader.try_send(news) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(End::Gone),
                Err(TrySendError::Full(back)) => news = back,
            }
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }

    /// Gives up when the reader is gone.
    async fn unless_over<T>(&self, work: impl Future<Output = Result<T, ConnectorError>>) -> Result<T, End> {
        tokio::pin!(work);
        loop {
            self.check()?;
            if let Ok(done) = tokio::time::timeout(LOOK, &mut work).await {
                return Ok(done?);
            }
        }
    }

    fn check(&self) -> Result<(), End> {
        if self.shared.is_over.load(Ordering::Acquire) { Err(End::Gone) } else { Ok(()) }
    }
}
