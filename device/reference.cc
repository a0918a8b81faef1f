#include "device/reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/panel.h"
#include "device/functions.h"

namespace dogstar::reference {
namespace {

constexpr int kBlock = kQuantBlock;

bool HasMinimum(QuantType type) { return ShapeOf(type).has_minimum(); }

// The number of output `lane` and row `row` in an overlay's down panel.
int OverlayValue(QuantType type, const std::byte* panel, int lane, int64_t row) {
  if (ShapeOf(type).bits() > 4) return CodeValue(type, std::to_integer<int>(panel[row * 16 + lane]));
  const int pair = std::to_integer<int>(panel[row / 2 * 16 + lane]);
  return CodeValue(type, row % 2 == 0 ? pair & 15 : pair >> 4);
}

// Weight of a float panel.
float PanelWeight(QuantType type, const std::byte* panel, int lane, int64_t column) {
  const int bytes = TraitsOf(type).block_bytes;
  float weight;
  DequantizeRow(type, panel + (column * kPanelRows + lane) * bytes, 1, &weight);
  return weight;
}

float DotInt8(QuantType type, const std::byte* row, const Int8Row& x) {
  const size_t group_weights = ShapeOf(type).group_weights;
  float acc = 0;
  for (size_t b = 0; b < x.scales.size(); ++b) {
    const Codes codes = LoadCodes(type, row, b);
    for (size_t first = 0; first < kBlock; first += group_weights) {
      int32_t sum = 0, x_sum = 0;
      for (size_t i = first; i < first + group_weights; ++i) {
        sum += CodeValue(type, codes[i]) * x.codes[b * kBlock + i];
        x_sum += x.codes[b * kBlock + i];
      }
      const GroupScale scale = Combine(type, LoadScales(type, row, (b * kBlock + first) / group_weights));
      acc = std::fma(scale.d * x.scales[b], static_cast<float>(sum), acc);
      if (HasMinimum(type)) acc = std::fma(scale.m, x.scales[b] * static_cast<float>(x_sum), acc);
    }
  }
  return acc;
}

bool IsUsed(const uint64_t* row_mask, int32_t row) {
  return row_mask == nullptr || (row_mask[row / 64] >> (row % 64) & 1) != 0;
}

float PanelRowDot(QuantType type, const std::byte* panels, int32_t row, std::span<const float> x, bool precise) {
  const int64_t cols = static_cast<int64_t>(x.size());
  std::vector<std::byte> plain(RowBytes(type, cols));
  UnpackPanelRow(type, panels + row / kPanelRows * PanelBytes(type, cols), row % kPanelRows, cols, plain.data());
  return Dot(type, plain.data(), x, precise);
}

float RowZ(const FfnParams& params, const std::byte* gate, const std::byte* up, int32_t row, std::span<const float> x,
           bool precise) {
  const float g = PanelRowDot(params.layout.gate_type, gate, row, x, precise);
  const float u = PanelRowDot(params.layout.up_type, up, row, x, precise);
  return Activate(params.activation, g) * u;
}

GroupScale ScaleOf(const FfnParams& params, int32_t group, int64_t output) {
  const QuantType type = params.layout.down_type;
  return Combine(type, TableScales(type, params.down_scales, group, params.layout.dim, output));
}

// One output of a page: int8 z, run by run.
float DownInt8(const FfnParams& params, const FfnPageRef& page, const Int8Row& z, int64_t output) {
  const FfnPageLayout& layout = params.layout;
  const std::byte* panel = page.data + layout.down_offset + output / kPanelRows * layout.down_panel_bytes;
  float partial = 0;
  for (int32_t first = 0; first < page.row_count; first += layout.run_rows) {
    int32_t sum = 0, z_sum = 0;
    for (int32_t n = first; n < first + layout.run_rows; ++n) {
      sum += CodeValue(layout.down_type, PanelCode(layout.down_type, panel, output % kPanelRows, n)) * z.codes[n];
      z_sum += z.codes[n];
    }
    const float zd = z.scales[first / kBlock];
    const GroupScale scale = ScaleOf(params, page.run_groups[first / layout.run_rows], output);
    partial = std::fma(zd * scale.d, static_cast<float>(sum), partial);
    if (layout.has_down_minimum()) partial = std::fma(scale.m, zd * static_cast<float>(z_sum), partial);
  }
  return partial;
}

// One output of a page: z in f32, row by row.
float DownFloat(const FfnParams& params, const FfnPageRef& page, std::span<const float> z, int64_t output) {
  const FfnPageLayout& layout = params.layout;
  const std::byte* panel = page.data + layout.down_offset + output / kPanelRows * layout.down_panel_bytes;
  const int lane = static_cast<int>(output % kPanelRows);
  float partial = 0;
  for (int32_t n = 0; n < page.row_count; ++n) {
    float w;
    if (IsFloatType(layout.down_type)) {
      w = PanelWeight(layout.down_type, panel, lane, n);
    } else {
      const GroupScale scale = ScaleOf(params, page.run_groups[n / layout.run_rows], output);
      w = scale.d * static_cast<float>(CodeValue(layout.down_type, PanelCode(layout.down_type, panel, lane, n)));
      if (layout.has_down_minimum()) w = w + scale.m;
    }
    partial = std::fma(w, z[n], partial);
  }
  return partial;
}

float DownOverlay(const FfnParams& params, const FfnOverlayRef& overlay, std::span<const float> z, bool precise,
                  int64_t output) {
  const QuantType type = params.layout.down_type;
  const std::byte* panel = overlay.down + output / kPanelRows * OverlayDownPanelBytes(type, overlay.row_capacity);
  const int lane = static_cast<int>(output % kPanelRows);
  float partial = 0;
  for (int32_t n = 0; n < overlay.row_count; ++n) {
    if (IsFloatType(type)) {
      partial = std::fma(PanelWeight(type, panel, lane, n), z[n], partial);
      continue;
    }
    const GroupScale scale = ScaleOf(params, overlay.groups[n], output);
    const float code = static_cast<float>(OverlayValue(type, panel, lane, n));
    if (precise) {
      partial = std::fma(scale.d * code + scale.m, z[n], partial);
      continue;
    }
    partial = std::fma(z[n] * scale.d, code, partial);
    if (HasMinimum(type)) partial = std::fma(z[n], scale.m, partial);
  }
  return partial;
}

// What the largest of the block's int8 codes stands for.
float LargestInt8(std::span<const float> block) {
  float m1 = 0, m2 = 0;
  for (const float value : block) {
    m2 = std::max(m2, std::min(m1, std::fabs(value)));
    m1 = std::max(m1, std::fabs(value));
  }
  const bool outlier = m1 > 2.0f * m2 && m2 > 0 && m1 <= 4000.0f * m2 && std::isfinite(127.0f / m2);
  return outlier ? m2 : m1;
}

}  // namespace

Int8Row QuantizeActivations(std::span<const float> x) {
  Int8Row row;
  for (size_t b = 0; b < x.size() / kBlock; ++b) {
    const std::span<const float> block = x.subspan(b * kBlock, kBlock);
    const float most = LargestInt8(block);
    const float inverse = 127.0f / most;
    for (const float value : block) {
      row.codes.push_back(std::isfinite(inverse) ? static_cast<int32_t>(std::nearbyint(value * inverse)) : 0);
    }
    row.scales.push_back(most / 127.0f);
  }
  return row;
}

float Dot(QuantType type, const std::byte* row, std::span<const float> x, bool precise) {
  if (!precise && !IsFloatType(type)) return DotInt8(type, row, QuantizeActivations(x));
  std::vector<float> weights(x.size());
  DequantizeRow(type, row, static_cast<int64_t>(x.size()), weights.data());
  float acc = 0;
  for (size_t k = 0; k < x.size(); ++k) acc = std::fma(weights[k], x[k], acc);
  return acc;
}

float Exp(float x) {
  if (x < kExpLow) return 0;
  const float bounded = std::min(x, kExpHigh);
  const float n = std::nearbyint(bounded * kLog2E);
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, bounded));
  float p = kExpTaylor[7];
  for (int i = 6; i >= 0; --i) p = std::fma(p, r, kExpTaylor[i]);
  return p * std::ldexp(1.0f, static_cast<int>(n));
}

