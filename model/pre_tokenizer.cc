#include "model/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <string>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/gguf_format.h"
#include "model/utf8.h"

namespace dogstar {
namespace {

// Unicode's White_Space, inside a class. Not \s: with PCRE2 that has U+180E too, which left White_Space in Unicode
// 6.3 and which the tokenizers that models were trained with do not count.
#define WS "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

// As published in the models' tokenizer.json.
#define SPACES "[" WS "]+(?![^" WS "])|[" WS "]+"
constexpr char kGpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES;
constexpr char kOneDigit[] = "\\p{N}";
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LINES "[" WS "]*[\\r\\n]+"
constexpr char kLlama3[] =
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" LINES "|" SPACES;
constexpr char kQwen2[] =
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" LINES "|" SPACES;
constexpr char kQwen35[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS
                                        "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINES "|" SPACES;
constexpr char kFalconPunctuation[] = "[\\p{P}$+<=>^~|`]+";
constexpr char kThreeDigits[] = "[0-9][0-9][0-9]";
constexpr char kOneLineEnd[] = "[\\r\\n]";
constexpr char kSpacedLetters[] = "[" WS "]?\\p{L}+";
constexpr char kSpacedPunctuation[] = "[" WS "]?\\p{P}+";
constexpr char kCjkAndHangul[] = "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+";
#undef LINES
#undef CONTRACTIONS
#undef SPACES
#undef WS

constexpr size_t kPassesMax = 5;

struct Family {
  std::string_view name;
  std::array<const char*, kPassesMax> patterns;  // the rest are null
  bool ignores_merges = false;
  bool adds_bos = false;
};

constexpr Family kFamilies[] = {
    {"gpt-2", {kGpt2}},
    {"phi-2", {kGpt2}},
    {"mpt", {kGpt2}},
    {"olmo", {kGpt2}},
    {"smollm", {kOneDigit, kGpt2}},
    {"starcoder", {kOneDigit, kGpt2}},
    {"refact", {kOneDigit, kGpt2}},
    {"command-r", {kOneDigit, kGpt2}},
    {"codeshell", {kOneDigit, kGpt2}},
    {"llama-bpe", {kLlama3}, /*ignores_merges=*/true, /*adds_bos=*/true},
    {"llama3", {kLlama3}, /*ignores_merges=*/true, /*adds_bos=*/true},
    {"llama-v3", {kLlama3}, /*ignores_merges=*/true, /*adds_bos=*/true},
    {"falcon3", {kLlama3}, /*ignores_merges=*/true, /*adds_bos=*/true},
    {"dbrx", {kLlama3}},
    {"smaug-bpe", {kLlama3}},
    {"qwen2", {kQwen2}},
    {"deepseek-r1-qwen", {kQwen2}},
    {"stablelm2", {kQwen2}},
    {"qwen35", {kQwen35}},
    {"falcon", {kFalconPunctuation, kGpt2, kThreeDigits}},
    {"deepseek-coder", {kOneLineEnd, kSpacedLetters, kSpacedPunctuation, kCjkAndHangul, kOneDigit}},
};

absl::Status UnknownName(std::string_view name) {
  std::vector<std::string_view> known;
  for (const Family& family : kFamilies) known.push_back(family.name);
  return absl::UnimplementedError(
      fmt::format("pre-tokenizer {} is not known; known: {}", Quoted(name), fmt::join(known, ", ")));
}

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

void PreTokenizer::CodeDeleter::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }
void PreTokenizer::ContextDeleter::operator()(pcre2_real_match_context_8* context) const {
  pcre2_match_context_free(context);
}

absl::Status PreTokenizer::AddPass(const char* pattern) {
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                                   &error, &error_offset, nullptr);
  if (code == nullptr) {
    return absl::InternalError(fmt::format("PCRE2 error {} at {} of pattern {}", error, error_offset, pattern));
  }
  passes_.emplace_back(code);
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer> PreTokenizer::Create(std::string_view name) {
  const auto family =
      std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& f) { return f.name == name; });
  if (family == std::end(kFamilies)) return UnknownName(name);
  PreTokenizer result;
  result.ignores_merges_ = family->ignores_merges;
  result.adds_bos_ = family->adds_bos;
  for (const char* pattern : family->patterns) {
    if (pattern != nullptr) RETURN_IF_ERROR(result.AddPass(pattern));
  }
  // The default limit of 10 million steps is less than a long run of spaces may take to back out of.
  result.limits_.reset(pcre2_match_context_create(nullptr));
  if (result.limits_ == nullptr) return absl::ResourceExhaustedError("no memory for PCRE2");
  pcre2_set_match_limit(result.limits_.get(), std::numeric_limits<uint32_t>::max());
  return result;
}

// Runs one text through the passes.
struct PreTokenizer::Pass {
  const PreTokenizer& owner;
  pcre2_match_data* match_data;
  Emit emit;

  // `text` is valid UTF-8. Everything is cut at character boundaries, so it is not checked again: PCRE2 would check
  // the whole rest of the text at every match.
  void Run(size_t index, std::string_view text) const {
    if (text.empty()) return;
    if (index == owner.passes_.size()) {
      emit(text);
      return;
    }
    size_t done = 0;
    while (done < text.size()) {
      const int found = pcre2_match(owner.passes_[index].get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                    done, PCRE2_NO_UTF_CHECK, match_data, owner.limits_.get());
      if (found < 0) break;  // no further match; an error (memory) costs cuts, never text
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match_data);
      const size_t start = ends[0];
      const size_t end = ends[1];
      if (end <= start) break;  // our patterns match no empty text
      Run(index + 1, text.substr(done, start - done));
      Run(index + 1, text.substr(start, end - start));
      done = end;
    }
    Run(index + 1, text.substr(done));
  }
};

void PreTokenizer::Split(std::string_view text, Emit emit) const {
  const std::unique_ptr<pcre2_match_data, MatchDataDeleter> match_data(pcre2_match_data_create(1, nullptr));
  if (match_data == nullptr) {
    if (!text.empty()) emit(text);
    return;
  }
  const Pass pass{*this, match_data.get(), emit};
  while (!text.empty()) {
    const size_t valid = ValidUtf8Bytes(text);
    pass.Run(0, text.substr(0, valid));
    text.remove_prefix(valid);
    size_t invalid = 0;
    while (invalid < text.size() && FirstUtf8Char(text.substr(invalid)).bytes == 0) ++invalid;
    if (invalid > 0) emit(text.substr(0, invalid));
    text.remove_prefix(invalid);
  }
}

uint64_t PreTokenizer::memory_bytes() const {
  uint64_t total = passes_.capacity() * sizeof(passes_[0]);
  for (const auto& pass : passes_) {
    size_t bytes = 0;
    pcre2_pattern_info(pass.get(), PCRE2_INFO_SIZE, &bytes);
    total += bytes;
  }
  return total;
}

}  // namespace dogstar
