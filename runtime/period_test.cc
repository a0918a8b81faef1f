#include "runtime/period.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

// A cycle of a chain: so many rows, of which so many drafts stood.
void RecordChain(PeriodController* period, int rows, int accepted, DraftSource source, float confidence,
                 double seconds) {
  std::vector<JudgedDraft> judged(static_cast<size_t>(std::min(rows - 1, accepted + 1)), {source, confidence, true});
  const bool ended = accepted < rows - 1;
  if (ended) judged.back().stood = false;
  period->RecordVerify({rows, accepted, ended ? 1 : 0, seconds}, judged);
}

// Runs cycles with given costs; returns the mean rows a cycle over the last half.
double MeanRows(PeriodController* period, double draft_seconds, double full_seconds, float confidence,
                int period_of_failure) {
  double rows_sum = 0;
  int counted = 0, serial = 0;
  for (int cycle = 0; cycle < 200; ++cycle) {
    period->BeginCycle();
    int rows = 1;
    double probability = 1;
    while (period->NodesToLookBeyond({&probability, 1}) > 0) {
      period->RecordDraft(1, draft_seconds);
      probability *= period->AcceptanceOf(DraftSource::kFirst, confidence);
      ++rows;
    }
    int accepted = 0;
    while (accepted < rows - 1 && ++serial % period_of_failure != 0) ++accepted;
    RecordChain(period, rows, accepted, DraftSource::kFirst, confidence, full_seconds);
    if (cycle >= 100) rows_sum += rows, ++counted;
  }
  return rows_sum / counted;
}

TEST(PeriodTest, AFixedPeriodDraftsAlwaysTheSame) {
  PeriodController period({false, 8});
  EXPECT_EQ(MeanRows(&period, 1, 1, 0.5F, 2), 8);
}

TEST(PeriodTest, PeriodOneNeverDrafts) {
  PeriodController period({false, 1});
  EXPECT_EQ(MeanRows(&period, 0.001, 1, 0.99F, 1000), 1);
}

TEST(PeriodTest, CheapGoodDraftsUseThePeriod) {
  PeriodController period({true, 16});
  EXPECT_GT(MeanRows(&period, 0.01, 1, 0.99F, 1000), 14);
}

TEST(PeriodTest, DraftsThatCostAsMuchAsAFullPassAreGivenUp) {
  PeriodController period({true, 16});
  EXPECT_LT(MeanRows(&period, 1, 1, 0.9F, 3), 1.2);
  EXPECT_GT(period.dense_share(), 0.8);
}

TEST(PeriodTest, DraftsThatAreNeverAcceptedAreGivenUp) {
  PeriodController period({true, 16});
  EXPECT_LT(MeanRows(&period, 0.2, 1, 0.3F, 1), 1.3);
}

// Passes wait 10 or 90 ms by the disk's mood, and compute 5 ms and 1 ms a row: a row is worth a probability of 2%,
// where the first passes' times alone would say some 25 ms.
TEST(PeriodTest, ADiskThatReadsInFitsDoesNotMakeRowsDear) {
  PeriodController period({true, 16});
  for (int cycle = 0; cycle < 60; ++cycle) {
    period.BeginCycle();
    const int rows = cycle % 3 == 0 ? 1 : 3;
    for (int i = 1; i < rows; ++i) period.RecordDraft(1, 0.002);
    const double wait = cycle % 2 == 0 ? 0.01 : 0.09, busy = 0.004 + 0.001 * rows;
    const std::vector<JudgedDraft> judged(static_cast<size_t>(rows - 1), {DraftSource::kFirst, 0.9F, true});
    period.RecordVerify({rows, rows - 1, 0, wait + busy, wait}, judged);
  }
  EXPECT_LT(period.LeastProbability(), 0.1);
}

void RecordLookup(PeriodController* period, int rows, int accepted, double seconds) {
  period->BeginCycle();
  RecordChain(period, rows, accepted, DraftSource::kLookup, 1, seconds);
}

PeriodController WithFullPass(double seconds) {
  PeriodController period({true, 16});
  period.BeginCycle();
  RecordChain(&period, 1, 0, DraftSource::kFirst, 1, seconds);
  return period;
}

TEST(PeriodTest, LookupsThatStandAreTakenInFull) {
  PeriodController period = WithFullPass(1);
  for (int i = 0; i < 50; ++i) RecordLookup(&period, 11, 10, 1.01);
  EXPECT_EQ(period.FreeDraftsToTry(DraftSource::kLookup, 10), 10);
  EXPECT_EQ(period.FreeDraftsToTry(DraftSource::kLookup, 40), 15);  // the period is the most
  EXPECT_EQ(period.FreeDraftsToTry(DraftSource::kLookup, 0), 0);
}

TEST(PeriodTest, LookupsThatFailAreTriedNowAndThen) {
  PeriodController period = WithFullPass(1);
  for (int i = 0; i < 50; ++i) RecordLookup(&period, 11, 0, 1.5);  // 0.05 a row
  int tried = 0;
  for (int i = 0; i < 160; ++i) {
    if (period.FreeDraftsToTry(DraftSource::kLookup, 10) == 0) continue;
    ++tried;
    RecordLookup(&period, 2, 0, 1.05);
  }
  EXPECT_EQ(tried, 10);
}

