//! The steps that a query reads.

use crate::check::argument_expressions;
use crate::error::{Position, position};
use datafusion_sql::sqlparser::ast::*;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// A step's name as a query wrote it, in lower case unless quoted.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) step: String,
    pub(crate) position: Option<Position>,
}

/// Every step read by the query: its tables without those of its WITH clauses.
pub(crate) fn references(query: &Query) -> Vec<Reference> {
    let mut found = Found::default();
    let _ = query.visit(&mut found);
    found.references.retain(|reference| !found.with.contains(&reference.step));
    found.references
}

#[derive(Default)]
struct Found {
    references: Vec<Reference>,
    with: HashSet<String>,
}

impl Found {
    fn add(&mut self, names: &[&Ident]) {
        let step = names.iter().map(|name| normalized(name)).collect::<Vec<_>>().join(".");
        let position = names.first().and_then(|name| position(name.span));
        self.references.push(Reference { step, position });
    }

    fn add_argument(&mut self, data: Option<&Expr>) {
        match data {
            Some(Expr::Identifier(name)) => self.add(&[name]),
            Some(Expr::CompoundIdentifier(names)) => self.add(&names.iter().collect::<Vec<_>>()),
            _ => {}
        }
    }
}

impl Visitor for Found {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.with.extend(tables.map(|table| normalized(&table.alias.name)));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: None, .. } => {
                let names: Vec<&Ident> = name.0.iter().filter_map(ObjectNamePart::as_ident).collect();
                self.add(&names);
            }
            TableFactor::Table { args: Some(args), .. } => {
                let data = args.args.first().and_then(|argument| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expression))
                    | FunctionArg::Named { arg: FunctionArgExpr::Expr(expression), .. } => Some(expression),
                    _ => None,
                });
                self.add_argument(data);
            }
            TableFactor::TableFunction { expr: Expr::Function(function), .. } => {
                self.add_argument(argument_expressions(function).first().copied());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

pub(crate) fn normalized(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}
