#include "runtime/engine.h"

#include <malloc.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "base/units.h"
#include "cpu/cpu_backend.h"
#include "fmt/format.h"
#include "runtime/importance.h"
#include "runtime/text_harvest.h"

namespace dogstar {
namespace {

constexpr uint64_t kMiB = 1 << 20;
// Between planning and the end of a run the program itself grows a little: thread stacks, heap, code pages that were
// not touched yet. Measured with SmolLM2: 1.5 MiB.
constexpr uint64_t kProgramSlack = 3 * kMiB;
// Prompt rows per pass take at most this share of the budget.
constexpr uint64_t kActivationShare = 16;
constexpr int32_t kBatchRows[] = {512, 256, 128, 64, 32, 16};

int Threads(const Config& config) {
  return config.threads > 0 ? config.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// Precise runs keep float32, whatever is asked for.
KvType KvTypeOf(const Config& config) {
  if (config.precise || config.kv_type == KvPrecision::kF32) return KvType::kF32;
  return config.kv_type == KvPrecision::kQ8_0 ? KvType::kQ8_0 : KvType::kF16;
}

void Note(const Hooks& hooks, const std::string& message) {
  if (hooks.note) hooks.note(message);
}

bool NeedsPacked(RunMode mode) {
  return mode == RunMode::kSparse || mode == RunMode::kSirius || mode == RunMode::kStrict;
}

// The packed form of `source`, made now when there is none that is up to date.
absl::StatusOr<std::string> PackedFormOf(const std::string& source, const Config& config, const Hooks& hooks) {
  const std::string packed = DefaultPackedPath(source, config.cache_dir);
  ASSIGN_OR_RETURN(const SourceIdentity identity, IdentifySource(source));
  std::error_code ignored;
  if (std::filesystem::exists(packed, ignored)) {
    absl::StatusOr<GgufHeader> header = ReadGgufHeader(packed);
    absl::StatusOr<PackedFile> file = header.ok() ? PackedFile::Open(packed, *header) : header.status();
    if (file.ok() && file->source() == identity) return packed;
    Note(hooks, fmt::format("{} does not match {} any more and is packed again{}", packed, source,
                            file.ok() ? std::string() : ": " + std::string(file.status().message())));
  }
  Note(hooks, fmt::format("packing {} once into {} (about {})", source, packed, FormatSize(identity.bytes)));
  PackOptions options;
  ASSIGN_OR_RETURN(options.importance, NewImportancePass(source, Threads(config)));
  options.progress = [&](uint64_t done, uint64_t total) {
    if (hooks.progress) hooks.progress("packing", done, total);
  };
  RETURN_IF_ERROR(PackModel(source, packed, options));
  malloc_trim(0);
  return packed;
}

}  // namespace

absl::StatusOr<ModelChoice> ChooseModel(const Config& config, const Hooks& hooks) {
  if (config.model.empty()) return absl::InvalidArgumentError("no model is given");
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(config.model));
  const bool is_packed = PackedFile::IsPacked(header);
  // Refused here already, so that nothing is packed that cannot run.
  RETURN_IF_ERROR(Annotate(ModelConfig::FromGguf(header).status(), config.model));
  RunMode mode = config.corrector.mode;
  if (mode == RunMode::kAuto) {
    // A model that fits runs dense; vocabulary, KV and activations take their part beside the file.
    const bool limited = config.budget.ram.has_value();
    const bool fits = !limited || *config.budget.ram > header.file_bytes() + header.file_bytes() / 16 + 64 * kMiB;
    mode = fits ? RunMode::kDense : RunMode::kStrict;
  }
  if (is_packed || !NeedsPacked(mode)) return ModelChoice{config.model, mode};
  ASSIGN_OR_RETURN(const std::string path, PackedFormOf(config.model, config, hooks));
  return ModelChoice{path, mode};
}

Engine::Engine(const Config& config, const ModelFile* model, const Options& options)
    : config_(config),
      model_(model),
      options_(options),
      accountant_(config.budget.ram.value_or(kNoLimit)),
      kv_cache_(options.context_slots) {}

Engine::~Engine() = default;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Config& config, const ModelFile* model,
                                                       const Options& options, const Hooks& hooks) {
  if (config.budget.vram > 0) {
    return absl::UnimplementedError("budget.vram: this build computes on the CPU; leave it at 0");
  }
  auto engine = std::unique_ptr<Engine>(new Engine(config, model, options));
  RETURN_IF_ERROR(engine->Build(hooks));
  return engine;
}

