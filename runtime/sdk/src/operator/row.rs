use super::{Context, Setup, Timer};
use crate::rows::{Inputs, Output, Row, RowSchema};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use weir_model::KeyGroupRange;

/// An operator that takes its input row by row: Flink's `KeyedProcessFunction` for a step with `keyBy`, its
/// `ProcessFunction` for one without.
///
/// One value of the type is one subtask. Everything it must remember over a failure belongs into states; fields
/// hold the handles of states and columns, and what can be made anew.
pub trait Operator: Send + Sized + 'static {
    /// The step's `config`. A field too many or of the wrong type is told when the job is validated.
    type Config: DeserializeOwned;

    /// Whether it takes the change kinds of an updating input (`Row::kind`). If not, such an input is refused.
    const TAKES_UPDATES: bool = false;

    /// What it emits for these inputs. Called when the job is planned, and again by every subtask.
    ///
    /// # Errors
    /// A config or inputs that don't fit.
    fn output_schema(config: &Self::Config, inputs: Inputs<'_>) -> Result<RowSchema>;

    /// A new subtask: finds columns, registers states. Called when the job is planned, too, to see which states
    /// there are: anything else (a file, a connection) belongs into `open`.
    ///
    /// # Errors
    /// A config or inputs that don't fit.
    fn new(config: Self::Config, setup: &mut Setup<'_>) -> Result<Self>;

    /// Called once before the first row, after each start and restart.
    fn open(&mut self, _context: &OpenContext) -> Result<()> {
        Ok(())
    }

    /// Takes one row; its key is the current one.
    ///
    /// # Errors
    /// Fails the attempt; the job restarts from its last checkpoint, and the row comes again.
    fn process(&mut self, row: Row<'_>, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()>;

    /// A timer fires; its key is the current one.
    fn on_timer(&mut self, _timer: Timer, _context: &mut Context<'_>, _out: &mut Output<'_>) -> Result<()> {
        Err(Error::new("it sets timers and has no `on_timer`"))
    }

    /// All inputs have ended, and event-time timers have fired. There is no current key. Processing-time timers
    /// that are still set stay in the last checkpoint and don't fire.
    fn finish(&mut self, _out: &mut Output<'_>) -> Result<()> {
        Ok(())
    }
}

/// Where a subtask runs.
#[derive(Clone, Debug)]
pub struct OpenContext {
    pub(crate) key_groups: KeyGroupRange,
    pub(crate) max_parallelism: u32,
}

impl OpenContext {
    /// The key groups of this subtask; disjoint from those of the others.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.key_groups
    }

    pub fn max_parallelism(&self) -> u32 {
        self.max_parallelism
    }
}
