// dogstar simulate: what caches of other sizes and policies would have made of the requests of a run.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/units.h"
#include "fmt/format.h"
#include "memory/access_trace.h"
#include "memory/simulator.h"
#include "runtime/overlay_replay.h"
#include "runtime/tiers.h"
#include "tools/command.h"
#include "tools/model_options.h"
#include "tools/output.h"
#include "tools/sweep.h"

namespace dogstar {
namespace {

struct SimulateFlags {
  std::string trace, csv, policies = "all", slots = "1%,2%,5%,10%,20%,50%,80%", capacity = "global", tiers, csv_out;
  std::vector<std::string> assignments;
  int32_t page = 1, prefetch = 0, threads = 0;
  int64_t token_requests = 1000;
  uint64_t object_bytes = 0;
  bool warm = false, replay = false, by_layer = false, list = false;
};

// What is simulated, and on what.
struct Subject {
  std::optional<AccessTrace> trace;
  RequestList list;
  EvictionOptions eviction;
  std::vector<SimulatedPolicy> policies;
  std::vector<int32_t> sizes;
  std::vector<Simulation> simulations;  // sizes x policies
  std::vector<uint64_t> object_bytes;   // [layers], or one; empty: not known
  std::optional<DiskRates> disk;
};

struct Row {
  const Simulation* simulation = nullptr;
  int32_t slots = 0;
  SimulationResult result;
  int64_t belady_misses = -1;  // at the same size; < 0: was not simulated
  double miss_bytes = -1;      // < 0: sizes are not known
  double fetch_seconds = -1;   // per token, predicted; < 0: not asked for
};

absl::StatusOr<std::vector<SimulatedPolicy>> ParsePolicies(const std::string& text) {
  const std::span<const SimulatedPolicy> known = SimulatedPolicies();
  if (text == "all") return std::vector<SimulatedPolicy>(known.begin(), known.end());
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ExpandValues(text));
  std::vector<SimulatedPolicy> policies;
  for (const std::string& name : names) {
    const auto found = std::ranges::find(known, name, &SimulatedPolicy::name);
    if (found == known.end()) {
      std::vector<std::string_view> all;
      for (const SimulatedPolicy& policy : known) all.push_back(policy.name);
      return absl::InvalidArgumentError(
          fmt::format("--policies: unknown policy \"{}\"; all, or some of {}", name, fmt::join(all, ", ")));
    }
    policies.push_back(*found);
  }
  return policies;
}

// Numbers of slots, or shares of the distinct objects.
absl::StatusOr<std::vector<int32_t>> ParseSizes(const std::string& text, size_t distinct) {
  ASSIGN_OR_RETURN(const std::vector<std::string> values, ExpandValues(text));
  std::vector<int32_t> sizes;
  for (const std::string& value : values) {
    double number = 0;
    const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    const std::string_view unit(stop, static_cast<size_t>(value.data() + value.size() - stop));
    if (unit == "%") number = std::floor(number / 100 * static_cast<double>(distinct));
    const bool whole = unit == "%" || number == std::floor(number);
    if (error != std::errc() || (unit != "%" && !unit.empty()) || !whole || number < 0 || number > (1 << 30)) {
      return absl::InvalidArgumentError(fmt::format(
          "--slots: \"{}\" is no size; a whole number from 1 to {}, or a share of the {} distinct objects such as 10%",
          value, 1 << 30, distinct));
    }
    if (number < 1 && unit != "%") {
      return absl::InvalidArgumentError(fmt::format("--slots: \"{}\": a cache has at least one slot", value));
    }
    sizes.push_back(std::max(1, static_cast<int32_t>(number)));
  }
  std::ranges::sort(sizes);
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

// The same number in every layer, what is left over in the first ones.
std::vector<int32_t> Divided(int32_t slots, int32_t layers) {
  std::vector<int32_t> parts(static_cast<size_t>(layers), slots / layers);
  for (int32_t i = 0; i < slots % layers; ++i) ++parts[static_cast<size_t>(i)];
  return parts;
}

absl::Status OpenList(const SimulateFlags& flags, Subject* subject) {
  if (!flags.csv.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.csv));
    ASSIGN_OR_RETURN(subject->list, ParseRequests(text, flags.csv, flags.token_requests, flags.page));
    // Ids are no rows: the smaller, the hotter.
    subject->eviction.hotness = [](PageKey key) { return -static_cast<double>(ToInt(key)); };
    if (flags.object_bytes > 0) subject->object_bytes = {flags.object_bytes * static_cast<uint64_t>(flags.page)};
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(subject->trace, ReadAccessTrace(flags.trace));
  const AccessTrace& trace = *subject->trace;
  if (!trace.torn.empty()) std::fprintf(stderr, "dogstar: %s: %s\n", flags.trace.c_str(), trace.torn.c_str());
  subject->list = RequestsOf(trace, flags.page);
  if (subject->list.keys.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{} has no requests: record a strict or sirius run with --set cache.harvest=text", flags.trace));
  }
  for (const AccessLayer& layer : trace.header.layers) {
    subject->object_bytes.push_back(layer.row_bytes * static_cast<uint64_t>(flags.page));
  }
  return absl::OkStatus();
}

absl::Status ChooseDisk(const SimulateFlags& flags, Subject* subject) {
  if (flags.tiers.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const MachineRates rates, ReadTiersFile(flags.tiers));
  const absl::StatusOr<std::string> device =
      subject->trace ? DeviceOf(subject->trace->header.model) : absl::StatusOr<std::string>(absl::NotFoundError(""));
  const DiskRates* disk = device.ok() ? rates.FindDisk(*device) : nullptr;
  if (disk == nullptr && !rates.disks.empty()) disk = &rates.disks[0];
  if (disk == nullptr || disk->reads.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{} has no reads of a disk; measure one with dogstar probe MODEL", flags.tiers));
  }
  if (subject->object_bytes.empty()) {
    return absl::InvalidArgumentError("--tiers needs the size of an object; give --object-bytes");
  }
  subject->disk = *disk;
  return absl::OkStatus();
}

absl::StatusOr<Subject> Open(const SimulateFlags& flags) {
  if (flags.trace.empty() == flags.csv.empty()) {
    return absl::InvalidArgumentError("give a recorded trace, or a list of ids with --csv; one of them");
  }
  Subject subject;
  RETURN_IF_ERROR(OpenList(flags, &subject));
  Config config;
  if (subject.trace) config.cache.eviction.lfu_half_life = subject.trace->header.half_life;
  for (const std::string& assignment : flags.assignments) {
    if (!assignment.starts_with("cache.")) {
      return absl::InvalidArgumentError(fmt::format(
          "--set {}: a simulation has settings of cache. only, such as cache.s3fifo_small=0.2", assignment));
    }
    RETURN_IF_ERROR(SetConfigFromAssignment(assignment, &config));
  }
  config.cache.eviction.hotness = subject.eviction.hotness;
  subject.eviction = config.cache.eviction;
  ASSIGN_OR_RETURN(subject.policies, ParsePolicies(flags.policies));
  ASSIGN_OR_RETURN(subject.sizes, ParseSizes(flags.slots, subject.list.distinct.size()));
  if (flags.capacity == "layer" && subject.list.layers == 0) {
    return absl::InvalidArgumentError("--capacity layer: a list of ids has no layers; use a recorded trace");
  }
  RETURN_IF_ERROR(ChooseDisk(flags, &subject));
  for (int32_t slots : subject.sizes) {
    for (const SimulatedPolicy& policy : subject.policies) {
      Simulation& simulation = subject.simulations.emplace_back();
      simulation.policy = policy;
      simulation.eviction = subject.eviction;
      simulation.slots = flags.capacity == "layer" ? Divided(slots, subject.list.layers) : std::vector<int32_t>{slots};
      simulation.prefetch = policy.kind ? flags.prefetch : 0;
      simulation.warm = flags.warm;
    }
  }
  return subject;
}

// Seconds of one read of `bytes` at the depth that serves that size best, between the measured sizes in a line. Smaller
// reads than measured take as long as the smallest.
double ReadSeconds(const DiskRates& disk, double bytes) {
  std::vector<std::pair<double, double>> best;  // bytes, seconds
  for (const ReadRate& read : disk.reads) {
    const double size = static_cast<double>(read.read_bytes), seconds = size / read.bytes_per_second;
    const auto known = std::ranges::find(best, size, &std::pair<double, double>::first);
    if (known == best.end()) {
      best.emplace_back(size, seconds);
    } else {
      known->second = std::min(known->second, seconds);
    }
  }
  std::ranges::sort(best);
  if (bytes <= best.front().first) return best.front().second;
  for (size_t i = 1; i < best.size(); ++i) {
    if (bytes > best[i].first) continue;
    const double share = (bytes - best[i - 1].first) / (best[i].first - best[i - 1].first);
    return best[i - 1].second + share * (best[i].second - best[i - 1].second);
  }
  return best.back().second * bytes / best.back().first;
}

void Price(const Subject& subject, Row* row) {
  if (subject.object_bytes.empty()) return;
  const auto& layers = row->result.layer_misses;
  row->miss_bytes = 0;
  double seconds = 0;
  const auto add = [&](int64_t misses, uint64_t bytes) {
    row->miss_bytes += static_cast<double>(misses) * static_cast<double>(bytes);
    const auto read_bytes = static_cast<double>(bytes) * (1 + row->simulation->prefetch);
    if (subject.disk) seconds += static_cast<double>(misses) * ReadSeconds(*subject.disk, read_bytes);
  };
  if (layers.empty()) add(row->result.cold.misses, subject.object_bytes[0]);
  for (size_t i = 0; i < layers.size(); ++i) add(layers[i], subject.object_bytes[i]);
  if (subject.disk) row->fetch_seconds = seconds / static_cast<double>(subject.list.tokens.size());
}

std::vector<Row> MakeRows(const Subject& subject, std::vector<SimulationResult> results) {
  std::vector<Row> rows;
  for (size_t i = 0; i < results.size(); ++i) {
    Row& row = rows.emplace_back();
    row.simulation = &subject.simulations[i];
    row.slots = subject.sizes[i / subject.policies.size()];
    row.result = std::move(results[i]);
    Price(subject, &row);
  }
  for (Row& row : rows) {
    if (row.simulation->prefetch > 0) continue;  // Belady's fetches what is asked for, no more
    for (const Row& other : rows) {
      if (other.slots == row.slots && other.simulation->policy.name == "belady") {
        row.belady_misses = other.result.cold.misses;
      }
    }
  }
  return rows;
}

nlohmann::ordered_json JsonOf(const Subject& subject, const Row& row, bool by_layer) {
  const SimulationResult& result = row.result;
  const auto distinct = static_cast<int64_t>(subject.list.distinct.size());
  nlohmann::ordered_json json = {
      {"policy", row.simulation->policy.name},
      {"slots", row.slots},
      {"hits", result.cold.hits},
      {"misses", result.cold.misses},
      {"compulsory_misses", std::min(distinct, result.cold.misses)},
      {"miss_ratio", static_cast<double>(result.cold.misses) / static_cast<double>(subject.list.keys.size())}};
  if (row.simulation->prefetch > 0) json["prefetched"] = result.cold.prefetched;
  if (row.simulation->warm) json["warm"] = {{"hits", result.warm.hits}, {"misses", result.warm.misses}};
  if (row.belady_misses >= 0) json["regret_misses"] = result.cold.misses - row.belady_misses;
  if (row.miss_bytes >= 0) json["miss_bytes"] = row.miss_bytes;
  if (row.fetch_seconds >= 0) json["predicted_fetch_s_per_token"] = row.fetch_seconds;
  for (size_t phase = 0; phase < kAccessPhases && subject.trace; ++phase) {
    const int64_t hits = result.phase_hits[phase], misses = result.phase_misses[phase];
    if (hits + misses == 0) continue;
    json["phases"][std::string(AccessPhaseName(static_cast<AccessPhase>(phase)))] = {{"hits", hits},
                                                                                     {"misses", misses}};
  }
  if (by_layer) json["layer_misses"] = result.layer_misses;
  json["requests_s"] = result.requests_per_second;
  return json;
}

nlohmann::ordered_json JsonOf(const ReplayResult& replay, const ReplayOptions& options) {
  return {{"policy", EvictionName(options.eviction.kind)},
          {"slots", replay.slots},
          {"hits", replay.stats.hits},
          {"misses", replay.stats.misses},
          {"admissions", replay.stats.admissions},
          {"evictions", replay.stats.evictions},
          {"refused", replay.stats.refused}};
}

struct Replays {
  std::vector<std::pair<ReplayOptions, ReplayResult>> runs;  // the recorded settings first
};

absl::StatusOr<Replays> Replay(const SimulateFlags& flags, const Subject& subject) {
  Replays replays;
  if (!subject.trace) return replays;
  ASSIGN_OR_RETURN(const ReplayOptions recorded, RecordedOptions(*subject.trace, subject.eviction));
  replays.runs.emplace_back(recorded, ReplayOverlay(*subject.trace, recorded));
  if (!flags.replay) return replays;
  for (int32_t slots : subject.sizes) {
    for (const SimulatedPolicy& policy : subject.policies) {
      if (!policy.kind || Interrupted()) continue;
      ReplayOptions options = recorded;
      options.eviction.kind = *policy.kind;
      options.slots = slots;
      replays.runs.emplace_back(options, ReplayOverlay(*subject.trace, options));
    }
  }
  return replays;
}

template <typename Cell>
void PrintGrid(const Subject& subject, const std::vector<Row>& rows, const std::string& title, Cell cell) {
  fmt::print("\n{}\n{:>10}", title, "slots");
  for (const SimulatedPolicy& policy : subject.policies)
    fmt::print(" {:>{}}", policy.name, std::max<size_t>(policy.name.size(), 7));
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i % subject.policies.size() == 0) fmt::print("\n{:>10}", rows[i].slots);
    fmt::print(" {:>{}}", cell(rows[i]), std::max<size_t>(rows[i].simulation->policy.name.size(), 7));
  }
  fmt::print("\n");
}

