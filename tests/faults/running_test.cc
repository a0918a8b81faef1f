// A file or a machine that goes wrong under a running program: the text so far is kept, the error says what happened,
// and a run that can go on does so and says how.
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf.h"
#include "nlohmann/json.hpp"
#include "runtime/engine.h"
#include "tests/support/child.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing_support::Child;
using testing_support::ChildOutput;
using testing_support::RunChild;

const std::string kPrompt = "hello";
const std::string kContext = "4100";
constexpr size_t kSomeText = 200;  // bytes of output after which a run is well on its way

class RunningTest : public testing::Test {
 protected:
  void SetUp() override {
    model_ = testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false);
    budget_ = SmallestBudget();
    ASSERT_FALSE(budget_.empty());
  }

  // As the program names it, a little rounded up. Most of the FFN streams with it.
  std::string SmallestBudget() {
    const std::string marker = "the smallest that works is ";
    const ChildOutput refused =
        RunChild(DOGSTAR_PROGRAM, {"run", model_, "-p", kPrompt, "-c", kContext, "--mode", "dense", "--ram", "2MiB"});
    const size_t at = refused.err.find(marker);
    if (at == std::string::npos) return "";
    const double mib = std::strtod(refused.err.c_str() + at + marker.size(), nullptr);
    return std::to_string(static_cast<int>(mib * 1024) + 512) + "KiB";
  }
  std::vector<std::string> Streaming(const std::string& tokens, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"run",   model_,  "-p",    kPrompt, "-n", tokens, "--ignore-eos", "--mode",
                                          "dense", "--ram", budget_, "-t",    "1",  "-c",   kContext};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // Somewhere in the last page of layer 1, which no small budget keeps.
  uint64_t StreamedOffset() const {
    const GgufHeader header = ReadGgufHeader(model_).value();
    const GgufTensor* pages = header.FindTensor("blk.1.ffn_pages");
    CHECK(pages != nullptr);
    return pages->offset + pages->bytes - 1000;
  }
  // What a run of four tokens prints.
  nlohmann::json Reference() const {
    const ChildOutput output = RunChild(DOGSTAR_PROGRAM, Streaming("4", {"--json"}));
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return nlohmann::json::parse(output.out);
  }
  // A run of four tokens under conditions of its own gives the same tokens.
  void ExpectSameTokens(const ChildOutput& output) const {
    ASSERT_EQ(output.exit_code, 0) << output.err;
    EXPECT_EQ(nlohmann::json::parse(output.out)["tokens"], Reference()["tokens"]);
  }

  testing_support::TestFolder folder_;
  std::string model_;
  std::string budget_;
};

TEST_F(RunningTest, ADamagedPageEndsTheRunAndKeepsItsText) {
  Child child(DOGSTAR_PROGRAM, Streaming("4000", {"--set", "io.verify=always"}));
  ASSERT_TRUE(child.AwaitOutput(kSomeText));
  std::fstream file(model_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(StreamedOffset()));
  file << "damaged";
  file.close();
  const ChildOutput output = child.Finish();
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, AllOf(HasSubstr(model_), HasSubstr("offset"), HasSubstr("checksum"), HasSubstr(" tok: ")));
  EXPECT_GE(output.out.size(), kSomeText);
  EXPECT_EQ(output.out.substr(0, kPrompt.size()), kPrompt);
}

TEST_F(RunningTest, AFileCutShortEndsTheRunAndKeepsItsText) {
  const uint64_t offset = StreamedOffset();
  Child child(DOGSTAR_PROGRAM, Streaming("4000"));
  ASSERT_TRUE(child.AwaitOutput(kSomeText));
  ASSERT_EQ(::truncate(model_.c_str(), static_cast<off_t>(offset)), 0);
  const ChildOutput output = child.Finish();
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, AllOf(HasSubstr(model_), HasSubstr("offset"), HasSubstr("the file ends")));
  EXPECT_GE(output.out.size(), kSomeText);
}

