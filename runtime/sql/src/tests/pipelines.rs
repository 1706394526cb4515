//! Several steps: their order, what they share, sinks, and mistakes across steps.

use super::*;
use crate::{CustomOperators, CustomTransform, DeadLetterDefinition, leave_out_unread_retractions};
use weir_model::UpdateBeforeUse;
use weir_model::graph::{NodeKind, StreamSchema};

#[track_caller]
fn check(definition: &PipelineDefinition, expected: &str) {
    let found = planned(definition);
    let expected = expected.trim_end();
    let lines: Vec<&str> = expected.lines().filter(|line| !line.trim().is_empty()).collect();
    let indent = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    let expected = lines.iter().map(|line| &line[indent..]).collect::<Vec<_>>().join("\n");
    assert_eq!(found, expected, "\n--- found\n{found}\n---\n");
}

#[test]
fn one_step_feeds_many_and_may_stand_behind_its_readers() {
    let mut definition = definition(vec![
        transform("count", "SELECT customer, COUNT(*) AS n FROM big GROUP BY customer"),
        transform("big-ones", "SELECT id FROM big"),
        transform("big", "SELECT id, customer FROM orders WHERE amount > 5"),
        transform("again", "SELECT * FROM \"big-ones\""),
    ]);
    definition.sinks = vec![sink("out", "count"), sink("raw", "orders")];
    definition.sinks[0].parallelism = Some(3);
    check(
        &definition,
        "
        big/calc  x2  Calc id, customer where amount > 5
          <- orders forward
          => (id BIGINT, customer VARCHAR)
        count/calc  x2  Calc customer
          <- big/calc forward
          => (customer VARCHAR)
        count/aggregate  x2  GroupAggregate by (customer): COUNT(*)
          <- count/calc hash(customer)
          => (customer VARCHAR, COUNT(*) BIGINT) updating
        count/calc-2  x2  Calc customer, COUNT(*) AS n
          <- count/aggregate forward
          => (customer VARCHAR, n BIGINT) updating
        big-ones/calc  x2  Calc id
          <- big/calc forward
          => (id BIGINT)
        again/calc  x2  Calc id
          <- big-ones/calc forward
          => (id BIGINT)
        out  x3  Sink
          <- count/calc-2 hash(customer)
          => (customer VARCHAR, n BIGINT) updating
        raw  x2  Sink
          <- orders forward
          => (id BIGINT, customer VARCHAR, amount DOUBLE, ts* TIMESTAMP)
        ",
    );
}

#[test]
fn what_is_partitioned_already_is_not_exchanged_again() {
    let definition = definition(vec![
        transform("counts", "SELECT customer, COUNT(*) AS n FROM orders GROUP BY customer"),
        transform("top", "SELECT customer, MAX(n) AS most FROM counts GROUP BY customer"),
    ]);
    let text = planned(&definition);
    assert!(
        text.contains("top/aggregate  x2  GroupAggregate by (customer): MAX(n)\n  <- counts/calc-2 forward"),
        "{text}"
    );
}

#[test]
fn ttl_and_lateness_reach_the_operators() {
    let mut steps = vec![
        transform("kept", "SELECT customer, COUNT(*) AS n FROM orders GROUP BY customer"),
        transform(
            "late",
            "SELECT window_end, COUNT(*) AS n FROM TABLE(TUMBLE(orders, DESCRIPTOR(ts), INTERVAL '1' HOUR)) \
             GROUP BY window_start, window_end",
        ),
    ];
    steps[0].state_ttl_ms = Some(3_600_000);
    steps[1].allowed_lateness_us = 90_000_000;
    let text = planned(&definition(steps));
    assert!(text.contains("GroupAggregate by (customer): COUNT(*) ttl 1h"), "{text}");
    assert!(text.contains("WindowAggregate tumble 1h of ts: COUNT(*) allowed lateness 90s"), "{text}");
    assert!(text.contains("(window_end TIMESTAMP, n BIGINT) updating"), "{text}");
}

