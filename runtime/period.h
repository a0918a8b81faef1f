// PeriodController: how many draft passes to make before the next full pass, and which drafts it is to verify.
//
// Fixed: period - 1 passes, and all they drafted. Adaptive: one more pass is worth its time when
//   P(what it looks beyond stands) * P(a draft after it stands) * (seconds that an accepted token saves)
//     > seconds of the pass + of its rows of the full pass,
// and a draft is worth its row of the full pass when P(its path stands) * (seconds saved) is more than the row takes.
// P is the product of what the confidences of a path's drafts were worth in this text; a running rate of acceptance
// stands for drafts not yet made. A token saves what the best of plain full passes and recent cycles pays for one.
// Where drafts do not pay, cycles are single full passes (so a corrected run is never slower than a dense one) and a
// draft is tried again now and then. All times are measured while running; only speed depends on them, in strict mode
// never the text.
//
// Several texts may share the passes: then a cycle's tokens are those of all of them.
//
// Threads: one.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "runtime/draft_tree.h"

namespace dogstar {

struct PeriodOptions {
  bool adaptive = true;
  int32_t period = 16;  // tokens per cycle, root included; the largest when adaptive
};

// A draft whose parent stood.
struct JudgedDraft {
  DraftSource source = DraftSource::kFirst;
  float confidence = 0;
  bool stood = false;
};

// What a cycle's full pass came to.
struct CycleOutcome {
  int32_t rows = 1;              // of the pass
  int32_t accepted = 0;          // drafts that stood
  int32_t ended_by_a_draft = 0;  // texts whose last token that stood had drafts after it, none of which did
  double seconds = 0;
  double wait_seconds = 0;  // of them, for streamed weights
  double busy_seconds() const { return seconds - wait_seconds; }
};

class PeriodController {
 public:
  explicit PeriodController(const PeriodOptions& options) : options_(options) {}

  void BeginCycle(int32_t texts = 1);
  // Probability that a draft stands where its parent does.
  double AcceptanceOf(DraftSource source, float confidence) const;
  // Asked before each draft pass. reached: the probabilities of the nodes it is to look beyond, the largest first; so
  // many of them are worth it; 0: none.
  int32_t NodesToLookBeyond(std::span<const double> reached) const;
  void RecordDraft(int32_t rows, double seconds);
  // Of a draft that is worth its row of the full pass.
  double LeastProbability() const;
  // Whether alternatives to a chain's tokens are worth being found and verified: a full pass waits for something that
  // more rows do not wait for, and chains end early.
  bool AlternativesPay() const;
  void RecordVerify(const CycleOutcome& outcome, std::span<const JudgedDraft> judged);

  // Drafts that cost no pass (kLookup, kRepair) instead of the cycle's own: so many of `found` are worth their rows of
  // the full pass; 0: own drafts are better, or none.
  int32_t FreeDraftsToTry(DraftSource source, int32_t found);

  // Share of cycles that drafted nothing although the period allows it.
  double dense_share() const { return cycles_ > 0 ? static_cast<double>(dense_cycles_) / cycles_ : 0; }

 private:
  static constexpr int kBins = 10;
  // Least weight of a new value in running means: once there are so many, the last dozen or so count.
  static constexpr double kNew = 0.08;
  // Cycles without drafts before one is tried: at worst one draft step in 16 full passes is lost.
  static constexpr int kRetryCycles = 16;
  // Every so many cycles one plain full pass, to know what drafts must beat: 1% of the time at a gain of 1.6.
  static constexpr int kRefreshCycles = 64;
  static constexpr int kFirstDrafts = 3;  // of the first cycle that drafts
  // Passes that wait for so much of their time have room for rows, and chains end early below this acceptance. Measured
  // (docs/drafting.md): with three quarters of waiting alternatives won 10 to 37%, but nothing once six tokens of seven
  // stood; with a third they lost some percent.
  static constexpr double kMuchWaiting = 0.7, kEarlyEnd = 0.8;
  // Cycles that draft before drafts can be given up: one that fails says little.
  static constexpr int kTrials = 6;

  struct Mean {
    double value = 0;
    int32_t samples = 0;
    bool known() const { return samples > 0; }
    void Add(double sample);
  };
  struct Free {
    Mean acceptance;
    int32_t refused = 0;  // since some were tried
  };
  struct Bin {
    double judged = 0, stood = 0;
  };
  // A source's drafts by their confidence, and together: failures, and how many its confidences foretold.
  struct Record {
    std::array<Bin, kBins> bins;
    double failed = 0, foretold = 0;
  };
  // What a token of drafting cycles costs; 0 before the first.
  double TokenSeconds() const { return cycle_tokens_.known() ? cycle_seconds_.value / cycle_tokens_.value : 0; }
  // Of a row more in a full pass: what passes of more rows took longer, but no more than they computed longer. A disk
  // that reads in fits and starts makes the first of them large.
  double RowSeconds() const { return std::min(row_seconds_.value, row_busy_.value); }
  double PlainTokenSeconds() const { return full_seconds_.value / texts_; }
  // What an accepted draft saves.
  double SavedSeconds() const;
  double ExpectedAcceptance() const;
  static size_t BinOf(float confidence);
  void AddFull(const CycleOutcome& outcome);

  PeriodOptions options_;
  int32_t texts_ = 1;
  int32_t passes_ = 0;  // of drafts, in this cycle
  double cycle_draft_seconds_ = 0;
  // Of cycles that drafted, seconds and tokens apart: the mean of their ratios would overrate cycles that lost.
  Mean cycle_seconds_, cycle_tokens_;
  Mean draft_seconds_, draft_row_seconds_;  // of a pass of one row, and of each more
  Mean full_seconds_, row_seconds_;         // the same of full passes
  Mean full_busy_, row_busy_;               // of them, without waiting for streamed weights
  Mean wait_share_;                         // of full passes: of their time, for streamed weights
  Mean acceptance_;                         // of some draft after a token that stood
  std::array<Free, kDraftSources> free_;
  std::array<Record, kDraftSources> records_;
  int64_t cycles_ = 0, dense_cycles_ = 0, draft_cycles_ = 0;
  int32_t since_draft_ = 0;
};

}  // namespace dogstar
