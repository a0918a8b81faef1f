// Sixteen lanes of float or int32 for kernels: one source, compiled once per instruction set. Which set is decided by
// the flags of the including file; all three give the same bits.
//
// Everything lives in an unnamed namespace inside DOGSTAR_ISA: a shared inline function emitted with AVX-512 code
// could otherwise be the copy that the linker keeps for files meant to run anywhere. For the same reason kernels call
// nothing inline from shared headers or the standard library.
#pragma once

#define DOGSTAR_INLINE inline __attribute__((always_inline))

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define DOGSTAR_ISA avx512vnni
#include "cpu/vec_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define DOGSTAR_ISA avx2
#include "cpu/vec_avx2.h"
#else
#define DOGSTAR_ISA portable
#include "cpu/vec_portable.h"
#endif

namespace dogstar::DOGSTAR_ISA {
namespace {

DOGSTAR_INLINE Vec16f operator-(Vec16f a) { return Xor(a, SplatInt(INT32_MIN)); }
DOGSTAR_INLINE Vec16f Abs(Vec16f a) { return And(a, SplatInt(INT32_MAX)); }

// Low nibbles and high nibbles of 64 bytes.
DOGSTAR_INLINE Vec16i LowNibbles(Vec16i v) { return v & SplatInt(0x0f0f0f0f); }
DOGSTAR_INLINE Vec16i HighNibbles(Vec16i v) { return ShiftRight<4>(v) & SplatInt(0x0f0f0f0f); }

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
