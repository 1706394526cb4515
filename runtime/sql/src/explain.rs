//! A job graph as text, for people.

use crate::expression::quoted;
use std::fmt::Write;
use weir_model::graph::*;
use weir_model::types::sql_type_name;

/// The graph, one operator a paragraph: UID, parallelism, what it does, what it reads and how, what it emits.
/// (Its states have schemas of their own, which the runtime knows.)
pub fn explain(graph: &JobGraph) -> String {
    let mut text = String::new();
    for id in graph.ids() {
        let node = graph.node(id);
        if id.0 > 0 {
            text.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}  x{}  {}", node.uid, node.parallelism, kind(graph, node));
        for edge in &node.inputs {
            let _ = writeln!(text, "  <- {}", input(graph, edge));
        }
        let _ = writeln!(text, "  {}", output(&node.schema));
    }
    text
}

fn input(graph: &JobGraph, edge: &Edge) -> String {
    let from = graph.node(edge.from);
    let exchange = match &edge.exchange {
        Exchange::Forward => "forward".to_owned(),
        Exchange::Rebalance => "rebalance".to_owned(),
        Exchange::Hash { key_columns } if key_columns.is_empty() => "all to one".to_owned(),
        Exchange::Hash { key_columns } => format!("hash({})", names(&from.schema, key_columns)),
    };
    let port = if edge.port == Port::DeadLetter { " (dead letters)" } else { "" };
    format!("{}{port} {exchange}", from.uid)
}

fn output(schema: &StreamSchema) -> String {
    let fields = schema.fields.fields();
    let columns = fields[..schema.value_columns()].iter().enumerate().map(|(index, field)| {
        let time = if schema.time_columns.contains(&index) { "*" } else { "" };
        format!("{}{time} {}", quoted(field.name()), sql_type_name(field.data_type()))
    });
    let updating = if schema.is_updating() { " updating" } else { "" };
    format!("=> ({}){updating}", columns.collect::<Vec<_>>().join(", "))
}

fn kind(graph: &JobGraph, node: &Node) -> String {
    let of = |index: usize| &graph.node(node.inputs[index].from).schema;
    match &node.kind {
        NodeKind::Source => "Source".to_owned(),
        NodeKind::Sink => "Sink".to_owned(),
        NodeKind::Operator(spec) => match spec {
            OperatorSpec::Calc(spec) => calc(spec, &node.schema),
            OperatorSpec::Union => "Union".to_owned(),
            OperatorSpec::WindowAssign(spec) => format!("WindowAssign {}", window(spec.window, spec.time, of(0))),
            OperatorSpec::GroupAggregate(spec) => {
                let ttl = ttl(spec.state_ttl_ms);
                let after_only = if spec.update_before { "" } else { " without update-before" };
                format!("GroupAggregate{}{}{ttl}{after_only}", keyed(of(0), &spec.keys), calls(&spec.aggregates))
            }
            OperatorSpec::WindowAggregate(spec) => {
                let over = match spec.assigned {
                    None => window(spec.window, spec.time, of(0)),
                    Some(bounds) => format!("over ({})", names(of(0), &[bounds.start, bounds.end])),
                };
                let lateness = match spec.allowed_lateness_us {
                    0 => String::new(),
                    lateness => format!(" allowed lateness {}", duration(lateness)),
                };
                format!("WindowAggregate {over}{}{}{lateness}", keyed(of(0), &spec.keys), calls(&spec.aggregates))
            }
            OperatorSpec::Join(spec) => {
                let on = on(of(0), &spec.left_keys, of(1), &spec.right_keys);
                format!("Join {}{on}{}{}", join_kind(spec.kind), residual(&spec.residual), ttl(spec.state_ttl_ms))
            }
            OperatorSpec::IntervalJoin(spec) => {
                let on = on(of(0), &spec.left_keys, of(1), &spec.right_keys);
                let (left, right) = (names(of(0), &[spec.left_time]), names(of(1), &[spec.right_time]));
                let (lower, upper) = (duration(spec.lower_us), duration(spec.upper_us));
                let time = format!("left.{left} in right.{right} + [{lower}, {upper}]");
                format!("IntervalJoin {}{on} {time}{}", join_kind(spec.kind), residual(&spec.residual))
            }
            OperatorSpec::WindowJoin(spec) => {
                let on = on(of(0), &spec.left_keys, of(1), &spec.right_keys);
                format!("WindowJoin {}{on}{}", join_kind(spec.kind), residual(&spec.residual))
            }
            OperatorSpec::TopN(spec) => top_n(spec, of(0)),
            OperatorSpec::Deduplicate(spec) => {
                let time = match spec.time {
                    TimeDomain::EventTime { column } => names(of(0), &[column]),
                    TimeDomain::ProcessingTime => "processing time".to_owned(),
                };
                let keep = if spec.keep == Keep::First { "first" } else { "last" };
                format!("Deduplicate keep {keep} of {time}{}{}", keyed(of(0), &spec.keys), ttl(spec.state_ttl_ms))
            }
            OperatorSpec::Custom(spec) => {
                let keys = spec.keys.iter().enumerate().map(|(index, keys)| keyed(of(index), keys));
                format!("{} (custom){}", spec.operator_type, keys.collect::<String>())
            }
        },
    }
}

