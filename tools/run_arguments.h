// What `dogstar run` was asked for, and what follows from it for one text or many.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/model_file.h"
#include "runtime/config.h"
#include "runtime/generator.h"
#include "tools/model_options.h"

namespace dogstar {

struct RunArguments {
  std::shared_ptr<ModelArguments> model = std::make_shared<ModelArguments>();
  std::string prompt, prompt_file, batch_file, system, template_name, trace_file, record_file;
  std::vector<std::string> stops;
  int32_t max_tokens = 128;
  bool ignore_eos = false, chat = false, raw = false, json = false;
  int32_t logprobs = 0, assumed_tokens = 0;
  bool explain = false;
  int32_t parallel = 8;  // texts of a batch file at a time
};

// The tokens of a prompt's text, in the chat format where that was asked for.
absl::StatusOr<std::vector<TokenId>> EncodePrompt(const RunArguments& arguments, const ModelFile& model,
                                                  const std::string& text);
// Of a text whose prompt has so many tokens.
int32_t ContextSlots(const RunArguments& arguments, const Config& config, const ModelFile& model,
                     int32_t prompt_tokens);
// What the text's tokens take while and after they are made.
uint64_t TextBytes(const RunArguments& arguments, int32_t context_slots, const Config& config);
// Without callbacks.
GenerationOptions GenerationOptionsOf(const RunArguments& arguments);

}  // namespace dogstar
