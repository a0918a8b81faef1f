#include "runtime/importance.h"

#include <memory>
#include <utility>
#include <vector>

#include "model/model_file.h"
#include "runtime/calibration_text.h"
#include "runtime/layer_runner.h"
#include "runtime/layer_statistics.h"

namespace dogstar {
namespace {

// importance[j] = sum over tokens of j's share of the token's energy. z: [tokens, neurons].
std::vector<float> TokenShares(std::span<const float> z, const std::vector<float>& norms) {
  std::vector<float> importance(norms.size());
  std::vector<float> energy(norms.size());
  for (size_t at = 0; at < z.size(); at += norms.size()) {
    float total = 1e-30F;  // a token whose FFN is silent divides by nothing
    for (size_t j = 0; j < norms.size(); ++j) total += energy[j] = z[at + j] * z[at + j] * norms[j];
    for (size_t j = 0; j < norms.size(); ++j) importance[j] += energy[j] / total;
  }
  return importance;
}

// The bundled text on its way through the layers, in step with the packer.
struct ImportancePass {
  std::unique_ptr<ModelFile> model;
  std::unique_ptr<LayerRunner> runner;

  absl::StatusOr<std::vector<float>> Layer(LayerIndex index, const LayerMatrices& matrices) const {
    // The packer has read the FFN.
    const auto bytes = [&](MatrixRole role) -> std::span<const std::byte> {
      if (role == MatrixRole::kGate) return matrices.gate;
      if (role == MatrixRole::kUp) return matrices.up;
      if (role == MatrixRole::kDown) return matrices.down;
      return {};
    };
    RETURN_IF_ERROR(runner->Run(index, bytes));
    std::vector<float> z(static_cast<size_t>(runner->tokens()) * static_cast<size_t>(model->config().ffn_rows));
    RETURN_IF_ERROR(runner->backend().Download(runner->ffn_values(), 0, runner->tokens(), z));
    const MatrixSource& down = *model->layers()[static_cast<size_t>(ToInt(index))].down;
    return TokenShares(z, DownNormsSquared(down, matrices.down));
  }
};

}  // namespace

absl::StatusOr<ImportanceFn> NewImportancePass(const std::string& source, int threads) {
  auto pass = std::make_shared<ImportancePass>();
  ASSIGN_OR_RETURN(pass->model, ModelFile::Open(source));
  const std::vector<TokenId> text = pass->model->tokenizer().Encode(kCalibrationText, {});
  ASSIGN_OR_RETURN(pass->runner, LayerRunner::Create(pass->model.get(), std::span(&text, 1), threads));
  return ImportanceFn([pass](LayerIndex layer, const LayerMatrices& matrices) { return pass->Layer(layer, matrices); });
}

}  // namespace dogstar
