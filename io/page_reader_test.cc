// The contract of PageReader, checked on every engine, with and without O_DIRECT.
#include "io/page_reader.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <tuple>

#include "base/aligned_buffer.h"
#include "base/random.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/faulty_reader.h"
#include "io/test_file.h"

namespace dogstar {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr uint64_t kMiB = uint64_t{1} << 20;

enum class Kind { kUring, kPread, kFaulty };

std::string NameOf(Kind kind) {
  switch (kind) {
    case Kind::kUring:
      return "Uring";
    case Kind::kPread:
      return "Pread";
    case Kind::kFaulty:
      return "Faulty";
  }
  return "";
}

// What the faulty double does here keeps the contract: completions come late and in any order.
FaultOptions LateOptions() {
  return {.seed = 3, .late_probability = 0.3, .late_by = std::chrono::microseconds(300), .reorder = true};
}

absl::StatusOr<std::unique_ptr<PageReader>> OpenKind(Kind kind, const std::string& path, ReaderOptions options,
                                                     std::vector<std::string>* notes) {
  options.engine = kind == Kind::kPread ? IoEngine::kPread : IoEngine::kUring;
  ASSIGN_OR_RETURN(std::unique_ptr<PageReader> reader, OpenPageReader(path, options, notes));
  if (kind == Kind::kFaulty) return NewFaultyReader(std::move(reader), path, LateOptions());
  return reader;
}

// True when `status` says that this machine forbids io_uring, as containers do.
bool IsRefusal(const absl::Status& status) { return status.code() == absl::StatusCode::kUnavailable; }

class PageReaderTest : public ::testing::TestWithParam<std::tuple<Kind, DirectMode>> {
 protected:
  void Open(const std::string& path, size_t queue_depth = 32, uint64_t buffer_bytes = 8 * kMiB) {
    buffer_ = *AlignedBuffer::Create(buffer_bytes);
    const ReaderOptions options = {
        .direct = std::get<1>(GetParam()), .queue_depth = queue_depth, .buffer = buffer_.span()};
    auto reader = OpenKind(std::get<0>(GetParam()), path, options, &notes_);
    if (IsRefusal(reader.status())) GTEST_SKIP() << reader.status();
    ASSERT_TRUE(reader.ok()) << reader.status();
    reader_ = *std::move(reader);
  }
  ReadRequest Request(uint64_t offset, uint32_t bytes, uint64_t buffer_offset = 0, uint64_t tag = 0) const {
    return {.offset = offset,
            .destination = buffer_.data() + buffer_offset,
            .bytes = bytes,
            .needed_bytes = bytes,
            .tag = tag};
  }
  absl::Status ReadOne(const ReadRequest& request) {
    RETURN_IF_ERROR(reader_->Submit({&request, 1}));
    std::vector<Completion> finished;
    RETURN_IF_ERROR(reader_->Reap(1, &finished));
    CHECK(finished.size() == 1 && finished[0].tag == request.tag);
    return finished[0].status;
  }
  bool Holds(const TestFile& file, const ReadRequest& request) const {
    return std::memcmp(request.destination, file.content().data() + request.offset, request.needed_bytes) == 0;
  }

