//! Effects on a node (under construction).
