//! What operators are told at plan time, and how rows pass through them.

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use weir_sdk::raw_state::{KeyBatch, KeyEncoder, RowStateId, StateOptions};
use weir_sdk::testing::Harness;
use weir_sdk::*;

/// Counts the rows of each key over two inputs, and forgets a key that was quiet for `quiet_ms`.
struct Count {
    amount: Column<i64>,
    name: KeyColumn<String>,
    count: ValueState<(i64, Timestamp)>,
    quiet: Timers,
    quiet_for: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CountConfig {
    quiet_ms: u64,
}

impl Operator for Count {
    type Config = CountConfig;
    const TAKES_UPDATES: bool = true;

    fn output_schema(_: &CountConfig, _: Inputs<'_>) -> Result<RowSchema> {
        Ok(RowSchema::new().column::<String>("name").column::<i64>("total").updating())
    }

    fn new(config: CountConfig, setup: &mut Setup<'_>) -> Result<Self> {
        Ok(Count {
            amount: setup.input(0)?.column("amount")?,
            name: setup.key("name")?,
            count: setup.value_state("count")?,
            quiet: setup.processing_timers("quiet")?,
            quiet_for: Duration::from_millis(config.quiet_ms),
        })
    }

    fn process(&mut self, row: Row<'_>, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let amount = match row.input() {
            0 => row.get(self.amount)?,
            _ => 1,
        };
        let amount = if row.kind().is_retraction() { -amount } else { amount };
        let name = context.key(self.name)?;
        let before = self.count.value(context)?;
        if let Some((total, forget_at)) = before {
            out.emit_change(ChangeKind::UpdateBefore, (name, total))?;
            self.quiet.delete(context, forget_at)?;
        }
        let forget_at = context.processing_time() + self.quiet_for;
        let total = before.map_or(0, |(total, _)| total) + amount;
        self.count.update(context, &(total, forget_at))?;
        self.quiet.register(context, forget_at)?;
        let kind = if before.is_some() { ChangeKind::UpdateAfter } else { ChangeKind::Insert };
        out.emit_change(kind, (name, total))
    }

    fn on_timer(&mut self, timer: Timer, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let Some((total, forget_at)) = self.count.value(context)? else { return Ok(()) };
        assert_eq!(timer.time(), forget_at);
        self.count.clear(context)?;
        out.emit_change(ChangeKind::Delete, (context.key(self.name)?, total))
    }
}

fn count() -> testing::HarnessBuilder {
    Harness::of::<Count>()
        .config(json!({"quietMs": 1000}))
        .input(RowSchema::new().column::<Option<String>>("name").column::<Option<i32>>("amount").updating())
        .input(RowSchema::new().column::<i64>("other").column::<String>("name"))
        .key_by(["name"])
}

#[test]
fn two_inputs_change_kinds_and_the_clock() {
    let mut harness = count().processing_time(Timestamp::from_millis(5_000)).parallelism(2).build().unwrap();
    harness.push(("a", 5i32)).unwrap();
    harness.push_change(1, ChangeKind::Insert, (0i64, "a")).unwrap();
    harness.push_change(0, ChangeKind::Delete, ("a", 5i32)).unwrap();
    let printed = |harness: &mut Harness| {
        let changes = harness.take_changes::<(String, i64)>().unwrap();
        changes.iter().map(|(kind, (name, total))| format!("{}{name}{total}", kind.symbol())).collect::<Vec<_>>()
    };
    assert_eq!(printed(&mut harness), ["+Ia5", "-Ua5", "+Ua6", "-Ua6", "+Ua1"]);
    harness.processing_time(Timestamp::from_millis(5_999)).unwrap();
    let snapshot = harness.snapshot().unwrap();
    harness.processing_time(Timestamp::from_millis(6_000)).unwrap();
    assert_eq!(printed(&mut harness), ["-Da1"]);
    harness.processing_time(Timestamp::from_millis(60_000)).unwrap();
    assert_eq!(printed(&mut harness), [""; 0]);

    // The timer stands in the snapshot, and is due when the clock says so.
    let mut restored = count().processing_time(Timestamp::from_millis(70_000)).restore(&snapshot).build().unwrap();
    restored.processing_time(Timestamp::from_millis(70_001)).unwrap();
    assert_eq!(printed(&mut restored), ["-Da1"]);
}

