use super::*;
use arrow::datatypes::DataType;
use proptest::prelude::*;
use std::collections::BTreeMap;
use weir_model::StateField;

fn state(kind: StateKind, ttl_ms: Option<u64>) -> OrderedState {
    let schema = StateSchema {
        name: "test".into(),
        kind,
        key: vec![StateField::new("k", DataType::Binary, false)],
        namespace: vec![StateField::new("n", DataType::Int64, false)],
        value: vec![StateField::new("v", DataType::Int64, true)],
        semantics: vec![],
    };
    OrderedState::new(schema, KeyGroupRange { first: 4, last: 7 }, 8, ttl_ms).unwrap()
}

type Model = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

fn contents(state: &mut OrderedState) -> Model {
    let mut found = Model::new();
    for group in state.key_groups().iter() {
        state
            .scan_range(group, &[], None, |place, value| {
                found.insert((group.0, place.to_vec()), value.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    found
}

proptest! {
    #[test]
    fn equals_a_map(steps in prop::collection::vec((4u16..8, prop::collection::vec(0u8..3, 0..6), prop::option::weighted(0.7, 0usize..300)), 1..1500)) {
        let mut state = state(StateKind::Map, None);
        let mut model = Model::new();
        for (group, place, value) in steps {
            let (first, second) = place.split_at(place.len() / 2);
            match value {
                Some(length) => {
                    let value = vec![length as u8; length];
                    state.put(KeyGroup(group), first, second, &value).unwrap();
                    model.insert((group, place), value);
                }
                None => {
                    state.delete(KeyGroup(group), first, second).unwrap();
                    model.remove(&(group, place));
                }
            }
        }
        prop_assert_eq!(contents(&mut state), model.clone());
        prop_assert_eq!(state.len(), model.len());
        for prefix in [vec![], vec![1], vec![2, 0]] {
            let mut found = vec![];
            state.scan_prefix(KeyGroup(5), &prefix, |rest, value| { found.push((rest.to_vec(), value.to_vec())); ControlFlow::Continue(()) }).unwrap();
            let expected: Vec<_> = model.iter().filter(|((g, p), _)| *g == 5 && p.starts_with(&prefix)).map(|((_, p), v)| (p[prefix.len()..].to_vec(), v.clone())).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn due_timers_come_in_order(times in prop::collection::vec((4u16..8, -50i64..50, any::<u8>()), 0..600), bounds in prop::collection::vec(-60i64..60, 1..8)) {
        let mut state = state(StateKind::Timer, None);
        let mut model: std::collections::BTreeSet<(u16, i64, u8)> = Default::default();
        let mut bounds = bounds;
        bounds.sort();
        for (at, timer) in times.iter().enumerate() {
            let (group, time, key) = *timer;
            state.put_timer(KeyGroup(group), time, &[key], &[]).unwrap();
            model.insert(*timer);
            if at % 7 == 3 {
                state.delete_timer(KeyGroup(group), time, &[key]).unwrap();
                model.remove(timer);
            }
            prop_assert_eq!(state.first_time(), model.iter().map(|(_, time, _)| *time).min());
        }
        for bound in bounds {
            let mut due = vec![];
            while state.take_due(bound, 5, |group, time, key, _| due.push((group.0, time, key[0]))).unwrap() == 5 {}
            due.sort();
            let expected: Vec<_> = model.iter().filter(|(_, time, _)| *time <= bound).copied().collect();
            model.retain(|(_, time, _)| *time > bound);
            prop_assert_eq!(due, expected);
            prop_assert_eq!(state.first_time(), model.iter().map(|(_, time, _)| *time).min());
        }
    }
}

#[test]
fn a_timer_time_keeps_order() {
    let times = [i64::MIN, -1, 0, 1, i64::MAX];
    assert!(times.windows(2).all(|pair| timer_time(pair[0]) < timer_time(pair[1])));
    assert!(times.iter().all(|time| time_of_timer(timer_time(*time)) == *time));
}