float Activate(FfnActivation activation, float gate) {
  if (activation == FfnActivation::kSilu) return gate / (1.0f + Exp(-gate));
  const float v = (gate * std::fma(gate * gate, kGeluCubic, 1.0f)) * kGeluScale;
  return gate / (1.0f + Exp(-v));
}

float SumLanes(std::span<const float, 16> lanes) {
  std::array<float, 16> sums;
  std::copy(lanes.begin(), lanes.end(), sums.begin());
  for (int apart = 8; apart >= 1; apart /= 2) {
    for (int i = 0; i < apart; ++i) sums[i] = sums[i] + sums[i + apart];
  }
  return sums[0];
}

void RmsNorm(std::span<const float> x, std::span<const float> weight, float epsilon, std::span<float> out) {
  std::array<float, 16> lanes = {};
  for (size_t i = 0; i < x.size(); ++i) lanes[i % 16] = std::fma(x[i], x[i], lanes[i % 16]);
  const float mean = SumLanes(lanes) / static_cast<float>(x.size());
  const float scale = 1.0f / std::sqrt(mean + epsilon);
  for (size_t i = 0; i < x.size(); ++i) out[i] = (x[i] * scale) * weight[i];
}

void Rope(const RopeParams& params, TokenPos position, std::span<float> x) {
  const int32_t pairs = params.rotary_dims / 2;
  for (size_t head = 0; head < x.size(); head += params.head_dim) {
    for (int32_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(ToInt(position)) * static_cast<double>(params.frequencies[i]);
      const float cosine = static_cast<float>(std::cos(angle));
      const float sine = static_cast<float>(std::sin(angle));
      const bool adjacent = params.pairing == RopePairing::kAdjacent;
      float& first = x[head + (adjacent ? 2 * i : i)];
      float& second = x[head + (adjacent ? 2 * i + 1 : i + pairs)];
      const float a = first, b = second;
      first = a * cosine - b * sine;
      second = a * sine + b * cosine;
    }
  }
}

