//! Hints about memory: to the processor's cache, and to the kernel about its pages.

use std::mem::MaybeUninit;

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

/// A table of so many values, in pages of 2 MiB where the kernel has them to give (transparent huge pages, which need not
/// be reserved). A look-up in a large table otherwise misses the processor's cache of page addresses as well.
pub fn large_table<T>(len: usize, value: impl FnMut() -> T) -> Box<[T]> {
    let mut table = Vec::with_capacity(len);
    // Before the first value is written: the kernel decides about a page when it is first touched.
    prefer_huge_pages(table.spare_capacity_mut());
    table.resize_with(len, value);
    table.into_boxed_slice()
}

/// Asks for huge pages for those pages that lie wholly within this memory. Refused, it stays as it is.
fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    /// Smaller memory holds no huge page.
    const HUGE_PAGE: usize = 2 << 20;
    const PAGE: usize = 4096;
    let range = memory.as_mut_ptr_range();
    let (start, end) = (range.start.addr().next_multiple_of(PAGE), range.end.addr() & !(PAGE - 1));
    if end.saturating_sub(start) < HUGE_PAGE {
        return;
    }
    // SAFETY: the range lies within `memory`, which is ours alone. MADV_HUGEPAGE changes how its pages are backed, and
    // neither their contents nor their addresses.
    unsafe {
        libc::madvise(range.start.with_addr(start).cast(), end - start, libc::MADV_HUGEPAGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_any_size_holds_what_is_put_in() {
        for len in [0, 1, 1000, 3 << 20] {
            let mut next = 0_u32;
            let table = large_table(len, || {
                next = next.wrapping_mul(31).wrapping_add(7);
                next
            });
            let mut expected = 0_u32;
            assert!(
                table.len() == len
                    && table.iter().all(|value| {
                        expected = expected.wrapping_mul(31).wrapping_add(7);
                        *value == expected
                    })
            );
        }
    }

    #[test]
    fn asking_for_lines_changes_nothing() {
        let values: Vec<u64> = (0..1000).collect();
        values.iter().for_each(prefetch);
        assert!(values.iter().copied().eq(0..1000));
    }
}
