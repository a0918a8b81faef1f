// What `dogstar run --json` says of a text.
#pragma once

#include <span>
#include <string>

#include "nlohmann/json.hpp"
#include "runtime/engine.h"
#include "runtime/stats.h"

namespace dogstar {

// Everything but the text and its tokens.
nlohmann::json JsonOf(const Engine& engine, const GenerationResult& result, const std::string& model_path);
// The object with the text and its tokens, on a line. Text becomes valid UTF-8 whatever the model produced.
void PrintResult(const nlohmann::json& json, const std::string& text, std::span<const TokenId> tokens);

}  // namespace dogstar
