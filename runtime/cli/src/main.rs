//! `weir`: runs stream jobs on this machine, checks them, and looks after their checkpoints and savepoints.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Huge pages, which most systems give only to who asks for them: state is read at random, and every row would cost
/// a walk through the page tables too.
#[cfg(target_os = "linux")]
#[allow(non_upper_case_globals)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static malloc_conf: Option<&u8> = Some(&b"thp:always,metadata_thp:auto\0"[0]);

fn main() -> ExitCode {
    weir_cli::main(weir_node::Registry::default())
}
