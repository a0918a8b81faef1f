// AttributionPass: a forward pass that keeps what is needed, and the hand-derived backward pass: for every layer the
// gradient of a token's loss at its FFN units and attention heads, without autograd. Scores made of these are in
// predictors/attribution_scores.h. docs/attribution.md has the formulas and what they cost.
//
// Two sweeps over the layers, each reading the weights from the file in chunks (WeightStream), so that a model larger
// than memory works. Forward keeps of each layer its input x, what attention added and, where that is normed, what the
// FFN added; backward computes the inside of a layer again from them, five of its seven products. Quantized weights are
// constants. All rows of a batch go back at once: with GradientScope::kOwn each row's loss reaches keys and values of
// its own position only ("diagonal"), so a batch gives what single passes for each position would.
//
// Memory, in floats, T rows of a batch, d = dim, F = ffn_rows, q and k = width of queries and keys, L layers, V
// vocabulary:
//   T d (L (2, with post-norms 3) + 1) kept;  T (5 d + 4 q + 5 k + 4 F) of one layer;  16 V of logits;
//   and WeightStream's chunk. Bytes() is the sum.
//
// Plain GGUF files; FFN rows in pages are refused. Threads: one. Memory: allocated in Create.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "base/types.h"
#include "device/backend.h"
#include "model/model_file.h"
#include "runtime/backward_stages.h"
#include "runtime/weight_stream.h"

namespace dogstar {

enum class UnitKind { kFfn, kHead };

// Rows [0, prefix) are consecutive positions from 0. Each row after them is one of several takes of position `prefix`:
// it sees the prefix and itself (integrated gradients need many of the last position). A text is all prefix.
struct AttributionBatch {
  std::vector<TokenId> tokens;
  int32_t prefix = 0;

  static AttributionBatch Text(std::span<const TokenId> tokens) {
    return {{tokens.begin(), tokens.end()}, static_cast<int32_t>(tokens.size())};
  }
  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
};

// Outputs of units multiplied in a forward pass: row first_row + i by factors[i].
struct UnitChange {
  LayerIndex layer{};
  UnitKind kind = UnitKind::kFfn;
  int32_t unit = -1;  // neuron or head; -1: all of the layer
  int32_t first_row = 0;
  std::vector<float> factors;
};

// A layer's units and the loss's gradients there, for rows first_row .. first_row + rows - 1. Outputs are those before
// any UnitChange. Valid during the visit.
struct LayerAttribution {
  LayerIndex layer{};
  int32_t first_row = 0, rows = 0;
  std::span<const float> ffn, ffn_gradient;    // [rows, ffn_rows]
  std::span<const float> head, head_gradient;  // [rows, head_count * head_dim]
};

struct RowLoss {
  TokenId label{};
  double loss = 0;  // nats
};

class AttributionPass {
 public:
  struct Options {
    int threads = 1;
    bool precise = true;  // f32 activations in the forward products; else the engine's int8 ones
    int32_t rows = 0;     // of a batch, at most
    GradientScope scope = GradientScope::kOwn;
    uint64_t memory_bytes = UINT64_MAX;  // Create takes no more
  };
  using VisitFn = absl::FunctionRef<void(const LayerAttribution& layer)>;

  // Bytes that Create takes.
  static uint64_t Bytes(const ModelFile& model, const Backend& backend, const Options& options);
  // `model` outlives the object. ResourceExhausted names the bytes needed; Unimplemented for packed files.
  static absl::StatusOr<std::unique_ptr<AttributionPass>> Create(const ModelFile* model, const Options& options);

  const ModelConfig& config() const { return config_; }

  // change may be null. REQUIRES: 0 < batch.rows() <= options.rows.
  absl::Status Forward(const AttributionBatch& batch, const UnitChange* change);
  // The same batch from layer `first` on, whose input is as the last passes left it.
  absl::Status ForwardFrom(LayerIndex first, const UnitChange* change);

  // Losses of the last labels.size() rows of the batch (no label: the row's own likeliest token), and from the last
  // layer down to `last` what the gradients are at its units; `visit` is called once a layer in that order. The losses
  // of rows are of one row each, never of their mean. REQUIRES: a forward pass, whose change is at layer `last` or
  // none; for GradientScope::kCausal as many labels as rows.
  absl::StatusOr<std::vector<RowLoss>> Backward(std::span<const std::optional<TokenId>> labels, LayerIndex last,
                                                VisitFn visit);
  // Losses alone.
  absl::StatusOr<std::vector<RowLoss>> Losses(std::span<const std::optional<TokenId>> labels);

