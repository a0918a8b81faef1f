#include "runtime/config.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/units.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "predictors/predictor.h"
#include "predictors/selection.h"
#include "runtime/devices.h"
#include "yaml-cpp/yaml.h"

namespace dogstar {
namespace {

absl::Status BadValue(std::string_view value, std::string_view allowed) {
  return absl::InvalidArgumentError(fmt::format("\"{}\" is not allowed; allowed: {}", value, allowed));
}

template <typename Number>
absl::StatusOr<Number> ParseNumber(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return absl::InvalidArgumentError("not a number");
  return number;
}

// A setter that reads a number within [low, high].
template <typename Number, typename Place>
auto NumberSetter(Number low, Number high, std::string_view allowed, Place place) {
  return [=](std::string_view value, Config* config) -> absl::Status {
    const absl::StatusOr<Number> number = ParseNumber<Number>(value);
    if (!number.ok() || !(*number >= low && *number <= high)) return BadValue(value, allowed);
    place(*config) = *number;
    return absl::OkStatus();
  };
}

absl::StatusOr<bool> ParseBool(std::string_view value) {
  if (value == "true" || value == "yes" || value == "on" || value == "1") return true;
  if (value == "false" || value == "no" || value == "off" || value == "0") return false;
  return BadValue(value, "true or false");
}

template <typename Enum>
struct Choice {
  std::string_view name;
  Enum value;
};

template <typename Enum, size_t kCount, typename Place>
auto ChoiceSetter(const std::array<Choice<Enum>, kCount>& choices, std::string_view allowed, Place place) {
  return [=](std::string_view value, Config* config) -> absl::Status {
    for (const Choice<Enum>& choice : choices) {
      if (choice.name == value) {
        place(*config) = choice.value;
        return absl::OkStatus();
      }
    }
    return BadValue(value, allowed);
  };
}

template <typename Field>
auto BoolSetter(Field field) {
  return [field](std::string_view value, Config* config) -> absl::Status {
    ASSIGN_OR_RETURN(field(*config), ParseBool(value));
    return absl::OkStatus();
  };
}

constexpr std::array<Choice<RunMode>, 5> kModes = {{{"auto", RunMode::kAuto},
                                                    {"dense", RunMode::kDense},
                                                    {"sparse", RunMode::kSparse},
                                                    {"sirius", RunMode::kSirius},
                                                    {"strict", RunMode::kStrict}}};
constexpr std::array<Choice<std::optional<TreeShape>>, 4> kTrees = {
    {{"auto", std::nullopt}, {"chain", TreeShape::kChain}, {"beam", TreeShape::kBeam}, {"best", TreeShape::kBest}}};
constexpr std::array<Choice<ContextOverflow>, 2> kOverflows = {
    {{"stop", ContextOverflow::kStop}, {"slide", ContextOverflow::kSlide}}};
constexpr std::array<Choice<KvPrecision>, 3> kKvTypes = {
    {{"f16", KvPrecision::kF16}, {"f32", KvPrecision::kF32}, {"q8_0", KvPrecision::kQ8_0}}};
constexpr std::array<Choice<IoEngine>, 3> kEngines = {
    {{"auto", IoEngine::kAuto}, {"uring", IoEngine::kUring}, {"pread", IoEngine::kPread}}};
constexpr std::array<Choice<DirectMode>, 3> kDirect = {
    {{"auto", DirectMode::kAuto}, {"always", DirectMode::kAlways}, {"never", DirectMode::kNever}}};
constexpr std::array<Choice<CacheCapacity>, 2> kCapacities = {
    {{"layer", CacheCapacity::kLayer}, {"global", CacheCapacity::kGlobal}}};
constexpr std::array<Choice<HarvestMode>, 3> kHarvests = {
    {{"off", HarvestMode::kOff}, {"prompt", HarvestMode::kPrompt}, {"text", HarvestMode::kText}}};
constexpr std::array<Choice<VerifyMode>, 3> kVerify = {
    {{"always", VerifyMode::kAlways}, {"first", VerifyMode::kFirst}, {"never", VerifyMode::kNever}}};

// "15043-inf,2+1.5"
absl::Status AddLogitBias(std::string_view value, Config* config) {
  constexpr std::string_view kAllowed = "ID+NUMBER or ID-NUMBER, separated by commas, such as 15043+1.5 or 15043-inf";
  while (!value.empty()) {
    const std::string_view entry = value.substr(0, value.find(','));
    value.remove_prefix(std::min(entry.size() + 1, value.size()));
    const size_t sign = entry.find_first_of("+-");
    if (sign == std::string_view::npos) return BadValue(entry, kAllowed);
    const absl::StatusOr<int32_t> token = ParseNumber<int32_t>(entry.substr(0, sign));
    const absl::StatusOr<float> bias = ParseNumber<float>(entry.substr(sign + 1));
    if (!token.ok() || *token < 0 || !bias.ok() || std::isnan(*bias)) return BadValue(entry, kAllowed);
    config->sampling.bias.push_back({TokenId{*token}, entry[sign] == '-' ? -*bias : *bias});
  }
  return absl::OkStatus();
}

absl::Status SetPredictor(std::string_view value, Config* config) {
  for (std::string_view name : PredictorNames()) {
    if (name == value) {
      config->draft.predictor = std::string(value);
      return absl::OkStatus();
    }
  }
  return BadValue(value, fmt::format("{}", fmt::join(PredictorNames(), ", ")));
}

absl::Status SetEviction(std::string_view value, Config* config) {
  const auto name = std::find(EvictionNames().begin(), EvictionNames().end(), value);
  if (name == EvictionNames().end()) return BadValue(value, fmt::format("{}", fmt::join(EvictionNames(), ", ")));
  config->cache.eviction.kind = static_cast<EvictionKind>(name - EvictionNames().begin());
  return absl::OkStatus();
}

absl::Status SetSelection(std::string_view value, Config* config) {
  if (!ParseSelection(value).ok()) return BadValue(value, fmt::format("{}", fmt::join(SelectionNames(), ", ")));
  config->draft.selection = std::string(value);
  return absl::OkStatus();
}

// "0.4,0.5,0.6"
absl::Status SetLayerDensities(std::string_view value, Config* config) {
  std::vector<double> densities;
  while (!value.empty()) {
    const std::string_view entry = value.substr(0, value.find(','));
    value.remove_prefix(std::min(entry.size() + 1, value.size()));
    const absl::StatusOr<double> density = ParseNumber<double>(entry);
    if (!density.ok() || !(*density >= 0 && *density <= 1)) return BadValue(entry, "numbers of 0 to 1 between commas");
    densities.push_back(*density);
  }
  config->draft.layer_densities = std::move(densities);
  return absl::OkStatus();
}

// How predictors choose.
void AddChoiceKeys(std::vector<ConfigKey>* keys) {
  constexpr std::string_view kPrior = "0 to 100000", kRefresh = "1 to 100000";
  keys->push_back({"draft.layer_densities",
                   "density of each layer instead of draft.density (docs/sparsity.md); empty: the same everywhere",
                   "as many numbers of 0 to 1 as the model has layers, between commas", SetLayerDensities});
  keys->push_back({"draft.per_layer",
                   "calibrated: layers whose output loses more get more of draft.density (docs/calibration.md)",
                   "equal, calibrated", [](std::string_view value, Config* config) -> absl::Status {
                     if (value != "equal" && value != "calibrated") return BadValue(value, "equal, calibrated");
                     config->draft.calibrated_layers = value == "calibrated";
                     return absl::OkStatus();
                   }});
  keys->push_back({"draft.statistics", "file that dogstar calibrate wrote for the model; empty: none", "a path",
                   [](std::string_view value, Config* config) {
                     config->draft.statistics = std::string(value);
                     return absl::OkStatus();
                   }});
  keys->push_back({"draft.source",
                   "prompt-attribution: the plain GGUF that the packed file was made from; empty: the model's name "
                   "without .dog",
                   "a path", [](std::string_view value, Config* config) {
                     config->draft.source = std::string(value);
                     return absl::OkStatus();
                   }});
  constexpr std::string_view kAttributionTokens = "1 to 4096";
  keys->push_back({"draft.attribution_tokens", "prompt-attribution: last tokens of a prompt that are scored",
                   kAttributionTokens,
                   NumberSetter<int32_t>(
                       1, 4096, kAttributionTokens, [](Config & c) -> auto& { return c.draft.attribution_tokens; })});
  keys->push_back({"draft.selection", "griffin: from scores to rows", "topk, topk_sample, sample, random, magnitude",
                   SetSelection});
  keys->push_back({"draft.prior", "griffin: tokens that used rows in the file's order and stand before the prompt",
                   kPrior,
                   NumberSetter<double>(
                       0, 1e5, kPrior, [](Config & c) -> auto& { return c.draft.prior; })});
  keys->push_back({"draft.refresh", "lag: verified tokens between choices", kRefresh,
                   NumberSetter<int32_t>(
                       1, 100000, kRefresh, [](Config & c) -> auto& { return c.draft.refresh; })});
  constexpr std::string_view kLookup = "-1 to 32";
  keys->push_back({"draft.lookup",
                   "drafts from the text's own past where at least so many last tokens stood before; 0: none; -1: 2 in "
                   "strict mode where memory holds no sparse model, else none",
                   kLookup,
                   NumberSetter<int32_t>(
                       -1, 32, kLookup, [](Config & c) -> auto& { return c.draft.lookup; })});
  keys->push_back({"draft.shared", "by token: one set of rows for all tokens of a pass", "true or false",
                   BoolSetter([](Config & c) -> auto& { return c.draft.shared; })});
  constexpr std::string_view kVocabulary = "-1 to 16777216";
  keys->push_back({"draft.vocabulary",
                   "drafts choose among so many first tokens, other frequent ones and the prompt's; 0: all; -1: an "
                   "eighth where that makes room for more FFN rows",
                   kVocabulary,
                   NumberSetter<int32_t>(
                       -1, 1 << 24, kVocabulary, [](Config & c) -> auto& { return c.draft.vocabulary; })});
  keys->push_back(
      {"draft.residual",
       "what the predictor leaves out is guessed, where draft.statistics have a map for it at draft.density",
       "true or false", BoolSetter([](Config & c) -> auto& { return c.draft.residual; })});
  keys->push_back({"draft.gather",
                   "rows of a list that holds for a whole text (griffin, hot, random, weight-norm) are copied next to "
                   "each other where everything is in memory and room is left",
                   "true or false", BoolSetter([](Config & c) -> auto& { return c.draft.gather; })});
}

// What a cycle drafts.
void AddTreeKeys(std::vector<ConfigKey>* keys) {
  keys->push_back(
      {"draft.tree",
       "drafts of a cycle: one path, a beam of draft.width paths, or the likeliest paths of any length; auto: one "
       "path, and alternatives to it where full passes wait and rows of them cost little",
       "auto, chain, beam, best",
       ChoiceSetter(
           kTrees, "auto, chain, beam, best", [](Config & c) -> auto& { return c.draft.tree; })});
  keys->push_back({"draft.width", "tokens that a pass of a tree looks beyond; a beam's paths", "1 to 64",
                   NumberSetter<int32_t>(
                       1, 64, "1 to 64", [](Config & c) -> auto& { return c.draft.width; })});
  keys->push_back(
      {"draft.nodes",
       "most drafts of a cycle; 0: corrector.period - 1 of a chain, draft.width times as many of a beam, 32 of best",
       "0 to 1024",
       NumberSetter<int32_t>(
           0, 1024, "0 to 1024", [](Config & c) -> auto& { return c.draft.nodes; })});
}

// The overlay of drafts, and the parameters of its policies.
void AddCacheKeys(std::vector<ConfigKey>* keys) {
  const auto real_key = [&](std::string_view name, std::string_view meaning, double low, double high,
                            std::string_view allowed, auto place) {
    keys->push_back({name, meaning, allowed, NumberSetter<double>(low, high, allowed, place)});
  };
  const auto int_key = [&](std::string_view name, std::string_view meaning, int32_t low, int32_t high,
                           std::string_view allowed, auto place) {
    keys->push_back({name, meaning, allowed, NumberSetter<int32_t>(low, high, allowed, place)});
  };
  keys->push_back({"cache.policy", "which row leaves the overlay (docs/caching.md)",
                   "fifo, lru, lfu, lfu-aged, clock, 2q, arc, slru, s3fifo, sieve, least-stale, static-hot",
                   SetEviction});
  keys->push_back({"cache.harvest", "rows of the overlay: none, the prompt's, or those that the running text uses",
                   "off, prompt, text",
                   ChoiceSetter(
                       kHarvests, "off, prompt, text", [](Config & c) -> auto& { return c.cache.harvest; })});
  keys->push_back({"cache.capacity", "places of the overlay: fixed a layer, or divided anew at each prompt",
                   "layer, global",
                   ChoiceSetter(
                       kCapacities, "layer, global", [](Config & c) -> auto& { return c.cache.capacity; })});
  real_key(
      "cache.share", "share of the resident FFN bytes for the overlay (draft.overlay)", 0, 0.5, "0 to 0.5",
      [](Config & c) -> auto& { return c.draft.overlay; });
  real_key(
      "cache.hysteresis", "a row comes in when its score is 1 + this times the other's", 0, 100, "0 to 100",
      [](Config & c) -> auto& { return c.cache.hysteresis; });
  real_key(
      "cache.prior", "tokens that the packed file's order counts as beside the prompt's", 0, 1e6, "0 to 1000000",
      [](Config & c) -> auto& { return c.cache.prior; });
  real_key(
      "cache.lfu_half_life", "lfu-aged and scores: tokens after which a use counts half", 0.1, 1e6, "0.1 to 1000000",
      [](Config & c) -> auto& { return c.cache.eviction.lfu_half_life; });
  int_key(
      "cache.clock_bits", "clock: bits of a page's counter", 1, 8, "1 to 8",
      [](Config & c) -> auto& { return c.cache.eviction.clock_bits; });
  real_key(
      "cache.2q_in", "2q: share of the places for new rows", 0, 1, "0 to 1",
      [](Config & c) -> auto& { return c.cache.eviction.two_q_in; });
  real_key(
      "cache.2q_out", "2q: remembered rows, as a share of the places", 0, 4, "0 to 4",
      [](Config & c) -> auto& { return c.cache.eviction.two_q_out; });
  int_key(
      "cache.slru_segments", "slru: segments", 1, 16, "1 to 16",
      [](Config & c) -> auto& { return c.cache.eviction.slru_segments; });
  real_key(
      "cache.s3fifo_small", "s3fifo: share of the places for new rows", 0, 1, "0 to 1",
      [](Config & c) -> auto& { return c.cache.eviction.s3fifo_small; });
  real_key(
      "cache.s3fifo_ghost", "s3fifo: remembered rows, as a share of the places", 0, 4, "0 to 4",
      [](Config & c) -> auto& { return c.cache.eviction.s3fifo_ghost; });
  int_key(
      "cache.s3fifo_threshold", "s3fifo: uses that lead to the main queue", 1, 100, "1 to 100",
      [](Config & c) -> auto& { return c.cache.eviction.s3fifo_threshold; });
}

template <typename Place>
auto SizeSetter(Place place) {
  return [=](std::string_view value, Config* config) -> absl::Status {
    ASSIGN_OR_RETURN(place(*config), ParseSize(value));
    return absl::OkStatus();
  };
}

std::vector<ConfigKey> MakeKeys() {
  constexpr std::string_view kSize = "a size such as 64MiB or 2.5GiB";
  const auto int_key = [](std::string_view name, std::string_view meaning, int32_t low, int32_t high,
                          std::string_view allowed, auto place) {
    return ConfigKey{name, meaning, allowed, NumberSetter<int32_t>(low, high, allowed, place)};
  };
  const auto real_key = [](std::string_view name, std::string_view meaning, double low, double high,
                           std::string_view allowed, auto place) {
    return ConfigKey{name, meaning, allowed, NumberSetter<double>(low, high, allowed, place)};
  };
  std::vector<ConfigKey> keys;
  keys.push_back({"model", "path of the model, GGUF or packed", "a path", [](std::string_view value, Config* config) {
                    config->model = std::string(value);
                    return absl::OkStatus();
                  }});
  keys.push_back({"cache_dir", "folder for packed files when the model's own cannot be written", "a path",
                  [](std::string_view value, Config* config) {
                    config->cache_dir = std::string(value);
                    return absl::OkStatus();
                  }});
  keys.push_back({"tiers", "what dogstar probe measured; default: tiers.json in cache_dir", "a path",
                  [](std::string_view value, Config* config) {
                    config->tiers = std::string(value);
                    return absl::OkStatus();
                  }});
  keys.push_back(int_key(
      "threads", "compute threads; 0: all cores", 0, 1024, "0 to 1024", [](Config & c) -> auto& { return c.threads; }));
  keys.push_back(int_key(
      "context", "tokens of context; 0: prompt + tokens to generate", 0, 1 << 24, "0 to 16777216",
      [](Config & c) -> auto& { return c.context; }));
  keys.push_back({"context_overflow", "a full context: stop, or slide: drop the older half and go on", "stop, slide",
                  ChoiceSetter(
                      kOverflows, "stop, slide", [](Config & c) -> auto& { return c.context_overflow; })});
  keys.push_back(int_key(
      "context_keep", "first tokens that a sliding context never drops", 0, 1 << 24, "0 to 16777216",
      [](Config & c) -> auto& { return c.context_keep; }));
  keys.push_back({"kv_type", "numbers of the KV cache", "f16, f32, q8_0",
                  ChoiceSetter(
                      kKvTypes, "f16, f32, q8_0", [](Config & c) -> auto& { return c.kv_type; })});
  keys.push_back({"precise", "float32 activations: slow, the reference", "true or false",
                  BoolSetter([](Config & c) -> auto& { return c.precise; })});
  keys.push_back({"device", "what computes; auto: the first GPU where budget.vram is given, else the CPU",
                  "auto, cpu, cuda, cuda:NUMBER; for tests: emulated, simulated, simulated:SIZE",
                  [](std::string_view value, Config* config) -> absl::Status {
                    RETURN_IF_ERROR(ParseDevice(value).status());
                    config->device = std::string(value);
                    return absl::OkStatus();
                  }});
  keys.push_back(real_key(
      "hybrid",
      "where a GPU computes: share of the rows in host memory that the processor computes in full passes; -1: "
      "by measured rates",
      -1, 1, "-1, or 0 to 1", [](Config & c) -> auto& { return c.hybrid; }));
  keys.push_back({"budget.ram", "memory that the whole program stays below", kSize,
                  [](std::string_view value, Config* config) -> absl::Status {
                    ASSIGN_OR_RETURN(const uint64_t bytes, ParseSize(value));
                    config->budget.ram = bytes;
                    return absl::OkStatus();
                  }});
  keys.push_back(
      {"budget.vram", "GPU memory; 0: no GPU", kSize, SizeSetter([](Config & c) -> auto& { return c.budget.vram; })});
  keys.push_back({"budget.pinned", "page-locked host memory for a GPU", kSize,
                  SizeSetter([](Config & c) -> auto& { return c.budget.pinned; })});
  keys.push_back({"draft.predictor", "which rows a draft uses",
                  "resident, griffin, dense, gate, gate-weighted, two-stage, magnitude, contribution, random, "
                  "weight-norm, lag, prompt-attribution; with draft.statistics: hot, attribution, threshold, low-rank; "
                  "eval --task "
                  "sparsity alone: oracle",
                  SetPredictor});
  keys.push_back(real_key(
      "draft.density", "share of the FFN rows a draft uses; -1: all that are resident", -1, 1, "-1, or 0 to 1",
      [](Config & c) -> auto& { return c.draft.density; }));
  keys.push_back(real_key(
      "draft.value_density", "two-stage: share of the FFN rows whose down part a token uses; -1: 4/7 of draft.density",
      -1, 1, "-1, or 0 to 1", [](Config & c) -> auto& { return c.draft.value_density; }));
  AddChoiceKeys(&keys);
  keys.push_back(real_key(
      "draft.head_density", "share of the query heads that drafts compute (keys and values: always all)", 0, 1,
      "0 to 1", [](Config & c) -> auto& { return c.draft.head_density; }));
  keys.push_back(real_key(
      "draft.planes",
      "share of the FFN's pages that may be resident by their high bit planes, where the file has low ones; -1: all "
      "behind the whole ones, unless rows are chosen by the text or by token",
      -1, 1, "-1, or 0 to 1", [](Config & c) -> auto& { return c.draft.planes; }));
  keys.push_back(real_key(
      "draft.attention_planes",
      "share of the layers, from the last on, whose attention is resident by its high bit planes, where the file has "
      "low "
      "ones; -1: as many as it takes for all of the FFN's rows to be there, where these are by their high planes",
      -1, 1, "-1, or 0 to 1", [](Config & c) -> auto& { return c.draft.attention_planes; }));
  keys.push_back(real_key(
      "draft.overlay", "share of the resident FFN bytes for single rows chosen by the prompt", 0, 0.5, "0 to 0.5",
      [](Config & c) -> auto& { return c.draft.overlay; }));
  AddTreeKeys(&keys);
  AddCacheKeys(&keys);
  keys.push_back({"io.engine", "how files are read", "auto, uring, pread",
                  ChoiceSetter(
                      kEngines, "auto, uring, pread", [](Config & c) -> auto& { return c.io.engine; })});
  keys.push_back(int_key(
      "io.queue_depth", "reads in flight", 1, 4096, "1 to 4096", [](Config & c) -> auto& { return c.io.queue_depth; }));
  keys.push_back({"io.direct", "O_DIRECT, past the page cache", "auto, always, never",
                  ChoiceSetter(
                      kDirect, "auto, always, never", [](Config & c) -> auto& { return c.io.direct; })});
  keys.push_back({"io.verify", "when checksums of packed files are checked", "always, first, never",
                  ChoiceSetter(
                      kVerify, "always, first, never", [](Config & c) -> auto& { return c.io.verify; })});
  keys.push_back({"io.ring", "memory for reads in flight; 0: chosen from the measured disk and memory", kSize,
                  SizeSetter([](Config & c) -> auto& { return c.io.ring_bytes; })});
  keys.push_back(
      {"corrector.mode", "how tokens are made", "auto, dense, sparse, sirius, strict",
       ChoiceSetter(
           kModes, "auto, dense, sparse, sirius, strict", [](Config & c) -> auto& { return c.corrector.mode; })});
  keys.push_back(int_key(
      "corrector.period", "tokens per cycle, the root included; the largest when adaptive", 1, 256, "1 to 256",
      [](Config & c) -> auto& { return c.corrector.period; }));
  keys.push_back({"corrector.adaptive", "choose the period while running", "true or false",
                  [](std::string_view value, Config* config) -> absl::Status {
                    ASSIGN_OR_RETURN(const bool adaptive, ParseBool(value));
                    config->corrector.adaptive = adaptive;
                    return absl::OkStatus();
                  }});
  keys.push_back(real_key(
      "corrector.threshold", "sirius: least full-model probability of an accepted draft", 0, 2,
      "0 to 2 (above 1: nothing is accepted)", [](Config & c) -> auto& { return c.corrector.threshold; }));
  keys.push_back(real_key(
      "corrector.temperature", "sirius: temperature of that probability", 1e-3, 100, "0.001 to 100",
      [](Config & c) -> auto& { return c.corrector.temperature; }));
  keys.push_back({"corrector.repair",
                  "drafts behind one that the full model replaced are tried once more, behind the correction",
                  "true or false", BoolSetter([](Config & c) -> auto& { return c.corrector.repair; })});
  keys.push_back(real_key(
      "sampling.temperature", "0: the likeliest token", 0, 100, "0 to 100",
      [](Config & c) -> auto& { return c.sampling.temperature; }));
  keys.push_back(int_key(
      "sampling.top_k", "only the k likeliest tokens; 0: all", 0, 1 << 30, "0 or more",
      [](Config & c) -> auto& { return c.sampling.top_k; }));
  keys.push_back(real_key(
      "sampling.top_p", "only the likeliest tokens whose sum reaches p", 0, 1, "0 to 1",
      [](Config & c) -> auto& { return c.sampling.top_p; }));
  keys.push_back(real_key(
      "sampling.min_p", "only tokens at least so many times as likely as the likeliest", 0, 1, "0 to 1",
      [](Config & c) -> auto& { return c.sampling.min_p; }));
  keys.push_back(int_key(
      "sampling.penalty_window", "last tokens that penalties look at; -1: all", -1, 1 << 24, "-1 to 16777216",
      [](Config & c) -> auto& { return c.sampling.penalty_window; }));
  keys.push_back(real_key(
      "sampling.repeat_penalty", "divides the logits of repeated tokens; 1: off", 0.01, 100, "0.01 to 100",
      [](Config & c) -> auto& { return c.sampling.repeat_penalty; }));
  keys.push_back(real_key(
      "sampling.presence_penalty", "subtracted from the logits of repeated tokens", -100, 100, "-100 to 100",
      [](Config & c) -> auto& { return c.sampling.presence_penalty; }));
  keys.push_back(real_key(
      "sampling.frequency_penalty", "subtracted as often as a token was repeated", -100, 100, "-100 to 100",
      [](Config & c) -> auto& { return c.sampling.frequency_penalty; }));
  keys.push_back({"sampling.bias", "added to a token's logit: its id and a number or -inf; adds to those given before",
                  "ID+NUMBER or ID-NUMBER, such as 15043+1.5 or 15043-inf", AddLogitBias});
  keys.push_back(
      {"sampling.seed", "random seed", "an integer from 0", [](std::string_view value, Config* config) -> absl::Status {
         const absl::StatusOr<uint64_t> seed = ParseNumber<uint64_t>(value);
         if (!seed.ok()) return BadValue(value, "an integer from 0");
         config->sampling.seed = *seed;
         return absl::OkStatus();
       }});
  return keys;
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

std::string_view NearestKey(std::string_view key) {
  std::string_view nearest;
  size_t best = SIZE_MAX;
  for (const ConfigKey& known : ConfigKeys()) {
    const size_t distance = EditDistance(key, known.name);
    if (distance < best) best = distance, nearest = known.name;
  }
  return nearest;
}

absl::Status At(std::string_view file, const YAML::Mark& mark, std::string_view message) {
  return absl::InvalidArgumentError(fmt::format("{}:{}: {}", file, mark.line + 1, message));
}

// set(key, value) for every setting.
using SetFn = absl::FunctionRef<absl::Status(const std::string& key, const std::string& value)>;

absl::Status ReadNode(const YAML::Node& node, const std::string& prefix, std::string_view file, SetFn set) {
  std::vector<std::string> seen;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) return At(file, entry.first.Mark(), "a key must be a plain word");
    const std::string name = entry.first.Scalar();
    const std::string key = prefix.empty() ? name : prefix + "." + name;
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) {
      return At(file, entry.first.Mark(), fmt::format("{} stands here twice", key));
    }
    seen.push_back(name);
    if (entry.second.IsMap()) {
      RETURN_IF_ERROR(ReadNode(entry.second, key, file, set));
    } else if (entry.second.IsScalar()) {
      const absl::Status status = set(key, entry.second.Scalar());
      if (!status.ok()) return At(file, entry.second.Mark(), std::string(status.message()));
    } else {
      return At(file, entry.first.Mark(), fmt::format("{} needs one value", key));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadYaml(std::string_view text, std::string_view file, SetFn set) {
  // yaml-cpp reports errors by exception; none leaves this function.
  try {
    const YAML::Node root = YAML::Load(std::string(text));
    if (root.IsNull()) return absl::OkStatus();
    if (!root.IsMap())
      return At(file, root.Mark(), "the file must be a list of keys, such as \"budget: {ram: 64MiB}\"");
    return ReadNode(root, "", file, set);
  } catch (const YAML::Exception& error) {
    return At(file, error.mark, error.msg);
  }
}

}  // namespace

std::string_view RunModeName(RunMode mode) { return kModes[static_cast<size_t>(mode)].name; }

std::span<const ConfigKey> ConfigKeys() {
  static const std::vector<ConfigKey> keys = MakeKeys();  // immutable
  return keys;
}

absl::Status SetConfigKey(std::string_view key, std::string_view value, Config* config) {
  for (const ConfigKey& known : ConfigKeys()) {
    if (known.name == key) return Annotate(known.set(value, config), key);
  }
  return absl::InvalidArgumentError(fmt::format("unknown key \"{}\"; did you mean {}?", key, NearestKey(key)));
}

absl::Status SetConfigFromAssignment(std::string_view assignment, Config* config) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is no assignment; write key=value", assignment));
  }
  return SetConfigKey(assignment.substr(0, equals), assignment.substr(equals + 1), config);
}

absl::Status ReadYamlConfig(std::string_view text, std::string_view file, Config* config) {
  return ReadYaml(text, file,
                  [&](const std::string& key, const std::string& value) { return SetConfigKey(key, value, config); });
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ListYamlSettings(std::string_view text,
                                                                                  std::string_view file) {
  std::vector<std::pair<std::string, std::string>> settings;
  RETURN_IF_ERROR(ReadYaml(text, file, [&](const std::string& key, const std::string& value) {
    settings.emplace_back(key, value);
    return absl::OkStatus();
  }));
  return settings;
}

absl::Status ReadYamlConfigFile(const std::string& path, Config* config) {
  std::ifstream file(path);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(fmt::format("cannot read the configuration {}", path));
  }
  return ReadYamlConfig(text.str(), path, config);
}

std::string EnvironmentName(std::string_view key) {
  std::string name = "DOGSTAR_";
  for (char c : key) name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

absl::Status ReadEnvironment(const std::function<const char*(const std::string& name)>& get, Config* config) {
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string name = EnvironmentName(key.name);
    const char* value = get(name);
    if (value != nullptr) RETURN_IF_ERROR(Annotate(SetConfigKey(key.name, value, config), name));
  }
  return absl::OkStatus();
}

}  // namespace dogstar
