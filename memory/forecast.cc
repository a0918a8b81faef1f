#include "memory/forecast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <utility>

#include "memory/hybrid_split.h"

namespace dogstar {
namespace {

// Adds up kernel seconds over the parts of a pass.
class KernelTime {
 public:
  KernelTime(std::span<const KernelRate> rates, int32_t rows) : rates_(rates), rows_(rows) {}

  void Matrix(const MatrixShape& matrix, const MatrixPlacement& place, bool streamed) {
    Add(matrix.type, WeightForm::kPanels, matrix.PanelBytesOf(place.resident_rows));
    if (!streamed) return;
    Add(matrix.type, WeightForm::kPlain, matrix.row_bytes() * static_cast<uint64_t>(matrix.rows - place.resident_rows));
  }
  void Pages(const FfnPageLayout& layout, double pages) {
    Add(layout.gate_type, WeightForm::kPages, static_cast<uint64_t>(pages * static_cast<double>(layout.page_bytes)));
  }
  double seconds() const { return seconds_; }

 private:
  void Add(QuantType type, WeightForm form, uint64_t bytes) {
    seconds_ += KernelSeconds(rates_, type, form, rows_, static_cast<double>(bytes));
  }

  std::span<const KernelRate> rates_;
  int32_t rows_;
  double seconds_ = 0;
};

void Attention(const LayerShape& layer, const LayerPlacement& place, bool streamed, KernelTime* time) {
  time->Matrix(layer.query, place.query, streamed);
  time->Matrix(layer.key, place.key, streamed);
  time->Matrix(layer.value, place.value, streamed);
  time->Matrix(layer.output, place.output, streamed);
}

// But for `elsewhere`, a share of the pages in host memory.
double FullPassSeconds(const ModelShape& model, const Placement& placement, std::span<const KernelRate> rates,
                       int32_t rows, double elsewhere = 0) {
  KernelTime time(rates, rows);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const LayerShape& layer = model.layers[i];
    const LayerPlacement& place = placement.layers[i];
    Attention(layer, place, true, &time);
    if (model.packed) {
      time.Pages(layer.pages, layer.pages.page_count() - elsewhere * place.host_pages);
    } else {
      time.Matrix(layer.gate, place.gate, true);
      time.Matrix(layer.up, place.up, true);
      time.Matrix(layer.down, place.down, true);
    }
  }
  time.Matrix(model.head, placement.head, true);
  return time.seconds();
}

double HighShare(const FfnPageLayout& pages) {
  return static_cast<double>(pages.high.bytes) / static_cast<double>(pages.page_bytes);
}

// All pages in host memory.
double HostSeconds(const ModelShape& model, const Placement& placement, std::span<const KernelRate> rates,
                   int32_t rows) {
  KernelTime time(rates, rows);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    time.Pages(model.layers[i].pages, placement.layers[i].host_pages);
  }
  return time.seconds();
}

double DraftSeconds(const ModelShape& model, const Placement& placement, std::span<const KernelRate> rates) {
  KernelTime time(rates, 1);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const LayerPlacement& place = placement.layers[i];
    const FfnPageLayout& pages = model.layers[i].pages;
    Attention(model.layers[i], place, false, &time);
    time.Pages(pages, place.resident_pages + place.plane_pages * HighShare(pages) +
                          static_cast<double>(place.overlay_rows) / pages.page_rows);
  }
  time.Matrix(model.head, placement.head, false);
  return time.seconds();
}

// A row of which the high plane is there is worth so much of a whole one in drafts (references: 4.7 tokens per pass
// where all rows keep 3 of 4 bits, as many as with .88 of the rows whole).
constexpr double kPlaneWorth = 0.88;

// 1 + a + ... + a^(n-1)
double TokensOf(double acceptance, int32_t period) {
  return acceptance >= 1 ? period : (1 - std::pow(acceptance, period)) / (1 - acceptance);
}

// A full pass over some rows.
struct PassForecast {
  double seconds = 0, kernels = 0, link = 0, processor_share = 0;
};

struct PassForecaster {
  const ModelShape& model;
  const Placement& placement;
  const MachineRates& rates;
  const ForecastRequest& request;
  double read_seconds;

