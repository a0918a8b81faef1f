// The operations around products on a GPU's backend against the CPU's, to the bit, over tables of shapes: on the host's
// emulation, and on a GPU where there is one.
#include <functional>

#include "cpu/test_support.h"
#include "tests/support/gpu_devices.h"

namespace dogstar {
namespace {

using testing_support::Copies;
using testing_support::Devices;

// What `work` gives on a backend; the copies are in its memory.
using Work = std::function<std::vector<float>(Backend&, Copies*)>;

void ExpectTheCpusBits(const Work& work, const std::string& what) {
  auto cpu = MakeBackend({.threads = 2});
  Copies of_cpu(cpu.get());
  const std::vector<float> expected = work(*cpu, &of_cpu);
  for (const auto& device : Devices()) {
    Copies copies(device.get());
    EXPECT_TRUE(SameValues(work(*device, &copies), expected)) << what << " on " << device->Describe();
  }
}

std::span<const std::byte> BytesOf(const std::vector<float>& values) { return std::as_bytes(std::span(values)); }

TEST(GpuOpsTest, NormsAndElements) {
  for (const auto& [rows, cols] : {std::pair{1, 32}, {3, 160}, {5, 1000}, {2, 9000}}) {
    const std::string shape = std::to_string(rows) + "x" + std::to_string(cols);
    const std::vector<float> x = RandomFloats(81, int64_t{rows} * cols), y = RandomFloats(82, int64_t{rows} * cols);
    const std::vector<float> weight = RandomFloats(83, cols);
    const auto in_place = [&, rows = rows, cols = cols](const auto& operation) {
      return [&, rows, cols](Backend& backend, Copies* copies) {
        auto tensor = MakeTensor(backend, rows, cols, x);
        operation(backend, copies, tensor.get());
        return ValuesOf(backend, *tensor);
      };
    };
    ExpectTheCpusBits(in_place([&, rows = rows](Backend& b, Copies* copies, Tensor* t) {
                        b.RmsNorm(*t, rows, copies->Put(BytesOf(weight)), 1e-5f, t);
                      }),
                      "RmsNorm " + shape);
    ExpectTheCpusBits(in_place([&, rows = rows, cols = cols](Backend& b, Copies* copies, Tensor* t) {
                        b.HeadRmsNorm(cols / 2, rows, copies->Put(BytesOf(weight)), 1e-6f, t);
                      }),
                      "HeadRmsNorm " + shape);
    ExpectTheCpusBits(in_place([&, rows = rows, cols = cols](Backend& b, Copies*, Tensor* t) {
                        b.Add(*MakeTensor(b, rows, cols, y), rows, t);
                      }),
                      "Add " + shape);
    ExpectTheCpusBits(in_place([&, rows = rows](Backend& b, Copies* copies, Tensor* t) {
                        b.AddBias(copies->Put(BytesOf(weight)), rows, t);
                        b.Scale(0.37f, rows, t);
                      }),
                      "AddBias, Scale " + shape);
    ExpectTheCpusBits(in_place([&, rows = rows, cols = cols](Backend& b, Copies*, Tensor* t) {
                        b.CopyRows(*MakeTensor(b, rows, cols, y), rows - 1, 1, 0, t);
                      }),
                      "CopyRows " + shape);
    for (const FfnActivation activation : {FfnActivation::kSilu, FfnActivation::kGeluTanh}) {
      ExpectTheCpusBits(in_place([&, rows = rows, cols = cols](Backend& b, Copies*, Tensor* t) {
                          b.GatedActivation(activation, *t, *MakeTensor(b, rows, cols, y), rows, t);
                        }),
                        "GatedActivation " + shape);
    }
  }
}

TEST(GpuOpsTest, RotaryPositions) {
  constexpr int32_t kHeads = 3, kHeadDim = 40;
  const std::vector<TokenPos> positions = {TokenPos{0}, TokenPos{7}, TokenPos{4095}};
  const std::vector<float> x = RandomFloats(84, 3 * kHeads * kHeadDim);
  for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    for (const int32_t rotary : {kHeadDim, 16}) {
      std::vector<float> frequencies;
      for (int32_t i = 0; i < rotary / 2; ++i) {
        frequencies.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary)));
      }
      ExpectTheCpusBits(
          [&](Backend& backend, Copies*) {
            auto tensor = MakeTensor(backend, 3, kHeads * kHeadDim, x);
            backend.Rope({pairing, kHeadDim, rotary, frequencies}, positions, tensor.get());
            return ValuesOf(backend, *tensor);
          },
          "rotary " + std::to_string(rotary));
    }
  }
}

