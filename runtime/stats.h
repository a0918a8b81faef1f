// What a generation did, and what it cost.
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.h"
#include "runtime/sampler.h"

namespace dogstar {

enum class StopReason { kLength, kEndToken, kContextFull, kInterrupted, kStopString, kFailed };

struct GenerationResult {
  std::vector<TokenId> tokens;                      // the end token included
  std::vector<std::vector<TokenLogprob>> logprobs;  // one entry a token, when asked for
  StopReason stop = StopReason::kLength;

  int32_t prompt_tokens = 0;
  int32_t reused_tokens = 0;  // of the prompt, found in the KV cache
  int32_t context_slides = 0;
  double prompt_seconds = 0;
  double decode_seconds = 0;       // from the first to the last generated token
  uint64_t decode_disk_bytes = 0;  // read within the same span
  uint64_t disk_bytes = 0;         // since the engine was made, loading included
  double io_wait_seconds = 0;

  int64_t full_passes = 0;      // while decoding; each is a cycle
  int64_t draft_steps = 0;      // passes of the sparse model
  int64_t drafts_verified = 0;  // rows of full passes that were drafts
  int64_t drafts_judged = 0;    // levels of drafts, on the path that stood and the one after it
  int64_t drafts_accepted = 0;
  int64_t looked_up = 0, lookups_accepted = 0;  // drafts that the text's own past gave; counted in those above as well
  std::vector<int64_t> cycle_tokens;            // [t]: full passes of corrected modes that won t tokens
  int64_t advanced = 0;                         // accepted drafts + one token a cycle
  // [i]: cycles that judged a draft at the i-th place after the root, and those in which one stood.
  std::vector<int64_t> judged_at, accepted_at;
  int32_t assumed_tokens = 0;  // > 0: drafts stood by assumption, so many tokens a cycle
  double draft_seconds = 0;
  double full_seconds = 0;
  double dense_share = 0;    // cycles that drafted nothing although they might have
  double draft_density = 1;  // rows a draft used / rows

  // Tokens per cycle, the root included (the papers' AAL).
  double accepted_mean() const {
    return full_passes > 0 ? static_cast<double>(advanced) / static_cast<double>(full_passes) : 0;
  }
  double decode_tokens_per_second() const {
    return decode_seconds > 0 ? static_cast<double>(tokens.size() - 1) / decode_seconds : 0;
  }
  double prompt_tokens_per_second() const { return prompt_seconds > 0 ? prompt_tokens / prompt_seconds : 0; }
};

}  // namespace dogstar
