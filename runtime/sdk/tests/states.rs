//! Every kind of state against a model in plain collections, over batches, checkpoints and rescaling.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weir_sdk::testing::Harness;
use weir_sdk::*;

record! {
    #[derive(Clone, Debug, PartialEq)]
    struct Item {
        text: String,
        number: Option<i64>,
    }
}

record! {
    #[derive(Clone, Debug)]
    struct Command {
        key: i64,
        what: String,
        argument: i64,
    }
}

/// Does what its input says, and prints what it finds.
struct Machine {
    command: RecordColumns<Command>,
    value: ValueState<Item>,
    number: ValueState<f64>,
    list: ListState<Item>,
    map: MapState<(i64, String), Item>,
}

impl Operator for Machine {
    type Config = ();

    fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
        Ok(RowSchema::new().column::<i64>("key").column::<String>("found"))
    }

    fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
        Ok(Machine {
            command: setup.record()?,
            value: setup.value_state("value")?,
            number: setup.value_state("number")?,
            list: setup.list_state("list")?,
            map: setup.map_state("map")?,
        })
    }

    fn process(&mut self, row: Row<'_>, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let Command { key, what, argument } = row.read(&self.command)?;
        let entry = (argument % 7, format!("k{}", argument % 3));
        match what.as_str() {
            "set" => self.value.update(context, &item(argument))?,
            "clear" => self.value.clear(context)?,
            "add number" => {
                let number = self.number.value(context)?.unwrap_or(0.5);
                self.number.update(context, &(number + argument as f64))?;
            }
            "append" => self.list.add(context, &item(argument))?,
            "append two" => self.list.add_all(context, &[item(argument), item(argument + 1)])?,
            "replace list" => self.list.update(context, &[item(argument)])?,
            "remove first" => drop(self.list.remove_first(context)?),
            "clear list" => self.list.clear(context)?,
            "put" => self.map.put(context, &entry, &item(argument))?,
            "remove" => drop(self.map.remove(context, &entry)?),
            "clear map" => self.map.clear(context)?,
            "show" => {
                let list = self.list.get(context)?;
                assert_eq!((list.len(), list.is_empty()), (self.list.len(context)?, self.list.is_empty(context)?));
                let map = self.map.entries(context)?;
                assert_eq!(map.is_empty(), self.map.is_empty(context)?);
                for (key, value) in &map {
                    assert!(self.map.contains(context, key)?);
                    assert_eq!(self.map.get(context, key)?.as_ref(), Some(value));
                }
                let found = Model {
                    value: self.value.value(context)?,
                    number: self.number.value(context)?,
                    list,
                    map: map.into_iter().collect(),
                };
                out.emit((key, format!("{found:?}")))?;
            }
            other => return Err(Error::new(format!("no command {other}"))),
        }
        Ok(())
    }
}

fn item(number: i64) -> Item {
    Item { text: "x".repeat(number as usize % 40), number: (number % 5 != 0).then_some(number) }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    value: Option<Item>,
    number: Option<f64>,
    list: Vec<Item>,
    map: BTreeMap<(i64, String), Item>,
}

impl Model {
    fn apply(&mut self, what: &str, argument: i64) {
        let entry = (argument % 7, format!("k{}", argument % 3));
        match what {
            "set" => self.value = Some(item(argument)),
            "clear" => self.value = None,
            "add number" => self.number = Some(self.number.unwrap_or(0.5) + argument as f64),
            "append" => self.list.push(item(argument)),
            "append two" => self.list.extend([item(argument), item(argument + 1)]),
            "replace list" => self.list = vec![item(argument)],
            "remove first" => drop((!self.list.is_empty()).then(|| self.list.remove(0))),
            "clear list" => self.list.clear(),
            "put" => drop(self.map.insert(entry, item(argument))),
            "remove" => drop(self.map.remove(&entry)),
            "clear map" => self.map.clear(),
            _ => {}
        }
    }
}

const COMMANDS: [&str; 12] = [
    "set",
    "clear",
    "add number",
    "append",
    "append two",
    "replace list",
    "remove first",
    "clear list",
    "put",
    "remove",
    "clear map",
    "show",
];

fn machine(parallelism: u32) -> testing::HarnessBuilder {
    Harness::of::<Machine>().input(RowSchema::of::<Command>()).key_by(["key"]).parallelism(parallelism)
}

#[test]
fn states_are_what_collections_are_over_checkpoints_and_rescaling() {
    for seed in 0..20 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut harness = machine(random.random_range(1..4)).build().unwrap();
        let mut models: BTreeMap<i64, Model> = BTreeMap::new();
        for _ in 0..60 {
            let batch: Vec<Command> = (0..random.random_range(1..60))
                .map(|_| Command {
                    key: random.random_range(0..8),
                    what: COMMANDS[random.random_range(0..COMMANDS.len())].to_owned(),
                    argument: random.random_range(0..1000),
                })
                .collect();
            let mut expected: BTreeMap<i64, Vec<String>> = BTreeMap::new();
            for Command { key, what, argument } in &batch {
                let model = models.entry(*key).or_default();
                model.apply(what, *argument);
                if what == "show" {
                    expected.entry(*key).or_default().push(format!("{model:?}"));
                }
            }
            harness.push_all(batch).unwrap();
            let mut found: BTreeMap<i64, Vec<String>> = BTreeMap::new();
            for (key, text) in harness.take::<(i64, String)>().unwrap() {
                found.entry(key).or_default().push(text);
            }
            assert_eq!(found, expected, "seed {seed}");
            if random.random_bool(0.2) {
                let snapshot = harness.snapshot().unwrap();
                if random.random_bool(0.5) {
                    harness = machine(random.random_range(1..9)).restore(&snapshot).build().unwrap();
                }
            }
        }
    }
}