 private:
  using Buffer = std::vector<float>;
  // What a pass works in; BufferList says how wide each is.
  struct Buffers {
    Buffer norm, residual, output, gradient, gradient_in;  // [rows, dim]
    Buffer query, query_raw, context, dcontext;            // [rows, queries]
    Buffer key, key_raw, value, dkey, dvalue;              // [rows, keys]
    Buffer gate, up, z, dz;                                // [rows, ffn_rows]
  };
  struct BufferWidth {
    Buffer Buffers::*buffer;
    int32_t cols;
  };
  static std::vector<BufferWidth> BufferList(const ModelConfig& config);
  static WeightStream::Options StreamOptions(const ModelConfig& config, const Options& options);

  AttributionPass(const ModelFile* model, const Options& options)
      : model_(model), config_(model->config()), options_(options) {}
  absl::Status Allocate();

  // Rows [first, rows) of a buffer of `cols` columns.
  std::span<float> Rows(Buffer& buffer, int32_t cols, int32_t first = 0) const {
    const auto width = static_cast<size_t>(cols);
    return std::span(buffer).subspan(static_cast<size_t>(first) * width,
                                     static_cast<size_t>(batch_.rows() - first) * width);
  }
  std::span<const float> Weights(LayerIndex layer, LayerVector vector) const {
    return model_->layers()[static_cast<size_t>(ToInt(layer))].vectors[static_cast<size_t>(vector)];
  }
  const LayerSource& Source(LayerIndex layer) const { return model_->layers()[static_cast<size_t>(ToInt(layer))]; }
  Buffer& Input(LayerIndex layer) { return inputs_[static_cast<size_t>(ToInt(layer))]; }
  int32_t queries() const { return config_.head_count * config_.head_dim; }
  int32_t keys() const { return config_.kv_head_count * config_.head_dim; }
  TokenPos PositionOf(int32_t row) const { return TokenPos{std::min(row, batch_.prefix)}; }
  SeenKeys Seen(LayerIndex layer, int32_t row, int32_t kv_head) const;
  RopeParams Rope(LayerIndex layer) const;

  // The parts of a layer, for rows from `first` on; keys and values for all rows.
  absl::Status ProjectAndAttend(LayerIndex layer, int32_t first);
  absl::Status Project(LayerIndex layer, int32_t first);
  void Attend(LayerIndex layer, int32_t first);
  absl::Status FfnUnits(LayerIndex layer, int32_t first);
  absl::Status ForwardLayer(LayerIndex layer, const UnitChange* change);
  // residual = the layer's input and what attention added to it
  void AfterAttention(LayerIndex layer, int32_t first);
  void Apply(const UnitChange& change, int32_t unit_width, Buffer* units, int32_t cols);

  absl::StatusOr<std::vector<RowLoss>> HeadBackward(std::span<const std::optional<TokenId>> labels, bool backward);
  // `gradient` of the layer's output becomes that of what attention left, then that of its input; dz and dcontext are
  // the gradients at the units.
  absl::Status FfnBackward(LayerIndex layer, int32_t first);
  absl::Status AttentionBackward(LayerIndex layer, int32_t first);
  absl::Status QueryKeyBackward(LayerIndex layer, int32_t first);
  void AttendBackward(LayerIndex layer, int32_t first);

  const ModelFile* model_;
  const ModelConfig& config_;
  Options options_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<WeightStream> weights_;
  AttributionBatch batch_;

  std::vector<Buffer> inputs_;     // [layers + 1] of [rows, dim]: x of each layer, and the last one's output
  std::vector<Buffer> attention_;  // [layers] of [rows, dim]: Wo context, before a post-norm
  std::vector<Buffer> ffn_;        // the same of the FFN; only where post-norms need it
  Buffers at_;
  Buffer logits_;                      // [16, vocab]
  std::vector<Buffer> probabilities_;  // of each thread, [rows + 1]
};

}  // namespace dogstar
