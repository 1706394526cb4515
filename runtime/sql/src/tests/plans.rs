//! Queries and their plans.

use super::*;

#[test]
fn explore() {
    for sql in include_str!("explore.sql").split(";\n") {
        println!("=== {}", sql.trim());
        match plan(&definition(&[("q", sql)]), &NoCustomOperators) {
            Ok(graph) => {
                let text = explain(&graph);
                for node in text.split("\n\n").filter(|node| node.starts_with("q/")) {
                    println!("{}", node.trim_end());
                }
            }
            Err(errors) => errors.iter().for_each(|error| println!("ERR {error}")),
        }
    }
    let _ = sink("a", "b");
}
