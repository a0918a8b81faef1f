#include "tools/report_inputs.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "predictors/statistics.h"
#include "tools/model_options.h"

namespace dogstar {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostPasses = 240;  // bars that can still be told apart
constexpr size_t kBuckets = 32;

Json Input(std::string_view kind, const std::string& path, Json data) {
  return {{"kind", kind}, {"name", std::filesystem::path(path).filename().string()}, {"data", std::move(data)}};
}

double NumberOf(const Json& event, const char* key) {
  const auto found = event.find(key);
  return found != event.end() && found->is_number() ? found->get<double>() : 0;
}

// The parts of one pass, ms. Waits lie inside of the parts that wait: they are taken out of those.
struct Pass {
  double begin = 0, end = 0;  // us
  bool draft = false;
  std::array<double, 3> parts = {};  // attention, ffn, head
  double wait = 0;
};
constexpr std::array<std::string_view, 3> kParts = {"attention", "ffn", "head"};

// Index of the pass that holds the time, or passes.size().
size_t PassAt(const std::vector<Pass>& passes, double time) {
  const auto after = std::ranges::upper_bound(passes, time, {}, &Pass::begin);
  if (after == passes.begin()) return passes.size();
  const auto index = static_cast<size_t>(after - passes.begin()) - 1;
  return time <= passes[index].end ? index : passes.size();
}

// The part that an event of the trace stands for, or kParts.size().
size_t PartOfName(const std::string& name) {
  return static_cast<size_t>(std::ranges::find(kParts, name) - kParts.begin());
}

struct Span {
  double begin = 0, end = 0;
  size_t part = 0;
};

Json PassesOf(const Json& trace) {
  std::vector<Pass> passes;
  std::vector<Span> spans, waits;
  for (const Json& event : trace["traceEvents"]) {
    const std::string name = event.value("name", ""), phase = event.value("ph", "");
    if (phase != "X") continue;
    const double begin = NumberOf(event, "ts"), end = begin + NumberOf(event, "dur");
    if (name == "full pass" || name == "draft") passes.push_back({begin, end, name == "draft"});
    if (name == "wait") waits.push_back({begin, end});
    if (PartOfName(name) < kParts.size()) spans.push_back({begin, end, PartOfName(name)});
  }
  std::ranges::sort(passes, {}, &Pass::begin);
  std::ranges::sort(spans, {}, &Span::begin);
  for (const Span& span : spans) {
    const size_t pass = PassAt(passes, span.begin);
    if (pass < passes.size()) passes[pass].parts[span.part] += (span.end - span.begin) / 1e3;
  }
  for (const Span& wait : waits) {
    const size_t pass = PassAt(passes, wait.begin);
    if (pass == passes.size()) continue;
    const double time = (wait.end - wait.begin) / 1e3;
    passes[pass].wait += time;
    const auto holder = std::ranges::upper_bound(spans, wait.begin, {}, &Span::begin);
    if (holder == spans.begin() || (holder - 1)->end < wait.begin) continue;
    passes[pass].parts[(holder - 1)->part] -= time;
  }
  Json out = {{"total", passes.size()}, {"passes", Json::array()}};
  for (size_t i = 0; i < std::min(passes.size(), kMostPasses); ++i) {
    const Pass& pass = passes[i];
    double known = pass.wait;
    Json json = {{"draft", pass.draft}};
    for (size_t part = 0; part < kParts.size(); ++part) {
      json[std::string(kParts[part])] = std::max(0.0, pass.parts[part]);
      known += std::max(0.0, pass.parts[part]);
    }
    json["wait"] = pass.wait;
    json["other"] = std::max(0.0, (pass.end - pass.begin) / 1e3 - known);
    out["passes"].push_back(std::move(json));
  }
  return out;
}

Json HotnessOf(const Statistics& statistics) {
  Json layers = Json::array();
  for (const LayerStatistics& layer : statistics.layers) {
    std::vector<float> sorted = layer.frequency;
    std::ranges::sort(sorted, std::greater<>());
    Json buckets = Json::array();
    const size_t count = std::min(kBuckets, sorted.size());
    for (size_t b = 0; b < count; ++b) {
      const size_t begin = b * sorted.size() / count, end = (b + 1) * sorted.size() / count;
      double sum = 0;
      for (size_t i = begin; i < end; ++i) sum += double{sorted[i]};
      buckets.push_back(sum / static_cast<double>(end - begin));
    }
    layers.push_back(std::move(buckets));
  }
  return {{"layers", std::move(layers)}, {"tokens", statistics.settings.tokens}};
}

bool HasObjects(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_array() && !found->empty() && (*found)[0].is_object();
}

// Empty: none that is known.
std::string_view KindOf(const Json& json) {
  if (!json.is_object()) return "";
  if (json.contains("traceEvents") && json["traceEvents"].is_array()) return "trace";
  if (HasObjects(json, "trials") && json.contains("held_out")) return "tune";
  if (HasObjects(json, "results") && json.contains("repetitions")) return "bench";
  if (HasObjects(json, "results") && json.contains("distinct") && json.contains("requests")) return "simulate";
  if (json.contains("decode_tok_s") && json.contains("tokens") && json.contains("mode")) return "run";
  return "";
}

}  // namespace

absl::StatusOr<Json> ReadReportInput(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  if (text.starts_with("GGUF")) {
    ASSIGN_OR_RETURN(const Statistics statistics, ReadStatistics(path));
    if (statistics.layers.empty()) return absl::InvalidArgumentError(fmt::format("{}: statistics of no layer", path));
    return Input("statistics", path, HotnessOf(statistics));
  }
  const Json json = Json::parse(text, nullptr, false);
  const std::string_view kind = json.is_discarded() ? "" : KindOf(json);
  if (kind.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: not a result that a report shows; wanted is what bench, simulate, tune or run print with "
                    "--json, a trace of "
                    "run --trace, or statistics of calibrate",
                    path));
  }
  return Input(kind, path, kind == "trace" ? PassesOf(json) : json);
}

}  // namespace dogstar
