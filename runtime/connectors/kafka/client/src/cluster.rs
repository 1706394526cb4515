//! The brokers of a cluster: who leads which partition, who coordinates what, and a connection to each that is needed.

use crate::connection::Connection;
use crate::error::{KafkaError, Result, check};
use crate::options::Options;
use crate::tls;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeConfigsRequest, FindCoordinatorRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use rustls::ClientConfig;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Under this number stands the connection by which the others are learned.
const BOOTSTRAP: i32 = -1;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Brokers learn of a topic one after the other, and of all topics anew when they start.
const NEW_TOPIC_PATIENCE: Duration = Duration::from_secs(3);
/// Of the kind that a config resource is.
const BROKER_RESOURCE: i8 = 4;
const TOPIC_RESOURCE: i8 = 2;

pub struct Cluster {
    options: Options,
    tls: Option<Arc<ClientConfig>>,
    addresses: BTreeMap<i32, String>,
    connections: HashMap<i32, Connection>,
    topics: HashMap<String, (Instant, Topic)>,
    coordinators: HashMap<(CoordinatorKind, String), i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
    pub is_internal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    pub partition: i32,
    /// None while an election runs.
    pub leader: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CoordinatorKind {
    Group = 0,
    Transaction = 1,
}

impl Cluster {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// The TLS settings can't be used.
    pub fn new(options: Options) -> Result<Self> {
        let tls = options.security.tls.as_ref().map(tls::config).transpose()?;
        Ok(Cluster {
            options,
            tls,
            addresses: BTreeMap::new(),
            connections: HashMap::new(),
            topics: HashMap::new(),
            coordinators: HashMap::new(),
        })
    }

    /// The topic of this name as its cluster has it now.
    pub fn topic(&mut self, name: &str) -> Result<Topic> {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        self.metadata(Some(vec![topic]))?;
        let known = self.topics.get(name).map(|(_, topic)| topic.clone());
        known.ok_or_else(|| KafkaError::broker(ResponseError::UnknownTopicOrPartition, format!("topic `{name}`")))
    }

    /// As `topic`, of one that has to be there: what may pass is waited for.
    ///
    /// # Errors
    /// `NoTopic` once the brokers have had the time to learn of a topic that was just made.
    pub fn existing_topic(&mut self, name: &str, patience: Duration) -> Result<Topic> {
        let began = Instant::now();
        retry(patience, || {
            self.topic(name).map_err(|error| match error.code() {
                Some(ResponseError::UnknownTopicOrPartition) if began.elapsed() >= NEW_TOPIC_PATIENCE => {
                    KafkaError::NoTopic(name.to_owned())
                }
                _ => error,
            })
        })
    }

    /// All topics that we may see.
    pub fn all_topics(&mut self) -> Result<Vec<Topic>> {
        self.metadata(None)?;
        let mut topics: Vec<Topic> = self.topics.values().map(|(_, topic)| topic.clone()).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// The topic, from memory if what is known is young enough.
    pub fn known_topic(&mut self, name: &str) -> Result<&Topic> {
        let max_age = self.options.metadata_max_age;
        if self.topics.get(name).is_none_or(|(learned, _)| learned.elapsed() >= max_age) {
            self.topic(name)?;
        }
        let unknown = || KafkaError::broker(ResponseError::UnknownTopicOrPartition, format!("topic `{name}`"));
        self.topics.get(name).map(|(_, topic)| topic).ok_or_else(unknown)
    }

    pub fn leader(&mut self, topic: &str, partition: i32) -> Result<i32> {
        let known = self.known_topic(topic)?.partitions.iter().find(|known| known.partition == partition);
        let code = match known {
            Some(Partition { leader: Some(leader), .. }) => return Ok(*leader),
            Some(_) => ResponseError::LeaderNotAvailable,
            None => ResponseError::UnknownTopicOrPartition,
        };
        self.forget_leaders();
        Err(KafkaError::broker(code, format!("{topic}, partition {partition}")))
    }

    /// What is known about topics is out of date.
    pub fn forget_leaders(&mut self) {
        self.topics.clear();
    }

    /// Closes the connection, with all that waits on it.
    pub fn disconnect(&mut self, broker: i32) {
        self.connections.remove(&broker);
    }

    pub fn disconnect_all(&mut self) {
        self.connections.clear();
    }

    /// The brokers that there are.
    pub fn brokers(&mut self) -> Result<Vec<i32>> {
        self.metadata(Some(vec![]))?;
        Ok(self.addresses.keys().copied().collect())
    }

    /// The cluster's level of the feature `transaction.version`; 0 where brokers don't know it.
    pub fn transaction_version(&mut self) -> Result<i16> {
        self.any().map(|connection| connection.transaction_version())
    }

    /// The value of a broker's setting, where we may see it.
    pub fn broker_setting(&mut self, name: &str) -> Result<Option<String>> {
        let broker = *self.brokers()?.first().ok_or_else(|| KafkaError::Connection("there is no broker".into()))?;
        self.setting(BROKER_RESOURCE, broker.to_string(), name)
    }

    pub fn topic_setting(&mut self, topic: &str, name: &str) -> Result<Option<String>> {
        self.setting(TOPIC_RESOURCE, topic.to_owned(), name)
    }

    fn setting(&mut self, kind: i8, resource: String, name: &str) -> Result<Option<String>> {
        let what = format!("the settings of `{resource}`");
        let resource = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_string(resource))
            .with_configuration_keys(Some(vec![StrBytes::from_string(name.to_owned())]));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.any()?.call(&request)?;
        let Some(result) = answer.results.into_iter().next() else { return Ok(None) };
        check(result.error_code, || what)?;
        let value = result.configs.into_iter().find(|config| config.name.as_str() == name);
        Ok(value.and_then(|config| config.value).map(|value| value.as_str().to_owned()))
    }

