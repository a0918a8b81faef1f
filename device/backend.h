// Backend: what a compute device offers. The seam between the engine and the CPU or GPU: it knows tensors,
// matrices, slots of memory and KV rows, and no model, page file or predictor.
//
// Order: operations run in the order of their calls. Everything here is enqueue-only: a call may return before its
// work is done, except those that say "waits". A Ticket stands for all work enqueued before it was taken.
// Weight memory handed to an operation must stay untouched until the ticket of that operation is done.
//
// Memory: operations read weights from memory of AllocateMemory, or from staged copies of host bytes. A backend that
// shares host memory (the CPU's) reads host bytes where they are.
//
// Determinism: the result for one activation row does not depend on how many rows share the call, on the number of
// threads, on how work is cut into calls, or on the instruction set. Each operation states its order of summation:
//   product of a weight row and an activation row, quantized weights (int8 activations):
//     acc = 0; for each scale group g (32 or 16 columns) in order: s = exact integer sum of value * x_code over the
//     group, an outlier's code included as in every sum of x codes (|s| < 2^27);
//     acc = fma(d_g * xd_b, float(s), acc), b the block of 32 columns around g; value, d and m: base/quant_codes.h;
//     types with a minimum add, right after, acc = fma(m_g, xs_g, acc), xs_g = xd_b * float(sum of the group's x codes)
//   float weights, and every type in precise mode (weights decoded to f32, activations f32):
//     acc = 0; for each column k in order: acc = fma(w_k, x_k, acc)
//   down part of an FFN page: see FfnAccumulatePages.
// int8 activations: per block of 32, m1 = the largest |x|, m2 = the second largest (of the other 31; equal to m1 where
// two share it). One value far above the others would leave them few steps, so it is kept apart: where m1 > 2 * m2,
// m2 > 0, m1 <= 4000 * m2 and 127 / m2 is finite, d = m2 / 127, code = nearest-even(x * (127 / m2)), which fits int8
// but for the value m1, the block's outlier, whose code (of up to 508000) is an int32 at its column. Elsewhere there is
// no outlier: d = m1 / 127, code = nearest-even(x * (127 / m1)), all zero when m1 is 0 or 127 / m1 is not finite.
// The other operations' formulas are spelled out in device/functions.h.
//
// Threads: one thread calls a backend. Memory: nothing is allocated after the New... calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/activation.h"
#include "base/ffn_page.h"
#include "base/quant.h"
#include "base/status.h"
#include "base/types.h"

namespace dogstar {

// Address in tier-0 memory of the backend. Opaque above device/: host memory for the CPU backend, device memory
// for CUDA.
using DeviceAddress = const std::byte*;

struct Ticket {
  uint64_t value = 0;
};

// f32 values, [rows, cols], row-major, in device memory.
class Tensor {
 public:
  Tensor(int32_t rows, int32_t cols) : rows_(rows), cols_(cols) {}
  virtual ~Tensor() = default;
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  int32_t rows() const { return rows_; }
  int32_t cols() const { return cols_; }

