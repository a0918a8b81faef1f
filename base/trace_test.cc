#include "base/trace.h"

#include <unistd.h>

#include <fstream>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace dogstar {
namespace {

class TraceTest : public testing::Test {
 protected:
  ~TraceTest() override { ::unlink(path_.c_str()); }
  nlohmann::json Read() const {
    std::ifstream file(path_);
    return nlohmann::json::parse(file);
  }
  const std::string path_ = testing::TempDir() + "dogstar_trace_test.json";
};

TEST_F(TraceTest, IsJsonThatViewersRead) {
  const auto trace = Trace::Create(path_).value();
  const double start = Now();
  trace->Add(Trace::Track::kCompute, "attention", start, start + 0.002, {.layer = 3});
  trace->Add(Trace::Track::kRead, "read", start, start + 0.5, {.bytes = 4096, .offset = 1 << 20});
  ASSERT_EQ(trace->Write(), absl::OkStatus());

  const nlohmann::json events = Read().at("traceEvents");
  std::vector<nlohmann::json> compute, reads;
  for (const auto& event : events) {
    if (event.at("ph") == "X") compute.push_back(event);
    if (event.at("ph") == "b" || event.at("ph") == "e") reads.push_back(event);
  }
  ASSERT_EQ(compute.size(), 1u);
  EXPECT_EQ(compute[0].at("name"), "attention");
  EXPECT_NEAR(compute[0].at("dur").get<double>(), 2000, 0.01);
  EXPECT_EQ(compute[0].at("args").at("layer"), 3);
  ASSERT_EQ(reads.size(), 2u);
  EXPECT_EQ(reads[0].at("id"), reads[1].at("id"));
  EXPECT_EQ(reads[0].at("args").at("bytes"), 4096);
  EXPECT_NEAR(reads[1].at("ts").get<double>() - reads[0].at("ts").get<double>(), 5e5, 0.01);
}

TEST_F(TraceTest, AScopeLastsAsLongAsItsObject) {
  const auto trace = Trace::Create(path_).value();
  {
    const TraceScope outer(trace.get(), Trace::Track::kPass, "full pass", {.rows = 1});
    const TraceScope inner(trace.get(), Trace::Track::kPass, "ffn");
    const TraceScope none(nullptr, Trace::Track::kPass, "nothing");
  }
  EXPECT_EQ(trace->event_count(), 2u);
  ASSERT_EQ(trace->Write(), absl::OkStatus());
  std::vector<double> begins, ends;
  const nlohmann::json events = Read().at("traceEvents");
  for (const auto& event : events) {
    if (event.at("ph") != "X") continue;
    begins.push_back(event.at("ts").get<double>());
    ends.push_back(begins.back() + event.at("dur").get<double>());
  }
  ASSERT_EQ(begins.size(), 2u);  // the inner one ended first
  EXPECT_GE(begins[0] + 0.002, begins[1]);
  EXPECT_LE(ends[0], ends[1] + 0.002);
}

TEST_F(TraceTest, WhatComesAfterTheLimitIsCounted) {
  const auto trace = Trace::Create(path_).value();
  for (size_t i = 0; i < Trace::kMaxEvents + 7; ++i) trace->Add(Trace::Track::kWait, "wait", 0, 1, {});
  EXPECT_EQ(trace->event_count(), Trace::kMaxEvents);
  EXPECT_EQ(trace->dropped(), 7u);
}

TEST_F(TraceTest, APathThatCannotBeWrittenIsRefusedAtOnce) {
  const auto trace = Trace::Create("/nowhere/trace.json");
  ASSERT_FALSE(trace.ok());
  EXPECT_THAT(std::string(trace.status().message()), testing::HasSubstr("/nowhere/trace.json"));
}

}  // namespace
}  // namespace dogstar
