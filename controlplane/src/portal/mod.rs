//! The portal: the page at which people say who they are, in a process of its own that decides nothing.

pub mod wire;
