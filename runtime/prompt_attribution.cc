#include "runtime/prompt_attribution.h"

#include <algorithm>
#include <optional>

#include "fmt/format.h"

namespace dogstar {
namespace {

AttributionPass::Options PassOptions(const PromptAttribution::Options& options) {
  return {.threads = options.threads, .precise = false, .rows = options.tokens};
}

std::string SourceName(const ModelFile& packed, std::string_view given, const std::string& model) {
  constexpr std::string_view kPackedEnd = ".dog.gguf";
  if (!given.empty()) return std::string(given);
  if (!model.empty() && model != packed.path()) return model;
  const std::string& path = packed.path();
  if (!path.ends_with(kPackedEnd)) return path;
  return path.substr(0, path.size() - kPackedEnd.size()) + ".gguf";
}

}  // namespace

uint64_t PromptAttribution::Bytes(const ModelFile& source, const Backend& backend, const Options& options) {
  const ModelConfig& c = source.config();
  const uint64_t sums = uint64_t{kAttributionSums} * static_cast<uint64_t>(c.layer_count) *
                        static_cast<uint64_t>(c.ffn_rows) * sizeof(float);
  return sums + AttributionPass::Bytes(source, backend, PassOptions(options));
}

absl::StatusOr<std::unique_ptr<PromptAttribution>> PromptAttribution::Create(const ModelFile* source,
                                                                             const PackedFile* packed,
                                                                             const Options& options) {
  auto attribution = std::unique_ptr<PromptAttribution>(new PromptAttribution(source, packed, options));
  ASSIGN_OR_RETURN(attribution->pass_, AttributionPass::Create(source, PassOptions(options)));
  attribution->Begin();
  return attribution;
}

void PromptAttribution::Begin() {
  const ModelConfig& c = source_->config();
  sums_.assign(static_cast<size_t>(c.layer_count), AttributionSums::Of(c.ffn_rows));
}

absl::Status PromptAttribution::Add(std::span<const TokenId> prompt) {
  const auto rows = static_cast<size_t>(source_->config().ffn_rows);
  const auto tokens = prompt.last(std::min(prompt.size(), static_cast<size_t>(options_.tokens)));
  std::vector<std::optional<TokenId>> labels(tokens.begin() + 1, tokens.end());
  labels.emplace_back();
  RETURN_IF_ERROR(pass_->Forward(AttributionBatch::Text(tokens), nullptr));
  const auto add = [&](const LayerAttribution& found) {
    AttributionSums& sums = sums_[static_cast<size_t>(ToInt(found.layer))];
    for (size_t t = 0; t < static_cast<size_t>(found.rows); ++t) {
      sums.AddUnits(found.ffn.subspan(t * rows, rows), found.ffn_gradient.subspan(t * rows, rows));
    }
  };
  return pass_->Backward(labels, LayerIndex{0}, add).status();
}

void PromptAttribution::GiveTo(Predictor* predictor) const {
  std::vector<float> scores;
  for (size_t i = 0; i < sums_.size(); ++i) {
    const std::span<const float> of_neurons = sums_[i][AttributionSum::kCorrected];
    scores.clear();
    for (const NeuronIndex neuron : packed_->layers()[i].row_order) {
      scores.push_back(of_neurons[static_cast<size_t>(ToInt(neuron))]);
    }
    predictor->SetPromptAttribution(LayerIndex{static_cast<int32_t>(i)}, scores);
  }
}

absl::StatusOr<std::unique_ptr<ModelFile>> OpenSourceOf(const ModelFile& packed, std::string_view given,
                                                        const std::string& model) {
  constexpr std::string_view kWanted =
      "draft.predictor prompt-attribution reads the plain GGUF that the packed file was made from";
  const std::string path = SourceName(packed, given, model);
  if (path == packed.path()) {
    return absl::FailedPreconditionError(
        fmt::format("{}: give it as draft.source ({} has no FFN matrices)", kWanted, path));
  }
  absl::StatusOr<SourceIdentity> identity = IdentifySource(path);
  if (absl::IsNotFound(identity.status())) {
    return absl::FailedPreconditionError(fmt::format("{}: {} was not found; name it with draft.source", kWanted, path));
  }
  RETURN_IF_ERROR(identity.status());
  const SourceIdentity& made_from = packed.packed()->source();  // its time may differ: files are copied
  if (identity->header_hash != made_from.header_hash || identity->bytes != made_from.bytes) {
    return absl::FailedPreconditionError(
        fmt::format("{}: {} is another file than the one that {} was made from; name that one with draft.source",
                    kWanted, path, packed.path()));
  }
  return ModelFile::OpenWeights(path);
}

}  // namespace dogstar