fn refused(builder: testing::HarnessBuilder) -> String {
    match builder.build() {
        Ok(_) => "nothing".to_owned(),
        Err(error) => error.to_string().replace("operator under test: ", ""),
    }
}

#[test]
fn mistakes_are_told_when_the_job_is_planned() {
    let text = || RowSchema::new().column::<String>("name").column::<String>("amount");
    let row = || RowSchema::new().column::<String>("name").column::<i64>("amount");
    for (builder, expected) in [
        (count().config(json!({})), "its config: missing field `quietMs`"),
        (
            count().config(json!({"quietMs": 5, "quietms": 5})),
            "its config has no field `quietms`; did you mean `quietMs`?",
        ),
        (
            count().config(json!({"quietMs": -5})),
            "its config, field `quietMs`: invalid value: integer `-5`, expected u64",
        ),
        (
            Harness::of::<Count>().config(json!({"quietMs": 5})).input(text()).key_by(["name"]),
            "column `amount` of input 1 is VARCHAR, and BIGINT is needed; CAST it in the step before",
        ),
        (
            Harness::of::<Count>().config(json!({"quietMs": 5})).input(row()).key_by(["amount"]),
            "the step must be keyed by `name`; its `keyBy` is `amount`",
        ),
        (
            Harness::of::<Count>().config(json!({"quietMs": 5})).input(row()),
            "the step must be keyed by `name`; its `keyBy` is none",
        ),
        (
            Harness::of::<Upper>().input(row().updating()),
            "input 1 is updating: its rows also change and delete earlier ones, which this operator does not take; \
             give it a windowed result, or let it declare `TAKES_UPDATES`",
        ),
        (
            Harness::of::<Upper>().input(RowSchema::new().column::<String>("Name")),
            "input 1 has no column `name`; its columns are `Name`",
        ),
        (Harness::of::<Upper>().input(row()).input(row()), "it reads one input, and the step has 2"),
        (
            Harness::of_batch::<Sums>().input(RowSchema::new().column::<i64>("key").column::<i64>("n")),
            "its state `sum` is kept by key, and the step has no `keyBy`",
        ),
    ] {
        assert_eq!(refused(builder), expected);
    }
}

/// Without a key: passes rows on, one column added.
struct Upper(Column<String>);

impl Operator for Upper {
    type Config = ();

    fn output_schema(_: &(), inputs: Inputs<'_>) -> Result<RowSchema> {
        Ok(RowSchema::like(inputs.only()?).column::<String>("upper"))
    }

    fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
        Ok(Upper(setup.column("name")?))
    }

    fn process(&mut self, row: Row<'_>, _: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let upper = row.get(self.0)?.to_uppercase();
        if upper == "NONE" {
            return Ok(());
        }
        out.emit((row, upper))
    }

    fn finish(&mut self, out: &mut Output<'_>) -> Result<()> {
        out.emit((None::<i64>, "end", "END"))
    }
}

#[test]
fn without_a_key_rows_pass_through() {
    let schema = RowSchema::new().column::<Option<i64>>("id").column::<String>("name");
    let mut harness = Harness::of::<Upper>().input(schema.clone()).build().unwrap();
    assert!(harness.state_schemas().is_empty());
    harness.push_all((0..20_000).map(|id| (Some(id), if id % 2 == 0 { "even" } else { "none" }))).unwrap();
    let batches = harness.take_batches();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [8192, 1808]);
    harness.push((7i64, "x")).unwrap();
    harness.end().unwrap();
    let rows = harness.take::<(Option<i64>, String, String)>().unwrap();
    assert_eq!(rows, [(Some(7), "x".into(), "X".into()), (None, "end".into(), "END".into())]);
    assert_eq!(harness.snapshot().map(|_| ()).map_err(|error| error.to_string()), Ok(()));

    let wrong = harness.push((7i64, 8i64)).unwrap_err().to_string();
    assert_eq!(wrong, "output column `name`: a BIGINT does not fit");
}

/// Emits what doesn't fit its schema, as its input says.
struct Misfit(Column<i64>);

