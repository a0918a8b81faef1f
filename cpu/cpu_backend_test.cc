// The operations around products: norms, activations, rotary positions, attention, copies.
#include "cpu/cpu_backend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "cpu/test_support.h"

namespace dogstar {
namespace {

TEST(CpuBackendTest, DescribesItself) {
  EXPECT_EQ(MakeBackend({.threads = 2, .isa = CpuIsa::kPortable})->Describe(), "cpu, portable, 2 threads");
  EXPECT_EQ(MakeBackend({.threads = 1, .precise = true, .isa = CpuIsa::kPortable})->Describe(),
            "cpu, portable, 1 thread, precise");
  EXPECT_FALSE(NewCpuBackend({.threads = 0}).ok());
}

TEST(CpuBackendTest, SizesAreWhatIsAllocated) {
  auto backend = MakeBackend({.threads = 2});
  const KvShape shape{.layers = 3, .kv_head_count = 2, .head_dim = 40, .slots = 100, .type = KvType::kF16};
  EXPECT_EQ((*backend->NewKvStore(shape))->bytes(), backend->KvStoreBytes(shape));
  EXPECT_EQ(backend->TensorBytes(3, 100), 1200u);
  EXPECT_GE(backend->ActivationsBytes(4, 64), 4 * 64 * 5u);
  EXPECT_FALSE(backend->NewActivations(1, 33).ok());
  EXPECT_FALSE(backend->NewKvStore({.layers = 1, .kv_head_count = 1, .head_dim = 4096, .slots = 1}).ok());
  absl::StatusOr<std::byte*> memory = backend->AllocateMemory(5000);
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(*memory) % 4096, 0u);
  backend->FreeMemory(*memory);
}

TEST(CpuBackendTest, TicketsAreDone) {
  auto backend = MakeBackend({.threads = 1});
  EXPECT_TRUE(backend->IsDone(backend->Now()));
  backend->Wait(backend->Now());
}

TEST(CpuBackendTest, CopyRowsMovesRows) {
  auto backend = MakeBackend({.threads = 2});
  auto from = MakeTensor(*backend, 3, 5, RandomFloats(1, 15));
  auto to = MakeTensor(*backend, 4, 5, RandomFloats(2, 20));
  std::vector<float> expected = ValuesOf(*backend, *to);
  backend->CopyRows(*from, 1, 2, 2, to.get());
  std::copy_n(ValuesOf(*backend, *from).begin() + 5, 10, expected.begin() + 10);
  EXPECT_TRUE(SameValues(ValuesOf(*backend, *to), expected));
}

// Of every row: the first of the largest values, and the sum of all weights beside it.
TEST(CpuBackendTest, PeaksAreTheLargestValuesAndTheirWeights) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const int32_t cols : {1, 15, 256, 1000, 3001}) {
    const int32_t width = cols + 7;
    std::vector<float> x = RandomFloats(71, 5 * width, 3);
    for (int32_t i = 0; i < width; ++i) x[3 * width + i] = i % 3 == 0 ? kNaN : -kInfinity;
    x[1 * width + cols - 1] = x[1 * width + cols / 2] = 20;  // two of one size
    x[2 * width + cols / 3] = kNaN;
    x[2 * width + cols - 1] = -kInfinity;
    std::vector<RowPeak> same;
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      std::vector<RowPeak> peaks(4);
      ASSERT_TRUE(backend->FindPeaks(*MakeTensor(*backend, 5, width, x), 1, cols, 0.7f, peaks).ok());
      for (int32_t row = 1; row < 5; ++row) {
        const float* const values = x.data() + row * width;
        int32_t best = 0;
        double weight = 0;
        for (int32_t i = 0; i < cols; ++i) {
          if (values[i] > values[best] || std::isnan(values[best])) best = i;
        }
        const bool found = values[best] > -kInfinity;
        for (int32_t i = 0; i < cols && found; ++i) {
          if (!std::isnan(values[i])) weight += std::exp(0.7 * (double{values[i]} - values[best]));
        }
        const RowPeak& peak = peaks[static_cast<size_t>(row - 1)];
        EXPECT_EQ(peak.col, found ? best : 0) << "row " << row << " of " << cols;
        EXPECT_EQ(peak.value, found ? values[best] : -kInfinity);
        EXPECT_NEAR(peak.weight, found ? weight : 1, 1e-5 * (found ? weight : 1)) << "row " << row << " of " << cols;
      }
      if (same.empty()) same = peaks;
      for (size_t i = 0; i < peaks.size(); ++i) EXPECT_EQ(peaks[i].weight, same[i].weight) << backend->Describe();
    }
  }
}

