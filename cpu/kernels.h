// The inner loops of the CPU backend behind one table per instruction set. Plain structs and function pointers only:
// this header is included by files of every instruction set.
//
// Int8 activations and FFN values are kept in blocks of 32 columns, rows of a block side by side, so that the rows of
// a pass lie in one stretch of memory (rows a power of two apart would fall into one cache set).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/activation.h"
#include "base/bit_planes.h"
#include "base/quant.h"
#include "device/backend.h"

namespace dogstar {

// Activation rows are stored in tiles of 8 (fewer in the last one): the most that any kernel has in flight.
inline constexpr int kTileRows = 8;

// Rows of a tile. Of row r: codes of block b at codes + (b * stride + r) * 32, one value per (b, r) in the other
// arrays at b * stride + r, f32 value of column k at f32[k * stride + r]. The int8 code of an outlier is 0.
struct TileView {
  const float* f32 = nullptr;
  const int8_t* codes = nullptr;
  const float* scales = nullptr;           // d
  const int32_t* code_sums = nullptr;      // -8 * (sum of the block's int8 codes), what Q4_0's offset adds
  const int32_t* low_code_sums = nullptr;  // the same of columns 0..15
  const float* sums = nullptr;             // d * float(sum of the block's codes, the outlier's included)
  const float* half_sums = nullptr;        // at 2 * (b * stride + r): the same of columns 0..15; then of 16..31
  const int32_t* outliers = nullptr;       // 32 * (the outlier's code) + its column; undefined without an outlier
  const uint8_t* outlier_rows = nullptr;   // of block b at b: bit r: row r has an outlier
  int32_t stride = 0;
  float missing_bits = 0;           // codes with a minimum: added to each of them (planes_impl.h)
  bool fetches = true;              // the first tile to read these weights: asks for those that come next
  const std::byte* next = nullptr;  // what is read after a product's panels; null: the memory behind them
};

// Activation rows as the kernels write them; null where the mode has no use for it.
struct ActivationBuffers {
  float* f32 = nullptr;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  int32_t* code_sums = nullptr;
  int32_t* low_code_sums = nullptr;
  float* sums = nullptr;
  float* half_sums = nullptr;
  int32_t* outliers = nullptr;
  uint8_t* outlier_rows = nullptr;  // of block b of a tile at tile * (cols / 32) + b
};

// How weights are read: the same storage decoded for int8 products or, in precise mode, to float.
enum class ProductKind { kInt8, kFloat };

// Products of `panel_count` panels, panel_bytes apart, with the first `rows` (1..8) rows of a tile:
// out[r * out_stride + 16 * p + lane].
using TileProduct = void (*)(const std::byte* panels, uint64_t panel_bytes, int64_t panel_count, int32_t cols,
                             const TileView& x, int rows, float* out, int64_t out_stride);

// out[t * out_stride + r] for t < rows, r < w_rows.
struct MatMulTask {
  TileProduct product = nullptr;
  const std::byte* panels = nullptr;
  uint64_t panel_bytes = 0;
  int32_t w_rows = 0;
  int32_t cols = 0;
  ActivationBuffers x;
  int32_t x_rows = 0;  // that x was prepared with: decides its layout
  int32_t rows = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
};

// Products of a matrix in planes: `panels` are its high ones, panel_bytes those of a whole panel.
struct CutMatMulTask {
  MatMulTask whole;
  QuantType type = QuantType::kF32;
  PlanePanel planes;                   // low > 0
  const std::byte* low = nullptr;      // null: the bits are missing
  TileProduct high_product = nullptr;  // of high planes where they are; null: they are joined
  std::byte* joined = nullptr;         // two panels, the thread's
  int32_t* sums = nullptr;             // the thread's: twice the code sums of a tile
};

// FFN values z of one call, in blocks of 32 packed rows. Of activation row t: codes of block b at
// codes + (b * rows + t) * 32, scale at scales[b * rows + t], run terms at run_terms + (b * rows + t) * 8, z of row n
// of block b at f32[(32 * b + n) * rows + t].
struct FfnValues {
  int32_t rows = 0;
  float* f32 = nullptr;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  // Per run of run_rows rows. Types without a minimum: int32, -8 * (sum of the run's int8 codes). With one: float,
  // d * float(sum of the run's codes, the outlier's included).
  int32_t* run_terms = nullptr;
  int32_t* outliers = nullptr;  // at b * rows + t, as in TileView
  // Of block b and the 8 rows from 8 * i on, a word at b * (rows / 8, rounded up) + i: bit 8 * run + t % 8: the outlier
  // of row t lies in that run.
  uint64_t* outlier_runs = nullptr;
};

// Low planes of a block's panels and of its page's down part.
struct LowPlanes {
  const std::byte* gate = nullptr;
  const std::byte* up = nullptr;
  const std::byte* down = nullptr;
};

// A thread's memory for what cut blocks are joined in.
struct JoinedMemory {
  std::byte* gate = nullptr;  // two panels
  std::byte* up = nullptr;
  int32_t* sums = nullptr;  // four times the code sums of a tile
};

// 32 packed rows of a page or overlay with at least one row in use.
struct FfnBlock {
  const std::byte* gate = nullptr;  // two panels; one without a used row is not read
  const std::byte* up = nullptr;
  const std::byte* down = nullptr;       // the page's down part
  bool cut = false;                      // the three are high planes
  bool misses_bits = false;              // cut, and the low planes are not there: products are a draft's
  LowPlanes low;                         // of cut blocks that miss nothing
  const uint16_t* run_groups = nullptr;  // of the block's runs
  const int32_t* row_index = nullptr;    // capture column of each row; null: first_row + i
  int32_t first_row = 0;
  int32_t page = 0;  // blocks of one page are neighbours
  int32_t block_in_page = 0;
  int32_t sum_group = 0;     // of its page
  int32_t runs = 0;          // that exist
  uint32_t used = 0;         // bit i: row i is used
  int32_t choice_block = 0;  // FfnAccumulateChosen: the block's place in FfnTask::choice
};

// Values of rows that tokens choose among. Of activation row t: value of row n of block b at
// values[(b * rows + t) * 32 + n], and at masks[b * rows + t] the rows that it keeps.
struct FfnChoice {
  float* values = nullptr;
  uint32_t* masks = nullptr;
};

struct FfnTask {
  QuantType gate_type = QuantType::kF32;
  QuantType up_type = QuantType::kF32;
  TileProduct gate_product = nullptr;
  TileProduct up_product = nullptr;
  uint64_t gate_panel_bytes = 0;
  uint64_t up_panel_bytes = 0;
  QuantType down_type = QuantType::kF32;
  bool down_minimum = false;  // scales come with minimums
  bool int8_down = false;     // z quantized
  bool precise = false;
  int32_t dim = 0;
  int32_t run_rows = 0;
  uint64_t down_panel_bytes = 0;
  PlanePanel gate_planes, up_planes, down_planes;
  TileProduct gate_high_product = nullptr;  // of high planes where they are; null: they are joined
  TileProduct up_high_product = nullptr;
  JoinedMemory joined;  // the thread's; where blocks are cut
  const std::byte* down_scales = nullptr;
  FfnActivation activation = FfnActivation::kSilu;
  ActivationBuffers x;
  int32_t x_rows = 0;
  int32_t rows = 0;
  FfnValues z;
  FfnChoice choice;
  float* capture = nullptr;
  float* capture_up = nullptr;
  int64_t capture_stride = 0;  // of both
  float* sum = nullptr;        // [rows, dim], of the pages of sum_group so far
  int32_t sum_group = 0;       // of the last page before this call
  float* y = nullptr;          // [rows, dim], of the groups before it
};

struct AttentionTask {
  KvType type = KvType::kF16;
  int32_t head_dim = 0;
  int32_t stride = 0;  // elements per (slot, head), see KvHeadStride
  int32_t slots = 0;
  int32_t group = 0;  // query heads per KV head
  float score_scale = 0;
  const std::byte* keys = nullptr;  // [kv head][slot][stride] of the layer
  const std::byte* values = nullptr;
};

inline constexpr int kAttentionHeads = 4;  // query heads that share a pass over keys and values

struct KernelTable {
  const char* name;
  // ProductKind::kInt8 for a float type is kFloat.
  TileProduct (*find_product)(QuantType type, ProductKind kind);
  // An int8 product of the high planes of panels, one or two rows at a time; null where there is none.
  TileProduct (*find_high_product)(QuantType type);
  // An int8 product of plain rows: a panel is 16 of them, panel_bytes apart. Null where there is none.
  TileProduct (*find_plain_product)(QuantType type);

