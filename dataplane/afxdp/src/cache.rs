//! A hint to the processor's cache.

/// Asks the processor to bring the line where `value` begins into its cache, and waits for nothing.
///
/// A load does the same, but holds up everything behind it once the processor's window is full; a burst of packets
/// has dozens of such lines to wait for. Where the architecture's instruction is not known, this does nothing.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let place = std::ptr::from_ref(value);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 belongs to the baseline of this architecture, changes no state but that of the caches, and
    // faults at no address; this one is valid besides.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: PRFM changes no state but that of the caches, no register and no flag, and faults at no address.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}
