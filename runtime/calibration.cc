#include "runtime/calibration.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <span>
#include <utility>

#include "base/panel.h"
#include "base/thread_pool.h"
#include "base/units.h"
#include "cpu/cpu_backend.h"
#include "fmt/format.h"
#include "memory/accountant.h"
#include "model/packed_file.h"
#include "predictors/residual.h"
#include "runtime/attribution.h"
#include "runtime/calibration_texts.h"
#include "runtime/layer_runner.h"
#include "runtime/layer_statistics.h"
#include "runtime/residual_targets.h"
#include "runtime/run_plan.h"

namespace dogstar {
namespace {

constexpr int32_t kWindow = 256;      // tokens of a text that are run together
constexpr int32_t kLeastWindow = 16;  // shorter rests are left out
constexpr int32_t kHeldOutEvery = 8;  // one window of so many is not trained on
constexpr int32_t kLeastTokens = 256;

// Texts as windows of tokens, those that are not trained on at the end.
struct Windows {
  std::vector<std::vector<TokenId>> texts;
  int32_t tokens = 0, held_out = 0;

  TextLengths Lengths() const {
    TextLengths lengths;
    for (const std::vector<TokenId>& text : texts) lengths.push_back(static_cast<int32_t>(text.size()));
    return lengths;
  }
};

absl::StatusOr<Windows> CutTexts(const Tokenizer& tokenizer, std::span<const std::string> texts, int32_t most) {
  Windows windows;
  std::vector<std::vector<TokenId>> held_out;
  int32_t number = 0;
  for (const std::string& text : texts) {
    const std::vector<TokenId> tokens = tokenizer.Encode(text, {});
    for (size_t at = 0; at < tokens.size() && windows.tokens < most; at += kWindow) {
      const size_t left = std::min<size_t>({kWindow, tokens.size() - at, static_cast<size_t>(most - windows.tokens)});
      if (left < kLeastWindow) break;
      const bool trained = ++number % kHeldOutEvery != 0;
      auto& to = trained ? windows.texts : held_out;
      to.emplace_back(tokens.begin() + static_cast<ptrdiff_t>(at), tokens.begin() + static_cast<ptrdiff_t>(at + left));
      windows.tokens += static_cast<int32_t>(left);
      if (!trained) windows.held_out += static_cast<int32_t>(left);
    }
  }
  std::move(held_out.begin(), held_out.end(), std::back_inserter(windows.texts));
  if (windows.tokens >= kLeastTokens && windows.held_out > 0) return windows;
  return absl::InvalidArgumentError(
      fmt::format("the texts give {} tokens in windows of {}: at least {} in {} windows are needed", windows.tokens,
                  kWindow, kLeastTokens, kHeldOutEvery));
}

uint64_t HashOf(const Windows& windows) {
  std::vector<TokenId> all;
  for (const std::vector<TokenId>& text : windows.texts) all.insert(all.end(), text.begin(), text.end());
  return ChecksumOf(std::as_bytes(std::span(all)));
}

// Memory of a calibration of so many tokens. Training: labels, scaled inputs, parameters with gradients and moments.
uint64_t BytesOf(const ModelFile& model, const Backend& backend, const CalibrationOptions& options, int32_t tokens) {
  const ModelConfig& c = model.config();
  const auto count = static_cast<uint64_t>(tokens), dim = static_cast<uint64_t>(c.dim),
             rows = static_cast<uint64_t>(c.ffn_rows), rank = static_cast<uint64_t>(options.rank);
  const uint64_t run = LayerRunner::Bytes(model, backend, tokens) + LayerValues::Bytes(c, tokens);
  const uint64_t training = count * (rows + dim * sizeof(float)) + 4 * sizeof(float) * rank * (rows + dim) +
                            64 * (rows + 2 * rank) * sizeof(float);
  // Gates and ups are fetched one after the other, before training; so is what losses need.
  const uint64_t gathering = count * std::max(rows, dim) * sizeof(float) + 2 * 64 * rows * sizeof(float);
  // Gates, targets, and copies of inputs and targets with what the fit multiplies.
  const uint64_t residual = options.residuals.empty() ? 0
                                                      : count * (rows + 3 * dim + rank) * sizeof(float) +
                                                            (64 * rows + 6 * rank * dim) * sizeof(float);
  const uint64_t learned = static_cast<uint64_t>(c.layer_count) * sizeof(float) *
                           (5 * rows + rank * (rows + dim) + options.residuals.size() * 2 * rank * dim);
  return run + std::max({training, gathering, residual}) + learned;
}

class Calibration {
 public:
  static absl::StatusOr<Statistics> Run(const std::string& path, const CalibrationOptions& options);

