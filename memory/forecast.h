// Forecast: seconds per token of a placement, from measured rates. A pure function, as the planner is.
//
//   full pass over n rows    T(n) = max(R, K) + shared * min(R, K),
//                            R = complement / disk, K = kernels(resident, n) + kernels(complement, n)
//   draft step               t = kernels(attention, head, resident FFN rows; 1)
//   corrected                ((n - 1) t + T(n)) / k, k = 1 + a + ... + a^(n-1), n the best of 1 .. period
//   with a device           T(n) = max(R, L, K, H), R the disk's part, L = (complement + (1 - s) host) / link,
//                            K = kernels of the device over all but s host, H = the processor's over s host, s as in
//                            hybrid_split.h; t by the device's kernels
// (design: seconds per token; k by independent acceptance with probability a.) Reads run while kernels do, the next
// pass's too, but both want the memory and the cores (which also serve the disk's interrupts): `shared` is what that
// costs, measured with the disk (DiskRates) or kShared. What a step costs beside its weights (attention over the
// context, starting kernels) is left out: forecasts are for models whose weights count.
#pragma once

#include <cstdint>
#include <optional>

#include "memory/machine_rates.h"
#include "memory/planner.h"

namespace dogstar {

// Where nothing was measured: passes of an 8B model at six budgets, 2 cores of an EPYC, 2026-11-25.
inline constexpr double kShared = 0.5;

struct ForecastRequest {
  const DeviceRates* device = nullptr;  // that computes; null: the host does
  double hybrid = -1;  // share of the pages in host memory that the processor computes; -1: as measured
  double disk_bytes_per_second = 0;
  double shared = kShared;
  int32_t period = 16;               // the largest
  std::optional<double> acceptance;  // of the next draft; none: AssumedAcceptance
};

struct Forecast {
  double read_seconds = 0;            // the disk's part of a full pass
  double link_seconds = 0;            // with a device: what its link carries, in a pass over one row
  double processor_share = 0;         // with a device: of the pages in host memory, in a pass over one row
  double verify_processor_share = 0;  // the same over `period` rows
  double compute_seconds = 0;         // of a full pass over one row
  double dense_seconds = 0;           // per token
  double draft_seconds = 0;           // per draft step, and per token of sparse runs; 0: no drafts
  int32_t period = 1;                 // best
  double verify_seconds = 0;          // T(period)
  double acceptance = 0;
  double tokens_per_cycle = 1;
  double corrected_seconds = 0;  // per token; dense_seconds where drafts do not pay
};

Forecast MakeForecast(const ModelShape& model, const Placement& placement, const MachineRates& rates,
                      const ForecastRequest& request);

// Acceptance of a draft by the share of FFN rows it has, without statistics of the model: what SmolLM2-135M reached on
// ten chat prompts (docs/benchmarks.md: 1.48, 1.87, 2.37 tokens of a period of 8 at densities .3, .5, .7; larger
// models have more to spare).
double AssumedAcceptance(double density);

}  // namespace dogstar
