#include "runtime/run_plan.h"

#include <malloc.h>

#include <algorithm>
#include <thread>

#include "base/panel.h"
#include "base/units.h"
#include "fmt/format.h"
#include "memory/available_memory.h"
#include "memory/forecast.h"
#include "memory/gathered_rows.h"
#include "memory/weights.h"
#include "runtime/devices.h"
#include "runtime/draft_head.h"
#include "runtime/row_norms.h"
#include "runtime/row_scores.h"
#include "runtime/score_maps.h"
#include "runtime/text_harvest.h"
#include "runtime/tiers.h"

namespace dogstar {
namespace {

// Between planning and the end of a run the program itself grows a little: thread stacks, heap, code pages that were
// not touched yet. Measured with SmolLM2 and Gemma 3: up to 3.5 MiB, of it up to 2 MiB of code.
constexpr uint64_t kOwnSlack = uint64_t{3} << 20;
constexpr uint64_t kCodeSlack = uint64_t{1} << 20;
// What is resident of the program's file differs by 2 MiB from one start to the next, as the page cache has it, and
// ends at up to 8.8 MiB whatever it began with. Counted at no less than that, the smallest budget that one run names
// works for the next.
constexpr uint64_t kCodeAtEnd = uint64_t{9} << 20;
// Prompt rows per pass take at most this share of the budget.
constexpr uint64_t kActivationShare = 16;
// Above this share of the rows a list is no faster gathered than as masks (docs/sparsity.md).
constexpr double kGatherAtMost = 0.9;
// Logits of a cycle take at most this share of it.
constexpr uint64_t kLogitShare = 8;
// Passes of more rows (prompts) leave the pages in host memory to the device: the processor computes too long.
constexpr int32_t kHostRows = 32;
constexpr int32_t kBatchRows[] = {512, 256, 128, 64, 32, 16};

KvType KvTypeOf(const Config& config) {
  if (config.precise || config.kv_type == KvPrecision::kF32) return KvType::kF32;
  return config.kv_type == KvPrecision::kQ8_0 ? KvType::kQ8_0 : KvType::kF16;
}

HarvestMode HarvestOf(const Config& config, const ModelFile& model, const RunPlanOptions& options) {
  if (model.packed() == nullptr || !NeedsPacked(options.mode)) return HarvestMode::kOff;
  if (HasDeviceMemory(config)) return HarvestMode::kOff;  // the host does not see what the device holds
  if (config.cache.harvest) return *config.cache.harvest;
  if (options.follows_text) return HarvestMode::kText;
  const bool wants_prompt_rows = options.observes_prompt && !options.chooses_by_token;
  return wants_prompt_rows ? HarvestMode::kPrompt : HarvestMode::kOff;
}

int32_t CaptureRows(const ModelFile& model, const RunPlanOptions& options, HarvestMode harvest,
                    const Forward::Limits& limits) {
  if (model.packed() == nullptr || !NeedsPacked(options.mode)) return 0;
  if (options.observes_prompt || harvest == HarvestMode::kPrompt) return limits.batch_rows;
  return harvest == HarvestMode::kText || options.captures_verified ? limits.logit_rows : 0;
}

// What a device's memory cannot serve.
absl::Status CheckDeviceChoices(const Config& config) {
  if (config.cache.harvest.value_or(HarvestMode::kOff) == HarvestMode::kOff) return absl::OkStatus();
  return absl::UnimplementedError(
      "cache.harvest needs weights in host memory, where a run with budget.vram does not keep them; leave it off");
}

// Share of the FFN's pages that may be there in part. Rows that are chosen token by token, or by their norms, are
// whole.
absl::StatusOr<double> PlanesOf(const Config& config, const RunPlanOptions& options, HarvestMode harvest) {
  const double asked = config.draft.planes;
  if (!NeedsPacked(options.mode) || asked == 0) return 0;
  const bool fits = !options.chooses_by_token && !options.needs_row_norms && !config.precise;
  if (asked > 0 && !fits) {
    return absl::InvalidArgumentError(
        fmt::format("draft.planes {}: {} wants whole rows; leave draft.planes at -1", asked,
                    config.precise ? "precise mode" : fmt::format("draft.predictor {}", config.draft.predictor)));
  }
  if (asked > 0) return asked;
  return fits && harvest == HarvestMode::kOff ? 1 : 0;
}

// The same for attention, whose rows no predictor chooses. none: the planner sees to it.
absl::StatusOr<std::optional<double>> AttentionPlanesOf(const Config& config, const RunPlanOptions& options,
                                                        double ffn_planes) {
  const double asked = config.draft.attention_planes;
  if (!NeedsPacked(options.mode) || asked == 0) return 0;
  if (asked > 0 && config.precise) {
    return absl::InvalidArgumentError(
        fmt::format("draft.attention_planes {}: precise mode wants whole matrices; leave it at -1", asked));
  }
  if (asked > 0) return asked;
  if (ffn_planes > 0) return std::nullopt;
  return 0;
}

// Pages in planes leave the processor no whole ones to compute. guess: where a device computes they pay if passes wait
// for the disk, which reads more than host memory holds; settings that ask for them get them.
bool PlanesPay(const Config& config, const Placement& without) {
  return !HasDeviceMemory(config) || config.draft.planes > 0 || without.complement_bytes > without.host_bytes;
}

// The longest of the pages and panels that a device may have to put together.
uint64_t LongestPiece(const ModelShape& shape) {
  uint64_t longest = shape.head.PanelBytesOf(kPanelRows);
  for (const LayerShape& layer : shape.layers) {
    longest = std::max(longest, layer.pages.page_bytes);
    for (const MatrixShape* matrix :
         {&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate, &layer.up, &layer.down}) {
      if (matrix->rows > 0) longest = std::max(longest, matrix->PanelBytesOf(kPanelRows));
    }
  }
  return longest;
}

void AddJoinRoom(const Backend& backend, const ModelShape& shape, RunPlan* plan) {
  plan->longest_joined = LongestPiece(shape);
  const uint64_t room = backend.JoinRoomBytes(plan->longest_joined);
  if (room > 0) plan->request.fixed.push_back({"room to make panels", room, true});
}

bool HasAllMatrices(const ModelShape& shape, const Placement& placement) {
  if (placement.head.resident_rows < shape.head.rows) return false;
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const LayerShape& layer = shape.layers[i];
    const LayerPlacement& place = placement.layers[i];
    for (const auto& [matrix, rows] :
         {std::pair{&layer.query, place.query}, std::pair{&layer.key, place.key}, std::pair{&layer.value, place.value},
          std::pair{&layer.output, place.output}, std::pair{&layer.gate, place.gate}, std::pair{&layer.up, place.up},
          std::pair{&layer.down, place.down}}) {
      if (rows.resident_rows < matrix->rows) return false;
    }
  }
  return true;
}

// Rows that come over the link as the file has them become panels first.
absl::Status AddRoomForRows(const Config& config, const Backend& backend, const ModelShape& shape, RunPlan* plan) {
  if (!HasDeviceMemory(config) || plan->longest_joined > 0) return absl::OkStatus();
  if (HasAllMatrices(shape, plan->placement)) return absl::OkStatus();
  AddJoinRoom(backend, shape, plan);
  ASSIGN_OR_RETURN(plan->placement, PlanPlacement(shape, plan->request));
  return absl::OkStatus();
}

// Which weights may be there in part, and what putting them together takes.
absl::Status AddPlanes(const Config& config, const Backend& backend, const ModelShape& shape,
                       const RunPlanOptions& options, RunPlan* plan) {
  ASSIGN_OR_RETURN(double planes, PlanesOf(config, options, plan->harvest));
  if (planes > 0) {
    ASSIGN_OR_RETURN(const Placement without, PlanPlacement(shape, plan->request));
    if (!PlanesPay(config, without)) planes = 0;
  }
  PlanRequest request = plan->request;
  plan->request.planes = planes;
  ASSIGN_OR_RETURN(plan->request.attention_planes, AttentionPlanesOf(config, options, planes));
  if (planes == 0 && plan->request.attention_planes == 0) return absl::OkStatus();
  AddJoinRoom(backend, shape, plan);
  const bool asked = config.draft.planes > 0 || config.draft.attention_planes > 0;
  if (asked || PlanPlacement(shape, plan->request).ok()) return absl::OkStatus();
  plan->request = std::move(request);  // the room itself does not fit
  plan->longest_joined = 0;
  return absl::OkStatus();
}

bool MayBeHybrid(const Config& config, const ModelFile& model) {
  return HasDeviceMemory(config) && model.packed() != nullptr && config.hybrid != 0;
}

Forward::Limits ChooseLimits(const Config& config, const ModelFile& model, const Backend& backend,
                             const RunPlanOptions& options, HarvestMode harvest) {
  Forward::Limits limits;
  limits.logit_rows = options.logit_rows;
  for (int32_t rows : kBatchRows) {
    limits.batch_rows = std::max(rows, options.logit_rows);
    limits.capture_up = options.observes_up;
    limits.choice_rows = options.chooses_by_token && NeedsPacked(options.mode) ? options.logit_rows : 0;
    limits.capture_rows = CaptureRows(model, options, harvest, limits);
    limits.capture_contexts = config.draft.head_density < 1 && NeedsPacked(options.mode);
    limits.host_rows = MayBeHybrid(config, model) ? std::min(std::max(options.logit_rows, 1), kHostRows) : 0;
    const uint64_t bytes = Forward::Bytes(model, backend, limits);
    if (!FastBudget(config) || bytes <= *FastBudget(config) / kActivationShare) break;
  }
  return limits;
}

// Scores, masks and tables of the overlay. How many places the tables serve is known from a first plan without them.
absl::Status AddHarvest(const Config& config, const ModelConfig& model, const ModelShape& shape, RunPlan* plan) {
  if (plan->harvest == HarvestMode::kOff) return absl::OkStatus();
  plan->request.overlay_share = config.draft.overlay;
  uint64_t bytes = RowScores::Bytes(model.layer_count, model.ffn_rows);
  ASSIGN_OR_RETURN(const Placement placement, PlanPlacement(shape, plan->request));
  if (plan->harvest == HarvestMode::kText) {
    bytes += TextHarvest::TableBytes(model.layer_count, model.ffn_rows, plan->limits.logit_rows,
                                     config.draft.density < 0 ? placement.resident_density : config.draft.density);
  }
  std::vector<int32_t> rows;
  for (const LayerPlacement& layer : placement.layers) rows.push_back(layer.overlay_rows);
  plan->request.fixed.push_back({"harvest", bytes + Overlay::TableBytes(config.cache.eviction, rows)});
  return absl::OkStatus();
}

// The head's rows that drafts use: an eighth of the vocabulary, within these (docs/sparsity.md has what was measured).
constexpr int32_t kLeastVocabulary = 6144, kMostVocabulary = 16384;
// FFN rows that drafts need to be worth their steps, and what a smaller head has to win of them.
constexpr double kLeastDraftDensity = 0.2, kLeastDensityGain = 0.05;

// A head of frequent tokens for drafts: where it was asked for, or where the rows that it makes room for pay.
absl::Status PlanDraftHead(const Config& config, const ModelFile& model, const Backend& backend,
                           const ModelShape& shape, const RunPlanOptions& options, RunPlan* plan) {
  const int32_t asked = config.draft.vocabulary;
  const Placement& before = plan->placement;
  if (!JudgesDrafts(options.mode) || !shape.packed || asked == 0) return absl::OkStatus();
  if (asked < 0 && options.logit_rows <= options.texts) return absl::OkStatus();  // cycles of one token draft nothing
  if (asked < 0 && before.everything_resident()) return absl::OkStatus();
  const int32_t wanted = asked > 0 ? asked : std::clamp(shape.head.rows / 8, kLeastVocabulary, kMostVocabulary);
  const int32_t tokens = std::min(wanted, shape.head.rows) / kPanelRows * kPanelRows;
  if (tokens == 0 || (asked < 0 && tokens > shape.head.rows / 2)) return absl::OkStatus();
  PlanRequest request = plan->request;
  request.draft_head_rows = tokens;
  request.fixed.push_back(
      {"frequent tokens for drafts", DraftHead::Bytes(model, backend, tokens, options.logit_rows), true});
  absl::StatusOr<Placement> placement = PlanPlacement(shape, request);
  if (!placement.ok()) return asked > 0 ? placement.status() : absl::OkStatus();
  const double least = before.drafts_need_no_disk ? before.resident_density + kLeastDensityGain : kLeastDraftDensity;
  const bool pays = placement->drafts_need_no_disk && placement->resident_density >= least;
  if (asked < 0 && !pays) return absl::OkStatus();
  plan->request = std::move(request);
  plan->placement = *std::move(placement);
  plan->draft_vocabulary = tokens;
  return absl::OkStatus();
}

// Memory that a run may take.
uint64_t TakeableBytes(const Config& config) {
  const uint64_t available = AvailableMemoryBytes();
  const uint64_t machine = available == kNoLimit ? kNoLimit : available + ResidentBytes();
  return std::min(config.budget.ram.value_or(kNoLimit), machine);
}

// A draft's list that holds for a whole text is gathered where that takes no place from resident weights.
void PlanGatheredRows(const Config& config, const ModelFile& model, const ModelShape& shape,
                      const RunPlanOptions& options, RunPlan* plan) {
  if (HasDeviceMemory(config)) return;
  const bool lists_change = plan->harvest == HarvestMode::kText || options.captures_verified;
  if (!config.draft.gather || !NeedsPacked(options.mode) || lists_change || options.predictor == nullptr) return;
  std::vector<int32_t> rows;
  for (int32_t i = 0; i < model.config().layer_count; ++i) {
    rows.push_back(options.predictor->ListedRows(LayerIndex{i}));
    if (rows.back() < 0 || rows.back() > kGatherAtMost * model.config().ffn_rows) return;
  }
  PlanRequest request = plan->request;
  request.fixed.push_back({"rows of the draft's list", GatheredRows::Bytes(model.packed()->layouts(), rows)});
  absl::StatusOr<Placement> placement = PlanPlacement(shape, request);
  if (!placement.ok() || !placement->everything_resident()) return;
  if (placement->planned_bytes > TakeableBytes(config)) return;
  plan->request = std::move(request);
  plan->placement = *std::move(placement);
  plan->gathered_rows = std::move(rows);
}

// What the processor needs to compute pages in host memory beside the device, where there are such pages.
absl::Status AddHostFfn(const Config& config, const ModelFile& model, const ModelShape& shape, RunPlan* plan) {
  if (!MayBeHybrid(config, model) || plan->placement.host_page_bytes == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const uint64_t bytes, HostFfn::Bytes(model, HostFfnOf(config, model, plan->limits)));
  plan->request.fixed.push_back({"processor's part of passes", bytes + Weights::HostTableBytes(model)});
  plan->request.host_tables = true;
  absl::StatusOr<Placement> placement = PlanPlacement(shape, plan->request);
  if (placement.ok() && placement->host_page_bytes > 0) {
    plan->placement = *std::move(placement);
    return absl::OkStatus();
  }
  plan->request.fixed.pop_back();  // it would take the place of the pages
  plan->request.host_tables = false;
  return absl::OkStatus();
}

// More than the machine has would be killed while it loads, or in the middle of a text.
absl::Status CheckMachine(const Config& config, const ModelFile& model, const Placement& placement) {
  const uint64_t available = AvailableMemoryBytes();
  const uint64_t resident = ResidentBytes();  // counted in the plan, and taken already
  if (available == kNoLimit || placement.planned_bytes <= available + resident) return absl::OkStatus();
  const std::string what = config.budget.ram
                               ? fmt::format("a budget of {} for {}", FormatSize(*config.budget.ram), model.path())
                               : model.path();
  return absl::ResourceExhaustedError(fmt::format(
      "{} takes {} and {} are available: give a budget that fits, such as --ram {}MiB (what it does not hold streams "
      "from disk), or a shorter context (-c)",
      what, FormatSize(placement.planned_bytes), FormatSize(available + resident),
      ((available + resident) >> 20) * 9 / 10));
}

// Null when it was not measured.
const DiskRates* DiskUnder(const MachineRates& machine, const std::string& path) {
  const absl::StatusOr<std::string> device = DeviceOf(path);
  return device.ok() ? machine.FindDisk(*device) : nullptr;
}

}  // namespace