 private:
  explicit Calibration(const CalibrationOptions& options) : options_(options), pool_(options.threads) {}
  absl::Status Open(const std::string& path);
  absl::StatusOr<int32_t> TokensThatFit() const;
  // Statistics of an earlier run with the same settings, where there are any.
  absl::Status Resume();
  absl::Status Layer(LayerIndex layer);
  absl::Status OpenPacked();
  absl::Status Residuals(LayerIndex index, std::span<const float> down_norms, LayerStatistics* layer);
  absl::Status Attribute();
  absl::StatusOr<std::unique_ptr<AttributionPass>> NewAttributionPass(int32_t* rows) const;
  absl::Status AttributeWindow(AttributionPass* pass, std::span<const TokenId> tokens);
  absl::StatusOr<std::vector<float>> Fetched(const Tensor& tensor) const;
  absl::Status Keep();
  void Note(const std::string& message) const {
    if (options_.note) options_.note(message);
  }

  const CalibrationOptions& options_;
  ThreadPool pool_;
  std::unique_ptr<ModelFile> model_, packed_;
  Windows windows_;
  std::unique_ptr<LayerRunner> runner_;
  std::unique_ptr<LayerValues> values_;
  Statistics result_;
};

absl::Status Calibration::Open(const std::string& path) {
  ASSIGN_OR_RETURN(model_, ModelFile::Open(path));
  if (model_->packed() != nullptr) {
    return absl::InvalidArgumentError(
        fmt::format("{} is packed; calibrate reads the plain GGUF that it was made from", path));
  }
  if (options_.rank < kQuantBlock || options_.rank % kQuantBlock != 0) {
    return absl::InvalidArgumentError(
        fmt::format("a rank of {}: must be a multiple of {}", options_.rank, kQuantBlock));
  }
  ASSIGN_OR_RETURN(const int32_t tokens, TokensThatFit());
  if (tokens < options_.tokens) {
    Note(fmt::format("the budget holds {} of {} tokens at once: as many are used", tokens, options_.tokens));
  }
  std::vector<std::string> texts = options_.texts;
  if (texts.empty()) {
    for (const std::string_view text : CalibrationTexts()) texts.emplace_back(text);
  }
  ASSIGN_OR_RETURN(windows_, CutTexts(model_->tokenizer(), texts, tokens));
  ASSIGN_OR_RETURN(result_.model, IdentityOf(*model_));
  result_.settings = {HashOf(windows_), windows_.tokens, windows_.held_out,  options_.density,    options_.rank,
                      options_.epochs,  options_.seed,   options_.residuals, options_.attribution};
  return OpenPacked();
}

absl::Status Calibration::OpenPacked() {
  const auto by_order = [](const ResidualKind& kind) { return kind.predictor == "resident"; };
  const bool needs_order = std::any_of(options_.residuals.begin(), options_.residuals.end(), by_order);
  if (!needs_order) return absl::OkStatus();
  if (options_.packed.empty()) {
    return absl::InvalidArgumentError("a residual of resident needs the packed file whose order of rows it follows");
  }
  ASSIGN_OR_RETURN(packed_, ModelFile::Open(options_.packed));
  ASSIGN_OR_RETURN(const ModelIdentity identity, IdentityOf(*packed_));
  if (packed_->packed() == nullptr || !(identity == result_.model)) {
    return absl::InvalidArgumentError(fmt::format("{} is no packed form of {}", options_.packed, model_->path()));
  }
  for (ResidualKind& kind : result_.settings.residuals) {
    if (by_order(kind)) kind.order_hash = OrderHash(*packed_->packed());
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> Calibration::TokensThatFit() const {
  if (!options_.ram) return options_.tokens;
  ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, NewCpuBackend({.threads = options_.threads}));
  const uint64_t program = MeasureProgramBytes();
  const auto needed = [&](int32_t tokens) { return program + BytesOf(*model_, *backend, options_, tokens); };
  int32_t tokens = options_.tokens / kWindow * kWindow;
  while (tokens > kLeastTokens && needed(tokens) > *options_.ram) tokens -= kWindow;
  // The first windows decide which are held out: fewer than that many make no file.
  const int32_t least = std::min(options_.tokens, kWindow * kHeldOutEvery);
  if (tokens >= least) return std::min(tokens, options_.tokens);
  return absl::ResourceExhaustedError(fmt::format("calibration of {} takes at least {}, the budget is {}",
                                                  model_->path(), FormatSize(needed(least)),
                                                  FormatSize(*options_.ram)));
}

absl::Status Calibration::Resume() {
  const std::string path = UnfinishedPath(options_.output);
  if (options_.fresh) return absl::OkStatus();
  absl::StatusOr<Statistics> earlier = ReadStatistics(path);
  if (absl::IsNotFound(earlier.status())) return absl::OkStatus();
  const bool same = earlier.ok() && earlier->model == result_.model && earlier->settings == result_.settings &&
                    (!earlier->stream.empty() || earlier->attributed > 0);
  if (!same) {
    Note(fmt::format("{} is of other texts, settings or another model, or damaged: it begins anew", path));
    return absl::OkStatus();
  }
  result_ = *std::move(earlier);
  if (!result_.stream.empty()) runner_->SetStream(result_.stream);
  Note(fmt::format("goes on after layer {} of {} ({})", result_.layers.size(), result_.model.layers, path));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Calibration::Fetched(const Tensor& tensor) const {
  std::vector<float> values(static_cast<size_t>(tensor.cols()) * static_cast<size_t>(windows_.tokens));
  RETURN_IF_ERROR(runner_->backend().Download(tensor, 0, windows_.tokens, values));
  return values;
}

absl::Status Calibration::Layer(LayerIndex index) {
  const ModelConfig& c = model_->config();
  RETURN_IF_ERROR(runner_->Run(index));
  RETURN_IF_ERROR(values_->Fetch(runner_.get()));
  LayerStatistics layer;
  const MatrixSource& down = *model_->layers()[static_cast<size_t>(ToInt(index))].down;
  const std::vector<float> down_norms = DownNorms(down, runner_->down_bytes());
  {
    ASSIGN_OR_RETURN(const std::vector<float> gates, Fetched(runner_->ffn_gate()));
    layer.thresholds = GateThresholds(gates, c.activation);
  }
  {
    ASSIGN_OR_RETURN(const std::vector<float> up, Fetched(runner_->ffn_up()));
    layer.up_rms = ColumnRms(up, windows_.tokens, c.ffn_rows);
  }
  layer.z_rms = ColumnRms(values_->z(), windows_.tokens, c.ffn_rows);
  ASSIGN_OR_RETURN(layer.losses, LossesOfLayer(runner_.get(), values_->z(), down_norms, c.ffn_rows, c.dim));
  values_->Weigh(down_norms, &pool_);
  CountImportant(values_->Ranked(0, windows_.tokens), windows_.Lengths(), options_.density, &layer);
  const int32_t trained = windows_.tokens - windows_.held_out;
  const RankedTokens train = values_->Ranked(0, trained);
  layer.map = TrainLowRank(
      train, {.rank = options_.rank, .density = options_.density, .epochs = options_.epochs, .seed = options_.seed},
      &pool_);
  RoundLikeStored(&layer.map);
  layer.recall = MeasureRecall(layer.map, TopFrequencies(train, options_.density),
                               values_->Ranked(trained, windows_.held_out), options_.density);
  if (!options_.residuals.empty()) RETURN_IF_ERROR(Residuals(index, down_norms, &layer));
  result_.layers.push_back(std::move(layer));
  return absl::OkStatus();
}

absl::Status Calibration::Residuals(LayerIndex index, std::span<const float> down_norms, LayerStatistics* layer) {
  const ModelConfig& c = model_->config();
  RETURN_IF_ERROR(values_->Fetch(runner_.get()));  // they are weighed
  ASSIGN_OR_RETURN(const std::vector<float> gates, Fetched(runner_->ffn_gate()));
  LayerChoices choices{c.activation, values_->z(), gates, layer->up_rms, down_norms, layer->frequency, {}};
  if (packed_ != nullptr) choices.order = packed_->packed()->layers()[static_cast<size_t>(ToInt(index))].row_order;
  const int32_t trained = windows_.tokens - windows_.held_out;
  for (const ResidualKind& kind : options_.residuals) {
    ASSIGN_OR_RETURN(const std::vector<float> targets, LeftOutOutputs(runner_.get(), choices, kind, c.dim, &pool_));
    const auto part = [&](int32_t first, int32_t count) -> ResidualTokens {
      const auto at = static_cast<size_t>(first) * static_cast<size_t>(c.dim),
                 size = static_cast<size_t>(count) * static_cast<size_t>(c.dim);
      return {count, c.dim, values_->inputs().subspan(at, size), std::span(targets).subspan(at, size)};
    };
    LowRankMap map = FitResidual(part(0, trained), options_.rank, options_.seed, &pool_);
    const ResidualTokens held_out = part(trained, windows_.held_out);
    ShrinkResidual(held_out, &map);
    RoundLikeStored(&map);
    layer->explained.push_back(static_cast<float>(ExplainedShare(map, held_out)));
    layer->residuals.push_back(std::move(map));
  }
  return absl::OkStatus();
}

// For pieces of the windows, shorter ones where memory is short.
absl::StatusOr<std::unique_ptr<AttributionPass>> Calibration::NewAttributionPass(int32_t* rows) const {
  AttributionPass::Options options{.threads = options_.threads, .precise = false, .rows = kWindow};
  if (options_.ram) {
    const uint64_t taken = MeasureProgramBytes();
    options.memory_bytes = *options_.ram > taken ? *options_.ram - taken : 0;
  }
  absl::StatusOr<std::unique_ptr<AttributionPass>> pass = AttributionPass::Create(model_.get(), options);
  while (absl::IsResourceExhausted(pass.status()) && options.rows > kLeastWindow) {
    options.rows /= 2;
    pass = AttributionPass::Create(model_.get(), options);
  }
  *rows = options.rows;
  return pass;
}

absl::Status Calibration::Attribute() {
  if (options_.attribution == 0) return absl::OkStatus();
  const ModelConfig& c = model_->config();
  for (LayerStatistics& layer : result_.layers) {
    if (layer.ffn_sums.units == 0) layer.ffn_sums = AttributionSums::Of(c.ffn_rows);
    if (layer.head_sums.units == 0) layer.head_sums = AttributionSums::Of(c.head_count);
  }
  int32_t rows = 0, seen = 0;
  ASSIGN_OR_RETURN(const std::unique_ptr<AttributionPass> pass, NewAttributionPass(&rows));
  for (const std::vector<TokenId>& window : windows_.texts) {
    for (size_t at = 0; at < window.size() && seen < options_.attribution; at += static_cast<size_t>(rows)) {
      const auto piece = std::span(window).subspan(at, std::min(window.size() - at, static_cast<size_t>(rows)));
      seen += static_cast<int32_t>(piece.size());
      if (seen <= result_.attributed) continue;  // before the stop
      RETURN_IF_ERROR(AttributeWindow(pass.get(), piece));
      RETURN_IF_ERROR(WriteStatistics(result_, UnfinishedPath(options_.output)));
      if (options_.on_attributed && !options_.on_attributed(result_.attributed)) {
        return absl::CancelledError(
            fmt::format("stopped after {} attributed tokens; the same command goes on from there", result_.attributed));
      }
    }
  }
  return absl::OkStatus();
}

// Each token's loss is that of the model's own choice after it.
absl::Status Calibration::AttributeWindow(AttributionPass* pass, std::span<const TokenId> tokens) {
  const ModelConfig& c = model_->config();
  RETURN_IF_ERROR(pass->Forward(AttributionBatch::Text(tokens), nullptr));
  const std::vector<std::optional<TokenId>> own_choices(tokens.size());
  const auto add = [&](const LayerAttribution& found) {
    LayerStatistics& layer = result_.layers[static_cast<size_t>(ToInt(found.layer))];
    const auto rows = static_cast<size_t>(c.ffn_rows), width = static_cast<size_t>(c.head_count * c.head_dim);
    for (size_t t = 0; t < static_cast<size_t>(found.rows); ++t) {
      layer.ffn_sums.AddUnits(found.ffn.subspan(t * rows, rows), found.ffn_gradient.subspan(t * rows, rows));
      layer.head_sums.AddHeads(c.head_dim, found.head.subspan(t * width, width),
                               found.head_gradient.subspan(t * width, width));
    }
  };
  RETURN_IF_ERROR(pass->Backward(own_choices, LayerIndex{0}, add).status());
  result_.attributed += static_cast<int32_t>(tokens.size());
  return absl::OkStatus();
}

absl::Status Calibration::Keep() {
  ASSIGN_OR_RETURN(result_.stream, Fetched(runner_->stream()));
  return WriteStatistics(result_, UnfinishedPath(options_.output));
}

absl::StatusOr<Statistics> Calibration::Run(const std::string& path, const CalibrationOptions& options) {
  Calibration calibration(options);
  RETURN_IF_ERROR(calibration.Open(path));
  ASSIGN_OR_RETURN(calibration.runner_,
                   LayerRunner::Create(calibration.model_.get(), calibration.windows_.texts, options.threads));
  calibration.values_ = std::make_unique<LayerValues>(calibration.model_->config(), calibration.windows_.tokens);
  RETURN_IF_ERROR(calibration.Resume());
  Statistics& result = calibration.result_;
  for (auto layer = static_cast<int32_t>(result.layers.size()); layer < result.model.layers; ++layer) {
    RETURN_IF_ERROR(calibration.Layer(LayerIndex{layer}));
    RETURN_IF_ERROR(calibration.Keep());
    if (options.on_layer && !options.on_layer(result)) {
      return absl::CancelledError(fmt::format("stopped after layer {} of {}; the same command goes on from there",
                                              layer + 1, result.model.layers));
    }
  }
  result.stream.clear();
  calibration.runner_.reset();
  calibration.values_.reset();
  RETURN_IF_ERROR(calibration.Attribute());
  RETURN_IF_ERROR(WriteStatistics(result, options.output));
  std::remove(UnfinishedPath(options.output).c_str());
  return std::move(result);
}

}  // namespace

absl::StatusOr<ModelIdentity> IdentityOf(const ModelFile& model) {
  ModelIdentity identity;
  const ModelConfig& c = model.config();
  identity.layers = c.layer_count;
  identity.rows = c.ffn_rows;
  identity.dim = c.dim;
  if (model.packed() != nullptr) {
    identity.header_hash = model.packed()->source().header_hash;
    return identity;
  }
  ASSIGN_OR_RETURN(const SourceIdentity source, IdentifySource(model.path()));
  identity.header_hash = source.header_hash;
  return identity;
}

uint64_t OrderHash(const PackedFile& packed) {
  std::vector<NeuronIndex> all;
  for (const PackedLayer& layer : packed.layers()) {
    all.insert(all.end(), layer.row_order.begin(), layer.row_order.end());
  }
  return ChecksumOf(std::as_bytes(std::span(all)));
}

std::string UnfinishedPath(const std::string& output) { return output + ".unfinished"; }

absl::StatusOr<Statistics> Calibrate(const std::string& model, const CalibrationOptions& options) {
  return Calibration::Run(model, options);
}

}  // namespace dogstar
