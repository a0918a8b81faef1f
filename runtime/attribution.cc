#include "runtime/attribution.h"

#include <algorithm>
#include <cmath>

#include "base/units.h"
#include "cpu/cpu_backend.h"
#include "device/reference.h"
#include "fmt/format.h"

namespace dogstar {
namespace {

constexpr int32_t kHeadRows = 16;  // logits of so many rows at a time

std::span<const float> RowOf(std::span<const float> values, int32_t row, int32_t cols) {
  return values.subspan(static_cast<size_t>(row) * static_cast<size_t>(cols), static_cast<size_t>(cols));
}
std::span<float> RowOf(std::span<float> values, int32_t row, int32_t cols) {
  return values.subspan(static_cast<size_t>(row) * static_cast<size_t>(cols), static_cast<size_t>(cols));
}

// out = norm(x), row by row of weight.size() values.
void NormRows(std::span<const float> x, std::span<const float> weight, float epsilon, std::span<float> out) {
  for (size_t at = 0; at < x.size(); at += weight.size()) {
    reference::RmsNorm(x.subspan(at, weight.size()), weight, epsilon, out.subspan(at, weight.size()));
  }
}

void AddTo(std::span<const float> values, std::span<float> sum) { AddScaled(1, values, sum); }

void Clear(std::span<float> values) { std::fill(values.begin(), values.end(), 0.0F); }

void AddBias(std::span<const float> bias, std::span<float> x) {
  for (size_t at = 0; at < x.size() && !bias.empty(); at += bias.size()) AddTo(bias, x.subspan(at, bias.size()));
}

}  // namespace

std::vector<AttributionPass::BufferWidth> AttributionPass::BufferList(const ModelConfig& c) {
  const int32_t queries = c.head_count * c.head_dim, keys = c.kv_head_count * c.head_dim;
  return {{&Buffers::norm, c.dim},        {&Buffers::residual, c.dim},    {&Buffers::output, c.dim},
          {&Buffers::gradient, c.dim},    {&Buffers::gradient_in, c.dim}, {&Buffers::query, queries},
          {&Buffers::query_raw, queries}, {&Buffers::context, queries},   {&Buffers::dcontext, queries},
          {&Buffers::key, keys},          {&Buffers::key_raw, keys},      {&Buffers::value, keys},
          {&Buffers::dkey, keys},         {&Buffers::dvalue, keys},       {&Buffers::gate, c.ffn_rows},
          {&Buffers::up, c.ffn_rows},     {&Buffers::z, c.ffn_rows},      {&Buffers::dz, c.ffn_rows}};
}

WeightStream::Options AttributionPass::StreamOptions(const ModelConfig& c, const Options& options) {
  WeightStream::Options stream{.threads = options.threads, .precise = options.precise, .rows = options.rows};
  for (const int32_t cols : {c.dim, c.head_count * c.head_dim, c.ffn_rows}) {
    const bool known = std::find(stream.widths.begin(), stream.widths.end(), cols) != stream.widths.end();
    if (!known) stream.widths.push_back(cols);
  }
  return stream;
}

uint64_t AttributionPass::Bytes(const ModelFile& model, const Backend& backend, const Options& options) {
  const ModelConfig& c = model.config();
  int64_t cols = int64_t{c.dim} * (int64_t{c.layer_count} * (c.post_norms ? 3 : 2) + 1);
  for (const BufferWidth& entry : BufferList(c)) cols += entry.cols;
  const int64_t values =
      cols * options.rows + int64_t{kHeadRows} * c.vocab_size + int64_t{options.threads} * (options.rows + 1);
  return static_cast<uint64_t>(values) * sizeof(float) + WeightStream::Bytes(model, backend, StreamOptions(c, options));
}

absl::StatusOr<std::unique_ptr<AttributionPass>> AttributionPass::Create(const ModelFile* model,
                                                                         const Options& options) {
  if (model->packed() != nullptr) {
    return absl::UnimplementedError(
        fmt::format("{}: attribution reads FFN matrices, and this is a packed file; give the GGUF it was made from",
                    model->path()));
  }
  auto pass = std::unique_ptr<AttributionPass>(new AttributionPass(model, options));
  RETURN_IF_ERROR(pass->Allocate());
  return pass;
}

absl::Status AttributionPass::Allocate() {
  ASSIGN_OR_RETURN(backend_, NewCpuBackend({.threads = options_.threads, .precise = options_.precise}));
  const uint64_t needed = Bytes(*model_, *backend_, options_);
  if (needed > options_.memory_bytes) {
    return absl::ResourceExhaustedError(
        fmt::format("attribution of {} positions needs {} beside the program, {} are left of the budget; fewer tokens "
                    "need less",
                    options_.rows, FormatSize(needed), FormatSize(options_.memory_bytes)));
  }
  ASSIGN_OR_RETURN(weights_, WeightStream::Create(model_, backend_.get(), StreamOptions(config_, options_)));
  const auto rows = static_cast<size_t>(options_.rows), layers = static_cast<size_t>(config_.layer_count);
  const Buffer stream(rows * static_cast<size_t>(config_.dim));
  inputs_.assign(layers + 1, stream);
  attention_.assign(layers, stream);
  if (config_.post_norms) ffn_.assign(layers, stream);
  for (const BufferWidth& entry : BufferList(config_)) {
    (at_.*entry.buffer).resize(rows * static_cast<size_t>(entry.cols));
  }
  logits_.resize(static_cast<size_t>(kHeadRows) * static_cast<size_t>(config_.vocab_size));
  probabilities_.assign(static_cast<size_t>(options_.threads), Buffer(rows + 1));
  return absl::OkStatus();
}

absl::Status AttributionPass::Forward(const AttributionBatch& batch, const UnitChange* change) {
  CHECK(batch.rows() > 0 && batch.rows() <= options_.rows && batch.prefix <= batch.rows());
  batch_ = batch;
  const std::span<float> x = Rows(inputs_[0], config_.dim);
  RETURN_IF_ERROR(weights_->GatherRows(model_->embedding(), batch.tokens, x));
  for (float& value : x) value *= config_.embedding_scale;
  return ForwardFrom(LayerIndex{0}, change);
}

absl::Status AttributionPass::ForwardFrom(LayerIndex first, const UnitChange* change) {
  for (int32_t layer = ToInt(first); layer < config_.layer_count; ++layer) {
    const bool changed = change != nullptr && ToInt(change->layer) == layer;
    RETURN_IF_ERROR(ForwardLayer(LayerIndex{layer}, changed ? change : nullptr));
  }
  return absl::OkStatus();
}

// x' = y + post(down z), y = x + post(Wo context)
absl::Status AttributionPass::ForwardLayer(LayerIndex layer, const UnitChange* change) {
  const int32_t rows = batch_.rows();
  const size_t index = static_cast<size_t>(ToInt(layer));
  RETURN_IF_ERROR(ProjectAndAttend(layer, 0));
  if (change != nullptr && change->kind == UnitKind::kHead) {
    Apply(*change, config_.head_dim, &at_.context, queries());
  }
  RETURN_IF_ERROR(weights_->Product(Source(layer).output, Rows(at_.context, queries()), rows,
                                    Rows(attention_[index], config_.dim)));
  AfterAttention(layer, 0);
  RETURN_IF_ERROR(FfnUnits(layer, 0));
  if (change != nullptr && change->kind == UnitKind::kFfn) Apply(*change, 1, &at_.z, config_.ffn_rows);
  Buffer& down = config_.post_norms ? ffn_[index] : at_.output;
  RETURN_IF_ERROR(weights_->Product(*Source(layer).down, Rows(at_.z, config_.ffn_rows), rows, Rows(down, config_.dim)));
  const std::span<float> next = Rows(inputs_[index + 1], config_.dim);
  std::span<const float> added = Rows(down, config_.dim);
  if (config_.post_norms) {
    NormRows(added, Weights(layer, LayerVector::kPostFfnNorm), config_.rms_epsilon, Rows(at_.output, config_.dim));
    added = Rows(at_.output, config_.dim);
  }
  std::copy_n(at_.residual.begin(), next.size(), next.begin());
  AddTo(added, next);
  return absl::OkStatus();
}

void AttributionPass::Apply(const UnitChange& change, int32_t unit_width, Buffer* units, int32_t cols) {
  const bool all = change.unit < 0;
  const auto begin = static_cast<size_t>(all ? 0 : change.unit * unit_width);
  const auto width = static_cast<size_t>(all ? cols : unit_width);
  for (size_t i = 0; i < change.factors.size(); ++i) {
    const int32_t row = change.first_row + static_cast<int32_t>(i);
    for (float& value : RowOf(Rows(*units, cols), row, cols).subspan(begin, width)) value *= change.factors[i];
  }
}

RopeParams AttributionPass::Rope(LayerIndex layer) const {
  return {config_.rope_halves ? RopePairing::kHalves : RopePairing::kAdjacent, config_.head_dim, config_.rotary_dims,
          config_.attention(layer).rope_frequencies};
}

SeenKeys AttributionPass::Seen(LayerIndex layer, int32_t row, int32_t kv_head) const {
  const auto offset = static_cast<std::ptrdiff_t>(kv_head) * config_.head_dim;
  const int32_t position = ToInt(PositionOf(row)), window = config_.attention(layer).window;
  const int32_t begin = window > 0 ? std::max(0, position - window + 1) : 0;
  return {at_.key.data() + offset, at_.value.data() + offset, static_cast<size_t>(keys()), begin, position, row};
}

absl::Status AttributionPass::ProjectAndAttend(LayerIndex layer, int32_t first) {
  const std::span<float> norm = Rows(at_.norm, config_.dim);
  NormRows(Rows(Input(layer), config_.dim), Weights(layer, LayerVector::kAttentionNorm), config_.rms_epsilon, norm);
  RETURN_IF_ERROR(Project(layer, first));
  Attend(layer, first);
  return absl::OkStatus();
}

// Queries from `first` on, keys and values of all rows; raw: before their norms and rotation.
absl::Status AttributionPass::Project(LayerIndex layer, int32_t first) {
  const LayerSource& source = Source(layer);
  const int32_t rows = batch_.rows();
  const std::span<float> norm = Rows(at_.norm, config_.dim), query = Rows(at_.query_raw, queries(), first),
                         key = Rows(at_.key_raw, keys()), value = Rows(at_.value, keys());
  RETURN_IF_ERROR(weights_->Product(source.query, Rows(at_.norm, config_.dim, first), rows - first, query));
  RETURN_IF_ERROR(weights_->Product(source.key, norm, rows, key));
  RETURN_IF_ERROR(weights_->Product(source.value, norm, rows, value));
  AddBias(Weights(layer, LayerVector::kQueryBias), query);
  AddBias(Weights(layer, LayerVector::kKeyBias), key);
  AddBias(Weights(layer, LayerVector::kValueBias), value);
  std::copy_n(query.begin(), query.size(), Rows(at_.query, queries(), first).begin());
  std::copy_n(key.begin(), key.size(), at_.key.begin());
  if (config_.qk_norm) {
    NormRows(query, Weights(layer, LayerVector::kQueryNorm), config_.rms_epsilon, Rows(at_.query, queries(), first));
    NormRows(key, Weights(layer, LayerVector::kKeyNorm), config_.rms_epsilon, Rows(at_.key, keys()));
  }
  for (int32_t row = 0; row < rows; ++row) {
    reference::Rope(Rope(layer), PositionOf(row), RowOf(Rows(at_.key, keys()), row, keys()));
    if (row < first) continue;
    reference::Rope(Rope(layer), PositionOf(row), RowOf(Rows(at_.query, queries()), row, queries()));
  }
  return absl::OkStatus();
}

void AttributionPass::Attend(LayerIndex layer, int32_t first) {
  const int32_t group = config_.head_count / config_.kv_head_count;
  const int64_t tasks = int64_t{batch_.rows() - first} * config_.head_count;
  weights_->pool()->Run([&](int thread) {
    const Range range = PartOf(tasks, 1, thread, weights_->pool()->size());
    for (int64_t task = range.begin; task < range.end; ++task) {
      const auto row = first + static_cast<int32_t>(task / config_.head_count);
      const auto head = static_cast<int32_t>(task % config_.head_count);
      const SeenKeys seen = Seen(layer, row, head / group);
      const int32_t at = row * config_.head_count + head;
      AttendHead(RowOf(std::span<const float>(at_.query), at, config_.head_dim), seen, config_.score_scale,
                 std::span(probabilities_[static_cast<size_t>(thread)]).first(static_cast<size_t>(seen.count())),
                 RowOf(std::span(at_.context), at, config_.head_dim));
    }
  });
}

void AttributionPass::AfterAttention(LayerIndex layer, int32_t first) {
  std::span<const float> added = Rows(attention_[static_cast<size_t>(ToInt(layer))], config_.dim, first);
  if (config_.post_norms) {
    const std::span<float> normed = Rows(at_.output, config_.dim, first);
    NormRows(added, Weights(layer, LayerVector::kPostAttentionNorm), config_.rms_epsilon, normed);
    added = normed;
  }
  const std::span<float> x = Rows(Input(layer), config_.dim, first), y = Rows(at_.residual, config_.dim, first);
  std::copy_n(x.begin(), x.size(), y.begin());
  AddTo(added, y);
}

absl::Status AttributionPass::FfnUnits(LayerIndex layer, int32_t first) {
  const int32_t rows = batch_.rows() - first;
  const std::span<float> norm = Rows(at_.norm, config_.dim, first), gate = Rows(at_.gate, config_.ffn_rows, first),
                         up = Rows(at_.up, config_.ffn_rows, first), z = Rows(at_.z, config_.ffn_rows, first);
  NormRows(Rows(at_.residual, config_.dim, first), Weights(layer, LayerVector::kFfnNorm), config_.rms_epsilon, norm);
  RETURN_IF_ERROR(weights_->Product(*Source(layer).gate, norm, rows, gate));
  RETURN_IF_ERROR(weights_->Product(*Source(layer).up, norm, rows, up));
  for (size_t i = 0; i < z.size(); ++i) z[i] = reference::Activate(config_.activation, gate[i]) * up[i];
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RowLoss>> AttributionPass::Losses(std::span<const std::optional<TokenId>> labels) {
  return HeadBackward(labels, false);
}

absl::StatusOr<std::vector<RowLoss>> AttributionPass::Backward(std::span<const std::optional<TokenId>> labels,
                                                               LayerIndex last, VisitFn visit) {
  const int32_t first = batch_.rows() - static_cast<int32_t>(labels.size());
  CHECK(first >= 0 && (options_.scope == GradientScope::kOwn || first == 0));
  ASSIGN_OR_RETURN(const std::vector<RowLoss> losses, HeadBackward(labels, true));
  for (int32_t i = config_.layer_count - 1; i >= ToInt(last); --i) {
    const LayerIndex layer{i};
    AfterAttention(layer, first);
    RETURN_IF_ERROR(FfnBackward(layer, first));
    RETURN_IF_ERROR(AttentionBackward(layer, first));
    visit({layer, first, batch_.rows() - first, Rows(at_.z, config_.ffn_rows, first),
           Rows(at_.dz, config_.ffn_rows, first), Rows(at_.context, queries(), first),
           Rows(at_.dcontext, queries(), first)});
  }
  return losses;
}

// gradient = d loss / d x of the last layer's output: logits of kHeadRows rows, their gradient, and that through head
// and norm.
absl::StatusOr<std::vector<RowLoss>> AttributionPass::HeadBackward(std::span<const std::optional<TokenId>> labels,
                                                                   bool backward) {
  const int32_t dim = config_.dim, vocab = config_.vocab_size, total = batch_.rows();
  const int32_t first = total - static_cast<int32_t>(labels.size());
  const std::vector<float>& weight = model_->output_norm();
  const std::span<float> x = Rows(inputs_.back(), dim), norm = Rows(at_.norm, dim), gradient = Rows(at_.gradient, dim);
  NormRows(x, weight, config_.rms_epsilon, norm);
  std::vector<RowLoss> losses;
  for (int32_t begin = first; begin < total; begin += kHeadRows) {
    const int32_t rows = std::min(kHeadRows, total - begin);
    const auto of_rows = [&](std::span<float> values) {
      return values.subspan(static_cast<size_t>(begin) * static_cast<size_t>(dim),
                            static_cast<size_t>(rows) * static_cast<size_t>(dim));
    };
    const auto logits = std::span(logits_).first(static_cast<size_t>(rows) * static_cast<size_t>(vocab));
    RETURN_IF_ERROR(weights_->Product(model_->head(), of_rows(norm), rows, logits));
    for (int32_t row = 0; row < rows; ++row) {
      const std::span<float> own = RowOf(logits, row, vocab);
      const auto likeliest = static_cast<int32_t>(std::max_element(own.begin(), own.end()) - own.begin());
      const TokenId label = labels[static_cast<size_t>(begin + row - first)].value_or(TokenId{likeliest});
      if (ToInt(label) < 0 || ToInt(label) >= vocab) {
        return absl::InvalidArgumentError(
            fmt::format("label {} is outside of the vocabulary of {}", ToInt(label), vocab));
      }
      losses.push_back({label, CrossEntropyBackward(own, label, own)});
    }
    if (!backward) continue;
    Clear(of_rows(gradient));
    RETURN_IF_ERROR(weights_->AddTransposed(model_->head(), logits, rows, of_rows(gradient)));
    for (int32_t row = begin; row < begin + rows; ++row) {
      RmsNormBackward(RowOf(x, row, dim), weight, config_.rms_epsilon, RowOf(gradient, row, dim),
                      RowOf(gradient, row, dim));
    }
  }
  return losses;
}

absl::Status AttributionPass::FfnBackward(LayerIndex layer, int32_t first) {
  const int32_t dim = config_.dim, rows = batch_.rows() - first;
  const LayerSource& source = Source(layer);
  const std::span<float> gradient = Rows(at_.gradient, dim, first), in = Rows(at_.gradient_in, dim, first),
                         gate = Rows(at_.gate, config_.ffn_rows, first), up = Rows(at_.up, config_.ffn_rows, first),
                         dz = Rows(at_.dz, config_.ffn_rows, first);
  RETURN_IF_ERROR(FfnUnits(layer, first));
  std::copy_n(gradient.begin(), gradient.size(), in.begin());
  if (config_.post_norms) {
    HeadRmsNormBackward(Rows(ffn_[static_cast<size_t>(ToInt(layer))], dim, first),
                        Weights(layer, LayerVector::kPostFfnNorm), config_.rms_epsilon, in, in);
  }
  Clear(dz);
  RETURN_IF_ERROR(weights_->AddTransposed(*source.down, in, rows, dz));  // the score point
  GatedActivationBackward(config_.activation, gate, up, dz, gate, up);
  Clear(in);
  RETURN_IF_ERROR(weights_->AddTransposed(*source.gate, gate, rows, in));
  RETURN_IF_ERROR(weights_->AddTransposed(*source.up, up, rows, in));
  HeadRmsNormBackward(Rows(at_.residual, dim, first), Weights(layer, LayerVector::kFfnNorm), config_.rms_epsilon, in,
                      in);
  AddTo(in, gradient);
  return absl::OkStatus();
}

absl::Status AttributionPass::AttentionBackward(LayerIndex layer, int32_t first) {
  const int32_t dim = config_.dim, rows = batch_.rows() - first;
  const std::span<float> gradient = Rows(at_.gradient, dim, first), in = Rows(at_.gradient_in, dim, first),
                         dcontext = Rows(at_.dcontext, queries(), first);
  RETURN_IF_ERROR(ProjectAndAttend(layer, first));
  std::copy_n(gradient.begin(), gradient.size(), in.begin());
  if (config_.post_norms) {
    HeadRmsNormBackward(Rows(attention_[static_cast<size_t>(ToInt(layer))], dim, first),
                        Weights(layer, LayerVector::kPostAttentionNorm), config_.rms_epsilon, in, in);
  }
  Clear(dcontext);
  RETURN_IF_ERROR(weights_->AddTransposed(Source(layer).output, in, rows, dcontext));  // the score point
  AttendBackward(layer, first);
  Clear(in);
  RETURN_IF_ERROR(QueryKeyBackward(layer, first));
  HeadRmsNormBackward(Rows(Input(layer), dim, first), Weights(layer, LayerVector::kAttentionNorm), config_.rms_epsilon,
                      in, in);
  AddTo(in, gradient);
  return absl::OkStatus();
}

// query becomes its gradient; dkey and dvalue are made. Threads share the KV heads: each sums its queries in order.
void AttributionPass::AttendBackward(LayerIndex layer, int32_t first) {
  const int32_t group = config_.head_count / config_.kv_head_count, head_dim = config_.head_dim;
  Clear(Rows(at_.dkey, keys()));
  Clear(Rows(at_.dvalue, keys()));
  weights_->pool()->Run([&](int thread) {
    const Range range = PartOf(config_.kv_head_count, 1, thread, weights_->pool()->size());
    Buffer query(static_cast<size_t>(head_dim)), context(static_cast<size_t>(head_dim));
    for (auto kv_head = static_cast<int32_t>(range.begin); kv_head < range.end; ++kv_head) {
      const auto offset = static_cast<std::ptrdiff_t>(kv_head) * head_dim;
      for (int32_t task = first * group; task < batch_.rows() * group; ++task) {
        const int32_t row = task / group, at = row * config_.head_count + kv_head * group + task % group;
        const SeenKeys seen = Seen(layer, row, kv_head);
        const std::span<float> p =
            std::span(probabilities_[static_cast<size_t>(thread)]).first(static_cast<size_t>(seen.count()));
        const std::span<float> own = RowOf(std::span(at_.query), at, head_dim);
        std::copy_n(own.begin(), own.size(), query.begin());
        AttendHead(query, seen, config_.score_scale, p, context);
        AttendHeadBackward(query, seen, config_.score_scale, p, context,
                           RowOf(std::span<const float>(at_.dcontext), at, head_dim), options_.scope, own,
                           at_.dkey.data() + offset, at_.dvalue.data() + offset);
      }
    }
  });
}

// gradient_in += what queries, keys and values give the normed input; rotations and norms of heads go back first.
absl::Status AttributionPass::QueryKeyBackward(LayerIndex layer, int32_t first) {
  const LayerSource& source = Source(layer);
  const int32_t rows = batch_.rows() - first;
  const std::span<float> dquery = Rows(at_.query, queries(), first), dkey = Rows(at_.dkey, keys(), first),
                         dvalue = Rows(at_.dvalue, keys(), first), in = Rows(at_.gradient_in, config_.dim, first);
  for (int32_t row = 0; row < rows; ++row) {
    RopeBackward(Rope(layer), PositionOf(first + row), RowOf(dquery, row, queries()));
    RopeBackward(Rope(layer), PositionOf(first + row), RowOf(dkey, row, keys()));
  }
  if (config_.qk_norm) {
    HeadRmsNormBackward(Rows(at_.query_raw, queries(), first), Weights(layer, LayerVector::kQueryNorm),
                        config_.rms_epsilon, dquery, dquery);
    HeadRmsNormBackward(Rows(at_.key_raw, keys(), first), Weights(layer, LayerVector::kKeyNorm), config_.rms_epsilon,
                        dkey, dkey);
  }
  RETURN_IF_ERROR(weights_->AddTransposed(source.query, dquery, rows, in));
  RETURN_IF_ERROR(weights_->AddTransposed(source.key, dkey, rows, in));
  return weights_->AddTransposed(source.value, dvalue, rows, in);
}

}  // namespace dogstar
