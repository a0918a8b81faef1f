// Packs that cannot end: killed, without room, in folders that nobody may write. What has the packed file's name opens,
// or is not there.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf.h"
#include "model/packed_file.h"
#include "tests/support/child.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing_support::Child;
using testing_support::ChildOutput;
using testing_support::RunChild;

class PackingTest : public testing::Test {
 protected:
  void SetUp() override { model_ = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, true); }
  std::vector<std::string> Pack(const std::string& output) const {
    return {"pack", model_, "-o", output, "--order", "original", "-t", "1"};
  }
  std::vector<std::string> Run() const {
    return {"run", model_, "-p", "hello", "-n", "4", "--ignore-eos", "--mode", "strict", "--ram", "24MiB"};
  }
  std::set<std::string> Files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.Path(""))) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  static absl::Status Opens(const std::string& path) {
    ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(path));
    return PackedFile::Open(path, header).status();
  }
  // Kills packs at moments all over their time. Returns how many had not ended.
  int KillPacks(const std::string& output, const std::function<void()>& before) {
    int killed = 0;
    for (int delay_ms = 1; delay_ms < 60; delay_ms += 5) {
      std::filesystem::remove(output);
      Child child(DOGSTAR_PROGRAM, Pack(output), before);
      ::usleep(static_cast<useconds_t>(delay_ms) * 1000);
      child.Signal(SIGKILL);
      const int code = child.Finish().exit_code;
      if (code == 128 + SIGKILL) ++killed;
      EXPECT_TRUE(code == 0 || code == 128 + SIGKILL) << code;
      EXPECT_TRUE(!std::filesystem::exists(output) || Opens(output).ok());
    }
    return killed;
  }

  testing_support::TestFolder folder_;
  std::string model_;
};

TEST_F(PackingTest, AKilledPackLeavesNothing) {
  const std::string output = folder_.Path("packed");
  EXPECT_GT(KillPacks(output, {}), 0);
  std::filesystem::remove(output);
  std::set<std::string> files = Files();
  EXPECT_THAT(files, ElementsAre("tiny.gguf"));
  EXPECT_EQ(RunChild(DOGSTAR_PROGRAM, Pack(output)).exit_code, 0);
  EXPECT_EQ(Opens(output), absl::OkStatus());
}

// As on file systems that know no nameless files.
void ForbidNamelessFiles() { testing_support::ForbidOpenFlags(O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP); }

TEST_F(PackingTest, WhatAKilledPackLeavesTheNextOneRemoves) {
  const std::string output = folder_.Path("packed");
  EXPECT_GT(KillPacks(output, ForbidNamelessFiles), 0);
  const ChildOutput last = RunChild(DOGSTAR_PROGRAM, Pack(output), ForbidNamelessFiles);
  EXPECT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(Opens(output), absl::OkStatus());
  EXPECT_THAT(Files(), ElementsAre("packed", "tiny.gguf"));
}

TEST_F(PackingTest, APackThatIsStillAtWorkKeepsItsFile) {
  const std::string output = folder_.Path("packed");
  Child first(DOGSTAR_PROGRAM, Pack(output), ForbidNamelessFiles);
  ::usleep(15'000);
  first.Signal(SIGSTOP);
  EXPECT_EQ(RunChild(DOGSTAR_PROGRAM, Pack(output), ForbidNamelessFiles).exit_code, 0);
  first.Signal(SIGCONT);
  const ChildOutput output_of_first = first.Finish();
  EXPECT_EQ(output_of_first.exit_code, 0) << output_of_first.err;
  EXPECT_EQ(Opens(output), absl::OkStatus());
  EXPECT_THAT(Files(), ElementsAre("packed", "tiny.gguf"));
}

TEST_F(PackingTest, ADiskTooSmallIsFoundBeforeTheWork) {
  const std::string mounted = folder_.Path("small");
  std::filesystem::create_directories(mounted);
  if (!testing_support::CanMount("tmpfs", mounted, "size=1m")) GTEST_SKIP() << "tmpfs cannot be mounted here";
  const ChildOutput output = RunChild(DOGSTAR_PROGRAM, Pack(mounted + "/packed"),
                                      [&] { testing_support::Mount("tmpfs", mounted, "size=1m"); });
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, AllOf(HasSubstr(mounted + "/packed"), HasSubstr("bytes are needed, 1048576 are free")));
}

