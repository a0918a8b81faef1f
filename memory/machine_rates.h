// MachineRates: what one machine gives, measured (`dogstar probe`) and kept in a file (runtime/tiers.h). Planning and
// forecasts are functions of these numbers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/quant.h"

namespace dogstar {

// How weights lie in memory when a kernel reads them: panels (resident matrices), plain rows of a file (streamed
// matrices, repacked on the way), pages of FFN rows (packed files, resident or streamed).
enum class WeightForm { kPanels, kPlain, kPages };

// Weight bytes per second of products of `rows` activation rows with weights that come from memory, all threads.
struct KernelRate {
  QuantType type = QuantType::kQ4_0;
  WeightForm form = WeightForm::kPanels;
  int32_t rows = 1;
  double bytes_per_second = 0;
};

// One size and depth of reading.
struct ReadRate {
  uint64_t read_bytes = 0;
  int32_t depth = 0;
  double bytes_per_second = 0;
};

struct DiskRates {
  std::string device;  // "254:0", major and minor number
  std::string path;    // what was read
  std::string reader;  // "io_uring, O_DIRECT, ..."
  std::vector<ReadRate> reads;
  double bytes_per_second = 0;   // a long run of neighbouring reads, as a pass makes them: with computing beside
  uint64_t in_flight_bytes = 0;  // the least that reached 97% of the best of `reads`; 0: not known
  // Share of the shorter of reading and computing that is not hidden behind the longer when they run side by side, 0 to
  // 1; < 0: not known.
  double shared = -1;
};

// A device with memory of its own.
struct DeviceRates {
  std::string name;                    // "cuda:0" (runtime/devices.h)
  std::string description;             // for people
  double memory_bytes_per_second = 0;  // of its own, read and written by copies
  double link_bytes_per_second = 0;    // from page-locked host memory, in pieces as passes copy them
  std::vector<KernelRate> kernels;     // on weights in its memory
};

// Seconds for `bytes` of weights and `rows` activation rows. Between measured row counts the time of a byte is linear;
// a type that was not measured counts as the measured one of the nearest width. 0 when nothing was measured.
double KernelSeconds(std::span<const KernelRate> kernels, QuantType type, WeightForm form, int32_t rows, double bytes);

struct MachineRates {
  std::string machine;  // for people: processor, instruction set
  int32_t threads = 0;
  double memory_bytes_per_second = 0;  // plain reading, all threads
  std::vector<KernelRate> kernels;
  std::vector<DiskRates> disks;
  std::vector<DeviceRates> devices;

  // The disk with this device number; null when it was not measured.
  const DiskRates* FindDisk(const std::string& device) const;
  // The device of this name; null when it was not measured.
  const DeviceRates* FindDevice(const std::string& name) const;
  // Of the host.
  double KernelSeconds(QuantType type, WeightForm form, int32_t rows, double bytes) const {
    return dogstar::KernelSeconds(kernels, type, form, rows, bytes);
  }
};

// Assumed where nothing was measured: two cores of a server, an NVMe disk.
MachineRates CommonRates();
// A consumer's GPU of 24 GB behind PCIe 4.0: 900 GB/s of memory, of which our kernels are to reach 0.8; 22 GB/s of
// link.
DeviceRates CommonDeviceRates();

}  // namespace dogstar
