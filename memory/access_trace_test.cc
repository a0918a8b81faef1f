#include "memory/access_trace.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Two layers of 300 rows, the first 100 (layer 1: 0) in the prefix.
AccessHeader TestHeader() {
  AccessHeader header;
  header.model = "model.dog.gguf";
  header.model_hash = 7;
  header.rows = 300;
  header.layers = {{100, 32, 1000}, {0, 16, 1000}};
  header.policy = "sieve";
  header.half_life = 24;
  header.hysteresis = 0.25;
  return header;
}

// What a visitor sees, as text.
class Log final : public AccessVisitor {
 public:
  void OnPass(AccessPhase phase, int32_t rows, double) override {
    text += fmt::format("pass {} {};", AccessPhaseName(phase), rows);
  }
  void OnText(const AccessText& entry) override {
    text += fmt::format("text {} {} {} [{}] {};", ToInt(entry.layer), entry.slots, entry.top_rows,
                        fmt::join(entry.held, " "), entry.scores.size());
    last_score = entry.scores.empty() ? 0 : entry.scores.back();
  }
  void OnRequests(LayerIndex layer, std::span<const AccessRequest> requests) override {
    text += fmt::format("requests {}", ToInt(layer));
    for (const AccessRequest& request : requests) text += fmt::format(" {}/{}", ToInt(request.row), request.share);
    text += ";";
    total += requests.size();
  }
  void OnEndToken() override { text += "token;"; }
  void OnEndPass() override { text += "end;"; }

  std::string text;
  float last_score = 0;
  size_t total = 0;
};

class AccessTraceTest : public testing::Test {
 protected:
  AccessTraceTest()
      : path_(std::filesystem::path(testing::TempDir()) / fmt::format("dogstar_access_{}.trace", getpid())),
        recorder_(AccessRecorder::Create(path_).value()) {
    recorder_->Begin(TestHeader());
  }
  ~AccessTraceTest() override { std::filesystem::remove(path_); }

  void Token(int32_t first, int32_t step) {
    recorder_->BeginRequests(LayerIndex{0});
    for (int32_t row = first; row < 300; row += step) recorder_->Request(RowIndex{row}, 9);
    recorder_->EndRequests();
    recorder_->EndToken();
  }
  std::string Bytes() {
    EXPECT_TRUE(recorder_->Finish().ok());
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string path_;
  std::unique_ptr<AccessRecorder> recorder_;
};

TEST_F(AccessTraceTest, WhatIsRecordedIsRead) {
  const std::vector<float> scores(200, 0.5F);
  recorder_->Pass(AccessPhase::kPrefill, 12);
  recorder_->Text({LayerIndex{0}, 32, 150, std::vector<int32_t>{299, 100}, scores});
  recorder_->Pass(AccessPhase::kVerify, 3);
  Token(100, 150);
  recorder_->EndPass();
  EXPECT_EQ(recorder_->requests(), 2);
  const AccessTrace trace = ParseAccessTrace(Bytes(), "a.trace").value();
  EXPECT_EQ(trace.torn, "");
  EXPECT_EQ(trace.header.model, "model.dog.gguf");
  EXPECT_EQ(trace.header.policy, "sieve");
  EXPECT_EQ(trace.header.half_life, 24);
  EXPECT_EQ(trace.header.layers[1].slots, 16);
  Log log;
  VisitAccesses(trace, &log);
  EXPECT_EQ(log.text, "pass prefill 12;text 0 32 150 [299 100] 200;pass verify 3;requests 0 100/9 250/9;token;end;");
  EXPECT_EQ(log.last_score, 0.5F);
}

TEST_F(AccessTraceTest, ARequestTakesAboutTwoBytes) {
  for (int i = 0; i < 1000; ++i) Token(100, 2);
  const size_t bytes = Bytes().size();
  EXPECT_LT(bytes, 1000 * 100 * 2 + 6000);
}

// Whatever a kill leaves of the file, its whole chunks are read and the rest is named.
TEST_F(AccessTraceTest, ATornTailIsLeftOutAndSaid) {
  for (int i = 0; i < 2000; ++i) Token(100, 2);
  const std::string whole = Bytes();
  const AccessTrace all = ParseAccessTrace(whole, "a.trace").value();
  ASSERT_GE(all.chunks.size(), 3U);
  const size_t second_end = all.chunks[1].first + all.chunks[1].second;
  for (size_t cut : {second_end + 1, second_end + 15, second_end + 40}) {
    const AccessTrace trace = ParseAccessTrace(whole.substr(0, cut), "a.trace").value();
    EXPECT_EQ(trace.chunks.size(), 2U);
    EXPECT_THAT(trace.torn, HasSubstr(fmt::format("offset {}", second_end)));
  }
  EXPECT_EQ(ParseAccessTrace(whole.substr(0, second_end), "a.trace").value().torn, "");
}

TEST_F(AccessTraceTest, DamageInTheMiddleIsAnErrorThatNamesTheOffset) {
  for (int i = 0; i < 2000; ++i) Token(100, 2);
  std::string bytes = Bytes();
  const AccessTrace trace = ParseAccessTrace(bytes, "a.trace").value();
  bytes[trace.chunks[0].first + 100] ^= 1;
  const absl::Status status = ParseAccessTrace(bytes, "a.trace").status();
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(fmt::format("a.trace: the chunk at offset {}", trace.chunks[0].first - 16)));
}

TEST_F(AccessTraceTest, OtherFilesAndVersionsAreRefused) {
  std::string bytes = Bytes();
  EXPECT_THAT(std::string(ParseAccessTrace("1\n2\n", "ids.csv").status().message()),
              testing::AllOf(HasSubstr("ids.csv"), HasSubstr("--csv")));
  EXPECT_THAT(std::string(ParseAccessTrace(bytes.substr(0, 30), "a.trace").status().message()), HasSubstr("cut off"));
  bytes[8] = 9;
  EXPECT_THAT(std::string(ParseAccessTrace(bytes, "a.trace").status().message()), HasSubstr("version 9"));
}

TEST(AccessRecorderTest, AFullDiskIsReportedAtTheEnd) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  const auto recorder = AccessRecorder::Create("/dev/full").value();
  recorder->Begin(TestHeader());
  recorder->EndPass();
  EXPECT_THAT(std::string(recorder->Finish().message()), HasSubstr("/dev/full"));
}

}  // namespace
}  // namespace dogstar