TEST(CpuBackendTest, TopIsTheStartOfTheSortedRow) {
  constexpr int32_t kCols = 700;
  std::vector<float> x = RandomFloats(73, 2 * kCols);
  for (int32_t i = 0; i < kCols; i += 3) x[kCols + i] = 0.5f;
  for (int32_t i = 1; i < kCols; i += 30) x[kCols + i] = std::numeric_limits<float>::quiet_NaN();
  auto backend = MakeBackend({.threads = 2});
  auto tensor = MakeTensor(*backend, 2, kCols, x);
  std::vector<RowEntry> sorted;
  for (int32_t i = 0; i < kCols - 5; ++i) {
    const float value = x[kCols + i];
    sorted.push_back({std::isnan(value) ? -std::numeric_limits<float>::infinity() : value, i});
  }
  std::ranges::sort(sorted, std::less<>());
  for (const size_t count : {1, 40, 256}) {
    std::vector<RowEntry> top(count);
    ASSERT_TRUE(backend->FindTop(*tensor, 1, kCols - 5, top).ok());
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(top[i].col, sorted[i].col) << i << " of " << count;
  }
}

TEST(CpuBackendTest, AddAddsRows) {
  const std::vector<float> x = RandomFloats(3, 9 * 1000), y = RandomFloats(4, 9 * 1000);
  std::vector<float> expected = x;
  for (int i = 0; i < 8 * 1000; ++i) expected[i] += y[i];
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    auto sum = MakeTensor(*backend, 9, 1000, x);
    backend->Add(*MakeTensor(*backend, 9, 1000, y), 8, sum.get());
    EXPECT_TRUE(SameValues(ValuesOf(*backend, *sum), expected)) << backend->Describe();
  }
}

TEST(CpuBackendTest, AddBiasScaleAndClearTouchTheRowsAskedFor) {
  constexpr int32_t kRows = 9, kCols = 1001;
  const std::vector<float> x = RandomFloats(30, kRows * kCols), bias = RandomFloats(31, kCols);
  std::vector<float> expected = x;
  for (int i = 0; i < 8 * kCols; ++i) expected[i] = (x[i] + bias[i % kCols]) * 25.298222f;
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    auto tensor = MakeTensor(*backend, kRows, kCols, x);
    backend->AddBias(reinterpret_cast<const std::byte*>(bias.data()), 8, tensor.get());
    backend->Scale(25.298222f, 8, tensor.get());
    EXPECT_TRUE(SameValues(ValuesOf(*backend, *tensor), expected)) << backend->Describe();
    backend->Clear(8, tensor.get());
    std::vector<float> cleared = expected;
    std::fill_n(cleared.begin(), 8 * kCols, 0.0f);
    EXPECT_TRUE(SameValues(ValuesOf(*backend, *tensor), cleared)) << backend->Describe();
  }
}

TEST(CpuBackendTest, HeadRmsNormNormsEachHeadAsARow) {
  constexpr int32_t kRows = 7, kHeads = 3;
  for (const int32_t head_dim : {24, 64, 250}) {
    const int32_t cols = kHeads * head_dim;
    const std::vector<float> x = RandomFloats(32, kRows * cols), weight = RandomFloats(33, head_dim);
    std::vector<float> expected = x;  // the last row is not asked for
    for (int32_t h = 0; h < (kRows - 1) * kHeads; ++h) {
      reference::RmsNorm(RowOf(x, h, head_dim), weight, 1e-6f,
                         std::span<float>(expected).subspan(h * head_dim, head_dim));
    }
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      auto tensor = MakeTensor(*backend, kRows, cols, x);
      backend->HeadRmsNorm(head_dim, kRows - 1, reinterpret_cast<const std::byte*>(weight.data()), 1e-6f, tensor.get());
      EXPECT_TRUE(SameValues(ValuesOf(*backend, *tensor), expected)) << backend->Describe() << " " << head_dim;
    }
  }
}

