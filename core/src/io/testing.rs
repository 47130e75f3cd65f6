//! Middleware devices.
