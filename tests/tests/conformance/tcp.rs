//! Group W: TCP state.
