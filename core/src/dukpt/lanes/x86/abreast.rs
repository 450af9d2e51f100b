//! One instruction on all registers that go abreast.

/// Instructions of two operands, on one register.
macro_rules! ones {
    ($features:literal, $Vector:ident, $($name:ident: $instruction:ident),*) => {
        $(
            #[inline]
            #[target_feature(enable = $features)]
            fn $name([a]: [$Vector; 1], [b]: [$Vector; 1]) -> [$Vector; 1] {
                [$instruction(a, b)]
            }
        )*

        #[inline]
        #[target_feature(enable = $features)]
        fn each(mut make: impl FnMut(usize) -> $Vector) -> [$Vector; 1] {
            [make(0)]
        }
    };
}
pub(super) use ones;

/// Instructions of two operands, on pairs of registers.
macro_rules! pairs {
    ($features:literal, $Vector:ident, $($name:ident: $instruction:ident),*) => {
        $(
            #[inline]
            #[target_feature(enable = $features)]
            fn $name([a, c]: [$Vector; 2], [b, d]: [$Vector; 2]) -> [$Vector; 2] {
                [$instruction(a, b), $instruction(c, d)]
            }
        )*

        #[inline]
        #[target_feature(enable = $features)]
        fn each(mut make: impl FnMut(usize) -> $Vector) -> [$Vector; 2] {
            [make(0), make(1)]
        }
    };
}
pub(super) use pairs;
