#include "runtime/engine.h"

#include <malloc.h>

#include <algorithm>
#include <thread>

#include "base/units.h"
#include "cpu/cpu_backend.h"
#include "fmt/format.h"
#include "runtime/packed_form.h"

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
  ASSIGN_OR_RETURN(const std::string path, FindOrMakePackedForm(config.model, config, Threads(config), hooks));
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
  limits.capture = predictor_->observes_prompt() && model_->packed() != nullptr && NeedsPacked(options_.mode);
  limits.logit_rows = options_.logit_rows;
  for (int32_t rows : kBatchRows) {
    limits.batch_rows = std::max(rows, options_.logit_rows);
    const uint64_t bytes = Forward::Bytes(*model_, *backend_, limits);
    if (accountant_.limit_bytes() == kNoLimit || bytes <= accountant_.limit_bytes() / kActivationShare) break;
  }
  return limits;
}

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
  if (drafts && limits_.capture) request.overlay_share = config_.draft.overlay;
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

// Settles what the settings leave open. A model that is only loaded is not worth measuring.
absl::Status Engine::ChooseHowToRead(const Hooks& hooks, ReaderOptions* options) {
  if (placement_.everything_resident()) return absl::OkStatus();
  if (const std::string refusal = HugePageRefusal(); !refusal.empty()) {
    Note(hooks, fmt::format("memory is not in huge pages, which makes reading slower: {}", refusal));
  }
  ASSIGN_OR_RETURN(reader_choice_, ChooseReader(model_->path(), *options));
  if (reader_choice_.engine != options->engine || reader_choice_.direct != options->direct) {
    Note(hooks, fmt::format("{} is read with {}", model_->path(), reader_choice_.reason));
  }
  options->engine = reader_choice_.engine;
  options->direct = reader_choice_.direct;
  return absl::OkStatus();
}

std::string Engine::DescribeIo() const {
  return reader_choice_.reason.empty() ? reader_->Describe() : reader_->Describe() + "; " + reader_choice_.reason;
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
  RETURN_IF_ERROR(ChooseHowToRead(hooks, &reader_options));
  std::vector<std::string> notes;
  ASSIGN_OR_RETURN(reader_, OpenPageReader(model_->path(), reader_options, &notes));
  for (const std::string& note : notes) Note(hooks, note);
  RETURN_IF_ERROR(model_->CheckUnchanged());  // what was opened now is what the model describes

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
  if (model_->packed() != nullptr) {
    std::vector<int32_t> overlay_rows;
    int32_t most = 0;
    for (const LayerPlacement& layer : placement_.layers) {
      overlay_rows.push_back(layer.overlay_rows);
      most = std::max(most, layer.overlay_rows);
    }
    if (most > 0) {
      ASSIGN_OR_RETURN(overlay_, Overlay::Create(*model_->packed(), overlay_rows, backend_.get()));
    }
  }
  ASSIGN_OR_RETURN(kv_store_, backend_->NewKvStore(ShapeOfKv()));
  ASSIGN_OR_RETURN(forward_,
                   Forward::Create(model_, weights_.get(), backend_.get(), pager_.get(), kv_store_.get(), limits_));
  forward_->SetTrace(options_.trace);
  return absl::OkStatus();
}

}  // namespace dogstar
