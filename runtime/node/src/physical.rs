//! From the job graph to tasks: which nodes run chained in one thread, and which channels join the tasks.
//!
//! Two nodes are chained when every row of one goes to the same subtask of the other and nowhere else: then a
//! batch is passed by a call and not through a channel.

use weir_model::SubtaskId;
use weir_model::graph::{Edge, Exchange, JobGraph, NodeId, NodeKind, Port};

/// The tasks of a job; each runs as `parallelism` threads.
#[derive(Debug)]
pub(crate) struct PhysicalPlan {
    pub(crate) tasks: Vec<TaskPlan>,
}

#[derive(Debug)]
pub(crate) struct TaskPlan {
    /// In the order in which a batch passes them.
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) parallelism: usize,
    /// One for each input edge of the first node.
    pub(crate) inputs: Vec<TaskInput>,
    /// No barrier overtakes rows on their way into it: they would not find it again at another parallelism.
    pub(crate) reads_in_order: bool,
}

#[derive(Debug)]
pub(crate) struct TaskInput {
    /// Index of the task whose last node (or source, for dead letters) is read.
    pub(crate) from: usize,
    pub(crate) port: Port,
    pub(crate) exchange: Exchange,
}

impl PhysicalPlan {
    pub(crate) fn of(graph: &JobGraph) -> Self {
        let mut tasks: Vec<TaskPlan> = vec![];
        let mut task_of_node = vec![usize::MAX; graph.nodes.len()];
        for id in graph.ids() {
            let node = graph.node(id);
            if let Some(previous) = chained_to(graph, id) {
                let task = task_of_node[previous.0];
                tasks[task].nodes.push(id);
                task_of_node[id.0] = task;
                continue;
            }
            let input = |edge: &Edge| TaskInput {
                from: task_of_node[edge.from.0],
                port: edge.port,
                exchange: edge.exchange.clone(),
            };
            let inputs = node.inputs.iter().map(input).collect();
            let reads_in_order = !node.inputs.iter().all(|edge| graph.may_be_overtaken(edge));
            task_of_node[id.0] = tasks.len();
            tasks.push(TaskPlan { nodes: vec![id], parallelism: node.parallelism as usize, inputs, reads_in_order });
        }
        PhysicalPlan { tasks }
    }

    /// As many as the widest task has subtasks: a slot takes one of each.
    pub(crate) fn slots(&self) -> u32 {
        self.tasks.iter().map(|task| task.parallelism as u32).max().unwrap_or(0)
    }

    /// The channels into one subtask: where those of each input begin, and last their number.
    pub(crate) fn channel_bases(&self, task: usize) -> Vec<usize> {
        let mut bases = vec![0];
        for input in &self.tasks[task].inputs {
            let channels = match input.exchange {
                Exchange::Forward => 1,
                Exchange::Hash { .. } | Exchange::Rebalance => self.tasks[input.from].parallelism,
            };
            bases.push(bases.last().copied().unwrap_or(0) + channels);
        }
        bases
    }

    /// The channels into one subtask.
    pub(crate) fn channels(&self, task: usize) -> usize {
        self.channel_bases(task).last().copied().unwrap_or(0)
    }

    /// A number for each channel of the job, the same on every worker.
    pub(crate) fn channel_number(&self, task: usize, subtask: usize, channel: usize) -> u32 {
        let before: usize = (0..task).map(|task| self.tasks[task].parallelism * self.channels(task)).sum();
        (before + subtask * self.channels(task) + channel) as u32
    }

    /// All subtasks, and those of them that are sources.
    pub(crate) fn subtasks(&self, graph: &JobGraph) -> (Vec<SubtaskId>, Vec<SubtaskId>) {
        let of_task = |task: usize| {
            let plan = &self.tasks[task];
            let operator = &graph.node(plan.nodes[0]).uid;
            (0..plan.parallelism as u32).map(|index| SubtaskId { operator: operator.clone(), index })
        };
        let all = (0..self.tasks.len()).flat_map(of_task).collect();
        let sources = (0..self.tasks.len()).filter(|task| self.is_source(graph, *task)).flat_map(of_task).collect();
        (all, sources)
    }

    pub(crate) fn is_source(&self, graph: &JobGraph, task: usize) -> bool {
        matches!(graph.node(self.tasks[task].nodes[0]).kind, NodeKind::Source)
    }

    /// The inputs of other tasks that read this one: (reading task, its input).
    pub(crate) fn readers(&self, task: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.tasks.iter().enumerate().flat_map(move |(reader, plan)| {
            let inputs = plan.inputs.iter().enumerate();
            inputs.filter(move |(_, input)| input.from == task).map(move |(index, _)| (reader, index))
        })
    }
}

/// The node to which `id` is chained, if it is.
fn chained_to(graph: &JobGraph, id: NodeId) -> Option<NodeId> {
    let node = graph.node(id);
    let [edge] = node.inputs.as_slice() else { return None };
    let previous = graph.node(edge.from);
    let only_main_reader =
        graph.consumers(edge.from).filter(|(reader, index)| port(graph, *reader, *index) == Port::Main).count() == 1;
    let chained = edge.port == Port::Main
        && edge.exchange == Exchange::Forward
        && previous.parallelism == node.parallelism
        && only_main_reader;
    chained.then_some(edge.from)
}

fn port(graph: &JobGraph, reader: NodeId, input: usize) -> Port {
    graph.node(reader).inputs[input].port
}
