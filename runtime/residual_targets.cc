#include "runtime/residual_targets.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "device/reference.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "predictors/density.h"
#include "predictors/selection.h"

namespace dogstar {
namespace {

constexpr std::array<std::string_view, 4> kPredictors = {"gate", "gate-weighted", "hot", "resident"};

bool ChoosesByToken(const ResidualKind& kind) { return kind.predictor == "gate" || kind.predictor == "gate-weighted"; }

// Rows that serve every token.
std::vector<int32_t> StaticRows(const LayerChoices& layer, const ResidualKind& kind) {
  const auto rows = static_cast<int32_t>(layer.down_norms.size());
  const auto count = static_cast<size_t>(RowsOf(kind.density, rows));
  std::vector<int32_t> kept;
  if (kind.predictor == "hot") {
    FindTopRows(layer.frequency, count, &kept);
  } else {
    CHECK(layer.order.size() == layer.down_norms.size());
    for (size_t i = 0; i < count; ++i) kept.push_back(ToInt(layer.order[i]));
  }
  kept.resize(count);
  return kept;
}

class Chooser {
 public:
  Chooser(const LayerChoices& layer, const ResidualKind& kind) : layer_(layer), by_token_(ChoosesByToken(kind)) {
    const auto rows = static_cast<int32_t>(layer.down_norms.size());
    if (!by_token_) {
      kept_ = StaticRows(layer, kind);
      return;
    }
    count_ = static_cast<size_t>(RowsLeft(kind.density, rows));
    weights_.assign(layer.down_norms.size(), 1.0F);
    if (kind.predictor == "gate") return;
    for (size_t j = 0; j < weights_.size(); ++j) weights_[j] = layer.up_rms[j] * layer.down_norms[j];
  }

  // Clears the rows of z that the token keeps.
  void ClearKept(size_t token, std::span<float> z) {
    if (by_token_) Choose(token);
    for (size_t i = 0; i < (by_token_ ? count_ : kept_.size()); ++i) z[static_cast<size_t>(kept_[i])] = 0;
  }

 private:
  void Choose(size_t token) {
    const std::span<const float> gates = layer_.gates.subspan(token * weights_.size(), weights_.size());
    scores_.resize(weights_.size());
    for (size_t j = 0; j < gates.size(); ++j) {
      scores_[j] = std::fabs(reference::Activate(layer_.activation, gates[j])) * weights_[j];
    }
    FindTopRows(scores_, count_, &kept_);
  }

  const LayerChoices& layer_;
  bool by_token_;
  size_t count_ = 0;
  std::vector<float> weights_, scores_;
  std::vector<int32_t> kept_;
};

}  // namespace

std::span<const std::string_view> ResidualPredictors() { return kPredictors; }

absl::StatusOr<ResidualKind> ParseResidualKind(std::string_view text) {
  const auto wrong = [&](std::string_view what) {
    return absl::InvalidArgumentError(
        fmt::format("residual \"{}\": {}; wanted is PREDICTOR:DENSITY, such as gate-weighted:0.5", text, what));
  };
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return wrong("has no density");
  const std::string_view name = text.substr(0, colon), number = text.substr(colon + 1);
  if (std::find(kPredictors.begin(), kPredictors.end(), name) == kPredictors.end()) {
    return wrong(fmt::format("no residual of {} can be learned, only of {}", name, fmt::join(kPredictors, ", ")));
  }
  ResidualKind kind{std::string(name), 0};
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), kind.density);
  if (error != std::errc{} || end != number.data() + number.size() || !(kind.density > 0 && kind.density < 1)) {
    return wrong(fmt::format("{} is no density between 0 and 1", number));
  }
  return kind;
}

absl::StatusOr<std::vector<float>> LeftOutOutputs(LayerRunner* runner, const LayerChoices& layer,
                                                  const ResidualKind& kind, int32_t dim, ThreadPool* pool) {
  const size_t rows = layer.down_norms.size(), columns = static_cast<size_t>(dim);
  const auto tokens = static_cast<size_t>(runner->tokens());
  std::vector<float> outputs(tokens * columns), z(size_t{LayerRunner::kOwnRows} * rows);
  std::vector<Chooser> choosers(static_cast<size_t>(pool->size()), Chooser(layer, kind));
  for (size_t first = 0; first < tokens; first += LayerRunner::kOwnRows) {
    const size_t count = std::min<size_t>(LayerRunner::kOwnRows, tokens - first);
    pool->Run([&](int thread) {
      const Range part = PartOf(static_cast<int64_t>(count), 1, thread, pool->size());
      for (auto i = static_cast<size_t>(part.begin); i < static_cast<size_t>(part.end); ++i) {
        const std::span<float> own = std::span(z).subspan(i * rows, rows);
        std::copy_n(layer.z.begin() + static_cast<ptrdiff_t>((first + i) * rows), rows, own.begin());
        choosers[static_cast<size_t>(thread)].ClearKept(first + i, own);
      }
    });
    RETURN_IF_ERROR(runner->MultiplyDown(z, static_cast<int32_t>(count),
                                         std::span(outputs).subspan(first * columns, count * columns)));
  }
  return outputs;
}

}  // namespace dogstar