KvShape Engine::ShapeOfKv() const {
  const ModelConfig& c = model_->config();
  return {c.layer_count, c.kv_head_count, c.head_dim, options_.context_slots, KvTypeOf(config_)};
}

Forward::Limits Engine::ChooseLimits() const {
  Forward::Limits limits;
  limits.logit_rows = options_.logit_rows;
  for (int32_t rows : kBatchRows) {
    limits.batch_rows = std::max(rows, options_.logit_rows);
    limits.capture_rows = CaptureRows(limits);
    const uint64_t bytes = Forward::Bytes(*model_, *backend_, limits);
    if (accountant_.limit_bytes() == kNoLimit || bytes <= accountant_.limit_bytes() / kActivationShare) break;
  }
  return limits;
}

HarvestMode Engine::harvest() const {
  if (model_->packed() == nullptr || !NeedsPacked(options_.mode)) return HarvestMode::kOff;
  return config_.cache.harvest.value_or(predictor_->observes_prompt() ? HarvestMode::kPrompt : HarvestMode::kOff);
}

// Scores, masks and tables of the overlay. How many places the tables serve is known from a first plan without them.
absl::Status Engine::AddHarvestCosts(PlanRequest* request) const {
  if (harvest() == HarvestMode::kOff) return absl::OkStatus();
  request->overlay_share = config_.draft.overlay;
  const ModelConfig& c = model_->config();
  uint64_t bytes = RowScores::Bytes(c.layer_count, c.ffn_rows);
  ASSIGN_OR_RETURN(const Placement placement, PlanPlacement(*model_, *request));
  if (harvest() == HarvestMode::kText) {
    bytes += TextHarvest::TableBytes(c.layer_count, c.ffn_rows, limits_.logit_rows,
                                     config_.draft.density < 0 ? placement.resident_density : config_.draft.density);
  }
  std::vector<int32_t> rows;
  for (const LayerPlacement& layer : placement.layers) rows.push_back(layer.overlay_rows);
  request->fixed.push_back({"harvest", bytes + Overlay::TableBytes(config_.cache.eviction, rows)});
  return absl::OkStatus();
}

int32_t Engine::CaptureRows(const Forward::Limits& limits) const {
  if (model_->packed() == nullptr || !NeedsPacked(options_.mode)) return 0;
  if (observes_prompt()) return limits.batch_rows;
  return harvest() == HarvestMode::kText ? limits.logit_rows : 0;
}

bool Engine::observes_prompt() const { return predictor_->observes_prompt() || harvest() == HarvestMode::kPrompt; }