    /// Creates a topic, with as many replicas as brokers have by default.
    pub fn create_topic(&mut self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let setting = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string((*name).to_owned()))
                .with_value(Some(StrBytes::from_string((*value).to_owned())))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(-1)
            .with_configs(settings.iter().map(setting).collect());
        let timeout_ms = i32::try_from(self.options.request_timeout.as_millis()).unwrap_or(i32::MAX);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms);
        let answer = self.any()?.call(&request);
        let answer = self.after_any(answer)?;
        let code = answer.topics.first().map_or(0, |topic| topic.error_code);
        check(code, || format!("creating the topic `{name}`"))
    }

    /// Opens it if need be.
    pub(crate) fn connection(&mut self, broker: i32) -> Result<&mut Connection> {
        if broker != BOOTSTRAP && self.connections.get(&broker).is_some_and(Connection::is_outlived) {
            self.connections.remove(&broker);
        }
        if !self.connections.contains_key(&broker) {
            let gone = || KafkaError::Connection(format!("the broker {broker} is not in the cluster's metadata"));
            let address = self.addresses.get(&broker).ok_or_else(gone)?;
            let connection = Connection::open(address, &self.options, self.tls.as_ref())?;
            self.connections.insert(broker, connection);
        }
        Ok(self.connections.get_mut(&broker).expect("it is there or was opened"))
    }

    /// The newest version of a call that this broker and we know, up to one.
    pub(crate) fn version_up_to<R: Request>(&mut self, broker: i32, newest: i16) -> Result<i16> {
        self.connection(broker)?.version_up_to::<R>(newest)
    }

    /// A call of one broker. What breaks closes the connection.
    pub(crate) fn call<R: Request>(&mut self, broker: i32, newest: i16, request: &R) -> Result<R::Response> {
        let connection = self.connection(broker)?;
        let answer = connection.version_up_to::<R>(newest).and_then(|version| connection.call_at(request, version));
        if matches!(answer, Err(KafkaError::Connection(_))) {
            self.disconnect(broker);
            // Who it was may have changed.
            self.forget_leaders();
            self.coordinators.retain(|_, known| *known != broker);
        }
        answer
    }

    /// A call of who coordinates a group or a transactional id; `read` finds the response's error.
    pub(crate) fn call_coordinator<R: Request, T>(
        &mut self,
        (kind, key): (CoordinatorKind, &str),
        newest: i16,
        request: &R,
        read: impl FnOnce(R::Response) -> Result<T>,
    ) -> Result<T> {
        let broker = self.coordinator(kind, key)?;
        let answer = self.call(broker, newest, request).and_then(read);
        let moved = [ResponseError::NotCoordinator, ResponseError::CoordinatorNotAvailable];
        if let Err(error) = &answer
            && error.code().is_some_and(|code| moved.contains(&code))
        {
            self.coordinators.remove(&(kind, key.to_owned()));
        }
        answer
    }

    fn coordinator(&mut self, kind: CoordinatorKind, key: &str) -> Result<i32> {
        if let Some(broker) = self.coordinators.get(&(kind, key.to_owned())) {
            return Ok(*broker);
        }
        let name = StrBytes::from_string(key.to_owned());
        let what = || format!("the coordinator of `{key}`");
        let connection = self.any()?;
        let version = connection.version_up_to::<FindCoordinatorRequest>(4)?;
        let request = FindCoordinatorRequest::default().with_key_type(kind as i8);
        let (broker, host, port) = if version >= 4 {
            let answer = connection.call_at(&request.with_coordinator_keys(vec![name]), version);
            let answer = self.after_any(answer)?;
            let none = || KafkaError::broker(ResponseError::CoordinatorNotAvailable, what());
            let found = answer.coordinators.into_iter().next().ok_or_else(none)?;
            check(found.error_code, what)?;
            (found.node_id.0, found.host, found.port)
        } else {
            let answer = connection.call_at(&request.with_key(name), version);
            let answer = self.after_any(answer)?;
            check(answer.error_code, what)?;
            (answer.node_id.0, answer.host, answer.port)
        };
        self.addresses.insert(broker, address(&host, port));
        self.coordinators.insert((kind, key.to_owned()), broker);
        Ok(broker)
    }

    fn metadata(&mut self, topics: Option<Vec<MetadataRequestTopic>>) -> Result<()> {
        let asked: Option<Vec<String>> = topics.as_ref().map(|topics| topics.iter().filter_map(name_of).collect());
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        let connection = self.any()?;
        let answer =
            connection.version_up_to::<MetadataRequest>(12).and_then(|version| connection.call_at(&request, version));
        let answer = self.after_any(answer)?;
        check(answer.error_code, || "the cluster's metadata".into())?;
        let mut addresses = BTreeMap::new();
        for broker in &answer.brokers {
            addresses.insert(broker.node_id.0, address(&broker.host, broker.port));
        }
        // A broker that came back under another address is met there.
        let known = &self.addresses;
        self.connections.retain(|broker, _| *broker == BOOTSTRAP || known.get(broker) == addresses.get(broker));
        self.addresses = addresses;
        match &asked {
            Some(names) => names.iter().for_each(|name| drop(self.topics.remove(name))),
            None => self.topics.clear(),
        }
        for topic in answer.topics {
            let name = topic.name.as_ref().map(|name| name.0.as_str().to_owned()).unwrap_or_default();
            if asked.is_some() {
                check(topic.error_code, || format!("topic `{name}`"))?;
            } else if topic.error_code != 0 {
                continue;
            }
            let mut partitions: Vec<Partition> = (topic.partitions.iter())
                .map(|found| Partition {
                    partition: found.partition_index,
                    leader: Some(found.leader_id.0).filter(|leader| *leader >= 0),
                })
                .collect();
            partitions.sort_by_key(|partition| partition.partition);
            let topic = Topic { name: name.clone(), partitions, is_internal: topic.is_internal };
            self.topics.insert(name, (Instant::now(), topic));
        }
        Ok(())
    }

    /// A connection to any broker: one that is open, else one to a known broker, else to a bootstrap address.
    fn any(&mut self) -> Result<&mut Connection> {
        self.connections.retain(|_, connection| !connection.is_outlived());
        let open = self.connections.keys().copied().max();
        let broker = match open {
            Some(open) => open,
            None => self.open_any()?,
        };
        self.connection(broker)
    }

    fn open_any(&mut self) -> Result<i32> {
        for broker in self.addresses.keys().copied().collect::<Vec<_>>() {
            if self.connection(broker).is_ok() {
                return Ok(broker);
            }
        }
        let mut reasons = vec![];
        for address in &self.options.bootstrap {
            match Connection::open(address, &self.options, self.tls.as_ref()) {
                Ok(connection) => {
                    self.connections.insert(BOOTSTRAP, connection);
                    return Ok(BOOTSTRAP);
                }
                Err(error @ KafkaError::Connection(_)) => reasons.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Err(KafkaError::Connection(reasons.join("; ")))
    }

    /// What broke on the connection of `any` closes all: which of them it was does not matter, they open again.
    fn after_any<T>(&mut self, answer: Result<T>) -> Result<T> {
        if matches!(answer, Err(KafkaError::Connection(_))) {
            self.connections.clear();
        }
        answer
    }
}

/// Repeats what may go well the next time, with pauses that grow, until `patience` is over.
pub fn retry<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt() {
            Err(error) if error.is_retriable() && started.elapsed() + pause < patience => {
                tracing::debug!(%error, "trying again");
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            done => return done,
        }
    }
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn name_of(topic: &MetadataRequestTopic) -> Option<String> {
    topic.name.as_ref().map(|name| name.0.as_str().to_owned())
}

fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
