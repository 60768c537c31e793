//! Which vector instructions this machine has, found once at start.
//!
//! An [`Isa`] other than `Portable` is made only by [`Isa::detect`], so holding one proves that the
//! instructions exist: that is the safety argument of every call into [`super::x86`] and of
//! [`vectorized`].

/// A set of instructions that a kernel was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// No assumption about the machine.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The best that this machine has.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self::PORTABLE)
    }

    /// All that this machine has, the best last.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Self(Level::Avx2));
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
            {
                found.push(Self(Level::Avx512));
            }
        }
        found
    }

    /// Name for start-up messages.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512-vnni",
        }
    }

    pub(super) const fn level(self) -> Level {
        self.0
    }
}

/// Compiles the body of a plain Rust kernel once per instruction set and picks at run time.
///
/// The body must be `#[inline(always)]`: it is inlined into each variant, where the compiler may
/// use the wider registers. Results are the same bits in all variants: the bodies spell out every
/// fused multiply-add and every order of summation.
macro_rules! vectorized {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) = $body:path) => {
        $(#[$doc])*
        $vis fn $name(isa: $crate::kernel::isa::Isa, $($arg: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            fn wide($($arg: $kind),*) {
                $body($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn half($($arg: $kind),*) {
                $body($($arg),*);
            }
            match isa.level() {
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "an Isa above Portable proves that the machine has these instructions")]
                // SAFETY: only Isa::detect makes this level, after asking the processor for every feature enabled above.
                $crate::kernel::isa::Level::Avx512 => unsafe { wide($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "an Isa above Portable proves that the machine has these instructions")]
                // SAFETY: as above, for the features of this level.
                $crate::kernel::isa::Level::Avx2 => unsafe { half($($arg),*) },
                $crate::kernel::isa::Level::Portable => $body($($arg),*),
            }
        }
    };
}
pub(super) use vectorized;
