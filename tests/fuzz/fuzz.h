// A fuzz target is a file tests/fuzz/fuzz_NAME.cc with LLVMFuzzerTestOneInput, and FuzzSeeds if it can make inputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Returns 0; any crash, hang, sanitizer report or failed CHECK is a finding.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Good inputs to start from, small ones. Optional: files of tests/fuzz/corpus/NAME/ are seeds too.
__attribute__((weak)) std::vector<std::string> FuzzSeeds();
