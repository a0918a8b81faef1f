// Config: every setting of a run. defaults < YAML file < environment < command line; all of them name the same keys.
//
// One table (ConfigKeys) says for each key what it means, what is allowed and how it is read; YAML, DOGSTAR_*
// variables, --set and the documentation all come from it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "io/page_reader.h"
#include "memory/eviction.h"
#include "memory/overlay.h"
#include "memory/pager.h"
#include "runtime/draft_tree.h"
#include "runtime/sampler.h"

namespace dogstar {

enum class ContextOverflow { kStop, kSlide };
// What the overlay holds: nothing; rows of the prompt; rows that follow the text, from the prompt's on where the
// predictor observes prompts, else from those after the prefix.
enum class HarvestMode { kOff, kPrompt, kText };
enum class KvPrecision { kF16, kF32, kQ8_0 };
enum class RunMode { kAuto, kDense, kSparse, kSirius, kStrict };
std::string_view RunModeName(RunMode mode);

struct Config {
  std::string model;
  int32_t threads = 0;  // 0: all cores
  int32_t context = 0;  // tokens; 0: prompt + tokens to generate
  ContextOverflow context_overflow = ContextOverflow::kStop;
  int32_t context_keep = 0;  // first tokens that a sliding context never drops
  KvPrecision kv_type = KvPrecision::kF16;
  bool precise = false;
  std::string device = "auto";  // what computes (runtime/devices.h)
  double hybrid = -1;           // share of the rows in host memory that the processor computes; -1: by measured rates
  std::string tiers;            // what `dogstar probe` measured; empty: tiers.json in cache_dir, where there is one
  std::string cache_dir;        // packed files go here when the model's folder cannot be written; empty: nowhere else
  struct {
    std::optional<uint64_t> ram;  // bytes; none: no limit
    uint64_t vram = 0;
    uint64_t pinned = 0;
  } budget;
  struct {
    std::string predictor = "resident";
    std::string statistics;               // what `dogstar calibrate` wrote; empty: none
    std::string source;                   // prompt-attribution: the plain GGUF; empty: by the model's name
    int32_t attribution_tokens = 64;      // prompt-attribution: of a prompt, at most
    bool calibrated_layers = false;       // densities of layers by their losses; needs statistics
    double density = -1;                  // < 0: every row that is resident
    double value_density = -1;            // two-stage; < 0: 4/7 of density
    std::vector<double> layer_densities;  // of each layer instead of density; empty: the same everywhere
    std::string selection = "topk";       // griffin
    double prior = 0;                     // griffin: tokens
    int32_t refresh = 1;                  // lag: tokens
    bool shared = false;                  // by token: one set for all tokens of a pass
    bool gather = true;                   // rows of a text's list next to each other, where memory is left
    int32_t vocabulary = -1;              // tokens that drafts can choose; 0: all; -1: chosen
    bool residual = true;                 // a map for what the predictor leaves out, where statistics have one
    double head_density = 1;              // share of the attention heads that drafts compute
    std::optional<TreeShape> tree;        // none: chosen cycle by cycle
    int32_t width = 4;                    // tokens that a pass of a given tree looks beyond
    int32_t nodes = 0;                    // drafts of a cycle; 0: chosen by the shape
    int32_t lookup = -1;                  // prompt lookup: tokens that must match; 0: none; -1: chosen
    double planes = -1;            // share of the FFN's pages that may be resident by their high planes; -1: chosen
    double attention_planes = -1;  // share of the layers whose attention may be resident so; -1: chosen
    double overlay = 0.15;         // share of the FFN's resident bytes kept for single rows; also cache.share
  } draft;
  struct {
    std::optional<HarvestMode> harvest;  // none: prompt where the predictor observes prompts, else off
    CacheCapacity capacity = CacheCapacity::kLayer;
    double hysteresis = 0;
    double prior = 32;  // tokens
    EvictionOptions eviction;
  } cache;
  struct {
    IoEngine engine = IoEngine::kAuto;
    int32_t queue_depth = 64;
    DirectMode direct = DirectMode::kAuto;
    VerifyMode verify = VerifyMode::kFirst;
    uint64_t ring_bytes = 0;  // memory for reads in flight; 0: chosen
  } io;
  struct {
    RunMode mode = RunMode::kAuto;
    int32_t period = 16;
    std::optional<bool> adaptive;  // none: yes in strict mode, no in sirius mode (as published)
    double threshold = 0.1;
    double temperature = 0.6;
    bool repair = false;  // drafts behind a replaced one are tried behind the correction
  } corrector;
  SamplingOptions sampling;
};

struct ConfigKey {
  std::string_view name;  // "corrector.period"
  std::string_view meaning;
  std::string_view allowed;  // "2 to 1024"
  std::function<absl::Status(std::string_view value, Config*)> set;
};
std::span<const ConfigKey> ConfigKeys();

// Sets one key from text. InvalidArgument: an unknown key (with the nearest known one), or a bad value with what is
// allowed.
absl::Status SetConfigKey(std::string_view key, std::string_view value, Config* config);
// "corrector.period=24".
absl::Status SetConfigFromAssignment(std::string_view assignment, Config* config);
// YAML text; `file` is for messages, which name file, line, key and what is allowed.
absl::Status ReadYamlConfig(std::string_view text, std::string_view file, Config* config);
// Its keys and values, in order, unchecked.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ListYamlSettings(std::string_view text,
                                                                                  std::string_view file);
absl::Status ReadYamlConfigFile(const std::string& path, Config* config);
// "DOGSTAR_CORRECTOR_PERIOD" for "corrector.period".
std::string EnvironmentName(std::string_view key);
// Reads every key's variable through `get` (nullptr: not set).
absl::Status ReadEnvironment(const std::function<const char*(const std::string& name)>& get, Config* config);

}  // namespace dogstar
