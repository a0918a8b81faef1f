// dogstar eval --task sparsity: every method of choosing FFN rows at several densities, as a table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/config.h"

namespace dogstar {

struct SparsityArguments {
  std::string text_file;     // scored
  std::string prompts_file;  // one a line, or JSON objects with "prompt" or "question"; empty: nothing is continued
  std::string csv;
  std::vector<std::string> methods = {"resident", "griffin", "gate", "gate-weighted", "two-stage", "contribution"};
  std::vector<double> densities = {0.3, 0.5, 0.7, 0.9};
  int32_t prompt_tokens = 64, max_tokens = 320, new_tokens = 48, prompts = 4;
  bool chat = false;      // prompts are users' messages
  bool by_layer = false;  // each method again with densities by layer, from sensitivities measured on the text's rest
  bool json = false;
};

absl::Status RunSparsity(const SparsityArguments& arguments, const Config& config);

}  // namespace dogstar
