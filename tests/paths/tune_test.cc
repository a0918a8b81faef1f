// dogstar tune and report, as a user runs them.
#include <fstream>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/config.h"
#include "tests/support/child.h"
#include "tests/support/model_run.h"

namespace dogstar {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing_support::ChildOutput;
using testing_support::RunChild;

class TuneTest : public testing::Test {
 protected:
  TuneTest() : model_(testing_support::WriteTinyModel(folder_, QuantType::kQ4_0, false)) {}

  std::string TextOf(const std::string& name) const {
    std::ifstream in(folder_.Path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.Path(name), std::ios::binary) << text;
  }
  ChildOutput Program(std::vector<std::string> arguments) const { return RunChild(DOGSTAR_PROGRAM, arguments); }

  testing_support::TestFolder folder_;
  std::string model_;
};

TEST_F(TuneTest, WritesSettingsThatRunAndSaysWhatTheyRestOn) {
  Write("base.yaml", "corrector: {period: 6}\nsampling: {seed: 7}\n");
  const std::string yaml = folder_.Path("tuned.yaml");
  const ChildOutput output = Program({"tune", model_, "--config", folder_.Path("base.yaml"), "--mode", "strict", "-n",
                                      "6", "--rounds", "1", "--prompt-count", "2", "-o", yaml, "--json"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const nlohmann::json json = nlohmann::json::parse(output.out);
  ASSERT_FALSE(json["trials"].empty());
  for (const auto& trial : json["trials"]) {
    EXPECT_EQ(trial["kept"].get<bool>(),
              trial["gain"].get<double>() >= 1.03 && trial["ran"].get<bool>() && !trial.contains("reason"))
        << trial;
  }
  EXPECT_GT(json["held_out"]["default_tok_s"].get<double>(), 0);
  // What was given is there, with what was kept; the file runs.
  Config config;
  ASSERT_TRUE(ReadYamlConfigFile(yaml, &config).ok());
  EXPECT_EQ(config.sampling.seed, 7U);
  EXPECT_EQ(config.corrector.mode, RunMode::kStrict);
  const std::string text = TextOf("tuned.yaml");
  EXPECT_THAT(text, HasSubstr("# Made by dogstar tune"));
  if (json["held_out"]["gain"].get<double>() < 1) {
    EXPECT_EQ(config.corrector.period, 6);
  }
  EXPECT_EQ(Program({"run", model_, "--config", yaml, "-p", "hello", "-n", "2"}).exit_code, 0);
}

// Of the packed forms that were made only one that won stays.
TEST_F(TuneTest, PagesThatLoseAreRemoved) {
  const std::string plain = testing_support::WriteTinyModel(folder_, QuantType::kQ4_1, true);
  const std::string yaml = folder_.Path("pages.yaml");
  const ChildOutput output = Program({"tune", plain, "--mode", "strict", "-n", "4", "--rounds", "1", "--prompt-count",
                                      "2", "--pages", "--least-gain", "10", "-o", yaml, "--json"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("model=" + yaml));
  for (const int rows : {32, 64, 128, 256, 512, 1024}) {
    EXPECT_TRUE(TextOf("pages.yaml." + std::to_string(rows) + ".dog.gguf").empty()) << rows;
  }
  EXPECT_EQ(Program({"tune", model_, "--pages"}).exit_code, 1) << "a packed model has no other pages";
}

TEST_F(TuneTest, SettingsThatChangeTheTextAreRefused) {
  const ChildOutput output = Program({"tune", model_, "--mode", "sparse"});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, HasSubstr("same text"));
  Write("one.txt", "only one\n");
  const ChildOutput one = Program({"tune", model_, "--prompts", folder_.Path("one.txt")});
  EXPECT_EQ(one.exit_code, 1);
  EXPECT_THAT(one.err, HasSubstr("at least 2"));
}

TEST_F(TuneTest, AReportIsOnePageThatLoadsNothing) {
  const ChildOutput bench =
      Program({"bench", model_, "-p", "8", "-n", "4", "-r", "2", "--sweep", "corrector.mode=dense,strict", "--json"});
  ASSERT_EQ(bench.exit_code, 0) << bench.err;
  nlohmann::json json = nlohmann::json::parse(bench.out);
  json["model"] = "</script><b>";
  Write("bench.json", json.dump());
  const ChildOutput run = Program(
      {"run", model_, "-p", "hello", "-n", "4", "--mode", "strict", "--trace", folder_.Path("trace.json"), "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  Write("run.json", run.out);
  const ChildOutput output = Program({"report", folder_.Path("bench.json"), folder_.Path("run.json"),
                                      folder_.Path("trace.json"), "-o", folder_.Path("report.html")});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const std::string page = TextOf("report.html");
  EXPECT_THAT(page, HasSubstr("Chart.js v3"));
  EXPECT_THAT(page, HasSubstr("\"kind\":\"trace\""));
  EXPECT_THAT(page, HasSubstr("\\u003c/script>\\u003cb>")) << "what inputs hold cannot end the script";
  EXPECT_THAT(page, Not(HasSubstr("/*INPUTS*/")));
  for (const char* outside : {"src=\"", "href=\"http", "@import"}) EXPECT_THAT(page, Not(HasSubstr(outside)));
}

TEST_F(TuneTest, OtherFilesAreNoResults) {
  Write("other.json", "{\"a\": 1}");
  const ChildOutput output = Program({"report", folder_.Path("other.json"), "-o", folder_.Path("report.html")});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.err, HasSubstr("other.json: not a result"));
  EXPECT_EQ(Program({"report", folder_.Path("absent.json")}).exit_code, 1);
  EXPECT_EQ(Program({"report", model_}).exit_code, 1) << "a model is no statistics file";
}

TEST_F(TuneTest, ABenchRecordsOneSetting) {
  const std::string trace = folder_.Path("bench.trace");
  const ChildOutput output =
      Program({"bench", model_, "--mode", "strict", "-p", "8", "-n", "4", "-r", "2", "--record", trace, "--json"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_FALSE(TextOf("bench.trace").empty());
  const ChildOutput sweep = Program({"bench", model_, "--sweep", "corrector.period=2,4", "--record", trace});
  EXPECT_EQ(sweep.exit_code, 1);
  EXPECT_THAT(sweep.err, HasSubstr("one setting"));
}

}  // namespace
}  // namespace dogstar
