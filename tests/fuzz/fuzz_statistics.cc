// Any bytes as a statistics file give statistics with every array complete, or an error that names the file.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "predictors/calibrated.h"
#include "predictors/statistics.h"
#include "tests/fuzz/fuzz.h"

namespace {

std::string SmallFile() {
  dogstar::Statistics statistics;
  statistics.model = {1, 1, 2, 32};
  statistics.settings = {.tokens = 1, .rank = 32};
  dogstar::LayerStatistics layer;
  layer.frequency = layer.persistence = layer.contribution = layer.z_rms = layer.up_rms = {1, 2};
  layer.thresholds = layer.losses = std::vector<float>(dogstar::kDensityGrid.size(), 0.5F);
  layer.map = {32, 32, 2, std::vector<float>(1024, 1.0F), std::vector<float>(64, 1.0F), {0, 1}};
  layer.residuals = {
      {32, 32, 32, std::vector<float>(1024, 1.0F), std::vector<float>(1024, 1.0F), std::vector<float>(32, 1.0F)}};
  layer.explained = {0.5F};
  layer.ffn_sums = dogstar::AttributionSums::Of(2);
  layer.head_sums = dogstar::AttributionSums::Of(3);
  statistics.settings.residuals = {{"gate", 0.5, 0}};
  statistics.attributed = 1;
  statistics.layers.push_back(layer);
  statistics.stream.assign(32, 1.0F);
  const std::string path = "fuzz_statistics.seed.tmp";
  CHECK(dogstar::WriteStatistics(statistics, path).ok());
  std::ifstream in(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  std::remove(path.c_str());
  return bytes;
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  const std::string file = SmallFile();
  return {file, file.substr(0, file.size() / 2), "GGUF"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const absl::StatusOr<dogstar::Statistics> statistics = dogstar::ParseStatistics(bytes, "fuzz.stats");
  if (!statistics.ok()) {
    CHECK(statistics.status().message().find("fuzz.stats") != absl::string_view::npos);
    return 0;
  }
  const auto rows = static_cast<size_t>(statistics->model.rows);
  for (const dogstar::LayerStatistics& layer : statistics->layers) {
    CHECK(layer.frequency.size() == rows && layer.map.bias.size() == rows);
    CHECK(layer.map.output.size() == rows * static_cast<size_t>(layer.map.rank));
    CHECK(dogstar::ThresholdOf(layer.thresholds, 0.33) == dogstar::ThresholdOf(layer.thresholds, 0.33));
  }
  return 0;
}
