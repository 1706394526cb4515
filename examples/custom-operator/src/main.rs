//! `weir` with one operator more.

use std::process::ExitCode;
use weir_example_delay_alerts::DelayAlerts;
use weir_sdk::Weir;

fn main() -> ExitCode {
    Weir::new().operator::<DelayAlerts>("DelayAlerts").main()
}