 private:
  int32_t rows_, cols_;
};

// Activation rows prepared as the right side of products: f32, and int8 codes with block scales unless precise.
// [rows, cols], cols a multiple of 32.
class Activations {
 public:
  virtual ~Activations() = default;
};

// Keys and values of all layers, [slot] addressed.
class KvStore {
 public:
  virtual ~KvStore() = default;
  virtual uint64_t bytes() const = 0;
};

struct FfnJobShape {
  int32_t rows = 0;  // most activation rows
  int32_t dim = 0;
  int32_t ffn_rows = 0;     // packed, the last page's missing rows included
  int32_t choice_rows = 0;  // most activation rows of FfnAccumulateChosen; 0: it is never called
};
// Scratch of one FFN in progress.
class FfnJob {
 public:
  virtual ~FfnJob() = default;
};

// Memory of the host, 4096-aligned.
class HostMemory {
 public:
  virtual ~HostMemory() = default;
  virtual std::span<std::byte> span() const = 0;
};

// Which bits of rows are there (base/bit_planes.h).
enum class PlaneState {
  kWhole,  // data: the page or panels
  kBoth,   // data: the high planes, low: the low planes; counts as whole, to the bit
  kHigh,   // data: the high planes; the missing bits of a code count as their mean. Drafts alone
};

enum class MatrixLayout {
  kPanels,  // base/panel.h, 64-byte aligned
  kPlain,   // rows as in a GGUF file, any alignment
};

// Rows [0, rows) of a weight matrix, [rows, cols].
struct MatrixView {
  QuantType type = QuantType::kF32;
  MatrixLayout layout = MatrixLayout::kPanels;
  int32_t rows = 0;
  int32_t cols = 0;
  DeviceAddress data = nullptr;
  // Panels in planes, one panel's after the other; MatMul alone takes them. Not in precise mode.
  PlaneState planes = PlaneState::kWhole;
  DeviceAddress low = nullptr;  // kBoth; 64-byte aligned
};

enum class RopePairing {
  kAdjacent,  // dimensions 2i and 2i + 1 rotate together (GGUF files of architecture "llama")
  kHalves,    // dimensions i and i + rotary_dims / 2 (NeoX)
};

struct RopeParams {
  RopePairing pairing = RopePairing::kAdjacent;
  int32_t head_dim = 0;
  int32_t rotary_dims = 0;  // <= head_dim; the others pass through
  // [rotary_dims / 2]: angle per position of each pair, scaling included (theta_i = base^(-2i/rotary_dims)).
  std::span<const float> frequencies;
};

// KV slots [begin, end) that hold consecutive positions of one path.
struct SlotRun {
  int32_t begin = 0;
  int32_t end = 0;
};

// Which KV slots each query row may see: row i sees runs[rows[i].first_run .. + run_count), which lists them in the
// order of their positions, its own slot last. Attention sums in that order, whatever the slot numbers are.
struct AttentionMask {
  struct Row {
    int32_t first_run = 0;
    int32_t run_count = 0;
  };
  std::vector<SlotRun> runs;
  std::vector<Row> rows;
};

struct AttentionParams {
  int32_t head_count = 0;
  int32_t kv_head_count = 0;
  int32_t head_dim = 0;
  float score_scale = 0;  // usually 1 / sqrt(head_dim)
  // Query heads to compute: bit h % 64 of word h / 64; null: all. The context of the others is 0. Host memory.
  const uint64_t* head_mask = nullptr;
};

// How keys and values are kept. kQ8_0: blocks of 32 elements of a head, 34 bytes each: half d = m / 127 (m the largest
// |x| of the block), then int8 codes nearest-even(x * (127 / m)), 0 where 127 / m is not finite; they count as
// float(d) * code.
enum class KvType { kF16, kF32, kQ8_0 };

struct KvShape {
  int32_t layers = 0;
  int32_t kv_head_count = 0;
  int32_t head_dim = 0;
  int32_t slots = 0;
  KvType type = KvType::kF16;
};
// Elements and bytes of one head of one slot (head_dim rounded up to 16, q8_0: to 32, zeros after it), and bytes of
// keys and values, [layer][keys, values][kv head][slot][head].
int32_t KvHeadStride(KvType type, int32_t head_dim);
int64_t KvHeadBytes(KvType type, int32_t head_dim);
uint64_t KvDataBytes(const KvShape& shape);

// One page of FFN rows in a slot of tier-0 memory.
struct FfnPageRef {
  DeviceAddress data = nullptr;  // 64-byte aligned; layout: the job's FfnPageLayout
  PlaneState planes = PlaneState::kWhole;
  DeviceAddress low = nullptr;  // kBoth; 64-byte aligned
  int32_t first_row = 0;        // RowIndex of the page's first row; where captured values go
  int32_t row_count = 0;        // rows that exist: page_rows, less in a layer's last page
  // [row_count / run_rows, rounded up]: down-scale group of each run of the page. Host memory.
  const uint16_t* run_groups = nullptr;
  // RowIndex of each row, for captured values; null: first_row + i. Host memory.
  const int32_t* row_index = nullptr;
  // Rows to use: bit i = row i of the page; null: all. A masked row contributes exactly nothing. Host memory.
  const uint64_t* row_mask = nullptr;
};

// Single rows gathered from pages, for drafts (the overlay): gate and up panels of 16 rows as in a page; down codes
// with run_rows = 1: for each panel of 16 outputs and each pair of rows 16 bytes for codes of up to 4 bits (byte o: low
// nibble row 2p, high nibble row 2p + 1), 32 bytes for wider ones (16 codes of row 2p, 16 of row 2p + 1); float types
// as in a page. Every row has a group of its own.
struct FfnOverlayRef {
  DeviceAddress gate = nullptr;  // [row_count / 16 rounded up] panels
  DeviceAddress up = nullptr;
  DeviceAddress down = nullptr;  // [dim / 16 rounded up] panels of OverlayDownPanelBytes(type, row_capacity)
  int32_t row_capacity = 0;      // multiple of 16; fixes the strides
  int32_t row_count = 0;
  const uint16_t* groups = nullptr;    // [row_count]
  const int32_t* row_index = nullptr;  // [row_count] RowIndex of each row
  const uint64_t* row_mask = nullptr;
};
uint64_t OverlayDownPanelBytes(QuantType down_type, int32_t row_capacity);

// Which rows each activation row (token) of a draft uses, chosen while its FFN runs.
enum class RowScore {
  kGate,   // |activation(gate)| * weight[row]: the gates of all rows, then up and down of those chosen
  kValue,  // |z| * weight[row]: gate and up of all rows, then down of those chosen
  kGiven,  // given[t * given_stride + row], negative ones as 0: nothing of rows that are not chosen
};
struct RowChoice {
  RowScore score = RowScore::kGate;
  int32_t count = 0;              // so many rows of the largest score, equal scores: the lower RowIndex; < 0: threshold
  float threshold = 0;            // count < 0: rows with at least this score
  const float* weight = nullptr;  // [ffn_rows], RowIndex order; null: 1. Host memory.
  bool shared = false;            // one set for all tokens of the call, by the sum of their scores
  const float* given = nullptr;   // kGiven: [rows][given_stride], RowIndex order. Host memory.
  int64_t given_stride = 0;
  // kGate: a second stage. Of the rows chosen, so many of the largest |z| * value_weight[row] keep their down part;
  // < 0: all.
  int32_t value_count = -1;
  const float* value_weight = nullptr;  // as weight
};
// Of the last FfnAccumulateChosen: rows whose parts were used for at least one token, and rows whose down part was
// used, summed over the tokens. (A kernel may read more: panels hold 16 rows.)
struct FfnUse {
  int64_t gate_rows = 0, up_rows = 0, down_rows = 0;
  int64_t used = 0;
};

struct FfnParams {
  FfnPageLayout layout;
  FfnActivation activation = FfnActivation::kSilu;
  DeviceAddress down_scales = nullptr;  // the layer's down-scale table, 64-byte aligned; null for float types
  // When set, z of every row used is stored at capture[t][row]; [rows, ffn_rows rounded up to page_rows], RowIndex
  // order; rows that were not used are left as they were.
  Tensor* capture = nullptr;
  Tensor* capture_up = nullptr;  // as capture, of up x; FfnAccumulatePages only
};

// The largest value of a row, and what all of it weighs beside it: of a head's logits the likeliest token, and one over
// its probability.
struct RowPeak {
  int32_t col = 0;   // the lowest of those that have it
  float value = 0;   // -infinity where there is no number
  float weight = 1;  // sum of exp(scale * (x - value)); 1 where there is no number
};
inline constexpr int kPeakLanes = 256;      // that its sum is formed in
inline constexpr int32_t kMostPeaks = 512;  // of a call

// A value of a row and its column. Ordered by falling values, equal ones by rising columns.
struct RowEntry {
  float value = 0;
  int32_t col = 0;
  friend bool operator<(const RowEntry& a, const RowEntry& b) {
    return a.value != b.value ? a.value > b.value : a.col < b.col;
  }
};
inline constexpr int32_t kMostTop = 256;  // entries of a call

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string Describe() const = 0;  // "cpu, avx512-vnni, 2 threads"
  virtual bool precise() const = 0;