void Print(const SimulateFlags& flags, const Subject& subject, const std::vector<Row>& rows, const Replays& replays) {
  const RequestList& list = subject.list;
  const double requests = static_cast<double>(list.keys.size());
  fmt::print("{} requests for {} objects; {} {}; {:.1f}% of the requests are first ones (compulsory misses)\n",
             list.keys.size(), list.distinct.size(), list.tokens.size(), subject.trace ? "tokens" : "pieces",
             100 * static_cast<double>(list.distinct.size()) / requests);
  PrintGrid(subject, rows, "hits, % of requests (simulated)", [&](const Row& row) {
    return fmt::format("{:.2f}", 100 * static_cast<double>(row.result.cold.hits) / requests);
  });
  if (flags.warm) {
    PrintGrid(subject, rows, "the same, warm", [&](const Row& row) {
      return fmt::format("{:.2f}", 100 * static_cast<double>(row.result.warm.hits) / requests);
    });
  }
  if (flags.prefetch == 0 && rows[0].belady_misses >= 0) {
    PrintGrid(subject, rows, "misses above Belady's, %", [&](const Row& row) {
      return fmt::format("{:.1f}", 100 * static_cast<double>(row.result.cold.misses - row.belady_misses) /
                                       static_cast<double>(std::max<int64_t>(row.belady_misses, 1)));
    });
  }
  if (subject.disk) {
    PrintGrid(subject, rows, "PREDICTED seconds per token, were each miss a read of its own (measured disk)",
              [&](const Row& row) { return fmt::format("{:.4f}", row.fetch_seconds); });
  }
  if (replays.runs.empty()) return;
  fmt::print(
      "\nby the overlay's own rules (a missed row comes in one pass later, by score)\n{:>12} {:>8} {:>10} {:>10} "
      "{:>10} {:>10} {:>10}\n",
      "policy", "slots", "hits", "misses", "admitted", "evicted", "refused");
  for (const auto& [options, replay] : replays.runs) {
    const PageCache::Stats& stats = replay.stats;
    fmt::print("{:>12} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10}{}\n", EvictionName(options.eviction.kind), replay.slots,
               stats.hits, stats.misses, stats.admissions, stats.evictions, stats.refused,
               options.slots == 0 ? "  as recorded" : "");
  }
}