TEST(CpuBackendTest, RmsNormEqualsReference) {
  for (const int32_t cols : {5, 16, 576, 2050}) {
    const int32_t rows = 9;
    const std::vector<float> x = RandomFloats(5, rows * cols), weight = RandomFloats(6, cols);
    std::vector<float> expected(rows * cols);
    for (int32_t t = 0; t < rows; ++t) {
      reference::RmsNorm(RowOf(x, t, cols), weight, 1e-5f, std::span<float>(expected).subspan(t * cols, cols));
    }
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      auto tensor = MakeTensor(*backend, rows, cols, x);
      auto out = MakeTensor(*backend, rows, cols);
      backend->RmsNorm(*tensor, rows, reinterpret_cast<const std::byte*>(weight.data()), 1e-5f, out.get());
      EXPECT_TRUE(SameValues(ValuesOf(*backend, *out), expected)) << backend->Describe() << " cols " << cols;
    }
  }
}

TEST(CpuBackendTest, GatedActivationEqualsReference) {
  constexpr int32_t kRows = 3, kCols = 1001;
  std::vector<float> gate = RandomFloats(7, kRows * kCols, 4);
  const float extremes[] = {0.0f, -0.0f, 100.0f, -100.0f, 1e-30f, -1e30f, 1e30f, 87.0f, -87.5f, 88.4f};
  std::copy(std::begin(extremes), std::end(extremes), gate.begin());
  const std::vector<float> up = RandomFloats(8, kRows * kCols);
  for (const FfnActivation activation : {FfnActivation::kSilu, FfnActivation::kGeluTanh}) {
    std::vector<float> expected(kRows * kCols);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] = reference::Activate(activation, gate[i]) * up[i];
    for (const CpuOptions& options : AllOptions(false)) {
      auto backend = MakeBackend(options);
      auto z = MakeTensor(*backend, kRows, kCols);
      backend->GatedActivation(activation, *MakeTensor(*backend, kRows, kCols, gate),
                               *MakeTensor(*backend, kRows, kCols, up), kRows, z.get());
      EXPECT_TRUE(SameValues(ValuesOf(*backend, *z), expected)) << backend->Describe();
    }
  }
}

TEST(CpuBackendTest, RopeEqualsReference) {
  constexpr int32_t kHeads = 3, kHeadDim = 24;
  const std::vector<TokenPos> positions = {TokenPos{0}, TokenPos{7}, TokenPos{65535}, TokenPos{7}};
  for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    for (const int32_t rotary_dims : {16, 24}) {
      std::vector<float> frequencies;
      for (int i = 0; i < rotary_dims / 2; ++i) frequencies.push_back(std::pow(10000.0f, -2.0f * i / rotary_dims));
      const RopeParams params{pairing, kHeadDim, rotary_dims, frequencies};
      std::vector<float> x = RandomFloats(9, positions.size() * kHeads * kHeadDim);
      std::vector<float> expected = x;
      for (size_t t = 0; t < positions.size(); ++t) {
        reference::Rope(params, positions[t], std::span<float>(expected).subspan(t * kHeads * kHeadDim, 72));
      }
      for (const CpuOptions& options : AllOptions(false)) {
        auto backend = MakeBackend(options);
        auto tensor = MakeTensor(*backend, 4, kHeads * kHeadDim, x);
        backend->Rope(params, std::span(positions).subspan(1), tensor.get());  // other positions before: the table
        backend->Upload(x, 0, tensor.get());
        backend->Rope(params, positions, tensor.get());
        EXPECT_TRUE(SameValues(ValuesOf(*backend, *tensor), expected)) << backend->Describe();
      }
    }
  }
}

TEST(CpuBackendTest, SetsOfFrequenciesTakeTurns) {
  constexpr int32_t kHeadDim = 16;
  const std::vector<TokenPos> positions = {TokenPos{3}, TokenPos{90}};
  std::array<std::vector<float>, 3> sets;
  for (size_t s = 0; s < sets.size(); ++s) {
    for (int i = 0; i < kHeadDim / 2; ++i) sets[s].push_back(std::pow(100.0f * (s + 1), -2.0f * i / kHeadDim));
  }
  const std::vector<float> x = RandomFloats(34, positions.size() * kHeadDim);
  auto backend = MakeBackend({.threads = 1});
  for (const size_t s : {0, 1, 0, 0, 1, 2, 1, 0, 2}) {
    const RopeParams params{RopePairing::kHalves, kHeadDim, kHeadDim, sets[s]};
    std::vector<float> expected = x;
    for (size_t t = 0; t < positions.size(); ++t) {
      reference::Rope(params, positions[t], std::span<float>(expected).subspan(t * kHeadDim, kHeadDim));
    }
    auto tensor = MakeTensor(*backend, 2, kHeadDim, x);
    backend->Rope(params, positions, tensor.get());
    EXPECT_TRUE(SameValues(ValuesOf(*backend, *tensor), expected)) << s;
  }
}