fn calc(spec: &CalcSpec, schema: &StreamSchema) -> String {
    let columns = spec.projection.iter().zip(schema.fields.fields()).take(schema.value_columns());
    let columns = columns.map(|(expression, field)| {
        let name = quoted(field.name());
        if expression.sql() == name { name } else { format!("{} AS {name}", expression.sql()) }
    });
    let filter = spec.filter.as_ref().map(|filter| format!(" where {}", filter.sql())).unwrap_or_default();
    format!("Calc {}{filter}", columns.collect::<Vec<_>>().join(", "))
}

fn top_n(spec: &TopNSpec, input: &StreamSchema) -> String {
    let order = spec.order.iter().map(|key| {
        let direction = if key.descending { " desc" } else { "" };
        let nulls = if key.nulls_first == key.descending {
            ""
        } else if key.nulls_first {
            " nulls first"
        } else {
            " nulls last"
        };
        format!("{}{direction}{nulls}", names(input, &[key.column]))
    });
    let order = order.collect::<Vec<_>>().join(", ");
    let window = if spec.window.is_some() { " per window" } else { "" };
    let rank = if spec.emit_rank { format!(" as {}", quoted(&spec.rank_name)) } else { String::new() };
    let (first, last) = (spec.first_rank, spec.last_rank);
    format!("TopN {first}..{last}{rank} by {order}{}{window}{}", keyed(input, &spec.partition), ttl(spec.state_ttl_ms))
}

fn window(kind: WindowKind, time: TimeDomain, input: &StreamSchema) -> String {
    let shift = |offset: i64| if offset == 0 { String::new() } else { format!(" offset {}", duration(offset)) };
    let window = match kind {
        WindowKind::Tumble { size_us, offset_us } => format!("tumble {}{}", duration(size_us), shift(offset_us)),
        WindowKind::Hop { size_us, slide_us, offset_us } => {
            format!("hop {} every {}{}", duration(size_us), duration(slide_us), shift(offset_us))
        }
        WindowKind::Session { gap_us } => format!("session gap {}", duration(gap_us)),
    };
    match time {
        TimeDomain::EventTime { column } => format!("{window} of {}", names(input, &[column])),
        TimeDomain::ProcessingTime => format!("{window} of processing time"),
    }
}

fn calls(calls: &[AggregateCall]) -> String {
    if calls.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = calls.iter().map(|call| call.output.name().as_str()).collect();
    format!(": {}", names.join(", "))
}

fn keyed(schema: &StreamSchema, keys: &[usize]) -> String {
    if keys.is_empty() { String::new() } else { format!(" by ({})", names(schema, keys)) }
}

fn on(left: &StreamSchema, left_keys: &[usize], right: &StreamSchema, right_keys: &[usize]) -> String {
    if left_keys.is_empty() {
        return String::new();
    }
    let pairs = left_keys.iter().zip(right_keys).map(|(left_key, right_key)| {
        format!("left.{} = right.{}", names(left, &[*left_key]), names(right, &[*right_key]))
    });
    format!(" on {}", pairs.collect::<Vec<_>>().join(" and "))
}

fn residual(residual: &Option<Expr>) -> String {
    residual.as_ref().map(|residual| format!(" and {}", residual.sql())).unwrap_or_default()
}

fn join_kind(kind: JoinKind) -> &'static str {
    match kind {
        JoinKind::Inner => "inner",
        JoinKind::Left => "left",
        JoinKind::Right => "right",
        JoinKind::Full => "full",
        JoinKind::Semi => "semi",
        JoinKind::Anti => "anti",
    }
}

fn ttl(state_ttl_ms: Option<u64>) -> String {
    let micros = state_ttl_ms.map(|millis| i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1000));
    micros.map(|micros| format!(" ttl {}", duration(micros))).unwrap_or_default()
}

fn names(schema: &StreamSchema, columns: &[usize]) -> String {
    columns.iter().map(|column| quoted(schema.fields.field(*column).name())).collect::<Vec<_>>().join(", ")
}

/// As short as it is exact: `90s`, `1h`, `-5m`.
fn duration(micros: i64) -> String {
    let units = [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)];
    match units.iter().find(|(_, size)| micros != 0 && micros % size == 0) {
        Some((unit, size)) => format!("{}{unit}", micros / size),
        None if micros == 0 => "0s".to_owned(),
        None => format!("{micros}us"),
    }
}
