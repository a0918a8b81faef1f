// Files of prompts, for commands that run many of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "model/tokenizer.h"

namespace dogstar {

// A text as it is, or as a user's message in the model's chat format.
absl::StatusOr<std::vector<TokenId>> EncodePrompt(const Tokenizer& tokenizer, const std::string& text, bool chat);

// One prompt a line: plain text, or a JSON object with "prompt" or "question" (GSM8K, HumanEval). Empty lines are left
// out; at most `most` are read. "-": standard input.
absl::StatusOr<std::vector<std::vector<TokenId>>> ReadPrompts(const std::string& path, const Tokenizer& tokenizer,
                                                              bool chat, int32_t most);

}  // namespace dogstar
