// A first order of importance for `dogstar pack`: a short bundled text runs through the model, layer by layer, while
// the packer reads it. One streamed pass; memory: one layer and the text's activations.
//
// Score of neuron j: sum over tokens of e_j / sum_k e_k, with e_j = z_j^2 |down column j|^2, the energy that it adds to
// the residual stream: each token counts the same, however loud it is (docs/decisions.md).
#pragma once

#include <string>

#include "base/status.h"
#include "model/packed_file.h"

namespace dogstar {

// The function keeps the pass's state and must be called for layers 0, 1, 2, ... in order.
absl::StatusOr<ImportanceFn> NewImportancePass(const std::string& source, int threads);

}  // namespace dogstar
