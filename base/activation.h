// The FFN's nonlinearity, as a field of the model's description.
#pragma once

namespace dogstar {

enum class FfnActivation { kSilu, kGeluTanh };

}  // namespace dogstar
