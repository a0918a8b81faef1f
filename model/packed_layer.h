// Packs the FFN of one layer in memory: the writer's inner part. The page's layout is in base/ffn_page.h.
#pragma once

#include <cstddef>
#include <span>

#include "base/ffn_page.h"
#include "base/thread_pool.h"
#include "base/types.h"
#include "model/packed_file.h"

namespace dogstar {

// row_order: [ffn_rows], a permutation. pages: page_count * page_bytes bytes, all of which are written.
// down_scales: layout.down_table_bytes() bytes, or empty without a table.
void PackFfnLayer(const FfnPageLayout& layout, std::span<const NeuronIndex> row_order, const LayerMatrices& matrices,
                  ThreadPool* pool, std::span<std::byte> pages, std::span<std::byte> down_scales);

// Rows of a page of 64 KiB or somewhat less or more: the smallest multiple of 32 that wastes little to padding, one
// that divides ffn_rows where there is one.
absl::StatusOr<int32_t> ChoosePageRows(QuantType gate_type, QuantType up_type, QuantType down_type, int64_t dim,
                                       int64_t ffn_rows, int64_t run_rows);

}  // namespace dogstar
