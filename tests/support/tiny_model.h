// The tiny random models of tests/golden/tiny_models.json, whose weights come from a generator that
// tests/golden/make_tiny_models.py repeats.
#pragma once

#include <string>

#include "nlohmann/json.hpp"

namespace dogstar::testing_support {

// The file's "models".
nlohmann::json ReadTinyModels();
// Writes the GGUF that an entry describes.
void WriteTinyGguf(const nlohmann::json& entry, const std::string& path);

}  // namespace dogstar::testing_support