impl Operator for Misfit {
    type Config = ();

    fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
        let decimal = arrow::datatypes::DataType::Decimal128(4, 2);
        Ok(RowSchema::new().column::<i32>("number").column_of("price", decimal, false))
    }

    fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
        Ok(Misfit(setup.column("case")?))
    }

    fn process(&mut self, row: Row<'_>, _: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        match row.get(self.0)? {
            0 => out.emit((1i16, 12_50i128)),
            1 => out.emit(1i32),
            2 => out.emit((1i32, 1i128, 2i128)),
            3 => out.emit((1i32, 10_000_i128)),
            4 => out.emit((None::<i32>, 1i128)),
            5 => out.emit_change(ChangeKind::Delete, (1i32, 1i128)),
            _ => Err(std::io::Error::other("its own trouble"))?,
        }
    }
}

#[test]
fn what_does_not_fit_the_output_is_an_error() {
    let misfit = || Harness::of::<Misfit>().input(RowSchema::new().column::<Option<i64>>("case")).build().unwrap();
    for (case, expected) in [
        (Some(0), "fine"),
        (Some(1), "a row of 1 columns; the output schema has 2"),
        (Some(2), "a row of more columns than the 2 of the output schema"),
        (Some(3), "output column `price`: 10000 (unscaled) has more than 4 digits"),
        (Some(4), "output column `number`: a null, and it is declared not to be null; declare it as an Option"),
        (Some(5), "a change -D on an output that isn't updating; declare it with `RowSchema::updating`"),
        (Some(6), "its own trouble"),
        (None, "column 1 of a row: it is null; read it as an Option"),
    ] {
        let result = misfit().push(case).map_or_else(|error| error.to_string(), |()| "fine".to_owned());
        assert_eq!(result, expected);
    }
}

/// Sums by key, by batch.
struct Sums {
    encoder: KeyEncoder,
    keys: KeyBatch,
    key_columns: Vec<usize>,
    max_parallelism: u32,
    sum: RowStateId,
    output: arrow::datatypes::SchemaRef,
}

impl BatchOperator for Sums {
    type Config = ();

    fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
        Ok(RowSchema::new().column::<i64>("key").column::<i64>("sum"))
    }

    fn new(_: (), setup: &mut BatchSetup<'_>) -> Result<Self> {
        let schema = StateSchema {
            name: "sum".into(),
            kind: StateKind::Value,
            key: setup.key_fields().to_vec(),
            namespace: vec![],
            value: vec![StateField::new("sum", arrow::datatypes::DataType::Int64, false)],
            semantics: vec!["sum(Int64)".into()],
        };
        Ok(Sums {
            encoder: KeyEncoder::new(setup.key_fields()),
            keys: KeyBatch::new(),
            key_columns: setup.key_columns(0).to_vec(),
            max_parallelism: setup.max_parallelism(),
            sum: setup.register_rows(schema, StateOptions::default())?,
            output: setup.output().fields.clone(),
        })
    }

    fn process(
        &mut self,
        _input: usize,
        batch: RecordBatch,
        context: &mut BatchContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<()> {
        let keys: Vec<_> = self.key_columns.iter().map(|column| batch.column(*column).clone()).collect();
        self.encoder.encode(&keys, batch.num_rows(), self.max_parallelism, &mut self.keys)?;
        let numbers = batch.column(1).as_primitive::<Int64Type>();
        let rows = context.state.rows(self.sum);
        let (mut slots, mut new) = (vec![], vec![]);
        rows.upsert(0, &self.keys, &mut slots, &mut new)?;
        let field = rows.layout().field(0);
        let mut sums = vec![];
        rows.for_each_mut(&slots, |at, row| {
            let sum = field.get_i64(row) + numbers.value(at);
            field.set_i64(row, sum);
            sums.push(sum);
        });
        let columns = vec![keys[0].clone(), Arc::new(Int64Array::from(sums)) as _];
        Ok(out.emit(RecordBatch::try_new(self.output.clone(), columns)?)?)
    }
}

