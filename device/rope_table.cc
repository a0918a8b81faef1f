#include "device/rope_table.h"

#include <algorithm>
#include <cmath>

namespace dogstar {
namespace {

constexpr int64_t kUsualDims = 128;  // rotary dimensions that Reserve counts on; more cost one allocation

}  // namespace

void RopeTable::Reserve(int32_t rows) {
  frequencies_.reserve(kUsualDims / 2);
  positions_.reserve(static_cast<size_t>(rows));
  values_.reserve(static_cast<size_t>(rows * kUsualDims));
}

bool RopeTable::IsOf(std::span<const float> frequencies) const {
  return std::equal(frequencies.begin(), frequencies.end(), frequencies_.begin(), frequencies_.end());
}

void RopeTable::FillRow(int64_t r, TokenPos position) {
  const size_t pairs = frequencies_.size();
  float* cosines = values_.data() + r * 2 * static_cast<int64_t>(pairs);
  for (size_t i = 0; i < pairs; ++i) {
    const double angle = double{static_cast<double>(ToInt(position))} * double{frequencies_[i]};
    cosines[i] = static_cast<float>(std::cos(angle));
    cosines[pairs + i] = static_cast<float>(std::sin(angle));
  }
}

void RopeTable::Update(std::span<const float> frequencies, std::span<const TokenPos> positions) {
  if (!IsOf(frequencies)) {
    frequencies_.assign(frequencies.begin(), frequencies.end());
    positions_.clear();
  }
  const size_t valid = positions_.size();
  if (positions.size() > valid) positions_.resize(positions.size());
  values_.resize(std::max(values_.size(), positions.size() * 2 * frequencies.size()));
  for (size_t r = 0; r < positions.size(); ++r) {
    if (r < valid && positions_[r] == positions[r]) continue;
    positions_[r] = positions[r];
    FillRow(static_cast<int64_t>(r), positions[r]);
  }
}

void RopeTables::Reserve(int32_t rows) {
  for (RopeTable& table : tables_) table.Reserve(rows);
}

const RopeTable& RopeTables::Update(std::span<const float> frequencies, std::span<const TokenPos> positions) {
  if (!tables_[last_].IsOf(frequencies)) last_ = 1 - last_;
  tables_[last_].Update(frequencies, positions);
  return tables_[last_];
}

}  // namespace dogstar
