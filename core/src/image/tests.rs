//! Tests of the operations, over memory.
