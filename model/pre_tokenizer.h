// PreTokenizer: cuts text into pieces inside which BPE merges; one regular expression after the other cuts the
// pieces that the one before left (matches and what lies between them).
//
// Threads: const after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/status.h"

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;

namespace dogstar {

class PreTokenizer {
 public:
  using Emit = absl::FunctionRef<void(std::string_view piece)>;

  // `name` as in tokenizer.ggml.pre. Unimplemented lists the names that are known.
  static absl::StatusOr<PreTokenizer> Create(std::string_view name);

  // Calls `emit` for every piece in order; together they are `text`. Invalid UTF-8 makes pieces of its own.
  void Split(std::string_view text, Emit emit) const;

  // A piece that is a token as a whole is that token, whatever the merges say.
  bool ignores_merges() const { return ignores_merges_; }
  // What the family does when the file says nothing about BOS.
  bool adds_bos() const { return adds_bos_; }
  uint64_t memory_bytes() const;

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  struct ContextDeleter {
    void operator()(pcre2_real_match_context_8* context) const;
  };
  struct Pass;

  PreTokenizer() = default;
  absl::Status AddPass(const char* pattern);

  std::vector<std::unique_ptr<pcre2_real_code_8, CodeDeleter>> passes_;
  std::unique_ptr<pcre2_real_match_context_8, ContextDeleter> limits_;
  bool ignores_merges_ = false;
  bool adds_bos_ = false;
};

}  // namespace dogstar