// Another program takes the room while a file is written.
[[noreturn]] void WriteWhileTheDiskFillsUp(const std::string& folder) {
  testing_support::Mount("tmpfs", folder, "size=8m");
  GgufWriter writer = GgufWriter::Create(folder + "/model", 32).value();
  CHECK(writer.AddTensor("t", 0, {1 << 20}).ok() && writer.BeginData().ok());  // 4 MiB
  std::ofstream(folder + "/other") << std::string(6 << 20, 'x') << std::flush;
  absl::Status status = absl::OkStatus();
  const std::vector<std::byte> piece(1 << 20);
  for (int i = 0; i < 4 && status.ok(); ++i) status = writer.WriteData(piece);
  fmt::print(stderr, "{}\n", status.ToString());
  std::_Exit(0);
}

TEST_F(PackingTest, ADiskThatFillsUpIsAnErrorWithItsNumbers) {
  const std::string mounted = folder_.Path("small");
  std::filesystem::create_directories(mounted);
  if (!testing_support::CanMount("tmpfs", mounted, "size=8m")) GTEST_SKIP() << "tmpfs cannot be mounted here";
  EXPECT_EXIT(WriteWhileTheDiskFillsUp(mounted), testing::ExitedWithCode(0),
              "RESOURCE_EXHAUSTED: write .*/small/model.*No space left on device; 41[0-9]+ bytes are needed in all, "
              "[0-9]+ are free");
}

TEST_F(PackingTest, AFileSizeLimitIsAnErrorNotADeath) {
  const std::string output = folder_.Path("packed");
  const ChildOutput limited = RunChild(DOGSTAR_PROGRAM, Pack(output), [] {
    const rlimit limit = {.rlim_cur = 2 << 20, .rlim_max = 2 << 20};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(126);
  });
  EXPECT_EQ(limited.exit_code, 1) << limited.err;
  EXPECT_THAT(limited.err, AllOf(HasSubstr(output), HasSubstr("File too large")));
  EXPECT_FALSE(std::filesystem::exists(output));
}

// A model in a folder that its user may only read.
class ReadOnlyFolderTest : public PackingTest {
 protected:
  void SetUp() override {
    PackingTest::SetUp();
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become a user without rights";
    std::filesystem::create_directories(folder_.Path("cache"));
    std::filesystem::permissions(folder_.Path("cache"), std::filesystem::perms(0777));
    std::filesystem::permissions(folder_.Path(""), std::filesystem::perms(0555));
  }
  // cache: "" for a user who has none.
  ChildOutput RunWithCache(const std::string& cache) {
    return RunChild(DOGSTAR_PROGRAM, Run(), [=] {
      ::unsetenv("HOME");
      cache.empty() ? ::unsetenv("XDG_CACHE_HOME") : ::setenv("XDG_CACHE_HOME", cache.c_str(), 1);
      if (::chdir("/") != 0) ::_exit(126);
      testing_support::BecomeSmallUser(8 << 20);
    });
  }
};

TEST_F(ReadOnlyFolderTest, ThePackedFormGoesIntoTheCacheOnce) {
  const ChildOutput first = RunWithCache(folder_.Path("cache")), second = RunWithCache(folder_.Path("cache"));
  ASSERT_EQ(first.exit_code, 0) << first.err;
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_THAT(first.err, AllOf(HasSubstr("packing"), HasSubstr(folder_.Path("cache") + "/dogstar/tiny-")));
  EXPECT_THAT(second.err, Not(HasSubstr("packing")));
  EXPECT_EQ(first.out, second.out);
}

TEST_F(ReadOnlyFolderTest, WithoutACacheTheErrorSaysWhatToDo) {
  for (const std::string& cache : {folder_.Path("cannot"), std::string()}) {
    const ChildOutput output = RunWithCache(cache);
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.err, AllOf(HasSubstr(model_), HasSubstr("cache_dir"), HasSubstr("dogstar pack"))) << cache;
  }
}

TEST_F(ReadOnlyFolderTest, AnUpToDatePackedFileThereIsUsed) {
  const std::string beside = folder_.Path("tiny.dog.gguf");
  ASSERT_EQ(RunChild(DOGSTAR_PROGRAM, Pack(beside)).exit_code, 0);
  const ChildOutput output = RunWithCache("");
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, Not(HasSubstr("packing")));
}

}  // namespace
}  // namespace dogstar
