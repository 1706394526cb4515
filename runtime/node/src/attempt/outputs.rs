//! Where a subtask's batches go: channels in this process, and to other workers.

use super::DeployError;
use super::builder::Builder;
use crate::task::*;
use arrow::datatypes::SchemaRef;
use weir_connectors::api::dead_letter_schema;
use weir_model::graph::{Exchange, NodeId, Port};

impl Builder<'_> {
    pub(super) fn outputs(&mut self, task: usize, subtask: usize, port: Port) -> Result<Outputs, DeployError> {
        let plan = self.around.plan;
        let mut outputs = Outputs::default();
        for (reader, input) in plan.readers(task) {
            let edge = &plan.tasks[reader].inputs[input];
            if edge.port != port {
                continue;
            }
            let base = plan.channel_bases(reader)[input];
            let readers = plan.tasks[reader].parallelism;
            let (writers, partitioner) = match &edge.exchange {
                Exchange::Forward => {
                    (vec![self.writer((task, subtask), reader, subtask, base, port)?], Partitioner::Forward)
                }
                exchange => {
                    let writers: Vec<_> = (0..readers)
                        .map(|target| self.writer((task, subtask), reader, target, base + subtask, port))
                        .collect::<Result<_, _>>()?;
                    let partitioner = match exchange {
                        Exchange::Hash { key_columns } => Partitioner::Hash(HashPartitioner::new(
                            key_columns.clone(),
                            self.around.job.graph.max_parallelism,
                            writers.len(),
                            self.metrics(plan.tasks[task].nodes[0], subtask),
                            plan.tasks[reader].nodes[0].0 as u32,
                        )),
                        Exchange::Forward | Exchange::Rebalance => Partitioner::Rebalance { next: subtask },
                    };
                    (writers, partitioner)
                }
            };
            outputs.edges.push(OutputEdge { writers, partitioner });
        }
        Ok(outputs)
    }

    /// The way into a channel of a reading subtask, wherever that runs. `task` and `subtask`: who writes.
    fn writer(
        &mut self,
        (task, subtask): (usize, usize),
        reader: usize,
        target: usize,
        channel: usize,
        port: Port,
    ) -> Result<ChannelWriter, DeployError> {
        let urgent = self.gate(task, subtask).urgent();
        if self.around.is_here(target) {
            return Ok(ChannelWriter::local(self.gate(reader, target), channel, urgent));
        }
        let worker = self.around.deployment.slots[target];
        let number = self.around.plan.channel_number(reader, target, channel);
        let nodes = &self.around.plan.tasks[task].nodes;
        let from = match port {
            Port::Main => nodes[nodes.len() - 1],
            Port::DeadLetter => nodes[0],
        };
        let uid = &self.around.job.graph.node(from).uid;
        let limit = first_room(self.around.plan.channels(reader));
        let channel = self.exchange.to(worker).channel(number, &self.fields(from, port), urgent, limit);
        let channel = channel.map_err(|error| DeployError::fatal(format!("{uid}: {error}")))?;
        Ok(ChannelWriter::Remote(channel))
    }

    /// What a node sends.
    pub(super) fn fields(&self, from: NodeId, port: Port) -> SchemaRef {
        match port {
            Port::Main => self.around.job.graph.node(from).schema.fields.clone(),
            Port::DeadLetter => dead_letter_schema(),
        }
    }
}
