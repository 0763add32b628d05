//! Load scenarios, driver and report.
