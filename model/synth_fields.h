// Metadata of synthetic models.
#pragma once

#include <vector>

#include "base/status.h"
#include "model/gguf.h"
#include "model/synth.h"

namespace dogstar {

// The tokenizer's fields: those of `options.like`, or of a small byte-level BPE.
absl::StatusOr<std::vector<GgufField>> SynthTokenizerFields(const SynthOptions& options);
// Tokens of such fields.
uint64_t SynthVocabSize(const std::vector<GgufField>& tokenizer_fields);
// Everything else.
std::vector<GgufField> SynthModelFields(const SynthOptions& options, uint64_t vocab_size);

}  // namespace dogstar
