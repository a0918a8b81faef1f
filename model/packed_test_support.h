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
  if (TraitsOf(type).block_weights == 256) options.shape = {2, 256, 512, 2, 1};
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
  if (layout.has_down_table()) return {static_cast<std::byte>(PanelCode(layout.down_type, panel, lane, row))};
  const int bytes = TraitsOf(layout.down_type).block_bytes;
  const std::byte* const weight = panel + (row * 16 + lane) * bytes;
  return {weight, weight + bytes};
}

// Puts a code of the down matrix where a plain row of it has neuron `neuron`; the row starts zeroed.
inline void PutPlainCode(QuantType type, const std::vector<std::byte>& code, int neuron, std::byte* row) {
  const QuantTraits& traits = TraitsOf(type);
  std::byte* const block = row + neuron / traits.block_weights * traits.block_bytes;
  const int weight = neuron % traits.block_weights;
  if (IsFloatType(type)) {
    std::copy(code.begin(), code.end(), block);
    return;
  }
  const CodePlace place = PlaceOf(type, weight);
  const int low_bits = ShapeOf(type).low_bits, number = std::to_integer<int>(code[0]);
  block[place.low_byte] |= static_cast<std::byte>((number & ((1 << low_bits) - 1)) << place.low_shift);
  if (ShapeOf(type).high_bits > 0)
    block[place.high_byte] |= static_cast<std::byte>(number >> low_bits << place.high_shift);
}

}  // namespace dogstar