void AttentionHead(std::span<const float> q, std::span<const float> keys, std::span<const float> values,
                   float score_scale, std::span<float> out) {
  const size_t dim = q.size();
  const size_t count = keys.size() / dim;
  float most = -std::numeric_limits<float>::infinity(), sum = 0;
  std::ranges::fill(out, 0.0f);
  for (size_t begin = 0; begin < count; begin += kAttentionPart) {
    std::vector<float> scores(std::min<size_t>(kAttentionPart, count - begin));
    for (size_t j = 0; j < scores.size(); ++j) {
      std::array<float, 16> lanes = {};
      for (size_t i = 0; i < dim; ++i) lanes[i % 16] = std::fma(q[i], keys[(begin + j) * dim + i], lanes[i % 16]);
      scores[j] = score_scale * SumLanes(lanes);
    }
    const float part_most = *std::max_element(scores.begin(), scores.end());
    std::array<float, 16> sums = {};
    for (size_t j = 0; j < scores.size(); ++j) {
      scores[j] = Exp(scores[j] - part_most);
      sums[j % 16] += scores[j];
    }
    const float both = std::max(most, part_most);
    const float old = Exp(most - both), fresh = Exp(part_most - both);
    sum = std::fma(SumLanes(sums), fresh, sum * old);
    for (size_t i = 0; i < dim; ++i) {
      float context = 0;
      for (size_t j = 0; j < scores.size(); ++j) context = std::fma(scores[j], values[(begin + j) * dim + i], context);
      out[i] = std::fma(context, fresh, out[i] * old);
    }
    most = both;
  }
  for (float& context : out) context /= sum;
}

void FfnPage(const FfnParams& params, const FfnPageRef& page, std::span<const float> x, bool precise,
             std::span<float> y, std::span<float> capture) {
  const FfnPageLayout& layout = params.layout;
  std::vector<float> z(layout.page_rows);
  for (int32_t n = 0; n < page.row_count; ++n) {
    if (!IsUsed(page.row_mask, n)) continue;
    z[n] = RowZ(params, page.data + layout.gate_offset, page.data + layout.up_offset, n, x, precise);
    if (!capture.empty()) capture[page.first_row + n] = z[n];
  }
  const bool int8_down = !precise && layout.has_down_table();
  const Int8Row z_codes = QuantizeActivations(z);
  for (int64_t o = 0; o < layout.dim; ++o) {
    y[o] += int8_down ? DownInt8(params, page, z_codes, o) : DownFloat(params, page, z, o);
  }
}

void FfnOverlay(const FfnParams& params, const FfnOverlayRef& overlay, std::span<const float> x, bool precise,
                std::span<float> y, std::span<float> capture) {
  std::vector<float> z(overlay.row_count);
  for (int32_t n = 0; n < overlay.row_count; ++n) {
    if (!IsUsed(overlay.row_mask, n)) continue;
    z[n] = RowZ(params, overlay.gate, overlay.up, n, x, precise);
    if (!capture.empty()) capture[overlay.row_index[n]] = z[n];
  }
  for (int64_t o = 0; o < params.layout.dim; ++o) y[o] += DownOverlay(params, overlay, z, precise, o);
}

}  // namespace dogstar::reference
