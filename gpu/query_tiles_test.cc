#include "gpu/query_tiles.h"

#include "gtest/gtest.h"

namespace dogstar {
namespace {

void ExpectTile(const gpu::QueryTile& tile, int32_t first_row, int32_t first_head, int32_t count, int32_t last_row) {
  EXPECT_EQ(tile.first_row, first_row);
  EXPECT_EQ(tile.first_head, first_head);
  EXPECT_EQ(tile.count, count);
  EXPECT_EQ(tile.last_row, last_row);
}

TEST(QueryTilesTest, RowsOfAChainShareTiles) {
  const AttentionMask chain{.runs = {{0, 7}, {0, 8}, {0, 4}, {4, 9}, {0, 10}},
                            .rows = {{0, 1}, {1, 1}, {2, 2}, {4, 1}}};
  const QueryLists lists = ListsOf(chain, 3);
  ASSERT_EQ(lists.rows.size(), 4u);
  EXPECT_EQ(lists.rows[2].slots, 9);
  EXPECT_EQ(lists.most_slots, 10);
  ASSERT_EQ(lists.tiles.size(), 2u);
  ExpectTile(lists.tiles[0], 0, 0, 8, 2);
  ExpectTile(lists.tiles[1], 2, 2, 4, 3);
}

TEST(QueryTilesTest, BranchesDoNot) {
  const AttentionMask tree{.runs = {{0, 5}, {5, 6}, {0, 5}, {6, 7}, {0, 5}, {6, 8}, {3, 5}, {9, 10}},
                           .rows = {{0, 2}, {2, 2}, {4, 2}, {6, 2}}};
  const QueryLists lists = ListsOf(tree, 4);
  ASSERT_EQ(lists.tiles.size(), 3u);
  ExpectTile(lists.tiles[0], 0, 0, 4, 0);
  ExpectTile(lists.tiles[1], 1, 0, 8, 2);  // its child
  ExpectTile(lists.tiles[2], 3, 0, 4, 3);
}

TEST(QueryTilesTest, ARowThatSeesLessIsNoChild) {
  const AttentionMask mask{.runs = {{0, 8}, {0, 7}}, .rows = {{0, 1}, {1, 1}}};
  EXPECT_EQ(ListsOf(mask, 1).tiles.size(), 2u);
}

TEST(QueryTilesTest, LargeGroupsTakeSeveralTiles) {
  const AttentionMask mask{.runs = {{0, 8}}, .rows = {{0, 1}}};
  const QueryLists lists = ListsOf(mask, 20);
  ASSERT_EQ(lists.tiles.size(), 3u);
  ExpectTile(lists.tiles[1], 0, 8, 8, 0);
  ExpectTile(lists.tiles[2], 0, 16, 4, 0);
}

TEST(QueryTilesTest, NoRowsNoTiles) { EXPECT_TRUE(ListsOf({}, 3).tiles.empty()); }

}  // namespace
}  // namespace dogstar