struct AttentionCase {
  KvType type;
  int32_t heads, kv_heads, head_dim;
};

class AttentionTest : public ::testing::TestWithParam<AttentionCase> {
 protected:
  static constexpr int32_t kSlots = 330, kLayers = 2;
  const int32_t kv_cols_ = GetParam().kv_heads * GetParam().head_dim;
  const int32_t q_cols_ = GetParam().heads * GetParam().head_dim;
  const std::vector<float> keys_ = RandomFloats(20, kSlots*kv_cols_), values_ = RandomFloats(21, kSlots*kv_cols_);
  const std::vector<float> q_ = RandomFloats(22, 5 * q_cols_);

  // Scattered slots, so that tokens of a row are not neighbours; up to three parts of kAttentionPart.
  AttentionMask Mask() const {
    AttentionMask mask;
    mask.runs = {{10, 50}, {3, 4}, {0, 1}, {10, 50}, {3, 4}, {60, 330}, {50, 60}, {17, 18}};
    mask.rows = {{0, 1}, {0, 2}, {2, 1}, {3, 4}, {7, 1}};
    return mask;
  }

  // A head as the store gives it back.
  std::vector<float> Stored(std::span<const float> head) const {
    std::vector<float> stored(head.begin(), head.end());
    if (GetParam().type == KvType::kF16) {
      for (float& value : stored) value = HalfToFloat(FloatToHalf(value));
    }
    if (GetParam().type != KvType::kQ8_0) return stored;
    for (size_t first = 0; first < stored.size(); first += 32) {
      const std::span<float> block = std::span(stored).subspan(first, std::min<size_t>(32, stored.size() - first));
      float most = 0;
      for (const float value : block) most = std::max(most, std::fabs(value));
      const float d = HalfToFloat(FloatToHalf(most / 127.0f));
      for (float& value : block) value = d * std::nearbyint(value * (127.0f / most));
    }
    return stored;
  }

  std::vector<float> Expected(const AttentionMask& mask, float scale) const {
    const AttentionCase& shape = GetParam();
    std::vector<float> out(5 * q_cols_);
    for (size_t t = 0; t < mask.rows.size(); ++t) {
      for (int32_t h = 0; h < shape.heads; ++h) {
        const int32_t kv_at = h / (shape.heads / shape.kv_heads) * shape.head_dim;
        std::vector<float> k, v;
        for (int32_t run = 0; run < mask.rows[t].run_count; ++run) {
          const SlotRun& slots = mask.runs[mask.rows[t].first_run + run];
          for (int32_t slot = slots.begin; slot < slots.end; ++slot) {
            const int32_t from = slot * kv_cols_ + kv_at;
            const std::vector<float> key = Stored(std::span(keys_).subspan(from, shape.head_dim));
            const std::vector<float> value = Stored(std::span(values_).subspan(from, shape.head_dim));
            k.insert(k.end(), key.begin(), key.end());
            v.insert(v.end(), value.begin(), value.end());
          }
        }
        const int64_t at = static_cast<int64_t>(t) * q_cols_ + h * shape.head_dim;
        reference::AttentionHead(std::span(q_).subspan(at, shape.head_dim), k, v, scale,
                                 std::span(out).subspan(at, shape.head_dim));
      }
    }
    return out;
  }

  std::unique_ptr<KvStore> FilledStore(Backend& backend, LayerIndex layer) const {
    auto store = *backend.NewKvStore({.layers = kLayers,
                                      .kv_head_count = GetParam().kv_heads,
                                      .head_dim = GetParam().head_dim,
                                      .slots = kSlots,
                                      .type = GetParam().type});
    std::vector<KvSlot> slots(kSlots);
    for (int i = 0; i < kSlots; ++i) slots[i] = KvSlot{i};
    backend.WriteKv(layer, slots, *MakeTensor(backend, kSlots, kv_cols_, keys_),
                    *MakeTensor(backend, kSlots, kv_cols_, values_), store.get());
    return store;
  }
};