#[test]
fn batches_with_state_of_their_own() {
    let sums = || {
        let input = RowSchema::new().column::<i64>("key").column::<i64>("n");
        Harness::of_batch::<Sums>().input(input).key_by(["key"])
    };
    let mut harness = sums().build().unwrap();
    harness.push_all([(1i64, 2i64), (2, 3), (1, 4)]).unwrap();
    assert_eq!(harness.take::<(i64, i64)>().unwrap(), [(1, 2), (2, 3), (1, 6)]);
    let snapshot = harness.snapshot().unwrap();
    let mut restored = sums().parallelism(3).restore(&snapshot).build().unwrap();
    restored.push((1i64, 10i64)).unwrap();
    assert_eq!(restored.take::<(i64, i64)>().unwrap(), [(1, 16)]);
}

/// Remembers JSON, and for a while only.
struct Last(ValueState<Json<Vec<String>>>, Column<String>);

impl Operator for Last {
    type Config = ();

    fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
        Ok(RowSchema::new().column::<i64>("before"))
    }

    fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
        let descriptor = StateDescriptor::new("last").ttl(Duration::from_secs(10));
        Ok(Last(setup.value_state(descriptor)?, setup.column("name")?))
    }

    fn process(&mut self, row: Row<'_>, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let mut names = self.0.value(context)?.map_or(vec![], |Json(names)| names);
        out.emit(names.len() as i64)?;
        names.push(row.get(self.1)?.to_owned());
        self.0.update(context, &Json(names))
    }
}

#[test]
fn state_with_a_time_to_live() {
    let mut harness =
        Harness::of::<Last>().input(RowSchema::new().column::<String>("name")).key_by(["name"]).build().unwrap();
    for (second, expected) in [(100, 0), (105, 1), (114, 2), (124, 0), (125, 1)] {
        harness.processing_time(Timestamp::from_millis(second * 1000)).unwrap();
        harness.push("a").unwrap();
        assert_eq!(harness.take::<i64>().unwrap(), [expected], "at {second} s");
    }
}

#[test]
fn schemas_of_state_say_what_is_in_it() {
    let harness = count().build().unwrap();
    let text = |schema: &StateSchema| {
        let fields = |fields: &[StateField]| {
            fields.iter().map(|field| format!("{} {}", field.name, field.data_type)).collect::<Vec<_>>().join(", ")
        };
        let StateSchema { name, kind, key, namespace, value, semantics } = schema;
        let (key, namespace, value) = (fields(key), fields(namespace), fields(value));
        format!("{name} {kind:?} ({key}) ({namespace}) ({value}) {semantics:?}")
    };
    assert_eq!(
        harness.state_schemas().iter().map(text).collect::<Vec<_>>(),
        [
            r#"count Value (name Utf8) () (value_0 Int64, value_1 Timestamp(µs)) ["value", "value"]"#,
            r#"quiet Timer (name Utf8) (timer_time Timestamp(µs)) () ["processing-time timer"]"#,
        ]
    );
}

/// Remembers how often a name came; it leaves how long to the step.
struct Seen(ValueState<i64>);

impl Operator for Seen {
    type Config = ();

    fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
        Ok(RowSchema::new().column::<i64>("times"))
    }

    fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
        Ok(Seen(setup.value_state("times")?))
    }

    fn process(&mut self, _: Row<'_>, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let times = self.0.value(context)?.unwrap_or(0) + 1;
        self.0.update(context, &times)?;
        out.emit(times)
    }
}

#[test]
fn the_steps_time_to_live_holds_for_states_that_name_none() {
    let seen = |ttl: Option<Duration>| {
        let builder = Harness::of::<Seen>().input(RowSchema::new().column::<String>("name")).key_by(["name"]);
        let builder = builder.processing_time(Timestamp::from_millis(100_000));
        let builder = if let Some(ttl) = ttl { builder.state_ttl(ttl) } else { builder };
        let mut harness = builder.build().unwrap();
        harness.push("a").unwrap();
        harness.processing_time(Timestamp::from_millis(120_000)).unwrap();
        harness.push("a").unwrap();
        harness.take::<i64>().unwrap()
    };
    assert_eq!(seen(None), [1, 2]);
    assert_eq!(seen(Some(Duration::from_secs(30))), [1, 2]);
    assert_eq!(seen(Some(Duration::from_secs(10))), [1, 1]);
}
