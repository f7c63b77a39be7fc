//! Group S: source and destination sanity.
