// Any bytes as an access trace give requests or an error that names the file; what is read can be simulated and
// replayed.
#include <sys/mman.h>

#include <cstring>
#include <string>
#include <utility>

#include "memory/access_trace.h"
#include "memory/simulator.h"
#include "runtime/overlay_replay.h"
#include "tests/fuzz/fuzz.h"

#define XXH_INLINE_ALL
#include "xxhash.h"

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
  const auto [offset, bytes] = dogstar::ParseAccessTrace(trace, "seed").value().chunks[0];
  return {trace, trace.substr(0, trace.size() - 9), "DOGTRACE", trace.substr(offset, bytes)};
}

namespace {

// The bytes as the payload of a chunk with a right checksum, behind a good header.
std::string AsChunk(std::string payload) {
  static const std::string header = [] {  // immutable
    const std::string trace = Recorded();
    return trace.substr(0, dogstar::ParseAccessTrace(trace, "seed").value().chunks[0].first - 16);
  }();
  const auto bytes = static_cast<uint32_t>(payload.size()), zero = uint32_t{0};
  const uint64_t hash = XXH3_64bits(payload.data(), payload.size());
  std::string head(16, '\0');
  std::memcpy(head.data(), &bytes, sizeof bytes);
  std::memcpy(head.data() + 4, &zero, sizeof zero);
  std::memcpy(head.data() + 8, &hash, sizeof hash);
  return header + head + payload;
}

void Check(std::string bytes) {
  const auto trace = dogstar::ParseAccessTrace(std::move(bytes), "fuzz.trace");
  if (!trace.ok()) {
    CHECK(trace.status().message().find("fuzz.trace") != absl::string_view::npos);
    return;
  }
  const dogstar::RequestList list = dogstar::RequestsOf(*trace, 2);
  dogstar::Simulation simulation;
  simulation.policy = dogstar::SimulatedPolicies()[1];
  simulation.slots = {4};
  simulation.prefetch = 1;
  const auto counts = dogstar::Simulate(list, simulation).cold;
  CHECK(counts.hits + counts.misses == static_cast<int64_t>(list.keys.size()));
  if (trace->header.rows > 4096 || trace->header.layers.size() > 64) return;  // large tables, nothing new in them
  const auto options = dogstar::RecordedOptions(*trace, {});
  if (!options.ok()) return;
  const dogstar::ReplayResult replay = dogstar::ReplayOverlay(*trace, *options);
  CHECK(replay.stats.admissions >= replay.stats.evictions);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  Check(bytes);
  Check(AsChunk(bytes));
  return 0;
}
