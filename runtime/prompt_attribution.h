// PromptAttribution: scores of FFN rows from a prompt's own losses, for a predictor that keeps them for the whole reply
// ("prompt-static" in "Achieving Sparse Activation in Small Language Models").
//
//   score_j = sum over the prompt's tokens t of  -g_tj z_tj + |z_tj| |g_t|_2 / 2        (AttributionSum::kCorrected)
//
// g_t: gradient of the loss of the prompt's own next token at the layer's units, from one diagonal backward pass after
// prefill. The last token has no next one and counts with its likeliest. A prompt longer than `tokens` is scored by its
// last ones, read as a text of their own.
//
// Cost: a forward pass and a backward pass of about twice its work over those tokens, all weights read from the plain
// GGUF (the packed file's FFN pages serve no transposed product), memory as AttributionPass has it.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "device/backend.h"
#include "model/model_file.h"
#include "predictors/attribution_sums.h"
#include "predictors/predictor.h"
#include "runtime/attribution.h"

namespace dogstar {

class PromptAttribution {
 public:
  struct Options {
    int threads = 1;
    int32_t tokens = 0;  // of a prompt, at most
  };
  // Bytes that Create takes.
  static uint64_t Bytes(const ModelFile& source, const Backend& backend, const Options& options);
  // source: what `packed` was made from. Both outlive the object.
  static absl::StatusOr<std::unique_ptr<PromptAttribution>> Create(const ModelFile* source, const PackedFile* packed,
                                                                   const Options& options);

  // New prompts: what was added before is dropped.
  void Begin();
  absl::Status Add(std::span<const TokenId> prompt);
  // What all prompts since Begin give.
  void GiveTo(Predictor* predictor) const;

 private:
  PromptAttribution(const ModelFile* source, const PackedFile* packed, const Options& options)
      : source_(source), packed_(packed), options_(options) {}

  const ModelFile* source_;
  const PackedFile* packed_;
  Options options_;
  std::unique_ptr<AttributionPass> pass_;
  std::vector<AttributionSums> sums_;  // [layer], units in the source's order
};

// The GGUF that `packed` was made from: draft.source, else the file that the run was asked for, else the name that
// packing takes from. FailedPrecondition when it is another file, or when nothing is found.
absl::StatusOr<std::unique_ptr<ModelFile>> OpenSourceOf(const ModelFile& packed, std::string_view given,
                                                        const std::string& model);

}  // namespace dogstar
