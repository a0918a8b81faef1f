#include "memory/machine_rates.h"

#include <algorithm>
#include <cmath>

namespace dogstar {
namespace {

double BitsOf(QuantType type) { return static_cast<double>(RowBytes(type, 256)) / 32; }

// The measured type of this form whose weights are nearest in width.
QuantType NearestType(std::span<const KernelRate> kernels, QuantType type, WeightForm form) {
  QuantType nearest = type;
  double best = 1e9;
  for (const KernelRate& rate : kernels) {
    const double distance = rate.type == type ? -1 : std::abs(BitsOf(rate.type) - BitsOf(type));
    if (rate.form == form && distance < best) best = distance, nearest = rate.type;
  }
  return nearest;
}

}  // namespace

const DiskRates* MachineRates::FindDisk(const std::string& device) const {
  const auto found = std::ranges::find(disks, device, &DiskRates::device);
  return found == disks.end() ? nullptr : &*found;
}

const DeviceRates* MachineRates::FindDevice(const std::string& name) const {
  const auto found = std::ranges::find(devices, name, &DeviceRates::name);
  return found == devices.end() ? nullptr : &*found;
}

double KernelSeconds(std::span<const KernelRate> kernels, QuantType type, WeightForm form, int32_t rows, double bytes) {
  const QuantType measured = NearestType(kernels, type, form);
  const KernelRate *below = nullptr, *above = nullptr;
  for (const KernelRate& rate : kernels) {
    if (rate.type != measured || rate.form != form || rate.bytes_per_second <= 0) continue;
    if (rate.rows <= rows && (below == nullptr || rate.rows > below->rows)) below = &rate;
    if (rate.rows >= rows && (above == nullptr || rate.rows < above->rows)) above = &rate;
  }
  if (below == nullptr && above == nullptr) return 0;
  if (below == nullptr) return bytes / above->bytes_per_second;
  const double low = bytes / below->bytes_per_second;
  if (above == nullptr) return low * rows / below->rows;  // beyond the measured: bound by products
  if (above == below) return low;
  const double high = bytes / above->bytes_per_second;
  return low + (high - low) * (rows - below->rows) / (above->rows - below->rows);
}

DeviceRates CommonDeviceRates() {
  constexpr double kMemory = 900e9, kShare = 0.8;
  DeviceRates rates;
  rates.name = "not measured";
  rates.memory_bytes_per_second = kMemory;
  rates.link_bytes_per_second = 22e9;
  for (const WeightForm form : {WeightForm::kPanels, WeightForm::kPages}) {
    rates.kernels.push_back({QuantType::kQ4_0, form, 1, kShare * kMemory});
    rates.kernels.push_back({QuantType::kQ4_0, form, 16, kShare * kMemory / 2});
  }
  return rates;
}

MachineRates CommonRates() {
  MachineRates rates;
  rates.machine = "not measured";
  rates.memory_bytes_per_second = 30e9;
  for (const WeightForm form : {WeightForm::kPanels, WeightForm::kPlain, WeightForm::kPages}) {
    const double share = form == WeightForm::kPanels ? 0.85 : 0.6;
    rates.kernels.push_back({QuantType::kQ4_0, form, 1, share * rates.memory_bytes_per_second});
    rates.kernels.push_back({QuantType::kQ4_0, form, 16, share * rates.memory_bytes_per_second / 3});
  }
  return rates;
}

}  // namespace dogstar
