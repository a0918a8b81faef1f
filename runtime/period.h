// PeriodController: how many tokens to draft before the next full pass.
//
// Fixed: period - 1 drafts. Adaptive: one more draft is worth its time when
//   P(it will be accepted) * (seconds that an accepted token saves) > (seconds of a draft step + of a verify row).
// P is the product of what is known of the drafts so far and a running acceptance rate; a draft's own confidence
// (its largest probability) is turned into a probability by what such confidences were worth in this text. A token
// saves what the best of plain full passes and recent cycles pays for one. Where drafts do not pay, cycles are single
// full passes (so a corrected run is never slower than a dense one) and a draft is tried again now and then.
// All times are measured while running; only speed depends on them, in strict mode never the text.
//
// Threads: one.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace dogstar {

struct PeriodOptions {
  bool adaptive = true;
  int32_t period = 16;  // tokens per cycle, root included; the largest when adaptive
};

class PeriodController {
 public:
  explicit PeriodController(const PeriodOptions& options) : options_(options) {}

  void BeginCycle();
  // Asked before each draft step.
  bool DraftAnother() const;
  // A draft was made; its largest probability, and the seconds of its step.
  void RecordDraft(float confidence, double seconds);
  // The cycle's full pass over `rows` rows, of which `accepted` drafts stood.
  void RecordVerify(int32_t rows, int32_t accepted, double seconds);

  // Drafts that cost no step (text_lookup.h) instead of the cycle's own: so many of `found` are worth their rows of the
  // full pass; 0: own drafts are better, or none.
  int32_t LookupsToTry(int32_t found);
  // The full pass of a cycle of such drafts.
  void RecordLookup(int32_t rows, int32_t accepted, double seconds);

  // Share of cycles that drafted nothing although the period allows it.
  double dense_share() const { return cycles_ > 0 ? static_cast<double>(dense_cycles_) / cycles_ : 0; }

 private:
  static constexpr int kBins = 10;
  // Weight of a new value in running means: the last dozen or so count.
  static constexpr double kNew = 0.08;
  // Cycles without drafts before one is tried: at worst one draft step in 16 full passes is lost.
  static constexpr int kRetryCycles = 16;
  // Every so many cycles one plain full pass, to know what drafts must beat: 1% of the time at a gain of 1.6.
  static constexpr int kRefreshCycles = 64;
  static constexpr int kFirstDrafts = 3;  // of the first cycle that drafts

  struct Mean {
    double value = 0;
    bool known = false;
    void Add(double sample);
  };
  // What a token of drafting cycles costs; 0 before the first.
  double TokenSeconds() const { return cycle_tokens_.known ? cycle_seconds_.value / cycle_tokens_.value : 0; }
  double AcceptanceOf(float confidence) const;
  static int BinOf(float confidence);

  PeriodOptions options_;
  int32_t drafted_ = 0;  // in this cycle
  double survival_ = 1;  // probability that all drafts so far stand
  double cycle_draft_seconds_ = 0;
  std::array<float, 1024> confidences_{};
  // Of cycles that drafted, seconds and tokens apart: the mean of their ratios would overrate cycles that lost.
  Mean cycle_seconds_, cycle_tokens_;
  Mean draft_seconds_, full_seconds_, row_seconds_;
  Mean acceptance_;              // of the next draft, given that those before it stood
  Mean lookup_acceptance_;       // the same of drafts that were looked up
  int32_t lookups_refused_ = 0;  // since one was tried
  std::array<double, kBins> bin_accepted_{};
  std::array<double, kBins> bin_judged_{};
  int64_t cycles_ = 0, dense_cycles_ = 0;
  int32_t since_draft_ = 0;
};

}  // namespace dogstar
