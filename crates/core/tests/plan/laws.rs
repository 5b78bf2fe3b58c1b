//! Laws of the planner, for worlds nobody thought of.
