// Any bytes as tiers.json give rates or an error that names the file; what was read can be written and read again.
#include <string>
#include <string_view>

#include "runtime/tiers.h"
#include "tests/fuzz/fuzz.h"

std::vector<std::string> FuzzSeeds() {
  dogstar::MachineRates rates = dogstar::CommonRates();
  rates.threads = 2;
  rates.disks.push_back({"254:0", "/models/\"a\"", "io_uring", {{65536, 8, 1e9}, {1048576, 16, 2e9}}, 2e9, 1 << 24});
  return {dogstar::FormatTiers(rates), R"({"version": 1, "machine": "", "threads": 1, "memory_bytes_per_second": 1})",
          R"({"version": 2})", "[1, 2"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<dogstar::MachineRates> rates = dogstar::ParseTiers(text, "fuzz.json");
  if (!rates.ok()) {
    CHECK(rates.status().message().find("fuzz.json") != absl::string_view::npos);
    return 0;
  }
  const double seconds = rates->KernelSeconds(dogstar::QuantType::kQ6_K, dogstar::WeightForm::kPages, 7, 1e6);
  CHECK(seconds >= 0);
  return 0;
}
