// Engine: builds and owns everything a model needs to run within a budget.
//
//   Opened      a model's description and tokenizer (ModelFile), plain or packed, packed on first use if need be
//   Engine      placement, arena, pager, KV cache and forward pass for one context size
//
// Threads: one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "device/backend.h"
#include "io/page_reader.h"
#include "io/reader_choice.h"
#include "memory/access_trace.h"
#include "memory/accountant.h"
#include "memory/gathered_rows.h"
#include "memory/kv_cache.h"
#include "memory/overlay.h"
#include "memory/pager.h"
#include "memory/planner.h"
#include "memory/weights.h"
#include "model/model_file.h"
#include "predictors/predictor.h"
#include "runtime/config.h"
#include "runtime/draft_choices.h"
#include "runtime/draft_rows.h"
#include "runtime/forward.h"
#include "runtime/prompt_attribution.h"
#include "runtime/run_plan.h"

namespace dogstar {

// How the engine talks while it works; both may be empty.
struct Hooks {
  std::function<void(std::string_view message)> note;  // choices and fallbacks with their reasons
  std::function<void(std::string_view what, uint64_t done, uint64_t total)> progress;
};

// The file to run: config.model itself, or its packed form when the mode needs one, packing it first if there is none
// or it is stale. Also settles RunMode::kAuto.
struct ModelChoice {
  std::string path;
  RunMode mode = RunMode::kDense;
};
absl::StatusOr<ModelChoice> ChooseModel(const Config& config, const Hooks& hooks);

class Engine {
 public:
  struct Options {
    RunMode mode = RunMode::kDense;
    int32_t context_slots = 0;           // of each text
    int32_t texts = 1;                   // at a time
    Trace* trace = nullptr;              // outlives the engine; may be null
    AccessRecorder* accesses = nullptr;  // the same: hears of passes, and of what the overlay's policy sees
    int32_t logit_rows = 1;              // at least this many rows of logits in a pass
    // What to count for program and vocabulary; none: measured. Tests set it, for placements that repeat.
    std::optional<uint64_t> program_bytes;
    bool captures_verified = false;  // values of full passes of logit_rows rows will be read
    uint64_t text_bytes = 0;         // what the caller and the generator keep of the text
  };

  // `model` must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Config& config, const ModelFile* model,
                                                        const Options& options, const Hooks& hooks);
  ~Engine();

  const Config& config() const { return config_; }
  const ModelFile& model() const { return *model_; }
  RunMode mode() const { return options_.mode; }
  int32_t context_slots() const { return options_.context_slots; }  // of each text
  int32_t texts() const { return options_.texts; }
  // Drafts touch no disk: attention and head are resident, and the file is packed.
  bool can_draft() const { return can_draft_; }

  Backend& backend() { return *backend_; }
  std::string DescribeBackend() const { return backend_->Describe(); }
  Forward& forward() { return *forward_; }
  KvCache& kv() { return kv_cache_; }
  KvStore& kv_store() { return *kv_store_; }
  Predictor& predictor() { return *choices_.predictor; }
  Overlay* overlay() { return overlay_.get(); }  // null without one
  const Overlay* overlay() const { return overlay_.get(); }
  DraftSources draft_sources() {
    return {weights_.get(), overlay_.get(), gathered_.get(), choices_.predictor.get(), choices_.heads.get()};
  }
  DraftHead* draft_head() { return draft_head_.get(); }                          // null without one
  PromptAttribution* prompt_attribution() { return prompt_attribution_.get(); }  // null: the predictor needs none
  HeadChoice* heads() { return choices_.heads.get(); }                           // null: drafts compute all
  // What full passes are watched for; kOff outside modes that draft.
  HarvestMode harvest() const { return harvest_; }
  // Whether values of passes over the prompt are read.
  bool observes_prompt() const { return choices_.predictor->observes_prompt() || harvest_ == HarvestMode::kPrompt; }
  AccessRecorder* accesses() { return options_.accesses; }  // null without one
  const Weights& weights() const { return *weights_; }
  const Placement& placement() const { return placement_; }
  const Accountant& accountant() const { return accountant_; }
  const Accountant& device_accountant() const { return device_accountant_; }  // of a device's memory
  // Loading and passes together.
  uint64_t disk_bytes() const { return loaded_bytes_ + pager_->stats().bytes_read; }
  uint64_t link_bytes() const { return forward_->link_bytes(); }
  // Of weights in host memory that the processor computed with, beside a device.
  uint64_t processor_bytes() const { return host_ffn_ != nullptr ? host_ffn_->computed_bytes() : 0; }
  double io_wait_seconds() const { return pager_->stats().wait_seconds; }
  // Reader, and what speaks for it.
  std::string DescribeIo() const;

 private:
  Engine(const Config& config, const ModelFile* model, const Options& options);
  absl::Status Build(const Hooks& hooks);
  absl::Status Plan(const Hooks& hooks);
  absl::Status TakeHostMemory(const Hooks& hooks);
  absl::Status ReserveMemory();
  absl::Status GiveUpDrafts(const Hooks& hooks, const StreamRates& rates, RunPlanOptions* options, RunPlan* plan);
  absl::Status CheckDrafts(const Hooks& hooks);
  absl::Status ChooseHowToRead(const Hooks& hooks);
  absl::Status CreateOverlay();
  absl::Status CreateResiduals(const Hooks& hooks);
  absl::Status CreateHostFfn(const Hooks& hooks);
  void BeginRecord();

  Config config_;
  const ModelFile* model_;
  Options options_;
  Accountant accountant_, device_accountant_;
  bool can_draft_ = false;
  HarvestMode harvest_ = HarvestMode::kOff;
  uint64_t loaded_bytes_ = 0;
  Placement placement_;
  Forward::Limits limits_;
  uint64_t longest_joined_ = 0;
  int32_t draft_vocabulary_ = 0;
  std::vector<int32_t> gathered_rows_;  // of each layer's list; empty: not gathered
  DraftChoices choices_;
  // Order of destruction matters: the pager waits for reads into the ring before the ring and the reader go.
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<HostMemory> ring_;
  std::unique_ptr<HostMemory> host_weights_;  // until the weights have it
  ReaderChoice reader_choice_;
  std::unique_ptr<PageReader> reader_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<Overlay> overlay_;
  std::unique_ptr<GatheredRows> gathered_;  // null where lists are masks
  std::unique_ptr<Pager> pager_;
  std::unique_ptr<KvStore> kv_store_;
  KvCache kv_cache_;
  std::unique_ptr<ScoreMaps> score_maps_;       // null where the predictor has none
  std::unique_ptr<LowRankProducts> residuals_;  // null where drafts have none
  std::unique_ptr<DraftHead> draft_head_;       // null where drafts use the model's
  std::unique_ptr<PromptAttribution> prompt_attribution_;
  std::unique_ptr<HostFfn> host_ffn_;  // null: the processor has no part of passes
  std::unique_ptr<Forward> forward_;
};

}  // namespace dogstar
