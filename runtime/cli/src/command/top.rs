use crate::running_job::{Connection, RunningJob};
use crate::top::{Screen, Snapshot};
use anyhow::{Result, bail};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use weir_node::Registry;

/// How soon a key is answered.
const KEYS_EVERY: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: RunningJob,
    /// From one look at the job to the next, in milliseconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    every: u64,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let connection = arguments.job.connect(registry)?;
    // A job that is not there is told as every command tells it, not in a screen.
    let first = look(&connection)?;
    if !std::io::stdout().is_terminal() {
        bail!("`weir top` draws in a terminal; `weir status` prints the same once");
    }
    let (snapshots, received) = channel();
    let (end, ended) = channel();
    let every = Duration::from_millis(arguments.every);
    // Beside the screen, so that a job that doesn't answer holds up no key.
    std::thread::Builder::new().name("look".to_owned()).spawn(move || {
        keep_looking(&connection, every, &snapshots, &ended);
    })?;
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, Screen::new(first), &received);
    ratatui::restore();
    drop(end);
    result.map(|()| ExitCode::SUCCESS)
}

fn look(connection: &Connection) -> Result<Snapshot> {
    let client = &connection.client;
    Ok(Snapshot {
        job: connection.ask(client.job())?,
        subtasks: connection.ask(client.subtasks())?,
        checkpoints: connection.ask(client.checkpoints())?,
    })
}

fn keep_looking(
    connection: &Connection,
    every: Duration,
    snapshots: &Sender<Result<Snapshot, String>>,
    ended: &Receiver<()>,
) {
    while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        if snapshots.send(look(connection).map_err(|error| format!("{error:#}"))).is_err() {
            return;
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    mut screen: Screen,
    received: &Receiver<Result<Snapshot, String>>,
) -> Result<()> {
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        if event::poll(KEYS_EVERY)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Char('s') => screen.toggle_subtasks(),
                KeyCode::Down | KeyCode::Char('j') => screen.scroll(1),
                KeyCode::Up | KeyCode::Char('k') => screen.scroll(-1),
                _ => {}
            }
        }
        received.try_iter().for_each(|snapshot| screen.take(snapshot));
    }
}