TEST_F(RunningTest, TheTextSoFarIsInTheJsonOfAFailedRun) {
  const uint64_t offset = StreamedOffset();
  Child child(DOGSTAR_PROGRAM, Streaming("4000", {"--json"}));
  ::usleep(300'000);
  ASSERT_EQ(::truncate(model_.c_str(), static_cast<off_t>(offset)), 0);
  const ChildOutput output = child.Finish();
  ASSERT_EQ(output.exit_code, 1);
  if (output.out.empty()) GTEST_SKIP() << "this machine had not begun: " << output.err;
  const nlohmann::json json = nlohmann::json::parse(output.out);
  EXPECT_EQ(json["stop"], "failed");
  EXPECT_THAT(json["error"].get<std::string>(), HasSubstr("the file ends"));
}

TEST_F(RunningTest, AFileThatLosesItsNameIsReadOn) {
  const nlohmann::json whole = nlohmann::json::parse(RunChild(DOGSTAR_PROGRAM, Streaming("400", {"--json"})).out);
  Child child(DOGSTAR_PROGRAM, Streaming("400"));
  ASSERT_TRUE(child.AwaitOutput(kPrompt.size() + 1));
  ASSERT_EQ(::unlink(model_.c_str()), 0);
  const ChildOutput output = child.Finish();
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.err, HasSubstr("400 tok"));
  EXPECT_EQ(whole["tokens"].size(), 400u);
}

TEST_F(RunningTest, AFileThatIsReplacedIsReadOnAsItWas) {
  Child child(DOGSTAR_PROGRAM, Streaming("400", {"--set", "io.verify=always"}));
  ASSERT_TRUE(child.AwaitOutput(kPrompt.size() + 1));
  std::ofstream(folder_.Path("other")) << "something else";
  ASSERT_EQ(::rename(folder_.Path("other").c_str(), model_.c_str()), 0);
  EXPECT_EQ(child.Finish().exit_code, 0);
}

TEST_F(RunningTest, CtrlCEndsARunThatStreamsAndKeepsItsText) {
  Child child(DOGSTAR_PROGRAM, Streaming("4000"));
  ASSERT_TRUE(child.AwaitOutput(kSomeText));
  child.Signal(SIGINT);
  const ChildOutput output = child.Finish();
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_GE(output.out.size(), kSomeText);
  EXPECT_THAT(output.err, HasSubstr(" tok: "));
}

TEST_F(RunningTest, WithoutIoUringThreadsReadAndItIsSaid) {
  const auto forbid = [] { testing_support::ForbidCall(__NR_io_uring_setup, EPERM); };
  const ChildOutput output = RunChild(DOGSTAR_PROGRAM, Streaming("4", {"--json"}), forbid);
  ExpectSameTokens(output);
  EXPECT_THAT(output.err, AllOf(HasSubstr("io_uring_setup"), HasSubstr("not permitted"), HasSubstr("threads")));
  EXPECT_THAT(nlohmann::json::parse(output.out)["io"].get<std::string>(), HasSubstr("pread"));
  const ChildOutput named = RunChild(DOGSTAR_PROGRAM, Streaming("4", {"--set", "io.engine=uring"}), forbid);
  EXPECT_EQ(named.exit_code, 1);
  EXPECT_THAT(named.err, HasSubstr("io_uring_setup"));
}

TEST_F(RunningTest, ASmallMemlockLimitIsSaidOnce) {
  const nlohmann::json normal = Reference();
  if (normal["io"].get<std::string>().find("io_uring") == std::string::npos) GTEST_SKIP() << "no io_uring here";
  std::filesystem::permissions(folder_.Path(""), std::filesystem::perms(0755));
  const ChildOutput output =
      RunChild(DOGSTAR_PROGRAM, Streaming("4", {"--json"}), [] { testing_support::BecomeSmallUser(64 << 10); });
  ExpectSameTokens(output);
  const size_t first = output.err.find("RLIMIT_MEMLOCK");
  EXPECT_NE(first, std::string::npos) << output.err;
  EXPECT_EQ(output.err.find("RLIMIT_MEMLOCK", first + 1), std::string::npos) << output.err;
  EXPECT_THAT(nlohmann::json::parse(output.out)["io"].get<std::string>(), HasSubstr("unregistered buffers"));
}