  // True: weight memory is host memory, which the host may read and write, and staging costs nothing.
  virtual bool shares_host_memory() const = 0;
  // Taken of a device's own memory by everything here; 0 where host memory is shared.
  virtual uint64_t device_bytes() const = 0;
  // Memory for weights: 4096-aligned, zeroed. ResourceExhausted names the bytes. Freed with the backend or by
  // FreeMemory.
  virtual absl::StatusOr<std::byte*> AllocateMemory(uint64_t bytes) = 0;
  virtual void FreeMemory(std::byte* memory) = 0;
  // Copies host bytes into it. Waits.
  virtual absl::Status WriteMemory(std::span<const std::byte> from, std::byte* to) = 0;
  // Copies bytes of it to the host. Waits.
  virtual absl::Status ReadMemory(DeviceAddress from, std::span<std::byte> to) = 0;

  // Host memory that Stage copies from at full speed (page-locked where there is a device), touched where the backend
  // touches its memory. ResourceExhausted names the bytes.
  virtual absl::StatusOr<std::unique_ptr<HostMemory>> NewHostMemory(uint64_t bytes) = 0;
  // Room for staged copies, at once and once; nothing where host memory is shared.
  virtual absl::Status ReserveStaging(uint64_t bytes) = 0;
  // Room where pages and panels in planes are put together, at once and once: before operations read some whose longest
  // page or panel has so many bytes. Nothing where each thread does that in memory of its own.
  virtual uint64_t JoinRoomBytes(uint64_t longest) const = 0;
  virtual absl::Status ReserveJoinRoom(uint64_t longest) = 0;
  // Where operations find these host bytes: the bytes themselves, or a copy that is made before operations enqueued
  // from now on. The bytes stay untouched until the ticket of the last operation that reads them is done. REQUIRES:
  // what is staged and not yet given up fits the room.
  virtual absl::StatusOr<DeviceAddress> Stage(std::span<const std::byte> host) = 0;
  // The oldest staged bytes are read by no operation after `last`.
  virtual void Unstage(Ticket last) = 0;