bool JudgesDrafts(RunMode mode) { return mode == RunMode::kSirius || mode == RunMode::kStrict; }

bool NeedsPacked(RunMode mode) { return mode == RunMode::kSparse || JudgesDrafts(mode); }

PredictorOptions PredictorOptionsOf(const Config& config) {
  PredictorOptions options;
  options.name = config.draft.predictor;
  options.density = config.draft.density;
  options.layer_densities = config.draft.layer_densities;
  options.value_density = config.draft.value_density;
  options.selection = config.draft.selection;
  options.prior = config.draft.prior;
  options.refresh = config.draft.refresh;
  options.shared = config.draft.shared;
  options.seed = config.sampling.seed;
  return options;
}

HostFfn::Options HostFfnOf(const Config& config, const ModelFile& model, const Forward::Limits& limits) {
  return {ThreadsOf(config), limits.host_rows, model.config().activation};
}

PromptAttribution::Options PromptAttributionOf(const Config& config, int32_t context_slots) {
  return {ThreadsOf(config), std::min(config.draft.attribution_tokens, context_slots)};
}

void AskChoices(const DraftChoices& choices, RunPlanOptions* options) {
  const Predictor& predictor = *choices.predictor;
  options->observes_prompt = predictor.observes_prompt();
  options->observes_up = predictor.observes_up();
  options->chooses_by_token = predictor.chooses_by_token();
  options->follows_text = predictor.follows_text();
  options->needs_row_norms = predictor.needs_row_norms();
  options->predictor = &predictor;
  options->attribution_source = choices.source.get();
  if (choices.residuals.empty()) return;
  const std::vector<LowRankMap>& maps = choices.residuals.front().maps;  // all are of one size
  options->residual = &maps.front();
  for (const LowRankMap& map : maps) options->residual_bytes += LowRankProducts::MapBytes(map);
}

