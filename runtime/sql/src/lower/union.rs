//! UNION ALL: inputs brought to the same types, and to carrying a change kind if one of them does.

use super::Lowering;
use crate::error::Planned;
use crate::expression::compile;
use crate::graph::{Distribution, Operator, fields_of_stream};
use crate::relation::{Base, Column, Relation};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::ScalarValue;
use datafusion_expr::logical_plan::Union;
use datafusion_physical_expr::expressions::Literal;
use std::sync::Arc;
use weir_model::ChangeKind;
use weir_model::change::change_kind_field;
use weir_model::graph::*;

impl Lowering<'_, '_> {
    pub(super) fn union(&mut self, union: &Union) -> Planned<Relation> {
        let mut inputs = vec![];
        for input in &union.inputs {
            inputs.push(self.lower(input)?.settle(self.graph, self.step)?);
        }
        let updating = inputs.iter().any(Relation::is_updating);
        let mut nodes = vec![];
        for mut input in inputs {
            for (column, field) in input.columns.iter_mut().zip(union.schema.fields()) {
                column.field = column.field.clone().with_name(field.name()).with_data_type(field.data_type().clone());
            }
            nodes.push(match updating && !input.is_updating() {
                true => self.as_inserts(input)?,
                false => input.materialize(self.graph, self.step)?,
            });
        }
        let bases: Vec<Base> = nodes.iter().map(|node| Base::of_node(self.graph, *node)).collect();
        let columns = bases[0].schema.value_columns();
        let nullable = |column: usize| bases.iter().any(|base| base.schema.fields.field(column).is_nullable());
        let fields = (0..columns).map(|index| {
            let field = bases[0].schema.fields.field(index).as_ref().clone();
            let nullable = nullable(index);
            field.with_nullable(nullable)
        });
        let everywhere = |of: &dyn Fn(&Base) -> Vec<usize>| -> Vec<usize> {
            of(&bases[0]).into_iter().filter(|column| bases.iter().all(|base| of(base).contains(column))).collect()
        };
        let schema = StreamSchema {
            fields: fields_of_stream(fields, updating),
            time_columns: everywhere(&|base| base.schema.time_columns.clone()),
            window: bases[0]
                .schema
                .window
                .filter(|window| bases.iter().all(|base| base.schema.window == Some(*window))),
        };
        let window_times = everywhere(&|base| base.window_times.clone());
        let node = self.graph.add_operator(
            self.step,
            Operator {
                part: "union",
                spec: OperatorSpec::Union,
                inputs: nodes.into_iter().map(|node| (node, Distribution::Any)).collect(),
                schema,
                partitioning: vec![],
                window_times,
            },
        )?;
        Ok(Relation::of_node(self.graph, node))
    }

    /// An append-only relation as an updating one, each row an insert.
    fn as_inserts(&mut self, input: Relation) -> Planned<NodeId> {
        let node = input.base.node;
        let base = self.graph.node(node).schema.clone();
        let filter = crate::expression::conjunction(input.filters.iter().cloned());
        let filter = filter.map(|filter| compile(filter, &base.fields, &DataType::Boolean)).transpose()?;
        let mut projection = vec![];
        for Column { field, expression, .. } in &input.columns {
            projection.push(compile(Arc::clone(expression), &base.fields, field.data_type())?);
        }
        let insert = Arc::new(Literal::new(ScalarValue::Int8(Some(ChangeKind::Insert as i8))));
        projection.push(compile(insert, &Schema::empty(), &DataType::Int8)?);
        let fields: Vec<Field> = input.columns.iter().map(|column| column.field.clone()).collect();
        let fields = Arc::new(Schema::new(fields.into_iter().chain([change_kind_field()]).collect::<Vec<_>>()));
        self.graph.add_operator(
            self.step,
            Operator {
                part: "calc",
                spec: OperatorSpec::Calc(CalcSpec { filter, projection }),
                inputs: vec![(node, Distribution::Any)],
                schema: StreamSchema { window: input.window(), ..StreamSchema::append_only(fields) },
                partitioning: vec![],
                window_times: vec![],
            },
        )
    }
}
