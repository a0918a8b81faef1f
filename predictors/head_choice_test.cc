#include "predictors/head_choice.h"

#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(HeadChoiceTest, KeepsTheHeadsOfLargestContexts) {
  HeadChoice choice(2, 4, 2, 0.5);
  EXPECT_EQ(choice.kept(), 2);
  choice.BeginPrompt();
  // Two tokens, a stride of 10: heads of norms 5, 1, 2, 0 and 0, 1, 2, 5.
  const std::vector<float> context = {3, 4, 1, 0, 0, 2, 0, 0, 9, 9, 0, 0, 1, 0, 0, 2, 4, 3, 9, 9};
  choice.Observe(LayerIndex{1}, context, 2, 10);
  EXPECT_EQ(choice.Choose(LayerIndex{1}), std::vector<uint64_t>{0b1001});
  EXPECT_EQ(choice.Choose(LayerIndex{0}), std::vector<uint64_t>{0b0011}) << "equal scores: the lower heads";
  choice.BeginPrompt();
  EXPECT_EQ(choice.Choose(LayerIndex{1}), std::vector<uint64_t>{0b0011}) << "the last prompt's scores are gone";
}

TEST(HeadChoiceTest, CountsAsThePaperAndKeepsOne) {
  EXPECT_EQ(HeadChoice(1, 32, 64, 0.9).kept(), 29);  // 3 off
  EXPECT_EQ(HeadChoice(1, 32, 64, 0.1).kept(), 4);   // 28 off
  EXPECT_EQ(HeadChoice(1, 9, 64, 0.0).kept(), 1);
  EXPECT_EQ(HeadChoice(1, 9, 64, 1.0).kept(), 9);
}

TEST(HeadChoiceTest, GivenScoresStayWhateverPromptsDo) {
  HeadChoice choice(1, 70, 1, 1.0 / 70);
  std::vector<float> scores(70);
  scores[66] = 1;
  choice.SetScores({scores});
  choice.BeginPrompt();
  choice.Observe(LayerIndex{0}, std::vector<float>(70, 5.0F), 1, 70);
  EXPECT_FALSE(choice.observes_prompt());
  EXPECT_EQ(choice.Choose(LayerIndex{0}), (std::vector<uint64_t>{0, uint64_t{1} << 2}));
}

}  // namespace
}  // namespace dogstar
