//! Group G: policy basics.
