//! Group I: ICMP.
