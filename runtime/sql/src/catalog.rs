//! What the SQL planner may ask about: the steps as tables, the functions, the SQL types.

use crate::error::Problem;
use crate::functions::{self, CountStar, FunctionSyntax, JsonOperators};
use crate::names;
use crate::window_tvf::WindowFunctions;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, TableReference};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion_sql::planner::{ParserOptions, SqlToRel};
use datafusion_sql::sqlparser::ast::DataType as SqlType;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_model::graph::{NodeId, StreamSchema};
use weir_model::types::{SQL_TYPE_NAMES, parse_sql_type};

/// A step that SQL can read.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) node: NodeId,
    /// Without the change kind.
    pub(crate) columns: SchemaRef,
    pub(crate) stream: StreamSchema,
}

impl TableSource for Table {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }
}

/// The tables that one query may read, and everything that is the same for all queries.
pub(crate) struct Catalog {
    tables: BTreeMap<String, Arc<Table>>,
    options: Arc<ConfigOptions>,
    expression_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
}

impl Catalog {
    pub(crate) fn new() -> Self {
        let mut options = ConfigOptions::default();
        // A nested ORDER BY without LIMIT means nothing in a stream; we refuse it rather than drop it silently.
        options.sql_parser.enable_subquery_sort_elimination = false;
        Catalog {
            tables: BTreeMap::new(),
            options: Arc::new(options),
            expression_planners: vec![Arc::new(JsonOperators), Arc::new(CountStar), Arc::new(FunctionSyntax)],
            relation_planners: vec![Arc::new(WindowFunctions)],
        }
    }

    pub(crate) fn insert(&mut self, name: &str, table: Table) {
        self.tables.insert(name.to_owned(), Arc::new(table));
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    pub(crate) fn options(&self) -> &Arc<ConfigOptions> {
        &self.options
    }

    pub(crate) fn planner(&self) -> SqlToRel<'_, Catalog> {
        let options = ParserOptions::new()
            .with_collect_spans(true)
            .with_map_string_types_to_utf8view(false)
            .with_parse_float_as_decimal(false);
        SqlToRel::new_with_options(self, options)
    }
}

/// Used where a type is written in SQL (CAST, a literal's prefix).
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let text = sql_type.to_string();
        let data_type = match sql_type {
            SqlType::Timestamp(..) if text.contains("ZONE") && !text.contains("WITHOUT") => None,
            SqlType::Timestamp(..) | SqlType::Datetime(..) => Some(weir_model::types::TIMESTAMP),
            SqlType::Array(..) | SqlType::Struct(..) | SqlType::Map(..) | SqlType::Tuple(..) => return Ok(None),
            SqlType::Interval { .. } => return Ok(None),
            _ => parse_sql_type(&text),
        };
        match data_type {
            Some(data_type) => Ok(Some(Arc::new(Field::new("", data_type, true)))),
            None => {
                Err(Problem::new(format!("no type {text}"), format!("the types are {}", SQL_TYPE_NAMES.join(", ")))
                    .into_datafusion())
            }
        }
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let known = match &name {
            TableReference::Bare { table } => self.tables.get(table.as_ref()),
            _ => None,
        };
        match known {
            Some(table) => Ok(Arc::clone(table) as Arc<dyn TableSource>),
            None => Err(unknown_step(&name.to_string(), self.tables.keys().map(String::as_str)).into_datafusion()),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expression_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions::functions().scalars.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        functions::functions().aggregates.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        (name == functions::ROW_NUMBER).then(|| Arc::clone(&functions::functions().row_number))
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        functions::functions().scalars.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        vec![]
    }

    fn udaf_names(&self) -> Vec<String> {
        functions::functions().aggregates.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        vec![functions::ROW_NUMBER.to_owned()]
    }
}

pub(crate) fn unknown_step<'a>(name: &str, steps: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let remedy = match names::nearest(name, steps.clone()) {
        Some(meant) if name.contains('-') || meant.contains('-') => {
            format!("did you mean \"{meant}\"? A name with a hyphen or capital stands in double quotes")
        }
        _ => format!("the steps are {}", names::listed(name, steps)),
    };
    Problem::new(format!("no step `{name}`"), remedy)
}