  std::span<const KernelRate> kernels() const {
    return request.device != nullptr ? request.device->kernels : rates.kernels;
  }
  PassForecast Of(int32_t rows) const {
    if (request.device != nullptr) return WithDevice(rows);
    PassForecast pass;
    pass.kernels = FullPassSeconds(model, placement, kernels(), rows);
    pass.seconds = std::max(read_seconds, pass.kernels) + request.shared * std::min(read_seconds, pass.kernels);
    return pass;
  }

 private:
  PassForecast WithDevice(int32_t rows) const {
    const auto host = static_cast<double>(placement.host_bytes), pages = static_cast<double>(placement.host_page_bytes);
    const double link_rate = request.device->link_bytes_per_second;
    const double processor = HostSeconds(model, placement, rates.kernels, rows);
    PassForecast pass;
    if (placement.host_page_bytes > 0 && placement.host_tables) {
      const double of_a_byte = processor / pages;
      const HybridSplit split = request.hybrid >= 0
                                    ? HybridSplit(request.hybrid)
                                    : HybridSplit(HybridRates{1 / link_rate, of_a_byte, of_a_byte, rows});
      pass.processor_share = split.ShareOf(rows);
    }
    const double crosses = static_cast<double>(placement.complement_bytes) + host - pass.processor_share * pages;
    pass.link = crosses / link_rate;
    pass.kernels = FullPassSeconds(model, placement, kernels(), rows, pass.processor_share);
    pass.seconds = std::max({read_seconds, pass.link, pass.kernels, pass.processor_share * processor});
    return pass;
  }
};

}  // namespace

double AssumedAcceptance(double density) {
  // The measured three, nothing at nothing, everything at everything; 0.9 after references (calibrated rows, .818).
  constexpr std::array<std::pair<double, double>, 6> kCurve = {
      {{0, 0.05}, {0.3, 0.325}, {0.5, 0.466}, {0.7, 0.58}, {0.9, 0.80}, {1, 1}}};
  for (size_t i = 1; i < kCurve.size(); ++i) {
    const auto [x0, y0] = kCurve[i - 1];
    const auto [x1, y1] = kCurve[i];
    if (density <= x1) return y0 + (y1 - y0) * std::max(0.0, density - x0) / (x1 - x0);
  }
  return 1;
}

Forecast MakeForecast(const ModelShape& model, const Placement& placement, const MachineRates& rates,
                      const ForecastRequest& request) {
  Forecast forecast;
  if (placement.complement_bytes > 0 && request.disk_bytes_per_second > 0) {
    forecast.read_seconds = static_cast<double>(placement.complement_bytes) / request.disk_bytes_per_second;
  }
  const PassForecaster passes{model, placement, rates, request, forecast.read_seconds};
  const PassForecast one = passes.Of(1);
  forecast.compute_seconds = one.kernels;
  forecast.link_seconds = one.link;
  forecast.processor_share = forecast.verify_processor_share = one.processor_share;
  forecast.dense_seconds = forecast.verify_seconds = forecast.corrected_seconds = one.seconds;
  if (!placement.drafts_need_no_disk) return forecast;

  forecast.draft_seconds = DraftSeconds(model, placement, passes.kernels());
  if (request.device != nullptr) {
    const double link = static_cast<double>(placement.host_matrix_bytes) / request.device->link_bytes_per_second;
    forecast.draft_seconds = std::max(forecast.draft_seconds, link);
  }
  forecast.acceptance = request.acceptance.value_or(
      AssumedAcceptance(placement.resident_density - (1 - kPlaneWorth) * placement.plane_density));
  for (int32_t period = 2; period <= request.period; ++period) {
    const PassForecast verify = passes.Of(period);
    const double tokens = TokensOf(forecast.acceptance, period);
    const double seconds = ((period - 1) * forecast.draft_seconds + verify.seconds) / tokens;
    if (seconds >= forecast.corrected_seconds) continue;
    forecast.corrected_seconds = seconds;
    forecast.period = period;
    forecast.verify_seconds = verify.seconds;
    forecast.verify_processor_share = verify.processor_share;
    forecast.tokens_per_cycle = tokens;
  }
  return forecast;
}

}  // namespace dogstar