TEST(GpuOpsTest, ProductsAndRowsOfEveryType) {
  for (const QuantType type : kAllTypes) {
    for (const auto& [w_rows, cols] : {std::pair{16, 32}, {40, 96}, {70, 512}}) {
      const TestMatrix w = MakeMatrix(type, w_rows, WholeBlocks(type, cols), 85);
      const std::string name = std::string(TraitsOf(type).name) + " " + std::to_string(w_rows);
      const auto view = [&](Copies* copies) {
        MatrixView panels = w.view(MatrixLayout::kPanels);
        panels.data = copies->Put(w.panels.span());
        return panels;
      };
      for (const int32_t rows : {1, 5, 9, 33}) {
        const std::vector<float> x = RandomActivations(86, int64_t{rows} * w.cols);
        ExpectTheCpusBits([&](Backend& backend, Copies* copies) { return ProductOf(backend, view(copies), rows, x); },
                          name + ", rows " + std::to_string(rows));
      }
      ExpectTheCpusBits(
          [&, w_rows = w_rows](Backend& backend, Copies* copies) {
            auto out = MakeTensor(backend, 3, w.cols);
            backend.GatherRows(view(copies), std::vector<int32_t>{w_rows - 1, 0, 5}, out.get());
            return ValuesOf(backend, *out);
          },
          name + ", gathered");
    }
  }
}

struct AttentionInput {
  AttentionParams params;
  int32_t slots = 0, rows = 0;
  KvType type = KvType::kF16;
};

std::vector<float> AttentionOf(Backend& backend, const AttentionInput& in, const AttentionMask& mask) {
  const int32_t kv_cols = in.params.kv_head_count * in.params.head_dim,
                cols = in.params.head_count * in.params.head_dim;
  std::vector<KvSlot> slots;
  for (int32_t i = 0; i < in.slots; ++i) slots.push_back(KvSlot{(i * 7) % in.slots});
  auto store = *backend.NewKvStore({2, in.params.kv_head_count, in.params.head_dim, in.slots, in.type});
  auto keys = MakeTensor(backend, in.slots, kv_cols, RandomFloats(87, int64_t{in.slots} * kv_cols));
  auto values = MakeTensor(backend, in.slots, kv_cols, RandomFloats(88, int64_t{in.slots} * kv_cols));
  backend.WriteKv(LayerIndex{1}, slots, *keys, *values, store.get());
  backend.CopyKv(KvSlot{3}, KvSlot{in.slots - 80}, store.get());
  auto q = MakeTensor(backend, in.rows, cols, RandomFloats(89, int64_t{in.rows} * cols));
  auto out = MakeTensor(backend, in.rows, cols);
  backend.Attention(in.params, LayerIndex{1}, mask, *store, *q, out.get());
  return ValuesOf(backend, *out);
}

void ExpectTheCpusAttention(const AttentionInput& in, const AttentionMask& mask, const std::string& name) {
  ExpectTheCpusBits([&](Backend& backend, Copies*) { return AttentionOf(backend, in, mask); },
                    name + ", head_dim " + std::to_string(in.params.head_dim));
}

// Heads that share keys, a chain, a tree's rows, heads that are left out, slots that are copied: blocks of parts.
TEST(GpuOpsTest, AttentionOverChainsAndTrees) {
  AttentionMask chain, tree;
  chain.runs = {{0, 383}, {0, 384}, {0, 385}};
  chain.rows = {{0, 1}, {1, 1}, {2, 1}};
  tree.runs = {{0, 290}, {310, 311}, {0, 290}, {320, 321}, {0, 290}, {320, 321}, {333, 334}};
  tree.rows = {{0, 2}, {2, 2}, {4, 3}};
  const std::vector<uint64_t> heads = {0b101101};
  for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8_0}) {
    for (const int32_t head_dim : {16, 40, 64, 136}) {
      for (const uint64_t* head_mask : {static_cast<const uint64_t*>(nullptr), heads.data()}) {
        const AttentionInput in{{6, 2, head_dim, 0.125f, head_mask}, 400, 3, type};
        ExpectTheCpusAttention(in, chain, "chain");
        ExpectTheCpusAttention(in, tree, "tree");
      }
    }
  }
}

// So many tiles that each has one block, rows that see no more than a part of another's; heads of more than one block;
// few slots.
TEST(GpuOpsTest, AttentionOfPromptsAndLargeHeads) {
  AttentionMask prompt;
  for (int32_t row = 0; row < 200; ++row) {
    prompt.runs.push_back({0, 100 + row});
    prompt.rows.push_back({row, 1});
  }
  const std::vector<uint64_t> heads = {0b110100};
  ExpectTheCpusAttention({{6, 2, 48, 0.2f}, 320, 200, KvType::kF16}, prompt, "prompt");
  ExpectTheCpusAttention({{6, 2, 32, 0.2f, heads.data()}, 320, 200, KvType::kQ8_0}, prompt, "prompt, some heads");
  const AttentionMask two{.runs = {{5, 270}, {5, 271}}, .rows = {{0, 1}, {1, 1}}};
  ExpectTheCpusAttention({{10, 1, 256, 0.1f}, 320, 2, KvType::kF16}, two, "two rows");
  ExpectTheCpusAttention({{2, 1, 520, 0.1f}, 320, 2, KvType::kF32}, two, "two rows");
  const AttentionMask few{.runs = {{7, 8}, {7, 30}}, .rows = {{0, 1}, {1, 1}}};
  ExpectTheCpusAttention({{4, 4, 128, 0.3f}, 320, 2, KvType::kF16}, few, "few slots");
}

}  // namespace
}  // namespace dogstar
