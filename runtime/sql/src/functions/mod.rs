//! The functions that SQL may call, and those that it may not.

mod aggregate;
mod canonical;
mod json;
mod rank;
mod syntax;
mod temporal;

pub(crate) use aggregate::{CountStar, function_of, sql_name};
pub(crate) use canonical::canonical_type;
pub(crate) use json::JsonOperators;
pub(crate) use rank::ROW_NUMBER;
pub(crate) use syntax::FunctionSyntax;
pub(crate) use temporal::PROCTIME;

use datafusion_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// By name and alias, in lower case.
pub(crate) struct Functions {
    pub(crate) scalars: HashMap<String, Arc<ScalarUDF>>,
    pub(crate) aggregates: HashMap<String, Arc<AggregateUDF>>,
    pub(crate) row_number: Arc<WindowUDF>,
}

/// A function, or a spelling, that is refused by name, and what to write instead.
pub(crate) struct Refused {
    pub(crate) names: &'static [&'static str],
    pub(crate) reason: &'static str,
    pub(crate) remedy: &'static str,
}

const CLOCK: &str = "reads the clock: records that are replayed after a failure would get another result";
const CHANCE: &str = "is another value every time: records that are replayed after a failure would get another result";

pub(crate) const REFUSED: &[Refused] = &[
    Refused {
        names: &[
            "now",
            "current_timestamp",
            "current_date",
            "current_time",
            "localtimestamp",
            "localtime",
            "today",
            "current_row_timestamp",
            "unix_timestamp",
        ],
        reason: CLOCK,
        remedy: "use a time column of the record, or windows over DESCRIPTOR(PROCTIME())",
    },
    Refused {
        names: &["random", "rand", "rand_integer"],
        reason: CHANCE,
        remedy: "derive a number from the record, for instance from md5(..) of its key",
    },
    Refused {
        names: &["uuid", "gen_random_uuid"],
        reason: CHANCE,
        remedy: "derive an identity from the record, for instance sha256(..) of its key",
    },
    Refused {
        names: &["rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead", "nth_value"],
        reason: "is not supported as a window function",
        remedy: "use ROW_NUMBER() OVER (PARTITION BY .. ORDER BY ..) in a subquery, with WHERE row_num <= N outside it",
    },
    Refused {
        names: &["array_agg", "string_agg", "listagg", "collect"],
        reason: "is not supported: its result grows without bound",
        remedy: "use COUNT, SUM, MIN, MAX, AVG, FIRST_VALUE or LAST_VALUE, or an operator of your own",
    },
    Refused {
        names: &["approx_distinct", "approx_median", "median", "approx_percentile_cont", "percentile_cont", "corr"],
        reason: "is not supported",
        remedy: "use COUNT(DISTINCT ..), MIN, MAX, AVG or STDDEV_POP, or an operator of your own",
    },
    Refused {
        names: &["tumble_start", "tumble_end", "hop_start", "hop_end", "session_start", "session_end"],
        reason: "belongs to the old group windows, which are not supported",
        remedy: "write FROM TABLE(TUMBLE(t, DESCRIPTOR(ts), INTERVAL '1' HOUR)) and select window_start and window_end",
    },
    Refused {
        names: &["input_file_name", "file_row_index", "version"],
        reason: "is not supported",
        remedy: "leave it out",
    },
];

pub(crate) fn refused(name: &str) -> Option<&'static Refused> {
    REFUSED.iter().find(|refused| refused.names.contains(&name))
}

pub(crate) fn functions() -> &'static Functions {
    static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
        let mut scalars = HashMap::new();
        let own = json::functions().into_iter().chain(temporal::functions()).map(Arc::new);
        let known =
            datafusion_functions::all_default_functions().into_iter().map(|udf| Arc::new(canonical::canonical(udf)));
        // Ours come last and win.
        for udf in known.chain(own) {
            for name in std::iter::once(udf.name()).chain(udf.aliases().iter().map(String::as_str)) {
                if refused(name).is_none() {
                    scalars.insert(name.to_owned(), Arc::clone(&udf));
                }
            }
        }
        let mut aggregates = HashMap::new();
        for udaf in aggregate::aggregates().map(Arc::new) {
            for name in std::iter::once(udaf.name()).chain(udaf.aliases().iter().map(String::as_str)) {
                aggregates.insert(name.to_owned(), Arc::clone(&udaf));
            }
        }
        Functions { scalars, aggregates, row_number: Arc::new(rank::row_number()) }
    });
    &FUNCTIONS
}