  virtual absl::StatusOr<std::unique_ptr<Tensor>> NewTensor(int32_t rows, int32_t cols) = 0;
  virtual absl::StatusOr<std::unique_ptr<Activations>> NewActivations(int32_t rows, int32_t cols) = 0;
  virtual absl::StatusOr<std::unique_ptr<KvStore>> NewKvStore(const KvShape& shape) = 0;
  virtual absl::StatusOr<std::unique_ptr<FfnJob>> NewFfnJob(const FfnJobShape& shape) = 0;

  // Bytes the New... calls above take for these shapes, so that a budget can be planned before anything is allocated.
  virtual uint64_t TensorBytes(int32_t rows, int32_t cols) const = 0;
  virtual uint64_t ActivationsBytes(int32_t rows, int32_t cols) const = 0;
  virtual uint64_t KvStoreBytes(const KvShape& shape) const = 0;
  virtual uint64_t FfnJobBytes(const FfnJobShape& shape) const = 0;

  // dst[first_row + i] = values[i * cols ..]; copies before it returns.
  virtual void Upload(std::span<const float> values, int32_t first_row, Tensor* dst) = 0;
  // Waits. values: rows * cols floats from row first_row on.
  virtual absl::Status Download(const Tensor& src, int32_t first_row, int32_t rows, std::span<float> values) = 0;

  // peaks[i]: of the first `cols` columns of row first_row + i of x. What is no number counts as -infinity. The weight
  // is summed in kPeakLanes lanes (lane = column % kPeakLanes), then lanes 128 apart, 64, .. 1. Waits.
  // REQUIRES: at most kMostPeaks.
  virtual absl::Status FindPeaks(const Tensor& x, int32_t first_row, int32_t cols, float scale,
                                 std::span<RowPeak> peaks) = 0;

  // top = the first entries, in order, of the first `cols` columns of row `row` of x. What is no number counts as
  // -infinity. Waits. REQUIRES: at most kMostTop, and no more than there are columns.
  virtual absl::Status FindTop(const Tensor& x, int32_t row, int32_t cols, std::span<RowEntry> top) = 0;

  // dst row i = row row_index[i] of `table` (kPanels or kPlain), dequantized.
  virtual void GatherRows(const MatrixView& table, std::span<const int32_t> row_index, Tensor* dst) = 0;
  // dst[dst_row + i] = src[src_row + i], same cols.
  virtual void CopyRows(const Tensor& src, int32_t src_row, int32_t rows, int32_t dst_row, Tensor* dst) = 0;

  // out[t] = x[t] * weight / sqrt(mean(x[t]^2) + epsilon); weight: [cols] f32 in device memory. The mean is summed in
  // 16 lanes (lane = column % 16), then lanes 8 apart, 4, 2, 1.
  virtual void RmsNorm(const Tensor& x, int32_t rows, DeviceAddress weight, float epsilon, Tensor* out) = 0;
  // Each head of x[t] (cols = head_count * head_dim) is normed as RmsNorm does a row, in place; weight: [head_dim].
  virtual void HeadRmsNorm(int32_t head_dim, int32_t rows, DeviceAddress weight, float epsilon, Tensor* x) = 0;
  virtual void Prepare(const Tensor& x, int32_t rows, Activations* out) = 0;
  // out[t, out_col + r] = sum_k w[r, k] x[t, k]   for t < rows, r < w.rows.
  virtual void MatMul(const MatrixView& w, const Activations& x, int32_t rows, int32_t out_col, Tensor* out) = 0;
  // x[t] += y[t]
  virtual void Add(const Tensor& y, int32_t rows, Tensor* x) = 0;
  // x[t] += bias; bias: [cols] f32 in device memory.
  virtual void AddBias(DeviceAddress bias, int32_t rows, Tensor* x) = 0;
  // x[t, i] = x[t, i] * factor
  virtual void Scale(float factor, int32_t rows, Tensor* x) = 0;
  // x[t] = 0
  virtual void Clear(int32_t rows, Tensor* x) = 0;
  // panels = the matrix `plain` (kPlain, in host memory) in panel layout; rows beyond plain.rows in the last panel are
  // zero. panels: weight memory. Waits.
  virtual void PackPanels(const MatrixView& plain, std::byte* panels) = 0;
  // z[t, i] = activation(gate[t, i]) * up[t, i]
  virtual void GatedActivation(FfnActivation activation, const Tensor& gate, const Tensor& up, int32_t rows,
                               Tensor* z) = 0;
  // Rotates each head of x[t] (cols = head_count * head_dim) to positions[t], in place.
  virtual void Rope(const RopeParams& params, std::span<const TokenPos> positions, Tensor* x) = 0;