TEST_F(RunningTest, WithoutHugePagesItIsSaid) {
  EXPECT_THAT(RunChild(DOGSTAR_PROGRAM, Streaming("4", {"--json"}),
                       [] {
                         if (::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0) ::_exit(126);
                       })
                  .err,
              HasSubstr("huge pages"));
}

TEST_F(RunningTest, AFileReplacedBeforeItsPagesAreOpenedIsNoticed) {
  const auto model = ModelFile::Open(model_);
  ASSERT_TRUE(model.ok()) << model.status();
  std::filesystem::copy_file(model_, folder_.Path("other"));
  ASSERT_EQ(::rename(folder_.Path("other").c_str(), model_.c_str()), 0);
  Engine::Options options;
  options.context_slots = 16;
  const absl::Status status = Engine::Create({}, model->get(), options, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(model_), HasSubstr("changed")));
}

// File systems in memory: new tmpfs has O_DIRECT, ramfs has not.
class FileSystemTest : public RunningTest {
 protected:
  // Runs the model from a file system of its own.
  ChildOutput RunOn(const std::string& type, const std::vector<std::string>& more = {}) {
    const std::string folder = folder_.Path("mounted"), copy = folder + "/model.dog.gguf", model = model_;
    std::filesystem::create_directories(folder);
    std::vector<std::string> arguments = Streaming("4", {"--json"});
    arguments[1] = copy;
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunChild(DOGSTAR_PROGRAM, arguments, [=] {
      testing_support::Mount(type, folder, type == "tmpfs" ? "size=64m" : "");
      std::error_code failed;
      if (!std::filesystem::copy_file(model, copy, failed)) ::_exit(126);
    });
  }
};

TEST_F(FileSystemTest, AModelOnTmpfsRuns) {
  if (!testing_support::CanMount("tmpfs", folder_.Path(""), "size=1m")) GTEST_SKIP() << "tmpfs cannot be mounted here";
  ExpectSameTokens(RunOn("tmpfs"));
}

TEST_F(FileSystemTest, WithoutODirectThePageCacheIsUsedAndItIsSaid) {
  if (!testing_support::CanMount("ramfs", folder_.Path(""), "")) GTEST_SKIP() << "ramfs cannot be mounted here";
  const ChildOutput output = RunOn("ramfs");
  ExpectSameTokens(output);
  EXPECT_THAT(output.err, AllOf(HasSubstr("O_DIRECT"), HasSubstr("page cache")));
  EXPECT_THAT(nlohmann::json::parse(output.out)["io"].get<std::string>(), HasSubstr("buffered"));
  const ChildOutput insisting = RunOn("ramfs", {"--set", "io.direct=always"});
  EXPECT_EQ(insisting.exit_code, 1);
  EXPECT_THAT(insisting.err, HasSubstr("O_DIRECT"));
}

TEST_F(FileSystemTest, AModelOnOverlayfsRuns) {
  for (const char* name : {"upper", "work", "merged"}) std::filesystem::create_directories(folder_.Path(name));
  std::filesystem::create_directories(folder_.Path("lower"));
  std::filesystem::copy_file(model_, folder_.Path("lower/model.dog.gguf"));
  const std::string merged = folder_.Path("merged");
  const std::string options =
      "lowerdir=" + folder_.Path("lower") + ",upperdir=" + folder_.Path("upper") + ",workdir=" + folder_.Path("work");
  if (!testing_support::CanMount("overlay", merged, options)) GTEST_SKIP() << "overlayfs cannot be mounted here";
  std::vector<std::string> arguments = Streaming("4", {"--json"});
  arguments[1] = merged + "/model.dog.gguf";
  ExpectSameTokens(RunChild(DOGSTAR_PROGRAM, arguments, [&] { testing_support::Mount("overlay", merged, options); }));
}

}  // namespace
}  // namespace dogstar
