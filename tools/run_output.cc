#include "tools/run_output.h"

#include <string_view>

#include "base/units.h"
#include "fmt/format.h"
#include "tools/output.h"

namespace dogstar {
namespace {

std::string_view StopName(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kEndToken:
      return "end";
    case StopReason::kContextFull:
      return "context";
    case StopReason::kStopString:
      return "stop";
    case StopReason::kInterrupted:
      return "interrupted";
    case StopReason::kFailed:
      return "failed";
  }
  return "";
}

// Share of the weight bytes that passes used and found in tier 0.
double HitRate(const Engine& engine, const GenerationResult& result) {
  uint64_t resident = 0;
  for (const PlanLine& line : engine.placement().lines) {
    if (line.what.starts_with("attention") || line.what.starts_with("head") || line.what.starts_with("FFN")) {
      resident += line.resident_bytes;
    }
  }
  const double hits = static_cast<double>(resident) * static_cast<double>(result.full_passes + result.draft_steps);
  const double misses =
      static_cast<double>(engine.placement().complement_bytes) * static_cast<double>(result.full_passes);
  return hits + misses > 0 ? hits / (hits + misses) : 1;
}

// Effective density (references: Sirius 3.3): weights used per token / weights, the whole model counted.
double EffectiveDensity(const Engine& engine, const GenerationResult& result) {
  const ModelFile::ParameterCounts counts = engine.model().CountParameters();
  const double sparse = 1 - (1 - result.draft_density) * counts.ffn / counts.total();
  if (result.advanced == 0) return sparse;
  return (static_cast<double>(result.draft_steps) * sparse + static_cast<double>(result.full_passes)) /
         static_cast<double>(result.advanced);
}

// The overlay of drafts.
nlohmann::json JsonOfCache(const Engine& engine) {
  const PageCache::Stats stats = engine.overlay()->stats();
  return {{"policy", EvictionName(engine.config().cache.eviction.kind)},
          {"slots", engine.overlay()->cache().slots()},
          {"hits", stats.hits},
          {"misses", stats.misses},
          {"admissions", stats.admissions},
          {"evictions", stats.evictions},
          {"refused", stats.refused}};
}

}  // namespace

nlohmann::json JsonOf(const Engine& engine, const GenerationResult& result, const std::string& model_path) {
  nlohmann::json json;
  json["stop"] = StopName(result.stop);
  json["model"] = model_path;
  json["mode"] = RunModeName(engine.mode());
  json["prompt_tokens"] = result.prompt_tokens;
  json["prompt_s"] = result.prompt_seconds;
  json["prompt_tok_s"] = result.prompt_tokens_per_second();
  json["decode_s"] = result.decode_seconds;
  json["decode_tok_s"] = result.decode_tokens_per_second();
  json["cycles"] = result.full_passes;
  json["accepted_mean"] = result.accepted_mean();
  json["drafted"] = result.draft_steps;
  json["verified"] = result.drafts_verified;
  json["drafts_accepted"] = result.drafts_accepted;
  json["looked_up"] = result.looked_up;
  json["lookups_accepted"] = result.lookups_accepted;
  json["accepted_by_position"] = nlohmann::json::array();
  for (size_t i = 0; i < result.judged_at.size(); ++i) {
    json["accepted_by_position"].push_back(static_cast<double>(result.accepted_at[i]) /
                                           static_cast<double>(result.judged_at[i]));
  }
  if (result.assumed_tokens > 0) json["assumed_accepted"] = result.assumed_tokens;
  json["draft_s"] = result.draft_seconds;
  json["verify_s"] = result.full_seconds;
  json["dense_share"] = result.dense_share;
  json["density"] = result.draft_density;
  json["effective_density"] = EffectiveDensity(engine, result);
  json["resident_density"] = engine.placement().resident_density;
  json["disk_bytes"] = result.disk_bytes;
  json["decode_disk_bytes"] = result.decode_disk_bytes;
  json["disk_gb_s"] =
      result.decode_seconds > 0 ? static_cast<double>(result.decode_disk_bytes) / result.decode_seconds / 1e9 : 0;
  json["complement_bytes"] = engine.placement().complement_bytes;
  json["io_wait_s"] = result.io_wait_seconds;
  json["h2d_bytes"] = engine.link_bytes();
  json["processor_bytes"] = engine.processor_bytes();
  json["peak_rss_bytes"] = PeakResidentBytes();
  json["budget_bytes"] = engine.config().budget.ram ? nlohmann::json(*engine.config().budget.ram) : nlohmann::json();
  json["fast_tier_hit_rate"] = HitRate(engine, result);
  json["backend"] = engine.DescribeBackend();
  json["io"] = engine.DescribeIo();
  if (engine.overlay() != nullptr) json["cache"] = JsonOfCache(engine);
  for (const Accountant::Entry& entry : engine.accountant().entries()) json["memory"][entry.what] = entry.bytes;
  for (const Accountant::Entry& entry : engine.device_accountant().entries()) {
    json["device_memory"][entry.what] = entry.bytes;
  }
  for (const auto& token : result.logprobs) {
    nlohmann::json row = nlohmann::json::array();
    for (const TokenLogprob& entry : token) row.push_back({{"id", ToInt(entry.token)}, {"logprob", entry.logprob}});
    json["logprobs"].push_back(std::move(row));
  }
  return json;
}

// The object, then text and tokens piece by piece: as JSON values they would take many times their bytes, at the moment
// when a budget is fullest.
void PrintResult(const nlohmann::json& json, const std::string& text, std::span<const TokenId> tokens) {
  const std::string head = json.dump();
  fmt::print("{},\"text\":", std::string_view(head).substr(0, head.size() - 1));
  fmt::print("{},\"tokens\":[", nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  for (size_t i = 0; i < tokens.size(); ++i) fmt::print("{}{}", i > 0 ? "," : "", ToInt(tokens[i]));
  fmt::print("]}}\n");
}

}  // namespace dogstar
