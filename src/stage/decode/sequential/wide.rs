//! Functions compiled for what the processor has.

/// Whether AVX2 and variable shifts are there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn is_there() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
}

/// Declares a function that is `$body`, which must be inlined, compiled once as usual and once for AVX2 and variable shifts.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:path;) => {
        $(#[$meta])*
        $vis fn $name($($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2")]
                fn compiled($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                if super::wide::is_there() {
                    // SAFETY: the processor has the features that the function is compiled for.
                    return unsafe { compiled($($argument),*) };
                }
            }
            $body($($argument),*)
        }
    };
}
