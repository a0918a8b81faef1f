// What the machine can do at most, as yardsticks for the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dogstar {

// Reads all bytes with the widest loads there are; returns something that depends on them.
uint64_t SumBytes(const std::byte* data, int64_t bytes);

// Runs `count` instructions of int8 products (vpdpbusd on 512 bits, or else vpmaddubsw on 256) on registers.
int32_t Int8Products(int64_t count);
// Multiply-adds that makes.
int64_t Int8ProductsDone(int64_t count);

struct MachinePeaks {
  double read_gb_s = 0;             // from memory, all threads together
  double int8_products_per_ns = 0;  // multiply-adds
};
// The best of a few runs over 1 GiB (small: 8 MiB, a look at the code only) and over registers.
MachinePeaks MeasureMachinePeaks(int threads, bool small = false);

}  // namespace dogstar
