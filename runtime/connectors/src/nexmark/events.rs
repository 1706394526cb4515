//! Events by their numbers.

use super::{NexmarkConfig, NexmarkTable};
use crate::api::ConnectorError;
use crate::formats::write_integer;
use crate::numbered::{RowMaker, mix, uniform};
use arrow::array::*;
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{ArrowPrimitiveType, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use std::sync::{Arc, LazyLock};

/// Events of one round, and how it is divided: the persons first, then the auctions, then the bids.
const ROUND: u64 = 50;
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;

const FIRST_PERSON_ID: u64 = 1000;
const FIRST_AUCTION_ID: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;

/// One in so many sellers, and bidders, and auctions of a bid is not a hot one.
const HOT_SELLER_RATIO: u64 = 4;
const HOT_BIDDER_RATIO: u64 = 4;
const HOT_AUCTION_RATIO: u64 = 2;
const HOT_CHANNEL_RATIO: u64 = 2;
/// The hot one changes every so many persons, or auctions.
const HOT_EVERY: u64 = 100;
/// Persons that bid and sell, and auctions that are bid for, are among the last so many.
const ACTIVE_PERSONS: u64 = 1000;
const AUCTIONS_IN_FLIGHT: u64 = 100;
/// Ids that don't exist yet, and are named nevertheless.
const PERSON_LEAD: u64 = 10;
const AUCTION_LEAD: u64 = 10;
const CHANNELS: u64 = 10_000;

/// Bytes that an event has on average, texts padded accordingly.
const PERSON_BYTES: u64 = 200;
const AUCTION_BYTES: u64 = 500;
const BID_BYTES: u64 = 100;

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const FIRST_NAMES: [&str; 12] =
    ["Ada", "Barbara", "Donald", "Edsger", "Frances", "Grace", "Jim", "Leslie", "Margaret", "Niklaus", "Radia", "Tony"];
const LAST_NAMES: [&str; 10] =
    ["Allen", "Codd", "Dijkstra", "Gray", "Hamilton", "Hopper", "Knuth", "Lamport", "Liskov", "Perlman"];
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

pub(super) struct Events {
    schema: SchemaRef,
    table: NexmarkTable,
    seed: u64,
    start_us: i64,
    event_interval_ns: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Person,
    Auction,
    Bid,
}

impl Kind {
    fn of(event: u64) -> Kind {
        match event % ROUND {
            place if place < PERSONS => Kind::Person,
            place if place < PERSONS + AUCTIONS => Kind::Auction,
            _ => Kind::Bid,
        }
    }
}

/// Random numbers of one event.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        uniform(self.bits(), limit)
    }

    fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Most prices are low: evenly spread on a logarithmic scale, in cents.
    fn price(&mut self) -> i64 {
        let unit = (self.bits() >> 11) as f64 / (1_u64 << 53) as f64;
        (10_f64.powf(unit * 6.0) * 100.0).round() as i64
    }
}

impl Events {
    pub fn new(config: &NexmarkConfig, schema: SchemaRef) -> Self {
        Events {
            schema,
            table: config.table,
            seed: mix(config.seed ^ 0x4e45_584d_4152_4b00),
            start_us: config.start_us,
            event_interval_ns: config.event_interval_ns,
        }
    }

    fn random(&self, event: u64) -> Random {
        Random(mix(self.seed ^ event.wrapping_mul(0xD134_2543_DE82_EF95)))
    }

    fn time_us(&self, event: u64) -> i64 {
        self.start_us + (i128::from(event) * i128::from(self.event_interval_ns) / 1_000) as i64
    }

    fn persons(&self, events: &[u64]) -> Vec<ArrayRef> {
        let rows = events.len();
        let [mut ids, mut times] = [(); 2].map(|()| Vec::with_capacity(rows));
        let [mut names, mut emails, mut cards, mut cities, mut states, mut extras] = [(); 6].map(|()| Texts::new(rows));
        for &event in events {
            let random = &mut self.random(event);
            ids.push((FIRST_PERSON_ID + last_person(event)) as i64);
            let (first, last) = (random.one_of(&FIRST_NAMES), random.one_of(&LAST_NAMES));
            names.push(|out| out.extend([first, " ", last].concat().bytes()));
            emails.push(|out| {
                letters(random, 7, out);
                out.push(b'@');
                letters(random, 5, out);
                out.extend_from_slice(b".example");
            });
            cards.push(|out| {
                for group in 0..4 {
                    if group > 0 {
                        out.push(b' ');
                    }
                    let digits = random.below(10_000);
                    out.extend([1000, 100, 10, 1].map(|place| b'0' + (digits / place % 10) as u8));
                }
            });
            cities.push(|out| out.extend_from_slice(random.one_of(&CITIES).as_bytes()));
            states.push(|out| out.extend_from_slice(random.one_of(&STATES).as_bytes()));
            times.push(self.time_us(event));
            extras.push(|out| padding(random, PERSON_BYTES - 100, out));
        }
        vec![
            numbers::<Int64Type>(ids),
            names.finish(),
            emails.finish(),
            cards.finish(),
            cities.finish(),
            states.finish(),
            numbers::<TimestampMicrosecondType>(times),
            extras.finish(),
        ]
    }

