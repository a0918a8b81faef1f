#include "model/overlay_rows.h"

#include "base/random.h"
#include "model/packed_layer.h"
#include "model/packed_test_support.h"
#include "model/row_order.h"
#include "model/synth_rows.h"

namespace dogstar {
namespace {

constexpr int32_t kFfn = 256;
constexpr int32_t kCapacity = 32;

std::vector<std::byte> RandomMatrix(QuantType type, int64_t cols, int64_t rows, const char* name) {
  const SynthRows source(type, cols, 1, name);
  std::vector<std::byte> matrix(source.row_bytes() * static_cast<uint64_t>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    source.FillRow(row, matrix.data() + static_cast<uint64_t>(row) * source.row_bytes());
  }
  return matrix;
}

// One packed layer, and an overlay.
struct Layer {
  explicit Layer(QuantType type)
      : kDim(TraitsOf(type).block_weights == 256 ? 256 : 96),  // an odd number of blocks
        layout(*FfnPageLayout::Make(type, type, type, kDim, kFfn, 32, 8)),
        gate(RandomMatrix(type, kDim, kFfn, "gate")),
        up(RandomMatrix(type, kDim, kFfn, "up")),
        down(RandomMatrix(type, kFfn, kDim, "down")),
        pages(layout.page_bytes * static_cast<uint64_t>(layout.page_count())),
        scales(layout.down_table_bytes()),
        overlay_gate(PanelMatrixBytes(type, kCapacity, kDim), std::byte{0x5A}),
        overlay_up(PanelMatrixBytes(type, kCapacity, kDim), std::byte{0x5A}),
        overlay_down(kDim / 16 * OverlayRowsDownPanelBytes(type, kCapacity), std::byte{0x5A}) {
    ThreadPool pool(2);
    const RowOrder order = MakeRowOrder({}, kFfn, 8, layout.group_rows());
    PackFfnLayer(layout, order.row_order, {.gate = gate, .up = up, .down = down}, &pool, pages, scales);
  }

  void Gather(int row, int index) {
    const std::byte* const page = &pages[static_cast<uint64_t>(row / 32) * layout.page_bytes];
    GatherOverlayRow(layout, page, row % 32, index,
                     {overlay_gate.data(), overlay_up.data(), overlay_down.data(), kCapacity});
  }

  // The code of overlay row `index` for output `output`, by the words of FfnOverlayRef.
  std::vector<std::byte> OverlayCodeAt(int index, int output) const {
    const std::byte* const panel =
        &overlay_down[static_cast<uint64_t>(output / 16) * OverlayRowsDownPanelBytes(layout.down_type, kCapacity)];
    const int lane = output % 16;
    if (!IsFloatType(layout.down_type) && ShapeOf(layout.down_type).bits() <= 4) {
      const std::byte pair = panel[index / 2 * 16 + lane];
      return {index % 2 == 0 ? pair & std::byte{15} : pair >> 4};
    }
    if (!IsFloatType(layout.down_type)) return {panel[index / 2 * 32 + index % 2 * 16 + lane]};
    const int bytes = TraitsOf(layout.down_type).block_bytes;
    const std::byte* const first = panel + (index * 16 + lane) * bytes;
    return {first, first + bytes};
  }

  void ExpectRow(int row, int index) const {
    const QuantType type = layout.gate_type;
    std::vector<std::byte> plain(RowBytes(type, kDim));
    for (const auto& [matrix, overlay] : {std::pair{&gate, &overlay_gate}, std::pair{&up, &overlay_up}}) {
      UnpackPanelRow(type, overlay->data() + static_cast<uint64_t>(index / 16) * PanelBytes(type, kDim), index % 16,
                     kDim, plain.data());
      ASSERT_EQ(0, std::memcmp(plain.data(), matrix->data() + static_cast<uint64_t>(row) * plain.size(), plain.size()));
    }
    const std::byte* const page = &pages[static_cast<uint64_t>(row / 32) * layout.page_bytes];
    for (int output = 0; output < kDim; ++output) {
      ASSERT_EQ(OverlayCodeAt(index, output), DownCodeAt(layout, page, row % 32, output)) << output;
    }
  }

  const int32_t kDim;
  FfnPageLayout layout;
  std::vector<std::byte> gate, up, down, pages, scales, overlay_gate, overlay_up, overlay_down;
};

class OverlayRowsTest : public ::testing::TestWithParam<QuantType> {};

TEST_P(OverlayRowsTest, RowsAreThoseOfThePageAndMayBeReplaced) {
  Layer layer(GetParam());
  SplitMix64 random(1);
  std::vector<int> held(kCapacity, -1);
  for (int i = 0; i < 400; ++i) {
    const auto index = static_cast<size_t>(random.Next() % kCapacity);
    held[index] = static_cast<int>(random.Next() % kFfn);
    layer.Gather(held[index], static_cast<int>(index));
  }
  for (size_t index = 0; index < held.size(); ++index) {
    if (held[index] >= 0) layer.ExpectRow(held[index], static_cast<int>(index));
  }
}

TEST_P(OverlayRowsTest, OnlyThatRowsBitsAreWritten) {
  Layer layer(GetParam());
  layer.Gather(40, 7);
  const Layer before = layer;
  layer.Gather(5, 8);
  layer.ExpectRow(40, 7);
  for (int index = 0; index < kCapacity; ++index) {
    if (index == 8) continue;
    for (int output = 0; output < layer.kDim; ++output) {
      ASSERT_EQ(layer.OverlayCodeAt(index, output), before.OverlayCodeAt(index, output));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, OverlayRowsTest,
                         ::testing::Values(QuantType::kQ4_0, QuantType::kQ4_1, QuantType::kQ8_0, QuantType::kF16,
                                           QuantType::kBF16, QuantType::kF32, QuantType::kQ5_0, QuantType::kQ5_1,
                                           QuantType::kQ2_K, QuantType::kQ3_K, QuantType::kQ4_K, QuantType::kQ5_K,
                                           QuantType::kQ6_K, QuantType::kIQ4_NL),
                         [](const auto& test) { return std::string(TraitsOf(test.param).name); });

}  // namespace
}  // namespace dogstar