  // Panels [begin, end) of the task.
  void (*matmul)(const MatMulTask& task, int64_t begin, int64_t end);
  void (*cut_matmul)(const CutMatMulTask& task, int64_t begin, int64_t end);
  // Blocks [begin, end) of 32 columns of tile `tile` of x, [rows, cols].
  void (*prepare)(const float* x, int32_t rows, int32_t cols, int32_t tile, int32_t begin, int32_t end,
                  const ActivationBuffers& out);
  // z of blocks [begin, end): products, activation, masks, capture, quantization; to the same places in task.z.
  void (*ffn_values)(const FfnTask& task, const FfnBlock* blocks, int64_t begin, int64_t end);
  // The same in steps, for rows chosen on the way: values = activation(gate); values *= up; z of the rows that masks
  // keep (capture and quantization as above).
  void (*ffn_gates)(const FfnTask& task, const FfnBlock* blocks, int64_t begin, int64_t end);
  void (*ffn_ups)(const FfnTask& task, const FfnBlock* blocks, int64_t begin, int64_t end);
  void (*ffn_keep)(const FfnTask& task, const FfnBlock* blocks, int64_t begin, int64_t end);
  // y += partial of each page, for panels [begin, end) of 16 outputs.
  void (*ffn_down)(const FfnTask& task, const FfnBlock* blocks, int64_t block_count, int64_t begin, int64_t end);
  void (*overlay_down)(const FfnTask& task, const FfnBlock* blocks, int64_t block_count, int64_t begin, int64_t end);

