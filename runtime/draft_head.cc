#include "runtime/draft_head.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/panel.h"
#include "runtime/calibration_text.h"
#include "runtime/calibration_texts.h"

namespace dogstar {
namespace {

constexpr int32_t kCapacity = DraftHead::kFrequentTokens + DraftHead::kPromptTokens;
static_assert(kCapacity % kPanelRows == 0);

bool IsAsciiCharacter(const std::string& bytes) {
  return bytes.size() == 1 && static_cast<unsigned char>(bytes[0]) < 0x80;
}

}  // namespace

std::vector<TokenId> FrequentTokens(const Tokenizer& tokenizer, int32_t vocab_size, int32_t first, int32_t count) {
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
  tokens.reserve(kCapacity);
  std::vector<bool> taken(static_cast<size_t>(vocab_size));
  const auto take = [&](TokenId token) {
    const auto at = static_cast<size_t>(ToInt(token));
    if (ToInt(token) < first || std::ssize(tokens) >= count || at >= taken.size() || taken[at]) return;
    taken[at] = true;
    tokens.push_back(token);
  };
  for (const TokenId token : tokenizer.end_tokens()) take(token);
  for (const int32_t token : used) take(TokenId{token});
  for (int32_t token = first; token < vocab_size; ++token) {
    if (IsAsciiCharacter(tokenizer.TokenBytes(TokenId{token}))) take(TokenId{token});
  }
  return tokens;
}

uint64_t DraftHead::Bytes(const ModelFile& model, const Backend& backend, int32_t first_rows, int32_t rows) {
  const MatrixSource& head = model.head();
  const uint64_t scored = static_cast<uint64_t>(first_rows + kCapacity);
  return PanelMatrixBytes(head.type, kCapacity, head.cols) + backend.TensorBytes(rows, static_cast<int32_t>(scored)) +
         scored * sizeof(float) + kCapacity * sizeof(TokenId) + kPanelRows * head.row_bytes();
}

absl::StatusOr<std::unique_ptr<DraftHead>> DraftHead::Create(const ModelFile* model, Backend* backend,
                                                             const MatrixView& first_rows, int32_t rows) {
  const MatrixSource& head = model->head();
  auto made = std::unique_ptr<DraftHead>(new DraftHead(model, backend, first_rows));
  made->tokens_ = FrequentTokens(model->tokenizer(), head.rows, first_rows.rows, kFrequentTokens);
  made->frequent_ = made->tokens_.size();
  made->plain_.resize(kPanelRows * head.row_bytes());
  ASSIGN_OR_RETURN(made->panels_, backend->AllocateMemory(PanelMatrixBytes(head.type, kCapacity, head.cols)));
  ASSIGN_OR_RETURN(made->scores_, backend->NewTensor(rows, first_rows.rows + kCapacity));
  made->host_.resize(static_cast<size_t>(first_rows.rows + kCapacity));
  made->copies_ = {head.type, MatrixLayout::kPanels, static_cast<int32_t>(made->frequent_), head.cols, made->panels_};
  for (int32_t first = 0; first < made->copies_.rows; first += kPanelRows) RETURN_IF_ERROR(made->LoadPanel(first));
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
  tokens_.resize(frequent_);
  for (size_t i = prompt.size(); i-- > 0 && tokens_.size() < frequent_ + kPromptTokens;) {
    if (ToInt(prompt[i]) >= first_rows_.rows && FindCopy(prompt[i]) < 0) tokens_.push_back(prompt[i]);
  }
  copies_.rows = static_cast<int32_t>(tokens_.size());
  const auto first_new = static_cast<int32_t>(frequent_) / kPanelRows * kPanelRows;
  for (int32_t first = first_new; first < copies_.rows; first += kPanelRows) RETURN_IF_ERROR(LoadPanel(first));
  return absl::OkStatus();
}

int32_t DraftHead::FindCopy(TokenId token) const {
  const auto found = std::ranges::find(tokens_, token);
  return found == tokens_.end() ? -1 : static_cast<int32_t>(found - tokens_.begin());
}

void DraftHead::Multiply(const Activations& x, int32_t rows) {
  backend_->MatMul(first_rows_, x, rows, 0, scores_.get());
  if (copies_.rows > 0) backend_->MatMul(copies_, x, rows, first_rows_.rows, scores_.get());
}

absl::Status DraftHead::FindPeaks(int32_t first_row, float scale, std::span<RowPeak> peaks) const {
  RETURN_IF_ERROR(backend_->FindPeaks(*scores_, first_row, first_rows_.rows + copies_.rows, scale, peaks));
  for (RowPeak& peak : peaks) {
    if (peak.col >= first_rows_.rows) peak.col = ToInt(tokens_[static_cast<size_t>(peak.col - first_rows_.rows)]);
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> DraftHead::Top(int32_t row, std::span<RowEntry> top) const {
  const int32_t held = first_rows_.rows + copies_.rows;
  top = top.first(std::min(top.size(), static_cast<size_t>(held)));
  RETURN_IF_ERROR(backend_->FindTop(*scores_, row, held, top));
  for (RowEntry& entry : top) {
    if (entry.col >= first_rows_.rows) entry.col = ToInt(tokens_[static_cast<size_t>(entry.col - first_rows_.rows)]);
  }
  std::ranges::sort(top, std::less<>());
  return top.size();
}

absl::Status DraftHead::Logits(int32_t row, std::span<float> logits) {
  RETURN_IF_ERROR(backend_->Download(*scores_, row, 1, host_));
  const auto first = static_cast<size_t>(first_rows_.rows);
  std::copy_n(host_.begin(), first, logits.begin());
  std::fill(logits.begin() + static_cast<ptrdiff_t>(first), logits.end(), -std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < tokens_.size(); ++i) logits[static_cast<size_t>(ToInt(tokens_[i]))] = host_[first + i];
  return absl::OkStatus();
}

}  // namespace dogstar
