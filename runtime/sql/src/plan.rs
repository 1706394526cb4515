//! From the definition of a job to its graph: steps in the order in which they read each other, all mistakes at once.

use crate::catalog::{Catalog, Table, unknown_step};
use crate::definition::*;
use crate::error::{PlanError, Problem};
use crate::graph::{Distribution, GraphBuilder, Operator, Step};
use crate::lower::lower_query;
use crate::references::{Reference, references};
use crate::spelling::respell;
use crate::window_tvf::unknown_column;
use crate::{check, locate, logical, parse};
use arrow::datatypes::{DataType, Schema};
use datafusion_sql::sqlparser::ast::Query;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use weir_model::OperatorUid;
use weir_model::graph::*;
use weir_model::types::sql_type_name;

/// Plans a job. A pure function of its arguments.
///
/// # Errors
/// Every mistake of every step; a step that reads a wrong one is not blamed for it.
pub fn plan(definition: &PipelineDefinition, registry: &dyn CustomOperators) -> Result<JobGraph, Vec<PlanError>> {
    std::thread::scope(|scope| {
        // The planner recurses as deep as expressions nest, which a caller's stack may not be made for.
        let planning = std::thread::Builder::new().name("plan".to_owned()).stack_size(STACK_BYTES);
        match planning.spawn_scoped(scope, || plan_here(definition, registry)) {
            Ok(planning) => planning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => plan_here(definition, registry),
        }
    })
}

/// Address space only: pages that planning doesn't touch cost nothing.
const STACK_BYTES: usize = 64 << 20;

fn plan_here(definition: &PipelineDefinition, registry: &dyn CustomOperators) -> Result<JobGraph, Vec<PlanError>> {
    let mut planner = Planner {
        definition,
        registry,
        graph: GraphBuilder::default(),
        catalog: Catalog::new(),
        failed: BTreeSet::new(),
        errors: vec![],
    };
    planner.check_names();
    planner.sources();
    planner.transforms();
    planner.sinks();
    if planner.errors.is_empty() { Ok(planner.graph.finish(definition.max_parallelism)) } else { Err(planner.errors) }
}

struct Planner<'a> {
    definition: &'a PipelineDefinition,
    registry: &'a dyn CustomOperators,
    graph: GraphBuilder,
    /// The steps planned so far.
    catalog: Catalog,
    /// Steps with a mistake, and those that read one.
    failed: BTreeSet<String>,
    errors: Vec<PlanError>,
}

/// A transform before it is planned.
struct Draft<'a> {
    transform: &'a TransformDefinition,
    /// None for an operator of the user's own, and for SQL that can't be parsed.
    query: Option<Query>,
    reads: Vec<Reference>,
}