  void (*rms_norm)(const float* x, int32_t cols, const float* weight, float epsilon, float* out);
  // Of one row.
  void (*find_peak)(const float* x, int32_t cols, float scale, RowPeak* peak);
  void (*gated)(FfnActivation activation, const float* gate, const float* up, int64_t count, float* z);
  void (*add)(const float* y, int64_t count, float* x);
  void (*scale)(float factor, int64_t count, float* x);
  // One row of heads; table: rotary/2 cosines, then rotary/2 sines.
  void (*rope)(RopePairing pairing, int32_t head_dim, int32_t rotary_dims, int32_t heads, const float* table, float* x);

  // One head of one slot; to has room for KvHeadBytes.
  void (*store_kv)(KvType type, const float* from, int32_t head_dim, std::byte* to);
  // Heads [head, head + heads), heads <= kAttentionHeads, of one KV head: q and out at the first of them, a head every
  // head_dim.
  void (*attention)(const AttentionTask& task, const SlotRun* runs, int32_t run_count, int32_t kv_head, int32_t heads,
                    const float* q, float* out);

  // Packs 16 neighbouring plain rows into a panel. REQUIRES: cols is a multiple of 32.
  void (*pack_panel)(QuantType type, const std::byte* rows, uint64_t row_bytes, int32_t cols, std::byte* panel);
};

// nullptr where the build has no such kernels (another architecture). The caller checks that the CPU can run them.
const KernelTable* PortableKernels();
const KernelTable* Avx2Kernels();
const KernelTable* Avx512VnniKernels();

}  // namespace dogstar