  AlignedBuffer buffer_;
  std::vector<std::string> notes_;
  std::unique_ptr<PageReader> reader_;
};

TEST_P(PageReaderTest, ReadsEverySizeExactly) {
  const TestFile file(4 * kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  for (uint32_t bytes = kIoAlignment; bytes <= 2 * kMiB; bytes *= 2) {
    const ReadRequest request = Request(bytes, bytes);
    ASSERT_EQ(ReadOne(request), absl::OkStatus());
    EXPECT_TRUE(Holds(file, request)) << bytes;
  }
}

TEST_P(PageReaderTest, ManyReadsInFlightEachComeBackOnceWithTheirTag) {
  const TestFile file(8 * kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  SplitMix64 random(1);
  constexpr uint32_t kBytes = 64 * 1024;
  std::vector<ReadRequest> requests;
  for (uint64_t i = 0; i < 8 * kMiB / kBytes; ++i) requests.push_back(Request(i * kBytes, kBytes, i * kBytes, i));
  for (size_t left = requests.size(); left > 1; --left) std::swap(requests[left - 1], requests[random.Next() % left]);

  std::vector<Completion> finished;
  size_t submitted = 0;
  while (finished.size() < requests.size()) {
    const size_t count = std::min(reader_->free_depth(), requests.size() - submitted);
    ASSERT_EQ(reader_->Submit(std::span(requests).subspan(submitted, count)), absl::OkStatus());
    submitted += count;
    ASSERT_EQ(reader_->Reap(std::min<size_t>(3, reader_->in_flight()), &finished), absl::OkStatus());
    EXPECT_EQ(reader_->in_flight(), submitted - finished.size());
  }
  std::vector<bool> seen(requests.size());
  for (const Completion& completion : finished) {
    EXPECT_EQ(completion.status, absl::OkStatus());
    EXPECT_FALSE(seen.at(completion.tag));
    seen.at(completion.tag) = true;
  }
  EXPECT_EQ(std::memcmp(buffer_.data(), file.content().data(), 8 * kMiB), 0);
}

TEST_P(PageReaderTest, MemoryOutsideTheBufferIsReadIntoToo) {
  const TestFile file(kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  const AlignedBuffer other = *AlignedBuffer::Create(kMiB);
  ReadRequest request = Request(0, kMiB);
  request.destination = other.data();
  ASSERT_EQ(ReadOne(request), absl::OkStatus());
  EXPECT_TRUE(Holds(file, request));
}

TEST_P(PageReaderTest, TheLastBlockNeedsOnlyTheFilesBytes) {
  const TestFile file(10000);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  ReadRequest request = Request(2 * kIoAlignment, kIoAlignment);
  request.needed_bytes = 10000 - 2 * kIoAlignment;
  ASSERT_EQ(ReadOne(request), absl::OkStatus());
  EXPECT_TRUE(Holds(file, request));
}

TEST_P(PageReaderTest, NeedingMoreThanTheFileHasIsDataLoss) {
  const TestFile file(10000);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  const absl::Status across = ReadOne(Request(kIoAlignment, 3 * kIoAlignment));
  EXPECT_EQ(across.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(across.message()),
              AllOf(HasSubstr(file.path()), HasSubstr("offset 4096"), HasSubstr("5904 of the 12288 bytes")));
  const absl::Status behind = ReadOne(Request(kMiB, kIoAlignment));
  EXPECT_EQ(behind.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(behind.message()), HasSubstr("0 of the 4096 bytes"));
}

TEST_P(PageReaderTest, AFileTruncatedWhileOpenIsDataLoss) {
  const TestFile file(4 * kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  ASSERT_EQ(ReadOne(Request(2 * kMiB, kMiB)), absl::OkStatus());
  file.Truncate(2 * kMiB + 5000);
  const absl::Status status = ReadOne(Request(2 * kMiB, kMiB));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(file.path()), HasSubstr("offset 2097152"), HasSubstr("1048576 bytes")));
}

TEST_P(PageReaderTest, AFileTruncatedUnderReadsInFlightNeverHangs) {
  const TestFile file(8 * kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  std::vector<ReadRequest> requests;
  for (uint64_t i = 0; i < 8; ++i) requests.push_back(Request(i * kMiB, kMiB, i * kMiB, i));
  ASSERT_EQ(reader_->Submit(requests), absl::OkStatus());
  file.Truncate(0);
  std::vector<Completion> finished;
  ASSERT_EQ(reader_->Reap(requests.size(), &finished), absl::OkStatus());
  for (const Completion& completion : finished) {
    if (completion.status.ok()) continue;  // it was faster than we
    EXPECT_EQ(completion.status.code(), absl::StatusCode::kDataLoss) << completion.status;
  }
}

TEST_P(PageReaderTest, ErrorsOfTheKernelNameEverything) {
  // Offset 0 of a process's memory is never mapped: the kernel answers EIO.
  if (std::get<1>(GetParam()) == DirectMode::kAlways) GTEST_SKIP() << "not for O_DIRECT";
  ASSERT_NO_FATAL_FAILURE(Open("/proc/self/mem"));
  if (reader_ == nullptr) return;
  const absl::Status status = ReadOne(Request(0, 2 * kIoAlignment));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("/proc/self/mem"), HasSubstr("offset 0"),
                                                   HasSubstr("8192 bytes"), HasSubstr("Input/output error")));
}

TEST_P(PageReaderTest, AwaitEndsWithTheReadOrWithItsLimit) {
  const TestFile file(kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  const ReadRequest request = Request(0, kMiB);
  ASSERT_EQ(reader_->Submit({&request, 1}), absl::OkStatus());
  std::vector<Completion> finished;
  for (int rounds = 0; finished.empty() && rounds < 1000; ++rounds) {
    ASSERT_EQ(reader_->Await(std::chrono::milliseconds(100)).status(), absl::OkStatus());
    ASSERT_EQ(reader_->Reap(0, &finished), absl::OkStatus());
  }
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_EQ(finished[0].status, absl::OkStatus());
  EXPECT_TRUE(Holds(file, request));
}

TEST_P(PageReaderTest, MoreReadsThanFreeDepthAreRefusedWhole) {
  const TestFile file(kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path(), 3));
  if (reader_ == nullptr) return;
  EXPECT_EQ(reader_->free_depth(), 3u);
  std::vector<ReadRequest> requests;
  for (uint64_t i = 0; i < 4; ++i) requests.push_back(Request(0, kIoAlignment, i * kIoAlignment));
  EXPECT_EQ(reader_->Submit(requests).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(reader_->in_flight(), 0u);
  ASSERT_EQ(reader_->Submit(std::span(requests).first(3)), absl::OkStatus());
  EXPECT_EQ(reader_->free_depth(), 0u);
  std::vector<Completion> finished;
  ASSERT_EQ(reader_->Reap(3, &finished), absl::OkStatus());
  EXPECT_EQ(reader_->free_depth(), 3u);
}

TEST_P(PageReaderTest, MisalignedReadsAreRefusedWhole) {
  const TestFile file(kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  const ReadRequest good = Request(0, kIoAlignment);
  for (const ReadRequest& bad : {Request(512, kIoAlignment), Request(0, 512), Request(0, kIoAlignment, 512),
                                 Request(0, 0), Request(uint64_t{1} << 63, kIoAlignment)}) {
    const std::vector<ReadRequest> requests = {good, bad};
    EXPECT_EQ(reader_->Submit(requests).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(reader_->in_flight(), 0u);
  }
}

TEST_P(PageReaderTest, PollingEventuallyFindsEveryRead) {
  const TestFile file(kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path()));
  if (reader_ == nullptr) return;
  std::vector<Completion> finished;
  ASSERT_EQ(reader_->Reap(0, &finished), absl::OkStatus());
  EXPECT_THAT(finished, IsEmpty());
  std::vector<ReadRequest> requests;
  for (uint64_t i = 0; i < 8; ++i) requests.push_back(Request(0, kMiB, i * kMiB));
  ASSERT_EQ(reader_->Submit(requests), absl::OkStatus());
  while (finished.size() < 8) ASSERT_EQ(reader_->Reap(0, &finished), absl::OkStatus());
  EXPECT_EQ(reader_->in_flight(), 0u);
}

TEST_P(PageReaderTest, NothingIsWrittenAfterTheReaderIsGone) {
  const TestFile file(8 * kMiB);
  for (int round = 0; round < 5; ++round) {
    ASSERT_NO_FATAL_FAILURE(Open(file.path()));
    if (reader_ == nullptr) return;
    std::vector<ReadRequest> requests;
    for (uint64_t i = 0; i < 8; ++i) requests.push_back(Request(i * kMiB, kMiB, i * kMiB));
    ASSERT_EQ(reader_->Submit(requests), absl::OkStatus());
    reader_.reset();
    // By calls that sanitizers see as one access: a loop over the bytes takes ThreadSanitizer a second a round.
    std::memset(buffer_.data(), 7, 8 * kMiB);
    ::usleep(2000);
    EXPECT_EQ(buffer_.data()[0], std::byte{7});
    EXPECT_EQ(std::memcmp(buffer_.data(), buffer_.data() + 1, 8 * kMiB - 1), 0);
  }
}

TEST_P(PageReaderTest, DescribeNamesEngineModeAndDepth) {
  const TestFile file(kMiB);
  ASSERT_NO_FATAL_FAILURE(Open(file.path(), 17));
  if (reader_ == nullptr) return;
  EXPECT_THAT(reader_->Describe(),
              AllOf(HasSubstr(std::get<0>(GetParam()) == Kind::kPread ? "pread" : "io_uring"), HasSubstr("depth 17"),
                    HasSubstr(std::get<1>(GetParam()) == DirectMode::kNever ? "buffered" : "")));
}

INSTANTIATE_TEST_SUITE_P(Engines, PageReaderTest,
                         ::testing::Combine(::testing::Values(Kind::kUring, Kind::kPread, Kind::kFaulty),
                                            ::testing::Values(DirectMode::kAuto, DirectMode::kNever)),
                         [](const auto& test) {
                           return NameOf(std::get<0>(test.param)) +
                                  (std::get<1>(test.param) == DirectMode::kNever ? "Buffered" : "Direct");
                         });

absl::Status OpenStatus(const std::string& path, const ReaderOptions& options = {}) {
  return OpenPageReader(path, options, nullptr).status();
}

TEST(OpenPageReaderTest, AMissingFileIsNotFound) {
  const absl::Status status = OpenStatus("/nowhere/model.gguf");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), "open /nowhere/model.gguf: No such file or directory");
}

TEST(OpenPageReaderTest, AFolderIsRefused) {
  const absl::Status status = OpenStatus("/tmp");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "open /tmp: Is a directory");
}

TEST(OpenPageReaderTest, APipeIsRefusedWithoutWaitingForItsWriter) {
  const std::string path = fmt::format("{}/dogstar_pipe_{}", ::testing::TempDir(), ::getpid());
  ASSERT_EQ(::mkfifo(path.c_str(), 0644), 0);
  EXPECT_THAT(std::string(OpenStatus(path).message()), HasSubstr("not a regular file"));
  ::unlink(path.c_str());
}

TEST(OpenPageReaderTest, AnEmptyFileOpensAndHasNoBytes) {
  const TestFile file(0);
  auto reader = OpenPageReader(file.path(), {}, nullptr);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const AlignedBuffer buffer = *AlignedBuffer::Create(kIoAlignment);
  const ReadRequest request = {.destination = buffer.data(), .bytes = kIoAlignment, .needed_bytes = 1};
  ASSERT_EQ((*reader)->Submit({&request, 1}), absl::OkStatus());
  std::vector<Completion> finished;
  ASSERT_EQ((*reader)->Reap(1, &finished), absl::OkStatus());
  EXPECT_EQ(finished[0].status.code(), absl::StatusCode::kDataLoss);
}

TEST(OpenPageReaderTest, QueueDepthsOutOfRangeAreRefused) {
  const TestFile file(1);
  for (const size_t depth : {size_t{0}, size_t{1} << 20}) {
    EXPECT_EQ(OpenStatus(file.path(), {.queue_depth = depth}).code(), absl::StatusCode::kInvalidArgument);
  }
}

// procfs has no O_DIRECT.
TEST(OpenPageReaderTest, RefusedDirectReadsFallBackAndSaySo) {
  std::vector<std::string> notes;
  auto reader = OpenPageReader("/proc/self/status", {.engine = IoEngine::kPread}, &notes);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_THAT(notes, Contains(AllOf(HasSubstr("O_DIRECT"), HasSubstr("page cache"))));
  EXPECT_THAT((*reader)->Describe(), HasSubstr("buffered"));
}

TEST(OpenPageReaderTest, RefusedDirectReadsAreAnErrorWhereTheyAreRequired) {
  const absl::Status status = OpenStatus("/proc/self/status", {.direct = DirectMode::kAlways});
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("O_DIRECT"), HasSubstr("/proc/self/status")));
}