uint64_t MeasureProgramBytes() {
  malloc_trim(0);  // the vocabulary's strings are gone
  const ResidentMemory now = ReadResident();
  return now.own + kOwnSlack + std::max(now.files + kCodeSlack, kCodeAtEnd);
}

int ThreadsOf(const Config& config) {
  return config.threads > 0 ? config.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

bool AdaptsDrafts(const Config& config, RunMode mode) {
  return config.corrector.adaptive.value_or(mode == RunMode::kStrict);
}

int32_t DraftsOfCycle(const Config& config) {
  constexpr int32_t kBestNodes = 32;
  const int32_t chain = config.corrector.period - 1;
  const int32_t asked = config.draft.nodes;
  switch (config.draft.tree.value_or(TreeShape::kChain)) {
    case TreeShape::kChain:
      return asked > 0 ? std::min(asked, chain) : chain;
    case TreeShape::kBeam:
      return asked > 0 ? asked : config.draft.width * chain;
    case TreeShape::kBest:
      return chain == 0 ? 0 : asked > 0 ? asked : kBestNodes;
  }
  return chain;
}

CycleRows RowsOfCycles(const Config& config, RunMode mode, const ModelConfig& model, int32_t context_slots,
                       int32_t texts) {
  if (!JudgesDrafts(mode)) return {texts, ""};
  const int32_t asked = DraftsOfCycle(config) + 1;
  const int32_t in_context = std::max(1, std::min(asked, context_slots + TreeSlots(config, mode)));
  CycleRows cycle{in_context * texts, ""};
  if (in_context < asked) {
    cycle.reduced = fmt::format("a cycle of {} tokens is larger than the context: it has {}", asked, in_context);
  }
  const std::optional<uint64_t> budget = FastBudget(config);
  if (!budget) return cycle;
  const uint64_t row_bytes = static_cast<uint64_t>(model.vocab_size) * sizeof(float);
  const uint64_t share = *budget / kLogitShare;
  const int32_t in_budget = std::max(texts, static_cast<int32_t>(std::min<uint64_t>(share / row_bytes, 1 << 20)));
  if (in_budget >= cycle.rows) return cycle;
  cycle.reduced = fmt::format(
      "logits of {} tokens take {}, more than an eighth of the budget: cycles have {} tokens (corrector.period, "
      "draft.nodes)",
      cycle.rows, FormatSize(row_bytes * static_cast<uint64_t>(cycle.rows)), in_budget);
  cycle.rows = in_budget;
  return cycle;
}

int32_t TreeSlots(const Config& config, RunMode mode) {
  const bool may_branch = config.draft.tree ? *config.draft.tree != TreeShape::kChain : AdaptsDrafts(config, mode);
  if (!JudgesDrafts(mode) || !may_branch) return 0;
  const int32_t width = config.draft.tree ? config.draft.width : 1;
  return std::max(DraftsOfCycle(config), width * (config.corrector.period - 1));
}

int32_t KvSlots(const Config& config, RunMode mode, int32_t context_slots, int32_t texts) {
  return (context_slots + TreeSlots(config, mode)) * texts;
}

KvShape KvShapeOf(const Config& config, const ModelConfig& model, int32_t slots) {
  return {model.layer_count, model.kv_head_count, model.head_dim, slots, KvTypeOf(config)};
}

absl::StatusOr<RunPlan> PlanRun(const Config& config, const ModelFile& model, const Backend& backend,
                                const RunPlanOptions& options, const StreamRates& rates) {
  RunPlan plan;
  plan.harvest = HarvestOf(config, model, options);
  plan.limits = ChooseLimits(config, model, backend, options, plan.harvest);
  plan.request.budget_bytes = config.budget.ram.value_or(kNoLimit);
  if (HasDeviceMemory(config)) {
    RETURN_IF_ERROR(CheckDeviceChoices(config));
    plan.request.device_bytes = config.budget.vram;
    if (config.budget.pinned > 0) plan.request.pinned_bytes = config.budget.pinned;
    // Host memory is for weights as far as the machine has it.
    if (!config.budget.ram) plan.request.budget_bytes = TakeableBytes(config) / 10 * 9;
  }
  plan.request.ring_bytes = config.io.ring_bytes;
  plan.request.rates = rates;
  plan.request.fixed = {
      {"program and vocabulary", options.program_bytes},
      {"KV cache",
       backend.KvStoreBytes(
           KvShapeOf(config, model.config(), KvSlots(config, options.mode, options.context_slots, options.texts))),
       true},
      {"activations", Forward::Bytes(model, backend, plan.limits), true},
      {"norms and down-scale tables", Weights::TableBytes(model), true}};
  if (const uint64_t own = backend.device_bytes(); own > 0 && HasDeviceMemory(config)) {
    plan.request.fixed.push_back({"context and lists", own, true});  // nothing else is there yet
  }
  if (options.text_bytes > 0) plan.request.fixed.push_back({"generated text", options.text_bytes});
  if (options.needs_row_norms && NeedsPacked(options.mode)) {
    plan.request.fixed.push_back(
        {"norms of FFN rows", RowNormBytes(model.config().layer_count, model.config().ffn_rows)});
  }
  if (options.predictor != nullptr && NeedsPacked(options.mode)) {
    const uint64_t maps = ScoreMaps::Bytes(*options.predictor, model.config().layer_count, backend, options.logit_rows);
    if (maps > 0) plan.request.fixed.push_back({"predictor", maps, true});
  }
  if (options.residual != nullptr && NeedsPacked(options.mode)) {
    const uint64_t tensors = LowRankProducts::TensorBytes(*options.residual, backend, options.logit_rows);
    plan.request.fixed.push_back({"residual maps", options.residual_bytes + tensors, true});
  }
  // What a sampler sorts; a greedy choice needs none. (Gemma 3's takes 1 MiB, a quarter of the program's slack.)
  if (config.sampling.temperature > 0) {
    plan.request.fixed.push_back({"sampling", static_cast<uint64_t>(model.config().vocab_size) * sizeof(int32_t)});
  }
  if (options.attribution_source != nullptr && NeedsPacked(options.mode)) {
    plan.request.fixed.push_back(
        {"attribution of prompts", PromptAttribution::Bytes(*options.attribution_source, backend,
                                                            PromptAttributionOf(config, options.context_slots))});
  }
  if (options.trace_bytes > 0) plan.request.fixed.push_back({"trace", options.trace_bytes});
  const ModelShape shape = ShapeOf(model);
  RETURN_IF_ERROR(AddPlanes(config, backend, shape, options, &plan));
  ASSIGN_OR_RETURN(plan.placement, PlanPlacement(shape, plan.request));
  RETURN_IF_ERROR(PlanDraftHead(config, model, backend, shape, options, &plan));
  RETURN_IF_ERROR(AddRoomForRows(config, backend, shape, &plan));
  RETURN_IF_ERROR(AddHarvest(config, model.config(), shape, &plan));
  ASSIGN_OR_RETURN(plan.placement, PlanPlacement(shape, plan.request));
  PlanGatheredRows(config, model, shape, options, &plan);
  RETURN_IF_ERROR(AddHostFfn(config, model, shape, &plan));
  RETURN_IF_ERROR(CheckMachine(config, model, plan.placement));
  return plan;
}

absl::StatusOr<MachineRates> KnownRates(const Config& config, const std::function<void(std::string_view)>& note) {
  const bool by_name = !config.tiers.empty();
  if (!by_name && config.cache_dir.empty()) return MachineRates{};
  absl::StatusOr<MachineRates> rates = ReadTiersFile(by_name ? config.tiers : config.cache_dir + "/tiers.json");
  if (rates.ok() || by_name) return rates;
  if (!absl::IsNotFound(rates.status()) && note) note(std::string(rates.status().message()));
  return MachineRates{};
}

StreamRates StreamRatesOf(const MachineRates& machine, const std::string& path) {
  StreamRates rates;
  rates.memory_bytes_per_second = machine.memory_bytes_per_second;
  const DiskRates* disk = DiskUnder(machine, path);
  if (disk == nullptr) return rates;
  rates.disk_bytes_per_second = disk->bytes_per_second;
  rates.in_flight_bytes = disk->in_flight_bytes;
  return rates;
}

double SharedOf(const MachineRates& machine, const std::string& path) {
  const DiskRates* disk = DiskUnder(machine, path);
  return disk != nullptr && disk->shared >= 0 ? disk->shared : kShared;
}

}  // namespace dogstar