#[test]
fn update_before_rows_are_made_where_somebody_reads_them() {
    let plan_with = |reads_step: &str, used: UpdateBeforeUse| {
        let steps = vec![
            transform("counts", "SELECT customer, COUNT(*) AS n FROM orders GROUP BY customer"),
            transform("renamed", "SELECT n AS m, customer AS who, UPPER(customer) AS loud FROM counts"),
            transform("large", "SELECT m, who FROM renamed WHERE m > 5"),
            transform("again", "SELECT m, COUNT(*) AS k FROM renamed GROUP BY m"),
        ];
        let mut definition = definition(steps);
        definition.sinks = vec![sink("out", reads_step)];
        // Steps that nobody reads would be readers too.
        definition.transforms.retain(|step| match reads_step {
            "large" => step.name != "again",
            "again" => step.name != "large",
            _ => step.name != "large" && step.name != "again",
        });
        let mut graph = plan(&definition, &NoCustomOperators).unwrap();
        leave_out_unread_retractions(&mut graph, |_| used.clone());
        explain(&graph).lines().filter(|line| line.contains("without update-before")).count()
    };
    let by_key = |column: &str| UpdateBeforeUse::ByKey(vec![column.into()]);
    for (step, used, without) in [
        ("renamed", UpdateBeforeUse::All, 0),
        ("renamed", UpdateBeforeUse::None, 1),
        // The filter goes by them, and the second aggregate by those of the first.
        ("large", UpdateBeforeUse::None, 0),
        ("again", UpdateBeforeUse::None, 1),
        // The key of a group stays. Of what else tells rows apart the row before must be known, or it would be there still.
        ("renamed", by_key("who"), 1),
        ("renamed", by_key("m"), 0),
        ("renamed", by_key("loud"), 0),
        ("renamed", by_key("nothing"), 0),
        ("large", by_key("who"), 0),
        ("again", by_key("m"), 1),
        ("again", by_key("k"), 0),
    ] {
        assert_eq!(plan_with(step, used.clone()), without, "{step}, {used:?}");
    }
}

#[test]
fn dead_letters_have_a_sink_of_their_own() {
    let mut definition = definition(vec![]);
    let letters = Arc::new(Schema::new(vec![Field::new("error", DataType::Utf8, false)]));
    definition.sources[0].dead_letter = Some(DeadLetterDefinition { sink: "rejected".into(), schema: letters });
    definition.sinks =
        vec![SinkDefinition { name: "rejected".into(), from: None, key_by: vec![], parallelism: Some(1) }];
    check(
        &definition,
        "
        rejected  x1  Sink
          <- orders (dead letters) rebalance
          => (error VARCHAR)
        ",
    );
    definition.sinks[0].from = Some("payments".into());
    assert!(planned(&definition).starts_with("rejected: it reads `payments` and the dead letters of `orders`"));
    definition.sinks[0].name = "rejects".into();
    assert!(planned(&definition).starts_with("orders: no sink `rejected` for its dead letters"));
}

