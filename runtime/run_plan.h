// RunPlan: what a run of a model will take, before anything large is allocated. The engine builds what is planned here,
// `dogstar plan` prints it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "device/backend.h"
#include "memory/machine_rates.h"
#include "memory/planner.h"
#include "model/model_file.h"
#include "predictors/predictor.h"
#include "runtime/config.h"
#include "runtime/draft_choices.h"
#include "runtime/forward.h"
#include "runtime/prompt_attribution.h"

namespace dogstar {

PredictorOptions PredictorOptionsOf(const Config& config);
// context_slots: a prompt is no longer.
PromptAttribution::Options PromptAttributionOf(const Config& config, int32_t context_slots);
HostFfn::Options HostFfnOf(const Config& config, const ModelFile& model, const Forward::Limits& limits);
// True for modes whose drafts the full model judges.
bool JudgesDrafts(RunMode mode);
// True for modes that draft, which needs the packed form.
bool NeedsPacked(RunMode mode);
int ThreadsOf(const Config& config);
// Drafts follow measured times and acceptance.
bool AdaptsDrafts(const Config& config, RunMode mode);
// Drafts of a text that a full pass looks at, at most, as the settings have it.
int32_t DraftsOfCycle(const Config& config);
// Slots of the KV cache for nodes of a text's tree beside those of its context.
int32_t TreeSlots(const Config& config, RunMode mode);
// Rows of a cycle's full pass, of all texts together: what the settings ask for, within the context and within what
// their logits may take of the budget. At least one for each text.
struct CycleRows {
  int32_t rows = 1;
  std::string reduced;  // why they are fewer than asked for; empty: they are not
};
CycleRows RowsOfCycles(const Config& config, RunMode mode, const ModelConfig& model, int32_t context_slots,
                       int32_t texts);
// Precise runs keep float32, whatever is asked for.
KvShape KvShapeOf(const Config& config, const ModelConfig& model, int32_t slots);
// Slots for so many texts: their contexts, and the trees that grow at their ends.
int32_t KvSlots(const Config& config, RunMode mode, int32_t context_slots, int32_t texts);

// Memory of the program and the vocabulary: as it is now, and what it will grow by. Gives freed memory back first.
uint64_t MeasureProgramBytes();

struct RunPlanOptions {
  RunMode mode = RunMode::kDense;
  int32_t context_slots = 0;  // of each text
  int32_t texts = 1;
  int32_t logit_rows = 1;
  bool observes_prompt = false;  // the predictor wants to see the prompt's activations
  // Memory of the program and the vocabulary as it is now, and what tools around it take.
  uint64_t program_bytes = 0;
  bool observes_up = false;  // and what up gives
  bool chooses_by_token = false;
  bool follows_text = false;
  bool captures_verified = false;  // an observer reads the values of passes of logit_rows rows
  bool needs_row_norms = false;
  const Predictor* predictor = nullptr;           // whose maps count
  uint64_t residual_bytes = 0;                    // of the maps for what it leaves out
  const LowRankMap* residual = nullptr;           // one of them
  const ModelFile* attribution_source = nullptr;  // null: prompts are not attributed
  uint64_t trace_bytes = 0;
  uint64_t text_bytes = 0;  // of a generation: what its caller keeps of it
};

// Sets what depends on the choices, which must outlive the options.
void AskChoices(const DraftChoices& choices, RunPlanOptions* options);

struct RunPlan {
  HarvestMode harvest = HarvestMode::kOff;  // what full passes are watched for
  PlanRequest request;
  Forward::Limits limits;
  Placement placement;
  uint64_t longest_joined = 0;         // page or panel that the device may have to make (ReserveJoinRoom); 0: none
  int32_t draft_vocabulary = 0;        // head rows that drafts use (draft_head.h); 0: all
  std::vector<int32_t> gathered_rows;  // of each layer's list (memory/gathered_rows.h); empty: lists become masks
};

// ResourceExhausted: a budget too small (with the smallest), or, without a budget, a machine without the memory.
absl::StatusOr<RunPlan> PlanRun(const Config& config, const ModelFile& model, const Backend& backend,
                                const RunPlanOptions& options, const StreamRates& rates);

// What was measured of this machine: config.tiers, or tiers.json in the cache folder where there is one; nothing known
// otherwise. An unreadable file is an error only when it was asked for by name; else `note` hears of it.
absl::StatusOr<MachineRates> KnownRates(const Config& config, const std::function<void(std::string_view)>& note);
// What the planner needs of them for the file `path`.
StreamRates StreamRatesOf(const MachineRates& machine, const std::string& path);
// What reading from the disk under `path` and computing take from each other (forecast.h); kShared where it is not
// known.
double SharedOf(const MachineRates& machine, const std::string& path);

}  // namespace dogstar