  // k, v: [rows, kv_head_count * head_dim], row i to slots[i].
  virtual void WriteKv(LayerIndex layer, std::span<const KvSlot> slots, const Tensor& k, const Tensor& v,
                       KvStore* store) = 0;
  // Copies a slot's keys and values of all layers (KV compaction of a tree's path).
  virtual void CopyKv(KvSlot from, KvSlot to, KvStore* store) = 0;
  // out[t] = softmax(score_scale * q[t] k^T) v over the allowed slots, per head; q, out: [rows, head_count * head_dim].
  // Summed in the mask's order, in parts of kAttentionPart slots (device/functions.h). q and out: different tensors.
  virtual void Attention(const AttentionParams& params, LayerIndex layer, const AttentionMask& mask,
                         const KvStore& store, const Tensor& q, Tensor* out) = 0;

  // FFN over packed pages: x_out += down^T (activation(gate n) * (up n)), in three steps so that pages can stream.
  // Begin: y = 0. x: the normed input, [rows, dim].
  virtual void FfnBegin(const FfnParams& params, const Activations& x, int32_t rows, FfnJob* job) = 0;
  // For each page in order: z = activation(gate x) * up x for its rows (masked rows: 0); z quantized to int8 in
  // blocks of 32 packed rows of the page (an outlier belongs to the run of its row); partial = 0; for each run of the
  // page in order:
  // partial = fma(zd * d_group, float(s), partial) [Q4_1: then partial = fma(m_group, zs_run, partial), zs_run = zd *
  // float(sum of the run's z codes)]; sum += partial. Float down: partial = fma(w, z, partial) row by row, z in f32.
  // Precise: as float down, on decoded weights. sum is of the pages of one group (FfnPageLayout::SumGroupOf of their
  // first row) in the order of the calls; where another group begins, y += sum, sum = 0.
  // Pages in planes: not in precise mode.
  virtual Ticket FfnAccumulatePages(std::span<const FfnPageRef> pages, FfnJob* job) = 0;
  // Drafts. As FfnAccumulatePages over these pages where z[t] is 0 in the rows of them that token t did not choose
  // (rows that row_mask leaves out cannot be chosen); all rows chosen: the same bits. chosen: host memory for the sets,
  // [rows][(ffn_rows + 63) / 64] words, bit i of word i / 64 = RowIndex i; may be empty. Waits.
  // REQUIRES: rows <= the job's choice_rows; the pages are at most the job's ffn_rows, in ascending order; weights are
  // not negative. Scores that are no numbers count as 0.
  virtual FfnUse FfnAccumulateChosen(std::span<const FfnPageRef> pages, const RowChoice& choice,
                                     std::span<uint64_t> chosen, FfnJob* job) = 0;
  // y += sum, the sum of a group of pages that was formed elsewhere; [rows, dim], `rows` as in FfnBegin.
  virtual void FfnAccumulateSum(const Tensor& sum, FfnJob* job) = 0;
  // The overlay counts as one page, of a group of its own, of runs of one row whose z stays f32: partial = fma(z *
  // d_group, float(value), partial) row by row, with a minimum then partial = fma(z, m_group, partial). Precise and
  // float down: as for pages.
  virtual Ticket FfnAccumulateOverlay(const FfnOverlayRef& overlay, FfnJob* job) = 0;
  // y += sum of the last group; x[t] += y[t]
  virtual Ticket FfnEnd(FfnJob* job, Tensor* x) = 0;

  // A ticket for everything enqueued so far.
  virtual Ticket Now() = 0;
  virtual bool IsDone(Ticket ticket) = 0;
  virtual void Wait(Ticket ticket) = 0;
};

}  // namespace dogstar
