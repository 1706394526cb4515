use crate::text;
use anyhow::{Context, Result, bail};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::Args;
use std::process::ExitCode;
use weir_model::{KeyGroupRange, OperatorUid};
use weir_node::Registry;
use weir_snapshot::ObjectPath;
use weir_snapshot::savepoint::{SavepointManifest, SavepointReader};
use weir_snapshot::storage::StorageOptions;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The savepoint's folder or address.
    savepoint: String,
    /// Show rows of this operator's state.
    #[arg(long, value_name = "UID", requires = "state")]
    operator: Option<String>,
    /// The state whose rows to show.
    #[arg(long, value_name = "NAME", requires = "operator")]
    state: Option<String>,
    /// Rows to show at most.
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

pub(crate) fn run(arguments: &Arguments, registry: &Registry) -> Result<ExitCode> {
    let uri = address(&arguments.savepoint)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Endpoint, region and credentials are the environment's: there is no job here that names others.
    let storage = runtime.block_on(registry.storages.open(&uri, &StorageOptions::default()))?;
    let opened = runtime.block_on(SavepointReader::open(storage, ObjectPath::root()));
    let reader = opened.with_context(|| format!("`{uri}` is not a savepoint that can be read"))?;
    match (&arguments.operator, &arguments.state) {
        (Some(operator), Some(state)) => runtime.block_on(show_rows(&reader, operator, state, arguments.limit))?,
        _ => print!("{}", summary(reader.manifest())),
    }
    Ok(ExitCode::SUCCESS)
}

fn address(text: &str) -> Result<String> {
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let folder = std::fs::canonicalize(text).with_context(|| format!("`{text}`"))?;
    Ok(format!("file://{}", folder.display()))
}

fn summary(manifest: &SavepointManifest) -> String {
    let mut rows = vec![];
    for operator in &manifest.operators {
        for state in &operator.states {
            let fields = |fields: &[weir_model::StateField]| {
                fields.iter().map(|field| format!("{} {}", field.name, field.data_type)).collect::<Vec<_>>().join(", ")
            };
            rows.push(vec![
                operator.uid.to_string(),
                state.schema.name.clone(),
                format!("{:?}", state.schema.kind),
                text::count(state.rows),
                fields(&state.schema.key),
                fields(&state.schema.value),
            ]);
        }
        let splits: usize = operator.subtasks.iter().map(|subtask| subtask.splits.len()).sum();
        if splits > 0 {
            rows.push(vec![operator.uid.to_string(), "splits".to_owned(), "Source".to_owned(), splits.to_string()]);
        }
    }
    format!(
        "job {}, checkpoint {}, taken {} UTC, max parallelism {}\n\n{}",
        manifest.job_name,
        manifest.checkpoint,
        text::time_of_ms(manifest.created_at_ms),
        manifest.max_parallelism,
        text::table(&["OPERATOR", "STATE", "KIND", "ROWS", "KEY", "VALUE"], &rows)
    )
}

async fn show_rows(reader: &SavepointReader, operator: &str, state: &str, limit: usize) -> Result<()> {
    let uid = OperatorUid::new(operator.to_owned());
    let found = reader.manifest().operator(&uid).and_then(|operator| operator.state(state));
    if found.is_none() {
        let all = reader.manifest().operators.iter();
        let all = all.flat_map(|operator| operator.states.iter().map(|state| (&operator.uid, &state.schema.name)));
        let names: Vec<String> = all.map(|(uid, name)| format!("`{uid}` `{name}`")).collect();
        bail!("the savepoint has no state `{state}` of operator `{operator}`; it has {}", names.join(", "));
    }
    let last = u16::try_from(reader.manifest().max_parallelism.saturating_sub(1)).unwrap_or(u16::MAX);
    let mut rows = reader.read_state(&uid, state, KeyGroupRange { first: 0, last })?;
    let (mut left, mut shown) = (limit, vec![]);
    while left > 0
        && let Some(batch) = rows.next().await?
    {
        let part = batch.slice(0, batch.num_rows().min(left));
        left -= part.num_rows();
        shown.push(part);
    }
    print!("{}", as_table(&shown)?);
    Ok(())
}

fn as_table(batches: &[RecordBatch]) -> Result<String> {
    let Some(first) = batches.first() else { return Ok("no rows\n".to_owned()) };
    let schema = first.schema();
    let header: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = vec![];
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let row = |row| columns.iter().map(|column| column.value(row).to_string()).collect();
        rows.extend((0..batch.num_rows()).map(row));
    }
    Ok(text::table(&header, &rows))
}
