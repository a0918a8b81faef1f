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
#include "runtime/calibration_texts.h"
#include "runtime/layer_runner.h"
#include "runtime/layer_statistics.h"
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
  const uint64_t learned = static_cast<uint64_t>(c.layer_count) * sizeof(float) * (5 * rows + rank * (rows + dim));
  return run + std::max(training, gathering) + learned;
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
  absl::StatusOr<std::vector<float>> Fetched(const Tensor& tensor) const;
  absl::Status Keep();
  void Note(const std::string& message) const {
    if (options_.note) options_.note(message);
  }

  const CalibrationOptions& options_;
  ThreadPool pool_;
  std::unique_ptr<ModelFile> model_;
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
  result_.settings = {HashOf(windows_), windows_.tokens, windows_.held_out, options_.density,
                      options_.rank,    options_.epochs, options_.seed};
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
                    !earlier->stream.empty();
  if (!same) {
    Note(fmt::format("{} is of other texts, settings or another model, or damaged: it begins anew", path));
    return absl::OkStatus();
  }
  result_ = *std::move(earlier);
  runner_->SetStream(result_.stream);
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
  result_.layers.push_back(std::move(layer));
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

std::string UnfinishedPath(const std::string& output) { return output + ".unfinished"; }

absl::StatusOr<Statistics> Calibrate(const std::string& model, const CalibrationOptions& options) {
  return Calibration::Run(model, options);
}

}  // namespace dogstar