    fn auctions(&self, events: &[u64]) -> Vec<ArrayRef> {
        let rows = events.len();
        let [mut ids, mut initial, mut reserves, mut times, mut expires, mut sellers, mut categories] =
            [(); 7].map(|()| Vec::with_capacity(rows));
        let [mut items, mut descriptions, mut extras] = [(); 3].map(|()| Texts::new(rows));
        for &event in events {
            let random = &mut self.random(event);
            ids.push((FIRST_AUCTION_ID + last_auction(event)) as i64);
            items.push(|out| letters(random, 20, out));
            descriptions.push(|out| letters(random, 100, out));
            let first_bid = random.price();
            initial.push(first_bid);
            reserves.push(first_bid + random.price());
            let time = self.time_us(event);
            times.push(time);
            // Long enough that about as many auctions are open as are in flight.
            let horizon = self.time_us(event + AUCTIONS_IN_FLIGHT * ROUND / AUCTIONS) - time;
            expires.push(time + 1_000 + random.below((horizon as u64 * 2).max(1)) as i64);
            sellers.push(match random.below(HOT_SELLER_RATIO) {
                0 => some_person(event, random),
                _ => (FIRST_PERSON_ID + last_person(event) / HOT_EVERY * HOT_EVERY) as i64,
            });
            categories.push((FIRST_CATEGORY + random.below(CATEGORIES)) as i64);
            extras.push(|out| padding(random, AUCTION_BYTES - 200, out));
        }
        vec![
            numbers::<Int64Type>(ids),
            items.finish(),
            descriptions.finish(),
            numbers::<Int64Type>(initial),
            numbers::<Int64Type>(reserves),
            numbers::<TimestampMicrosecondType>(times),
            numbers::<TimestampMicrosecondType>(expires),
            numbers::<Int64Type>(sellers),
            numbers::<Int64Type>(categories),
            extras.finish(),
        ]
    }

    fn bids(&self, events: &[u64]) -> Vec<ArrayRef> {
        let rows = events.len();
        let [mut auctions, mut bidders, mut prices, mut times] = [(); 4].map(|()| Vec::with_capacity(rows));
        let [mut channels, mut urls, mut extras] = [(); 3].map(|()| Texts::new(rows));
        for &event in events {
            let random = &mut self.random(event);
            auctions.push(match random.below(HOT_AUCTION_RATIO) {
                0 => some_auction(event, random),
                _ => (FIRST_AUCTION_ID + last_auction(event) / HOT_EVERY * HOT_EVERY) as i64,
            });
            bidders.push(match random.below(HOT_BIDDER_RATIO) {
                0 => some_person(event, random),
                _ => (FIRST_PERSON_ID + last_person(event) / HOT_EVERY * HOT_EVERY + 1) as i64,
            });
            prices.push(random.price());
            let hot = random.below(HOT_CHANNEL_RATIO) > 0;
            let channel = random.below(if hot { HOT_CHANNELS.len() as u64 } else { CHANNELS });
            channels.push(|out| match hot {
                true => out.extend_from_slice(HOT_CHANNELS[channel as usize].as_bytes()),
                false => {
                    out.extend_from_slice(b"channel-");
                    write_integer(channel as i64, out);
                }
            });
            urls.push(|out| {
                out.extend_from_slice(b"https://auctions.example/");
                // A channel has one address.
                letters(&mut Random(mix(channel + u64::from(hot) * CHANNELS)), 5, out);
                out.extend_from_slice(b"/item.htm?query=1");
                if !hot {
                    out.extend_from_slice(b"&channel_id=");
                    write_integer(channel as i64, out);
                }
            });
            times.push(self.time_us(event));
            extras.push(|out| padding(random, BID_BYTES - 32, out));
        }
        vec![
            numbers::<Int64Type>(auctions),
            numbers::<Int64Type>(bidders),
            numbers::<Int64Type>(prices),
            channels.finish(),
            urls.finish(),
            numbers::<TimestampMicrosecondType>(times),
            extras.finish(),
        ]
    }

