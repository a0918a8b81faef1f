// Replay of a recorded run's overlay (memory/access_trace.h) by the rules of the engine itself: rows that a prompt left
// in place, requests of verified tokens, and rows that were missed coming in with the next full pass where their score
// beats that of the row the policy would let go. With the settings of the run its counters are the engine's.
//
// With other sizes each layer gets the same share of the places as in the run, and begins with the best of the rows
// held there, or with the best others beside them: what the prompt would have left in a larger overlay is not known.
//
// Threads: a trace may be shared; replays run anywhere.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/access_trace.h"
#include "memory/eviction.h"
#include "memory/page_cache.h"

namespace dogstar {

struct ReplayOptions {
  EvictionOptions eviction;  // lfu_half_life is that of the scores too
  double hysteresis = 0;
  int64_t slots = 0;  // of all layers together; 0: as recorded
};
struct ReplayResult {
  PageCache::Stats stats;
  int64_t slots = 0;  // at the end
};
ReplayResult ReplayOverlay(const AccessTrace& trace, const ReplayOptions& options);

// Settings of the recorded run; what a trace does not hold (parameters of single policies) is as in `base`.
// InvalidArgument: a policy that this program does not know.
absl::StatusOr<ReplayOptions> RecordedOptions(const AccessTrace& trace, const EvictionOptions& base);

}  // namespace dogstar
