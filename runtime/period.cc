#include "runtime/period.h"

#include <algorithm>

namespace dogstar {

void PeriodController::Mean::Add(double sample) { value += std::max(kNew, 1.0 / ++samples) * (sample - value); }

size_t PeriodController::BinOf(float confidence) {
  return static_cast<size_t>(std::clamp(static_cast<int>(confidence * kBins), 0, kBins - 1));
}

// What drafts of this confidence were worth; before there were many, 1 - s (1 - confidence): s is learned within a few
// drafts, near 0 where the sparse model is nearly the full one, and a draft of little confidence stands all the same.
double PeriodController::AcceptanceOf(DraftSource source, float confidence) const {
  constexpr double kPriorCount = 4, kPriorFailures = 1;
  const size_t kind = static_cast<size_t>(source);
  if (free_[kind].acceptance.known()) return free_[kind].acceptance.value;
  const Record& record = records_[kind];
  const double scale = (record.failed + kPriorFailures) / (record.foretold + kPriorFailures);
  const double prior = std::clamp(1 - scale * (1 - static_cast<double>(confidence)), 0.0, 1.0);
  const Bin& bin = record.bins[BinOf(confidence)];
  return (bin.stood + kPriorCount * prior) / (bin.judged + kPriorCount);
}

void PeriodController::BeginCycle(int32_t texts) {
  texts_ = texts;
  passes_ = 0;
  cycle_draft_seconds_ = 0;
}

double PeriodController::SavedSeconds() const {
  return cycle_tokens_.known() ? std::min(TokenSeconds(), PlainTokenSeconds()) : PlainTokenSeconds();
}

double PeriodController::ExpectedAcceptance() const {
  constexpr double kGuess = 0.6, kGuessCount = 4;  // of a calibrated half of the rows
  return (acceptance_.samples * acceptance_.value + kGuessCount * kGuess) / (acceptance_.samples + kGuessCount);
}

int32_t PeriodController::NodesToLookBeyond(std::span<const double> reached) const {
  const int32_t all = static_cast<int32_t>(reached.size());
  if (passes_ >= options_.period - 1) return 0;
  if (!options_.adaptive) return all;
  if (!full_seconds_.known()) return 0;  // what is there to beat?
  if (!draft_seconds_.known()) return passes_ < kFirstDrafts ? all : 0;
  if (passes_ == 0) {
    if (since_draft_ >= kRetryCycles) return all;
    if (cycles_ % kRefreshCycles == kRefreshCycles - 1) return 0;
    if (draft_cycles_ >= kTrials && TokenSeconds() > PlainTokenSeconds()) return 0;
  }
  const double saved = ExpectedAcceptance() * SavedSeconds(), row = RowSeconds();
  double gain = 0;
  int32_t count = 0;
  for (double probability : reached) {
    // Before a pass of several rows its price is not known: they are tried.
    const double price = count > 0 && draft_row_seconds_.known() ? draft_row_seconds_.value : 0;
    if (count > 0 && probability * saved <= price + row) break;
    gain += probability * saved - price - row;
    ++count;
  }
  return gain > draft_seconds_.value ? count : 0;
}

double PeriodController::LeastProbability() const {
  if (!options_.adaptive || !full_seconds_.known() || SavedSeconds() <= 0) return 0;
  return RowSeconds() / SavedSeconds();
}

bool PeriodController::AlternativesPay() const {
  return wait_share_.known() && wait_share_.value > kMuchWaiting && ExpectedAcceptance() < kEarlyEnd;
}

int32_t PeriodController::FreeDraftsToTry(DraftSource source, int32_t found) {
  const int32_t most = std::min(found, options_.period - 1);
  if (!options_.adaptive || most <= 0) return std::max(most, 0);
  if (!full_seconds_.known()) return 0;
  Free& free = free_[static_cast<size_t>(source)];
  const double saved = PlainTokenSeconds(), row = RowSeconds();
  const double rate = free.acceptance.known() ? free.acceptance.value : 0.7;  // guess: a match of a few tokens
  const bool drafts_pay = cycle_tokens_.known() && TokenSeconds() < PlainTokenSeconds();
  if (drafts_pay && acceptance_.known() && acceptance_.value > rate && ++free.refused < kRetryCycles) return 0;
  int32_t worth = 0;
  for (double survival = rate; worth < most && survival * saved > row; survival *= rate) ++worth;
  if (worth == 0 && ++free.refused >= kRetryCycles) worth = 1;
  if (worth > 0) free.refused = 0;
  return worth;
}

void PeriodController::RecordDraft(int32_t rows, double seconds) {
  ++passes_;
  cycle_draft_seconds_ += seconds;
  if (rows == texts_) {
    draft_seconds_.Add(seconds);
  } else if (rows > texts_ && draft_seconds_.known()) {
    draft_row_seconds_.Add(std::max(0.0, (seconds - draft_seconds_.value) / (rows - texts_)));
  }
}

// Of a full pass of the least rows.
void PeriodController::AddFull(const CycleOutcome& outcome) {
  full_seconds_.Add(outcome.seconds);
  full_busy_.Add(outcome.busy_seconds());
}

void PeriodController::RecordVerify(const CycleOutcome& outcome, std::span<const JudgedDraft> judged) {
  for (const JudgedDraft& draft : judged) {
    const bool is_free = draft.source == DraftSource::kLookup || draft.source == DraftSource::kRepair;
    const size_t kind = static_cast<size_t>(draft.source);
    if (is_free) {
      free_[kind].acceptance.Add(draft.stood ? 1 : 0);
      continue;
    }
    Record& record = records_[kind];
    record.foretold += 1 - static_cast<double>(draft.confidence);
    record.failed += draft.stood ? 0 : 1;
    Bin& bin = record.bins[BinOf(draft.confidence)];
    bin.judged += 1;
    bin.stood += draft.stood ? 1 : 0;
  }
  if (outcome.seconds > 0) wait_share_.Add(outcome.wait_seconds / outcome.seconds);
  const int32_t more_rows = outcome.rows - texts_;
  if (more_rows == 0) AddFull(outcome);
  if (more_rows == 0 && passes_ == 0) {
    ++cycles_;
    ++dense_cycles_;
    ++since_draft_;
    return;
  }
  if (more_rows > 0 && full_seconds_.known()) {
    row_seconds_.Add(std::max(0.0, (outcome.seconds - full_seconds_.value) / more_rows));
    row_busy_.Add(std::max(0.0, (outcome.busy_seconds() - full_busy_.value) / more_rows));
  }
  if (passes_ == 0) return;  // free drafts alone
  ++cycles_;
  ++draft_cycles_;
  since_draft_ = 0;
  if (!full_seconds_.known()) AddFull(outcome);
  cycle_seconds_.Add(outcome.seconds + cycle_draft_seconds_);
  cycle_tokens_.Add(outcome.accepted + texts_);
  for (int32_t i = 0; i < outcome.accepted; ++i) acceptance_.Add(1);
  for (int32_t i = 0; i < outcome.ended_by_a_draft; ++i) acceptance_.Add(0);
}

}  // namespace dogstar
