// Corrector: which drafted tokens stand. Pure functions of the full model's logits.
//
// A cycle: the root token x0 (chosen by the full model, already emitted) and drafts x1 .. x(m-1); the full model's
// pass over all m rows gives logits[i], its opinion after x_i. Draft x(i+1) is judged by logits[i].
//   sirius: accepted while softmax(logits[i] / temperature)[x(i+1)] >= threshold (arXiv 2409.03856; lossy);
//   strict: accepted while it is the token that the full model itself chooses at that position.
// The token after the accepted ones is the full model's own: the correction of a rejected draft, or the bonus token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"
#include "base/types.h"
#include "runtime/sampler.h"

namespace dogstar {

enum class AcceptRule { kStrict, kSirius };

struct CorrectorOptions {
  AcceptRule rule = AcceptRule::kStrict;
  float threshold = 0.1F;    // sirius
  float temperature = 0.6F;  // sirius
  // > 0: drafts stand, whatever they are, until a cycle has so many tokens, its root included. For timing models whose
  // text means nothing; a result of it is assumed, not measured.
  int32_t assumed_tokens = 0;
};

struct Verdict {
  int32_t accepted = 0;  // drafts that stand: x1 .. x(accepted)
  TokenId next{};        // the full model's token after them
};

// chain: x0 .. x(m-1), m >= 1; position of x0 is root_position. settled: the tokens up to x0, for penalties. logits(i,
// out) gives the full model's logits of row i.
using LogitsFn = std::function<absl::Status(int32_t row, std::span<float> logits)>;
absl::StatusOr<Verdict> Judge(const CorrectorOptions& options, Sampler* sampler, std::span<const TokenId> settled,
                              SequenceId sequence, TokenPos root_position, std::span<const TokenId> chain,
                              const LogitsFn& logits, std::span<float> scratch);

}  // namespace dogstar
