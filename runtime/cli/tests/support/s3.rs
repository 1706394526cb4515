/// Names the server.
const VARIABLE: &str = "WEIR_TEST_S3";

/// The S3 server to test with; without one the test is passed over, which is said.
pub fn s3_server() -> Option<String> {
    let server = std::env::var(VARIABLE).ok();
    if server.is_none() {
        eprintln!("skipped: {VARIABLE} names no S3 server; `cargo xtask test` starts one");
    }
    server
}