impl<'a> Planner<'a> {
    fn error(&mut self, step: &str, problem: Problem) {
        self.failed.insert(step.to_owned());
        let error = problem.of_step(step);
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn check_names(&mut self) {
        let definition = self.definition;
        let sources = definition.sources.iter().map(|source| (&source.name, source.parallelism));
        let transforms = definition.transforms.iter().map(|transform| (&transform.name, transform.parallelism));
        let sinks = definition.sinks.iter().map(|sink| (&sink.name, sink.parallelism));
        let mut seen = BTreeSet::new();
        let max = definition.max_parallelism;
        for (name, parallelism) in sources.chain(transforms).chain(sinks) {
            if !seen.insert(name) {
                self.error(
                    name,
                    Problem::new("two steps have this name", "state is matched by it: rename one of them"),
                );
            }
            let parallelism = parallelism.unwrap_or(definition.default_parallelism);
            if parallelism == 0 || parallelism > max {
                self.error(
                    name,
                    Problem::new(
                        format!("a parallelism of {parallelism}, but there are {max} key groups (maxParallelism)"),
                        format!("write 1 to {max}"),
                    ),
                );
            }
        }
    }

    fn parallelism(&self, own: Option<u32>) -> u32 {
        own.unwrap_or(self.definition.default_parallelism)
    }

    fn sources(&mut self) {
        for source in &self.definition.sources {
            let time_columns = match time_columns(source) {
                Ok(columns) => columns,
                Err(problem) => {
                    self.error(&source.name, problem);
                    continue;
                }
            };
            let columns = source.schema.fields().iter().map(|field| field.as_ref().clone());
            let fields = crate::graph::fields_of_stream(columns, source.updating);
            let stream = StreamSchema { fields, time_columns, window: None };
            let node = self.graph.add_source(&source.name, self.parallelism(source.parallelism), stream);
            self.add_table(&source.name, node);
        }
    }

    fn add_table(&mut self, name: &str, node: NodeId) {
        let stream = self.graph.node(node).schema.clone();
        let columns = stream.fields.fields()[..stream.value_columns()].to_vec();
        self.catalog.insert(name, Table { node, columns: Arc::new(Schema::new(columns)), stream });
    }

    fn transforms(&mut self) {
        let definition = self.definition;
        let mut drafts: Vec<Draft<'a>> = vec![];
        for transform in &definition.transforms {
            let draft = self.draft(transform);
            drafts.push(draft);
        }
        self.check_references(&drafts);
        for index in self.reading_order(&drafts) {
            let Draft { transform, query, reads } = &drafts[index];
            if reads.iter().any(|read| self.failed.contains(&read.step)) {
                self.failed.insert(transform.name.clone());
                continue;
            }
            if self.failed.contains(&transform.name) {
                self.further_problems(transform, query.as_ref());
                continue;
            }
            let nodes = self.graph.len();
            let planned = match (&transform.kind, query) {
                (TransformKind::Custom(custom), _) => self.custom(transform, custom).map_err(|problem| vec![problem]),
                (TransformKind::Sql(_), Some(query)) => self.sql(transform, query),
                (TransformKind::Sql(_), None) => continue,
            };
            match planned {
                Ok(node) => self.add_table(&transform.name, node),
                Err(problems) => {
                    self.graph.truncate(nodes);
                    problems.into_iter().for_each(|problem| self.error(&transform.name, problem));
                }
            }
        }
    }

    /// Of a query that is refused already: what else is wrong with its expressions, except where it is refused.
    fn further_problems(&mut self, transform: &TransformDefinition, query: Option<&Query>) {
        let Some(query) = query else { return };
        if logical::typed_plan(query, &self.catalog).is_ok() {
            return;
        }
        for problem in locate::located(query, &self.catalog) {
            let place = problem.position.map(|position| (position.line, position.column));
            let same = |error: &PlanError| error.step == transform.name && error.line.zip(error.column) == place;
            if !self.errors.iter().any(same) {
                self.error(&transform.name, problem);
            }
        }
    }

    fn draft(&mut self, transform: &'a TransformDefinition) -> Draft<'a> {
        let sql = match &transform.kind {
            TransformKind::Custom(custom) => {
                let read = |step: &String| Reference { step: step.clone(), position: None };
                return Draft { transform, query: None, reads: custom.inputs.iter().map(read).collect() };
            }
            TransformKind::Sql(sql) => sql,
        };
        match parse::parse_query(sql) {
            Err(problem) => {
                self.error(&transform.name, problem);
                Draft { transform, query: None, reads: vec![] }
            }
            Ok(mut query) => {
                respell(&mut query);
                for problem in check::refusals(&query) {
                    self.error(&transform.name, problem);
                }
                let reads = references(&query);
                Draft { transform, query: Some(query), reads }
            }
        }
    }

    fn check_references(&mut self, drafts: &[Draft<'_>]) {
        let definition = self.definition;
        let sources = definition.sources.iter().map(|source| source.name.as_str());
        let transforms = definition.transforms.iter().map(|transform| transform.name.as_str());
        let readable: Vec<&str> = sources.chain(transforms).collect();
        for draft in drafts {
            let name = &draft.transform.name;
            for read in &draft.reads {
                if readable.contains(&read.step.as_str()) {
                    continue;
                }
                let problem = match definition.sinks.iter().any(|sink| sink.name == read.step) {
                    true => Problem::new(
                        format!("`{}` is a sink, which nothing can read", read.step),
                        "read the step that the sink reads",
                    ),
                    false => unknown_step(&read.step, readable.iter().copied().filter(|step| step != name)),
                };
                self.error(name, problem.at(read.position));
            }
        }
    }

    /// Indices of the drafts, each after those it reads; steps that read each other in a circle are errors.
    fn reading_order(&mut self, drafts: &[Draft<'_>]) -> Vec<usize> {
        let by_name: BTreeMap<&str, usize> =
            drafts.iter().enumerate().map(|(index, draft)| (draft.transform.name.as_str(), index)).collect();
        let reads: Vec<BTreeSet<usize>> = drafts
            .iter()
            .map(|draft| draft.reads.iter().filter_map(|read| by_name.get(read.step.as_str()).copied()).collect())
            .collect();
        let mut order = vec![];
        let mut done = vec![false; drafts.len()];
        while let Some(next) =
            (0..drafts.len()).find(|index| !done[*index] && reads[*index].iter().all(|read| done[*read]))
        {
            done[next] = true;
            order.push(next);
        }
        if let Some(start) = (0..drafts.len()).find(|index| !done[*index]) {
            // Every step left reads one that is left, so following them comes back to where it has been.
            let mut path = vec![start];
            loop {
                let last = path[path.len() - 1];
                let Some(next) = reads[last].iter().copied().find(|read| !done[*read]) else { break };
                if let Some(from) = path.iter().position(|index| *index == next) {
                    let circle = &path[from..];
                    let names: Vec<&str> =
                        circle.iter().chain(&circle[..1]).map(|index| drafts[*index].transform.name.as_str()).collect();
                    let name = drafts[circle[0]].transform.name.clone();
                    let reason = format!("steps read each other in a circle: {}", names.join(" reads "));
                    self.error(&name, Problem::new(reason, "a stream flows one way: break the circle"));
                    break;
                }
                path.push(next);
            }
            let left = (0..drafts.len()).filter(|index| !done[*index]);
            self.failed.extend(left.map(|index| drafts[index].transform.name.clone()));
        }
        order
    }

    fn step<'b>(&self, transform: &'b TransformDefinition) -> Step<'b> {
        Step::new(
            &transform.name,
            self.parallelism(transform.parallelism),
            transform.state_ttl_ms,
            transform.allowed_lateness_us,
        )
    }

    fn sql(&mut self, transform: &TransformDefinition, query: &Query) -> Result<NodeId, Vec<Problem>> {
        let mut step = self.step(transform);
        let planning = AssertUnwindSafe(|| {
            let plan = logical::typed_plan(query, &self.catalog)
                .map_err(|error| locate::locate(query, &self.catalog, &error))?;
            let plan = logical::optimized_plan(plan, &self.catalog).map_err(|problem| vec![problem])?;
            lower_query(&plan, &self.catalog, &mut self.graph, &mut step).map_err(|problem| vec![problem])
        });
        // What the query is, is the user's to decide: an assertion of the planner's that it breaks is a mistake in
        // the query like any other. The nodes that it left behind go with the step.
        std::panic::catch_unwind(planning).unwrap_or_else(|_| {
            Err(vec![Problem::new("the planner cannot handle this query", "split it into several simpler transforms")])
        })
    }

    fn custom(&mut self, transform: &TransformDefinition, custom: &CustomTransform) -> Result<NodeId, Problem> {
        let types = self.registry.types();
        if !types.contains(&custom.operator_type) {
            let types = crate::names::listed(&custom.operator_type, types.iter().map(String::as_str));
            return Err(Problem::new(
                format!("no operator of type `{}` in this binary", custom.operator_type),
                format!("the types are {types}; run the image that contains it"),
            ));
        }
        let tables: Vec<Arc<Table>> =
            custom.inputs.iter().filter_map(|input| self.catalog.table(input)).map(Arc::clone).collect();
        if !custom.key_by.is_empty() && custom.key_by.len() != tables.len() {
            return Err(Problem::new("keyBy for another number of inputs", "give the key columns of each input"));
        }
        let mut keys = vec![];
        let mut key_types: Option<Vec<DataType>> = None;
        for (table, names) in tables.iter().zip(&custom.key_by) {
            let columns = names.iter().map(|name| key_column(table, name)).collect::<Result<Vec<_>, _>>()?;
            let types: Vec<DataType> =
                columns.iter().map(|column| table.columns.field(*column).data_type().clone()).collect();
            if let Some(first) = &key_types
                && *first != types
            {
                return Err(Problem::new(
                    "the keys of the inputs differ in type, so equal keys would not meet",
                    "CAST them to one type in a transform before",
                ));
            }
            key_types = Some(types);
            keys.push(columns);
        }
        let spec = CustomSpec {
            operator_type: custom.operator_type.clone(),
            config: custom.config.clone(),
            keys: keys.clone(),
            key_types: key_types.unwrap_or_default(),
            state_ttl_ms: transform.state_ttl_ms,
        };
        let streams: Vec<StreamSchema> = tables.iter().map(|table| table.stream.clone()).collect();
        let schema = self
            .registry
            .output(&spec.operator_type, &spec.config, &streams)
            .and_then(|schema| self.registry.check(&spec, &streams).map(|()| schema))
            .map_err(|reason| Problem::new(reason, format!("see the config of {}", custom.operator_type)))?;
        let inputs = tables.iter().enumerate().map(|(index, table)| {
            let distribution = match keys.get(index) {
                Some(keys) if !keys.is_empty() => Distribution::Keys(keys.clone()),
                _ => Distribution::Any,
            };
            (table.node, distribution)
        });
        let operator = Operator {
            part: "operator",
            spec: OperatorSpec::Custom(spec),
            inputs: inputs.collect(),
            schema,
            partitioning: vec![],
            window_times: vec![],
        };
        let step = self.step(transform);
        self.graph.add_operator_as(&step, OperatorUid::new(transform.name.as_str()), operator)
    }

    fn sinks(&mut self) {
        let definition = self.definition;
        let sources = definition.sources.iter().map(|source| source.name.as_str());
        let transforms = definition.transforms.iter().map(|transform| transform.name.as_str());
        let readable: Vec<&str> = sources.chain(transforms).collect();
        for source in &definition.sources {
            if let Some(dead_letter) = &source.dead_letter
                && !definition.sinks.iter().any(|sink| sink.name == dead_letter.sink)
            {
                let sinks =
                    crate::names::listed(&dead_letter.sink, definition.sinks.iter().map(|sink| sink.name.as_str()));
                self.error(
                    &source.name,
                    Problem::new(
                        format!("no sink `{}` for its dead letters", dead_letter.sink),
                        format!("the sinks are {sinks}"),
                    ),
                );
            }
        }
        for sink in &definition.sinks {
            if let Err(problem) = self.sink(sink, &readable) {
                self.error(&sink.name, problem);
            }
        }
    }

    fn sink(&mut self, sink: &SinkDefinition, readable: &[&str]) -> Result<(), Problem> {
        let parallelism = self.parallelism(sink.parallelism);
        let rejecting: Vec<&SourceDefinition> = self
            .definition
            .sources
            .iter()
            .filter(|source| source.dead_letter.as_ref().is_some_and(|dead_letter| dead_letter.sink == sink.name))
            .collect();
        let Some(from) = &sink.from else {
            let Some(schema) =
                rejecting.first().and_then(|source| source.dead_letter.as_ref()).map(|d| d.schema.clone())
            else {
                return Err(Problem::new(
                    "a sink that reads no step",
                    "write `from: <step>`, or name it in a source's deadLetterSink",
                ));
            };
            let nodes: Vec<NodeId> = rejecting
                .iter()
                .filter_map(|source| self.catalog.table(&source.name))
                .map(|table| table.node)
                .collect();
            if !nodes.is_empty() {
                let schema = StreamSchema::append_only(schema);
                self.graph.add_dead_letter_sink(&sink.name, parallelism, &nodes, schema);
            }
            return Ok(());
        };
        if let Some(source) = rejecting.first() {
            return Err(Problem::new(
                format!("it reads `{from}` and the dead letters of `{}`, which have other columns", source.name),
                "leave out its `from`, or name another sink for the dead letters",
            ));
        }
        if !readable.contains(&from.as_str()) {
            return Err(unknown_step(from, readable.iter().copied()));
        }
        if self.failed.contains(from) {
            return Ok(());
        }
        if let Some(table) = self.catalog.table(from) {
            let (node, stream) = (table.node, table.stream.clone());
            let distribution = match sink.key_by.as_slice() {
                [] => Distribution::Any,
                names => {
                    Distribution::Keys(names.iter().map(|name| key_column(table, name)).collect::<Result<_, _>>()?)
                }
            };
            self.graph.add_sink(&sink.name, parallelism, (node, &distribution), stream)?;
        }
        Ok(())
    }
}

fn time_columns(source: &SourceDefinition) -> Result<Vec<usize>, Problem> {
    let Some(name) = &source.watermark_column else { return Ok(vec![]) };
    let names = source.schema.fields().iter().map(|field| field.name().as_str());
    let Some((index, field)) = source.schema.column_with_name(name) else {
        return Err(unknown_column(name, names));
    };
    if field.data_type() != &weir_model::types::TIMESTAMP {
        return Err(Problem::new(
            format!("the watermark column `{name}` is {}", sql_type_name(field.data_type())),
            "declare it as TIMESTAMP",
        ));
    }
    Ok(vec![index])
}

fn key_column(table: &Table, name: &str) -> Result<usize, Problem> {
    let names = table.columns.fields().iter().map(|field| field.name().as_str());
    table.columns.index_of(name).map_err(|_| unknown_column(name, names))
}
