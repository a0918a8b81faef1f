#include "runtime/engine.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/panel.h"
#include "base/units.h"
#include "fmt/format.h"
#include "runtime/devices.h"
#include "runtime/packed_form.h"
#include "runtime/row_norms.h"
#include "runtime/run_plan.h"

namespace dogstar {
namespace {

constexpr uint64_t kMiB = 1 << 20;

void Note(const Hooks& hooks, const std::string& message) {
  if (hooks.note) hooks.note(message);
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
  ASSIGN_OR_RETURN(const std::string path, FindOrMakePackedForm(config.model, config, ThreadsOf(config), hooks));
  return ModelChoice{path, mode};
}

Engine::Engine(const Config& config, const ModelFile* model, const Options& options)
    : config_(config),
      model_(model),
      options_(options),
      accountant_(config.budget.ram.value_or(kNoLimit)),
      device_accountant_(HasDeviceMemory(config) ? config.budget.vram : kNoLimit),
      kv_cache_(KvSlots(config, options.mode, options.context_slots, options.texts)) {}

Engine::~Engine() = default;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Config& config, const ModelFile* model,
                                                       const Options& options, const Hooks& hooks) {
  auto engine = std::unique_ptr<Engine>(new Engine(config, model, options));
  RETURN_IF_ERROR(engine->Build(hooks));
  return engine;
}

absl::Status Engine::Plan(const Hooks& hooks) {
  RunPlanOptions options;
  options.mode = options_.mode;
  options.context_slots = options_.context_slots;
  options.texts = options_.texts;
  options.logit_rows = options_.logit_rows;
  AskChoices(choices_, &options);
  options.captures_verified = options_.captures_verified;
  options.program_bytes = options_.program_bytes ? *options_.program_bytes : MeasureProgramBytes();
  options.text_bytes = options_.text_bytes;
  options.trace_bytes = options_.trace != nullptr ? Trace::Bytes() : 0;
  if (options_.accesses != nullptr) options.trace_bytes += AccessRecorder::Bytes(model_->config().ffn_rows);
  ASSIGN_OR_RETURN(const MachineRates machine, KnownRates(config_, hooks.note));
  StreamRates rates = StreamRatesOf(machine, model_->path());
  ASSIGN_OR_RETURN(RunPlan plan, PlanRun(config_, *model_, *backend_, options, rates));
  if (!plan.placement.everything_resident()) {  // a model that is only loaded is not worth measuring its disk
    RETURN_IF_ERROR(ChooseHowToRead(hooks));
    if (rates.disk_bytes_per_second == 0 && reader_choice_.bytes_per_second > 0) {
      rates.disk_bytes_per_second = reader_choice_.bytes_per_second;
      ASSIGN_OR_RETURN(plan, PlanRun(config_, *model_, *backend_, options, rates));
    }
  }
  RETURN_IF_ERROR(GiveUpDrafts(hooks, rates, &options, &plan));
  limits_ = plan.limits;
  harvest_ = plan.harvest;
  placement_ = std::move(plan.placement);
  gathered_rows_ = std::move(plan.gathered_rows);
  draft_vocabulary_ = plan.draft_vocabulary;
  longest_joined_ = plan.longest_joined;
  return absl::OkStatus();
}

absl::Status Engine::ReserveMemory() {
  for (const PlanLine& line : placement_.lines) {
    Accountant& accountant = line.on_device ? device_accountant_ : accountant_;
    RETURN_IF_ERROR(accountant.Reserve(line.what, line.resident_bytes));
  }
  return absl::OkStatus();
}

// What a budget promises is taken at once: what the machine lacks shows now, not in the middle of a text. Where a
// device computes this memory is page-locked, of which a system may grant less: then weights get half as much, and the
// others are read from the disk.
absl::Status Engine::TakeHostMemory(const Hooks& hooks) {
  while (true) {
    const uint64_t ring_bytes = placement_.ring_bytes, weight_bytes = placement_.host_bytes;
    ASSIGN_OR_RETURN(ring_, backend_->NewHostMemory(ring_bytes));
    if (weight_bytes == 0) return absl::OkStatus();
    absl::StatusOr<std::unique_ptr<HostMemory>> host = backend_->NewHostMemory(weight_bytes);
    if (host.ok()) {
      host_weights_ = *std::move(host);
      return absl::OkStatus();
    }
    ring_.reset();
    config_.budget.pinned = ring_bytes + weight_bytes / 2;
    Note(hooks,
         fmt::format("page-locked memory is not granted ({}): budget.pinned becomes {}, and the rest is read from "
                     "the disk",
                     std::string(host.status().message()), FormatSize(config_.budget.pinned)));
    RETURN_IF_ERROR(Plan(hooks));
  }
}

// Where memory holds everything but for what drafts need themselves, they cannot pay.
absl::Status Engine::GiveUpDrafts(const Hooks& hooks, const StreamRates& rates, RunPlanOptions* options,
                                  RunPlan* plan) {
  const bool adapts = options_.mode == RunMode::kStrict && AdaptsDrafts(config_, options_.mode);
  if (!adapts || options_.captures_verified || plan->placement.everything_resident()) return absl::OkStatus();
  if (options->logit_rows <= options_.texts) return absl::OkStatus();
  RunPlanOptions plain = *options;
  plain.logit_rows = options_.texts;
  Config config = config_;
  config.draft.tree = TreeShape::kChain;  // no slots for nodes either
  ASSIGN_OR_RETURN(RunPlan without, PlanRun(config, *model_, *backend_, plain, rates));
  if (!without.placement.everything_resident()) return absl::OkStatus();
  Note(hooks, "the budget holds the whole model if nothing is drafted, and drafts would cost more: full passes alone");
  config_ = std::move(config);
  kv_cache_ = KvCache(KvSlots(config_, options_.mode, options_.context_slots, options_.texts));
  *options = std::move(plain);
  *plan = std::move(without);
  options_.logit_rows = options_.texts;
  return absl::OkStatus();
}

absl::Status Engine::CheckDrafts(const Hooks& hooks) {
  can_draft_ = placement_.drafts_need_no_disk;
  if (!NeedsPacked(options_.mode) || can_draft_) return absl::OkStatus();
  if (options_.mode == RunMode::kSparse) {
    return absl::ResourceExhaustedError("sparse mode needs attention and head in memory; raise the budget");
  }
  Note(hooks,
       "the budget does not hold attention and head: no drafts by a sparse model, only of what the text said before "
       "(draft.lookup)");
  return absl::OkStatus();
}

// Settles what the settings leave open, by reading a little.
absl::Status Engine::ChooseHowToRead(const Hooks& hooks) {
  if (const std::string refusal = HugePageRefusal(); !refusal.empty()) {
    Note(hooks, fmt::format("memory is not in huge pages, which makes reading slower: {}", refusal));
  }
  const ReaderOptions options = {.engine = config_.io.engine, .direct = config_.io.direct};
  ASSIGN_OR_RETURN(reader_choice_, ChooseReader(model_->path(), options));
  if (reader_choice_.engine == options.engine && reader_choice_.direct == options.direct) return absl::OkStatus();
  Note(hooks, fmt::format("{} is read with {}", model_->path(), reader_choice_.reason));
  config_.io.engine = reader_choice_.engine;
  config_.io.direct = reader_choice_.direct;
  return absl::OkStatus();
}

std::string Engine::DescribeIo() const {
  return reader_choice_.reason.empty() ? reader_->Describe() : reader_->Describe() + "; " + reader_choice_.reason;
}

absl::Status Engine::CreateOverlay() {
  if (harvest_ == HarvestMode::kOff) return absl::OkStatus();
  Overlay::Options options;
  options.eviction = config_.cache.eviction;
  options.capacity = config_.cache.capacity;
  options.hysteresis = config_.cache.hysteresis;
  int32_t most = 0;
  for (size_t i = 0; i < placement_.layers.size(); ++i) {
    const LayerPlacement& layer = placement_.layers[i];
    options.layer_rows.push_back(layer.overlay_rows);
    options.prefix_rows.push_back((layer.resident_pages + layer.plane_pages) *
                                  model_->packed()->layers()[i].layout.page_rows);
    most = std::max(most, layer.overlay_rows);
  }
  if (most == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(overlay_, Overlay::Create(*model_->packed(), options, backend_.get()));
  return absl::OkStatus();
}

absl::Status Engine::CreateResiduals(const Hooks& hooks) {
  const double density = config_.draft.density >= 0 ? config_.draft.density : placement_.resident_density;
  const Residual* const residual = FindResidual(choices_, density);
  if (residual != nullptr) {
    std::vector<const LowRankMap*> maps;
    for (const LowRankMap& map : residual->maps) maps.push_back(&map);
    ASSIGN_OR_RETURN(residuals_, LowRankProducts::Create(maps, 0, backend_.get(), options_.logit_rows));
    forward_->SetResiduals(residuals_.get());
    Note(hooks, fmt::format("drafts guess what {} leaves out, by the map for density {}", choices_.predictor->name(),
                            residual->density));
  }
  choices_.residuals = {};
  return absl::OkStatus();
}

// Who computes the pages in host memory, by what the machine gives.
absl::Status Engine::CreateHostFfn(const Hooks& hooks) {
  if (!placement_.host_tables) return absl::OkStatus();
  ASSIGN_OR_RETURN(host_ffn_, HostFfn::Create(*model_, weights_.get(), HostFfnOf(config_, *model_, limits_)));
  forward_->SetHostFfn(host_ffn_.get());
  if (config_.hybrid >= 0) {
    host_ffn_->SetSplit(HybridSplit(config_.hybrid));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const HybridRates rates, host_ffn_->Measure(backend_.get()));
  const HybridSplit split(rates);
  host_ffn_->SetSplit(split);
  const auto gigabytes = [](double seconds) { return seconds > 0 ? 1e-9 / seconds : 0; };
  Note(hooks,
       fmt::format("rows in host memory: of passes over 1 row the processor computes {:.0f}% ({:.1f} GB/s beside a "
                   "link of {:.1f}), over {} rows {:.0f}% ({:.1f} GB/s)",
                   100 * split.ShareOf(1), gigabytes(rates.one_row_seconds), gigabytes(rates.link_seconds), rates.rows,
                   100 * split.ShareOf(rates.rows), gigabytes(rates.rows_seconds)));
  return absl::OkStatus();
}

void Engine::BeginRecord() {
  if (options_.accesses == nullptr) return;
  AccessHeader header;
  header.model = model_->path();
  header.rows = model_->config().ffn_rows;
  header.policy = EvictionName(config_.cache.eviction.kind);
  header.half_life = config_.cache.eviction.lfu_half_life;
  header.hysteresis = config_.cache.hysteresis;
  if (model_->packed() != nullptr) header.model_hash = model_->packed()->source().header_hash;
  for (size_t i = 0; i < placement_.layers.size(); ++i) {
    AccessLayer& layer = header.layers.emplace_back();
    if (model_->packed() == nullptr) continue;
    const FfnPageLayout& layout = model_->packed()->layers()[i].layout;
    const LayerPlacement& place = placement_.layers[i];
    layer.prefix_rows = std::min((place.resident_pages + place.plane_pages) * layout.page_rows, layout.ffn_rows);
    layer.slots = overlay_ != nullptr ? placement_.layers[i].overlay_rows : 0;
    layer.row_bytes = OverlaySizesOf(layout, kPanelRows).total() / kPanelRows;
  }
  options_.accesses->Begin(header);
}

absl::Status Engine::Build(const Hooks& hooks) {
  ASSIGN_OR_RETURN(choices_, MakeDraftChoices(config_, *model_));
  if (choices_.predictor->evaluation_only() && !options_.captures_verified) {
    return absl::InvalidArgumentError(fmt::format(
        "draft.predictor {} needs the full model's values before it drafts: only eval --task sparsity has them",
        choices_.predictor->name()));
  }
  ASSIGN_OR_RETURN(backend_, NewBackend(config_));
  RETURN_IF_ERROR(Plan(hooks));
  RETURN_IF_ERROR(TakeHostMemory(hooks));
  RETURN_IF_ERROR(ReserveMemory());
  RETURN_IF_ERROR(CheckDrafts(hooks));
  RETURN_IF_ERROR(backend_->ReserveStaging(placement_.staging_bytes));
  if (longest_joined_ > 0) RETURN_IF_ERROR(backend_->ReserveJoinRoom(longest_joined_));

  ReaderOptions reader_options;
  reader_options.engine = config_.io.engine;
  reader_options.direct = config_.io.direct;
  reader_options.queue_depth = static_cast<size_t>(config_.io.queue_depth);
  reader_options.buffer = ring_->span();
  std::vector<std::string> notes;
  ASSIGN_OR_RETURN(reader_, OpenPageReader(model_->path(), reader_options, &notes));
  for (const std::string& note : notes) Note(hooks, note);
  RETURN_IF_ERROR(model_->CheckUnchanged());  // what was opened now is what the model describes

  const auto progress = [&](uint64_t done, uint64_t total) {
    if (hooks.progress) hooks.progress("loading", done, total);
    loaded_bytes_ = done;
  };
  ASSIGN_OR_RETURN(weights_, Weights::Load(*model_, placement_, backend_.get(), reader_.get(), ring_->span(),
                                           std::move(host_weights_), config_.io.verify, progress));
  Pager::Options pager_options = weights_->pager_options();
  pager_options.note = hooks.note;
  pager_options.trace = options_.trace;
  pager_ = std::make_unique<Pager>(reader_.get(), ring_->span(), std::move(pager_options));
  RETURN_IF_ERROR(GiveRowNorms(*weights_, ThreadsOf(config_), backend_.get(), choices_.predictor.get()));
  RETURN_IF_ERROR(CreateOverlay());
  if (!gathered_rows_.empty()) {
    ASSIGN_OR_RETURN(gathered_, GatheredRows::Create(model_->packed()->layouts(), gathered_rows_, backend_.get()));
  }
  ASSIGN_OR_RETURN(kv_store_, backend_->NewKvStore(
                                  KvShapeOf(config_, model_->config(),
                                            KvSlots(config_, options_.mode, options_.context_slots, options_.texts))));
  ASSIGN_OR_RETURN(forward_,
                   Forward::Create(model_, weights_.get(), backend_.get(), pager_.get(), kv_store_.get(), limits_));
  forward_->SetTrace(options_.trace);
  RETURN_IF_ERROR(CreateHostFfn(hooks));
  if (NeedsPacked(options_.mode)) {
    ASSIGN_OR_RETURN(score_maps_, ScoreMaps::Create(*choices_.predictor, model_->config().layer_count, backend_.get(),
                                                    options_.logit_rows));
    forward_->SetScoreMaps(score_maps_.get());
    RETURN_IF_ERROR(CreateResiduals(hooks));
  }
  if (choices_.source != nullptr && NeedsPacked(options_.mode)) {
    ASSIGN_OR_RETURN(prompt_attribution_,
                     PromptAttribution::Create(choices_.source.get(), model_->packed(),
                                               PromptAttributionOf(config_, options_.context_slots)));
  }
  if (draft_vocabulary_ > 0) {
    MatrixView first_rows = weights_->head().resident;
    first_rows.rows = std::min(first_rows.rows, draft_vocabulary_);
    ASSIGN_OR_RETURN(draft_head_, DraftHead::Create(model_, backend_.get(), first_rows, options_.logit_rows));
    forward_->SetDraftHead(draft_head_.get());
    Note(hooks,
         fmt::format("drafts choose among the first {} tokens, frequent ones and the prompt's own", draft_vocabulary_));
  }
  BeginRecord();
  return absl::OkStatus();
}

}  // namespace dogstar