TEST(PeriodTest, AFixedPeriodTakesWhatIsFound) {
  PeriodController period({false, 8});
  EXPECT_EQ(period.FreeDraftsToTry(DraftSource::kLookup, 3), 3);
  EXPECT_EQ(period.FreeDraftsToTry(DraftSource::kLookup, 30), 7);
}

// Learns the prices of a pass of one row, 0.1 s and 0.02 s a further row, and of full passes, 1 s and 0.01 s a row.
PeriodController WithPrices() {
  PeriodController period = WithFullPass(1);
  for (int i = 0; i < 100; ++i) {
    period.BeginCycle();
    period.RecordDraft(1, 0.1);
    period.RecordDraft(4, 0.16);
    RecordChain(&period, 5, i % 2 == 0 ? 2 : 0, DraftSource::kFirst, 0.5F, 1.04);
  }
  period.BeginCycle();
  return period;
}

TEST(PeriodTest, NodesAreLookedBeyondWhileEachIsWorthItsRow) {
  const PeriodController period = WithPrices();
  const std::vector<double> all = {0.9, 0.6, 0.4, 0.3}, some = {0.9, 0.6, 0.04, 0.02}, none = {0.1, 0.05};
  EXPECT_EQ(period.NodesToLookBeyond(all), 4);
  EXPECT_EQ(period.NodesToLookBeyond(some), 2);
  EXPECT_EQ(period.NodesToLookBeyond(none), 0);
}

TEST(PeriodTest, ADraftIsWorthItsRowByItsProbability) {
  const double least = WithPrices().LeastProbability();  // 0.01 s a row, about 0.6 s a token
  EXPECT_GT(least, 0.01);
  EXPECT_LT(least, 0.03);
  EXPECT_EQ(PeriodController({false, 8}).LeastProbability(), 0);
}

TEST(PeriodTest, ConfidencesAreTakenForWhatTheyWereWorthByTheirSource) {
  PeriodController period = WithFullPass(1);
  for (int i = 0; i < 100; ++i) {
    const std::vector<JudgedDraft> judged = {{DraftSource::kFirst, 0.55F, i % 10 != 0},
                                             {DraftSource::kOther, 0.55F, i % 10 == 0}};
    period.RecordVerify({3, 1, 0, 1}, judged);
  }
  EXPECT_NEAR(period.AcceptanceOf(DraftSource::kFirst, 0.55F), 0.9, 0.05);
  EXPECT_NEAR(period.AcceptanceOf(DraftSource::kOther, 0.55F), 0.1, 0.05);
}

// Four drafts are enough to learn that little confidence means nothing here.
TEST(PeriodTest, DraftsThatStandAgainstTheirConfidenceAreSoonBelieved) {
  PeriodController period = WithFullPass(1);
  const double before = period.AcceptanceOf(DraftSource::kFirst, 0.35F);
  EXPECT_NEAR(before, 0.35, 0.01);
  for (int i = 0; i < 4; ++i) {
    const JudgedDraft judged{DraftSource::kFirst, 0.45F, true};
    period.RecordVerify({2, 1, 0, 1}, {&judged, 1});
  }
  EXPECT_GT(period.AcceptanceOf(DraftSource::kFirst, 0.35F), 0.75);
}

TEST(PeriodTest, TextsTogetherHaveAPlainPassForATokenEach) {
  PeriodController period({true, 16});
  for (int i = 0; i < 20; ++i) {
    period.BeginCycle(4);
    period.RecordVerify({4, 0, 0, 1}, {});
  }
  period.BeginCycle(4);
  period.RecordDraft(4, 0.2);
  period.RecordVerify({8, 2, 2, 1}, {});
  period.BeginCycle(4);
  const std::vector<double> good(4, 0.9), bad(4, 0.1);
  EXPECT_EQ(period.NodesToLookBeyond(good), 4);  // 4 * 0.9 * 0.5 * 0.2 s for 0.2 s
  EXPECT_EQ(period.NodesToLookBeyond(bad), 0);
}

TEST(PeriodControllerTest, AlternativesPayWherePassesWaitAndDraftsFail) {
  for (const auto& [wait_seconds, waits] : {std::pair{0.09, true}, std::pair{0.04, false}}) {
    PeriodController period({true, 16});
    EXPECT_FALSE(period.AlternativesPay());  // nothing is known
    const auto cycle = [&, wait = wait_seconds](int32_t accepted) {
      period.BeginCycle();
      period.RecordDraft(1, 0.01);
      period.RecordVerify({.rows = 9,
                           .accepted = accepted,
                           .ended_by_a_draft = accepted < 8 ? 1 : 0,
                           .seconds = 0.1,
                           .wait_seconds = wait},
                          {});
    };
    cycle(2);
    EXPECT_EQ(period.AlternativesPay(), waits);
    for (int i = 0; i < 8; ++i) cycle(8);  // where nearly all drafts stand there is nothing to win
    EXPECT_FALSE(period.AlternativesPay());
  }
}

}  // namespace
}  // namespace dogstar