absl::Status WriteCsv(const std::string& path, const Subject& subject, const std::vector<Row>& rows) {
  std::ofstream file(path, std::ios::trunc);
  file << "policy,slots,hits,misses,compulsory_misses,warm_hits,warm_misses,regret_misses,miss_bytes\n";
  for (const Row& row : rows) {
    const SimulationResult& result = row.result;
    file << fmt::format("{},{},{},{},{},", row.simulation->policy.name, row.slots, result.cold.hits, result.cold.misses,
                        std::min<int64_t>(static_cast<int64_t>(subject.list.distinct.size()), result.cold.misses));
    file << (row.simulation->warm ? fmt::format("{},{},", result.warm.hits, result.warm.misses) : ",,");
    file << (row.belady_misses >= 0 ? fmt::format("{},", result.cold.misses - row.belady_misses) : ",");
    file << (row.miss_bytes >= 0 ? fmt::format("{:.0f}\n", row.miss_bytes) : "\n");
  }
  file.close();
  if (!file) return ErrnoStatus("write", path, -1, -1, errno);
  return absl::OkStatus();
}

absl::Status RunSimulate(const SimulateFlags& flags, bool json) {
  ASSIGN_OR_RETURN(const Subject subject, Open(flags));
  if (flags.list) {
    for (PageKey key : subject.list.keys) fmt::print("{}\n", ToInt(key));
    return absl::OkStatus();
  }
  CatchInterrupt();
  Progress bar;
  const int threads = flags.threads > 0 ? flags.threads : std::max(1U, std::thread::hardware_concurrency());
  std::vector<SimulationResult> results =
      SimulateAll(subject.list, subject.simulations, threads, [&](int done, int total) {
        if (done < total) bar.Steps("simulating", done, total);
        return !Interrupted();
      });
  bar.Finish();
  if (Interrupted()) return absl::CancelledError("interrupted");
  const std::vector<Row> rows = MakeRows(subject, std::move(results));
  ASSIGN_OR_RETURN(const Replays replays, Replay(flags, subject));
  if (!flags.csv_out.empty()) RETURN_IF_ERROR(WriteCsv(flags.csv_out, subject, rows));
  if (!json) {
    Print(flags, subject, rows, replays);
    return absl::OkStatus();
  }
  nlohmann::ordered_json out = {{"requests", subject.list.keys.size()},
                                {"distinct", subject.list.distinct.size()},
                                {"tokens", subject.list.tokens.size()},
                                {"simulated", true},
                                {"results", nlohmann::ordered_json::array()}};
  for (const Row& row : rows) out["results"].push_back(JsonOf(subject, row, flags.by_layer));
  for (size_t i = 0; i < replays.runs.size(); ++i) {
    const auto& [options, replay] = replays.runs[i];
    if (i == 0)
      out["recorded"] = JsonOf(replay, options);
    else
      out["replays"].push_back(JsonOf(replay, options));
  }
  if (subject.trace) out["torn"] = !subject.trace->torn.empty();
  PrintJson(out);
  return absl::OkStatus();
}

}  // namespace