TEST(OpenPageReaderTest, BufferedReadsAreNoFallbackWhenAskedFor) {
  const TestFile file(1);
  std::vector<std::string> notes;
  ASSERT_TRUE(OpenPageReader(file.path(), {.engine = IoEngine::kPread, .direct = DirectMode::kNever}, &notes).ok());
  EXPECT_THAT(notes, IsEmpty());
}

TEST(OpenPageReaderTest, TmpfsWorks) {
  if (::access("/dev/shm", W_OK) != 0) GTEST_SKIP() << "no /dev/shm";
  const TestFile file(kMiB, "/dev/shm");
  auto reader = OpenPageReader(file.path(), {}, nullptr);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const AlignedBuffer buffer = *AlignedBuffer::Create(kMiB);
  const ReadRequest request = {.destination = buffer.data(), .bytes = kMiB, .needed_bytes = kMiB};
  ASSERT_EQ((*reader)->Submit({&request, 1}), absl::OkStatus());
  std::vector<Completion> finished;
  ASSERT_EQ((*reader)->Reap(1, &finished), absl::OkStatus());
  ASSERT_EQ(finished[0].status, absl::OkStatus());
  EXPECT_EQ(std::memcmp(buffer.data(), file.content().data(), kMiB), 0);
}

// The tests below change what the process may do, so each runs in a child.
// Makes every later system call `number` of this process fail.
void Forbid(int number, int error_number) {
  sock_filter filter[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, static_cast<uint32_t>(number)},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error_number)},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog program = {.len = 4, .filter = filter};
  CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

