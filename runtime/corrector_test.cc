#include "runtime/corrector.h"

#include "gtest/gtest.h"

namespace dogstar {
namespace {

constexpr int32_t kVocab = 8;

// Logits whose largest value stands at favourite[row].
class FakeModel {
 public:
  explicit FakeModel(std::vector<int32_t> favourite) : favourite_(std::move(favourite)) {}
  LogitsFn Logits() const {
    return [this](int32_t row, std::span<float> out) {
      for (int32_t i = 0; i < kVocab; ++i)
        out[static_cast<size_t>(i)] = i == favourite_[static_cast<size_t>(row)] ? 2.0F : 0.1F * static_cast<float>(i);
      return absl::OkStatus();
    };
  }

 private:
  std::vector<int32_t> favourite_;
};

std::vector<TokenId> Tokens(std::initializer_list<int32_t> ids) {
  std::vector<TokenId> tokens;
  for (int32_t id : ids) tokens.push_back(TokenId{id});
  return tokens;
}

Verdict JudgeOrDie(const CorrectorOptions& options, const DraftTree& tree, const FakeModel& model) {
  std::vector<float> scratch(kVocab);
  Sampler sampler({});
  return Judge(options, &sampler, {}, SequenceId{0}, TokenPos{10}, tree, model.Logits(), {}, scratch).value();
}

Verdict JudgeOrDie(const CorrectorOptions& options, const std::vector<TokenId>& chain, const FakeModel& model) {
  DraftTree tree;
  tree.Begin({}, chain[0]);
  tree.AddPath(std::span(chain).subspan(1), DraftSource::kFirst, 0.5);
  return JudgeOrDie(options, tree, model);
}

TEST(CorrectorTest, StrictKeepsTheAgreedPrefixAndCorrectsTheFirstDisagreement) {
  const Verdict verdict = JudgeOrDie({}, Tokens({0, 3, 4, 5}), FakeModel({3, 4, 6, 1}));
  EXPECT_EQ(verdict.accepted(), 2);
  EXPECT_EQ(verdict.next, TokenId{6});
}

TEST(CorrectorTest, FullAgreementEarnsTheBonusToken) {
  const Verdict verdict = JudgeOrDie({}, Tokens({0, 3, 4}), FakeModel({3, 4, 7}));
  EXPECT_EQ(verdict.accepted(), 2);
  EXPECT_EQ(verdict.next, TokenId{7});
}

// Where its own tokens are chosen by a few logits, the full model is not asked for all of them.
TEST(CorrectorTest, OwnTokensMayComeWithoutLogits) {
  const std::vector<TokenId> tokens = Tokens({3, 4, 6, 1});
  std::vector<TokenPos> positions;
  const auto own = [&](int32_t node, TokenPos position) -> absl::StatusOr<TokenId> {
    positions.push_back(position);
    return tokens[static_cast<size_t>(node)];
  };
  const auto no_logits = [](int32_t, std::span<float>) { return absl::InternalError("all logits were asked for"); };
  DraftTree tree;
  tree.Begin({}, TokenId{0});
  tree.AddPath(Tokens({3, 4, 5}), DraftSource::kFirst, 0.5);
  std::vector<float> scratch(kVocab);
  Sampler sampler({.temperature = 1, .top_k = 2});
  const auto verdict = Judge({}, &sampler, {}, SequenceId{0}, TokenPos{10}, tree, no_logits, own, scratch);
  ASSERT_TRUE(verdict.ok()) << verdict.status();
  EXPECT_EQ(verdict->accepted(), 2);
  EXPECT_EQ(verdict->next, TokenId{6});
  EXPECT_EQ(positions, (std::vector<TokenPos>{TokenPos{11}, TokenPos{12}, TokenPos{13}}));
  EXPECT_FALSE(Judge({}, &sampler, {}, SequenceId{0}, TokenPos{10}, tree, no_logits, {}, scratch).ok());
}

TEST(CorrectorTest, AssumedAcceptanceKeepsAsManyTokensWhateverTheyAre) {
  CorrectorOptions options;
  options.assumed_tokens = 3;
  const FakeModel disagrees({1, 1, 6, 1});
  EXPECT_EQ(JudgeOrDie(options, Tokens({0, 3, 4, 5}), disagrees).accepted(), 2);
  EXPECT_EQ(JudgeOrDie(options, Tokens({0, 3, 4, 5}), disagrees).next, TokenId{6});
  EXPECT_EQ(JudgeOrDie(options, Tokens({0, 3}), disagrees).accepted(), 1);  // no more than there are
  options.assumed_tokens = 1;
  EXPECT_EQ(JudgeOrDie(options, Tokens({0, 1, 1}), FakeModel({1, 1, 1})).accepted(), 0);
}

TEST(CorrectorTest, ARootAloneGivesTheNextToken) {
  const Verdict verdict = JudgeOrDie({}, Tokens({0}), FakeModel({5}));
  EXPECT_EQ(verdict.accepted(), 0);
  EXPECT_EQ(verdict.next, TokenId{5});
}

TEST(CorrectorTest, SiriusAcceptsWhatTheFullModelFindsLikelyEnough) {
  CorrectorOptions options;
  options.rule = AcceptRule::kSirius;
  options.threshold = 0.01F;  // every token of FakeModel has more at temperature 0.6
  EXPECT_EQ(JudgeOrDie(options, Tokens({0, 5, 6}), FakeModel({3, 4, 7})).accepted(), 2);
  options.threshold = 0.5F;
  EXPECT_EQ(JudgeOrDie(options, Tokens({0, 3, 6}), FakeModel({3, 4, 7})).accepted(), 1);
}

TEST(CorrectorTest, ThresholdZeroAcceptsEverythingAndAboveOneNothing) {
  CorrectorOptions options;
  options.rule = AcceptRule::kSirius;
  options.threshold = 0;
  EXPECT_EQ(JudgeOrDie(options, Tokens({0, 1, 2, 1}), FakeModel({3, 4, 7, 5})).accepted(), 3);
  options.threshold = 1.5F;
  const Verdict verdict = JudgeOrDie(options, Tokens({0, 3, 4}), FakeModel({3, 4, 7}));
  EXPECT_EQ(verdict.accepted(), 0);
  EXPECT_EQ(verdict.next, TokenId{3});  // the full model's own token
}

// 0 with children 3 (of it: 5) and 4 (of it: 6, of that: 7); nodes 1 and 2, 3 and 4 in the order of their drafting.
DraftTree TwoPaths() {
  DraftTree tree;
  tree.Begin({TreeShape::kBest, 8, 4}, TokenId{0});
  tree.AddPath(Tokens({3}), DraftSource::kFirst, 0.9);
  tree.AddPath(Tokens({4}), DraftSource::kFirst, 0.5);
  tree.AddPath(Tokens({3, 5}), DraftSource::kFirst, 0.9);
  tree.AddPath(Tokens({4, 6}), DraftSource::kFirst, 0.5);
  tree.AddPath(Tokens({4, 6, 7}), DraftSource::kFirst, 0.5);
  return tree;
}

TEST(CorrectorTest, StrictFollowsTheFullModelsOwnPathThroughTheTree) {
  const Verdict other = JudgeOrDie({}, TwoPaths(), FakeModel({4, 1, 6, 1, 2, 1}));
  EXPECT_EQ(other.path, (std::vector<int32_t>{0, 2, 4}));
  EXPECT_EQ(other.next, TokenId{2});
  const Verdict first = JudgeOrDie({}, TwoPaths(), FakeModel({3, 5, 1, 7, 1, 1}));
  EXPECT_EQ(first.path, (std::vector<int32_t>{0, 1, 3}));
  EXPECT_EQ(first.next, TokenId{7});
  EXPECT_EQ(JudgeOrDie({}, TwoPaths(), FakeModel({2, 0, 0, 0, 0, 0})).path, (std::vector<int32_t>{0}));
}

// The token after a rejected draft comes from its parent's row, not its own.
TEST(CorrectorTest, SiriusTakesTheLongestPathAndTheTokenOfItsLastNode) {
  CorrectorOptions options;
  options.rule = AcceptRule::kSirius;
  options.threshold = 0.01F;
  const Verdict longest = JudgeOrDie(options, TwoPaths(), FakeModel({1, 1, 1, 1, 1, 2}));
  EXPECT_EQ(longest.path, (std::vector<int32_t>{0, 2, 4, 5}));
  EXPECT_EQ(longest.next, TokenId{2});
  options.threshold = 0.5F;  // 3 and 4 cannot both be that likely; 6 is not
  const Verdict cut = JudgeOrDie(options, TwoPaths(), FakeModel({4, 1, 2, 1, 6, 1}));
  EXPECT_EQ(cut.path, (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(cut.next, TokenId{2});
}

TEST(CorrectorTest, OfEquallyLongPathsTheLikelierStands) {
  CorrectorOptions options;
  options.rule = AcceptRule::kSirius;
  options.threshold = 0;
  DraftTree tree = TwoPaths();
  tree.Prune(4, 0);  // 7 goes: both paths have two drafts
  EXPECT_EQ(JudgeOrDie(options, tree, FakeModel({1, 1, 1, 1, 1})).path, (std::vector<int32_t>{0, 1, 3}));
}

}  // namespace
}  // namespace dogstar
