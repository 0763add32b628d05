//! Checks stored inputs with memory-safe code and compiles requests into plans.
