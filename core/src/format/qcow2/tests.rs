//! Tests of the format as a whole, over memory.
