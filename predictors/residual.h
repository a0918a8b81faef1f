// Residual: what the rows that a predictor leaves out would have added to the FFN's output, guessed from its input by
// a map of low rank, for a percent or two of the FFN's bytes:
//
//   r(n) = sum over rows j left out of z_j(n) d_j   ~   c + B (A n),   A: [rank, dim], B: [dim, rank]
//
// Fit: reduced-rank ridge regression over tokens. For orthonormal B the best A is the ridge solution for targets B^T r;
// for given A n the best subspace for B is that of R^T (X A^T). The two are alternated, the first from the largest
// directions of R (Izenman 1975 has the theory); the ridge systems are solved by conjugate gradients. Errors of
// tokens with extraordinarily large targets count by less.
//
// Threads: the caller's pool; results do not depend on how many.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "predictors/low_rank.h"

namespace dogstar {

// Tokens: the FFN's inputs and what was left out, both [tokens, dim].
struct ResidualTokens {
  int32_t tokens = 0, dim = 0;
  std::span<const float> inputs, targets;
};

// A map whose rows are the dim outputs. REQUIRES: tokens > 1, rank in [1, dim].
LowRankMap FitResidual(const ResidualTokens& train, int32_t rank, uint64_t seed, ThreadPool* pool);

// Scales what the map gives, by 0 to 1, to what helps on tokens that it was not fitted to: where few tokens met many
// dimensions it guesses too much. By the error in shares of each token's target, as ExplainedShare.
void ShrinkResidual(const ResidualTokens& held_out, LowRankMap* map);

// Share of the targets' energy that the map gives, 1 - |r - guess|^2 / |r|^2, as a mean over these tokens. Negative:
// worse than nothing.
double ExplainedShare(const LowRankMap& map, const ResidualTokens& tokens);

}  // namespace dogstar