absl::Status Engine::Plan(const Hooks& hooks) {
  limits_ = ChooseLimits();
  PlanRequest request;
  request.budget_bytes = accountant_.limit_bytes();
  malloc_trim(0);  // the vocabulary's strings are gone; give their memory back before it is counted
  request.fixed = {{"program and vocabulary", options_.program_bytes.value_or(ResidentBytes() + kProgramSlack)},
                   {"KV cache", KvStoreBytes(ShapeOfKv())},
                   {"activations", Forward::Bytes(*model_, *backend_, limits_)},
                   {"norms and down-scale tables", Weights::TableBytes(*model_)}};
  if (options_.trace != nullptr) request.fixed.push_back({"trace", Trace::Bytes()});
  const bool drafts = NeedsPacked(options_.mode);
  RETURN_IF_ERROR(AddHarvestCosts(&request));
  ASSIGN_OR_RETURN(placement_, PlanPlacement(*model_, request));
  for (const PlanLine& line : placement_.lines) RETURN_IF_ERROR(accountant_.Reserve(line.what, line.resident_bytes));

  can_draft_ = model_->packed() != nullptr && placement_.head.resident_rows == model_->head().rows;
  for (size_t i = 0; i < placement_.layers.size(); ++i) {
    can_draft_ = can_draft_ && placement_.layers[i].output.resident_rows == model_->layers()[i].output.rows &&
                 placement_.layers[i].value.resident_rows == model_->layers()[i].value.rows;
  }
  if (drafts && !can_draft_) {
    if (options_.mode == RunMode::kSparse) {
      return absl::ResourceExhaustedError("sparse mode needs attention and head in memory; raise the budget");
    }
    Note(hooks, "the budget does not hold attention and head: every token is a full pass, without drafts");
  }
  return absl::OkStatus();
}

absl::Status Engine::CreateOverlay() {
  if (harvest() == HarvestMode::kOff) return absl::OkStatus();
  Overlay::Options options;
  options.eviction = config_.cache.eviction;
  options.capacity = config_.cache.capacity;
  options.hysteresis = config_.cache.hysteresis;
  int32_t most = 0;
  for (size_t i = 0; i < placement_.layers.size(); ++i) {
    const LayerPlacement& layer = placement_.layers[i];
    options.layer_rows.push_back(layer.overlay_rows);
    options.prefix_rows.push_back(layer.resident_pages * model_->packed()->layers()[i].layout.page_rows);
    most = std::max(most, layer.overlay_rows);
  }
  if (most == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(overlay_, Overlay::Create(*model_->packed(), options, backend_.get()));
  return absl::OkStatus();
}

absl::Status Engine::Build(const Hooks& hooks) {
  ASSIGN_OR_RETURN(predictor_, NewPredictor({config_.draft.predictor, config_.draft.density},
                                            model_->config().layer_count, model_->config().ffn_rows));
  ASSIGN_OR_RETURN(backend_, NewCpuBackend({Threads(config_), config_.precise, CpuIsa::kAuto}));
  RETURN_IF_ERROR(Plan(hooks));
  ASSIGN_OR_RETURN(ring_, AlignedBuffer::Create(placement_.ring_bytes));

  ReaderOptions reader_options;
  reader_options.engine = config_.io.engine;
  reader_options.direct = config_.io.direct;
  reader_options.queue_depth = static_cast<size_t>(config_.io.queue_depth);
  reader_options.buffer = ring_.span();
  std::vector<std::string> notes;
  ASSIGN_OR_RETURN(reader_, OpenPageReader(model_->path(), reader_options, &notes));
  for (const std::string& note : notes) Note(hooks, note);

  const auto progress = [&](uint64_t done, uint64_t total) {
    if (hooks.progress) hooks.progress("loading", done, total);
    loaded_bytes_ = done;
  };
  ASSIGN_OR_RETURN(weights_, Weights::Load(*model_, placement_, backend_.get(), reader_.get(), ring_.span(),
                                           config_.io.verify, progress));
  Pager::Options pager_options = weights_->pager_options();
  pager_options.note = hooks.note;
  pager_options.trace = options_.trace;
  pager_ = std::make_unique<Pager>(reader_.get(), ring_.span(), std::move(pager_options));
  RETURN_IF_ERROR(CreateOverlay());
  ASSIGN_OR_RETURN(kv_store_, backend_->NewKvStore(ShapeOfKv()));
  ASSIGN_OR_RETURN(forward_,
                   Forward::Create(model_, weights_.get(), backend_.get(), pager_.get(), kv_store_.get(), limits_));
  forward_->SetTrace(options_.trace);
  return absl::OkStatus();
}

}  // namespace dogstar
