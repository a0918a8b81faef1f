// Helpers of the packed-file tests.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/panel.h"
#include "fmt/format.h"
#include "gtest/gtest.h"
#include "model/gguf.h"
#include "model/model_config.h"
#include "model/packed_file.h"
#include "model/synth.h"

namespace dogstar {

// A folder of its own, removed at the end.
class TestFolder {
 public:
  TestFolder() : path_(std::filesystem::path(::testing::TempDir()) / fmt::format("dogstar_packed_{}", getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TestFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  std::string File(const std::string& name) const { return (path_ / name).string(); }
  size_t FileCount() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
};

inline std::vector<std::byte> ReadWholeFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

inline SynthOptions SmallModel(QuantType type) {
  SynthOptions options{.name = "test", .shape = {2, 64, 160, 2, 1}, .type = type};
  options.threads = 1;
  return options;
}

inline absl::StatusOr<PackedFile> OpenPacked(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(path));
  return PackedFile::Open(path, header);
}

// The code of packed row `row` for output `output`, by the words of base/ffn_page.h: one nibble, byte or float.
inline std::vector<std::byte> DownCodeAt(const FfnPageLayout& layout, const std::byte* page, int row, int output) {
  const auto panel_bytes = static_cast<int64_t>(layout.down_panel_bytes);
  const std::byte* const panel = page + layout.down_offset + output / 16 * panel_bytes;
  const int lane = output % 16;
  switch (layout.down_type) {
    case QuantType::kQ4_0:
    case QuantType::kQ4_1: {
      const std::byte pair = panel[row / 8 * 64 + lane * 4 + row % 4];
      return {row % 8 < 4 ? pair & std::byte{15} : pair >> 4};
    }
    case QuantType::kQ8_0:
      return {panel[row / 4 * 64 + lane * 4 + row % 4]};
    case QuantType::kF16:
    case QuantType::kBF16:
      return {panel + row * 32 + lane * 2, panel + row * 32 + lane * 2 + 2};
    case QuantType::kF32:
      return {panel + row * 64 + lane * 4, panel + row * 64 + lane * 4 + 4};
  }
  return {};
}

// Puts a code of the down matrix where a plain row of it has neuron `neuron`; the row starts zeroed.
inline void PutPlainCode(QuantType type, const std::vector<std::byte>& code, int neuron, std::byte* row) {
  const QuantTraits& traits = TraitsOf(type);
  std::byte* const block = row + neuron / traits.block_weights * traits.block_bytes;
  const int weight = neuron % traits.block_weights;
  if (type == QuantType::kQ4_0 || type == QuantType::kQ4_1) {
    std::byte& pair = block[traits.block_bytes - 16 + weight % 16];
    pair |= weight < 16 ? code[0] : code[0] << 4;
  } else {
    const int first = type == QuantType::kQ8_0 ? 2 + weight : 0;
    std::copy(code.begin(), code.end(), block + first);
  }
}

}  // namespace dogstar
