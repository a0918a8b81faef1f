// Bytes of a packed file give an error or layers whose every number is in its bounds.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>

#include "fmt/format.h"
#include "model/packed_file.h"
#include "model/packed_format.h"
#include "model/synth.h"
#include "tests/fuzz/fuzz.h"

namespace dogstar {
namespace {

// A file in memory, with a path.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("fuzz_packed", MFD_CLOEXEC)) { CHECK(fd_ >= 0); }
  ~MemoryFile() { close(fd_); }
  std::string path() const { return fmt::format("/proc/self/fd/{}", fd_); }
  void Write(std::span<const std::byte> bytes) const {
    CHECK(pwrite(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  }

 private:
  int fd_;
};

std::string MakeSeed(QuantType type, uint64_t number) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("fuzz_packed_{}_{}.gguf", getpid(), number);
  SynthOptions options{.name = "fuzz", .shape = {1, 32, 64, 1, 1}, .type = type, .packed = true, .threads = 1};
  CHECK(WriteSyntheticModel(options, path.string(), {}).ok());
  std::ifstream file(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  std::filesystem::remove(path);
  return bytes;
}

// Gives the header the checksum that it should have: otherwise that check would hide the others from most inputs.
void MendHeaderChecksum(const GgufHeader& header, std::span<std::byte> bytes) {
  const GgufTensor* const tensor = header.FindTensor(packed::kHeaderChecksumTensor);
  if (tensor == nullptr || tensor->bytes < sizeof(uint64_t)) return;
  const uint64_t checksum = ChecksumOf(bytes.first(header.data_offset()));
  std::memcpy(bytes.data() + tensor->offset, &checksum, sizeof(checksum));
}

void CheckLayer(const PackedLayer& layer, uint64_t file_bytes) {
  const FfnPageLayout& layout = layer.layout;
  const auto pages = static_cast<uint64_t>(layout.page_count());
  CHECK(layer.pages_offset % packed::kFileAlignment == 0);
  CHECK(layer.pages_offset + pages * layout.page_bytes <= file_bytes);
  CHECK(layer.down_scales_offset + layer.down_scales_bytes <= file_bytes);
  CHECK(layer.page_checksums.size() == pages);
  CHECK(layer.row_order.size() == static_cast<size_t>(layout.ffn_rows));
  for (NeuronIndex neuron : layer.row_order) CHECK(ToInt(neuron) >= 0 && ToInt(neuron) < layout.ffn_rows);
  for (uint16_t group : layer.run_groups) CHECK(group < std::max(layout.group_count(), 1));
}

void CheckBytes(std::span<std::byte> bytes) {
  const auto header = GgufHeader::Parse(bytes, bytes.size());
  if (!header.ok() || !PackedFile::IsPacked(*header)) return;
  MendHeaderChecksum(*header, bytes);
  const MemoryFile file;
  file.Write(bytes);
  const auto packed = PackedFile::Open(file.path(), *header);
  if (!packed.ok()) return;
  for (const PackedLayer& layer : packed->layers()) CheckLayer(layer, bytes.size());
}

}  // namespace
}  // namespace dogstar

std::vector<std::string> FuzzSeeds() {
  using dogstar::QuantType;
  return {dogstar::MakeSeed(QuantType::kQ4_1, 0), dogstar::MakeSeed(QuantType::kF16, 1)};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  dogstar::CheckBytes(bytes);
  return 0;
}