#[test]
fn all_mistakes_of_all_steps_and_none_twice() {
    let mut definition = definition(vec![
        transform("a", "SELECT idd FROM orders"),
        transform("reads-a", "SELECT anything FROM a"),
        transform("b", "SELECT id FROM orderz"),
        transform("c", "SELECT id FROM d"),
        transform("d", "SELECT id FROM c"),
        transform("e", "SELECT id FROM out"),
        transform("f", "SELECT now() AS n,\n  amont FROM orders"),
        transform("f", "SELECT id FROM orders"),
    ]);
    definition.transforms[1].parallelism = Some(200);
    definition.sources[1].watermark_column = Some("paid".into());
    definition.sinks = vec![sink("out", "a"), sink("other", "reads-b")];
    check(
        &definition,
        "
        reads-a: a parallelism of 200, but there are 128 key groups (maxParallelism); write 1 to 128
        f: two steps have this name; state is matched by it: rename one of them
        payments: the watermark column `paid` is DECIMAL(10, 2); declare it as TIMESTAMP
        f:1:8: now reads the clock: records that are replayed after a failure would get another result; use a time column of the record, or windows over DESCRIPTOR(PROCTIME())
        b:1:16: no step `orderz`; the steps are `orders`, `customers`, `d`, `e`, `reads-a`, `payments`, `stock`, `a`, `c`, `f`
        e:1:16: `out` is a sink, which nothing can read; read the step that the sink reads
        c: steps read each other in a circle: c reads d reads c; a stream flows one way: break the circle
        a:1:8: no column `idd`; the columns are `id`, `customer`, `amount`, `ts`
        f:2:3: no column `amont`; the columns are `amount`, `customer`, `id`, `ts`
        other: no step `reads-b`; did you mean \"reads-a\"? A name with a hyphen or capital stands in double quotes
        ",
    );
}

struct Alerts;

impl CustomOperators for Alerts {
    fn types(&self) -> Vec<String> {
        vec!["Alerts".into()]
    }

    fn output(&self, _: &str, config: &str, inputs: &[StreamSchema]) -> Result<StreamSchema, String> {
        if config.contains("wrong") { Err("`wrong` is no option".into()) } else { Ok(inputs[0].clone()) }
    }
}

#[test]
fn operators_of_ones_own() {
    let custom = |operator_type: &str, key: &str, config: &str| TransformDefinition {
        kind: TransformKind::Custom(CustomTransform {
            operator_type: operator_type.into(),
            inputs: vec!["orders".into()],
            key_by: vec![vec![key.into()]],
            config: config.into(),
        }),
        ..transform("alerts", "")
    };
    let planned = |transform: TransformDefinition| match plan(&definition(vec![transform]), &Alerts) {
        Ok(graph) => {
            let node = graph.nodes.iter().find(|node| matches!(node.kind, NodeKind::Operator(_))).unwrap();
            format!("{} {:?}", node.uid, node.inputs[0].exchange)
        }
        Err(errors) => errors[0].to_string(),
    };
    assert_eq!(planned(custom("Alerts", "customer", "{}")), "alerts Hash { key_columns: [1] }");
    assert_eq!(
        planned(custom("Alert", "customer", "{}")),
        "alerts: no operator of type `Alert` in this binary; the types are `Alerts`; run the image that contains it"
    );
    assert_eq!(
        planned(custom("Alerts", "custmer", "{}")),
        "alerts: no column `custmer`; the columns are `customer`, `ts`, `id`, `amount`"
    );
    assert_eq!(
        planned(custom("Alerts", "customer", "wrong")),
        "alerts: `wrong` is no option; see the config of Alerts"
    );
}

#[test]
fn depth_is_bounded() {
    let chain = |terms: usize| {
        let terms: Vec<String> = (0..terms).map(|n| format!("id = {n}")).collect();
        planned(&definition(vec![transform("q", &format!("SELECT id FROM orders WHERE {}", terms.join(" OR ")))]))
    };
    assert!(chain(1000).starts_with("q/calc"), "a long chain is planned");
    assert!(chain(1100).contains("the query has more than 1000 operators"));
    let nested = format!("SELECT {}id{} AS x FROM orders", "(".repeat(300), ")".repeat(300));
    assert!(planned(&definition(vec![transform("q", &nested)])).contains("nests deeper than"));
}

/// Every process plans for itself, so all must come to the same graph.
#[test]
fn planning_is_deterministic() {
    let definition = definition(vec![transform(
        "q",
        "SELECT o.customer, COUNT(*) AS n, SUM(p.paid) AS paid FROM orders o JOIN payments p ON o.id = p.order_id \
         GROUP BY o.customer",
    )]);
    let first = planned(&definition);
    (0..20).for_each(|_| assert_eq!(planned(&definition), first));
}
