//! `weir`: runs stream jobs on this machine, checks them, and looks after their checkpoints and savepoints.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_cli::main(weir_node::Registry::default())
}
