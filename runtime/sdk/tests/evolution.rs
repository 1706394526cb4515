//! State of an earlier version of an operator, read by a later one.

use weir_sdk::testing::Harness;
use weir_sdk::*;

mod first {
    weir_sdk::record! {
        pub struct Visits {
            pub count: i32,
            pub note: String,
        }
    }
}

mod wider {
    weir_sdk::record! {
        pub struct Visits {
            pub count: i64,
            pub last: Option<weir_sdk::Timestamp>,
        }
    }
}

mod renamed {
    weir_sdk::record! {
        pub struct Visits {
            pub visits: i32,
        }
    }
}

/// A version: counts, and tells the count and what else is new in it.
macro_rules! version {
    ($name:ident, $record:ty, $state:literal, $before:ident => $shown:expr, $after:expr) => {
        struct $name(ValueState<$record>);

        impl Operator for $name {
            type Config = ();

            fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
                Ok(RowSchema::new().column::<String>("shown"))
            }

            fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
                Ok($name(setup.value_state($state)?))
            }

            fn process(&mut self, _: Row<'_>, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
                let $before = self.0.value(context)?;
                out.emit($shown)?;
                self.0.update(context, &$after)
            }
        }
    };
}
version!(First, first::Visits, "visits",
    before => before.as_ref().map_or(String::new(), |visits| format!("{}{}", visits.note, visits.count)),
    first::Visits { count: before.map_or(0, |visits| visits.count) + 1, note: "n".into() });
version!(Wider, wider::Visits, "visits",
    before => before.as_ref().map_or(String::new(), |visits| format!("{} {:?}", visits.count, visits.last)),
    wider::Visits { count: before.map_or(0, |visits| visits.count) + 1, last: Some(Timestamp::MIN) });
version!(Renamed, renamed::Visits, "visits", before => before.map_or(0, |visits| visits.visits).to_string(),
    renamed::Visits { visits: 1 });
version!(Elsewhere, first::Visits, "visits-2", before => before.map_or(0, |visits| visits.count).to_string(),
    first::Visits { count: 1, note: String::new() });

fn build<O: Operator>(from: Option<&testing::Snapshot>) -> Result<Harness> {
    let builder = Harness::of::<O>().input(RowSchema::new().column::<String>("user")).key_by(["user"]);
    match from {
        Some(snapshot) => builder.parallelism(2).restore(snapshot).build(),
        None => builder.build(),
    }
}

#[test]
fn fields_are_added_widened_and_dropped_and_nothing_else() -> Result<()> {
    let mut harness = build::<First>(None)?;
    harness.push_all(["ada", "ada", "bob"])?;
    assert_eq!(harness.take::<String>()?, ["", "n1", ""]);
    let snapshot = harness.snapshot()?;

    let mut wider = build::<Wider>(Some(&snapshot))?;
    wider.push("ada")?;
    wider.push("ada")?;
    assert_eq!(wider.take::<String>()?, ["2 None".to_owned(), format!("3 {:?}", Some(Timestamp::MIN))]);

    let refused = |result: Result<Harness>| result.err().map_or_else(String::new, |error| error.to_string());
    let renamed = refused(build::<Renamed>(Some(&snapshot)));
    assert!(renamed.contains("column `visits` is new and not nullable"), "{renamed}");
    let elsewhere = refused(build::<Elsewhere>(Some(&snapshot)));
    assert!(elsewhere.contains("holds state `visits`, which the operator has not"), "{elsewhere}");
    Ok(())
}
