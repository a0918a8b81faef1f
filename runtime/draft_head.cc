#include "runtime/draft_head.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/panel.h"
#include "runtime/calibration_text.h"
#include "runtime/calibration_texts.h"

namespace dogstar {
namespace {

int32_t CapacityFor(int32_t tokens) { return tokens + DraftHead::kPromptTokens; }

bool IsAsciiCharacter(const std::string& bytes) {
  return bytes.size() == 1 && static_cast<unsigned char>(bytes[0]) < 0x80;
}

}  // namespace

std::vector<TokenId> FrequentTokens(const Tokenizer& tokenizer, int32_t vocab_size, int32_t count) {
  // Small: it counts within a budget that is taken already.
  std::vector<uint16_t> uses(static_cast<size_t>(vocab_size));
  std::vector<int32_t> used;
  const auto read = [&](std::string_view text) {
    for (const TokenId token : tokenizer.Encode(text, {})) {
      const int32_t id = ToInt(token);
      if (uses[static_cast<size_t>(id)]++ == 0) used.push_back(id);
    }
  };
  read(kCalibrationText);
  for (const std::string_view text : CalibrationTexts()) read(text);
  std::ranges::sort(used, [&](int32_t a, int32_t b) {
    const uint16_t of_a = uses[static_cast<size_t>(a)], of_b = uses[static_cast<size_t>(b)];
    return of_a != of_b ? of_a > of_b : a < b;
  });
  std::vector<TokenId> tokens;
  tokens.reserve(static_cast<size_t>(count + DraftHead::kPromptTokens));
  std::vector<bool> taken(static_cast<size_t>(vocab_size));
  const auto take = [&](TokenId token) {
    const auto at = static_cast<size_t>(ToInt(token));
    if (std::ssize(tokens) >= count || at >= taken.size() || taken[at]) return;
    taken[at] = true;
    tokens.push_back(token);
  };
  for (const TokenId token : tokenizer.end_tokens()) take(token);
  for (const int32_t token : used) take(TokenId{token});
  for (int32_t token = 0; token < vocab_size; ++token) {
    if (IsAsciiCharacter(tokenizer.TokenBytes(TokenId{token}))) take(TokenId{token});
  }
  for (int32_t token = 0; token < vocab_size; ++token) take(TokenId{token});
  return tokens;
}

uint64_t DraftHead::Bytes(const ModelFile& model, const Backend& backend, int32_t tokens, int32_t rows) {
  const MatrixSource& head = model.head();
  const int32_t capacity = CapacityFor(tokens);
  return PanelMatrixBytes(head.type, capacity, head.cols) + backend.TensorBytes(rows, capacity) +
         static_cast<uint64_t>(capacity) * (sizeof(TokenId) + sizeof(float)) + 16 * head.row_bytes() +
         static_cast<uint64_t>(head.rows) / 8;
}

absl::StatusOr<std::unique_ptr<DraftHead>> DraftHead::Create(const ModelFile* model, Backend* backend, int32_t tokens,
                                                             int32_t rows) {
  const MatrixSource& head = model->head();
  CHECK(tokens > 0 && tokens % kPanelRows == 0 && tokens <= head.rows);
  auto made = std::unique_ptr<DraftHead>(new DraftHead(model, backend));
  const int32_t capacity = CapacityFor(tokens);
  made->frequent_ = tokens;
  made->tokens_ = FrequentTokens(model->tokenizer(), head.rows, tokens);
  made->is_frequent_.resize(static_cast<size_t>(head.rows));
  for (const TokenId token : made->tokens_) made->is_frequent_[static_cast<size_t>(ToInt(token))] = true;
  made->plain_.resize(kPanelRows * head.row_bytes());
  ASSIGN_OR_RETURN(made->panels_, backend->AllocateMemory(PanelMatrixBytes(head.type, capacity, head.cols)));
  ASSIGN_OR_RETURN(made->scores_, backend->NewTensor(rows, capacity));
  made->host_.resize(static_cast<size_t>(capacity));
  made->view_ = {head.type, MatrixLayout::kPanels, tokens, head.cols, made->panels_};
  for (int32_t first = 0; first < tokens; first += kPanelRows) RETURN_IF_ERROR(made->LoadPanel(first));
  return made;
}

DraftHead::~DraftHead() {
  if (panels_ != nullptr) backend_->FreeMemory(panels_);
}

absl::Status DraftHead::LoadPanel(int32_t first) {
  const MatrixSource& head = model_->head();
  std::fill(plain_.begin(), plain_.end(), std::byte{0});
  int32_t rows = 0;
  for (; rows < kPanelRows && first + rows < std::ssize(tokens_); ++rows) {
    const auto token = static_cast<uint64_t>(ToInt(tokens_[static_cast<size_t>(first + rows)]));
    RETURN_IF_ERROR(
        model_->ReadBytes(head.offset + token * head.row_bytes(),
                          std::span(plain_).subspan(static_cast<size_t>(rows) * head.row_bytes(), head.row_bytes())));
  }
  std::byte* const to = panels_ + static_cast<uint64_t>(first / kPanelRows) * PanelBytes(head.type, head.cols);
  backend_->PackPanels({head.type, MatrixLayout::kPlain, rows, head.cols, plain_.data()}, to);
  return absl::OkStatus();
}

absl::Status DraftHead::SetPrompt(std::span<const TokenId> prompt) {
  tokens_.resize(static_cast<size_t>(frequent_));
  std::vector<TokenId> own;
  for (size_t i = prompt.size(); i-- > 0 && own.size() < kPromptTokens;) {
    const bool held = is_frequent_[static_cast<size_t>(ToInt(prompt[i]))];
    if (!held && std::ranges::find(own, prompt[i]) == own.end()) own.push_back(prompt[i]);
  }
  tokens_.insert(tokens_.end(), own.begin(), own.end());
  const auto count = static_cast<int32_t>(tokens_.size());
  for (int32_t first = frequent_; first < count; first += kPanelRows) RETURN_IF_ERROR(LoadPanel(first));
  view_.rows = count;
  return absl::OkStatus();
}

void DraftHead::Multiply(const Activations& x, int32_t rows) { backend_->MatMul(view_, x, rows, 0, scores_.get()); }

absl::Status DraftHead::Logits(int32_t row, std::span<float> logits) {
  RETURN_IF_ERROR(backend_->Download(*scores_, row, 1, host_));
  std::fill(logits.begin(), logits.end(), -std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < tokens_.size(); ++i) logits[static_cast<size_t>(ToInt(tokens_[i]))] = host_[i];
  return absl::OkStatus();
}

}  // namespace dogstar
