#include "runtime/period.h"

#include <algorithm>

namespace dogstar {

void PeriodController::Mean::Add(double sample) {
  value = known ? value + kNew * (sample - value) : sample;
  known = true;
}

int PeriodController::BinOf(float confidence) { return std::clamp(static_cast<int>(confidence * kBins), 0, kBins - 1); }

// What drafts of this confidence were worth, with a few invented observations at the confidence itself to start from.
double PeriodController::AcceptanceOf(float confidence) const {
  constexpr double kPriorCount = 4;
  const size_t bin = static_cast<size_t>(BinOf(confidence));
  return (bin_accepted_[bin] + kPriorCount * confidence) / (bin_judged_[bin] + kPriorCount);
}

void PeriodController::BeginCycle() {
  drafted_ = 0;
  survival_ = 1;
  cycle_draft_seconds_ = 0;
}

bool PeriodController::DraftAnother() const {
  const int32_t limit = std::min<int32_t>(options_.period - 1, static_cast<int32_t>(confidences_.size()));
  if (drafted_ >= limit) return false;
  if (!options_.adaptive) return true;
  if (!full_seconds_.known) return false;  // what is there to beat?
  if (!draft_seconds_.known) return drafted_ < kFirstDrafts;
  if (drafted_ == 0) {
    if (since_draft_ >= kRetryCycles) return true;
    if (cycles_ % kRefreshCycles == kRefreshCycles - 1) return false;
    if (TokenSeconds() > full_seconds_.value) return false;
  }
  const double saved = cycle_tokens_.known ? std::min(TokenSeconds(), full_seconds_.value) : full_seconds_.value;
  const double rate = acceptance_.known ? acceptance_.value : 0.6;  // guess: a calibrated half of the rows
  return survival_ * rate * saved > draft_seconds_.value + std::max(0.0, row_seconds_.value);
}

int32_t PeriodController::LookupsToTry(int32_t found) {
  const int32_t most = std::min(found, options_.period - 1);
  if (!options_.adaptive || most <= 0) return std::max(most, 0);
  if (!full_seconds_.known) return 0;
  const double saved = full_seconds_.value, row = std::max(0.0, row_seconds_.value);
  const double rate = lookup_acceptance_.known ? lookup_acceptance_.value : 0.7;  // guess: a match of a few tokens
  const bool drafts_pay = cycle_tokens_.known && TokenSeconds() < full_seconds_.value;
  if (drafts_pay && acceptance_.known && acceptance_.value > rate && ++lookups_refused_ < kRetryCycles) return 0;
  int32_t worth = 0;
  for (double survival = rate; worth < most && survival * saved > row; survival *= rate) ++worth;
  if (worth == 0 && ++lookups_refused_ >= kRetryCycles) worth = 1;
  return worth;
}

void PeriodController::RecordLookup(int32_t rows, int32_t accepted, double seconds) {
  lookups_refused_ = 0;
  if (full_seconds_.known && rows > 1) row_seconds_.Add(std::max(0.0, (seconds - full_seconds_.value) / (rows - 1)));
  for (int32_t i = 0; i < std::min(rows - 1, accepted + 1); ++i) lookup_acceptance_.Add(i < accepted ? 1 : 0);
}

void PeriodController::RecordDraft(float confidence, double seconds) {
  confidences_[static_cast<size_t>(drafted_++)] = confidence;
  survival_ *= AcceptanceOf(confidence);
  cycle_draft_seconds_ += seconds;
  draft_seconds_.Add(seconds);
}

void PeriodController::RecordVerify(int32_t rows, int32_t accepted, double seconds) {
  ++cycles_;
  if (drafted_ == 0) {
    ++dense_cycles_;
    ++since_draft_;
    full_seconds_.Add(seconds);
    return;
  }
  since_draft_ = 0;
  if (!full_seconds_.known) full_seconds_.Add(seconds);
  row_seconds_.Add(std::max(0.0, (seconds - full_seconds_.value) / (rows - 1)));
  cycle_seconds_.Add(seconds + cycle_draft_seconds_);
  cycle_tokens_.Add(accepted + 1);
  for (int32_t i = 0; i < std::min(drafted_, accepted + 1); ++i) {
    const bool stood = i < accepted;
    const size_t bin = static_cast<size_t>(BinOf(confidences_[static_cast<size_t>(i)]));
    bin_judged_[bin] += 1;
    bin_accepted_[bin] += stood ? 1 : 0;
    acceptance_.Add(stood ? 1 : 0);
  }
}

}  // namespace dogstar