/// Sets and deletes timers as its input says, and tells which ones fire.
struct Alarms {
    key: Column<i64>,
    what: Column<String>,
    at: Column<i64>,
    own_key: KeyColumn<i64>,
    early: Timers,
    late: Timers,
}

impl Operator for Alarms {
    type Config = ();

    fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
        Ok(RowSchema::new().column::<Timestamp>("at").column::<String>("set").column::<i64>("key"))
    }

    fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
        Ok(Alarms {
            key: setup.column("key")?,
            what: setup.column("what")?,
            at: setup.column("argument")?,
            own_key: setup.key("key")?,
            early: setup.event_timers("early")?,
            late: setup.event_timers("late")?,
        })
    }

    fn process(&mut self, row: Row<'_>, context: &mut Context<'_>, _: &mut Output<'_>) -> Result<()> {
        assert_eq!(row.get(self.key)?, context.key(self.own_key)?);
        let at = Timestamp::from_micros(row.get(self.at)?);
        match row.get(self.what)? {
            "early" => self.early.register(context, at),
            "late" => self.late.register(context, at),
            _ => self.late.delete(context, at),
        }
    }

    /// An early one with an odd time sets another, even one takes the key's late timer of the same time back.
    fn on_timer(&mut self, timer: Timer, context: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let set = if timer.is(self.early) { "early" } else { "late" };
        out.emit((timer.time(), set, context.key(self.own_key)?))?;
        match (set, timer.time().as_micros() % 2) {
            ("early", 0) => self.late.delete(context, timer.time()),
            ("early", _) => self.late.register(context, timer.time() + Duration::from_micros(3)),
            _ => Ok(()),
        }
    }
}

#[test]
fn timers_fire_once_in_order_of_time_whatever_the_watermark_jumps_over() {
    for seed in 0..30 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let alarms = || Harness::of::<Alarms>().input(RowSchema::of::<Command>()).key_by(["key"]);
        let mut harness = alarms().build().unwrap();
        // (time, set, key)
        let mut model: BTreeSet<(i64, &str, i64)> = BTreeSet::new();
        let mut now = 0;
        for _ in 0..20 {
            let commands: Vec<Command> = (0..random.random_range(0..300))
                .map(|_| Command {
                    key: random.random_range(0..40),
                    what: ["early", "late", "delete"][random.random_range(0..3)].to_owned(),
                    argument: now + random.random_range(-5..200),
                })
                .collect();
            for Command { key, what, argument } in &commands {
                match what.as_str() {
                    "early" => drop(model.insert((*argument, "early", *key))),
                    "late" => drop(model.insert((*argument, "late", *key))),
                    _ => drop(model.remove(&(*argument, "late", *key))),
                }
            }
            harness.push_all(commands).unwrap();
            now += random.random_range(0..150);
            harness.watermark(Timestamp::from_micros(now)).unwrap();
            let mut expected = vec![];
            while let Some(first) = model.first().filter(|(at, ..)| *at <= now).copied() {
                model.remove(&first);
                expected.push(first);
                match first {
                    (at, "early", key) if at % 2 == 0 => drop(model.remove(&(at, "late", key))),
                    (at, "early", key) => drop(model.insert((at + 3, "late", key))),
                    _ => {}
                }
            }
            let mut found = harness.take::<(Timestamp, String, i64)>().unwrap();
            assert!(found.is_sorted_by_key(|(at, set, _)| (*at, set.clone())), "seed {seed}: {found:?}");
            // Between keys of one time and set there is no order.
            found.sort();
            let expected: Vec<(Timestamp, String, i64)> =
                expected.into_iter().map(|(at, set, key)| (Timestamp::from_micros(at), set.to_owned(), key)).collect();
            assert_eq!(found, expected, "seed {seed}");
            if random.random_bool(0.3) {
                let snapshot = harness.snapshot().unwrap();
                harness = alarms().restore(&snapshot).build().unwrap();
                harness.watermark(Timestamp::from_micros(now)).unwrap();
                assert_eq!(harness.take_batches().len(), 0, "seed {seed}");
            }
        }
    }
}

/// More timers at once than a round looks at, all of one key: in order, each once.
#[test]
fn many_timers_of_one_key() {
    let mut harness =
        Harness::of::<Alarms>().input(RowSchema::of::<Command>()).key_by(["key"]).max_parallelism(2).build().unwrap();
    let command = |at: i64| Command { key: 1, what: "late".into(), argument: at * 2 };
    harness.push_all((0..20_000).rev().map(command)).unwrap();
    harness.end().unwrap();
    let fired: Vec<i64> =
        harness.take::<(Timestamp, String, i64)>().unwrap().iter().map(|(at, ..)| at.as_micros()).collect();
    assert_eq!(fired, (0..20_000).map(|at| at * 2).collect::<Vec<_>>());
}
