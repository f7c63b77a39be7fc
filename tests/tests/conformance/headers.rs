//! Group H: header sanity.
