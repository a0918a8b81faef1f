// Simulator: what a cache of a given size and policy would have made of a list of requests. The policies are the
// engine's own (memory/eviction.h, driven by PageCache); Belady's needs the future and lives here.
//
// A request whose key is absent is a miss, and the key is admitted at once. (The overlay of a run admits one pass later
// and by scores: runtime/overlay_replay.h.) Every use counts 1.
//
//   belady         Belady's MIN: the key whose next request is the farthest leaves; every missed key comes in, as with
//                  the other policies (static-hot apart). Keys that never come again are all alike; which of them
//                  leaves first changes no count.
//   belady-bypass  the same, but a missed key that would be the farthest does not come in. No policy of any kind has
//                  fewer misses at the same size.
//
// Compulsory misses: the first request of each key, in a cache that begins empty. Warm: the same list once more, the
// cache as the first run left it.
// Prefetch depth d: with a missed key come the d that follow it in the file (the next rows of its layer), each of
// which may push something out; a larger read in place of several.
//
// Threads: lists are read only and may be shared; Simulate runs anywhere, SimulateAll on threads of its own.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "memory/access_trace.h"
#include "memory/eviction.h"

namespace dogstar {

struct RequestList {
  // Requests up to `end` belong to one token of one pass.
  struct Token {
    size_t end = 0;
    AccessPhase phase = AccessPhase::kVerify;
    bool ends_pass = false;
  };
  std::vector<PageKey> keys;
  std::vector<Token> tokens;  // cover all keys
  int32_t layers = 0;         // 0: keys have none
  int64_t keys_of_layer = 0;  // keys of a layer are below this; 0: no bound
  // Derived by Index.
  std::vector<int32_t> ids;        // of keys, 0 .. distinct - 1 by first request
  std::vector<uint32_t> next_use;  // place of the same key's next request; kNever
  std::vector<PageKey> distinct;
  std::vector<uint32_t> first_use;  // [distinct]
  static constexpr uint32_t kNever = UINT32_MAX;

  // Fills what is derived. REQUIRES: fewer than 2^31 requests.
  void Index();
};

// The requests of a recorded run. page_rows > 1: objects of so many neighbouring rows; a token asks for each once.
RequestList RequestsOf(const AccessTrace& trace, int32_t page_rows);
// One id a line, an unsigned integer; empty lines are skipped. A token ends after every token_requests. Ids are divided
// by page_ids. InvalidArgument names the file, the line and what is allowed.
absl::StatusOr<RequestList> ParseRequests(std::string_view text, std::string_view file, int64_t token_requests,
                                          int64_t page_ids);

struct SimulatedPolicy {
  std::string_view name;
  std::optional<EvictionKind> kind;  // none: Belady's
  bool bypass = false;
};
// Those of EvictionNames, then "belady" and "belady-bypass".
std::span<const SimulatedPolicy> SimulatedPolicies();

struct Simulation {
  SimulatedPolicy policy;
  EvictionOptions eviction;    // but for its kind
  std::vector<int32_t> slots;  // of each layer, or of all together
  int32_t prefetch = 0;
  bool warm = false;
};
struct SimulationCounts {
  int64_t hits = 0, misses = 0;
  int64_t prefetched = 0;
};
struct SimulationResult {
  SimulationCounts cold, warm;
  std::array<int64_t, kAccessPhases> phase_hits{}, phase_misses{};  // cold
  std::vector<int64_t> layer_misses;                                // cold, [layers]
  double requests_per_second = 0;                                   // of processor time
};
// REQUIRES: list.Index() was called; slots.size() is 1 or list.layers.
SimulationResult Simulate(const RequestList& list, const Simulation& simulation);
// All of them on `threads` threads; on_done(finished, all) is called from any of them, one at a time. Cut short when it
// answers false: what was not run has no counts.
std::vector<SimulationResult> SimulateAll(const RequestList& list, std::span<const Simulation> simulations, int threads,
                                          const std::function<bool(int done, int total)>& on_done);

}  // namespace dogstar
