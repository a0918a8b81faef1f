// Tuner: searches settings for a model on this machine by measuring. docs/tuning.md has the rules.
//
// One change after the other is tried on the best so far: a few prompts decode with both, in turns, and the change is
// kept when the geometric mean of the paired ratios of seconds a token is at least 1 + least_gain. The planner refuses
// what it knows cannot pay, and policies of the overlay are replayed on a recorded run before any of them is run. Last,
// the result meets the default on prompts that no change has seen; if it does not win there, it is dropped.
//
// Threads: one.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "runtime/config.h"
#include "runtime/engine.h"

namespace dogstar {

using Assignment = std::pair<std::string, std::string>;  // key, value

// In the place of the key's earlier value, where there is one.
void SetAssignment(const Assignment& setting, std::vector<Assignment>* settings);

// What is tried together.
struct Change {
  std::vector<Assignment> settings;
  std::string Name() const;  // "draft.predictor=griffin, cache.harvest=text"
};

struct TuneOptions {
  std::vector<std::vector<TokenId>> prompts, held_out;  // neither empty
  int32_t new_tokens = 64;
  int rounds = 2;  // of pairs
  double least_gain = 0.03;
  bool chooses_mode = false;  // the mode is open
  std::string scratch;        // folder for a recorded run
  // Packed forms with pages of other sizes are made as PAGES_PREFIX.ROWS.dog.gguf; those that do not win are removed.
  // Empty: the page size stays. Needs a plain model.
  std::string pages_prefix;
};

struct Trial {
  Change change;
  bool ran = false;    // false: the planner or the simulator refused it
  std::string reason;  // why it did not run, or was not tried to the end
  double gain = 1;     // seconds a token before / after, geometric mean of pairs
  double before_tok_s = 0, after_tok_s = 0;
  bool kept = false;
};

struct TuneResult {
  std::vector<Trial> trials;
  std::vector<Assignment> kept;  // beside the base; a later value of a key replaces an earlier one
  double default_tok_s = 0, tuned_tok_s = 0, held_out_gain = 1;
  std::vector<Assignment> dropped;  // won on the prompts, not on those held out
};

// on_trial: before each step; false ends the search with what is known (Cancelled).
absl::StatusOr<TuneResult> Tune(const Config& base, const TuneOptions& options, const Hooks& hooks,
                                const std::function<bool(const std::string& what)>& on_trial);

}  // namespace dogstar
