//! What happens to one job, each on a job of its own, beside each other.

mod failure_matrix;
mod lifecycle;
mod steering;
