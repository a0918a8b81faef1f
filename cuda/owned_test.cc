#include "cuda/owned.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "cuda/cuda_backend.h"
#include "cuda/driver_memory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using testing::HasSubstr;

bool HasGpu() {
  const auto devices = ListCudaDevices();
  return devices.ok() && !devices->empty();
}

#define SKIP_WITHOUT_GPU() \
  if (!HasGpu()) GTEST_SKIP() << "no CUDA device on this machine"

std::string Text(const absl::Status& status) { return std::string(status.message()); }

TEST(CudaStatusTest, NamesOperationAndError) {
  EXPECT_TRUE(CudaStatus(cudaSuccess, "copy").ok());
  const absl::Status status = CudaStatus(cudaErrorMemoryAllocation, "allocate 2 GiB");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Text(status), HasSubstr("allocate 2 GiB"));
  EXPECT_THAT(Text(status), HasSubstr("cudaErrorMemoryAllocation"));
  EXPECT_EQ(CudaStatus(cudaErrorNoDevice, "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CudaStatus(cudaErrorIllegalAddress, "x").code(), absl::StatusCode::kInternal);
}

TEST(CudaDevicesTest, ListIsEmptyOrDescribesEachDevice) {
  const auto devices = ListCudaDevices();
  ASSERT_TRUE(devices.ok()) << devices.status();
  for (const CudaDevice& device : *devices) {
    EXPECT_FALSE(device.name.empty());
    EXPECT_GT(device.memory_bytes, 0u);
    EXPECT_LE(device.free_bytes, device.memory_bytes);
  }
}

TEST(CudaBackendTest, SaysWhatIsMissing) {
  if (HasGpu()) GTEST_SKIP() << "there is a CUDA device on this machine";
  const auto backend = NewCudaBackend({});
  ASSERT_FALSE(backend.ok());
  EXPECT_THAT(Text(backend.status()), HasSubstr("CUDA"));
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kUnavailable);
}

// The context, everything that is taken, and nothing beside it. Other processes on the device would show here too.
TEST(CudaBackendTest, ABudgetIsHonouredToTheMegabyte) {
  SKIP_WITHOUT_GPU();
  constexpr uint64_t kBudget = uint64_t{2} << 30, kMiB = 1 << 20;
  const auto before = UsedDeviceBytes(0);
  if (!before) GTEST_SKIP() << "the driver does not say what is used";
  const auto backend = NewCudaBackend({.device = 0, .memory_bytes = kBudget});
  ASSERT_TRUE(backend.ok()) << backend.status();
  while ((*backend)->NewTensor(1024, 1024).ok()) {
  }
  const auto after = UsedDeviceBytes(0);
  EXPECT_LE(*after - *before, kBudget + 2 * kMiB);  // the driver's pieces have 2 MiB
  EXPECT_GE(*after - *before, kBudget - 8 * kMiB);
}

TEST(BufferTest, EmptyBufferNeedsNoDevice) {
  const auto device = DeviceBuffer::Create(0);
  ASSERT_TRUE(device.ok());
  EXPECT_EQ(device->data(), nullptr);
  const auto host = PageLockedBuffer::Create(0);
  ASSERT_TRUE(host.ok());
  EXPECT_EQ(host->span().size(), 0u);
}

TEST(BufferTest, TooLargeIsResourceExhausted) {
  SKIP_WITHOUT_GPU();
  const auto buffer = DeviceBuffer::Create(uint64_t{1} << 50);
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted) << buffer.status();
  EXPECT_TRUE(DeviceBuffer::Create(4096).ok());  // the error does not stick
}

TEST(BufferTest, BytesSurviveARoundTripAndMoves) {
  SKIP_WITHOUT_GPU();
  constexpr size_t kBytes = 1 << 20;
  auto host = PageLockedBuffer::Create(kBytes);
  auto device = DeviceBuffer::Create(kBytes);
  auto stream = Stream::Create();
  auto done = Event::Create();
  ASSERT_TRUE(host.ok() && device.ok() && stream.ok() && done.ok());
  for (size_t i = 0; i < kBytes; ++i) host->data()[i] = static_cast<std::byte>(i * 7);
  const DeviceBuffer moved = *std::move(device);
  ASSERT_EQ(cudaMemcpyAsync(moved.data(), host->data(), kBytes, cudaMemcpyHostToDevice, stream->get()), cudaSuccess);
  std::vector<std::byte> back(kBytes);
  ASSERT_TRUE(stream->Wait().ok());
  ASSERT_EQ(cudaMemcpyAsync(back.data(), moved.data(), kBytes, cudaMemcpyDeviceToHost, stream->get()), cudaSuccess);
  ASSERT_TRUE(done->Record(*stream).ok());
  ASSERT_TRUE(done->Wait().ok());
  EXPECT_TRUE(*done->IsDone());
  EXPECT_TRUE(std::equal(back.begin(), back.end(), host->data()));
  EXPECT_EQ(ReleaseErrorCount(), 0u);
}

}  // namespace
}  // namespace dogstar
