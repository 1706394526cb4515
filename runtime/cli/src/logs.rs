//! What is written to standard error: for people, or as JSON for machines that collect it.

use clap::ValueEnum;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Also for worker processes that this one starts.
pub(crate) const FORMAT_VARIABLE: &str = "WEIR_LOG_FORMAT";
/// What people are shown if nothing is said. The AWS SDK warns of each place that has no credentials before it finds
/// some; if none has, the error says so.
const FOR_PEOPLE: &str = "warn,aws_config=error";
/// Machines keep the story, too.
const FOR_MACHINES: &str = "warn,aws_config=error,weir=info,weir_node=info,weir_cli=info";

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

impl LogFormat {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// `asked`: on the command line; else the environment says it.
pub(crate) fn start(asked: Option<LogFormat>) -> Result<(), String> {
    let format = match (asked, std::env::var(FORMAT_VARIABLE)) {
        (Some(format), _) => format,
        (None, Ok(name)) if !name.is_empty() => {
            LogFormat::from_str(&name, false).map_err(|_| format!("{FORMAT_VARIABLE}={name}: write text or json"))?
        }
        (None, _) => LogFormat::default(),
    };
    FORMAT.get_or_init(|| format);
    let shown = if format == LogFormat::Json { FOR_MACHINES } else { FOR_PEOPLE };
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new(shown));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.fmt_fields(JsonFields::new()).event_format(JsonLines).init(),
    }
    Ok(())
}

pub(crate) fn format() -> LogFormat {
    FORMAT.get().copied().unwrap_or_default()
}

/// One object a line: `time`, `level`, `target`, the fields of all spans around it (job, epoch, attempt, task,
/// checkpoint), and its own. Flat, so that a collector needs no rules to find them.
struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let mut line = Map::new();
        line.insert("time".to_owned(), Value::String(now));
        line.insert("level".to_owned(), Value::String(event.metadata().level().to_string()));
        line.insert("target".to_owned(), Value::String(event.metadata().target().to_owned()));
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>().map(|fields| fields.fields.as_str());
            if let Some(Ok(Value::Object(fields))) = fields.map(serde_json::from_str) {
                line.extend(fields);
            }
        }
        event.record(&mut Fields(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panics with it").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_what_is_known_around_it() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let _outer = tracing::error_span!("attempt", job = "flights", epoch = 3u64, attempt = 1u32).entered();
            let _inner = tracing::error_span!("task", task = %"hourly[1]").entered();
            tracing::warn!(checkpoint = 12u64, reason = "a \"disk\"\nis full", "checkpoint failed");
        });
        let bytes = written.0.lock().expect("nobody panics with it").clone();
        let text = String::from_utf8(bytes).expect("JSON is UTF-8");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!({
            "level": "WARN", "job": "flights", "epoch": 3, "attempt": 1, "task": "hourly[1]", "checkpoint": 12,
            "reason": "a \"disk\"\nis full", "message": "checkpoint failed",
        });
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(line[name], *value, "{name} in {text}");
        }
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
    }
}