void AddSimulateCommand(CLI::App& app, CommandContext* context) {
  auto flags = std::make_shared<SimulateFlags>();
  CLI::App* command = app.add_subcommand("simulate", "caches of any policy and size on the requests of a recorded run");
  command->add_option("trace", flags->trace, "what dogstar run --record wrote");
  command->add_option("--csv", flags->csv,
                      "instead: a file with one page id (an integer) a line; - for standard input");
  command->add_option("--policies", flags->policies,
                      "all, or names with commas; belady and belady-bypass see the future");
  command->add_option("--slots", flags->slots, "sizes: 100,1000 or 10%..90%+10% (of the distinct objects)");
  command->add_option("--capacity", flags->capacity, "layer: each layer has its own part; global: one for all")
      ->check(CLI::IsMember({"layer", "global"}));
  command->add_option("--page", flags->page, "objects of so many neighbouring rows (ids)")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--prefetch", flags->prefetch, "with a miss, so many objects that follow it come too")
      ->check(CLI::Range(0, 1 << 16));
  command->add_flag("--warm", flags->warm, "the same requests once more, with the cache as it was left");
  command->add_flag("--replay", flags->replay, "also each policy and size by the overlay's own rules");
  command->add_flag("--list", flags->list, "only print the requests, one id (layer * 2^32 + row) a line");
  command->add_flag("--by-layer", flags->by_layer, "with --json: misses of each layer");
  command
      ->add_option("--token-requests", flags->token_requests, "with --csv: requests of a token (lfu-aged, least-stale)")
      ->check(CLI::PositiveNumber);
  command->add_option("--object-bytes", flags->object_bytes, "with --csv: bytes of an object")
      ->check(CLI::PositiveNumber);
  command->add_option("--tiers", flags->tiers, "tiers.json of dogstar probe: predicts the time of fetching misses");
  command
      ->add_option_function<std::vector<std::string>>(
          "--set",
          [flags](const std::vector<std::string>& values) {
            flags->assignments.insert(flags->assignments.end(), values.begin(), values.end());
          },
          "parameters of policies, cache.KEY=VALUE; may be repeated")
      ->allow_extra_args(false);
  command->add_option("-t,--threads", flags->threads, "simulations at once; default: all cores")
      ->check(CLI::Range(1, 1024));
  command->add_option("--csv-out", flags->csv_out, "write the counts to a file too");
  command->add_flag("--json", context->json, "one JSON object on standard output");
  command->callback(
      [flags, context] { context->run = [flags, context] { return RunSimulate(*flags, context->json); }; });
}

}  // namespace dogstar
