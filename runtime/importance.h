// A first order of importance for `dogstar pack`: a short bundled text runs through the model, layer by layer, while
// the packer reads it. One streamed pass; memory: one layer and the text's activations.
//
// Score of neuron j: sum over tokens of z_j^2, times the squared norm of its down column: the energy that it adds to
// the residual stream ("contribution", docs/decisions.md).
#pragma once

#include <string>

#include "base/status.h"
#include "model/packed_file.h"

namespace dogstar {

// The function keeps the pass's state and must be called for layers 0, 1, 2, ... in order.
absl::StatusOr<ImportanceFn> NewImportancePass(const std::string& source, int threads);

}  // namespace dogstar
