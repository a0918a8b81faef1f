#include "runtime/period.h"

#include "gtest/gtest.h"

namespace dogstar {
namespace {

// Runs cycles with given costs; returns the mean rows a cycle over the last half.
double MeanRows(PeriodController* period, double draft_seconds, double full_seconds, float confidence,
                int period_of_failure) {
  double rows_sum = 0;
  int counted = 0, serial = 0;
  for (int cycle = 0; cycle < 200; ++cycle) {
    period->BeginCycle();
    int rows = 1;
    while (period->DraftAnother()) {
      period->RecordDraft(confidence, draft_seconds);
      ++rows;
    }
    int accepted = 0;
    while (accepted < rows - 1 && ++serial % period_of_failure != 0) ++accepted;
    period->RecordVerify(rows, accepted, full_seconds);
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

PeriodController WithFullPass(double seconds) {
  PeriodController period({true, 16});
  period.BeginCycle();
  period.RecordVerify(1, 0, seconds);
  return period;
}

TEST(PeriodTest, LookupsThatStandAreTakenInFull) {
  PeriodController period = WithFullPass(1);
  for (int i = 0; i < 50; ++i) period.RecordLookup(11, 10, 1.01);
  EXPECT_EQ(period.LookupsToTry(10), 10);
  EXPECT_EQ(period.LookupsToTry(40), 15);  // the period is the most
  EXPECT_EQ(period.LookupsToTry(0), 0);
}

TEST(PeriodTest, LookupsThatFailAreTriedNowAndThen) {
  PeriodController period = WithFullPass(1);
  for (int i = 0; i < 50; ++i) period.RecordLookup(11, 0, 1.5);  // 0.05 a row
  int tried = 0;
  for (int i = 0; i < 160; ++i) {
    if (period.LookupsToTry(10) == 0) continue;
    ++tried;
    period.RecordLookup(2, 0, 1.05);
  }
  EXPECT_EQ(tried, 10);
}

TEST(PeriodTest, AFixedPeriodTakesWhatIsFound) {
  PeriodController period({false, 8});
  EXPECT_EQ(period.LookupsToTry(3), 3);
  EXPECT_EQ(period.LookupsToTry(30), 7);
}

}  // namespace
}  // namespace dogstar
