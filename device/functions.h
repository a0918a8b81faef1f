// Definitions that every backend's kernels share with the scalar reference, so that results can be equal to the bit:
// constants only, no code.
//
//   exp(x):  x = min(x, kExpHigh) (0 below kExpLow); n = nearest-even(x * log2(e)); r = fma(n, -ln2_high, x);
//            r = fma(n, -ln2_low, r); p = the Taylor polynomial of degree 7 by Horner's rule with fma, from 1/7! down;
//            exp = p * 2^n. The remainder at |r| = ln2 / 2 is 5e-9, a tenth of a float's rounding.
//   silu(g) = g / (1 + exp(-g))
//   gelu_tanh(g) = g / (1 + exp(-v)), v = (g * fma(g * g, 0.044715, 1)) * (2 sqrt(2 / pi)): tanh written with exp
//   z = silu(gate) * up
//   rms norm: mean = (sum of fma(x, x, sum)) / cols; out = (x * (1 / sqrt(mean + epsilon))) * weight
//   attention: score = score_scale * dot, dot by fma in 16 lanes (lane = dimension % 16). Slots in the mask's order are
//            cut into parts of kAttentionPart, the last one what is left. Of a part: m = its largest score,
//            e_j = exp(score_j - m), s = the sum of e in 16 lanes (lane = place in the part % 16), c = the sum of
//            fma(e_j, v_j, c) in order. Parts are put together in order, from M = -infinity, S = 0, C = 0:
//            N = max(M, m), old = exp(M - N), fresh = exp(m - N), S = fma(s, fresh, S * old),
//            C = fma(c, fresh, C * old), M = N. out = C / S. (The online softmax, arXiv 1805.02867; parts are what
//            several blocks of a GPU share out.) Lanes are added 8 apart, 4, 2, 1.
//   rope: angle = double(position) * double(frequency), its sine and cosine taken in double and rounded to float
//            (a float angle would be off by 4e-3 at position 65536); a' = a * cos - b * sin, b' = a * sin + b * cos,
//            each product and sum rounded
#pragma once

namespace dogstar {

inline constexpr float kExpHigh = 88.37f;  // 2^127.49: the result stays finite
inline constexpr float kExpLow = -87.33f;  // 2^-125.99: the smallest normal result
inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2High = 0.693145752f;  // 15 bits, so that n * kLn2High is exact
inline constexpr float kLn2Low = 1.42860677e-6f;
inline constexpr float kExpTaylor[8] = {1.0f,         1.0f,          0.5f,          1.0f / 6.0f,
                                        1.0f / 24.0f, 1.0f / 120.0f, 1.0f / 720.0f, 1.0f / 5040.0f};
inline constexpr int kAttentionPart = 128;
inline constexpr float kGeluCubic = 0.044715f;
inline constexpr float kGeluScale = 1.59576912f;  // 2 sqrt(2 / pi)

}  // namespace dogstar
