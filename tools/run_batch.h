// dogstar run --batch-file: many prompts, a few texts at a time that share every pass over the weights.
#pragma once

#include "base/status.h"
#include "tools/run_arguments.h"

namespace dogstar {

// Texts appear in the order of their prompts. InvalidArgument: options that make no sense for many texts, a file
// without prompts, or a prompt that does not fit the context, with its line.
absl::Status RunBatch(const RunArguments& arguments);

}  // namespace dogstar