    /// The columns of all kinds: each kind's are made for its events and spread over the rows.
    fn all(&self, first: u64, count: usize) -> Vec<ArrayRef> {
        let events = || first..first + count as u64;
        let kinds: Int32Array = events().map(|event| Kind::of(event) as i32).collect();
        let times = events().map(|event| self.time_us(event)).collect();
        let mut columns = vec![Arc::new(kinds) as ArrayRef, numbers::<TimestampMicrosecondType>(times)];
        for (kind, time_column) in [(Kind::Person, 6), (Kind::Auction, 5), (Kind::Bid, 5)] {
            let own: Vec<_> = events().filter(|event| Kind::of(*event) == kind).collect();
            let mut made = match kind {
                Kind::Person => self.persons(&own),
                Kind::Auction => self.auctions(&own),
                Kind::Bid => self.bids(&own),
            };
            made.remove(time_column);
            let mut next = 0;
            let places: Vec<u32> = events()
                .map(|event| {
                    let place = next;
                    next += u32::from(Kind::of(event) == kind);
                    place
                })
                .collect();
            let is_own = BooleanBuffer::collect_bool(count, |row| Kind::of(first + row as u64) == kind);
            let places = UInt32Array::new(places.into(), Some(NullBuffer::new(is_own)));
            let spread =
                |column: &ArrayRef| arrow::compute::take(column, &places, None).expect("a NULL place is not looked at");
            columns.extend(made.iter().map(spread));
        }
        columns
    }
}

impl RowMaker for Events {
    fn make(&mut self, first: u64, count: usize) -> Result<RecordBatch, ConnectorError> {
        let own = |kind| (first..first + count as u64).filter(|event| Kind::of(*event) == kind).collect::<Vec<_>>();
        let columns = match self.table {
            NexmarkTable::Person => self.persons(&own(Kind::Person)),
            NexmarkTable::Auction => self.auctions(&own(Kind::Auction)),
            NexmarkTable::Bid => self.bids(&own(Kind::Bid)),
            NexmarkTable::All => self.all(first, count),
        };
        Ok(RecordBatch::try_new(self.schema.clone(), columns).expect("columns in the schema's order and types"))
    }
}

/// Number of the last person at this event: each round begins with its only one.
fn last_person(event: u64) -> u64 {
    const { assert!(PERSONS == 1) };
    event / ROUND
}

/// Number of the last auction at this event.
fn last_auction(event: u64) -> u64 {
    let (round, place) = (event / ROUND, event % ROUND);
    if place < PERSONS {
        // Before this round's first: the last of the round before, if there was one.
        return (round * AUCTIONS).saturating_sub(1);
    }
    round * AUCTIONS + (place - PERSONS).min(AUCTIONS - 1)
}

fn some_person(event: u64, random: &mut Random) -> i64 {
    let persons = last_person(event) + 1;
    let active = persons.min(ACTIVE_PERSONS);
    (FIRST_PERSON_ID + persons - active + random.below(active + PERSON_LEAD)) as i64
}

fn some_auction(event: u64, random: &mut Random) -> i64 {
    let last = last_auction(event);
    let first = last.saturating_sub(AUCTIONS_IN_FLIGHT);
    (FIRST_AUCTION_ID + first + random.below(last - first + 1 + AUCTION_LEAD)) as i64
}

/// Letters to cut texts out of: much faster than making each letter at random, and as hard to guess.
fn letters(random: &mut Random, count: u64, out: &mut Vec<u8>) {
    const POOL_BYTES: u64 = 1 << 14;
    static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut random = Random(1);
        (0..POOL_BYTES).map(|_| b"abcdefghijklmnopqrstuvwxyz______"[random.below(32) as usize]).collect()
    });
    let start = random.below(POOL_BYTES - count) as usize;
    out.extend_from_slice(&POOL[start..start + count as usize]);
}

/// Text that brings an event to its size, a fifth more or less.
fn padding(random: &mut Random, average: u64, out: &mut Vec<u8>) {
    let spread = (average / 5).max(1);
    let length = average - spread + random.below(2 * spread);
    letters(random, length, out);
}

/// A text column under construction.
struct Texts {
    bytes: Vec<u8>,
    offsets: Vec<i32>,
}

impl Texts {
    fn new(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Texts { bytes: Vec::with_capacity(rows * 16), offsets }
    }

    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.offsets.push(i32::try_from(self.bytes.len()).expect("a block of events is far below 2 GiB"));
    }

    fn finish(self) -> ArrayRef {
        Arc::new(StringArray::new(OffsetBuffer::new(self.offsets.into()), self.bytes.into(), None))
    }
}

fn numbers<T: ArrowPrimitiveType<Native = i64>>(values: Vec<i64>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values.into(), None))
}