void PrintStatus(const absl::Status& status) { fmt::print(stderr, "{}\n", status.ToString()); }

TEST(OpenPageReaderDeathTest, WithoutIoUringThreadsReadAndTheReasonIsNoted) {
  const TestFile file(kMiB);
  EXPECT_EXIT(
      {
        Forbid(__NR_io_uring_setup, EPERM);
        std::vector<std::string> notes;
        auto reader = OpenPageReader(file.path(), {}, &notes);
        PrintStatus(reader.status());
        if (reader.ok()) fmt::print(stderr, "{}; {}\n", notes.back(), (*reader)->Describe());
        std::_Exit(0);
      },
      ::testing::ExitedWithCode(0), "io_uring_setup.*not permitted.*seccomp.*threads; pread");
}

TEST(OpenPageReaderDeathTest, IoUringAskedForByNameIsAnErrorWhenRefused) {
  const TestFile file(kMiB);
  EXPECT_EXIT(
      {
        Forbid(__NR_io_uring_setup, ENOSYS);
        PrintStatus(OpenStatus(file.path(), {.engine = IoEngine::kUring}));
        std::_Exit(0);
      },
      ::testing::ExitedWithCode(0), "UNAVAILABLE: open .*io_uring_setup: Function not implemented");
}

// As a user that may lock only little memory.
void BecomeSmallUser(uint64_t lockable_bytes) {
  const rlimit limit = {.rlim_cur = lockable_bytes, .rlim_max = lockable_bytes};
  CHECK(::setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
  if (::geteuid() == 0) CHECK(::setresuid(65534, 65534, 65534) == 0);  // root is not bound by the limit
}

[[noreturn]] void ReadAsSmallUser(const TestFile& file) {
  BecomeSmallUser(64 * 1024);
  const AlignedBuffer buffer = *AlignedBuffer::Create(16 * kMiB);
  std::vector<std::string> notes;
  auto reader = OpenPageReader(file.path(), {.engine = IoEngine::kUring, .buffer = buffer.span()}, &notes);
  PrintStatus(reader.status());
  const ReadRequest request = {.destination = buffer.data(), .bytes = kMiB, .needed_bytes = kMiB};
  PrintStatus((*reader)->Submit({&request, 1}));
  std::vector<Completion> finished;
  PrintStatus((*reader)->Reap(1, &finished));
  const bool same = std::memcmp(buffer.data(), file.content().data(), kMiB) == 0;
  fmt::print(stderr, "{} notes: {}; {}; {}\n", notes.size(), notes.back(), (*reader)->Describe(),
             same ? "same" : "different");
  std::_Exit(0);
}

TEST(OpenPageReaderDeathTest, ASmallMemlockLimitIsNotedOnceAndReadsStillWork) {
  const TestFile file(kMiB);
  if (IsRefusal(OpenStatus(file.path(), {.engine = IoEngine::kUring}))) GTEST_SKIP() << "no io_uring";
  EXPECT_EXIT(ReadAsSmallUser(file), ::testing::ExitedWithCode(0),
              "1 notes: .*RLIMIT_MEMLOCK.*unregistered buffers; same");
}

}  // namespace
}  // namespace dogstar
