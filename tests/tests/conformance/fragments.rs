//! Group F: fragments.