TEST_P(AttentionTest, EqualsReference) {
  const AttentionMask mask = Mask();
  const AttentionParams params{GetParam().heads, GetParam().kv_heads, GetParam().head_dim, 0.3f};
  const std::vector<float> expected = Expected(mask, params.score_scale);
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    auto store = FilledStore(*backend, LayerIndex{1});
    auto out = MakeTensor(*backend, 5, q_cols_);
    backend->Attention(params, LayerIndex{1}, mask, *store, *MakeTensor(*backend, 5, q_cols_, q_), out.get());
    EXPECT_TRUE(SameValues(ValuesOf(*backend, *out), expected)) << backend->Describe();
  }
}

// Attention sums in the order of the mask: moving a token to another slot changes nothing.
TEST_P(AttentionTest, HeadsLeftOutGiveZeroAndTheOthersTheSameBits) {
  const AttentionMask mask = Mask();
  AttentionParams params{GetParam().heads, GetParam().kv_heads, GetParam().head_dim, 0.3f};
  std::vector<float> expected = Expected(mask, params.score_scale);
  const uint64_t used = 0b1001101101;
  params.head_mask = &used;
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto head = static_cast<int32_t>(i) % q_cols_ / GetParam().head_dim;
    if ((used >> head & 1) == 0) expected[i] = 0;
  }
  for (const CpuOptions& options : AllOptions(false)) {
    auto backend = MakeBackend(options);
    auto store = FilledStore(*backend, LayerIndex{1});
    auto out = MakeTensor(*backend, 5, q_cols_, std::vector<float>(5 * q_cols_, 7.0f));
    backend->Attention(params, LayerIndex{1}, mask, *store, *MakeTensor(*backend, 5, q_cols_, q_), out.get());
    EXPECT_TRUE(SameValues(ValuesOf(*backend, *out), expected)) << backend->Describe();
  }
}

TEST_P(AttentionTest, SlotNumbersDoNotMatter) {
  auto backend = MakeBackend({.threads = 2});
  auto store = FilledStore(*backend, LayerIndex{0});
  const AttentionParams params{GetParam().heads, GetParam().kv_heads, GetParam().head_dim, 0.3f};
  AttentionMask mask;
  mask.runs = {{5, 20}};
  mask.rows = {{0, 1}};
  auto q = MakeTensor(*backend, 1, q_cols_, std::span(q_).subspan(0, q_cols_));
  auto out = MakeTensor(*backend, 1, q_cols_);
  backend->Attention(params, LayerIndex{0}, mask, *store, *q, out.get());
  const std::vector<float> expected = ValuesOf(*backend, *out);
  backend->CopyKv(KvSlot{7}, KvSlot{88}, store.get());
  backend->CopyKv(KvSlot{8}, KvSlot{40}, store.get());
  mask.runs = {{5, 7}, {88, 89}, {40, 41}, {9, 20}};
  mask.rows = {{0, 4}};
  backend->Attention(params, LayerIndex{0}, mask, *store, *q, out.get());
  EXPECT_TRUE(SameValues(ValuesOf(*backend, *out), expected));
}

std::string NameOf(KvType type) { return type == KvType::kF16 ? "f16" : type == KvType::kF32 ? "f32" : "q8_0"; }

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionTest,
    ::testing::Values(AttentionCase{KvType::kF16, 9, 3, 64}, AttentionCase{KvType::kF32, 4, 4, 40},
                      AttentionCase{KvType::kF16, 7, 1, 80}, AttentionCase{KvType::kF32, 8, 2, 128},
                      AttentionCase{KvType::kF16, 1, 1, 16}, AttentionCase{KvType::kQ8_0, 9, 3, 64},
                      AttentionCase{KvType::kQ8_0, 4, 2, 80}, AttentionCase{KvType::kQ8_0, 4, 1, 256}),
    [](const auto& test) {
      const AttentionCase& c = test.param;
      return NameOf(c.type) + "_" + std::to_string(c.heads) + "_" + std::to_string(c.kv_heads) + "_" +
             std::to_string(c.head_dim);
    });

}  // namespace
}  // namespace dogstar
