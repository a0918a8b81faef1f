#include "runtime/draft_tree.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Proposal After(int32_t parent, int32_t token, double acceptance, bool first = true, bool ends = false) {
  return {parent,
          TokenId{token},
          first ? DraftSource::kFirst : DraftSource::kOther,
          static_cast<float>(acceptance),
          acceptance,
          ends};
}

DraftTree TreeOf(TreeShape shape, int32_t depth, int32_t width) {
  DraftTree tree;
  tree.Begin({shape, depth, width}, TokenId{0});
  return tree;
}

std::vector<int32_t> TokensOf(const DraftTree& tree) {
  std::vector<int32_t> tokens;
  for (const DraftNode& node : tree.nodes()) tokens.push_back(ToInt(node.token));
  return tokens;
}

TEST(DraftTreeTest, AChainGoesOnUntilItsDepthOrAnEnd) {
  DraftTree tree = TreeOf(TreeShape::kChain, 2, 1);
  EXPECT_THAT(tree.NextToLookBeyond(), ElementsAre(0));
  tree.Add(std::vector{0}, {After(0, 5, 0.5)});
  EXPECT_THAT(tree.NextToLookBeyond(), ElementsAre(1));
  tree.Add(std::vector{1}, {After(1, 6, 0.5)});
  EXPECT_THAT(tree.NextToLookBeyond(), IsEmpty());
  EXPECT_EQ(tree.TokensTo(2), (std::vector<TokenId>{TokenId{5}, TokenId{6}}));
  EXPECT_DOUBLE_EQ(tree.node(2).probability, 0.25);

  DraftTree ended = TreeOf(TreeShape::kChain, 9, 1);
  ended.Add(std::vector{0}, {After(0, 5, 0.5, true, true)});
  EXPECT_THAT(ended.NextToLookBeyond(), IsEmpty());
}

// 0 -> 1 (.6), 2 (.3); 1 -> 3 (.2): .12; the likeliest unexplored nodes come first, whatever their depth.
TEST(DraftTreeTest, BestFirstLooksBeyondTheLikeliestPaths) {
  DraftTree tree = TreeOf(TreeShape::kBest, 4, 2);
  tree.Add(std::vector{0}, {After(0, 1, 0.6), After(0, 2, 0.3, false)});
  EXPECT_THAT(tree.NextToLookBeyond(), ElementsAre(1, 2));
  tree.Add(std::vector{1}, {After(1, 3, 0.2), After(1, 4, 0.9, false)});
  EXPECT_THAT(tree.NextToLookBeyond(), ElementsAre(4, 2));  // .54, .3
  EXPECT_EQ(tree.FindChild(1, TokenId{4}), 4);
  EXPECT_EQ(tree.FindChild(2, TokenId{4}), -1);
  EXPECT_EQ(tree.LikeliestChild(1), 4);
  EXPECT_THAT(tree.PathTo(4), ElementsAre(0, 1, 4));
}

TEST(DraftTreeTest, PruningLeavesTheLikeliestNodesAndTheirAncestors) {
  DraftTree tree = TreeOf(TreeShape::kBest, 4, 2);
  tree.Add(std::vector{0}, {After(0, 1, 0.6), After(0, 2, 0.3, false)});
  tree.Add(std::vector{2}, {After(2, 5, 1.0)});  // as likely as its parent
  tree.Add(std::vector{1}, {After(1, 3, 0.2), After(1, 4, 0.9, false)});
  DraftTree small = tree;
  small.Prune(3, 0);
  EXPECT_THAT(TokensOf(small), ElementsAre(0, 1, 2, 4));  // .6 .54 .3, the parent before its child
  EXPECT_EQ(small.node(3).parent, 1);
  EXPECT_THAT(small.PathTo(3), ElementsAre(0, 1, 3));
  tree.Prune(9, 0.4);
  EXPECT_THAT(TokensOf(tree), ElementsAre(0, 1, 4));
  tree.Prune(9, 0.7);
  EXPECT_THAT(TokensOf(tree), ElementsAre(0));
}

// Of four proposals the two likeliest paths live on; a certain token has one follower.
TEST(DraftTreeTest, ABeamKeepsItsWidthAndCertainTokensProposeOne) {
  DraftTree tree = TreeOf(TreeShape::kBeam, 4, 2);
  tree.Add(std::vector{0}, {After(0, 1, 0.6), After(0, 2, 0.3, false)});
  tree.Add(std::vector{1, 2}, {After(1, 3, 0.5), After(1, 4, 0.4, false), After(2, 5, 0.9), After(2, 6, 0.05, false)});
  EXPECT_THAT(TokensOf(tree), ElementsAre(0, 1, 2, 3, 5));
  EXPECT_THAT(tree.NextToLookBeyond(), ElementsAre(3, 4));  // .3, .27
  tree.Add(std::vector{3, 4}, {After(3, 7, 0.96), After(3, 8, 0.03, false), After(4, 9, 0.01)});
  EXPECT_THAT(TokensOf(tree), ElementsAre(0, 1, 2, 3, 5, 7, 9));
}

TEST(DraftTreeTest, APathThatCostsNothingJoinsWhatIsThere) {
  DraftTree tree = TreeOf(TreeShape::kBest, 3, 2);
  tree.Add(std::vector{0}, {After(0, 1, 0.6), After(0, 2, 0.3, false)});
  const std::vector<TokenId> path = {TokenId{1}, TokenId{7}, TokenId{8}, TokenId{9}};
  tree.AddPath(path, DraftSource::kLookup, 0.5);
  EXPECT_THAT(TokensOf(tree), ElementsAre(0, 1, 2, 7, 8));  // as deep as paths may be
  EXPECT_EQ(tree.node(1).source, DraftSource::kFirst);
  EXPECT_EQ(tree.node(3).source, DraftSource::kLookup);
  EXPECT_DOUBLE_EQ(tree.node(4).probability, 0.15);
}

}  // namespace
}  // namespace dogstar
