// Any bytes as an access trace give requests or an error that names the file; what is read can be simulated and
// replayed.
#include <sys/mman.h>

#include <string>

#include "memory/access_trace.h"
#include "memory/simulator.h"
#include "runtime/overlay_replay.h"
#include "tests/fuzz/fuzz.h"

namespace {

// A recorder writes files only; the seed takes the way through one.
std::string Recorded() {
  const std::string path = "/proc/self/fd/" + std::to_string(::memfd_create("trace", 0));
  const auto recorder = dogstar::AccessRecorder::Create(path).value();
  dogstar::AccessHeader header;
  header.rows = 64;
  header.layers = {{16, 8, 100}, {0, 8, 100}};
  header.policy = "lru";
  recorder->Begin(header);
  const std::vector<float> scores(64, 0.5F);
  for (int text = 0; text < 2; ++text) {
    recorder->Pass(dogstar::AccessPhase::kPrefill, 5);
    recorder->Text({dogstar::LayerIndex{0}, 8, 20, std::vector<int32_t>{20, 63}, std::span(scores).first(48)});
    recorder->Text({dogstar::LayerIndex{1}, 8, 20, {}, scores});
    for (int pass = 0; pass < 3; ++pass) {
      recorder->Pass(dogstar::AccessPhase::kVerify, 2);
      for (int32_t layer = 0; layer < 2; ++layer) {
        recorder->BeginRequests(dogstar::LayerIndex{layer});
        for (int32_t row = 16 + pass; row < 64; row += 5) recorder->Request(dogstar::RowIndex{row}, 200);
        recorder->EndRequests();
      }
      recorder->EndToken();
      recorder->EndPass();
    }
  }
  CHECK(recorder->Finish().ok());
  return dogstar::ReadAccessTrace(path).value().bytes;
}

}  // namespace

std::vector<std::string> FuzzSeeds() {
  const std::string trace = Recorded();
  return {trace, trace.substr(0, trace.size() - 9), "DOGTRACE"};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto trace = dogstar::ParseAccessTrace(std::string(reinterpret_cast<const char*>(data), size), "fuzz.trace");
  if (!trace.ok()) {
    CHECK(trace.status().message().find("fuzz.trace") != absl::string_view::npos);
    return 0;
  }
  const dogstar::RequestList list = dogstar::RequestsOf(*trace, 2);
  const auto counts = dogstar::Simulate(list, {dogstar::SimulatedPolicies()[1], {}, {4}, 1, true}).cold;
  CHECK(counts.hits + counts.misses == static_cast<int64_t>(list.keys.size()));
  if (trace->header.rows > 4096 || trace->header.layers.size() > 64) return 0;  // large tables, nothing new in them
  const auto options = dogstar::RecordedOptions(*trace, {});
  if (!options.ok()) return 0;
  const dogstar::ReplayResult replay = dogstar::ReplayOverlay(*trace, *options);
  CHECK(replay.stats.admissions >= replay.stats.evictions);
  return 0;
}
