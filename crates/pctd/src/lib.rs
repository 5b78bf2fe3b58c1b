//! Daemon (under construction).
