//! The one consume loop, the one writer, configuration, telemetry and shutdown shared by every service.
