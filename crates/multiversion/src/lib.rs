//! Function multiversioning: one loop compiled for several processors, chosen when the program
//! runs.
//!
//! The program is built for any x86-64 processor, which means four floats at a time and shifts by
//! one register only. Some loops are worth more: [`multiversioned()`] compiles them a second time
//! for AVX2 and the bit instructions that came with it, and calls that version where the processor
//! has them. No product is contracted with a sum, so both versions give the same bits.
//!
//! ```
//! use tagstream_multiversion::multiversioned;
//!
//! let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
//! let mut y = vec![1.0f32; 1000];
//! multiversioned(|| {
//!     for (y, x) in y.iter_mut().zip(&x) {
//!         *y += 0.5 * x;
//!     }
//! });
//! assert_eq!(y[10], 6.0);
//! ```

/// Calls `work`, compiled for AVX2, BMI1 and BMI2 where the processor has them. `work` should be a
/// loop over slices, long enough that a call is nothing beside it. It and what it calls must be
/// inlined to profit: short ones are, long ones are declared with the macro of the same name.
#[inline(always)]
pub fn multiversioned<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,bmi1,bmi2")]
        fn compiled<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
        {
            // SAFETY: the processor has been asked for every feature that the function is compiled
            // with.
            return unsafe { compiled(work) };
        }
    }
    work()
}

/// Declares a function whose body is `$body`, which must be `#[inline(always)]`, run by
/// [`multiversioned()`]: however long the body is, it is inlined into both versions.
///
/// ```
/// use tagstream_multiversion::multiversioned;
///
/// #[inline(always)]
/// fn bits_set(x: &[u64]) -> u32 {
///     x.iter().map(|x| x.count_ones()).sum()
/// }
///
/// multiversioned! {
///     /// Bits that are set in all of `x`.
///     pub fn popcount(x: &[u64]) -> u32 = bits_set;
/// }
///
/// assert_eq!(popcount(&[1, 3, 7]), 6);
/// ```
#[macro_export]
macro_rules! multiversioned {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?)
        $(-> $result:ty)? = $body:path;
    ) => {
        $(#[$meta])*
        $vis fn $name($($argument: $type),*) $(-> $result)? {
            $crate::multiversioned(
                #[inline(always)]
                || $body($($argument),*),
            )
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Odd numbers to powers of two below 2^13, summed: shifts by a variable.
    #[inline(always)]
    fn shifted(x: &[u32]) -> u64 {
        x.iter().map(|&x| u64::from(x | 1) << (x % 13)).sum()
    }

    multiversioned! {
        fn shifted_multiversioned(x: &[u32]) -> u64 = shifted;
    }

    #[test]
    fn both_versions_give_the_same_bits() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let work = || -> f32 { x.iter().map(|x| (x * 1.7 + 0.1) / (1.0 + x * x)).sum() };
        assert_eq!(multiversioned(work).to_bits(), work().to_bits());
        let x: Vec<u32> = (0..1000).map(|i: u32| i.wrapping_mul(i)).collect();
        assert_eq!(shifted_multiversioned(&x), shifted(&x));
    }
}
