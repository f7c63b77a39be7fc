//! Group D: exhaustion.
