//! Loops over slices for the processor that runs them.
//!
//! The crate is built for any x86-64 processor, which means four floats at a time. The loops of these operations are
//! worth more: [`wide`] compiles them a second time for AVX2 and takes that form where the processor has it. No product
//! is contracted with a sum, so both forms give the same bits.

/// Calls `work`, compiled for AVX2 where the processor has it. `work` should be a loop over slices, long enough that a
/// call is nothing beside it; what it calls must be inlined to profit.
#[inline(always)]
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has been asked for the one feature that the function is compiled with.
            return unsafe { with_avx2(work) };
        }
    }
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_same_bits() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let work = || -> f32 { x.iter().map(|x| (x * 1.7 + 0.1) / (1.0 + x * x)).sum() };
        assert_eq!(wide(work).to_bits(), work().to_bits());
    }
}
